"""Loss of quadratic flows, several starts at once, with its gradient by hand.

The layers are few and small, so that a step of training costs what its calls cost, not its arithmetic. Hence all starts go
through each call together (points innermost, shape (n_starts, n_dim, n_points)), and one pass back does with a fourth of the calls
that recording and replaying would take. With h_l = W_l x_{l−1} + b_l, o_ab = h_a h_b of the variables read,

    x_l = h_l + (0, χ_l o_l),    loss = ⟨½|z|²⟩ − Σ_l ln|det W_l| + const,

and g = ∂loss/∂x_l, p = χᵀ g_written:

    ∂χ = g_written oᵀ,   g_read += 2 Σ_b p_ab h_b,   ∂b = Σ g,   ∂W = g x_{l−1}ᵀ − W^{-T},   g ← Wᵀ g.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Passed = list[tuple[Tensor, Tensor, Tensor]]


def mean_loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Mean −ln p per dimension (nats) of each start.

    Parameters
    ----------
    weights : dict
        ``W`` (n_starts, n_layers, n_dim, n_dim), ``b`` (n_starts, n_layers, n_dim, 1) and the unique entries of χ, ``chi``
        (n_starts, n_layers, n_written, n_pairs); the first ⌈n_dim/2⌉ variables are read.
    x : Tensor, shape (n_points, n_dim)

    Returns
    -------
    Tensor, shape (n_starts,)
    """
    return _MeanLoss.apply(x, weights["W"], weights["b"], weights["chi"])


def first_overflow(weights: dict[str, Tensor], x: Tensor) -> str:
    """The first layer whose output is not finite, in words."""
    W, b, chi = (weights[name].detach() for name in ("W", "b", "chi"))
    z, passed = _forwards(x.T.expand(len(W), -1, -1), W, b, _dense(chi))
    outputs = [*(x_l for x_l, _, _ in passed[1:]), z]
    overflown = (i for i, x_l in enumerate(outputs) if not torch.isfinite(x_l).all())
    return f"layer {next(overflown, len(outputs) - 1)}"


class _MeanLoss(torch.autograd.Function):
    """The loss, and its gradient in the weights."""

    @staticmethod
    def forward(ctx, x: Tensor, W: Tensor, b: Tensor, chi: Tensor) -> Tensor:
        chi = _dense(chi)
        z, ctx.passed = _forwards(x.T.expand(len(W), -1, -1), W, b, chi)
        ctx.save_for_backward(W, chi, z)
        n_dim, n_points = z.shape[1:]
        loss = 0.5 * z.square().sum((1, 2)) / n_points - torch.linalg.slogdet(W)[1].sum(1)
        return loss / n_dim + 0.5 * math.log(2 * math.pi)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        W, chi, z = ctx.saved_tensors
        n_dim, n_points = z.shape[1:]
        g = z * (upstream / (n_dim * n_points)).view(-1, 1, 1)
        on_W = torch.linalg.inv(W).mT * (-upstream / n_dim).view(-1, 1, 1, 1)
        return None, *_backwards(g, W, chi, ctx.passed, on_W)


def _forwards(x: Tensor, W: Tensor, b: Tensor, chi: Tensor) -> tuple[Tensor, Passed]:
    n_read = (W.shape[-1] + 1) // 2
    passed = []
    for W_l, b_l, chi_l in zip(W.unbind(1), b.unbind(1), chi.unbind(1)):
        h = torch.baddbmm(b_l, W_l, x)
        read = h[:, :n_read]
        o = (read.unsqueeze(2) * read.unsqueeze(1)).flatten(1, 2)
        h[:, n_read:].baddbmm_(chi_l, o)
        passed.append((x, read, o))
        x = h
    return x, passed


def _backwards(g: Tensor, W: Tensor, chi: Tensor, passed: Passed, on_W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of W, b and the unique entries of χ; `on_W` arrives with the log-determinant's part."""
    n_read = passed[0][1].shape[1]
    on_b, on_chi = on_W.new_empty(*on_W.shape[:-1], 1), torch.empty_like(chi)
    for l in reversed(range(len(passed))):
        x, read, o = passed[l]
        written = g[:, n_read:]
        on_chi[:, l] = torch.bmm(written, o.mT)
        p = torch.bmm(chi[:, l].mT, written).unflatten(1, (n_read, n_read))
        g[:, :n_read].add_((p * read.unsqueeze(1)).sum(2), alpha=2)
        on_W[:, l].baddbmm_(g, x.mT)
        on_b[:, l] = g.sum(2, keepdim=True)
        g = torch.bmm(W[:, l].mT, g)
    return on_W, on_b, _unique(on_chi)


def _dense(chi: Tensor) -> Tensor:
    """Unique entries of χ to the square, last axis n_pairs → n_read²."""
    return chi.index_select(-1, _pair_of(chi.shape[-1], chi.device))


def _unique(on_chi: Tensor) -> Tensor:
    """Transpose of `_dense`."""
    n_read = math.isqrt(on_chi.shape[-1])
    n_pairs = n_read * (n_read + 1) // 2
    out = on_chi.new_zeros(*on_chi.shape[:-1], n_pairs)
    return out.index_add_(-1, _pair_of(n_pairs, on_chi.device), on_chi)


@lru_cache
def _pair_of(n_pairs: int, device: torch.device) -> Tensor:
    """Position of each (a, b) of the square among the unique pairs."""
    n_read = (math.isqrt(8 * n_pairs + 1) - 1) // 2
    a, b = np.tril_indices(n_read)
    position = np.empty((n_read, n_read), dtype=np.int64)
    position[a, b] = position[b, a] = np.arange(n_pairs)
    return torch.from_numpy(position.ravel()).to(device)
