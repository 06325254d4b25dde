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
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from . import hermite, memory
from .action import Action
from .arrays import Columns, as_count, as_points, as_samples
from .errors import InputError
from .estimation import _CHUNK, _as_powers, _feature_moments, _frame, _gradient_outer
from .tensors import SymmetricTensor


@dataclass(frozen=True)
class Projection:
    """A polynomial action with what it leaves out.

    Attributes
    ----------
    action : Action
        Gauge ``projection``, around the mean of the samples, in the columns that vary; it carries its standard errors.
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


def project(samples, scores, order: int, values=None) -> Projection:
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
    couplings, roots = _as_powers(theta, root, L, order)
    errors = {k: SymmetricTensor.from_packed(np.linalg.norm(R, axis=1), len(L), k) for k, R in roots.items()}
    action = Action({0: 0.0, **couplings}, mean, "projection", names=columns.names, standard_error=errors)
    if values is not None:
        action = _with_constant(action, x, as_points(values, len(x), "values"))
    return Projection(action, residual, len(x), columns)


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
