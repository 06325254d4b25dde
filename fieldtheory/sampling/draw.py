"""Independent samples, or chains with their diagnostics.

`sample` thins until the draws are worth at least nine tenths of their number, judged by the slowest of x_i, x_i² and the sum of all
variables (the magnetization, the slow mode of lattice theories). `sample_chains` returns everything with R̂ and effective sizes.
"""

from __future__ import annotations

import warnings

import numpy as np
from xarray import Dataset

from ..action import Action
from ..arrays import as_count
from ..errors import ConvergenceWarning
from ..normalizability import require_normalizable
from .diagnostics import effective_sample_size, split_rhat, thinned_correlation_time
from .hmc import HMC

_WORTH = 0.9  # effective share that `sample` promises
_AIM = 0.96  # aimed at from a short pilot, whose estimate scatters
_PILOT = 400
_LONGEST_INTERVAL = 128
_RHAT = 1.05
_DIVERGENT_SHARE = 1e-3


def sample(action: Action, n_samples: int, seed: int = 0, n_chains: int = 4) -> np.ndarray:
    """Samples of exp S, thinned until they are nearly independent.

    Parameters
    ----------
    action : Action
        Normalizable.
    n_samples : int
    seed : int
    n_chains : int
        Chains that run in lock step; 4 or more let R̂ see several modes.

    Returns
    -------
    ndarray, shape (n_samples, n_dim)
        In order of iteration, chains interleaved.

    Raises
    ------
    NotNormalizableError
        exp S cannot be integrated.
    InputError
        n_samples or n_chains below 1.

    Warns
    -----
    ConvergenceWarning
        The effective sample size stayed below 0.9 n_samples, chains disagree (R̂ > 1.05), or more than one trajectory in a
        thousand diverged.
    """
    n_samples, chains = as_count(n_samples, "n_samples"), _chains(action, n_chains, seed)
    n_draws = -(-n_samples // n_chains)
    pilot = observables(chains.run(_PILOT))
    interval = _interval(pilot)
    draws = chains.run(n_draws, interval)
    _warn_if_doubtful(draws if n_draws >= _PILOT else None, pilot, interval, n_samples, chains)
    return draws.transpose(1, 0, 2).reshape(-1, action.n_dim)[:n_samples]


def sample_chains(action: Action, n_draws: int, n_chains: int = 4, seed: int = 0) -> Dataset:
    """Chains with their diagnostics.

    Parameters
    ----------
    action : Action
        Normalizable.
    n_draws : int
        Iterations per chain after warm-up, at least 4, none left out.
    n_chains, seed : int

    Returns
    -------
    xarray.Dataset
        x (chain, draw, variable); r_hat and ess by variable; attributes acceptance, step_size, n_divergent, n_gradients,
        magnetization_ess, dense_mass, seed.

    Raises
    ------
    NotNormalizableError, InputError
        As `sample`.
    """
    n_draws, chains = as_count(n_draws, "n_draws", minimum=4), _chains(action, n_chains, seed)
    draws = chains.run(n_draws)
    names = list(action.names or (f"x{i}" for i in range(action.n_dim)))
    return Dataset(
        {"x": (("chain", "draw", "variable"), draws), "r_hat": ("variable", split_rhat(draws)),
         "ess": ("variable", effective_sample_size(draws))},
        coords={"chain": np.arange(n_chains), "draw": np.arange(n_draws), "variable": names},
        attrs={"acceptance": chains.acceptance, "step_size": chains.step_size, "n_divergent": chains.n_divergent,
               "n_gradients": chains.n_gradients, "dense_mass": int(chains.inverse_mass.shape[1] > 1), "seed": seed,
               "magnetization_ess": float(effective_sample_size(draws.sum(axis=2)))})


def observables(draws: np.ndarray) -> np.ndarray:
    """x_i, x_i² and Σ_i x_i of draws (n_chains, n_draws, n_dim), along the last axis."""
    return np.concatenate([draws, draws**2, draws.sum(axis=2, keepdims=True)], axis=2)


def _chains(action: Action, n_chains: int, seed: int) -> HMC:
    n_chains = as_count(n_chains, "n_chains")
    rng = np.random.default_rng(as_count(seed, "seed", minimum=0))
    require_normalizable(action)
    return HMC(action, n_chains, rng)


def _interval(pilot: np.ndarray) -> int:
    """The shortest thinning interval at which every observable is worth what is aimed at."""
    for interval in range(1, _LONGEST_INTERVAL + 1):
        if np.nanmax(thinned_correlation_time(pilot, interval)) <= 1 / _AIM:
            return interval
    return _LONGEST_INTERVAL


def _warn_if_doubtful(draws: np.ndarray | None, pilot: np.ndarray, interval: int, n_samples: int, chains: HMC) -> None:
    r_hat = np.nanmax(split_rhat(pilot if draws is None else observables(draws)))
    worth = 1 / np.nanmax(thinned_correlation_time(pilot, interval)) if draws is None else (
        np.nanmin(effective_sample_size(observables(draws))) / (draws.shape[0] * draws.shape[1]))
    if r_hat > _RHAT:
        warnings.warn(f"chains should agree, R-hat is {r_hat:.2f}: they sit in different modes or are too short. Use more chains "
                      "and look at sample_chains.", ConvergenceWarning, stacklevel=3)
    if worth < _WORTH:
        warnings.warn(f"samples should be independent, the effective sample size is about {worth * n_samples:.0f} of {n_samples}.",
                      ConvergenceWarning, stacklevel=3)
    if chains.n_divergent > _DIVERGENT_SHARE * chains.n_trajectories:
        warnings.warn(f"trajectories should conserve energy, {chains.n_divergent} of {chains.n_trajectories} diverged; the action is "
                      "steep somewhere.", ConvergenceWarning, stacklevel=3)
