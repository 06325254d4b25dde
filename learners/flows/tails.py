"""Tails: an elementwise layer that changes how fast the density falls off.

    y = sinh(e^p arsinh x),    ln dy/dx = p + ln cosh(e^p arsinh x) − ½ ln(1 + x²),

the identity at p = 0. Near 0 it multiplies by e^p; far out |y| ~ ½ |2x|^(e^p), so that a Gaussian latent becomes exp(−|x|^(2 e^p)):
p > 0 confines, p < 0 gives heavy tails. The inverse is the same function with −p. Flows of constant Jacobian have Var_p[S] = n_dim/2; with
tails they reach confining theories such as φ⁴ (M. Jones, A. Pewsey, Biometrika 96, 761 (2009), for the transformation).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .layer import Layer


class TailLayer(Layer):
    """y = sinh(e^p arsinh x).

    Parameters
    ----------
    n_dim : int

    Attributes
    ----------
    log_power : Parameter, shape (n_dim,)
        p, 0 at first.
    """

    def __init__(self, n_dim: int):
        super().__init__()
        self.log_power = nn.Parameter(torch.zeros(n_dim, dtype=torch.float64))

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x → sinh(e^p arsinh x), Σ p + ln cosh(e^p arsinh x) − ½ ln(1 + x²)."""
        return _bent(x, self.log_power)

    def to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same with −p."""
        return _bent(z, -self.log_power)


def _bent(x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    a = _arsinh(x)
    u = p.exp() * a
    return torch.sinh(u), (p + _log_cosh(u) - _log_cosh(a)).sum(1)


def _arsinh(x: Tensor) -> Tensor:
    """Far out as sign(x) ln |2x|: the gradient of torch's own is 0 there, because x² overflows."""
    far = x.abs() > 1 / torch.finfo(x.dtype).eps
    return torch.where(far, x.sign() * (x.abs().clamp(min=1).log() + math.log(2)), torch.asinh(x))


def _log_cosh(u: Tensor) -> Tensor:
    """ln cosh u = |u| + ln(1 + e^{−2|u|}) − ln 2, finite wherever u is."""
    u = u.abs()
    return u + torch.log1p(torch.exp(-2 * u)) - math.log(2)
