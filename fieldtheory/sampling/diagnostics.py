"""Have the chains forgotten where they started, and how many independent draws are they worth?

For m chains of n draws with within-chain variance W and between-chain variance B/n,

    V̂ = (n − 1)/n W + B/n,    R̂ = √(V̂/W),    ρ_t = 1 − (W − mean_m γ_t)/V̂,    ESS = m n / (1 + 2 Σ_t ρ_t),

γ_t the autocovariance. The sum stops where pairs ρ_{2t} + ρ_{2t+1} turn negative and pairs may not rise (Geyer's initial monotone
sequence); a positive ρ_{2t} of the first negative pair counts once. Chains are split in halves first. R̂ and the ESS of the bulk are
those of rank-normalized draws, the ESS of the tails that of the indicators of the 5 % and 95 % quantiles (A. Vehtari, A. Gelman,
D. Simpson, B. Carpenter, P.-C. Bürkner, Bayesian Analysis 16, 667 (2021)).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

_AT_ONCE = 2**23  # numbers
_FEW_LAGS = 100  # lags up to which products are cheaper than a Fourier transform


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
    return _ess(_split(draws))


def _ess(halves: np.ndarray) -> np.ndarray:
    count = halves.shape[0] * halves.shape[1]
    return count / np.maximum(correlation_time(open_correlations(halves)), 1 / np.log10(max(count, 10)))


def bulk_ess(draws: np.ndarray) -> np.ndarray:
    """Effective sample size of the rank-normalized draws, shape (...) for draws of shape (n_chains, n_draws, ...)."""
    return _ess(_rank_normal(_split(draws)))


def tail_ess(draws: np.ndarray) -> np.ndarray:
    """The smaller effective sample size of the 5 % and 95 % quantiles, shape (...) for draws of shape (n_chains, n_draws, ...)."""
    low, high = np.quantile(draws, [0.05, 0.95], axis=(0, 1))
    return np.minimum(effective_sample_size((draws <= low).astype(float)), effective_sample_size((draws <= high).astype(float)))


def in_blocks(diagnostic: Callable, draws: np.ndarray) -> np.ndarray:
    """A diagnostic of draws (n_chains, n_draws, n_dim), shape (n_dim,), a few variables at a time to bound its memory."""
    step = max(1, _AT_ONCE // (draws.shape[0] * draws.shape[1]))
    return np.concatenate([diagnostic(draws[..., i : i + step]) for i in range(0, draws.shape[2], step)])


def autocorrelation(draws: np.ndarray, n_lags: int | None = None) -> np.ndarray:
    """ρ_t pooled over chains, shape (n_lags, ...) for draws of shape (n_chains, n_draws, ...); all lags by default."""
    m, n = draws.shape[:2]
    centred = draws - draws.mean(axis=1, keepdims=True)
    autocovariance = _products(centred, n_lags) if n_lags and n_lags < _FEW_LAGS else _spectrum(centred)[:n_lags]
    within = autocovariance[0] * n / (n - 1)
    between = draws.mean(axis=1).var(axis=0, ddof=1) if m > 1 else 0.0
    total = autocovariance[0] + between
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = 1 - (within - autocovariance) / total
    rho[0] += 1 - rho[0]  # 1 by definition; the unbiased W makes it 1 − 1/n. Constants stay NaN
    return rho


def _products(centred: np.ndarray, n_lags: int) -> np.ndarray:
    m, n = centred.shape[:2]
    return np.stack([np.einsum("mt...,mt...->...", centred[:, t:], centred[:, : n - t]) for t in range(n_lags)]) / (m * n)


def _spectrum(centred: np.ndarray) -> np.ndarray:
    n = centred.shape[1]
    size = 2 ** int(np.ceil(np.log2(2 * n)))
    power = np.abs(np.fft.rfft(centred, size, axis=1)) ** 2
    return np.fft.irfft(power.mean(axis=0), size, axis=0)[:n] / n


def open_correlations(draws: np.ndarray) -> np.ndarray:
    """ρ_t up to the lag at which all of Geyer's pairs have turned negative; a few lags where draws are nearly independent."""
    n, n_lags = draws.shape[1], 8
    while n_lags < n:
        rho = autocorrelation(draws, n_lags)
        if not np.any(_open_pairs(rho)[-1]):
            return rho
        n_lags *= 4
    return autocorrelation(draws)


def correlation_time(rho: np.ndarray, interval: int = 1) -> np.ndarray:
    """1 + 2 Σ ρ_t over Geyer's initial monotone sequence of pairs, of every `interval`-th draw and in units of kept draws."""
    rho = rho[::interval]
    rho = np.concatenate([rho, np.zeros((2 + len(rho) % 2, *rho.shape[1:]))])
    pairs, kept = rho[::2] + rho[1::2], _open_pairs(rho)
    monotone = np.minimum.accumulate(np.where(kept, pairs, 0.0), axis=0)
    next_even = np.take_along_axis(rho[::2], np.minimum(kept.sum(axis=0, keepdims=True), len(pairs) - 1), axis=0)[0]
    return np.where(np.isnan(rho[0]), np.nan, 2 * monotone.sum(axis=0) + np.maximum(next_even, 0.0) - 1)


def _open_pairs(rho: np.ndarray) -> np.ndarray:
    """Which pairs ρ_{2t} + ρ_{2t+1} come before the first negative one."""
    even = rho[: len(rho) // 2 * 2 : 2]
    return np.logical_and.accumulate(even + rho[1::2] > 0, axis=0)


def split_rhat(draws: np.ndarray) -> np.ndarray:
    """Rank-normalized split R̂, shape (...) for draws of shape (n_chains, n_draws, ...); 1 when the chains agree.

    The larger of R̂ for the draws and for their distance from the median, so that chains with equal means and different widths
    are seen too. NaN for a quantity that never varies.
    """
    halves = _split(draws)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    return np.maximum(_rhat(_rank_normal(halves)), _rhat(_rank_normal(folded)))


def plain_rhat(draws: np.ndarray) -> np.ndarray:
    """Split R̂ of the draws as they are: for light tails, at a fraction of the cost of ranks."""
    return _rhat(_split(draws))


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
