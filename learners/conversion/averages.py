"""Couplings averaged over a Gaussian q = N(mean, Σ) instead of taken at a point: A^(k) = E_q[∇^k S]/k!.

Taylor couplings of a strongly nonlinear network change with the base point; their average over base points x ~ q does not depend on one,
cuts nothing, and is what two networks are best compared by. Where S is smooth, exact Taylor couplings are averaged; where it has
kinks, Stein's identity E_q[∇^k S] = E_q[S·He_k] needs values of S alone (`fieldtheory.projection.stein`). Both come with their Monte-Carlo
errors.

q is to be that of the data. Deep quadratic flows explode in the tails of it, where a few points then make the average: a warning says
so, and a q with a share of the covariance, or the projection on samples, is to be preferred.
"""

from __future__ import annotations

import warnings

import numpy as np

from fieldtheory import Action, SymmetricTensor
from fieldtheory.arrays import as_count, as_covariance, as_number, as_points, as_samples
from fieldtheory.errors import InputError, RegimeWarning
from fieldtheory.projection import stein

from .model import Model, as_model

_PAIRS, _VALUES = 256, 100_000
_LARGEST_SHARE, _MANY = 0.25, 100  # of the spread, from so many pairs on


def normal_ordered(learner, order: int, mean=None, covariance=None, n_points: int | None = None, seed: int = 0, samples=None,
                   share: float = 1.0) -> tuple[Action, dict[int, SymmetricTensor]]:
    """Couplings E_q[∇^k S]/k! over q = N(mean, share · covariance).

    Points come in pairs mean ± δ, so that what is odd around the mean averages out.

    Parameters
    ----------
    learner : Learner, torch module with log_prob, or Model
    order : int
    mean : array_like, shape (n_dim,), optional
        In the columns of the samples.
    covariance : array_like, shape (n_varying, n_varying), optional
        In the columns that vary.
    n_points : int, optional
        Pairs of base points, 256 by default; or, for a model with kinks, values of S, by default 100,000.
    seed : int
    samples : array_like, shape (n_samples, n_dim), optional
        Those whose mean and covariance q has where these are not given; by default the model's own.
    share : float
        q narrower (or wider) than the data: ½ for flows that explode in the tails.

    Returns
    -------
    action : Action
        It carries the errors as well.
    error : dict of int to SymmetricTensor
        Monte-Carlo standard error of its entries.

    Raises
    ------
    InputError
        q is not given where the model cannot sample itself, or has the wrong size.

    Warns
    -----
    RegimeWarning
        A few points make up the average.
    """
    model = as_model(learner, None if mean is None else np.size(mean))
    centre, covariance = _gaussian(model, mean, covariance, samples)
    share = as_number(share, "share")
    if share <= 0:
        raise InputError(f"share must be positive, got {share:g}.")
    if model.kinks:
        n_points = _VALUES if n_points is None else as_count(n_points, "n_points", minimum=2)
        action = stein(model.log_prob, centre, share * covariance, order, n_points, seed)
        action = Action(action.couplings, action.at, action.gauge, action.covariance, model.columns.names, action.standard_error)
    else:
        n_points = _PAIRS if n_points is None else as_count(n_points, "n_points", minimum=2)
        action = _averaged(model, order, centre, share * covariance, n_points, seed)
    return action, action.standard_error


def _gaussian(model: Model, mean, covariance, samples) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of q in the columns that vary."""
    x = None
    if mean is None or covariance is None:
        x = model.sample(10_000, seed=0) if samples is None else as_samples(samples)
        x = x if samples is None else model.columns.drop(as_points(x, model.columns.constants.size, "samples"))
    centre = x.mean(axis=0) if mean is None else model.point(mean)
    covariance = as_covariance(np.atleast_2d(np.cov(x, rowvar=False)) if covariance is None else covariance)
    if len(covariance) != model.n_dim:
        raise InputError(f"covariance must be that of the {model.n_dim} columns that vary, got shape {covariance.shape}.")
    return centre, covariance


def _averaged(model: Model, order: int, centre: np.ndarray, covariance: np.ndarray, n_pairs: int, seed: int) -> Action:
    shifts = np.random.default_rng(seed).normal(size=(n_pairs, model.n_dim)) @ np.linalg.cholesky(covariance).T
    there, back = (model.couplings_at(centre + sign * shifts, order) for sign in (1, -1))
    couplings, error, shares = {}, {}, {}
    for k in there[0]:
        values = np.array([0.5 * (plus[k].packed + minus[k].packed) for plus, minus in zip(there, back)])
        couplings[k] = SymmetricTensor.from_packed(values.mean(axis=0), model.n_dim, k)
        error[k] = SymmetricTensor.from_packed(values.std(axis=0, ddof=1) / np.sqrt(n_pairs), model.n_dim, k)
        shares[k] = _largest_share(values)
    _warn_of_tails(shares, n_pairs)
    return Action(couplings, centre, "normal_ordered", covariance, model.columns.names, error)


def _largest_share(values: np.ndarray) -> float:
    """Of the squared spread of couplings, what one pair makes up; 0 where there is none beyond rounding."""
    spread = np.sum((values - values.mean(axis=0)) ** 2, axis=1)
    return float(spread.max() / spread.sum()) if spread.sum() > 1e-18 * np.sum(values**2) else 0.0


def _warn_of_tails(shares: dict[int, float], n_pairs: int) -> None:
    k = max((k for k in shares if k > 0), key=shares.get)
    if n_pairs >= _MANY and shares[k] > _LARGEST_SHARE:
        warnings.warn(f"averages over q should rest on many points, one of {n_pairs} pairs makes up {shares[k]:.0%} of the spread of "
                      f"couplings of order {k}: the model explodes in the tails of q. Give share=0.5 for a q with half the covariance, "
                      "or project on samples.", RegimeWarning, stacklevel=4)
