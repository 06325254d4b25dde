"""What a layer of a flow is: an invertible map of n_dim variables that knows its log-determinant.

    to_latent: x → y, ln|det ∂y/∂x|,        to_data: y → x, ln|det ∂x/∂y| = −ln|det ∂y/∂x|.

Points are flat rows (n_points, n_dim), images too: channel by channel, row by row. A log-determinant has shape () where it is the
same for all points, else (n_points,).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn


class Layer(nn.Module):
    """Interface of an invertible map.

    Attributes
    ----------
    constant_jacobian : bool
        Whether ln|det| is the same at all points. A flow of such layers alone has Var_p[ln p] = n_dim/2, whatever its depth.
    """

    constant_jacobian = False

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One step from data towards latent, and its ln|det|."""
        raise TypeError(f"{type(self).__name__} must define to_latent()")

    def to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """One step from latent towards data, and its ln|det|."""
        raise TypeError(f"{type(self).__name__} must define to_data()")

    def draw(self, rng: np.random.Generator) -> None:
        """Draw the start of a fit; a layer in which nothing is random stays as it is."""

    def adapt(self, x: Tensor) -> None:
        """Set what depends on data, from points as they arrive at this layer; most layers have nothing to set."""


def to_latent(layers: Iterable[Layer], x: Tensor) -> tuple[Tensor, Tensor]:
    """Through all layers, first to last, with the sum of their log-determinants."""
    log_det = x.new_zeros(())
    for layer in layers:
        x, change = layer.to_latent(x)
        log_det = log_det + change
    return x, log_det


def to_data(layers: Sequence[Layer], z: Tensor) -> tuple[Tensor, Tensor]:
    """Back through all layers, last to first."""
    log_det = z.new_zeros(())
    for layer in reversed(layers):
        z, change = layer.to_data(z)
        log_det = log_det + change
    return z, log_det


def adapt(layers: Iterable[Layer], x: Tensor) -> None:
    """Let each layer set itself from what arrives at it."""
    with torch.no_grad():
        for layer in layers:
            layer.adapt(x)
            x, _ = layer.to_latent(x)
