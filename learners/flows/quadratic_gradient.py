"""Loss of the quadratic flow with its gradient in one pass.

The layers are few and small, so that a step of training costs what its calls cost, not its arithmetic. Going through the layers
once forwards and once backwards by hand,

    h_l = x_{l−1} W_lᵀ + b_l,   o_l = h_read ⊗ h_read,   x_l = h_l + (0, o_l χ_lᵀ),   loss = ⟨½|z|²⟩ − Σ_l ln|det W_l| + const,

with g = ∂loss/∂x_l: ∂χ = g_writtenᵀ o, ∂h = g + 2 (g_written χ) h_read on what was read, ∂b = Σ ∂h, ∂W = ∂hᵀ x_{l−1} − W^{-T}, takes
a fourth of the calls that recording and replaying them would.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .layers import outer


def mean_loss(flow, x: Tensor) -> Tensor:
    """Mean −ln p per dimension (nats) of points (n, n_varying), differentiable in the flow's parameters."""
    pairs = zip(flow.layers[::2], flow.layers[1::2])
    return _MeanLoss.apply(x, *(p for linear, quadratic in pairs for p in (linear.weight, linear.bias, quadratic.chi)))


class _MeanLoss(torch.autograd.Function):
    """The loss; its gradient is complete when the forward pass is."""

    @staticmethod
    def forward(ctx, x: Tensor, *parameters: Tensor) -> Tensor:
        triples = list(zip(parameters[::3], parameters[1::3], parameters[2::3]))
        W = torch.stack(parameters[::3])
        z, passed = _forwards(x, triples)
        n_points, n_dim = z.shape
        loss = 0.5 * z.square().sum() / n_points - torch.linalg.slogdet(W)[1].sum()
        ctx.gradients = _backwards(z / (n_points * n_dim), triples, passed, torch.linalg.inv(W).mT / n_dim)
        return loss / n_dim + 0.5 * math.log(2 * math.pi)

    @staticmethod
    def backward(ctx, upstream: Tensor):
        return None, *(upstream * g for g in ctx.gradients)


def _forwards(x: Tensor, triples: list) -> tuple[Tensor, list]:
    passed = []
    for W, b, chi in triples:
        n_read = chi.shape[-1]
        h = torch.addmm(b, x, W.T)
        o = outer(h[:, :n_read])
        passed.append((x, h, o))
        x = torch.cat([h[:, :n_read], torch.addmm(h[:, n_read:], o, chi.flatten(1).T)], dim=1)
    return x, passed


def _backwards(g: Tensor, triples: list, passed: list, log_det_gradients: Tensor) -> list[Tensor]:
    gradients: list[Tensor] = []
    for (W, _, chi), (x, h, o), pull_det in zip(reversed(triples), reversed(passed), log_det_gradients.flip(0)):
        n_read = chi.shape[-1]
        written = g[:, n_read:]
        pull = (written @ chi.flatten(1)).unflatten(1, (n_read, n_read))
        on_chi = (written.T @ o).view_as(chi)
        g = torch.cat([g[:, :n_read] + 2 * torch.bmm(pull, h[:, :n_read, None]).squeeze(2), written], dim=1)
        gradients[:0] = [torch.addmm(pull_det, g.T, x, beta=-1), g.sum(0), on_chi]
        g = g @ W
    return gradients
