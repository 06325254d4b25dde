"""Warm-up: the frame in which the density looks like a unit Gaussian, and the longest step that is still accepted.

In the frame x = μ + L y of the right mean and covariance every mode turns with frequency 1, and a quarter period makes an independent
draw of a Gaussian. L is the Cholesky factor of the covariance (a *dense* mass Σ^{-1}) or the standard deviations alone (a *diagonal*
one). The number of steps grows with √κ, κ the condition number of what the frame leaves: with the diagonal one that of the
correlations, with the dense one that of the noise in an estimate from N draws,

    κ_N = ((1 + r)/(1 − r))²,    r = √(n_dim/N)    (Marchenko–Pastur).

That noise makes the estimated correlations look worse as well, so a dense frame takes √κ/κ_N times fewer steps, κ the estimated one.
But each of its steps costs two products with L. Modes out of step with each other cost another half of the draws: a fixed path
resonates with some, so it is jittered. The mass is dense where that is cheaper. The path is a quarter period of the slowest mode.

The step follows the mean acceptance probability of all chains by dual averaging (M. Hoffman, A. Gelman, JMLR 15, 1593 (2014)). Far out
every polynomial is steeper than any explicit step can follow; a last trial shortens the step until it no longer meets that.
"""

from __future__ import annotations

import numpy as np

from ..action import Action
from ._motion_kernel import Frame
from .walkers import Draws, Motion

QUARTER = 0.5 * np.pi
_TARGET, _GAIN = 0.8, 10.0  # acceptance, and how strongly ln step follows the error of its mean
_WINDOWS, _LONGEST_WINDOW = (25, 50, 100), 500  # iterations between estimates of the frame
_POOLED = 100  # draws per variable that make an estimate good
_SETTLE = 50  # iterations after the last estimate
_TRIAL, _ATTEMPTS = 4000, 16  # trajectories of a trial of the step, and how often it may be shortened
_LARGEST = 1024  # variables up to which correlations are looked at
_KEPT = 2**24  # numbers from which a frame is estimated
_ENTRY = 20.0  # multiply-adds of a matrix product that take as long as one entry of a coupling
_ALIKE = 1.5  # √κ up to which modes count as being in step, and what it costs if they are not
_IN_STEP, _OUT_OF_STEP = (1.0, 0.1), (0.85, 0.4)  # path in quarter periods of the slowest mode, and its jitter


def first_guess(action: Action) -> Motion:
    """The frame of the reach of S along each variable, around the base point."""
    return Motion(Frame(np.zeros((action.n_dim, 1)), reach(action)[:, None]), QUARTER, _OUT_OF_STEP[1])


def reach(action: Action) -> np.ndarray:
    """How far along each variable S changes by half a nat: its standard deviation for a Gaussian, to a factor of 2."""
    steps, change = 2.0 ** np.arange(-120, 121), np.zeros((241, action.n_dim))
    with np.errstate(over="ignore", invalid="ignore"):
        for k, T in action._powers.items():
            if k > 0:
                pure = np.all(T.indices == T.indices[:, :1], axis=1)
                change[:, T.indices[pure, 0]] += T.values[pure] * steps[:, None] ** k
        far = ~(np.abs(change) < 0.5)
    return steps[np.where(far.any(axis=0), far.argmax(axis=0), 120)]


def warm_up(sampler, mass: str) -> None:
    """Alternate between adapting the step and estimating the frame, then settle the step."""
    n_dim, n_entries = sampler.action.n_dim, sum(np.count_nonzero(T.values) for T in sampler.action._powers.values())
    for n_iterations in windows(n_dim, sampler.n_chains):
        x = adapt_step(sampler, n_iterations).x[n_iterations // 4 :]
        pooled = x[:: 1 + x.size // _KEPT].transpose(1, 0, 2).reshape(n_dim, -1)
        sampler.reframe(estimate(pooled, n_entries, mass))
    adapt_step(sampler, _SETTLE)


def windows(n_dim: int, n_chains: int) -> list[int]:
    """Iterations between estimates: they double until the pooled draws make a good one."""
    sizes, longest = list(_WINDOWS), min(_LONGEST_WINDOW, 2 * _KEPT // (n_dim * n_chains))
    while sizes[-1] * n_chains < _POOLED * n_dim and sizes[-1] < longest:
        sizes.append(min(2 * sizes[-1], longest))
    return sizes


def adapt_step(sampler, n_iterations: int) -> Draws:
    """Dual averaging of ln step towards the target acceptance; returns the draws on the way."""
    draws = Draws.blank(n_iterations, sampler.action.n_dim, sampler.n_chains)
    anchor, mean_error, averaged = np.log(2 * sampler.step_size), 0.0, np.log(sampler.step_size)
    for t in range(1, n_iterations + 1):
        accepted = sampler.fill(draws.part(t - 1, t))
        mean_error += (_TARGET - accepted - mean_error) / (t + 10)
        log_step = np.clip(anchor - _GAIN * np.sqrt(t) * mean_error, -30, np.log(QUARTER))
        averaged += t**-0.75 * (log_step - averaged)
        sampler.step_size = float(np.exp(log_step))
    sampler.step_size = float(np.exp(averaged))
    return draws


def shorten_until_stable(sampler) -> None:
    """A step that suits the bulk may be too long for steep tails: shorten it until no trajectory runs away."""
    draws = Draws.blank(max(_SETTLE, _TRIAL // sampler.n_chains), sampler.action.n_dim, sampler.n_chains)
    for _ in range(_ATTEMPTS):
        sampler.fill(draws)
        if not draws.divergent.any():
            break
        sampler.step_size *= 0.8


def estimate(pooled: np.ndarray, n_entries: int, mass: str) -> Motion:
    """Frame and path from pooled draws.

    Parameters
    ----------
    pooled : ndarray, shape (n_dim, n_pooled)
    n_entries : int
        Stored entries of the couplings, the price of S.
    mass : {"auto", "diagonal", "dense"}
    """
    n_dim, n_pooled = pooled.shape
    mean, scale = pooled.mean(axis=1, keepdims=True), pooled.std(axis=1, keepdims=True) + 1e-300
    unit, noise = (pooled - mean) / scale, np.sqrt(n_dim / n_pooled)
    slowest = np.var(unit.sum(axis=0)) / n_dim  # variance of the magnetization, in units of that of independent variables
    if mass != "dense" and (n_dim > _LARGEST or noise > 0.5):
        return _motion(mean, scale, slowest, _OUT_OF_STEP)
    correlation = unit @ unit.T / n_pooled
    modes = np.linalg.eigvalsh(correlation)
    fewer_steps = np.sqrt(modes[-1] / max(modes[0], 1e-12)) * ((1 - noise) / (1 + noise)) ** 2
    if mass == "dense" or (mass == "auto" and _dense_pays(fewer_steps, n_dim, n_entries)):
        shrunk = (n_pooled * correlation + n_dim * np.eye(n_dim)) / (n_pooled + n_dim)
        return _motion(mean, scale * np.linalg.cholesky(shrunk), 1.0, _IN_STEP)
    return _motion(mean, scale, max(slowest, modes[-1] / (1 + noise) ** 2), _IN_STEP if fewer_steps < _ALIKE else _OUT_OF_STEP)


def _dense_pays(fewer_steps: float, n_dim: int, n_entries: int) -> bool:
    """Is a dense frame, with so many times fewer steps, cheaper per independent draw?"""
    return _ENTRY * n_entries + 2 * n_dim**2 < fewer_steps * min(_ALIKE, fewer_steps) * _ENTRY * n_entries


def _motion(mean: np.ndarray, root: np.ndarray, slowest: float, path: tuple[float, float]) -> Motion:
    return Motion(Frame(mean, np.ascontiguousarray(root)), QUARTER * np.sqrt(max(1.0, slowest)) * path[0], path[1])
