"""From a fitted learner to its action.

A flow maps data to latent, z = f_L ∘ … ∘ f_1(x) with z ~ N(0, 1), hence

    S(x) = ln p(x) = −½|z(x)|² − (n_dim/2) ln 2π + Σ_l ln|det f_l'|.

Around a base point x_0 with images x_l = f_l(x_{l−1}), each layer acts on displacements, g_l(u) = f_l(x_{l−1} + u) − x_l, and
g_l(0) = 0. The couplings are pulled back from the latent Gaussian layer by layer, cut at the order asked for: exact to that order,
biases included (`fieldtheory.series`). Cutting in absolute coordinates instead is wrong in every order.

A volume-preserving flow has its mode where z = 0, so x_0 = f^{-1}(0) is the default base point.

`certify` says what the cut lost, on samples the learner has not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import numpy as np

from fieldtheory import Action, SymmetricTensor, series
from fieldtheory.arrays import as_count, as_covariance, as_points, as_samples, as_vector
from fieldtheory.errors import InputError
from fieldtheory.normalizability import Normalizability, normalizability

from .diffusion import DDPM
from .flows import LinearLayer, QuadraticCouplingLayer, QuadraticFlow
from .learner import Learner

_METHODS = ("auto", "exact", "taylor", "normal_ordered")


def to_action(learner: Learner, order: int = 4, at=None, method: str = "auto", **options) -> Action:
    """The action of a fitted learner, in the coordinates of the data.

    Parameters
    ----------
    learner : Learner
        A `QuadraticFlow` or a `DDPM` with a linear denoiser.
    order : int
        Highest order of the couplings, K.
    at : array_like, shape (n_dim,), optional
        Base point; by default the mode of the density. For ``normal_ordered`` the mean of q, required.
    method : {"auto", "exact", "taylor", "normal_ordered"}
        Both learners have polynomial actions whose couplings are exact at every order. A flow of L layers has order 2^(L+1): cut
        below, its gauge is ``taylor``, and ``exact`` refuses the cut. ``normal_ordered`` averages the exact Taylor couplings over
        base points x ~ q = N(at, covariance): E_q[∇^k S]/k!, free of the choice of one point; ``auto`` never means it.
    **options
        For a `DDPM`: ``t`` (None for what the sampler produces, or a step for the score action) and ``coordinates``
        ("data" or "noised"). For ``normal_ordered``: ``covariance`` of q (n_varying, n_varying), ``n_points`` and ``seed``.

    Returns
    -------
    Action
        In the variables that vary; its `names` say which columns those are.

    Raises
    ------
    InputError
        Unknown learner or method, order < 1, base point of the wrong shape.
    """
    order = as_count(order, "order")
    if method not in _METHODS:
        raise InputError(f"method must be one of {', '.join(_METHODS)}, got {method!r}.")
    if method == "normal_ordered":
        return normal_ordered(learner, order, at, **options)[0]
    action = _convert(learner, order, at, **options)
    if method == "exact" and action.gauge != "exact":
        raise InputError(f"the action of this learner has order {_degree(learner)}; it is exact only in full, got order={order}. "
                         "Ask for method='taylor'.")
    return action


def normal_ordered(learner: Learner, order: int, mean, covariance, n_points: int = 256,
                   seed: int = 0) -> tuple[Action, dict[int, SymmetricTensor]]:
    """Couplings E_q[∇^k S]/k! over q = N(mean, covariance), by averaging exact Taylor couplings over base points.

    Points come in pairs mean ± δ, so that what is odd around the mean averages out.

    Parameters
    ----------
    learner : Learner
    order : int
    mean : array_like, shape (n_dim,)
        In the columns of the samples.
    covariance : array_like, shape (n_varying, n_varying)
        In the columns that vary.
    n_points : int
        Pairs of points.
    seed : int

    Returns
    -------
    action : Action
    error : dict of int to SymmetricTensor
        Monte-Carlo standard error of its entries.
    """
    centre, n_points = _base_point(learner, mean), as_count(n_points, "n_points", minimum=2)
    root = np.linalg.cholesky(as_covariance(covariance))
    if len(root) != centre.size:
        raise InputError(f"covariance must be that of the {centre.size} columns that vary, got shape {root.shape}.")
    shifts = np.random.default_rng(seed).normal(size=(n_points, centre.size)) @ root.T
    pairs = [[_convert(learner, order, learner.columns.restore(centre + sign * d)).couplings for sign in (1, -1)] for d in shifts]
    couplings, error = {}, {}
    for k in range(order + 1):
        values = np.array([0.5 * (plus[k].packed + minus[k].packed) for plus, minus in pairs])
        couplings[k] = SymmetricTensor.from_packed(values.mean(axis=0), centre.size, k)
        error[k] = SymmetricTensor.from_packed(values.std(axis=0, ddof=1) / np.sqrt(n_points), centre.size, k)
    return Action(couplings, centre, "normal_ordered", covariance, learner.names), error


@singledispatch
def _convert(learner, order: int, at, **options) -> Action:
    raise InputError(f"to_action must be given a QuadraticFlow or a DDPM, got {type(learner).__name__}.")


@_convert.register
def _(learner: DDPM, order: int, at, t: int | None = None, coordinates: str = "data") -> Action:
    action = learner.action(t=t, coordinates=coordinates)
    return (action if at is None else action.recenter(_base_point(learner, at))).truncate(order)


@_convert.register
def _(learner: QuadraticFlow, order: int, at) -> Action:
    x = _mode(learner) if at is None else _base_point(learner, at)
    steps, log_det, base = [], 0.0, x
    for layer in learner.layers:
        x, step, change = _expand(layer, x)
        steps.append(step)
        log_det += change
    couplings = _latent_couplings(x, log_det)
    for step in reversed(steps):
        couplings = series.compose(couplings, step, order)
    gauge = "exact" if order >= _degree(learner) else "taylor"
    return Action(couplings, base, gauge, names=learner.names)


@singledispatch
def _expand(layer, x: np.ndarray) -> tuple[np.ndarray, dict[int, np.ndarray], float]:
    """Image of x, Taylor series of the displacement around it, and ln|det| of a volume-changing constant."""
    raise InputError(f"a layer of type {type(layer).__name__} has no expansion.")


@_expand.register
def _(layer: LinearLayer, x: np.ndarray):
    W, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    return W @ x + b, {1: W}, np.linalg.slogdet(W)[1]


@_expand.register
def _(layer: QuadraticCouplingLayer, x: np.ndarray):
    chi = np.zeros((x.size,) * 3)
    chi[np.ix_(layer.written, layer.read, layer.read)] = layer.chi_dense()
    return x + chi @ x @ x, {1: np.eye(x.size) + 2 * chi @ x, 2: chi}, 0.0


def _latent_couplings(z: np.ndarray, log_det: float) -> dict[int, SymmetricTensor]:
    """ln N(z + u; 0, 1) + log_det, by order in u."""
    constant = -0.5 * z @ z - 0.5 * z.size * np.log(2 * np.pi) + log_det
    return {0: SymmetricTensor.from_packed([constant], z.size, 0), 1: SymmetricTensor.from_dense(-z),
            2: SymmetricTensor.from_dense(-0.5 * np.eye(z.size))}


def _degree(learner: Learner) -> int:
    """2^(L+1): each quadratic layer doubles the degree of the latent square; a linear diffusion has none."""
    return 2 ** (1 + sum(isinstance(layer, QuadraticCouplingLayer) for layer in learner.modules()))


def _mode(flow: QuadraticFlow) -> np.ndarray:
    return flow.to_data(np.zeros(flow.columns.kept.size))[0]


def _base_point(learner: Learner, at) -> np.ndarray:
    return learner.columns.drop(as_vector(at, learner.n_dim, "at"))


@dataclass(frozen=True)
class Certificate:
    """What an action leaves out of its learner, on samples the learner has not seen.

    Attributes
    ----------
    orders : tuple of int
        The action was cut at each of these orders.
    residual : dict of int to (float, float)
        Root mean square of S_k(x) − ln p_θ(x) about its mean, in nats (total), with its standard error.
    explained : dict of int to float
        1 − Var[S_k − ln p_θ]/Var[ln p_θ].
    score_residual : dict of int to float
        E|∇S_k − ∇ln p_θ|²/E|∇ln p_θ|².
    variance_of_action : (float, float)
        Var[ln p_θ(x)] over the learner's own samples, with its standard error: n_dim/2 for every volume-preserving flow.
    normalizability : Normalizability
        Of the whole action.
    n_dim, n_samples : int
    """

    orders: tuple[int, ...]
    residual: dict[int, tuple[float, float]]
    explained: dict[int, float]
    score_residual: dict[int, float]
    variance_of_action: tuple[float, float]
    normalizability: Normalizability
    n_dim: int
    n_samples: int

    def table(self) -> str:
        """The numbers by order, for a terminal."""
        rows = [f"{'order':>5} {'rms residual of ln p':>24} {'variance explained':>19} {'score residual':>15}"]
        rows += [f"{k:>5} {self.residual[k][0]:>14.4g} ± {self.residual[k][1]:<7.2g} {self.explained[k]:>19.4f} "
                 f"{self.score_residual[k]:>15.4g}" for k in self.orders]
        value, error = self.variance_of_action
        rows.append(f"Var S = {value:.3f} ± {error:.3f} (n_dim/2 = {self.n_dim / 2:g}); {self.normalizability.reason}")
        return "\n".join(rows)


def certify(action: Action, learner: Learner, samples) -> Certificate:
    """What was lost between a learner and its action, on held-out samples.

    Parameters
    ----------
    action : Action
        From `to_action`.
    learner : Learner
        The one it came from.
    samples : array_like, shape (n_samples, n_dim)
        Not used in training.

    Returns
    -------
    Certificate
    """
    samples = as_points(as_samples(samples), learner.n_dim, "samples")
    x = learner.columns.drop(samples)
    log_p, score = learner.log_prob(samples), learner.score(samples)
    cuts = {k: action.truncate(k) for k in range(1, action.order + 1)}
    residuals = {k: cut(x) - log_p for k, cut in cuts.items()}
    own = learner.log_prob(learner.sample(max(len(samples), 10_000)))
    return Certificate(
        orders=tuple(cuts),
        residual={k: _root_with_error(r) for k, r in residuals.items()},
        explained={k: float(1 - r.var() / log_p.var()) for k, r in residuals.items()},
        score_residual={k: float(np.sum((cut.score(x) - score) ** 2) / np.sum(score**2)) for k, cut in cuts.items()},
        variance_of_action=_variance_with_error(own),
        normalizability=normalizability(action),
        n_dim=action.n_dim,
        n_samples=len(samples),
    )


def _variance_with_error(values: np.ndarray) -> tuple[float, float]:
    squares = (values - values.mean()) ** 2
    return float(squares.mean()), float(squares.std() / np.sqrt(values.size))


def _root_with_error(values: np.ndarray) -> tuple[float, float]:
    variance, error = _variance_with_error(values)
    root = np.sqrt(variance)
    return float(root), float(error / (2 * root)) if root > 0 else 0.0
