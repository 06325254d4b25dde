"""The best polynomial action of an order in the mean over samples: a fit of the score of a model (`fieldtheory.projection`).

It asks for no derivatives but the score, so that kinks do not matter, and it is an average, so that no base point does. It is tied to the
samples: those of the model itself unless others are given. A score that comes from a network, and not from ln p, need not be the
gradient of anything; the *curl fraction* E|Jv − Jᵀv|²/E|Jv|² over random directions v, J the derivative of the score, is 0 where it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fieldtheory import Action
from fieldtheory.arrays import as_count, as_points, as_samples
from fieldtheory.projection import project as project_scores

from .model import Model, TorchModel, as_model

_CURL_POINTS = 200


@dataclass(frozen=True)
class ModelProjection:
    """A polynomial action and what it leaves out of its model.

    Attributes
    ----------
    action : Action
        Gauge ``projection``, with standard errors.
    residual : float
        E|∇S_K − s|²/E|s|² over the samples, in the metric of their covariance.
    curl_fraction : float
        0 for a model known by ln p.
    n_samples : int
    """

    action: Action
    residual: float
    curl_fraction: float
    n_samples: int


def project(learner, order: int, at=None, samples=None, n_samples: int = 20_000, seed: int = 0) -> ModelProjection:
    """Project the score of a model on the polynomial actions of an order.

    Parameters
    ----------
    learner : Learner, torch module with log_prob, or Model
    order : int
        K.
    at : array_like, shape (n_dim,), optional
        Base point of the couplings; by default the mean of the samples.
    samples : array_like, shape (n_samples, n_dim), optional
        By default the model's own.
    n_samples, seed : int
        Of the model's own samples.

    Raises
    ------
    InputError
        No samples where the model cannot draw them, or too few.
    """
    model = as_model(learner, None if samples is None else np.shape(samples)[-1])
    if samples is None:
        x = model.sample(as_count(n_samples, "n_samples", minimum=2), seed=as_count(seed, "seed", minimum=0))
    else:
        x = model.columns.drop(as_points(as_samples(samples), model.columns.constants.size, "samples"))
    found = project_scores(x, model.score(x), as_count(order, "order"), model.log_prob(x) if model.has_log_prob else None,
                           None if at is None else model.point(at))
    action = Action(found.action.couplings, found.action.at, "projection", names=model.columns.names,
                    standard_error=found.action.standard_error)
    return ModelProjection(action, found.residual, curl_fraction(model, x[:_CURL_POINTS]), len(x))


def curl_fraction(model: Model, x: np.ndarray) -> float:
    """E|Jv − Jᵀv|²/E|Jv|² over rows of points and random v; 0 without computing where the score is a gradient by construction."""
    if not isinstance(model, TorchModel) or model.has_log_prob:
        return 0.0
    points = torch.as_tensor(x, device=model.device)
    v = torch.as_tensor(np.random.default_rng(0).normal(size=x.shape), device=model.device)
    pushed = torch.func.jvp(model.score_function, (points,), (v,))[1]
    pulled = torch.func.vjp(model.score_function, points)[1](v)[0]
    return float((pushed - pulled).square().sum() / pushed.square().sum())
