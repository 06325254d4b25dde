"""What lies between a model and its action, on samples that the model has not seen.

For each order k at which the action may be cut: the residual of ln p about its mean, E[(S_k − ln p)²]^{1/2}, since a constant means
nothing; the share of the variance of ln p explained; and the residual of the score, E|∇S_k − ∇ln p|²/E|∇ln p|². Where the model samples
itself, Var[ln p] over its own samples (n_dim/2 for every volume-preserving flow) and ∫p: over samples of p, E[q/p] = ∫q = 1 for any
Gaussian q inside p, and 1/Z if what is called p is Z times a density.

An action extracted at a point and one fitted over samples agree where the model is a polynomial there; the certificate holds the
comparison of the action with the projection on the samples, or of a projection with Taylor couplings.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np

from fieldtheory import Action, Comparison, compare
from fieldtheory.arrays import as_points, as_samples
from fieldtheory.errors import InputError, RegimeWarning
from fieldtheory.normalizability import Normalizability, normalizability

from .model import Model, as_model
from .projection import project
from .taylor import taylor

_OWN_SAMPLES = 10_000
_AGREE = 0.9  # cosine above which couplings of two gauges are called the same
_EFFECTIVE = 1000.0  # samples that the integral must rest on


@dataclass(frozen=True)
class Certificate:
    """What an action leaves out of its model, on held-out samples.

    Attributes
    ----------
    gauge : str
        Of the action.
    orders : tuple of int
        It was cut at each of these orders.
    residual : dict of int to (float, float)
        Root mean square of S_k(x) − ln p_θ(x) about its mean, in nats (total), with its standard error.
    explained : dict of int to float
        1 − Var[S_k − ln p_θ]/Var[ln p_θ].
    score_residual : dict of int to float
        E|∇S_k − ∇ln p_θ|²/E|∇ln p_θ|².
    variance_of_action : (float, float) or None
        Var[ln p_θ(x)] over the model's own samples, with its standard error; None if it cannot sample itself.
    log_integral : (float, float) or None
        ln ∫ p_θ with its standard error, 0 for a density; None if the model cannot sample itself, or too few samples tell.
    normalizability : Normalizability
        Of the whole action.
    other : Comparison or None
        Of the action with the projection on the samples, or of a projection with Taylor couplings; None where the samples are too
        few or the model has kinks.
    n_dim, n_samples : int
    """

    gauge: str
    orders: tuple[int, ...]
    residual: dict[int, tuple[float, float]]
    explained: dict[int, float]
    score_residual: dict[int, float]
    variance_of_action: tuple[float, float] | None
    log_integral: tuple[float, float] | None
    normalizability: Normalizability
    other: Comparison | None = field(repr=False)
    n_dim: int
    n_samples: int

    @property
    def disagreement(self) -> tuple[int, ...]:
        """Orders whose couplings depend on how they were extracted: their cosine with the other way is below 0.9."""
        return () if self.other is None else tuple(k for k, cosine in self.other.cosine.items() if k > 1 and cosine < _AGREE)

    def table(self) -> str:
        """The numbers by order, for a terminal."""
        rows = [f"{'order':>5} {'rms residual of ln p':>24} {'variance explained':>19} {'score residual':>15}"]
        rows += [f"{k:>5} {self.residual[k][0]:>14.4g} ± {self.residual[k][1]:<7.2g} {self.explained[k]:>19.4f} "
                 f"{self.score_residual[k]:>15.4g}" for k in self.orders]
        return "\n".join([*rows, *self._comparison(), self._words()])

    def _comparison(self) -> list[str]:
        """One row, if there is another action to compare with."""
        if self.other is None:
            return []
        other = "Taylor" if self.gauge == "projection" else "projection"
        pairs = ", ".join(f"{cosine:.3f} at order {k}" for k, cosine in self.other.cosine.items() if k > 1 and np.isfinite(cosine))
        advice = "" if not self.disagreement else ("; they disagree at order " + ", ".join(map(str, self.disagreement))
                                                   + ", where the couplings depend on how they were asked for: compare networks by "
                                                     "normal_ordered over half the covariance (share=0.5), or by projection")
        return [f"Cosine with the {other} couplings: {pairs}{advice}."] if pairs else []

    def _words(self) -> str:
        if self.variance_of_action is None:
            return self.normalizability.reason
        value, error = self.variance_of_action
        return f"Var S = {value:.3f} ± {error:.3f} (n_dim/2 = {self.n_dim / 2:g}); {self.normalizability.reason}"


def certify(action: Action, learner, samples) -> Certificate:
    """What was lost between a model and its action, on held-out samples.

    Parameters
    ----------
    action : Action
        From `to_action`.
    learner : Learner, torch module with log_prob, or function log_prob
        The one it came from.
    samples : array_like, shape (n_samples, n_dim)
        Not used in training.

    Returns
    -------
    Certificate

    Warns
    -----
    RegimeWarning
        The model is not normalized.
    """
    model = as_model(learner, action.n_dim)
    x = model.columns.drop(as_points(as_samples(samples), model.columns.constants.size, "samples"))
    if action.n_dim != model.n_dim:
        raise InputError(f"action must be one of the {model.n_dim} varying columns of the model, got n_dim {action.n_dim}.")
    log_p, score = model.log_prob(x), model.score(x)
    cuts = {k: action.truncate(k) for k in range(1, action.order + 1)}
    residuals = {k: cut(x) - log_p for k, cut in cuts.items()}
    own = model.sample(max(len(x), _OWN_SAMPLES), seed=0) if model.samples_itself else None
    return Certificate(
        gauge=action.gauge,
        orders=tuple(cuts),
        residual={k: _root_with_error(r) for k, r in residuals.items()},
        explained={k: float(1 - r.var() / log_p.var()) for k, r in residuals.items()},
        score_residual={k: float(np.sum((cut.score(x) - score) ** 2) / np.sum(score**2)) for k, cut in cuts.items()},
        variance_of_action=None if own is None else _variance_with_error(model.log_prob(own)),
        log_integral=None if own is None else _log_integral(model, own),
        normalizability=normalizability(action),
        other=_the_other_way(action, model, x),
        n_dim=action.n_dim,
        n_samples=len(x),
    )


def _the_other_way(action: Action, model: Model, x: np.ndarray) -> Comparison | None:
    """Projection against Taylor, legs contracted with the covariance of the samples; None where one of them cannot be had."""
    try:
        if action.gauge != "projection":
            fitted = project(model, action.order, samples=model.columns.restore(x)).action
            return compare(action, Action(fitted.couplings, fitted.at), samples=x)
        return compare(Action(action.couplings, action.at), taylor(model, action.order, model.columns.restore(action.at)), samples=x)
    except InputError:
        return None


def _log_integral(model: Model, own: np.ndarray) -> tuple[float, float] | None:
    """ln ∫p from E[q/p] over samples of p, q the Gaussian of half their covariance; None where few of them make up the mean."""
    mean, covariance = own.mean(axis=0), 0.5 * np.atleast_2d(np.cov(own, rowvar=False))
    L = np.linalg.cholesky(covariance)
    w = np.linalg.solve(L, (own - mean).T)
    log_q = -0.5 * np.sum(w**2, axis=0) - np.log(np.diag(L)).sum() - 0.5 * len(L) * np.log(2 * np.pi)
    log_ratio = log_q - model.log_prob(own)
    weight = np.exp(log_ratio - log_ratio.max())
    if weight.sum() ** 2 < _EFFECTIVE * np.sum(weight**2):
        return None
    value, error = -log_ratio.max() - np.log(weight.mean()), weight.std() / weight.mean() / np.sqrt(weight.size)
    if abs(value) > 5 * error + 1e-3:
        warnings.warn(f"the model should be normalized, over its own samples the integral of exp(log_prob) is {np.exp(value):.4g}, that is "
                      f"exp({value:.3f} ± {error:.3f}): A^(0) and likelihoods are off by that logarithm, the other couplings are not.",
                      RegimeWarning, stacklevel=4)
    return float(value), float(error)


def _variance_with_error(values: np.ndarray) -> tuple[float, float]:
    squares = (values - values.mean()) ** 2
    return float(squares.mean()), float(squares.std() / np.sqrt(values.size))


def _root_with_error(values: np.ndarray) -> tuple[float, float]:
    variance, error = _variance_with_error(values)
    root = np.sqrt(variance)
    return float(root), float(error / (2 * root)) if root > 0 else 0.0
