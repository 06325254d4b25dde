"""Layers of images: flat rows in, flat rows out, read as (channels, height, width).

* `SqueezeLayer`: blocks of 2×2 sites become 4 channels, (C, H, W) → (4C, H/2, W/2), a permutation.
* `Invertible1x1Layer`: at each site the channels are mixed by one matrix, y_cs = Σ_c' W_cc' x_c's, W = P L U as in `LULinearLayer`,
  ln|det| = H W Σ ln U_cc. With one site it is a linear layer over the variables.
* `SplitLayer`: further layers for the first variables only, the rest is latent already: the multi-scale architecture, in which half of
  the channels leave after each scale. Let an affine coupling layer write the half that leaves before, and it is Gaussian with mean
  and variance given by the half that stays.

D. Kingma, P. Dhariwal, arXiv:1807.03039; squeeze and multi-scale from L. Dinh, J. Sohl-Dickstein, S. Bengio, arXiv:1605.08803.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fieldtheory.errors import InputError

from .layer import Layer, adapt, to_data, to_latent
from .linear import LUMatrix, PermutationLayer, by_channel


class SqueezeLayer(PermutationLayer):
    """(C, H, W) → (4C, H/2, W/2): channel 4c + 2i + j holds the sites (2h + i, 2w + j) of channel c.

    Parameters
    ----------
    shape : (int, int, int)
        C, H, W of what comes in; H and W even.
    """

    def __init__(self, shape: Sequence[int]):
        C, H, W = shape
        if H % 2 or W % 2:
            raise InputError(f"height and width must be even to be squeezed, got {H} x {W}; crop or pad the images.")
        sites = np.arange(C * H * W).reshape(C, H // 2, 2, W // 2, 2)
        super().__init__(sites.transpose(0, 2, 4, 1, 3).ravel().tolist())


class Invertible1x1Layer(Layer):
    """y = W x at each site, W = P L U over the channels; the identity at first, a random rotation at the start of a fit.

    Parameters
    ----------
    n_channels : int
    n_sites : int
        Height × width of the image, 1 for plain vectors.

    Attributes
    ----------
    lu : LUMatrix
    n_sites : int
    """

    constant_jacobian = True

    def __init__(self, n_channels: int, n_sites: int = 1):
        super().__init__()
        self.lu, self.n_sites = LUMatrix(n_channels), n_sites

    @property
    def weight(self) -> Tensor:
        """W, shape (n_channels, n_channels)."""
        return self.lu.matrix()

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x → W x at each site, n_sites Σ ln U_cc."""
        return (self.weight @ by_channel(x, self.n_sites)).flatten(1), self.n_sites * self.lu.log_det()

    def to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z → W^{-1} z at each site, −n_sites Σ ln U_cc."""
        return self.lu.solve(by_channel(z, self.n_sites)).flatten(1), -self.n_sites * self.lu.log_det()

    def draw(self, rng: np.random.Generator) -> None:
        """W a random rotation."""
        self.lu.draw(rng)


class SplitLayer(Layer):
    """Layers for the first `n_kept` variables; the others pass.

    Parameters
    ----------
    layers : iterable of Layer
        Of n_kept variables.
    n_kept : int

    Attributes
    ----------
    layers : ModuleList
    n_kept : int
    """

    def __init__(self, layers: Iterable[Layer], n_kept: int):
        super().__init__()
        self.layers, self.n_kept = nn.ModuleList(layers), n_kept

    @property
    def constant_jacobian(self) -> bool:
        """Whether that of every layer inside is."""
        return all(layer.constant_jacobian for layer in self.layers)

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(x_kept, x_rest) → (f(x_kept), x_rest)."""
        kept, log_det = to_latent(self.layers, x[:, :self.n_kept])
        return torch.cat([kept, x[:, self.n_kept:]], dim=1), log_det

    def to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(z_kept, z_rest) → (f^{-1}(z_kept), z_rest)."""
        kept, log_det = to_data(self.layers, z[:, :self.n_kept])
        return torch.cat([kept, z[:, self.n_kept:]], dim=1), log_det

    def draw(self, rng: np.random.Generator) -> None:
        """Each layer inside in turn."""
        for layer in self.layers:
            layer.draw(rng)

    def adapt(self, x: Tensor) -> None:
        """Each layer inside in turn, to what arrives at it."""
        adapt(self.layers, x[:, :self.n_kept])
