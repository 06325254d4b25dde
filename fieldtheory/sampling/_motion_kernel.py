"""Motion of lanes in a frame where the density is nearly a unit Gaussian.

The frame of a Gaussian N(μ, L Lᵀ) has coordinates y with x = μ + L y. There the action splits into the Gaussian's and the rest,

    S = −½|y|² + R(y),    H = −S + ½|v|²,

and H without R turns every pair (y, v) by an angle equal to the time: y' = y cos t + v sin t, v' = v cos t − y sin t, exactly. What
remains are kicks v += t ∇R with the *force* ∇R = Lᵀ∇S + y. So a Gaussian theory moves without error, a weakly interacting one
nearly so, and a step is limited by the interaction alone (B. Shahbaba, S. Lan, W. O. Johnson, R. M. Neal, Stat. Comput. 24, 339
(2014)); for strong interactions the turn is as good as the usual drift.

Lanes are the columns of arrays (n_dim, n_lanes): chains, replicas, or one lane alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._jit import njit, spliced
from .._kernels import value_and_score


class Frame(NamedTuple):
    """Coordinates y of x = mean + root y.

    Attributes
    ----------
    mean : ndarray, shape (n_dim, 1)
        μ.
    root : ndarray, shape (n_dim, 1) or (n_dim, n_dim)
        L, of a diagonal covariance as one column.
    """

    mean: np.ndarray
    root: np.ndarray


class Lanes(NamedTuple):
    """Where lanes are.

    Attributes
    ----------
    y, x, force : ndarray, shape (n_dim, n_lanes)
    value : ndarray, shape (n_lanes,)
        S(x) without its constant.
    """

    y: np.ndarray
    x: np.ndarray
    force: np.ndarray
    value: np.ndarray


@spliced
def density(polynomial, x, value, score):
    """Overwrite `value` (n_lanes,) with S(x) without its constant and `score` (n_dim, n_lanes) with ∇S: the door to the kernels."""
    value[:] = 0.0
    value_and_score(polynomial, x, value, score)


@spliced
def settle(polynomial, frame, lanes, score):
    """Overwrite x, S and the force of lanes that have moved to y; `score` (n_dim, n_lanes) is scratch."""
    diagonal = frame.root.shape[1] == 1
    if diagonal:
        for i in range(lanes.y.shape[0]):
            for c in range(lanes.y.shape[1]):
                lanes.x[i, c] = frame.mean[i, 0] + frame.root[i, 0] * lanes.y[i, c]
    else:
        np.dot(frame.root, lanes.y, lanes.x)
        for i in range(lanes.y.shape[0]):
            for c in range(lanes.y.shape[1]):
                lanes.x[i, c] += frame.mean[i, 0]
    density(polynomial, lanes.x, lanes.value, score)
    if diagonal:
        for i in range(lanes.y.shape[0]):
            for c in range(lanes.y.shape[1]):
                lanes.force[i, c] = frame.root[i, 0] * score[i, c] + lanes.y[i, c]
    else:
        np.dot(frame.root.T, score, lanes.force)
        kick(lanes.force, lanes.y, 1.0)


@spliced
def kick(v, force, time):
    """v += time · force."""
    for k in range(v.size):  # flat, so that it vectorizes for one lane too
        v.flat[k] += time * force.flat[k]


@spliced
def turn(y, v, angle):
    """The exact motion of a unit Gaussian for a time `angle`."""
    cos, sin = np.cos(angle), np.sin(angle)
    for k in range(y.size):
        y.flat[k], v.flat[k] = cos * y.flat[k] + sin * v.flat[k], cos * v.flat[k] - sin * y.flat[k]


@spliced
def copy(target, source):
    """Put lanes where others are."""
    for k in range(source.y.size):
        target.y.flat[k], target.x.flat[k], target.force.flat[k] = source.y.flat[k], source.x.flat[k], source.force.flat[k]
    for c in range(source.value.size):
        target.value[c] = source.value[c]


@njit
def blank(lanes):
    """Lanes of the same shape, not yet anywhere."""
    return Lanes(np.empty_like(lanes.y), np.empty_like(lanes.y), np.empty_like(lanes.y), np.empty_like(lanes.value))
