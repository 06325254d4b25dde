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

from .._jit import njit
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


@njit
def density(polynomial, x, value, score):
    """Overwrite `value` (n_lanes,) with S(x) without its constant and `score` (n_dim, n_lanes) with ∇S: the door to the kernels."""
    value[:] = 0.0
    value_and_score(polynomial, x, value, score)


@njit
def settle(polynomial, frame, lanes, score):
    """Overwrite x, S and the force of lanes that have moved to y; `score` (n_dim, n_lanes) is scratch."""
    n_dim, n_lanes = lanes.y.shape
    diagonal = frame.root.shape[1] == 1
    if not diagonal:
        np.dot(frame.root, lanes.y, lanes.x)
    for i in range(n_dim):
        for c in range(n_lanes):
            lanes.x[i, c] = frame.mean[i, 0] + (frame.root[i, 0] * lanes.y[i, c] if diagonal else lanes.x[i, c])
    density(polynomial, lanes.x, lanes.value, score)
    if not diagonal:
        np.dot(frame.root.T, score, lanes.force)
    for i in range(n_dim):
        for c in range(n_lanes):
            lanes.force[i, c] = lanes.y[i, c] + (frame.root[i, 0] * score[i, c] if diagonal else lanes.force[i, c])


@njit
def kick(v, force, time):
    """v += time · force."""
    for i in range(v.shape[0]):
        for c in range(v.shape[1]):
            v[i, c] += time * force[i, c]


@njit
def turn(y, v, angle):
    """The exact motion of a unit Gaussian for a time `angle`."""
    cos, sin = np.cos(angle), np.sin(angle)
    for i in range(y.shape[0]):
        for c in range(y.shape[1]):
            y[i, c], v[i, c] = cos * y[i, c] + sin * v[i, c], cos * v[i, c] - sin * y[i, c]


@njit
def blank(lanes):
    """Lanes of the same shape, not yet anywhere."""
    return Lanes(np.empty_like(lanes.y), np.empty_like(lanes.y), np.empty_like(lanes.y), np.empty_like(lanes.value))
