"""What a conversion needs to know of a model: ln p, its score, its Taylor couplings at a point, and samples where it has them.

Three kinds of models answer. A flow of this package is written down as nodes and differentiated node by node; a Gaussian diffusion
model is an action already; anything else that torch can differentiate, from another package or a bare function, is
differentiated along lines (`learners.conversion.taylor_mode`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import singledispatch
from math import inf

import numpy as np
import torch

from fieldtheory import Action, series
from fieldtheory.arrays import Columns, as_vector
from fieldtheory.assembly import assemble
from fieldtheory.errors import InputError
from fieldtheory.tape import Tape

from ..diffusion import DDPM
from ..flows import Flow
from ..learner import Learner
from .record import Couplings, expand, tape_of
from .smoothness import kinks
from .taylor_mode import Function, batched_couplings, score_of


class Model:
    """Interface of a model in the columns that vary; points are rows (n, n_dim).

    Attributes
    ----------
    columns : Columns
        Which columns of the samples vary.
    degree : float
        Order of its action as a polynomial, infinite where it is none.
    score_function : callable
        ∇S of rows of points as torch tensors on `device`, to be differentiated further.
    kinks : tuple of str
        Units without derivatives, as far as they can be seen; Taylor couplings are refused where there are some.
    samples_itself, has_log_prob : bool
        Whether `sample` and `log_prob` work.
    """

    columns: Columns
    score_function: Function
    device: torch.device | str | None = None
    degree: float = inf
    kinks: tuple[str, ...] = ()
    samples_itself: bool = True
    has_log_prob: bool = True

    @property
    def n_dim(self) -> int:
        """Number of variables."""
        return self.columns.kept.size

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """S(x) = ln p(x) at rows of points, shape (n,)."""
        raise TypeError(f"{type(self).__name__} must define log_prob()")

    def score(self, x: np.ndarray) -> np.ndarray:
        """∇S(x) at rows of points, shape (n, n_dim)."""
        raise TypeError(f"{type(self).__name__} must define score()")

    def sample(self, n_samples: int, seed: int) -> np.ndarray:
        """Draw from p, shape (n_samples, n_dim)."""
        raise InputError("this model must be able to sample itself for that, it is known by its density alone; give samples=.")

    def couplings(self, x: np.ndarray, order: int, directions: np.ndarray | None = None) -> Couplings:
        """A^(0) … A^(order) at a point, or along directions (n_dim, r)."""
        raise TypeError(f"{type(self).__name__} must define couplings()")

    def couplings_at(self, points: np.ndarray, order: int) -> list[Couplings]:
        """The same at each row of points."""
        return [self.couplings(x, order) for x in points]

    def centre(self) -> np.ndarray:
        """A point with nothing special about it but that it is in the middle: where a search for the mode may begin."""
        return self.sample(10_000, seed=0).mean(axis=0)

    def point(self, at, name: str = "at") -> np.ndarray:
        """A base point given in the columns of the samples, in those that vary."""
        return self.columns.drop(as_vector(at, self.columns.constants.size, name))


class FlowModel(Model):
    """A flow of this package: node by node up to order 4, as a series beyond if it is a polynomial, else along lines.

    Attributes
    ----------
    flow : Flow
    tape : Tape
        ln p as nodes.
    """

    def __init__(self, flow: Flow):
        self.flow, self.columns, self.device, self.score_function = flow, flow.columns, flow.device, score_of(flow._log_prob)
        self.tape: Tape = tape_of(flow.layers, self.n_dim)
        self.degree = self.tape.degree()

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Of the flow."""
        return self.flow.log_prob(self.columns.restore(x))

    def score(self, x: np.ndarray) -> np.ndarray:
        """Of the flow."""
        return self.flow.score(self.columns.restore(x))

    def sample(self, n_samples: int, seed: int) -> np.ndarray:
        """Of the flow."""
        return self.columns.drop(self.flow.sample(n_samples, seed=seed))

    def couplings(self, x: np.ndarray, order: int, directions: np.ndarray | None = None) -> Couplings:
        """See the class."""
        if order <= 4:
            return assemble(self.tape, x, order, directions)
        if self.degree < inf:
            return self._pulled_back(x, order, directions)
        return batched_couplings(self.flow._log_prob, self.score_function, x[None], order, directions, self.device)[0]

    def centre(self) -> np.ndarray:
        """The image of z = 0, the mode itself where all Jacobians are constant."""
        return self.flow.to_data(np.zeros(self.n_dim))[0]

    def images(self, x: np.ndarray) -> Iterator[np.ndarray]:
        """Rows of points as they arrive at each layer."""
        y = torch.as_tensor(x, device=self.flow.device)
        for layer in self.flow.layers:
            yield y.cpu().numpy()
            with torch.no_grad():
                y, _ = layer.to_latent(y)

    def _pulled_back(self, x: np.ndarray, order: int, directions: np.ndarray | None) -> Couplings:
        """From the latent Gaussian layer by layer, each around the image of x: exact to the order (`fieldtheory.series`)."""
        steps, constant = [], 0.0
        for layer in self.flow.layers:
            x, step, log_det = expand(layer, x, order)
            steps.append(step)
            constant += log_det[0].packed[0]
        couplings = latent_gaussian(x, constant)
        for step in reversed(steps if directions is None else [{1: directions}, *steps]):
            couplings = series.compose(couplings, step, order)
        return couplings


class GaussianModel(Model):
    """A diffusion model whose samples are Gaussian: its action is known."""

    def __init__(self, ddpm: DDPM, t: int | None = None, coordinates: str = "data"):
        self.ddpm, self.columns, self.action = ddpm, ddpm.columns, ddpm.action(t=t, coordinates=coordinates)
        self.degree = self.action.order
        slope, curvature = self.action.score(self.action.at), self.action.hessian(self.action.at)
        self.score_function = _linear(slope, curvature, self.action.at)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Of the action, which holds the constant."""
        return self.action(x)

    def score(self, x: np.ndarray) -> np.ndarray:
        """Of the action."""
        return self.action.score(x)

    def sample(self, n_samples: int, seed: int) -> np.ndarray:
        """Of the diffusion model."""
        return self.columns.drop(self.ddpm.sample(n_samples, seed=seed))

    def couplings(self, x: np.ndarray, order: int, directions: np.ndarray | None = None) -> Couplings:
        """The action recentred."""
        found = {k: T for k, T in self.action.recenter(x).couplings.items() if k <= order}
        return found if directions is None else {k: T.transform(directions) for k, T in found.items()}

    def centre(self) -> np.ndarray:
        """The mean."""
        return self.action.at


class TorchModel(Model):
    """Whatever torch can differentiate: ln p, or its score, as functions of rows of points in float64."""

    def __init__(self, columns: Columns, log_prob: Function | None, score: Function | None = None,
                 draw: Callable[[int, int], np.ndarray] | None = None, kinks: tuple[str, ...] = (), device=None):
        self.columns, self._log_prob, self._draw, self.kinks, self.device = columns, log_prob, draw, kinks, device
        self.score_function = score_of(log_prob) if score is None else score
        self.samples_itself, self.has_log_prob = draw is not None, log_prob is not None

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """In batches, without gradients."""
        if self._log_prob is None:
            raise InputError("log_prob must be given for that, this model is known by its score alone.")
        with torch.no_grad():
            return self._in_batches(self._log_prob, x)

    def score(self, x: np.ndarray) -> np.ndarray:
        """In batches."""
        return self._in_batches(self.score_function, x)

    def sample(self, n_samples: int, seed: int) -> np.ndarray:
        """Of the model, if it can."""
        return super().sample(n_samples, seed) if self._draw is None else self._draw(n_samples, seed)

    def couplings(self, x: np.ndarray, order: int, directions: np.ndarray | None = None) -> Couplings:
        """Along lines."""
        return batched_couplings(self._log_prob, self.score_function, x[None], order, directions, self.device)[0]

    def couplings_at(self, points: np.ndarray, order: int) -> list[Couplings]:
        """All points in common batches."""
        return batched_couplings(self._log_prob, self.score_function, points, order, device=self.device)

    def centre(self) -> np.ndarray:
        """The mean of samples."""
        if not self.samples_itself:
            raise InputError("a base point must be given with at= for a model that cannot sample itself.")
        return super().centre()

    def _in_batches(self, function: Callable, x: np.ndarray) -> np.ndarray:
        parts = torch.as_tensor(x, device=self.device).split(4096)
        return np.concatenate([function(part).detach().cpu().numpy() for part in parts])


@singledispatch
def as_model(learner, n_dim: int | None = None, **options) -> Model:
    """The model of a learner, of a torch module with log_prob, or of a function that is ln p; n_dim where the model cannot tell."""
    raise InputError("a model must be a learner, a torch module with log_prob, or be given as log_prob= or score=, got "
                     f"{type(learner).__name__}.")


@as_model.register
def _(learner: Flow, n_dim: int | None = None) -> Model:
    """Node by node if all its parts are written down as nodes."""
    try:
        return FlowModel(learner)
    except InputError:
        return learner_model(learner)


@as_model.register
def _(learner: DDPM, n_dim: int | None = None, t: int | None = None, coordinates: str = "data") -> Model:
    return GaussianModel(learner, t, coordinates)


@as_model.register
def learner_model(learner: Learner, n_dim: int | None = None) -> TorchModel:
    """A learner known by its ln p alone."""
    def draw(n_samples: int, seed: int) -> np.ndarray:
        return learner.columns.drop(learner.sample(n_samples, seed=seed))

    return TorchModel(learner.columns, learner._log_prob, draw=draw, kinks=kinks(learner), device=learner.device)


@as_model.register
def _(learner: Model, n_dim: int | None = None) -> Model:
    return learner


def _linear(slope: np.ndarray, curvature: np.ndarray, at: np.ndarray) -> Function:
    """The score of a Gaussian action."""
    slope, curvature, at = (torch.as_tensor(part) for part in (slope, curvature, at.copy()))
    return lambda x: slope + (x - at) @ curvature


def latent_gaussian(z: np.ndarray, log_det: float = 0.0) -> Couplings:
    """ln N(z + u; 0, 1) + log_det, by order in u."""
    constant = -0.5 * z @ z - 0.5 * z.size * np.log(2 * np.pi) + log_det
    action = Action({0: constant, 1: -z, 2: -0.5 * np.eye(z.size)})
    return action.couplings
