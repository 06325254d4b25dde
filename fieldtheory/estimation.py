"""Couplings straight from samples, by score matching.

For S = θ·φ(x) Hyvärinen's objective E[½ ∇Sᵀ M ∇S + tr(M ∇²S)] needs no normalization and is quadratic in θ:

    θ̂ = −Ĝ^{-1} Ê[Δφ],    Ĝ = Ê[∇φ·∇φ],    Cov θ̂ = G^{-1} V G^{-1}/N,    V = Cov[∇φ (∇φ·θ) + Δφ]

(A. Hyvärinen, J. Mach. Learn. Res. 6, 695 (2005)); the last is the sandwich covariance. M is a metric on gradients: the data
covariance makes the estimate equivariant under every affine map, the unit matrix is Hyvärinen's own choice; both are consistent.

The plain estimate is biased by about (number of couplings)/N of its size, which averages over symmetries notice long before single
entries do. Expanding θ̂ = −(G + δG)^{-1}(b + δb) one order further, with g_s, ψ_s the terms of sample s,

    E θ̂ − θ = (1/N) G^{-1} E[g_s G^{-1} ψ_s],

which is subtracted. Residuals ψ_s at θ̂ are smaller than at θ by their leverage; ψ_s + ½ g_s G^{-1} ψ_s/N in V puts that right to the
same order (J. MacKinnon, H. White, J. Econometrics 29, 305 (1985), there called HC2).

The samples are whitened (M = Σ̂) or only shifted and scaled (M = 1), φ are normalized Hermite products (`fieldtheory.hermite`), and
the result is transformed back exactly, to powers of x around the mean of the samples. Since ∂_i φ_α is a single feature of
lower degree, one product FᵀF of the features of degree ≤ K − 1 holds all of Ĝ.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb

import numpy as np
import scipy.linalg

from . import hermite
from .action import Action
from .arrays import Columns, as_count, as_samples, as_vector
from .errors import InputError, RegimeWarning
from .normalizability import Normalizability, normalizability
from .tensors import SymmetricTensor, contraction_matrix, leg_matrix, packed_size

_CHUNK = 4096
_METHODS = ("score_matching", "inverse_covariance")
_METRICS = ("covariance", "euclidean")


@dataclass(frozen=True)
class Estimate:
    """Couplings with their sampling errors.

    Attributes
    ----------
    action : Action
        Exact gauge, around the mean of the samples, in the columns that vary; its constant is 0.
    roots : dict of int to ndarray, shape (packed_size, n_couplings)
        By order, rows of a root R of the covariance of all couplings, Cov A = R Rᵀ.
    n_samples : int
    columns : Columns
        Which columns vary.
    metric : str
    normalizability : Normalizability
        Of the fitted action: nothing in score matching forces it.
    """

    action: Action
    roots: dict[int, np.ndarray]
    n_samples: int
    columns: Columns
    metric: str
    normalizability: Normalizability

    @property
    def standard_error(self) -> dict[int, SymmetricTensor]:
        """Of every unique entry, by order."""
        return {k: SymmetricTensor.from_packed(np.linalg.norm(R, axis=1), self.action.n_dim, k) for k, R in self.roots.items()}

    def covariance(self, indices: Sequence[tuple]) -> np.ndarray:
        """Covariance between named entries, such as ``[(0, 0), (0, 1, 1)]``; shape (n_entries, n_entries)."""
        rows = np.array([self._root(len(index))[self.action.couplings[len(index)].rank(index)] for index in indices])
        return rows @ rows.T

    def combination(self, order: int, weights: np.ndarray) -> tuple[float, float]:
        """Value and standard error of Σ_r weights_r A^(order)_r over unique entries."""
        root, weights = self._root(order), np.asarray(weights, dtype=np.float64)
        if weights.shape != root.shape[:1]:
            raise InputError(f"weights must be one number per unique entry of order {order}, {len(root)} in all, got shape "
                             f"{weights.shape}.")
        return float(weights @ self.action.couplings[order].packed), float(np.linalg.norm(weights @ root))

    def _root(self, order: int) -> np.ndarray:
        if order not in self.roots:
            raise InputError(f"order must be one that was estimated, 1 … {max(self.roots)}, got {order!r}.")
        return self.roots[order]

    def recenter(self, at) -> Estimate:
        """The same estimate with couplings, and their errors, at another base point."""
        at = as_vector(at, self.action.n_dim, "at")
        return replace(self, action=self.action.recenter(at), roots=_shifted_roots(self.roots, at - self.action.at))


def estimate(samples, order: int, method: str = "score_matching", metric: str = "covariance",
             bias_correction: bool = True) -> Estimate:
    """Estimate the couplings of the theory that samples came from.

    Parameters
    ----------
    samples : array_like, shape (n_samples, n_dim)
        Constant columns are left out, see `Estimate.columns`.
    order : int
        Highest order K of the polynomial. The estimate is consistent if the true action has no higher order.
    method : {"score_matching", "inverse_covariance"}
        The second is score matching of order 2, A^(2) = −½ Σ̂^{-1}.
    metric : {"covariance", "euclidean"}
        M, see the module.
    bias_correction : bool
        Remove the bias of order 1/N and let standard errors count the leverage of each sample; without it this is Hyvärinen's
        estimator with the plain sandwich covariance.

    Returns
    -------
    Estimate

    Raises
    ------
    InputError
        Bad samples, unknown method or metric, or fewer samples than couplings.

    Warns
    -----
    RegimeWarning
        The fitted action is not normalizable: it describes the samples, not a density.
    """
    samples, order = as_samples(samples), as_count(order, "order")
    if method not in _METHODS or metric not in _METRICS:
        raise InputError(f"method must be one of {', '.join(_METHODS)} and metric one of {', '.join(_METRICS)}, got {method!r} "
                         f"and {metric!r}.")
    if method == "inverse_covariance" and order != 2:
        raise InputError(f"order must be 2 for inverse_covariance, got {order}; use score_matching for higher orders.")
    columns = Columns.of(samples)
    x = columns.drop(samples)
    n_couplings = sum(packed_size(x.shape[1], k) for k in range(1, order + 1))
    if len(x) <= n_couplings:
        raise InputError(f"samples must outnumber the couplings, got {len(x)} samples for {n_couplings} couplings up to order "
                         f"{order}; lower the order or add samples.")
    mean, root = x.mean(axis=0), _frame(x, metric)
    w = scipy.linalg.solve_triangular(root, (x - mean).T, lower=True).T
    theta, theta_root = _score_matching(w, order, bias_correction)
    return _in_data_coordinates(theta, theta_root, mean, root, order, len(x), columns, metric)


def _frame(x: np.ndarray, metric: str) -> np.ndarray:
    """L with x = mean + L w, so that unit-metric score matching in w is what `metric` asks for in x."""
    covariance = np.atleast_2d(np.cov(x, rowvar=False, bias=True))
    if metric == "euclidean":
        return np.sqrt(np.trace(covariance) / len(covariance)) * np.eye(len(covariance))
    scale = np.sqrt(np.diag(covariance))
    if np.linalg.eigvalsh(covariance / np.outer(scale, scale))[0] <= 1e-13:
        raise InputError("columns of samples must not be linearly dependent, their covariance is singular to rounding; leave out "
                         "the dependent ones or project on principal components.")
    return np.linalg.cholesky(covariance)


def _score_matching(w: np.ndarray, order: int, bias_correction: bool) -> tuple[np.ndarray, np.ndarray]:
    """θ̂ of the features of degree 1 … order, and a root of its covariance."""
    D = hermite.derivatives(w.shape[1], order)
    moments, mean = _feature_moments(w, order - 1)
    G = sum(d @ (d @ moments).T for d in D)[1:, 1:]
    laplacian = _laplacian(w.shape[1], order)
    try:
        factor = scipy.linalg.cho_factor(G, lower=True)
    except np.linalg.LinAlgError:
        raise InputError(f"samples must determine the couplings up to order {order}, the equations for them are singular; lower the "
                         "order, or check for columns with few distinct values.") from None
    theta = -scipy.linalg.cho_solve(factor, (laplacian @ mean)[1:])
    V, push = _influences(w, theta, D, laplacian, order, factor if bias_correction else None)
    values, vectors = np.linalg.eigh(V)
    root = scipy.linalg.cho_solve(factor, vectors * np.sqrt(np.maximum(values, 0) / len(w)))
    return theta - scipy.linalg.cho_solve(factor, push) / len(w), root


def _feature_moments(w: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Ê[φφᵀ] and Ê[φ] of the features up to `degree`."""
    size = hermite.n_features(w.shape[1], degree)
    moments, mean = np.zeros((size, size)), np.zeros(size)
    for start in range(0, len(w), _CHUNK):
        F = hermite.features(w[start : start + _CHUNK], degree)
        moments += F.T @ F
        mean += F.sum(axis=0)
    return moments / len(w), mean / len(w)


def _laplacian(n_dim: int, order: int):
    """Δφ = L φ: features up to `order` from features up to order − 1."""
    size = hermite.n_features(n_dim, order - 1)
    if order == 1:
        return 0.0 * hermite.derivatives(n_dim, 1)[0]
    lower = hermite.derivatives(n_dim, order - 1)
    total = sum(d @ e for d, e in zip(hermite.derivatives(n_dim, order), lower))
    total.resize((total.shape[0], size))
    return total


def _influences(w: np.ndarray, theta: np.ndarray, D: list, laplacian, order: int, factor) -> tuple[np.ndarray, np.ndarray]:
    """V = Ê[ψψᵀ], ψ = ∇φ (∇φ·θ) + Δφ, and Ê[g G^{-1} ψ].

    With the factor of G, ψ counts its leverage g G^{-1} ψ/N; without, the second result is zero.
    """
    full = np.concatenate([[0.0], theta])
    V, push = np.zeros((theta.size, theta.size)), np.zeros(theta.size)
    for start in range(0, len(w), _CHUNK):
        F = np.ascontiguousarray(hermite.features(w[start : start + _CHUNK], order - 1).T)
        psi = (laplacian @ F + _gradient_outer(F, D, full[:, None]))[1:]
        if factor is not None:
            solved = np.vstack([np.zeros((1, F.shape[1])), scipy.linalg.cho_solve(factor, psi)])
            leverage = _gradient_outer(F, D, solved)[1:]
            push += leverage.sum(axis=1)
            psi = psi + 0.5 * leverage / len(w)
        V += psi @ psi.T
    return V / len(w), push / len(w)


def _gradient_outer(F: np.ndarray, D: list, vectors: np.ndarray) -> np.ndarray:
    """∇φ_s (∇φ_s·v_s) by sample, shape (n_features, n), for v of shape (n_features, n) or (n_features, 1): ∂_i φ = D_i F."""
    return sum(d @ (F * np.einsum("fs,fs->s", F, np.broadcast_to(d.T @ vectors, F.shape))) for d in D)


def _in_data_coordinates(theta, theta_root, mean, L, order, n_samples, columns, metric) -> Estimate:
    couplings, roots = _as_powers(theta, theta_root, L, order)
    action = Action(couplings, at=mean, names=columns.names)
    verdict = normalizability(action)
    if not verdict.normalizable:
        warnings.warn(f"the fitted action should be normalizable, it is not: {verdict.reason} Its couplings describe the samples "
                      "where they are; more samples or an even order may mend it.", RegimeWarning, stacklevel=3)
    return Estimate(action, roots, n_samples, columns, metric, verdict)


def _shifted_roots(roots: dict[int, np.ndarray], c: np.ndarray) -> dict[int, np.ndarray]:
    """Rows of the root of the covariance of couplings around a base point that is moved by c."""
    shifted = {k: R.copy() for k, R in roots.items()}
    for m, R in roots.items():
        for k in range(m - 1, 0, -1):
            R = contraction_matrix(c, k + 1) @ R
            shifted[k] = shifted[k] + comb(m, k) * R
    return shifted


def _as_powers(theta: np.ndarray, theta_root: np.ndarray, L: np.ndarray, order: int) -> tuple[dict, dict]:
    """Hermite coefficients in w → couplings in powers of x − mean = L w, and rows of the root of their covariance, by order."""
    n_dim = len(L)
    powers = hermite.to_powers(n_dim, order)[1:, 1:]
    coefficients = np.column_stack([powers @ theta, powers @ theta_root])
    inverse, start, couplings, roots = np.linalg.inv(L), 0, {}, {}
    for k in range(1, order + 1):
        size = packed_size(n_dim, k)
        block = leg_matrix(inverse, k) @ coefficients[start : start + size]
        couplings[k], roots[k] = SymmetricTensor.from_packed(block[:, 0], n_dim, k), block[:, 1:]
        start += size
    return couplings, roots
