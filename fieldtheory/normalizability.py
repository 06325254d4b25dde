"""Can exp S be integrated?

Along a ray x = at + t v the action is a polynomial in t whose leading non-zero coefficient must belong to an even power and be
negative, for every direction v. The leading form S_K(v) = A^(K)[v, …, v] decides:

* K odd: S_K changes sign with v, never normalizable.
* K = 2: −A^(2) positive definite, decided exactly by its eigenvalues.
* K ≥ 4 even: S_K is maximized over the sphere from many starts. A positive maximum is a counter-example and final; a negative one
  is evidence, not proof, and is called *sampled*. Where S_K vanishes along a direction the next lower orders are asked there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import _kernels
from .action import Action
from .errors import NotNormalizableError
from .polynomial import Polynomial, polynomial
from .tensors import SymmetricTensor

_STARTS = 64
_STEPS = 60
_ZERO = 1e-9  # relative to the largest value of the form met on the sphere


@dataclass(frozen=True)
class Normalizability:
    """A verdict.

    Attributes
    ----------
    normalizable : bool
    how : {"exact", "sampled"}
        Whether the verdict is proved or rests on sampled directions.
    reason : str
        One sentence.
    """

    normalizable: bool
    how: str
    reason: str


def normalizability(action: Action) -> Normalizability:
    """Whether exp S has a finite integral over R^n_dim; see the module for what is decided how."""
    order = max((k for k, T in action._powers.items() if k > 0 and T.values.any()), default=0)
    if order == 0:
        return Normalizability(False, "exact", "the action is constant, exp S cannot be integrated.")
    if order % 2:
        return Normalizability(False, "exact", f"the leading order {order} is odd, so exp S grows without bound in some direction.")
    if order == 2:
        return _gaussian(action)
    return _leading_form(action, order)


def require_normalizable(action: Action) -> None:
    """Raise `NotNormalizableError` with the reason unless the action is normalizable."""
    verdict = normalizability(action)
    if not verdict.normalizable:
        raise NotNormalizableError(f"action must be normalizable to be a density, it is not: {verdict.reason}")


def _gaussian(action: Action) -> Normalizability:
    precision = -2 * action._powers[2].dense()
    diagonal = np.diag(precision)
    if diagonal.min() > 0:  # in units of each variable, so that the verdict does not depend on scales
        precision = precision / np.sqrt(np.outer(diagonal, diagonal))
    values = np.linalg.eigvalsh(precision)
    if diagonal.min() > 0 and values[0] > 1e-12:
        return Normalizability(True, "exact", "the action is a normalizable Gaussian.")
    return Normalizability(False, "exact", f"−A^(2) must be positive definite, the smallest eigenvalue of −2 A^(2), each "
                                           f"variable in its own unit, is {values[0]:.3g}.")


def _leading_form(action: Action, order: int) -> Normalizability:
    unit = _units(action._powers[order])
    form = polynomial({order: _rescaled(action._powers[order], unit)}, action.n_dim)
    directions, values = _maximize_on_sphere(form, action.n_dim)
    scale = np.abs(values).max()
    if values.max() > _ZERO * scale:
        worst = ", ".join(f"{v:.2g}" for v in (unit * directions[:, values.argmax()])[:6]) + (", …" if action.n_dim > 6 else "")
        return Normalizability(False, "exact", f"the leading order {order} is positive along the direction ({worst}).")
    flat = directions[:, values > -_ZERO * scale]
    if any(not _falls_along(action, unit * v, order) for v in flat.T):
        return Normalizability(False, "exact", f"the leading order {order} vanishes in a direction where lower orders do not fall.")
    return Normalizability(True, "sampled", f"the leading order {order} is negative along all directions that were driven towards "
                                            "its maximum.")


def _units(T: SymmetricTensor) -> np.ndarray:
    """|T_{i…i}|^{-1/k}, so that the verdict does not depend on scales; 1 where that entry vanishes."""
    pure = np.abs([T[(i,) * T.order] for i in range(T.n_dim)])
    return np.where(pure > 0, np.where(pure > 0, pure, 1.0) ** (-1 / T.order), 1.0)


def _rescaled(T: SymmetricTensor, unit: np.ndarray) -> SymmetricTensor:
    return SymmetricTensor.from_packed(T.packed * unit[T.indices].prod(axis=1), T.n_dim, T.order)


def _maximize_on_sphere(form: Polynomial, n_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Projected ascent of the form from random and coordinate directions; (n_dim, n) directions and their values."""
    rng = np.random.default_rng(0)
    v = np.concatenate([np.eye(n_dim)[:, : min(n_dim, _STARTS)], rng.normal(size=(n_dim, _STARTS))], axis=1)
    v /= np.linalg.norm(v, axis=0)
    value, gradient = _form(form, v)
    step = np.full(v.shape[1], 0.5)
    for _ in range(_STEPS):
        tangent = gradient - v * np.sum(v * gradient, axis=0)
        trial = v + step * tangent / (np.linalg.norm(gradient, axis=0) + 1e-300)
        trial /= np.linalg.norm(trial, axis=0)
        trial_value, trial_gradient = _form(form, trial)
        better = trial_value > value
        v, gradient = np.where(better, trial, v), np.where(better, trial_gradient, gradient)
        value, step = np.where(better, trial_value, value), np.where(better, np.minimum(1.5 * step, 2.0), 0.4 * step)
    return v, value


def _form(form: Polynomial, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    value, gradient = np.zeros(v.shape[1]), np.empty_like(v)
    _kernels.value_and_score(form, np.ascontiguousarray(v), value, gradient)
    return value, gradient


def _falls_along(action: Action, v: np.ndarray, order: int) -> bool:
    """Does t ↦ S(at + t v) tend to −∞ on both sides, given that order `order` vanishes along v?"""
    for k in range(order - 1, 0, -1):
        T = action._powers.get(k)
        if T is not None and T.values.any():
            value = float(_form(polynomial({k: T}, action.n_dim), v[:, None])[0][0])
            if abs(value) > _ZERO * T.norm() * np.linalg.norm(v) ** k:
                return k % 2 == 0 and value < 0
    return False
