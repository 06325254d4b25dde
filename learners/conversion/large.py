"""Couplings in many variables, without the tensor.

A coupling of order 4 in 28 × 28 variables has 1.6·10¹⁰ entries; what it does along directions costs a pass through the model. Three
questions can be asked of it: its value A^(k)[v_1, …, v_k]; for order 3 all of it as a sum of products of vectors; and the directions it is
strongest in, which are the stationary points of A^(k)[v, …, v] on the sphere,

    A^(k)[v, …, v, ·] = λ v,    |v| = 1,

found by v ← (A^(k)[v, …, v, ·] + α v)/|…| with a shift α that makes every step an ascent (T. Kolda, J. Mayo, SIAM J. Matrix Anal. Appl.
32, 1095 (2011)). With a covariance Σ = LLᵀ, v = L w and |w| = 1: directions are weighed in units of how far the data go.
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

_STEPS, _CONVERGED = 500, 1e-8
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
        raise InputError(f"factored_cubic must be given a flow of layers, got {type(flow).__name__}; coupling_along takes any model.")
    return factored_cubic_of(model.tape, x)


def leading_directions(learner, order: int, n_directions: int = 3, at=None, covariance=None, n_starts: int = 16,
                       seed: int = 0) -> LeadingDirections:
    """The directions in which the coupling of an order is strongest, by power iteration from random starts.

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
    w = np.random.default_rng(seed).normal(size=(as_count(n_starts, "n_starts"), model.n_dim))
    sign = np.where(np.arange(len(w)) % 2, -1.0, 1.0)[:, None] if order % 2 == 0 else 1.0  # of even order: maxima and minima
    contract = _contraction(model, x, order)
    w, slope = _ascend(lambda w: sign * contract(w @ L.T) @ L, w, order)
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


def _ascend(contract: Callable[[np.ndarray], np.ndarray], w: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Shifted power iteration of each row; a step that would go down is taken back with twice the shift."""
    w = w / np.linalg.norm(w, axis=1, keepdims=True)
    slope = contract(w)
    value = np.sum(slope * w, axis=1, keepdims=True)
    shift = (order - 1) * np.linalg.norm(slope, axis=1, keepdims=True)
    for _ in range(_STEPS):
        trial = slope + shift * w
        trial /= np.maximum(np.linalg.norm(trial, axis=1, keepdims=True), 1e-300)
        trial_slope = contract(trial)
        trial_value = np.sum(trial_slope * trial, axis=1, keepdims=True)
        better = trial_value >= value
        shift = np.where(better, 0.7 * shift, 2 * shift + np.linalg.norm(slope, axis=1, keepdims=True))
        w, slope, value = np.where(better, trial, w), np.where(better, trial_slope, slope), np.where(better, trial_value, value)
        if np.all(np.linalg.norm(slope - value * w, axis=1, keepdims=True) <= _CONVERGED * np.abs(value)):
            break
    return w, slope


def _distinct(w: np.ndarray, values: np.ndarray, n_directions: int) -> list[int]:
    """Rows that are the strongest and differ from each other by more than a sign."""
    chosen: list[int] = []
    for row in np.argsort(-np.abs(values)):
        if all(abs(w[row] @ w[other]) < _SAME for other in chosen):
            chosen.append(int(row))
    return chosen[: as_count(n_directions, "n_directions")]
