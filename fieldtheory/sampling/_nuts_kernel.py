"""The no-U-turn sampler for one chain, in the frame of its motion.

From the current point a trajectory is doubled again and again, forwards or backwards at random, until its ends begin to approach
each other. With Σv the sum of the velocities along a stretch, half weight at its ends, a stretch from − to + turns back when

    v₋ · Σv ≤ 0   or   v₊ · Σv ≤ 0,

and no aligned part of the trajectory of 2^k points may. Points are drawn with weight exp(−H): uniformly within the new half, and
between old and new half with a bias towards the new one (M. Hoffman, A. Gelman, JMLR 15, 1593 (2014); M. Betancourt,
arXiv:1701.02434). The tree is walked leaf by leaf instead of recursively: of each part that is still open only the velocity at its
first leaf and the sum before it are kept, one slot per level (D. Phan, N. Pradhan, M. Jankowiak, arXiv:1912.11554).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._jit import borrowed, njit, spliced
from ._hmc_kernel import DIVERGENT
from ._motion_kernel import Lanes, copy, kick, settle, turn

_DEEPEST = 10  # doublings


class Tree(NamedTuple):
    """Scratch of one transition.

    Attributes
    ----------
    front, back, drawn : Lanes of one lane
        The two ends of the trajectory, and the point drawn from its new half.
    v_front, v_back, v_sum, half_sum, score : ndarray, shape (n_dim, 1)
        Velocities at the ends, and their sums over the trajectory and over its new half.
    v_open, sum_open : ndarray, shape (levels, n_dim)
        Of the open parts: the velocity at the first leaf, and the sum before it.
    nothing : ndarray, shape (n_dim, 1)
        The sum before the whole trajectory: zeros.
    """

    front: Lanes
    back: Lanes
    drawn: Lanes
    v_front: np.ndarray
    v_back: np.ndarray
    v_sum: np.ndarray
    half_sum: np.ndarray
    score: np.ndarray
    v_open: np.ndarray
    sum_open: np.ndarray
    nothing: np.ndarray

    @classmethod
    def blank(cls, chain: Lanes) -> Tree:
        """Room for trees of a chain."""
        n = chain.y.size
        front, back, drawn = (Lanes(*map(np.empty_like, chain)) for _ in range(3))
        return cls(front, back, drawn, *np.empty((5, n, 1)), *np.empty((2, _DEEPEST, n)), np.zeros((n, 1)))


@spliced
def _add(a, b):
    """ln(eᵃ + eᵇ)."""
    top = max(a, b)
    return top if top == -np.inf else top + np.log1p(np.exp(min(a, b) - top))


@spliced
def _energy(value, v):
    energy = -value
    for k in range(v.size):
        energy += 0.5 * v.flat[k] * v.flat[k]
    return energy if np.isfinite(energy) else np.inf


@spliced
def _step(polynomial, frame, point, v, score, step):
    """Kick, turn, kick; returns H at the end."""
    kick(v, point.force, 0.5 * step)
    turn(point.y, v, step)
    settle(polynomial, frame, point, score)
    kick(v, point.force, 0.5 * step)
    return _energy(point.value[0], v)


@spliced
def turns_back(v_first, v_last, v_sum, before):
    """Do the ends of a stretch approach each other? The sum of its velocities is v_sum − before, ends included."""
    at_first, at_last = 0.0, 0.0
    for k in range(before.size):
        inner = v_sum.flat[k] - before.flat[k] - 0.5 * (v_first.flat[k] + v_last.flat[k])
        at_first += v_first.flat[k] * inner
        at_last += v_last.flat[k] * inner
    return at_first <= 0 or at_last <= 0


@spliced
def _part_turns_back(leaf, v, v_sum, v_open, sum_open):
    """Does a part that closes at this leaf turn back? Even leaves open a part, odd ones close as many as they have low set bits."""
    level, low = 0, 0
    for bit in range(_DEEPEST):
        level += (leaf >> bit) & 1
        low += level == bit + 1
    if low == 0:
        for i in range(v.size):
            v_open[level, i], sum_open[level, i] = v.flat[i], v_sum.flat[i] - v.flat[i]
    turned = False
    for part in range(level - low, level):
        turned = turned or turns_back(v_open[part], v, v_sum, sum_open[part])
    return turned


@spliced
def _grow(polynomial, frame, tree, level, start, step, rng):
    """A new half of 2^level points; returns whether it may stay, its ln Σ exp(H₀ − H), Σ min(1, exp(H₀ − H)), its size, divergence."""
    forwards = rng.random() < 0.5
    point, v = (tree.front, tree.v_front) if forwards else (tree.back, tree.v_back)
    weight, met = -np.inf, 0.0
    tree.half_sum[:] = 0.0
    for leaf in range(2**level):
        gain = start - _step(polynomial, frame, point, v, tree.score, step if forwards else -step)
        met += np.exp(min(gain, 0.0))
        if gain < -DIVERGENT:
            return False, weight, met, leaf + 1, True
        weight = _add(weight, gain)
        kick(tree.half_sum, v, 1.0)
        if np.log(rng.random()) < gain - weight:
            copy(tree.drawn, point)
        if _part_turns_back(leaf, v, tree.half_sum, tree.v_open, tree.sum_open):
            return False, weight, met, leaf + 1, False
    return True, weight, met, 2**level, False


@spliced
def _transition(polynomial, frame, chain, tree, step, rng):
    """One draw, in place; returns H at the start, mean acceptance probability, divergence, depth and size of the tree."""
    for i in range(tree.v_sum.size):
        tree.v_sum[i, 0] = tree.v_front[i, 0] = tree.v_back[i, 0] = rng.standard_normal()
    copy(tree.front, chain)
    copy(tree.back, chain)
    start, weight, met, size, level, diverged = _energy(chain.value[0], tree.v_sum), 0.0, 0.0, 0, 0, False
    while level < _DEEPEST:
        stays, half_weight, half_met, half_size, diverged = _grow(polynomial, frame, tree, level, start, step, rng)
        met, size = met + half_met, size + half_size
        if not stays:
            break
        if np.log(rng.random()) < half_weight - weight:
            copy(chain, tree.drawn)
        weight, level = _add(weight, half_weight), level + 1
        kick(tree.v_sum, tree.half_sum, 1.0)
        if turns_back(tree.v_back, tree.v_front, tree.v_sum, tree.nothing):
            break
    return start, met / size, diverged, level, size


@njit
def transitions(polynomial, frame, chain, tree, step, rng, interval, x, value, acceptance, energy, divergent):
    """Every `interval`-th state of one chain, with what happened on the way.

    Overwrites x (n_draws, n_dim) and, of shape (n_draws,), S, the mean acceptance probability over the points of the trees, H at
    the start of the last, and the number of divergent trees since the draw before. Returns the number of steps.
    """
    (polynomial, frame, chain, tree), n_steps = borrowed((polynomial, frame, chain, tree)), 0
    for t in range(x.shape[0]):
        acceptance[t], divergent[t] = 0.0, 0
        for _ in range(interval):
            energy[t], accepted, diverged, _, size = _transition(polynomial, frame, chain, tree, step, rng)
            acceptance[t] += accepted / interval
            divergent[t] += diverged
            n_steps += size
        x[t], value[t] = chain.x[:, 0], chain.value[0]
    return n_steps
