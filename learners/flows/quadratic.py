"""The quadratic flow of C. Merger et al., Phys. Rev. X 13, 041033 (2023).

    z = f_L ∘ … ∘ f_1(x),    f_l = φ_l ∘ (W_l x + b_l),    ln p(x) = −½|z|² − (n_dim/2) ln 2π + Σ_l ln|det W_l|,

with φ_l a quadratic coupling layer that reads some of the variables, by default the first ⌈n_dim/2⌉, and writes the others. The
action is a polynomial of order 2^(L+1), converted exactly by `learners.to_action`. All Jacobians are constant, so
Var_p[ln p] = n_dim/2 whatever the weights are: distributions with another variance of ln p, such as confining φ⁴ theories, lie
outside what such a flow can represent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fieldtheory.arrays import Columns, as_count, as_points
from fieldtheory.errors import InputError

from ..fit import Training
from ..learner import Learner, resolve_device
from .coupling import QuadraticCouplingLayer, pack, unpack
from .linear import LinearLayer
from .quadratic_gradient import first_overflow, mean_loss

_SMALL = 0.01  # standard deviation of the entries of χ at the start of a fit


class QuadraticFlow(Learner):
    """A flow of linear layers and quadratic coupling layers.

    Parameters
    ----------
    n_dim : int
        Number of variables, at least 2.
    n_layers : int
        L, pairs of a linear and a quadratic coupling layer.
    read : sequence of sequence of int, optional
        The variables that each coupling layer reads; by default the first ⌈n_dim/2⌉, to which `fit` returns.

    Examples
    --------
    >>> flow = QuadraticFlow(n_dim=3, n_layers=2)
    >>> flow.log_prob([0.0, 0.0, 0.0])
    array(-2.7568156)
    """

    def __init__(self, n_dim: int, n_layers: int = 4, read: Sequence[Sequence[int]] | None = None):
        super().__init__(n_dim)
        self.n_layers = as_count(n_layers, "n_layers")
        if read is not None and len(read) != self.n_layers:
            raise InputError(f"read must name the variables of each of the {self.n_layers} layers, got {len(read)} lists.")
        self.set_columns(Columns.all(self.n_dim), read)

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
        flow.layers = _layers(weights, flow.read)
        return flow

    @classmethod
    def random(cls, n_dim: int, n_layers: int, seed: int = 0, chi_scale: float = 0.15, bias_scale: float = 0.3,
               weight_scale: float = 0.2) -> QuadraticFlow:
        """A random teacher: W orthogonal + weight_scale·normal/√n_dim, normal b and χ of the given standard deviations."""
        n_dim, rng = as_count(n_dim, "n_dim", minimum=2), np.random.default_rng(seed)
        return cls.from_weights([
            (_orthogonal(n_dim, rng) + weight_scale * rng.normal(size=(n_dim, n_dim)) / math.sqrt(n_dim),
             bias_scale * rng.normal(size=n_dim), _random_chi(n_dim, chi_scale, rng))
            for _ in range(as_count(n_layers, "n_layers"))])

    @property
    def weights(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(W, b, χ) per layer, float64 copies."""
        return [tuple(part.detach().cpu().numpy().copy() for part in (linear.weight, linear.bias))
                + (quadratic.chi_dense(),) for linear, quadratic in zip(self.layers[::2], self.layers[1::2])]

    def to_latent(self, x) -> tuple[np.ndarray, np.ndarray]:
        """z(x) and ln|det ∂z/∂x| of points (..., n_varying) in the varying columns."""
        return self._through(x, self._to_latent)

    def to_data(self, z) -> tuple[np.ndarray, np.ndarray]:
        """x(z) and ln|det ∂x/∂z| of latent points (..., n_varying)."""
        return self._through(z, self._to_data)

    def fit(self, samples, *, seed: int = 0, n_steps: int = 10_000, n_starts: int = 1, batch_size: int = 256,
            learning_rate: float = 1e-2, patience: int | None = None, device: str = "auto", progress: bool = False,
            checkpoint=None) -> QuadraticFlow:
        """Maximize the likelihood of samples.

        The flow is trained on whitened samples, and the whitening is then taken up into W_1 and b_1: units do not matter. Starts
        differ in their random rotations. Of each the weights with the best validation loss are kept, and of all starts the best
        one.

        Parameters
        ----------
        samples : array_like, shape (n_samples, n_dim)
        seed : int
            Of the starts, the batches and the validation split.
        n_steps, batch_size, learning_rate, patience, device, progress, checkpoint
            See `learners.fit.Training`.
        n_starts : int
            Trained side by side; three cost little more time than one.

        Returns
        -------
        QuadraticFlow
            self, with the best weights so far also when the fit is interrupted; `history` as in `learners.fit.Training.best`.

        Raises
        ------
        InputError
            Bad samples, or fewer than 10 of them.
        TrainingError
            The loss stopped being finite.
        """
        seed, n_starts, device = as_count(seed, "seed", minimum=0), as_count(n_starts, "n_starts"), resolve_device(device)
        points = self._accept(samples, min_samples=10)
        self.to(device)
        mean, root = points.mean(axis=0), np.linalg.cholesky(_regular_covariance(points))
        whitened = np.linalg.solve(root, (points - mean).T).T
        log_det = np.log(np.diag(root)).sum() / len(root)
        starts = [_start(len(root), self.n_layers, np.random.default_rng([seed, start])) for start in range(n_starts)]
        weights = {name: torch.as_tensor(np.stack([start[name] for start in starts]), device=device) for name in starts[0]}
        training = Training(lambda weights, x: mean_loss(weights, x) + log_det, weights, whitened, seed=seed, n_steps=n_steps,
                            batch_size=batch_size, learning_rate=learning_rate, patience=patience, checkpoint=checkpoint,
                            locate=first_overflow)
        try:
            training.run(progress)
        finally:
            best, self.history = training.best()
            self._set(**best, mean=torch.as_tensor(mean, device=device), root=torch.as_tensor(root, device=device))
        return self

    def config(self) -> dict:
        """n_dim, n_layers and read."""
        return {"n_dim": self.n_dim, "n_layers": self.n_layers, "read": self.read}

    def set_columns(self, columns: Columns, read: Sequence[Sequence[int]] | None = None) -> None:
        """An untrained flow, the identity, of the columns that vary."""
        n = columns.kept.size
        if n < 2:
            raise InputError(f"a flow of coupling layers must have at least 2 varying columns, got {n}: one variable has no other "
                             "to read. Use fieldtheory.estimate for one dimension.")
        lists = [range(_n_read(n))] * self.n_layers if read is None else read
        self.layers = _layers([(np.eye(n), np.zeros(n), np.zeros((n - len(r), len(r), len(r)))) for r in lists], lists)
        self.columns, self.read = columns, None if read is None else [[int(i) for i in layer] for layer in read]

    def _set(self, W: Tensor, b: Tensor, chi: Tensor, mean: Tensor, root: Tensor) -> None:
        """Weights of a flow of whitened variables root⁻¹(x − mean)."""
        with torch.no_grad():
            for i, (linear, quadratic) in enumerate(zip(self.layers[::2], self.layers[1::2])):
                linear.weight.copy_(W[i])
                linear.bias.copy_(b[i, :, 0])
                quadratic.chi.copy_(chi[i])
            first = self.layers[0]
            first.weight.copy_(torch.linalg.solve(root, first.weight, left=False))
            first.bias.sub_(first.weight @ mean)

    def _to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(())
        for layer in self.layers:
            x, change = layer.to_latent(x)
            log_det = log_det + change
        return x, log_det.expand(len(x))

    def _to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        log_det = z.new_zeros(())
        for layer in reversed(self.layers):
            z, change = layer.to_data(z)
            log_det = log_det + change
        return z, log_det.expand(len(z))

    def _log_prob(self, x: Tensor) -> Tensor:
        z, log_det = self._to_latent(x)
        return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + log_det

    def _sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        z = torch.randn(n_samples, self.columns.kept.size, dtype=torch.float64, generator=generator)
        return self._to_data(z.to(self.device))[0]

    def _through(self, points, direction) -> tuple[np.ndarray, np.ndarray]:
        points = as_points(points, self.columns.kept.size, "points")
        flat = torch.as_tensor(points.reshape(-1, points.shape[-1]), device=self.device)
        with torch.no_grad():
            value, log_det = direction(flat)
        return value.cpu().numpy().reshape(points.shape), log_det.cpu().numpy().reshape(points.shape[:-1])


def _layers(weights: Sequence[tuple], read: Sequence[Sequence[int]]) -> nn.ModuleList:
    layers = []
    for (W, b, chi), r in zip(weights, read):
        layers += [LinearLayer(W, b), QuadraticCouplingLayer(chi, r, sorted(set(range(len(b))) - set(r)))]
    return nn.ModuleList(layers)


def _n_read(n_dim: int) -> int:
    return (n_dim + 1) // 2


def _orthogonal(n: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform on the orthogonal group: QR with the signs of the diagonal taken out."""
    Q, R = np.linalg.qr(rng.normal(size=(n, n)))
    return Q * np.sign(np.diag(R))


def _random_chi(n_dim: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """χ with independent normal unique entries of the given standard deviation."""
    n_read = _n_read(n_dim)
    return unpack(scale * rng.normal(size=(n_dim - n_read, n_read * (n_read + 1) // 2)), n_read)


def _start(n_dim: int, n_layers: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Rotations of whitened data, χ small: nothing to unlearn, and all variables get to be read."""
    return {"W": np.stack([_orthogonal(n_dim, rng) for _ in range(n_layers)]), "b": np.zeros((n_layers, n_dim, 1)),
            "chi": np.stack([pack(_random_chi(n_dim, _SMALL, rng)) for _ in range(n_layers)])}


def _regular_covariance(points: np.ndarray) -> np.ndarray:
    """Covariance, with variances lifted by a share of 1e-9 so that dependent columns and few samples still give a start."""
    covariance = np.cov(points, rowvar=False)
    return covariance + 1e-9 * np.diag(np.diag(covariance))
