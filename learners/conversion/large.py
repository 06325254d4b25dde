"""Couplings in many variables, without the tensor.

A coupling of order 4 in 28 × 28 variables has 1.6·10¹⁰ entries; what it does along directions costs a pass through the model. Three
questions can be asked of it: its value A^(k)[v_1, …, v_k]; for order 3 all of it as a sum of products of vectors; and the directions it is
strongest in, which are the stationary points of A^(k)[v, …, v] on the sphere,

    A^(k)[v, …, v, ·] = λ v,    |v| = 1.

They are climbed to by conjugate gradients from random starts. On the great circle v = cos θ w + sin θ d the coupling is a polynomial of
degree k in cos θ and sin θ, so that what it is at k + 1 angles is all of it, and every step goes to the next maximum on its circle
exactly. With a covariance Σ = LLᵀ, v = L w and |w| = 1: directions are weighed in units of how far the data go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial

import numpy as np
import torch

from fieldtheory.arrays import as_count, as_covariance, as_vector
from fieldtheory.assembly import factored_cubic as factored_cubic_of
from fieldtheory.errors import InputError
from fieldtheory.factored import FactoredCubic

from .model import FlowModel, Model, as_model
from .taylor import mode, require_smooth
from .taylor_mode import along

_STEPS, _CONVERGED = 100, 1e-7
_GRID, _NUDGE = 180, 1e-5
_SAME = 0.99  # |cosine| above which two starts have found the same direction


@dataclass(frozen=True)
class LeadingDirections:
    """Directions in which a coupling is strongest, the strongest first.

    Attributes
    ----------
    values : ndarray, shape (n_found,)
        λ = A^(k)[v, …, v].
    vectors : ndarray, shape (n_found, n_dim)
        v.
    residual : ndarray, shape (n_found,)
        |A^(k)[v, …, v, ·] − λ v|/|λ|, in units of the sphere: how far from stationary.
    """

    values: np.ndarray
    vectors: np.ndarray
    residual: np.ndarray


def coupling_along(learner, *directions, at=None) -> float:
    """A^(k)[v_1, …, v_k] for k directions, at a base point.

    Parameters
    ----------
    learner : Learner or torch module with log_prob
    *directions : array_like, shape (n_dim,)
        v_1 … v_k, in the columns that vary.
    at : array_like, shape (n_dim,), optional
        By default the mode.
    """
    model, x = _at_point(learner, at)
    if not directions:
        raise InputError("directions must be given, as many as the order of the coupling, got none.")
    V = np.stack([as_vector(v, model.n_dim, "direction") for v in directions], axis=1)
    return model.couplings(x, V.shape[1], V)[V.shape[1]][tuple(range(V.shape[1]))]


def factored_cubic(flow, at=None) -> FactoredCubic:
    """A^(3) of a flow at a point, by default the mode, as a sum of products of vectors."""
    model, x = _at_point(flow, at)
    if not isinstance(model, FlowModel):
        raise InputError(f"factored_cubic must be given a flow whose layers are known as nodes, got {type(flow).__name__}; coupling_along "
                         "takes any model.")
    return factored_cubic_of(model.tape, x)


def leading_directions(learner, order: int, n_directions: int = 3, at=None, covariance=None, n_starts: int = 16,
                       seed: int = 0) -> LeadingDirections:
    """The directions in which the coupling of an order is strongest, from random starts.

    Parameters
    ----------
    learner : Learner or torch module with log_prob
    order : int
        k ≥ 2.
    n_directions : int
        As many as are returned, if the starts find so many.
    at : array_like, shape (n_dim,), optional
        By default the mode.
    covariance : array_like, shape (n_varying, n_varying), optional
        Of the data; by default directions have length 1.
    n_starts, seed : int

    Returns
    -------
    LeadingDirections
        No start may have met the strongest of all: there are exponentially many stationary directions.
    """
    model, x = _at_point(learner, at)
    order = as_count(order, "order", minimum=2)
    L = np.eye(model.n_dim) if covariance is None else np.linalg.cholesky(as_covariance(covariance))
    if len(L) != model.n_dim:
        raise InputError(f"covariance must be that of the {model.n_dim} columns that vary, got shape {L.shape}.")
    n_starts, contract = as_count(n_starts, "n_starts"), _contraction(model, x, order)
    sign = np.where(np.arange(n_starts) % 2 * (1 - order % 2), -1.0, 1.0)[:, None]  # of even order: maxima and minima
    w = np.random.default_rng(seed).normal(size=(n_starts, model.n_dim))
    w, slope = _ascend(lambda w, rows: sign[rows] * contract(w @ L.T) @ L, w, order)
    values = np.sum(sign * slope * w, axis=1)
    residual = np.linalg.norm(sign * slope - values[:, None] * w, axis=1) / np.maximum(np.abs(values), 1e-300)
    chosen = _distinct(w, values, n_directions)
    return LeadingDirections(values[chosen], w[chosen] @ L.T, residual[chosen])


def _at_point(learner, at) -> tuple[Model, np.ndarray]:
    model = as_model(learner, None if at is None else np.size(at))
    require_smooth(model)
    return model, mode(model) if at is None else model.point(at)


def _contraction(model: Model, x: np.ndarray, order: int) -> Callable[[np.ndarray], np.ndarray]:
    """v ↦ A^(k)[v, …, v, ·], row by row."""
    def contract(v: np.ndarray) -> np.ndarray:
        points = torch.as_tensor(np.tile(x, (len(v), 1)), device=model.device)
        slopes = along(model.score_function, points, torch.as_tensor(v, device=model.device), order - 1)
        return slopes.detach().cpu().numpy() / factorial(order)

    return contract


def _ascend(contract: Callable[[np.ndarray, np.ndarray], np.ndarray], w: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Conjugate gradients on the sphere (Polak–Ribière), row by row: where they end, and A[w, …, w, ·] there.

    ``contract(w, rows)`` is A[w, …, w, ·] for points of the starts `rows`.
    """
    w = _unit(w)
    slope = contract(w, np.arange(len(w)))
    gradient = direction = _tangent(slope, w)
    for _ in range(_STEPS):
        moving = np.flatnonzero(np.linalg.norm(gradient, axis=1) > _CONVERGED * np.abs(np.sum(slope * w, axis=1)))
        if not moving.size:
            break
        before, length = gradient[moving], np.linalg.norm(direction[moving], axis=1, keepdims=True)
        d = _unit(_tangent(direction[moving], w[moving]))
        w[moving], d, slope[moving] = _next_on_circle(contract, w[moving], d, order, moving)
        gradient[moving] = after = _tangent(slope[moving], w[moving])
        direction[moving] = _conjugate(after, _tangent(before, w[moving]), length * d)
    return w, slope


def _conjugate(gradient: np.ndarray, before: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """The gradient and a share of the last direction; the gradient alone where that hardly goes uphill."""
    share = np.sum(gradient * (gradient - before), axis=1, keepdims=True) / np.maximum(np.sum(before**2, axis=1, keepdims=True), 1e-300)
    mixed = gradient + np.maximum(share, 0.0) * direction
    uphill = np.sum(mixed * gradient, axis=1) > 0.1 * np.linalg.norm(mixed, axis=1) * np.linalg.norm(gradient, axis=1)
    return np.where(uphill[:, None], mixed, gradient)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-300)


def _tangent(v: np.ndarray, w: np.ndarray) -> np.ndarray:
    return v - np.sum(v * w, axis=1, keepdims=True) * w


def _next_on_circle(contract: Callable, w: np.ndarray, d: np.ndarray, order: int,
                    rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The next maximum from w along d on their circle, the direction of the circle there, and A[w, …, w, ·] there."""
    angles = np.pi * np.arange(order + 1) / (order + 1)
    points = np.cos(angles)[:, None, None] * w + np.sin(angles)[:, None, None] * d
    slopes = contract(points.reshape(-1, w.shape[1]), np.tile(rows, len(angles))).reshape(points.shape)
    coefficients = np.tensordot(np.linalg.pinv(_powers(angles, order - 1)), slopes, axes=1)
    grid = np.pi * np.arange(2 * _GRID + 2) / _GRID
    value = _powers(grid, order) @ np.linalg.solve(_powers(angles, order), np.sum(slopes * points, axis=2))
    angle = grid[np.argmax(np.diff(value, axis=0) <= 0, axis=0)]
    for _ in range(4):
        angle = angle + _newton(angle, coefficients, w, d, order)
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    return c * w + s * d, c * d - s * w, np.einsum("nj,jni->ni", _powers(angle, order - 1), coefficients)


def _newton(angle: np.ndarray, coefficients: np.ndarray, w: np.ndarray, d: np.ndarray, order: int) -> np.ndarray:
    """A step towards the zero of A[v, …, v, v'] on each circle, no longer than the grid is wide."""
    def rise(angle: np.ndarray) -> np.ndarray:
        slope = np.einsum("nj,jni->ni", _powers(angle, order - 1), coefficients)
        return np.sum(slope * (np.cos(angle)[:, None] * d - np.sin(angle)[:, None] * w), axis=1)

    curvature = (rise(angle + _NUDGE) - rise(angle - _NUDGE)) / (2 * _NUDGE)
    return np.clip(np.where(curvature < 0, -rise(angle) / np.where(curvature < 0, curvature, 1.0), 0.0), -np.pi / _GRID, np.pi / _GRID)


def _powers(angles: np.ndarray, degree: int) -> np.ndarray:
    """cos^{degree − i} sin^i at each angle, shape (n_angles, degree + 1)."""
    i = np.arange(degree + 1)
    return np.cos(angles)[:, None] ** (degree - i) * np.sin(angles)[:, None] ** i


def _distinct(w: np.ndarray, values: np.ndarray, n_directions: int) -> list[int]:
    """Rows that are the strongest and differ from each other by more than a sign."""
    chosen: list[int] = []
    for row in np.argsort(-np.abs(values)):
        if all(abs(w[row] @ w[other]) < _SAME for other in chosen):
            chosen.append(int(row))
    return chosen[: as_count(n_directions, "n_directions")]
