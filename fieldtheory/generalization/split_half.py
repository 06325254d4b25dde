"""Convergence inside one data set: halves of a few samples each, compared without training.

The linear learner's samples are x = Σ̂^{1/2} z, so that for one pair of disjoint subsets, averaged over z exactly,

    q = tr(Σ̂_A^{1/2} Σ̂_B^{1/2})/√(tr Σ̂_A tr Σ̂_B).

Where the norms of the samples fluctuate this is how their distribution is measured: `calibrate` chooses the variance of ln τ with which
the prediction meets q at small N. Estimating τ sample by sample fails on images with near-constant pixels.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from .convergence import convergence
from .norms import NormFluctuations
from .transfer import Transferred

_SPLITS = 24
_SIZES = 5
_SMALLEST = 10
_LARGEST_VARIANCE = 2.0


def split_half_convergence(samples: np.ndarray, n_samples: int, n_splits: int, rng: np.random.Generator) -> np.ndarray:
    """q of random disjoint subsets of `n_samples` rows each, shape (n_splits,)."""
    chosen = (rng.permutation(len(samples))[: 2 * n_samples] for _ in range(n_splits))
    return np.array([_overlap(samples[i[:n_samples]], samples[i[n_samples:]]) for i in chosen])


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    (s, v), (t, w) = _root(first), _root(second)
    return float(s @ (v @ w.T) ** 2 @ t / np.sqrt((s @ s) * (t @ t)))


def _root(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Singular values and right vectors of the centred rows: Σ̂^{1/2} ∝ Σ s v vᵀ."""
    _, s, v = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    return s, v


def calibrate(samples: np.ndarray, eigenvalues: np.ndarray, seed: int) -> tuple[float, float]:
    """Variance of ln τ that meets the split-half q, and its standard error.

    Parameters
    ----------
    samples : ndarray, shape (n_samples, n_dim)
    eigenvalues : ndarray
        Of their unbiased covariance.

    Returns
    -------
    variance, error : float
        (0, 0) with fewer than 80 samples, too few to split.
    """
    largest = len(samples) // 8
    if largest < _SMALLEST:
        return 0.0, 0.0
    rng = np.random.default_rng([seed, 7])
    sizes = np.unique(np.geomspace(_SMALLEST, min(largest, 400), _SIZES).astype(int))
    measured = [split_half_convergence(samples, N, _SPLITS, rng) for N in sizes]
    q, error = np.array([m.mean() for m in measured]), np.array([m.std(ddof=1) / np.sqrt(m.size) for m in measured])

    def misfit(variance: float) -> float:
        curve = Transferred(eigenvalues, len(samples) - 1, NormFluctuations.lognormal(variance), samples.shape[1])
        return float(np.sum(((np.array([convergence(curve, N - 1) for N in sizes]) - q) / error) ** 2))

    best = minimize_scalar(misfit, bounds=(0, _LARGEST_VARIANCE), method="bounded", options={"xatol": 1e-3})
    step = 0.02
    curvature = (misfit(best.x + step) + misfit(abs(best.x - step)) - 2 * best.fun) / step**2
    return float(best.x), float(np.sqrt(2 * max(1.0, best.fun / max(1, sizes.size - 1)) / max(curvature, 1e-6)))
