"""The quadratic flow of C. Merger et al., Phys. Rev. X 13, 041033 (2023).

    z = f_L ∘ … ∘ f_1(x),    f_l = φ_l ∘ (W_l x + b_l),    ln p(x) = −½|z|² − (n_dim/2) ln 2π + Σ_l ln|det W_l|,

with φ_l a quadratic coupling layer that reads some of the variables, by default the first ⌈n_dim/2⌉, and writes the others. The
action is a polynomial of order 2^(L+1), converted exactly by `learners.to_action`. All Jacobians are constant, so
Var_p[ln p] = n_dim/2 whatever the weights are: distributions with another variance of ln p, such as confining φ⁴ theories, lie
outside what such a flow can represent.

With tails a third map follows in each layer, y = sinh(e^p arsinh x) elementwise. The action is then no polynomial, but it can confine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from fieldtheory.arrays import Columns, as_count
from fieldtheory.errors import InputError

from ..fit import Training, Weights
from ..samples import Samples
from .base import Flow, regular, require_two
from .coupling import QuadraticCouplingLayer, pack, unpack
from .layer import Layer
from .linear import LinearLayer, random_orthogonal
from .quadratic_gradient import first_overflow, mean_loss
from .tails import TailLayer

_SMALL = 0.01  # standard deviation of the entries of χ at the start of a fit


class QuadraticFlow(Flow):
    """A flow of linear layers and quadratic coupling layers, with or without tails.

    Whitening is taken up into W_1 and b_1 at a fit. Three starts cost little more time than one.

    Parameters
    ----------
    n_dim : int
        Number of variables, at least 2.
    n_layers : int
        L, each a linear and a quadratic coupling layer.
    read : sequence of sequence of int, optional
        The variables that each coupling layer reads; by default the first ⌈n_dim/2⌉, to which `fit` returns.
    tails : bool
        A `TailLayer` after each coupling layer.

    Examples
    --------
    >>> flow = QuadraticFlow(n_dim=3, n_layers=2)
    >>> flow.log_prob([0.0, 0.0, 0.0])
    array(-2.7568156)
    """

    def __init__(self, n_dim: int, n_layers: int = 4, read: Sequence[Sequence[int]] | None = None, tails: bool = False):
        super().__init__(n_dim)
        self.n_layers, self.tails = as_count(n_layers, "n_layers"), bool(tails)
        if read is not None and len(read) != self.n_layers:
            raise InputError(f"read must name the variables of each of the {self.n_layers} layers, got {len(read)} lists.")
        self.set_columns(self.columns, read)

    @classmethod
    def from_weights(cls, weights: Iterable[tuple], read: Sequence[Sequence[int]] | None = None) -> QuadraticFlow:
        """A flow with given weights.

        Parameters
        ----------
        weights : iterable of (W, b, χ)
            Shapes (n_dim, n_dim), (n_dim,), (n_written, n_read, n_read) in each layer; χ_j belongs to the j-th variable written, in
            increasing order.
        read : sequence of sequence of int, optional
            The variables each layer reads; by default the first ones.
        """
        weights = [tuple(np.asarray(part, dtype=np.float64) for part in layer) for layer in weights]
        if not weights:
            raise InputError("weights must hold (W, b, chi) for at least one layer, got none.")
        if len({b.shape for _, b, _ in weights}) > 1:
            raise InputError(f"weights must be of one n_dim, got biases of shapes {[b.shape for _, b, _ in weights]}.")
        flow = cls(len(weights[0][1]), len(weights), read or [range(chi.shape[-1]) for _, _, chi in weights])
        flow.layers = nn.ModuleList(_layers(weights, flow.read, tails=False))
        return flow

    @classmethod
    def random(cls, n_dim: int, n_layers: int, seed: int = 0, chi_scale: float = 0.15, bias_scale: float = 0.3,
               weight_scale: float = 0.2) -> QuadraticFlow:
        """A random teacher: W orthogonal + weight_scale·normal/√n_dim, normal b and χ of the given standard deviations."""
        n_dim, rng = as_count(n_dim, "n_dim", minimum=2), np.random.default_rng(seed)
        return cls.from_weights([
            (random_orthogonal(n_dim, rng) + weight_scale * rng.normal(size=(n_dim, n_dim)) / math.sqrt(n_dim),
             bias_scale * rng.normal(size=n_dim), _random_chi(n_dim, chi_scale, rng))
            for _ in range(as_count(n_layers, "n_layers"))])

    @property
    def weights(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(W, b, χ) per layer, float64 copies; those of tails are not among them."""
        return [(*(part.detach().cpu().numpy().copy() for part in (linear.weight, linear.bias)), quadratic.chi_dense())
                for linear, quadratic, *_ in self._groups()]

    def build(self, n_dim: int, read: Sequence[Sequence[int]] | None = None) -> list[Layer]:
        """The identity: W = 1, b = 0, χ = 0, p = 0."""
        lists = [range(_n_read(n_dim))] * self.n_layers if read is None else read
        zeros, one = partial(torch.zeros, dtype=torch.float64), torch.eye(n_dim, dtype=torch.float64)
        return _layers([(one, zeros(n_dim), zeros(n_dim - len(r), len(r), len(r))) for r in lists], lists, self.tails)

    def set_columns(self, columns: Columns, read: Sequence[Sequence[int]] | None = None) -> None:
        """An untrained flow, the identity, of the columns that vary; whitening needs no layer of its own."""
        self.layers = nn.ModuleList(self.build(require_two(columns), read))
        self.columns, self.read = columns, None if read is None else [[int(i) for i in layer] for layer in read]

    def _prepared(self, points: Samples, generators: list[np.random.Generator], **settings) -> tuple[Training, Callable]:
        """Whitened by the Cholesky factor of the covariance, all starts in each call, and with the gradient by hand."""
        if settings.get("precision") == "bfloat16":
            raise InputError("precision must be float64 or float32 for a QuadraticFlow, got 'bfloat16': its gradient is written by hand.")
        mean, root = points.mean, np.linalg.cholesky(regular(points.covariance))
        whitened = points.transformed(lambda x: np.linalg.solve(root, (x - mean).T).T)
        log_det = np.log(np.diag(root)).sum() / len(root)
        starts = [_start(len(root), self.n_layers, self.tails, rng) for rng in generators]
        weights = {name: torch.as_tensor(np.stack([start[name] for start in starts]), device=self.device) for name in starts[0]}
        training = Training(lambda weights, x: mean_loss(weights, x) + log_det, weights, whitened, locate=first_overflow, **settings)
        return training, lambda best: self._set(best, torch.as_tensor(mean, device=self.device), torch.as_tensor(root, device=self.device))

    def _set(self, weights: Weights, mean: Tensor, root: Tensor) -> None:
        """Weights of a flow of whitened variables root⁻¹(x − mean)."""
        with torch.no_grad():
            for i, (linear, quadratic, *tails) in enumerate(self._groups()):
                linear.weight.copy_(weights["W"][i])
                linear.bias.copy_(weights["b"][i, :, 0])
                quadratic.chi.copy_(weights["chi"][i])
                for tail in tails:
                    tail.log_power.copy_(weights["p"][i, :, 0])
            first = self.layers[0]
            first.weight.copy_(torch.linalg.solve(root, first.weight, left=False))
            first.bias.sub_(first.weight @ mean)

    def _groups(self) -> Iterator[tuple[Layer, ...]]:
        """Linear, quadratic and, if there are any, tails, by layer."""
        return zip(*[iter(self.layers)] * (3 if self.tails else 2))

    def config(self) -> dict:
        """n_dim, n_layers, read and tails."""
        return {"n_dim": self.n_dim, "n_layers": self.n_layers, "read": self.read, "tails": self.tails}


def _layers(weights: Sequence[tuple], read: Sequence[Sequence[int]], tails: bool) -> list[Layer]:
    layers = []
    for (W, b, chi), r in zip(weights, read):
        layers += [LinearLayer(W, b), QuadraticCouplingLayer(chi, r, sorted(set(range(len(b))) - set(r)))]
        layers += [TailLayer(len(b))] if tails else []
    return layers


def _n_read(n_dim: int) -> int:
    return (n_dim + 1) // 2


def _random_chi(n_dim: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """χ with independent normal unique entries of the given standard deviation."""
    n_read = _n_read(n_dim)
    return unpack(scale * rng.normal(size=(n_dim - n_read, n_read * (n_read + 1) // 2)), n_read)


def _start(n_dim: int, n_layers: int, tails: bool, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Rotations of whitened data, χ small: nothing to unlearn, and all variables get to be read."""
    start = {"W": np.stack([random_orthogonal(n_dim, rng) for _ in range(n_layers)]), "b": np.zeros((n_layers, n_dim, 1)),
             "chi": np.stack([pack(_random_chi(n_dim, _SMALL, rng)) for _ in range(n_layers)])}
    return {**start, "p": np.zeros((n_layers, n_dim, 1))} if tails else start
