"""Have the chains forgotten where they started, and how many independent draws are they worth?

For m chains of n draws with within-chain variance W and between-chain variance B/n,

    V̂ = (n − 1)/n W + B/n,    R̂ = √(V̂/W),    ρ_t = 1 − (W − mean_m γ_t)/V̂,    ESS = m n / (1 + 2 Σ_t ρ_t),

γ_t the autocovariance. The sum stops where pairs ρ_{2t} + ρ_{2t+1} turn negative and pairs may not rise (Geyer's initial monotone
sequence). Chains are split in halves first; R̂ is of rank-normalized draws (Vehtari et al., Bayesian Analysis 16, 667 (2021)).
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata


def effective_sample_size(draws: np.ndarray) -> np.ndarray:
    """Effective number of independent draws of the mean.

    Parameters
    ----------
    draws : ndarray, shape (n_chains, n_draws, ...)
        At least 4 draws per chain.

    Returns
    -------
    ndarray, shape (...)
        NaN for a quantity that never varies. May exceed the number of draws where they alternate; at most that number times log10
        of it.
    """
    halves = _split(draws)
    rho = autocorrelation(halves)
    time = _correlation_time(rho)
    count = halves.shape[0] * halves.shape[1]
    return count / np.maximum(time, 1 / np.log10(max(count, 10)))


def autocorrelation(draws: np.ndarray) -> np.ndarray:
    """ρ_t pooled over chains, shape (n_draws, ...) for draws of shape (n_chains, n_draws, ...)."""
    m, n = draws.shape[:2]
    centred = draws - draws.mean(axis=1, keepdims=True)
    size = 2 ** int(np.ceil(np.log2(2 * n)))
    spectrum = np.abs(np.fft.rfft(centred, size, axis=1)) ** 2
    autocovariance = np.fft.irfft(spectrum, size, axis=1)[:, :n].mean(axis=0) / n
    within = autocovariance[0] * n / (n - 1)
    between = draws.mean(axis=1).var(axis=0, ddof=1) if m > 1 else 0.0
    total = autocovariance[0] + between
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (within - autocovariance) / total


def _correlation_time(rho: np.ndarray) -> np.ndarray:
    """1 + 2 Σ ρ_t over Geyer's initial monotone sequence of pairs."""
    pairs = rho[: len(rho) // 2 * 2].reshape(len(rho) // 2, 2, *rho.shape[1:]).sum(axis=1)
    kept = np.logical_and.accumulate(pairs > 0, axis=0)
    monotone = np.minimum.accumulate(np.where(kept, pairs, 0.0), axis=0)
    return np.where(np.isnan(rho[0]), np.nan, 2 * monotone.sum(axis=0) - 1)


def thinned_correlation_time(draws: np.ndarray, interval: int) -> np.ndarray:
    """Correlation time of every `interval`-th draw, in units of kept draws, from the autocorrelation of all of them."""
    return _correlation_time(autocorrelation(draws)[::interval])


def split_rhat(draws: np.ndarray) -> np.ndarray:
    """Rank-normalized split R̂, shape (...) for draws of shape (n_chains, n_draws, ...); 1 when the chains agree.

    The larger of R̂ for the draws and for their distance from the median, so that chains with equal means and different widths
    are seen too. NaN for a quantity that never varies.
    """
    folded = np.abs(draws - np.median(draws, axis=(0, 1)))
    return np.maximum(_rhat(_rank_normal(_split(draws))), _rhat(_rank_normal(_split(folded))))


def _rhat(draws: np.ndarray) -> np.ndarray:
    n = draws.shape[1]
    within = draws.var(axis=1, ddof=1).mean(axis=0)
    between = draws.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt((n - 1) / n + between / within)


def _rank_normal(draws: np.ndarray) -> np.ndarray:
    flat = draws.reshape(-1, *draws.shape[2:])
    return ndtri((rankdata(flat, axis=0) - 0.375) / (len(flat) + 0.25)).reshape(draws.shape)


def _split(draws: np.ndarray) -> np.ndarray:
    """Each chain as two."""
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])
