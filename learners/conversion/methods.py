"""From a fitted model to its action, by one of four methods.

* ``exact`` — all of a polynomial action: quadratic flows without tails, Gaussian diffusion models.
* ``taylor`` — all derivatives of ln p at a point.
* ``normal_ordered`` — their average over a Gaussian q.
* ``projection`` — the best polynomial over samples.

The first two need derivatives, the others do not mind kinks. No single one is always right: compute two, and see where they disagree
(`learners.certify`).
"""

from __future__ import annotations

import numpy as np

from fieldtheory import Action
from fieldtheory.arrays import as_count
from fieldtheory.errors import InputError

from .averages import normal_ordered
from .foreign import score_model
from .model import Model, as_model
from .projection import project
from .taylor import exact, taylor

_METHODS = ("auto", "exact", "taylor", "normal_ordered", "projection")


def to_action(learner=None, order: int = 4, at=None, method: str = "auto", *, log_prob=None, score=None, n_dim: int | None = None,
              **options) -> Action:
    """The action of a model, in the coordinates of the data.

    Parameters
    ----------
    learner : Learner or torch Module
        A flow, a `DDPM` with a linear denoiser, or any torch module with ``log_prob`` made elsewhere (zuko, normflows, nflows, FrEIA).
    order : int
        Highest order of the couplings, K.
    at : array_like, shape (n_dim,), optional
        Base point; by default the mode of the density, or the mean of the samples of a projection. For ``normal_ordered`` the mean
        of q.
    method : {"auto", "exact", "taylor", "normal_ordered", "projection"}
        ``auto`` is ``exact`` where the action is a polynomial of order ≤ K, else ``taylor`` where the model is smooth, else
        ``projection`` on its own samples; the result's gauge says which it was. ``exact`` refuses to cut.
    log_prob, score : callable, optional
        Instead of a learner: ln p of points, or ∇ ln p, float64 torch tensors in and out, rows of points or one point.
    n_dim : int, optional
        With log_prob or score, where `at` does not tell.
    **options
        For ``normal_ordered`` those of `normal_ordered`: ``covariance``, ``samples``, ``share``, ``n_points`` and ``seed``. For
        ``projection`` those of `project`: ``samples``, ``n_samples`` and ``seed``. For a `DDPM`: ``t`` (None for what the sampler
        produces, or a step for the score action) and ``coordinates`` ("data" or "noised").

    Returns
    -------
    Action
        In the variables that vary; its `names` say which columns those are, `gauge` and `at` what the couplings mean, and
        `standard_error` how well averages and fits are known.

    Raises
    ------
    InputError
        Unknown model or method, order < 1, base point of the wrong shape; Taylor couplings of a model with kinks.

    Warns
    -----
    RegimeWarning
        Derivatives of a model made elsewhere jump near the base point.
    """
    order = as_count(order, "order")
    if method not in _METHODS:
        raise InputError(f"method must be one of {', '.join(_METHODS)}, got {method!r}.")
    if n_dim is None and at is not None:
        n_dim = np.size(at)
    model = _model(learner, log_prob, score, n_dim, {name: options.pop(name) for name in ("t", "coordinates") if name in options})
    if method == "auto":
        method = "exact" if order >= model.degree else "projection" if model.kinks else "taylor"
    if method == "normal_ordered":
        return normal_ordered(model, order, at, **options)[0]
    if method == "projection":
        return project(model, order, at, **options).action
    return (exact if method == "exact" else taylor)(model, order, at, **options)


def _model(learner, log_prob, score, n_dim: int | None, options: dict) -> Model:
    given = [model for model in (learner, log_prob, score) if model is not None]
    if len(given) != 1:
        raise InputError(f"a model must be given as one of learner, log_prob= and score=, got {len(given)} of them.")
    return as_model(given[0], n_dim, **options) if score is None else score_model(score, n_dim)
