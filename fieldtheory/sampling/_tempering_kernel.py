"""Replica exchange in lock step.

Each chain runs one replica per inverse temperature 1 = β_0 > β_1 > … > β_{R−1}, with density exp β_k S. After every trajectory
neighbours on the ladder, in turn the pairs (0, 1), (2, 3), … and (1, 2), (3, 4), …, exchange their temperatures with probability

    min(1, exp (β_k − β_{k+1})(S_{k+1} − S_k)).

The fixed alternation makes replicas travel along the ladder instead of diffusing (S. Syed, A. Bouchard-Côté, G. Deligiannidis,
A. Doucet, J. R. Stat. Soc. B 84, 321 (2022)). Lanes keep their place in the arrays; temperatures move.
"""

from __future__ import annotations

import numpy as np

from .._jit import borrowed, njit
from ._hmc_kernel import DIVERGENT, count_turns, iterate
from ._motion_kernel import blank


@njit
def exchange(betas, lane, beta, value, first, rng, swaps):
    """Offer exchanges to the pairs (first, first + 1), (first + 2, first + 3), … of every chain.

    `lane` (n_chains, R) names the lane at each temperature and `beta` (n_lanes,) its β; both are updated. The acceptance
    probabilities are added to `swaps` (R − 1,).
    """
    n_chains, n_replicas = lane.shape
    for c in range(n_chains):
        for k in range(first, n_replicas - 1, 2):
            cold, hot = lane[c, k], lane[c, k + 1]
            gain = (betas[k] - betas[k + 1]) * (value[hot] - value[cold])
            swaps[k] += np.exp(min(gain, 0.0))
            if np.log(rng.random()) < gain:
                lane[c, k], lane[c, k + 1] = hot, cold
                beta[hot], beta[cold] = betas[k], betas[k + 1]


@njit
def count_round_trips(lane, was_hot, trips):
    """Replicas that came back to β = 1 from the hot end; `was_hot` (n_lanes,) remembers who has been there."""
    for c in range(lane.shape[0]):
        was_hot[lane[c, -1]] = True
        trips[0] += was_hot[lane[c, 0]]
        was_hot[lane[c, 0]] = False


@njit
def tempered(polynomial, frame, lanes, betas, lane, was_hot, path, jitter, step, single, rng, interval, first, x, value, acceptance,
             energy, divergent, met, swaps, trips):
    """Every `interval`-th state of the replicas at β = 1, with what happened on the way.

    `first` is 0 or 1, the pairs that are offered an exchange first. Overwrites x (n_draws, n_dim, n_chains) and what
    `trajectories` overwrites, of the replicas at β = 1. Adds to met (R,) and swaps (R − 1,) the acceptance probabilities of
    trajectories and exchanges, summed over chains, and to trips (1,) the round trips. Returns the number of turns per lane.
    """
    polynomial, frame, lanes = borrowed((polynomial, frame, lanes))
    trial, v, score = blank(lanes), np.empty_like(lanes.y), np.empty_like(lanes.y)
    gain, start, beta, total = np.empty_like(lanes.value), np.empty_like(lanes.value), np.empty_like(lanes.value), 0
    for c in range(lane.shape[0]):
        for k in range(betas.size):
            beta[lane[c, k]] = betas[k]
    for t in range(x.shape[0]):
        acceptance[t], divergent[t] = 0.0, 0
        for repeat in range(interval):
            length = path * (1 + jitter * (2 * rng.random() - 1))
            n_turns = count_turns(length, step, single)
            iterate(polynomial, frame, lanes, trial, v, score, beta, length / n_turns, n_turns, rng, start, gain)
            total += n_turns
            for c in range(lane.shape[0]):
                for k in range(betas.size):
                    met[k] += np.exp(min(gain[lane[c, k]], 0.0))
                    divergent[t, c] += gain[lane[c, k]] < -DIVERGENT
                acceptance[t, c] += np.exp(min(gain[lane[c, 0]], 0.0)) / interval
                energy[t, c] = start[lane[c, 0]]
            exchange(betas, lane, beta, lanes.value, (first + t * interval + repeat) % 2, rng, swaps)
            count_round_trips(lane, was_hot, trips)
        for c in range(lane.shape[0]):
            x[t, :, c], value[t, c] = lanes.x[:, lane[c, 0]], lanes.value[lane[c, 0]]
    return total
