"""Stationary points of an action, the propagator, and Laplace's approximation of ln Z.

At a stationary point ∇S(x*) = 0 the eigenvalues of the Hessian H = ∇²S(x*) tell what it is: a maximum, or mode, of p where all are
negative, a saddle with as many unstable directions as are positive, a minimum where all are. Around a mode

    S(x* + u) = S(x*) − ½ uᵀΔ^{-1}u + (1/3!) V^(3)·u³ + (1/4!) V^(4)·u⁴ + …,    Δ = (−H)^{-1} = (−2A^(2))^{-1},

with the propagator Δ and the vertices V^(k) = k! A^(k) there. Its share of Z = ∫ exp S is, since p ~ e^{+S} without any minus sign,

    ln Z_* = S(x*) + (n_dim/2) ln 2π − ½ ln det(−H)
             + ⅛ V_{ijkl}Δ_ijΔ_kl + ⅛ V_{ijk}Δ_ij Δ_kl V_{lmn}Δ_mn + (1/12) V_{ijk}V_{lmn}Δ_ilΔ_jmΔ_kn + …

The first line is Laplace's approximation; the second holds all diagrams of two loops, the figure of eight, the dumbbell and the
sunset. They are what the first line leaves out, hence the measure of its validity.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from . import memory
from .action import Action
from .arrays import as_count
from .errors import InputError, RegimeWarning
from .normalizability import require_normalizable
from .tensors import SymmetricTensor

_STEPS = 300
_STUCK = 1e4  # damping relative to the Hessian
_DONE = 1e-16  # score, in units of the reach along each variable
_FOUND = 1e-10  # score relative to the terms that cancel in it
_SAME = 1e-4  # distance of starts that reached one point, in the same units
_FLAT = 1e-6  # eigenvalue of a degenerate direction: what rounding leaves of a double root
_TOLERATED = 0.1  # nats in the two-loop diagrams
_BLOCK_BYTES = 2e8


@dataclass(frozen=True, eq=False)
class StationaryPoint:
    """A point where the score vanishes.

    Attributes
    ----------
    x : ndarray, shape (n_dim,)
    value : float
        S(x), in nats.
    eigenvalues : ndarray, shape (n_dim,)
        Of ∇²S(x), ascending.
    kind : {"maximum", "saddle", "minimum", "degenerate"}
        degenerate: an eigenvalue vanishes to 1e-6, variables in units of the reach of S along each. Members of a continuous family,
        such as a circle of maxima, are degenerate.
    n_unstable : int
        Directions in which S rises.
    n_found : int
        Starts that ended here.
    """

    x: np.ndarray
    value: float
    eigenvalues: np.ndarray
    kind: str
    n_unstable: int
    n_found: int

    def __repr__(self) -> str:
        place = ", ".join(f"{v:.4g}" for v in self.x[:6]) + (", …" if self.x.size > 6 else "")
        return f"<{self.kind} at ({place}), S={self.value:.6g}, {self.n_unstable} unstable directions, found {self.n_found} times>"


def modes(action: Action, n_starts: int = 64, seed: int = 0) -> tuple[StationaryPoint, ...]:
    """Stationary points of S, the highest first.

    Starts are the base point and random points around it, between the reach of S along each variable and the radius that bounds the
    roots of its derivative there. Every second one first climbs to a maximum, the others may end at points of any kind; damped Newton
    steps on the score finish all. Nothing proves the list complete: starts that ended nowhere, and points found only once, say that
    more starts may find more. In a confining theory Σ (−1)^{n_unstable} over all points is 1.

    Parameters
    ----------
    action : Action
        Of a cut or averaged action, the points of its polynomial; far from the base point those are the cut's, not the theory's.
    n_starts : int
    seed : int

    Raises
    ------
    InputError
        Dense Hessians of that many variables would not fit in memory.
    """
    n_starts, rng = as_count(n_starts, "n_starts"), np.random.default_rng(as_count(seed, "seed", minimum=0))
    memory.require(40 * action.n_dim**2, f"dense Hessians of {action.n_dim} variables", "restrict the action to fewer")
    unit, radius = _extent(action)
    w = rng.normal(size=(n_starts, action.n_dim)) * (radius / unit) ** rng.uniform(size=(n_starts, 1))
    w[0] = 0.0
    for i in range(1, n_starts, 2):
        w[i] = _climb(action, unit, w[i], 10 * radius / unit)
    per_block = max(1, int(_BLOCK_BYTES / (40 * action.n_dim**2)))
    found = np.concatenate([_follow(action, unit, w[i : i + per_block]) for i in range(0, n_starts, per_block)])
    points = [_classified(action, unit, place, count) for place, count in _distinct(found)]
    return tuple(sorted(points, key=lambda point: -point.value))


def _extent(action: Action) -> tuple[np.ndarray, np.ndarray]:
    """Per variable: how far S stays within half a nat, and a bound on the roots of its derivative (Fujiwara), at least as large.

    Both for Σ_k a_k t^k with a_k = Σ |coefficients of order k| that the variable has a share in.
    """
    share = {k: np.bincount(T.indices.ravel(), np.repeat(np.abs(T.values) * T.multiplicity / k, k), action.n_dim)
             for k, T in action._powers.items() if k > 0}
    unit, radius, top, order = np.full(action.n_dim, np.inf), np.zeros(action.n_dim), np.zeros(action.n_dim), np.zeros(action.n_dim)
    with np.errstate(divide="ignore"):
        for k in sorted(share, reverse=True):
            if k > 1:
                unit = np.minimum(unit, (0.5 / share[k]) ** (1 / k))
            lower = order > k
            ratio = k * share[k][lower] / (order * top)[lower]
            radius[lower] = np.maximum(radius[lower], 2 * ratio ** (1 / (order[lower] - k)))
            new = (order == 0) & (share[k] > 0)
            top, order = np.where(new, share[k], top), np.where(new, k, order)
    unit = np.where(np.isfinite(unit), unit, 1.0)
    return unit, np.maximum(radius, unit)


def _climb(action: Action, unit: np.ndarray, start: np.ndarray, farthest: np.ndarray) -> np.ndarray:
    """Towards a maximum, not beyond `farthest`."""
    def descent(w: np.ndarray) -> tuple[float, np.ndarray]:
        value, score = action.value_and_score(action.at + unit * w)
        return -float(value), -unit * score

    return minimize(descent, start, jac=True, method="L-BFGS-B", bounds=np.stack([-farthest, farthest], axis=1)).x


def _follow(action: Action, unit: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Levenberg–Marquardt on |∇S|² from each row of w = (x − at)/unit; the rows that reached a zero.

    −H(H² + s²)^{-1}g is the real part of −(H + is)^{-1}g, which does not square the condition number of H.
    """
    score, curvature = _scaled_derivatives(action, unit, w)
    damping, busy, one = np.full(len(w), 0.1), np.arange(len(w)), np.eye(unit.size)
    for _ in range(_STEPS):
        H, g = curvature[busy], score[busy]
        s = damping[busy] * np.linalg.norm(H, axis=(1, 2)) + 1e-290
        trial = w[busy] - np.linalg.solve(H + 1j * s[:, None, None] * one, g[..., None])[..., 0].real
        new_score, new_curvature = _scaled_derivatives(action, unit, trial)
        better = np.sum(new_score**2, axis=1) < np.sum(g**2, axis=1)
        gained = busy[better]
        w[gained], score[gained], curvature[gained] = trial[better], new_score[better], new_curvature[better]
        damping[busy] *= np.where(better, 0.2, 3.0)
        busy = busy[(np.abs(score[busy]).max(axis=1) > _DONE) & (damping[busy] < _STUCK)]
        if busy.size == 0:
            break
    terms = sum(k * (np.abs(T.values) * T.multiplicity * unit[T.indices].prod(axis=1)).sum() * np.abs(w).max(axis=1) ** (k - 1)
                for k, T in action._powers.items() if k > 0)
    return w[np.abs(score).max(axis=1) <= _FOUND * np.maximum(terms, 1.0)]


def _scaled_derivatives(action: Action, unit: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = action.at + unit * w
    return unit * action.score(x), np.outer(unit, unit) * action.hessian(x)


def _distinct(found: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """One row for each cluster, and how many are in it."""
    while len(found):
        near = np.abs(found - found[0]).max(axis=1) <= _SAME * (1 + np.abs(found[0]).max())
        yield found[0], int(near.sum())
        found = found[~near]


def _classified(action: Action, unit: np.ndarray, w: np.ndarray, n_found: int) -> StationaryPoint:
    x = action.at + unit * w
    H = action.hessian(x)
    scaled = np.linalg.eigvalsh(np.outer(unit, unit) * H)
    flat = _FLAT * max(1.0, np.abs(scaled).max())
    n_unstable = int(np.sum(scaled > flat))
    if np.any(np.abs(scaled) <= flat):
        kind = "degenerate"
    else:
        kind = {0: "maximum", unit.size: "minimum"}.get(n_unstable, "saddle")
    return StationaryPoint(x, float(action(x)), np.linalg.eigvalsh(H), kind, n_unstable, n_found)


def propagator(action: Action, at=None) -> np.ndarray:
    """Δ = (−2A^(2))^{-1} at the base point, or at another one if the action is exact; shape (n_dim, n_dim).

    At a mode it is the covariance to lowest order. At any other point it is the formal line of an expansion there, not a covariance,
    and says so with a warning. For a normal_ordered action the Hessian is the averaged one.

    Raises
    ------
    InputError
        A^(2) is singular: some direction has no propagator.
    GaugeError
        Another base point is asked of an action that is not exact.

    Warns
    -----
    RegimeWarning
        −A^(2) is not positive definite.
    """
    precision = -action.vertex(2, at).dense()
    scale = np.sqrt(np.abs(np.diag(precision)))
    scale = np.where(scale > 0, scale, 1.0)
    values = np.linalg.eigvalsh(precision / np.outer(scale, scale))
    if np.abs(values).min() <= 1e-12 * np.abs(values).max():
        raise InputError(f"A^(2) must be invertible to have a propagator, its eigenvalue closest to 0 is {np.abs(values).min():.2g}, each "
                         "variable in its own unit; expand around another point.")
    if values[0] < 0:
        warnings.warn(f"the propagator should belong to a maximum of S, here S curves upwards in {np.sum(values < 0)} directions: it is "
                      "formal, no covariance.", RegimeWarning, stacklevel=3)
    inverse = np.linalg.inv(precision)
    return 0.5 * (inverse + inverse.T)


@dataclass(frozen=True, eq=False)
class Laplace:
    """ln Z = ln ∫ exp S by expansion around the modes.

    Attributes
    ----------
    log_partition : float
        Laplace's approximation, in nats (total), A^(0) included.
    corrected : float
        With the two-loop diagrams of every mode.
    modes : tuple of StationaryPoint
        The maxima that were found, the highest first.
    weights : ndarray, shape (n_modes,)
        Share of each mode in Z, from Laplace's approximation.
    figure_eight, dumbbell, sunset : ndarray, shape (n_modes,)
        The two-loop diagrams of each mode, in nats.
    """

    log_partition: float
    corrected: float
    modes: tuple[StationaryPoint, ...]
    weights: np.ndarray
    figure_eight: np.ndarray = field(repr=False)
    dumbbell: np.ndarray = field(repr=False)
    sunset: np.ndarray = field(repr=False)

    @property
    def neglected(self) -> float:
        """Sum of the magnitudes of the two-loop diagrams in nats, averaged over the modes: small where Laplace is valid."""
        return float(self.weights @ (np.abs(self.figure_eight) + np.abs(self.dumbbell) + np.abs(self.sunset)))


def laplace(action: Action, n_starts: int = 64, seed: int = 0) -> Laplace:
    """ln Z from the maxima of S, summed over them, with the two-loop diagrams as its measure of error.

    Parameters
    ----------
    action : Action
        Normalizable.
    n_starts, seed : int
        As in `modes`.

    Raises
    ------
    NotNormalizableError
        Z is infinite.
    InputError
        The highest stationary point found is no maximum: degenerate, or a saddle whose maxima were missed.

    Warns
    -----
    RegimeWarning
        The diagrams exceed 0.1 nats in magnitude: Z is off by more than about a tenth.
    """
    require_normalizable(action)
    points = modes(action, n_starts, seed)
    maxima = tuple(point for point in points if point.kind == "maximum")
    if not maxima or points[0] is not maxima[0]:
        raise InputError("Laplace's approximation must have isolated quadratic maxima, the highest stationary point found is "
                         f"{points[0] if points else 'none'}; raise n_starts, or integrate by sampling.")
    polynomial = action if action.gauge == "exact" else Action(action._powers, action.at)
    log_z = np.array([m.value - 0.5 * np.linalg.slogdet(-action.hessian(m.x) / (2 * np.pi))[1] for m in maxima])
    diagrams = np.array([_two_loops(polynomial.recenter(m.x)) for m in maxima]).T
    log_partition = float(logsumexp(log_z))
    result = Laplace(log_partition, float(logsumexp(log_z + diagrams.sum(axis=0))), maxima, np.exp(log_z - log_partition), *diagrams)
    if result.neglected > _TOLERATED:
        warnings.warn(f"Laplace's approximation should leave out little, its two-loop diagrams are {result.neglected:.2g} nats; trust "
                      "neither it nor the correction, integrate by sampling.", RegimeWarning, stacklevel=3)
    return result


def _two_loops(action: Action) -> tuple[float, float, float]:
    """Figure of eight, dumbbell and sunset at the base point."""
    D, cubic, quartic = np.linalg.inv(-action.vertex(2).dense()), action.vertex(3), action.vertex(4)
    i, j, k, l = quartic.indices.T
    pairings = (D[i, j] * D[k, l] + D[i, k] * D[j, l] + D[i, l] * D[j, k]) / 3
    return (float(quartic.values * quartic.multiplicity @ pairings) / 8, _dumbbell(cubic, D), _sunset(cubic, D))


def _dumbbell(cubic: SymmetricTensor, D: np.ndarray) -> float:
    (i, j, k), weight = cubic.indices.T, cubic.values * cubic.multiplicity / 3
    tadpole = sum(np.bincount(c, weight * D[a, b], len(D)) for a, b, c in ((i, j, k), (j, k, i), (k, i, j)))
    return float(tadpole @ D @ tadpole) / 8


def _sunset(cubic: SymmetricTensor, D: np.ndarray) -> float:
    """Pairs of entries where those are few, three full contractions where they are not."""
    kept = cubic.values != 0
    if kept.sum() ** 2 > float(len(D)) ** 4:
        return cubic.inner(cubic.transform(D)) / 12
    index, weight = cubic.indices[kept], (cubic.values * cubic.multiplicity)[kept]
    total = 0.0
    for entry, w in zip(index, weight):
        total += w * sum(weight @ D[entry[list(p)], index].prod(axis=1) for p in permutations(range(3))) / 6
    return total / 12
