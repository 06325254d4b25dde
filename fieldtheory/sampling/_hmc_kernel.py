"""Hamiltonian trajectories of all lanes in lock step, with acceptance.

A trajectory of n turns by an angle t alternates n + 1 kicks with n turns. For n = 1 the kicks last t/2 (Strang). For even n the
turns come in pairs, and the kicks last

    2b t,  (2 − 4b) t,  4b t,  (2 − 4b) t,  …,  2b t,    b = 0.21178,

the two-stage splitting whose energy error over the whole range of stable steps is smallest (S. Blanes, F. Casas, J. M. Sanz-Serna,
SIAM J. Sci. Comput. 36, A1556 (2014)); b = ¼ would be the leapfrog, with an error an order of magnitude larger at the same cost.

A lane at inverse temperature β has the density exp βS: it draws velocities of variance 1/β, moves as all others do, and accepts with
probability min(1, exp β(ΔS − ½Δ|v|²)).
"""

from __future__ import annotations

import numpy as np

from .._jit import borrowed, njit
from ._motion_kernel import blank, kick, settle, turn

_B = 0.21178
_LONGEST = 200  # turns of a trajectory
DIVERGENT = 1000.0  # nats of energy error


@njit
def count_turns(path, step, single):
    """1 where one turn covers the whole path, else the even number of turns of at most `step` each."""
    if single:
        return 1
    return 2 * max(1, min(_LONGEST // 2, int(np.ceil(0.5 * path / step))))


@njit
def _kick_time(s, n):
    """Of kick s in 0 … n, in units of a turn."""
    if n == 1:
        return 0.5
    if s == 0 or s == n:
        return 2 * _B
    return 2 - 4 * _B if s % 2 else 4 * _B


@njit
def fly(polynomial, frame, lanes, v, score, angle, n_turns):
    """Move lanes and velocities along n_turns turns, in place; the force of `lanes` must be that of where they start."""
    kick(v, lanes.force, _kick_time(0, n_turns) * angle)
    for s in range(1, n_turns + 1):
        turn(lanes.y, v, angle)
        settle(polynomial, frame, lanes, score)
        kick(v, lanes.force, _kick_time(s, n_turns) * angle)


@njit
def iterate(polynomial, frame, lanes, trial, v, score, beta, angle, n_turns, rng, energy, gain):
    """One trajectory of every lane, and acceptance.

    `trial` (like lanes), v and score (n_dim, n_lanes) are scratch. Overwrites `energy` (n_lanes,) with H at the start and `gain`
    (n_lanes,) with the logarithm of the acceptance ratio, −inf where a trajectory ran away.
    """
    n_dim, n_lanes = v.shape
    energy[:], spread = -lanes.value, 1 / np.sqrt(beta)
    for i in range(n_dim):
        for c in range(n_lanes):
            v[i, c] = rng.standard_normal() * spread[c]
            energy[c] += 0.5 * v[i, c] * v[i, c]
            trial.y[i, c] = lanes.y[i, c]
            trial.force[i, c] = lanes.force[i, c]
    fly(polynomial, frame, trial, v, score, angle, n_turns)
    gain[:] = energy + trial.value
    for i in range(n_dim):
        for c in range(n_lanes):
            gain[c] -= 0.5 * v[i, c] * v[i, c]
    accept(lanes, trial, beta, rng, gain)


@njit
def accept(lanes, trial, beta, rng, gain):
    """Metropolis: `gain` comes in as −ΔH and leaves as the logarithm of the acceptance ratio; accepted lanes move to `trial`."""
    n_dim, n_lanes = lanes.y.shape
    accepted = np.empty(n_lanes, np.bool_)
    for c in range(n_lanes):
        gain[c] = beta[c] * gain[c] if np.isfinite(gain[c]) else -np.inf
        accepted[c] = np.log(rng.random()) < gain[c]
        if accepted[c]:
            lanes.value[c] = trial.value[c]
    for i in range(n_dim):
        for c in range(n_lanes):
            if accepted[c]:
                lanes.y[i, c] = trial.y[i, c]
                lanes.x[i, c] = trial.x[i, c]
                lanes.force[i, c] = trial.force[i, c]


@njit
def trajectories(polynomial, frame, lanes, path, jitter, step, single, rng, interval, x, value, acceptance, energy, divergent):
    """Every `interval`-th state of all lanes, with what happened on the way.

    Overwrites x (n_draws, n_dim, n_lanes) and, of shape (n_draws, n_lanes), S, the mean acceptance probability since the draw
    before, H at the start of the last trajectory, and the number of divergent trajectories since the draw before. Returns the
    number of turns per lane.
    """
    polynomial, frame, lanes = borrowed((polynomial, frame, lanes))
    trial, v, score = blank(lanes), np.empty_like(lanes.y), np.empty_like(lanes.y)
    gain, beta, total = np.empty_like(lanes.value), np.ones(lanes.value.size), 0
    for t in range(x.shape[0]):
        acceptance[t], divergent[t] = 0.0, 0
        for _ in range(interval):
            length = path * (1 + jitter * (2 * rng.random() - 1))
            n_turns = count_turns(length, step, single)
            iterate(polynomial, frame, lanes, trial, v, score, beta, length / n_turns, n_turns, rng, energy[t], gain)
            total += n_turns
            for c in range(gain.size):
                acceptance[t, c] += np.exp(min(gain[c], 0.0)) / interval
                divergent[t, c] += gain[c] < -DIVERGENT
        x[t], value[t] = lanes.x, lanes.value
    return total
