"""GLOW: D. Kingma, P. Dhariwal, *Glow: Generative flow with invertible 1×1 convolutions*, arXiv:1807.03039.

One step of flow is an actnorm, an invertible 1×1 convolution, and an affine coupling layer that reads half of the channels and writes
the others. Images go through several scales: 2×2 blocks of sites are squeezed into channels, steps of flow follow, and half of the
channels leave as latent variables, Gaussian with mean and variance computed from the half that goes on to the next scale.

For plain vectors every variable is a channel of one site; the 1×1 convolution is a linear layer, and there is one scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import ClassVar

import numpy as np

from fieldtheory.arrays import Columns, as_count
from fieldtheory.errors import InputError

from .base import Flow, regular
from .conditioners import MLP, ConvNet, plain
from .convolution import Invertible1x1Layer, SplitLayer, SqueezeLayer
from .coupling import AffineCouplingLayer
from .layer import Layer
from .linear import ActNormLayer


class Glow(Flow):
    """Steps of actnorm, 1×1 convolution and affine coupling, on images at several scales.

    Parameters
    ----------
    shape : (int, int, int), optional
        Channels, height and width of images; samples are their flat rows, channel by channel and row by row. Height and width even.
    n_dim : int, optional
        For plain vectors: the number of variables.
    n_layers : int
        Steps at each scale.
    hidden : int
        Channels of the convolutions, or units of the two hidden layers for vectors, that compute shift and scale.
    n_scales : int, optional
        By default as many as the sizes can be halved, and at most 3.
    unit : {"tanh", "softplus", "silu"} or a pair of them
        Of both hidden layers, or of each. SiLU fits faster than tanh; behind a bounded first layer it does not run away with outliers.

    Raises
    ------
    InputError
        Neither or both of shape and n_dim, odd sizes, more scales than the sizes can be halved.

    Examples
    --------
    >>> Glow(shape=(1, 4, 4)).sample(2).shape
    (2, 16)
    """

    recipe: ClassVar[dict] = {"learning_rate": 5e-3, "precision": "float32"}

    def __init__(self, shape: Sequence[int] | None = None, n_dim: int | None = None, n_layers: int = 4, hidden: int = 64,
                 n_scales: int | None = None, unit: str | Sequence[str] = ("tanh", "silu")):
        if (shape is None) == (n_dim is None):
            raise InputError(f"Glow must be given shape or n_dim, got shape={shape} and n_dim={n_dim}.")
        shape = (as_count(n_dim, "n_dim"), 1, 1) if shape is None else _image_shape(shape)
        super().__init__(prod(shape))
        self.shape, self.n_layers, self.hidden, self.unit = shape, as_count(n_layers, "n_layers"), as_count(hidden, "hidden"), plain(unit)
        self.n_scales = _n_scales(shape) if n_scales is None else as_count(n_scales, "n_scales")
        if self.n_scales > max(1, _halvings(shape)):
            raise InputError(f"n_scales must be at most {_halvings(shape)}, as often as {shape[1]} x {shape[2]} can be halved, "
                             f"got {n_scales}.")
        self.set_columns(self.columns)

    def build(self, n_dim: int) -> list[Layer]:
        """Layers that, apart from squeezing, change nothing yet."""
        return self._scale(self.shape, self.n_scales) if _halvings(self.shape) else self._steps((n_dim, 1, 1))

    def set_columns(self, columns: Columns) -> None:
        """As of every flow; but images have no pixels to leave out."""
        if _halvings(self.shape) and columns.dropped.size:
            raise InputError(f"images must vary in every pixel, columns {columns.dropped.tolist()[:5]} are constant; add noise of the size "
                             "of a grey level, or use Glow(n_dim=…) for the others.")
        super().set_columns(columns)

    def config(self) -> dict:
        """Arguments of the constructor."""
        which = {"shape": list(self.shape)} if _halvings(self.shape) else {"n_dim": self.n_dim}
        return {**which, "n_layers": self.n_layers, "hidden": self.hidden, "n_scales": self.n_scales, "unit": self.unit}

    def _scale(self, shape: tuple[int, int, int], n_scales: int) -> list[Layer]:
        """Squeeze, steps, and what leaves before the next scale."""
        C, H, W = 4 * shape[0], shape[1] // 2, shape[2] // 2
        layers = [SqueezeLayer(shape), *self._steps((C, H, W))]
        if n_scales == 1:
            return layers
        kept = (C // 2, H, W)
        return [*layers, self._coupling((C, H, W)), SplitLayer(self._scale(kept, n_scales - 1), prod(kept))]

    def _steps(self, shape: tuple[int, int, int]) -> list[Layer]:
        C, sites = shape[0], shape[1] * shape[2]
        return [layer for _ in range(self.n_layers)
                for layer in (ActNormLayer(C, sites), Invertible1x1Layer(C, sites), self._coupling(shape))]

    def _coupling(self, shape: tuple[int, int, int]) -> AffineCouplingLayer:
        """Reads the first half of the channels."""
        C, H, W = shape
        n_read, sites = (C + 1) // 2, H * W
        if sites == 1:
            network = MLP(n_read, 2 * (C - n_read), (self.hidden, self.hidden), self.unit)
        else:
            network = ConvNet((n_read, H, W), 2 * (C - n_read), self.hidden, self.unit)
        return AffineCouplingLayer(network, range(n_read * sites), range(n_read * sites, C * sites))

    def _whitening(self, covariance: np.ndarray) -> np.ndarray:
        """C^{-1/2}: of all matrices that whiten the one that leaves pixels most nearly in their places."""
        values, vectors = np.linalg.eigh(regular(covariance))
        return (vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1]))) @ vectors.T


def _image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    C, H, W = (as_count(size, "shape") for size in shape) if len(shape) == 3 else (1, 1, 1)
    if H % 2 or W % 2:
        raise InputError(f"shape must be (channels, height, width) with even height and width, got {tuple(shape)}; crop or pad the images, "
                         "or use n_dim for plain vectors.")
    return C, H, W


def _halvings(shape: tuple[int, int, int]) -> int:
    """How often height and width can both be halved."""
    _, H, W = shape
    return next(k for k in range(64) if H % 2 ** (k + 1) or W % 2 ** (k + 1))


def _n_scales(shape: tuple[int, int, int]) -> int:
    return min(3, max(1, _halvings(shape)))
