"""Loss of quadratic flows, several starts at once, with its gradient by hand.

The layers are few and small, so that a step of training costs what its calls cost, not its arithmetic. Hence all starts go
through each call together (points innermost, shape (n_starts, n_dim, n_points)), and one pass back does with a fourth of the calls
that recording and replaying would take. With h_l = W_l x_{l−1} + b_l, o_ab = h_a h_b of the variables read,

    x_l = h_l + (0, χ_l o_l),    loss = ⟨½|z|²⟩ − Σ_l ln|det W_l| + const,

and g = ∂loss/∂x_l, p = χᵀ g_written:

    ∂χ = g_written oᵀ,   g_read += 2 Σ_b p_ab h_b,   ∂b = Σ g,   ∂W = g x_{l−1}ᵀ − W^{-T},   g ← Wᵀ g.

With tails y = sinh u, u = e^p arsinh x, of which ln dy/dx = p + ln cosh u − ½ ln(1 + x²) enters the loss with weight −w:

    k = g cosh u − w tanh u,   ∂p = Σ k u − w,   g ← k e^p/√(1 + x²) + w x/(1 + x²).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Passed = list[tuple[Tensor, Tensor, Tensor]]
Bent = list[tuple[Tensor, ...]]


def mean_loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Mean −ln p per dimension (nats) of each start.

    Parameters
    ----------
    weights : dict
        ``W`` (n_starts, n_layers, n_dim, n_dim), ``b`` (n_starts, n_layers, n_dim, 1) and the unique entries of χ, ``chi``
        (n_starts, n_layers, n_written, n_pairs); the first ⌈n_dim/2⌉ variables are read. With tails also ``p``, of the shape of b.
    x : Tensor, shape (n_points, n_dim)

    Returns
    -------
    Tensor, shape (n_starts,)
    """
    return _MeanLoss.apply(x, weights["W"], weights["b"], weights["chi"], weights.get("p"))


def first_overflow(weights: dict[str, Tensor], x: Tensor) -> str:
    """The first layer whose output is not finite, in words."""
    W, b, chi, p = (None if part is None else part.detach() for part in (weights.get(name) for name in ("W", "b", "chi", "p")))
    z, _, passed, _ = _forwards(x.T.expand(len(W), -1, -1), W, b, _dense(chi), p)
    outputs = [*(x_l for x_l, _, _ in passed[1:]), z]
    overflown = (i for i, x_l in enumerate(outputs) if not torch.isfinite(x_l).all())
    return f"layer {next(overflown, len(outputs) - 1)}"


class _MeanLoss(torch.autograd.Function):
    """The loss, and its gradient in the weights."""

    @staticmethod
    def forward(ctx, x: Tensor, W: Tensor, b: Tensor, chi: Tensor, p: Tensor | None) -> Tensor:
        chi = _dense(chi)
        z, log_det, ctx.passed, ctx.bent = _forwards(x.T.expand(len(W), -1, -1), W, b, chi, p)
        ctx.save_for_backward(W, chi, z, p)
        n_dim, n_points = z.shape[1:]
        loss = (0.5 * z.square().sum((1, 2)) - log_det) / n_points - torch.linalg.slogdet(W)[1].sum(1)
        return loss / n_dim + 0.5 * math.log(2 * math.pi)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        W, chi, z, p = ctx.saved_tensors
        n_dim, n_points = z.shape[1:]
        w = (upstream / (n_dim * n_points)).view(-1, 1, 1)
        on_W = torch.linalg.inv(W).mT * (-upstream / n_dim).view(-1, 1, 1, 1)
        return None, *_backwards(z * w, w, W, chi, p, ctx.passed, ctx.bent, on_W)


def _forwards(x: Tensor, W: Tensor, b: Tensor, chi: Tensor, p: Tensor | None) -> tuple[Tensor, Tensor | float, Passed, Bent]:
    """z, the tails' ln|det| summed over points, and what the way back needs."""
    n_read = (W.shape[-1] + 1) // 2
    passed, bent, log_det = [], [], 0.0
    for l, (W_l, b_l, chi_l) in enumerate(zip(W.unbind(1), b.unbind(1), chi.unbind(1))):
        h = torch.baddbmm(b_l, W_l, x)
        read = h[:, :n_read]
        o = (read.unsqueeze(2) * read.unsqueeze(1)).flatten(1, 2)
        h[:, n_read:].baddbmm_(chi_l, o)
        passed.append((x, read, o))
        x = h
        if p is not None:
            u = torch.asinh(h) * p[:, l].exp()
            x = torch.sinh(u)
            r2, c2 = 1 + h.square(), 1 + x.square()
            log_det = log_det + h.shape[2] * p[:, l].sum((1, 2)) + 0.5 * (c2 / r2).log_().sum((1, 2))
            bent.append((h, u, x, r2, c2))
    return x, log_det, passed, bent


def _backwards(g: Tensor, w: Tensor, W: Tensor, chi: Tensor, p: Tensor | None, passed: Passed, bent: Bent, on_W: Tensor) -> tuple:
    """Gradients of W, b, the unique entries of χ, and p; `on_W` arrives with the log-determinant's part."""
    n_read = passed[0][1].shape[1]
    on_b, on_chi = on_W.new_empty(*on_W.shape[:-1], 1), torch.empty_like(chi)
    on_p = None if p is None else torch.empty_like(p)
    for l in reversed(range(len(passed))):
        if p is not None:
            g, on_p[:, l] = _straightened(g, w, p[:, l], *bent[l])
        x, read, o = passed[l]
        written = g[:, n_read:]
        on_chi[:, l] = torch.bmm(written, o.mT)
        pair = torch.bmm(chi[:, l].mT, written).unflatten(1, (n_read, n_read))
        g[:, :n_read].add_((pair * read.unsqueeze(1)).sum(2), alpha=2)
        on_W[:, l].baddbmm_(g, x.mT)
        on_b[:, l] = g.sum(2, keepdim=True)
        g = torch.bmm(W[:, l].mT, g)
    return on_W, on_b, _unique(on_chi), on_p


def _straightened(g: Tensor, w: Tensor, p: Tensor, x: Tensor, u: Tensor, y: Tensor, r2: Tensor, c2: Tensor) -> tuple[Tensor, Tensor]:
    """g before the tails, and ∂p; r² = 1 + x², c² = 1 + y² = cosh² u."""
    c = c2.sqrt()
    k = g * c - w * y / c
    return k * p.exp() / r2.sqrt() + w * x / r2, (k * u).sum(2, keepdim=True) - w * x.shape[2]


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
