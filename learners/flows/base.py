"""What every flow is: layers between data and a standard Gaussian.

    z = f_L ∘ … ∘ f_0(x),    ln p(x) = −½|z|² − (n_dim/2) ln 2π + Σ_l ln|det f_l'|.

f_0 is the whitening of the training data: set at the fit, written down, not trained. All other layers are fitted to whitened
samples, so that units do not matter.

A flow whose layers all have constant Jacobians has S(x) = −½|z(x)|² + const with z ~ N(0, 1), hence **Var_p[S] = n_dim/2**, whatever its
depth and its weights. Data with another variance of S, such as configurations of φ⁴, lie outside what it can represent;
`Flow.variance_of_action` tells.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fieldtheory.arrays import Columns, as_count, as_points, as_samples
from fieldtheory.errors import InputError

from ..fit import Training
from ..learner import Learner, resolve_device
from ..samples import Samples
from .layer import Layer, adapt, to_data, to_latent
from .linear import LinearLayer

_ADAPT_TO = 1024  # points that layers adapt to before the first step


class Flow(Learner):
    """Interface of a flow.

    A flow defines `build` and `config`, and calls `set_columns` once it knows its own arguments; the rest follows.

    Parameters
    ----------
    n_dim : int
        Columns of the samples, at least 2 of which must vary.

    Attributes
    ----------
    layers : ModuleList of Layer
        From data to latent, of the columns that vary; the first one whitens.
    recipe : dict
        Settings of `learners.fit.Training` with which this flow is fitted unless told otherwise.
    """

    recipe: ClassVar[dict] = {}

    def build(self, n_dim: int) -> list[Layer]:
        """The layers after the whitening, for n_dim variables, such that their map is the identity or nearly so."""
        raise TypeError(f"{type(self).__name__} must define build()")

    def set_columns(self, columns: Columns) -> None:
        """An untrained flow of the columns that vary."""
        n = require_two(columns)
        self.layers, self.columns = nn.ModuleList([_identity(n), *self.build(n)]), columns

    def to_latent(self, x) -> tuple[np.ndarray, np.ndarray]:
        """z(x) and ln|det ∂z/∂x| of points (..., n_varying) in the varying columns."""
        return self._through(x, self._to_latent)

    def to_data(self, z) -> tuple[np.ndarray, np.ndarray]:
        """x(z) and ln|det ∂x/∂z| of latent points (..., n_varying)."""
        return self._through(z, self._to_data)

    def sample_and_log_prob(self, n_samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """`sample`, and ln p_θ of what it generates at no further cost, shapes (n_samples, n_dim) and (n_samples,)."""
        z = self._latent(as_count(n_samples, "n_samples"), torch.Generator().manual_seed(as_count(seed, "seed", minimum=0)))
        x, log_det = self.to_data(z)
        return self.columns.restore(x), _log_gaussian(torch.from_numpy(z)).numpy() - log_det

    def variance_of_action(self, samples=None, n_samples: int = 10_000, seed: int = 0) -> VarianceOfAction:
        """Var[ln p_θ(x)] over samples of the model or over given ones, against n_dim/2.

        Parameters
        ----------
        samples : array_like, shape (n, n_dim), optional
            Held-out data; if the flow were the truth, the variance would be that over its own samples.
        n_samples, seed : int
            Of the model's own samples, where none are given.

        Returns
        -------
        VarianceOfAction
        """
        S = self.sample_and_log_prob(n_samples, seed)[1] if samples is None else self.log_prob(as_samples(samples))
        squares = (S - S.mean()) ** 2
        return VarianceOfAction(value=float(squares.mean() * S.size / (S.size - 1)), error=float(squares.std() / math.sqrt(S.size)),
                                gaussian=self.columns.kept.size / 2, constant_jacobian=self.constant_jacobian, own=samples is None)

    @property
    def constant_jacobian(self) -> bool:
        """Whether ln|det ∂z/∂x| is the same at all points."""
        return all(layer.constant_jacobian for layer in self.layers)

    def fit(self, samples, *, seed: int = 0, n_starts: int = 1, device: str = "auto", progress: bool = False,
            callback: Callable[[int, Flow], None] | None = None, callback_every: int = 100, **settings) -> Flow:
        """Maximize the likelihood of samples.

        Starts differ in what the layers draw. Of each the weights with the best validation loss are kept, and of all starts the best
        one.

        Parameters
        ----------
        samples : array_like, shape (n_samples, n_dim)
            A memory-mapped array stays on disk and is read batch by batch.
        seed : int
            Of the starts, the batches and the validation split.
        n_starts : int
            Trained side by side.
        device : str
            ``auto`` is the GPU where there is one; under torchrun that of each process.
        progress : bool
            Show a bar.
        callback : callable, optional
            ``callback(step, flow)`` at step 0, every `callback_every` steps and after the last, the flow with its present weights.
        callback_every : int
        **settings
            n_steps, batch_size, learning_rate, patience, clip, average, precision, n_threads, checkpoint and checkpoint_every; see
            `learners.fit.Training`. What is not given is taken from `recipe`.

        Returns
        -------
        Flow
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
        generators = [np.random.default_rng([seed, start]) for start in range(n_starts)]
        training, take_up = self._prepared(points, generators, seed=seed, **{**self.recipe, **settings})

        def show(step: int) -> None:
            take_up(training.present())
            callback(step, self)

        try:
            training.run(progress, callback and show, callback_every)
        finally:
            best, self.history = training.best()
            take_up(best)
        return self

    def _prepared(self, points: Samples, generators: list[np.random.Generator], **settings) -> tuple[Training, Callable]:
        """The fit of all layers but the first, which is set here, to whitened points; and what takes its weights up into the flow."""
        mean, W = points.mean, self._whitening(points.covariance)
        self._set_whitening(W, -W @ mean)
        log_det = np.linalg.slogdet(W)[1] / len(W)
        points = points.transformed(lambda x: (x - mean) @ W.T)
        starts = [self._start(rng, points.take(np.arange(min(_ADAPT_TO, len(points))))) for rng in generators]
        training = Training.of_modules(lambda layers, x: _mean_loss(layers, x) - log_det, starts, points,
                                       locate=lambda _, x: _first_overflow(starts, x), **settings)
        return training, lambda weights: self._take_up(training.modules[training.best_start], weights)

    def _whitening(self, covariance: np.ndarray) -> np.ndarray:
        """W with W C Wᵀ = 1, triangular."""
        return np.linalg.inv(np.linalg.cholesky(regular(covariance)))

    def _set_whitening(self, W: np.ndarray, b: np.ndarray) -> None:
        with torch.no_grad():
            self.layers[0].weight.copy_(torch.from_numpy(W))
            self.layers[0].bias.copy_(torch.from_numpy(b))

    def _start(self, rng: np.random.Generator, first: np.ndarray) -> nn.ModuleList:
        """The layers after the whitening as a fit begins with them."""
        layers = copy.deepcopy(self.layers[1:])
        for layer in layers:
            layer.draw(rng)
        adapt(layers, torch.as_tensor(first, device=self.device))
        return layers

    def _take_up(self, start: nn.Module, weights: dict[str, Tensor]) -> None:
        """Weights by name, and what was drawn with that start."""
        layers = self.layers[1:]
        with torch.no_grad():
            for name, value in [*start.named_buffers(), *weights.items()]:
                get = layers.get_parameter if name in weights else layers.get_buffer
                get(name).copy_(value)

    def _to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = to_latent(self.layers, x)
        return z, log_det.expand(len(x))

    def _to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x, log_det = to_data(self.layers, z)
        return x, log_det.expand(len(z))

    def _log_prob(self, x: Tensor) -> Tensor:
        z, log_det = self._to_latent(x)
        return _log_gaussian(z) + log_det

    def _sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        return torch.from_numpy(self.to_data(self._latent(n_samples, generator))[0])

    def _latent(self, n_samples: int, generator: torch.Generator) -> np.ndarray:
        return torch.randn(n_samples, self.columns.kept.size, dtype=torch.float64, generator=generator).numpy()

    def _through(self, points, direction) -> tuple[np.ndarray, np.ndarray]:
        points = as_points(points, self.columns.kept.size, "points")
        with torch.no_grad():
            both = self._in_parts(points.reshape(-1, points.shape[-1]), lambda x: torch.column_stack(direction(x)))
        return both[:, :-1].reshape(points.shape), both[:, -1].reshape(points.shape[:-1])


@dataclass(frozen=True)
class VarianceOfAction:
    """Var[S] with its standard error, against that of flows of constant Jacobian.

    Attributes
    ----------
    value, error : float
    gaussian : float
        n_dim/2.
    constant_jacobian : bool
        Whether the flow is one of those.
    own : bool
        Whether the samples were the flow's own.
    """

    value: float
    error: float
    gaussian: float
    constant_jacobian: bool
    own: bool

    @property
    def recommendation(self) -> str:
        """What the number says about the choice of the flow."""
        if self.constant_jacobian and self.own:
            return ("All Jacobians of this flow are constant: over its own samples Var S is n_dim/2 whatever it has learned. Ask for the "
                    "variance over held-out samples.")
        if abs(self.value - self.gaussian) <= 3 * self.error:
            return "This agrees with n_dim/2: a flow of constant Jacobian (QuadraticFlow, NICE) can do."
        if self.constant_jacobian:
            return ("It would be n_dim/2 if the flow were right: no flow of constant Jacobian can represent these samples. "
                    "Use QuadraticFlow(…, tails=True) or RealNVP.")
        return "So no flow of constant Jacobian (QuadraticFlow without tails, NICE) is this theory."

    def __str__(self) -> str:
        return (f"Var S = {self.value:.3f} ± {self.error:.3f} (n_dim/2 = {self.gaussian:g}), off by "
                f"{100 * (self.value / self.gaussian - 1):+.0f} %. {self.recommendation}")


def regular(covariance: np.ndarray) -> np.ndarray:
    """The covariance, with variances lifted by a share of 1e-9 so that dependent columns and few samples still give a start.

    Raises
    ------
    InputError
        It overflows, or underflows to zero.
    """
    variances = np.diag(covariance)
    if not (np.isfinite(covariance).all() and (variances > 0).all()):
        raise InputError("samples must have a covariance that floating point can hold, its largest and smallest variance are "
                         f"{variances.max():.3g} and {variances.min():.3g}; multiply the columns by constants.")
    return covariance + 1e-9 * np.diag(variances)


def require_two(columns: Columns) -> int:
    """How many columns vary; `InputError` if only one does."""
    if columns.kept.size < 2:
        raise InputError(f"a flow of coupling layers must have at least 2 varying columns, got {columns.kept.size}: one variable has "
                         "no other to read. Use fieldtheory.estimate for one dimension.")
    return columns.kept.size


def _identity(n: int) -> LinearLayer:
    layer = LinearLayer(torch.eye(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64))
    return layer.requires_grad_(False)


def _log_gaussian(z: Tensor) -> Tensor:
    """ln N(z; 0, 1)."""
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


def _mean_loss(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """Mean −ln p per dimension (nats)."""
    z, log_det = to_latent(layers, x)
    return -(_log_gaussian(z) + log_det).mean() / z.shape[1]


def _first_overflow(starts: list[nn.ModuleList], x: Tensor) -> str:
    """The first layer of a start whose output is not finite, in words."""
    with torch.no_grad():
        for layers in starts:
            y = x
            for number, layer in enumerate(layers, start=1):
                y, log_det = layer.to_latent(y)
                if not (torch.isfinite(y).all() and torch.isfinite(log_det).all()):
                    return f"layer {number} ({type(layer).__name__})"
    return "the gradient alone"
