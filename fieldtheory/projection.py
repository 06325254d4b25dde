"""The best polynomial action for a field of scores.

Let s(x) = ∇S(x) be known at samples: the score of a model, say. Of all polynomials S_K = θ·φ(x) of order K the one whose slope is
closest in the mean, min E|∇S_K − s|²_M, solves

    G θ = E[∇φ·s],    G = E[∇φ·∇φ],    Cov θ̂ = G^{-1} V G^{-1}/N,    V = Cov[∇φ (∇φ·θ − s)],

with the Gram matrix G of score matching (`fieldtheory.estimation`, which has −E[Δφ] on the right since it does not know s) and its
metric M, the covariance of the samples. A sample pulls the fit towards itself, so that its miss at θ̂ is smaller than in a fit
without it; V counts ψ + g G^{-1} ψ/N with ψ = ∇φ (∇φ·θ̂ − s), g = ∇φ∇φᵀ of one sample, the jackknife to first order.

It is what it is on these samples: S_K is no Taylor polynomial, and all its couplings change
with K as long as an order is missing. Over Gaussian samples it is the Hermite projection of S, whose couplings are normal-ordered.

The residual E|∇S_K − s|²/E|s|² says what is missing. Where S itself is known, A^(0) makes its mean agree.

Over points of a Gaussian q = N(μ, LLᵀ) itself, x = μ + L w, the coefficients in Hermite products are normal-ordered couplings by
Stein's identity, E_q[∇^k S] = E_q[S·He_k]: `stein` regresses the values of S on them. No derivative is taken, so that S may have kinks
and jumps, and what the regression explains does not add to the error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from . import hermite, memory, series
from .action import Action
from .arrays import Columns, as_count, as_covariance, as_points, as_samples, as_vector
from .errors import InputError
from .estimation import _CHUNK, _as_powers, _feature_moments, _frame, _gradient_outer, _shifted_roots
from .tensors import SymmetricTensor, leg_matrix, packed_size


@dataclass(frozen=True)
class Projection:
    """A polynomial action with what it leaves out.

    Attributes
    ----------
    action : Action
        Gauge ``projection``, in the columns that vary; it carries its standard errors.
    residual : float
        E|∇S_K − s|²_M/E|s|²_M, M the covariance of the samples: 0 where S is a polynomial of order at most K.
    n_samples : int
    columns : Columns
        Which columns vary.
    """

    action: Action
    residual: float
    n_samples: int
    columns: Columns


def project(samples, scores, order: int, values=None, at=None) -> Projection:
    """Project a field of scores on the polynomial actions of an order.

    Parameters
    ----------
    samples : array_like, shape (n_samples, n_dim)
        Constant columns are left out.
    scores : array_like, shape (n_samples, n_dim)
        s(x) = ∇S(x) at the samples.
    order : int
        K.
    values : array_like, shape (n_samples,), optional
        S(x), which sets A^(0); 0 by default.
    at : array_like, shape (n_varying,), optional
        Base point of the couplings; by default the mean of the samples.

    Raises
    ------
    InputError
        Bad samples or scores, or samples that do not determine the couplings.
    """
    samples, order = as_samples(samples), as_count(order, "order")
    scores = as_points(scores, samples.shape[1], "scores")
    if scores.shape != samples.shape:
        raise InputError(f"scores must be one per sample, shape {samples.shape}, got {scores.shape}.")
    columns = Columns.of(samples)
    x, mean = columns.drop(samples), columns.drop(samples).mean(axis=0)
    L = _frame(x, "covariance")
    w, slope = scipy.linalg.solve_triangular(L, (x - mean).T, lower=True).T, columns.drop(scores) @ L
    theta, root, residual = _regress(w, slope, order)
    at = mean if at is None else as_vector(at, len(L), "at")
    couplings, roots = _as_powers(theta, root, L, order)
    couplings, roots = series.shifted(couplings, at - mean), _shifted_roots(roots, at - mean)
    couplings[0] = SymmetricTensor.zeros(len(L), 0)
    action = Action(couplings, at, "projection", names=columns.names, standard_error=_lengths(roots, len(L)))
    if values is not None:
        action = _with_constant(action, x, as_points(values, len(x), "values"))
    return Projection(action, residual, len(x), columns)


def stein(function: Callable[[np.ndarray], np.ndarray], mean, covariance, order: int, n_points: int = 100_000, seed: int = 0) -> Action:
    """Normal-ordered couplings E_q[∇^k S]/k! over q = N(mean, covariance) from values of S alone, with their standard errors.

    Parameters
    ----------
    function : callable
        S of rows of points (n, n_dim).
    mean : array_like, shape (n_dim,)
    covariance : array_like, shape (n_dim, n_dim)
    order : int
        K.
    n_points : int
        Points drawn from q, in pairs mean ± δ, so that even and odd orders do not disturb each other and are regressed apart.
    seed : int
    """
    L = np.linalg.cholesky(as_covariance(covariance))
    mean, order, half = as_vector(mean, len(L), "mean"), as_count(order, "order"), as_count(n_points, "n_points", minimum=2) // 2
    w = np.random.default_rng(seed).normal(size=(half, len(L)))
    there, back = function(mean + w @ L.T), function(mean - w @ L.T)
    found = {k: part for even in (True, False) for k, part in
             _regress_values(w, 0.5 * (there + back if even else there - back), range(not even, order + 1, 2)).items()}
    couplings, roots = {}, {}
    for k, (theta, root) in sorted(found.items()):
        block = leg_matrix(np.linalg.inv(L), k) * hermite.entry_scale(len(L), k)
        couplings[k], roots[k] = SymmetricTensor.from_packed(block @ theta, len(L), k), block @ root
    return Action(couplings, mean, "normal_ordered", covariance, standard_error=_lengths(roots, len(L)))


def _regress_values(w: np.ndarray, values: np.ndarray, degrees: range) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Coefficients of the features of some degrees, and rows of a root of their covariance, by degree.

    A miss counts as that of a fit without its point, divided by 1 − its leverage.
    """
    ends = np.cumsum([0] + [packed_size(w.shape[1], k) for k in range(max(degrees, default=0) + 1)])
    chosen = np.concatenate([np.arange(ends[k], ends[k + 1]) for k in degrees] or [np.empty(0, dtype=int)])
    memory.require(24 * len(w) * (ends[-1] + chosen.size), f"{chosen.size} features of {len(w)} points", "lower the order or n_points")
    F = hermite.features(w, max(degrees, default=0))[:, chosen]
    try:
        factor = scipy.linalg.cho_factor(F.T @ F / len(w), lower=True)
    except np.linalg.LinAlgError:
        raise InputError(f"n_points must be enough for {chosen.size} couplings of orders {list(degrees)}, got {2 * len(w)}.") from None
    theta = scipy.linalg.cho_solve(factor, F.T @ values / len(w))
    leverage = np.sum(F * scipy.linalg.cho_solve(factor, F.T).T, axis=1) / len(w)
    psi = F * ((values - F @ theta) / (1 - leverage))[:, None]
    eigenvalues, vectors = np.linalg.eigh(psi.T @ psi / len(w))
    root = scipy.linalg.cho_solve(factor, vectors * np.sqrt(np.maximum(eigenvalues, 0) / len(w)))
    place = np.searchsorted(chosen, ends)
    return {k: (theta[place[k] : place[k + 1]], root[place[k] : place[k + 1]]) for k in degrees}


def _lengths(roots: dict[int, np.ndarray], n_dim: int) -> dict[int, SymmetricTensor]:
    """Standard errors from roots of covariances."""
    return {k: SymmetricTensor.from_packed(np.linalg.norm(R, axis=1), n_dim, k) for k, R in roots.items()}


def _regress(w: np.ndarray, slope: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray, float]:
    """θ̂, a root of its covariance, and the residual."""
    D, size = hermite.derivatives(w.shape[1], order), hermite.n_features(w.shape[1], order)
    memory.require(8 * size**2, f"the equations for {size} couplings", "lower the order or the number of variables")
    moments, _ = _feature_moments(w, order - 1)
    G = sum(d @ (d @ moments).T for d in D)[1:, 1:]
    target = sum(d @ part for d, part in zip(D, _push(w, slope, order).T))[1:]
    try:
        factor = scipy.linalg.cho_factor(G, lower=True)
    except np.linalg.LinAlgError:
        raise InputError(f"samples must determine the couplings up to order {order}, {len(w)} samples in {w.shape[1]} variables leave "
                         "the equations for them singular; lower the order or add samples.") from None
    theta = scipy.linalg.cho_solve(factor, target)
    V, missed = _misses(w, slope, D, theta, factor, order)
    values, vectors = np.linalg.eigh(V)
    root = scipy.linalg.cho_solve(factor, vectors * np.sqrt(np.maximum(values, 0) / len(w)))
    return theta, root, missed / float(np.sum(slope**2))


def _push(w: np.ndarray, slope: np.ndarray, order: int) -> np.ndarray:
    """Ê[φ s] of the features of degree < order, shape (n_features, n_dim)."""
    chunks = range(0, len(w), _CHUNK)
    return sum(hermite.features(w[c : c + _CHUNK], order - 1).T @ slope[c : c + _CHUNK] for c in chunks) / len(w)


def _misses(w: np.ndarray, slope: np.ndarray, D: list, theta: np.ndarray, factor, order: int) -> tuple[np.ndarray, float]:
    """V and Σ|∇φ·θ − s|²."""
    pulled = np.column_stack([d.T @ np.concatenate([[0.0], theta]) for d in D])
    V, missed = np.zeros((theta.size, theta.size)), 0.0
    for c in range(0, len(w), _CHUNK):
        F = np.ascontiguousarray(hermite.features(w[c : c + _CHUNK], order - 1).T)
        miss = F.T @ pulled - slope[c : c + _CHUNK]
        psi = sum(d @ (F * m) for d, m in zip(D, miss.T))[1:]
        solved = np.vstack([np.zeros((1, F.shape[1])), scipy.linalg.cho_solve(factor, psi)])
        psi = psi + _gradient_outer(F, D, solved)[1:] / len(w)
        V += psi @ psi.T
        missed += float(np.sum(miss**2))
    return V / len(w), missed


def _with_constant(action: Action, x: np.ndarray, values: np.ndarray) -> Action:
    gap = values - action(x)
    constant = {0: SymmetricTensor.from_packed([gap.mean()], action.n_dim, 0)}
    error = {0: SymmetricTensor.from_packed([gap.std() / np.sqrt(len(x))], action.n_dim, 0)}
    return Action(action.couplings | constant, action.at, action.gauge, names=action.names,
                  standard_error=error | action.standard_error)
