"""Standard errors of couplings that were read off a fitted flow.

A flow that maximizes the likelihood of N samples has weights θ̂ with covariance F^{-1}/N, F = E[∇_θ ln p ∇_θ ln pᵀ] the Fisher
information (the model is taken to contain the truth). Its couplings A(θ̂) then have

    Cov A = J F⁺ Jᵀ / N,    J = ∂A/∂θ.

Weights are redundant — rotations between layers leave the density alone — but such directions are null in F and in J alike, so
the pseudo-inverse leaves them out. Derivatives are central differences in float64: the conversion costs milliseconds, and a
difference needs nothing from it. The error of a misspecified model (one that cannot represent the data) is not in here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from fieldtheory import SymmetricTensor
from fieldtheory.arrays import as_samples
from fieldtheory.tensors import packed_size

from .conversion import to_action
from .flows import QuadraticFlow

_STEP = 1e-4  # central differences: truncation 1e-8, rounding 1e-12 relative
_NULL = 1e-8  # eigenvalues of F below this share of the largest are redundancies, not information


@dataclass(frozen=True)
class CouplingUncertainty:
    """A root R of the covariance of all couplings, Cov A = R Rᵀ.

    Attributes
    ----------
    roots : dict of int to ndarray, shape (packed_size, n_weights)
        Rows of R by order.
    n_dim : int
    """

    roots: dict[int, np.ndarray]
    n_dim: int

    @property
    def standard_error(self) -> dict[int, SymmetricTensor]:
        """Of every unique entry, by order."""
        return {k: SymmetricTensor.from_packed(np.linalg.norm(R, axis=1), self.n_dim, k) for k, R in self.roots.items()}

    def of_combination(self, order: int, weights: np.ndarray) -> float:
        """Standard error of Σ_r weights_r A^(order)_r over unique entries."""
        return float(np.linalg.norm(weights @ self.roots[order]))


def coupling_uncertainty(flow: QuadraticFlow, samples, order: int = 4, at=None, n_fisher: int = 4000,
                         **conversion) -> CouplingUncertainty:
    """Sampling error of ``to_action(flow, order, at, **conversion)`` for a flow that was fitted to `samples`.

    Parameters
    ----------
    flow : QuadraticFlow
    samples : array_like, shape (n_samples, n_dim)
        The training data; N is their number.
    order, at
        As in `to_action`.
    n_fisher : int
        How many of the samples F is averaged over.
    **conversion
        As in `to_action`: of normal-ordered couplings few base points are enough for an error.

    Returns
    -------
    CouplingUncertainty
    """
    samples = as_samples(samples)
    points = samples[:: max(1, len(samples) // n_fisher)]
    probe = copy.deepcopy(flow)

    def evaluate() -> tuple[np.ndarray, np.ndarray]:
        return probe.log_prob(points), _flat(to_action(probe, order, at, **conversion))

    scores, jacobian = [], []
    for weights in probe.parameters():
        for index in np.ndindex(*weights.shape):
            change = _central_difference(weights, index, evaluate)
            scores.append(change[0])
            jacobian.append(change[1])
    scores = np.column_stack(scores)
    root = np.column_stack(jacobian) @ _inverse_root(scores.T @ scores / len(points)) / np.sqrt(len(samples))
    return CouplingUncertainty(_by_order(root, flow.columns.kept.size, order), flow.columns.kept.size)


def _central_difference(weights: torch.Tensor, index: tuple, evaluate: Callable) -> list[np.ndarray]:
    """Derivative of everything `evaluate` returns by one weight, which is put back."""
    ends, value = [], weights.data[index].item()
    for sign in (1, -1):
        weights.data[index] = value + sign * _STEP
        ends.append(evaluate())
    weights.data[index] = value
    return [(above - below) / (2 * _STEP) for above, below in zip(*ends)]


def _flat(action) -> np.ndarray:
    return np.concatenate([action.couplings[k].packed for k in range(1, action.order + 1)])


def _inverse_root(F: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(F)
    kept = values > _NULL * values[-1]
    return vectors[:, kept] / np.sqrt(values[kept])


def _by_order(root: np.ndarray, n_dim: int, order: int) -> dict[int, np.ndarray]:
    ends = np.cumsum([packed_size(n_dim, k) for k in range(1, order + 1)])
    return dict(zip(range(1, order + 1), np.split(root, ends[:-1])))
