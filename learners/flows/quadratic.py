"""The quadratic flow of C. Merger et al., Phys. Rev. X 13, 041033 (2023).

    z = f_L ∘ … ∘ f_1(x),    f_l = φ_l ∘ (W_l x + b_l),    ln p(x) = −½|z|² − (n_dim/2) ln 2π + Σ_l ln|det W_l|,

with φ_l a quadratic coupling layer that reads the first ⌈n_dim/2⌉ variables and writes the others. The action is a polynomial of
order 2^(L+1), converted exactly by `learners.to_action`. All Jacobians are constant, so Var_p[ln p] = n_dim/2 whatever the weights
are: distributions with another variance of ln p, such as confining φ⁴ theories, lie outside what such a flow can represent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fieldtheory.arrays import Columns, as_count
from fieldtheory.errors import InputError

from ..fit import maximize_likelihood
from ..learner import Learner, resolve_device
from .layers import LinearLayer, QuadraticCouplingLayer
from .quadratic_gradient import mean_loss

_SMALL = 0.01  # standard deviation of the entries of χ at the start of a fit


class QuadraticFlow(Learner):
    """A flow of linear layers and quadratic coupling layers.

    Parameters
    ----------
    n_dim : int
        Number of variables, at least 2.
    n_layers : int
        L, pairs of a linear and a quadratic coupling layer.

    Examples
    --------
    >>> flow = QuadraticFlow(n_dim=3, n_layers=2)
    >>> flow.log_prob([0.0, 0.0, 0.0])
    array(-2.7568156)
    """

    def __init__(self, n_dim: int, n_layers: int = 4):
        super().__init__(n_dim)
        self.n_layers = as_count(n_layers, "n_layers")
        self.set_columns(Columns.all(self.n_dim))

    @classmethod
    def from_weights(cls, weights: Iterable[tuple]) -> QuadraticFlow:
        """From (W, b, χ) per layer, W (n, n), b (n,), χ (n_written, n_read, n_read); n_read may differ from layer to layer."""
        weights = [tuple(np.asarray(part, dtype=np.float64) for part in layer) for layer in weights]
        if not weights:
            raise InputError("weights must hold (W, b, chi) for at least one layer, got none.")
        flow = cls(len(weights[0][1]), len(weights))
        flow.layers = _layers(weights)
        return flow

    @classmethod
    def random(cls, n_dim: int, n_layers: int, seed: int = 0, chi_scale: float = 0.15, bias_scale: float = 0.3,
               weight_scale: float = 0.2) -> QuadraticFlow:
        """A random teacher: W orthogonal + weight_scale·normal/√n_dim, normal b and χ of the given standard deviations."""
        rng = np.random.default_rng(seed)
        shape = _chi_shape(as_count(n_dim, "n_dim", minimum=2))
        return cls.from_weights([
            (_orthogonal(n_dim, rng) + weight_scale * rng.normal(size=(n_dim, n_dim)) / math.sqrt(n_dim),
             bias_scale * rng.normal(size=n_dim), _symmetric(chi_scale * rng.normal(size=shape)))
            for _ in range(n_layers)])

    @property
    def weights(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(W, b, χ) per layer, float64 copies."""
        return [tuple(part.detach().cpu().numpy().copy() for part in (linear.weight, linear.bias, quadratic.chi))
                for linear, quadratic in zip(self.layers[::2], self.layers[1::2])]

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

        Starts differ in their random rotations; each begins as the whitening of the data. Of each the weights with the best
        validation loss are kept, and of all starts the best one.

        Parameters
        ----------
        samples : array_like, shape (n_samples, n_dim)
        seed : int
            Of the starts, the batches and the validation split.
        n_steps, batch_size, learning_rate, patience, device, progress, checkpoint
            See `learners.fit.maximize_likelihood`.
        n_starts : int

        Returns
        -------
        QuadraticFlow
            self; `history` has step, train, validation (nats per dimension), seconds of the chosen start.

        Raises
        ------
        InputError
            Bad samples, or fewer than 10 of them.
        TrainingError
            The loss stopped being finite.
        """
        device = resolve_device(device)
        points = self._accept(samples, min_samples=10)
        self.to(device)
        maximize_likelihood(self, points, self._start, mean_loss, seed=seed, n_steps=n_steps, n_starts=n_starts,
                            batch_size=batch_size, learning_rate=learning_rate, patience=patience, progress=progress,
                            checkpoint=checkpoint)
        return self

    def config(self) -> dict:
        """n_dim and n_layers; the sizes of the coupling layers are read off the weights."""
        return {"n_dim": self.n_dim, "n_layers": self.n_layers}

    def set_columns(self, columns: Columns) -> None:
        """An untrained flow, the identity, of the columns that vary."""
        n = columns.kept.size
        if n < 2:
            raise InputError(f"a flow of coupling layers must have at least 2 varying columns, got {n}: one variable has no other "
                             "to read. Use fieldtheory.estimate for one dimension.")
        self.columns = columns
        self.layers = _layers([(np.eye(n), np.zeros(n), np.zeros(_chi_shape(n))) for _ in range(self.n_layers)])

    def load_state_dict(self, state_dict, *args, **kwargs):
        """Take over weights, also those of layers with another split into read and written variables."""
        triples = [(state_dict[f"layers.{2 * i}.weight"], state_dict[f"layers.{2 * i}.bias"], state_dict[f"layers.{2 * i + 1}.chi"])
                   for i in range(self.n_layers)]
        self.layers = _layers([tuple(part.numpy() for part in triple) for triple in triples])
        return super().load_state_dict(state_dict, *args, **kwargs)

    def _start(self, points: np.ndarray, rng: np.random.Generator) -> None:
        """W_1 whitens the data, the others rotate, χ is small: nothing to unlearn, and all variables get to be read."""
        n = points.shape[1]
        whitening = np.linalg.inv(np.linalg.cholesky(_regular_covariance(points)))
        weights = []
        for i in range(self.n_layers):
            W = _orthogonal(n, rng) @ whitening if i == 0 else _orthogonal(n, rng)
            b = -W @ points.mean(axis=0) if i == 0 else np.zeros(n)
            weights.append((W, b, _symmetric(_SMALL * rng.normal(size=_chi_shape(n)))))
        with torch.no_grad():
            for parameter, value in zip(self.parameters(), (part for layer in weights for part in layer)):
                parameter.copy_(torch.from_numpy(value))

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
        points = np.asarray(points, dtype=np.float64)
        flat = torch.as_tensor(points.reshape(-1, points.shape[-1]), device=self.device)
        with torch.no_grad():
            value, log_det = direction(flat)
        return value.cpu().numpy().reshape(points.shape), log_det.cpu().numpy().reshape(points.shape[:-1])


def _layers(weights: Sequence[tuple]) -> nn.ModuleList:
    layers = []
    for W, b, chi in weights:
        n_read = chi.shape[-1]
        layers += [LinearLayer(W, b), QuadraticCouplingLayer(chi, range(n_read), range(n_read, len(b)))]
    return nn.ModuleList(layers)


def _chi_shape(n_dim: int) -> tuple[int, int, int]:
    n_read = (n_dim + 1) // 2
    return n_dim - n_read, n_read, n_read


def _orthogonal(n: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform on the orthogonal group: QR with the signs of the diagonal taken out."""
    Q, R = np.linalg.qr(rng.normal(size=(n, n)))
    return Q * np.sign(np.diag(R))


def _symmetric(chi: np.ndarray) -> np.ndarray:
    """Entry by entry: χ_jab for a ≤ b as drawn, mirrored."""
    upper = np.triu(chi)
    return upper + np.triu(chi, 1).transpose(0, 2, 1)


def _regular_covariance(points: np.ndarray) -> np.ndarray:
    """Covariance, with the smallest eigenvalues lifted to 1e-9 of the largest so that dependent columns still give a start."""
    covariance = np.cov(points, rowvar=False)
    return covariance + 1e-9 * np.linalg.eigvalsh(covariance)[-1] * np.eye(len(covariance))
