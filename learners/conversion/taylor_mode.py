"""Derivatives of any model along lines, and couplings from them.

Let s = ∇S. Differentiating the score m times along v gives all couplings with one leg left open,

    (d/dt)^m s(x + t v) = (m + 1)! A^(m+1)[v, …, v, ·]    at t = 0,

and C(n_dim + m − 1, m) directions v determine the tensor (`fieldtheory.polarization`): one reverse sweep for s, m forward ones around
it. Rows of a batch are independent, so that each direction is a row. This asks nothing of a model but that torch can differentiate it, and
costs 2^m scores for each direction: node-wise assembly is faster by orders of magnitude where the nodes are known.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial

import numpy as np
import torch
from torch import Tensor

from fieldtheory import polarization
from fieldtheory.errors import InputError
from fieldtheory.tensors import SymmetricTensor

Function = Callable[[Tensor], Tensor]
_ROWS = 4096


def score_of(log_prob: Function) -> Function:
    """∇ log_prob, rows (n, n_dim) → (n, n_dim)."""
    return torch.func.grad(lambda x: log_prob(x).sum())


def along(function: Function, x: Tensor, v: Tensor, m: int) -> Tensor:
    """(d/dt)^m function(x + t v) at t = 0, row by row."""
    for _ in range(m):
        function = _forward(function, v)
    return function(x)


def batched_couplings(log_prob: Function | None, score: Function, points: np.ndarray, order: int, directions: np.ndarray | None = None,
                      device=None) -> list[dict[int, SymmetricTensor]]:
    """A^(0) … A^(order) at each of some points, or along directions (n_dim, r); A^(0) is 0 without log_prob.

    Raises
    ------
    InputError
        torch cannot differentiate the model that often, or derivatives are not finite.
    """
    basis = np.eye(points.shape[1]) if directions is None else directions
    with torch.no_grad():
        constants = np.zeros(len(points)) if log_prob is None else log_prob(torch.as_tensor(points, device=device)).cpu().numpy()
    if not np.isfinite(constants).all():
        raise InputError(f"ln p must be finite at the base point, it is {constants[~np.isfinite(constants)][0]}; choose another with at=.")
    found = [{0: SymmetricTensor.from_packed([c], basis.shape[1], 0)} for c in constants]
    for k in range(1, order + 1):
        v = polarization.directions(basis.shape[1], k - 1) @ basis.T
        rows = np.repeat(points, len(v), axis=0), np.tile(v, (len(points), 1))
        slopes = _slopes(score, *(torch.as_tensor(part, device=device) for part in rows), k) @ basis
        for couplings, at_point in zip(found, slopes.reshape(len(points), len(v), -1)):
            couplings[k] = polarization.from_slopes(at_point, k)
    return found


def _slopes(score: Function, x: Tensor, v: Tensor, k: int) -> np.ndarray:
    """A^(k)[v, …, v, ·] by rows."""
    try:
        parts = [along(score, *part, k - 1).detach() for part in zip(x.split(_ROWS), v.split(_ROWS))]
    except (RuntimeError, NotImplementedError) as error:
        raise InputError(f"the model must be differentiable by torch {k} times, {k - 1} of them forwards; it is not: "
                         f"{' '.join(str(error).split())[:160]}. Convert it by projection or normal_ordered.") from None
    slopes = torch.cat(parts).cpu().numpy() / factorial(k)
    if not np.isfinite(slopes).all():
        raise InputError(f"derivatives of order {k} must be finite at the base point, they are not; choose another with at=.")
    return slopes


def _forward(function: Function, v: Tensor) -> Function:
    return lambda x: torch.func.jvp(function, (x,), (v,))[1]
