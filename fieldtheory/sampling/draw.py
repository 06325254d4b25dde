"""Independent samples, or chains with their diagnostics.

`sample` thins until the draws are worth at least nine tenths of their number, judged by the slowest of x_i, x_i² and the sum of all
variables (the magnetization, the slow mode of lattice theories); `thinned_chains` returns the same draws with what was found out on
the way. `sample_chains` returns every draw with R̂ and effective sizes. Three methods move the chains:

* ``hmc`` — Hamiltonian trajectories in lock step: the fast one.
* ``nuts`` — the no-U-turn sampler, chain by chain: for length scales that change from place to place.
* ``tempering`` — replica exchange: for several modes.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from xarray import Dataset

from ..action import Action
from ..arrays import as_count
from ..errors import ConvergenceWarning, InputError
from ..normalizability import require_normalizable
from .diagnostics import bulk_ess, correlation_time, effective_sample_size, in_blocks, open_correlations, plain_rhat, split_rhat, tail_ess
from .hmc import HMC
from .nuts import NUTS
from .runs import Checkpoint, fingerprint, run
from .tempering import Tempering
from .walkers import Draws

_METHODS, _MASSES = {"hmc": HMC, "nuts": NUTS, "tempering": Tempering}, ("auto", "diagonal", "dense")
_WORTH = 0.9  # effective share that `sample` promises
_AIM = 0.96  # aimed at from a short pilot, whose estimate scatters
_PILOT, _LONGEST_PILOT = 100, 1600  # iterations
_POOLED = 25_600  # pilot draws, all chains
_TIMES = 20  # correlation times that a pilot should hold
_LONGEST_INTERVAL = 128
_RHAT = 1.05
_DIVERGENT_SHARE = 1e-3
_CHAINS = {"hmc": 128, "nuts": 4, "tempering": 16}  # of an automatic choice: what is fast from ten samples to a million
_LANE_NUMBERS, _PILOT_NUMBERS = 2**17, 2**25  # at most so many as positions, which stay in the cache, and as pilot draws
_LOOKED_AT = 512  # variables whose correlations are looked at, spread evenly


class Verdict(NamedTuple):
    """What a look at draws says.

    Attributes
    ----------
    interval : int
        Iterations between draws.
    worth : float
        Effective draws per draw, of the slowest observable.
    r_hat : float
        Largest R̂ of the observables.
    noise : float
        What `worth` may be off by.
    """

    interval: int
    worth: float
    r_hat: float
    noise: float


def sample(action: Action, n_samples: int, seed: int = 0, n_chains: int | None = None, *, method: str = "hmc", mass: str = "auto",
           hottest: float = 0.05, progress: bool = False, checkpoint=None) -> np.ndarray:
    """Samples of exp S, thinned until they are nearly independent.

    Parameters
    ----------
    action : Action
        Normalizable.
    n_samples : int
    seed : int
    n_chains : int, optional
        By default what is fast: 128 for ``hmc``, whose chains run in lock step, 16 for ``tempering``, 4 for ``nuts``; fewer where
        n_dim is large. 4 or more let R̂ see several modes.
    method : {"hmc", "nuts", "tempering"}
        How chains move, see the module.
    mass : {"auto", "diagonal", "dense"}
        Inverse mass: variances, the full covariance, or whichever is cheaper.
    hottest : float
        Inverse temperature of the hottest replica, between 0 and 1, ``tempering`` only: barriers times this should be about a
        nat.
    progress : bool
        Draw a bar on stderr.
    checkpoint : path-like, optional
        File that remembers the run while it is unfinished: the same call goes on from there and ends in the same draws.

    Returns
    -------
    ndarray, shape (n_samples, n_dim)
        In order of iteration, chains interleaved.

    Raises
    ------
    NotNormalizableError
        exp S cannot be integrated.
    InputError
        n_samples or n_chains below 1, an unknown method or mass, or a checkpoint of another request.
    FileFormatError
        The checkpoint is damaged.

    Warns
    -----
    ConvergenceWarning
        The effective sample size stayed below 0.9 n_samples, chains disagree (R̂ > 1.05), or more than one trajectory in a
        thousand diverged.
    """
    data = thinned_chains(action, n_samples, seed, n_chains, method=method, mass=mass, hottest=hottest, progress=progress,
                          checkpoint=checkpoint)
    return interleaved(data, n_samples)


def thinned_chains(action: Action, n_samples: int, seed: int = 0, n_chains: int | None = None, *, method: str = "hmc",
                   mass: str = "auto", hottest: float = 0.05, progress: bool = False, checkpoint=None) -> Dataset:
    """The chains behind `sample`, with the same parameters, errors and warnings.

    Returns
    -------
    xarray.Dataset
        x (chain, draw, variable); by chain and draw lp (S in nats), acceptance_rate, energy and diverging; attributes interval
        (iterations between draws), worth (effective draws per draw of the slowest observable) and what it may be off by (noise),
        r_hat (the largest), n_trajectories, method, acceptance, step_size, n_divergent, n_gradients, dense_mass, seed; for
        tempering also betas, swap_rates and n_round_trips.
    """
    n_samples, n_chains = as_count(n_samples, "n_samples"), _checked_chains(n_chains, action.n_dim, method)
    sampler, request = _prepared(action, n_chains, seed, method, mass, hottest)
    request |= {"thinned": True, "n_samples": n_samples}
    memory = Checkpoint(checkpoint, request)
    if memory.found is None:
        memory.extra = _pilot(sampler.warm_up(mass))._asdict()
    verdict = Verdict(**memory.extra)
    draws = run(sampler, -(-n_samples // n_chains), verdict.interval, memory, progress)
    if len(draws.value) >= _PILOT:
        verdict = _look(draws, verdict.interval)
    data = _dataset(action, sampler, draws, request)
    data.attrs |= verdict._asdict() | {"n_trajectories": draws.value.size * verdict.interval}
    for doubt in _doubts(data.attrs, n_samples):
        warnings.warn(doubt, ConvergenceWarning, stacklevel=3)
    return data


def interleaved(data: Dataset, n_samples: int) -> np.ndarray:
    """The first `n_samples` of thinned chains in order of iteration, shape (n_samples, n_dim)."""
    return data["x"].transpose("draw", "chain", "variable").values.reshape(-1, data.sizes["variable"])[:n_samples]


def sample_chains(action: Action, n_draws: int, n_chains: int = 4, seed: int = 0, *, method: str = "hmc", mass: str = "auto",
                  hottest: float = 0.05, progress: bool = False, checkpoint=None) -> Dataset:
    """Chains with their diagnostics.

    Parameters
    ----------
    action : Action
        Normalizable.
    n_draws : int
        Iterations per chain after warm-up, at least 4, none left out.
    n_chains, seed : int
        64 or more chains make the most effective draws per second, four are enough for R̂.
    method, mass, hottest, progress, checkpoint
        As `sample`.

    Returns
    -------
    xarray.Dataset
        One variable, x (chain, draw, variable), so that arviz takes the whole as a posterior; the rest are coordinates.
        By variable: r_hat, ess (of the bulk, rank-normalized), ess_tail. By chain and draw: lp (S in nats), acceptance_rate,
        energy, diverging. Attributes: method, acceptance, step_size, n_divergent, n_gradients (since the start, warm-up
        included), magnetization_ess, dense_mass, seed; for tempering also betas, swap_rates and n_round_trips.

    Raises
    ------
    NotNormalizableError, InputError, FileFormatError
        As `sample`.
    """
    n_draws, n_chains = as_count(n_draws, "n_draws", minimum=4), as_count(n_chains, "n_chains")
    sampler, request = _prepared(action, n_chains, seed, method, mass, hottest)
    request |= {"thinned": False, "n_draws": n_draws}
    memory = Checkpoint(checkpoint, request)
    if memory.found is None:
        sampler.warm_up(mass)
    draws = run(sampler, n_draws, 1, memory, progress)
    data = _dataset(action, sampler, draws, request)
    diagnostics = {"r_hat": split_rhat, "ess": bulk_ess, "ess_tail": tail_ess}
    data = data.assign_coords({name: ("variable", in_blocks(f, draws.by_chain())) for name, f in diagnostics.items()})
    return data.assign_attrs(magnetization_ess=float(effective_sample_size(draws.x.sum(axis=1).T)))


def observables(draws: np.ndarray) -> np.ndarray:
    """x_i, x_i² and Σ_i x_i of draws (n_chains, n_draws, n_dim), along the last axis; of many variables, 512 spread evenly."""
    some = draws[..., :: -(-draws.shape[2] // _LOOKED_AT)]
    return np.concatenate([some, some**2, draws.sum(axis=2, keepdims=True)], axis=2)


def _checked_chains(n_chains: int | None, n_dim: int, method: str) -> int:
    if n_chains is not None:
        return as_count(n_chains, "n_chains")
    return int(max(4, min(_CHAINS.get(method, 4), _LANE_NUMBERS // n_dim)))


def _prepared(action: Action, n_chains: int, seed: int, method: str, mass: str, hottest: float):
    """A sampler before its warm-up, and the request as a checkpoint remembers it."""
    seed = as_count(seed, "seed", minimum=0)
    for name, value, known in (("method", method, _METHODS), ("mass", mass, _MASSES)):
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
    if not 0 < hottest < 1:
        raise InputError(f"hottest must lie between 0 and 1, the inverse temperature of the hottest replica, got {hottest!r}.")
    require_normalizable(action)
    options = {"hottest": float(hottest)} if method == "tempering" else {}
    request = {"action": fingerprint(action), "method": method, "mass": mass, "n_chains": n_chains, "seed": seed, **options}
    return _METHODS[method](action, n_chains, np.random.default_rng(seed), **options), request


def _dataset(action: Action, sampler, draws: Draws, request: dict) -> Dataset:
    draws.x[:] += action.at[:, None]  # in place: draws may be most of the memory
    constant = float(action._powers[0].values[0]) if 0 in action._powers else 0.0
    names = list(action.names or (f"x{i}" for i in range(action.n_dim)))
    by_draw = {"lp": draws.value + constant, "acceptance_rate": draws.acceptance, "energy": draws.energy - constant,
               "diverging": draws.divergent > 0}
    tempering = {k: getattr(sampler, k) for k in ("betas", "swap_rates", "n_round_trips") if hasattr(sampler, k)}
    return Dataset(
        {"x": (("chain", "draw", "variable"), draws.by_chain())},
        coords={"chain": np.arange(sampler.n_chains), "draw": np.arange(len(draws.value)), "variable": names,
                **{k: (("chain", "draw"), v.T) for k, v in by_draw.items()}},
        attrs={"method": request["method"], "acceptance": float(draws.acceptance.mean()), "step_size": sampler.step_size,
               "n_divergent": int(draws.divergent.sum()), "n_gradients": sampler.n_gradients,
               "dense_mass": int(sampler.motion.frame.root.shape[1] > 1), "seed": request["seed"], **tempering})


def _pilot(sampler) -> Verdict:
    """The interval between draws that makes them nearly independent, from draws that are not kept."""
    longest = max(_PILOT, min(_LONGEST_PILOT, _PILOT_NUMBERS // (sampler.n_chains * sampler.action.n_dim)))
    size = max(_PILOT, min(longest, _POOLED // sampler.n_chains))
    while True:
        draws = Draws.blank(size, sampler.action.n_dim, sampler.n_chains)
        sampler.fill(draws)
        seen = observables(draws.by_chain())
        rho = open_correlations(seen)
        if size >= longest or size >= _TIMES * np.nanmax(correlation_time(rho)):
            break
        size = min(2 * size, longest)
    for interval in range(1, _LONGEST_INTERVAL + 1):
        if np.nanmax(_excess(rho, interval)) <= 1 / _AIM - 1 + _noise(draws):
            break
    return _verdict(draws, seen, rho, interval)


def _look(draws: Draws, interval: int) -> Verdict:
    """Worth and R̂ of draws that were made `interval` iterations apart."""
    seen = observables(draws.by_chain())
    rho = open_correlations(seen)
    return _verdict(draws, seen, rho, 1)._replace(interval=interval)


def _verdict(draws: Draws, seen: np.ndarray, rho: np.ndarray, interval: int) -> Verdict:
    worth = 1 / (1 + np.nanmax(_excess(rho, interval)))
    if worth < _WORTH - _noise(draws):  # not nearly independent: all lags count
        worth = 1 / np.nanmax(correlation_time(rho, interval))
    return Verdict(interval, float(worth), float(np.nanmax(plain_rhat(seen))), _noise(draws))


def _excess(rho: np.ndarray, interval: int) -> np.ndarray:
    """Correlation time − 1 of nearly independent draws, from two lags: further ones would only add noise."""
    return 2 * sum((rho[t] for t in (interval, 2 * interval) if t < len(rho)), np.zeros_like(rho[0]))


def _noise(draws: Draws) -> float:
    """Three standard errors of `_excess`: each of its two correlations scatters by 1/√(number of draws)."""
    return 3 * float(np.sqrt(8 / draws.value.size))


def _doubts(found: dict, n_samples: int) -> list[str]:
    """One sentence for each reason not to trust the draws."""
    doubts = []
    if found["r_hat"] > _RHAT:
        doubts.append(f"chains should agree, R-hat is {found['r_hat']:.2f}: they sit in different modes or are too short. Use "
                      "method=\"tempering\" or more chains, and look at sample_chains.")
    if found["worth"] < _WORTH - found["noise"]:
        doubts.append("samples should be independent, the effective sample size is about "
                      f"{found['worth'] * n_samples:.0f} of {n_samples}.")
    if found["n_divergent"] > _DIVERGENT_SHARE * found["n_trajectories"]:
        doubts.append(f"trajectories should conserve energy, {found['n_divergent']} of {found['n_trajectories']} diverged; the action "
                      "is steep somewhere.")
    return doubts
