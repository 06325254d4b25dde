"""Loss of the quadratic flow with its gradient in one pass.

The layers are few and small, so that a step of training costs what its calls cost, not its arithmetic. Going through the layers once
forwards and once backwards by hand,

    h_l = x_{l−1} W_lᵀ + b_l,   o_l = h_read ⊗ h_read,   x_l = h_l + (0, o_l χ_lᵀ),   loss = ⟨½|z|²⟩ − Σ_l ln|det W_l| + const,

with g = ∂loss/∂x_l: ∂χ = g_writtenᵀ o, ∂h = g + 2 (g_written χ) h_read on what was read, ∂b = Σ ∂h, ∂W = ∂hᵀ x_{l−1} − W^{-T}, takes a
fourth of the calls that recording and replaying them would.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .layers import outer


def mean_loss(flow, x: Tensor) -> Tensor:
    """Mean −ln p per dimension (nats) of points (n, n_varying), differentiable in the flow's parameters."""
    return _MeanLoss.apply(x, *flow.parameters())


class _MeanLoss(torch.autograd.Function):
    """The loss; its gradient is complete when the forward pass is."""

    @staticmethod
    def forward(ctx, x: Tensor, *parameters: Tensor) -> Tensor:
        triples = list(zip(parameters[::3], parameters[1::3], parameters[2::3]))
        z, passed, log_det = _forwards(x, triples)
        n_points, n_dim = z.shape
        loss = 0.5 * z.square().sum() / n_points - log_det + 0.5 * n_dim * math.log(2 * math.pi)
        ctx.gradients = [g / n_dim for g in _backwards(z / n_points, triples, passed)]
        return loss / n_dim

    @staticmethod
    def backward(ctx, upstream: Tensor):
        return None, *(upstream * g for g in ctx.gradients)


def _forwards(x: Tensor, triples: list) -> tuple[Tensor, list, Tensor]:
    passed, log_det = [], 0.0
    for W, b, chi in triples:
        n_read = chi.shape[-1]
        h = torch.addmm(b, x, W.T)
        o = outer(h[:, :n_read])
        passed.append((x, h, o))
        x = torch.cat([h[:, :n_read], torch.addmm(h[:, n_read:], o, chi.flatten(1).T)], dim=1)
        log_det = log_det + torch.linalg.slogdet(W)[1]
    return x, passed, log_det


def _backwards(g: Tensor, triples: list, passed: list) -> list[Tensor]:
    gradients: list[Tensor] = []
    for (W, _, chi), (x, h, o) in zip(reversed(triples), reversed(passed)):
        n_read = chi.shape[-1]
        written = g[:, n_read:]
        pull = (written @ chi.flatten(1)).unflatten(1, (n_read, n_read))
        g = torch.cat([g[:, :n_read] + 2 * torch.bmm(pull, h[:, :n_read, None]).squeeze(2), written], dim=1)
        gradients[:0] = [torch.addmm(torch.linalg.inv(W).T, g.T, x, beta=-1), g.sum(0), (written.T @ o).view_as(chi)]
        g = g @ W
    return gradients
