"""Can exp S be integrated?

Far out the highest powers decide. Give every variable a weight and let x_i = t^{weight_i} v_i: the monomials of highest weighted degree
are the leading form P, and S(x) grows along these curves like P(v) times a power of t that all others stay below. P > 0 anywhere is a
counter-example, P < 0 everywhere is sufficient. Let variable i have the highest pure power −a_i x_i^{k_i}. Where all k_i are even and all
a_i positive the weights 1/k_i are tried; equal weights, for which P is A^(K)[v, …, v], in any case. What is decided *exactly*:

* K odd, or a highest pure power that is odd or positive: not normalizable.
* K = 2: −A^(2) positive definite, by its eigenvalues.
* Dominance. With y_i = a_i |x_i|^{k_i} the inequality of the means bounds a monomial of weighted degree 1,

      |c x_{i1} ⋯ x_{ik}| ≤ |c| Π_j a_{ij}^{−1/k_{ij}} Σ_j y_{ij}/k_{ij};

  if for every i the shares of y_i add up to less than 1, exp S is integrable. It takes one pass over the entries, settles every theory
  with local powers, such as φ⁴ on any graph, and n_dim = 1.
* n_dim = 2: P(±1, t) and P(0, ±1) have no real roots and are negative, by exact root counting (Sturm).
* Squares. P = Σ_IJ G_IJ x_I x_J over unique index tuples I, J of half the order. If G is negative definite, −P is a sum of squares. G is
  not unique: for order 4, G + ε (|δ⟩⟨δ| − 1), with the trace δ of pairs, is the same form for every ε.

Otherwise P is maximized from many starts. A positive maximum is a counter-example and final; a negative one is evidence, not proof, and
is called *sampled*. Where P vanishes along a curve the lower orders are asked there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from . import _kernels
from .action import Action
from .errors import NotNormalizableError
from .polynomial import Polynomial, polynomial
from .series import product_ranks
from .tensors import SymmetricTensor, colex_indices, multiplicity, packed_size

_STARTS = 64
_STEPS = 60
_CURVES = 256
_ZERO = 1e-9  # relative to the norm of the form
_ROUNDING = 1e-12
_MOST_SQUARES = 1500  # rows of the matrix G that may be factorized


@dataclass(frozen=True)
class Normalizability:
    """A verdict.

    Attributes
    ----------
    normalizable : bool
    how : {"exact", "sampled"}
        Whether the verdict is proved, to rounding, or rests on sampled directions.
    reason : str
        One sentence.
    """

    normalizable: bool
    how: str
    reason: str


def normalizability(action: Action) -> Normalizability:
    """Whether exp S has a finite integral over R^n_dim; see the module for what is decided how."""
    powers = {k: T for k, T in sorted(action._powers.items()) if k > 0 and T.values.any()}
    order = max(powers, default=0)
    if order == 0:
        return Normalizability(False, "exact", "the action is constant, exp S cannot be integrated.")
    if order % 2:
        return Normalizability(False, "exact", f"the leading order {order} is odd, so exp S grows without bound in some direction.")
    top, degree = _highest_pure_powers(powers, action.n_dim)
    rising = (degree > 0) & ((top > 0) | (degree % 2 == 1))
    if rising.any() and order > 2:
        i = int(rising.argmax())
        return Normalizability(False, "exact", f"the highest power of variable {i} alone, {degree[i]}, is {_sign(top[i])}, so that exp S "
                                               "grows without bound along it.")
    held = bool(np.all(degree > 0)) and not rising.any()
    if held and _dominated(powers, top, degree):
        return Normalizability(True, "exact", "the highest powers of the single variables are negative and outweigh all others.")
    if order == 2:
        return _gaussian(powers[2])
    return _by_leading_forms(powers, top, degree, held)


def require_normalizable(action: Action) -> None:
    """Raise `NotNormalizableError` with the reason unless the action is normalizable."""
    verdict = normalizability(action)
    if not verdict.normalizable:
        raise NotNormalizableError(f"action must be normalizable to be a density, it is not: {verdict.reason}")


def _sign(value: float) -> str:
    return "positive" if value > 0 else "negative and odd"


def _highest_pure_powers(powers: Mapping[int, SymmetricTensor], n_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficient and exponent of the highest x_i^k of every variable; exponent 0 where there is none."""
    top, degree = np.zeros(n_dim), np.zeros(n_dim, dtype=int)
    for k, T in powers.items():
        pure = np.all(T.indices == T.indices[:, :1], axis=1) & (T.values != 0)
        top[T.indices[pure, 0]], degree[T.indices[pure, 0]] = T.values[pure], k
    return top, degree


def _dominated(powers: Mapping[int, SymmetricTensor], top: np.ndarray, degree: np.ndarray) -> bool:
    """Do the shares that mixed monomials take of −top_i x_i^{degree_i} add up to less than 1 for every i?"""
    share, unit = np.zeros(len(top)), (-top) ** (-1 / degree)
    for k, T in powers.items():
        harmful = T.values != 0
        if k % 2 == 0:  # a negative even monomial only helps
            harmful &= (T.values > 0) | np.any(T.indices[:, ::2] != T.indices[:, 1::2], axis=1)
        index = T.indices[harmful]
        weight = (1 / degree)[index].sum(axis=1)
        if np.any(weight > 1 + _ZERO):
            return False
        bound = np.where(weight > 1 - _ZERO, np.abs(T.values * T.multiplicity)[harmful] * unit[index].prod(axis=1), 0.0)
        share += np.bincount(index.ravel(), (bound[:, None] / degree[index]).ravel(), len(top))
    return bool(share.max() < 1 - _ROUNDING)


def _gaussian(quadratic: SymmetricTensor) -> Normalizability:
    precision = -2 * quadratic.dense()
    diagonal = np.diag(precision)
    if diagonal.min() > 0:  # in units of each variable, so that the verdict does not depend on scales
        precision = precision / np.sqrt(np.outer(diagonal, diagonal))
    values = np.linalg.eigvalsh(precision)
    if diagonal.min() > 0 and values[0] > _ROUNDING:
        return Normalizability(True, "exact", "the action is a normalizable Gaussian.")
    return Normalizability(False, "exact", f"−A^(2) must be positive definite, the smallest eigenvalue of −2 A^(2), each "
                                           f"variable in its own unit, is {values[0]:.3g}.")


def _by_leading_forms(powers: Mapping[int, SymmetricTensor], top: np.ndarray, degree: np.ndarray, held: bool) -> Normalizability:
    """The leading form with one over each variable's highest power as weights, where these hold it, then with equal weights."""
    order = max(powers)
    equal = np.full(len(top), 1 / order)
    for weights in ([1 / degree, equal] if held and np.any(degree != order) else [equal]):
        unit = np.where(np.isclose(degree * weights, 1), np.abs(top), 1.0) ** -weights  # the verdict must not depend on scales
        scaled = {k: _rescaled(T, unit) for k, T in powers.items()}
        heaviest = max(weights[T.indices[T.values != 0]].sum(axis=1).max() for T in powers.values())
        form = {k: part for k, T in scaled.items() if (part := _of_weight(T, weights, heaviest)).values.any()}
        if _negative_by_roots(form) or _negative_by_squares(form):
            return Normalizability(True, "exact", f"the leading form, of order {order}, is negative in every direction.")
        verdict = _sampled(scaled, form, weights, unit)
        if not verdict.normalizable:
            return verdict
    if _rises_along_a_random_curve(scaled, weights):
        return Normalizability(False, "exact", "exp S grows without bound along a curve on which some variables stay behind the others.")
    return verdict


def _of_weight(T: SymmetricTensor, weights: np.ndarray, weight: float) -> SymmetricTensor:
    kept = np.abs(weights[T.indices].sum(axis=1) - weight) < _ZERO
    return SymmetricTensor.from_entries(T.indices[kept], T.values[kept], T.n_dim)


def _rescaled(T: SymmetricTensor, unit: np.ndarray) -> SymmetricTensor:
    return SymmetricTensor.from_entries(T.indices, T.values * unit[T.indices].prod(axis=1), T.n_dim)


def _negative_by_roots(form: Mapping[int, SymmetricTensor]) -> bool:
    """In two dimensions, whether the form is negative on the lines x = ±1 and at (0, ±1), which every curve meets once."""
    if next(iter(form.values())).n_dim != 2:
        return False
    from sympy import QQ, Poly, Rational, Symbol

    lines = []
    for sign in (1, -1):
        coefficients = {}
        for k, T in form.items():
            for index, value, m in zip(T.indices.tolist(), T.values.tolist(), T.multiplicity.tolist()):
                power = sum(index)
                coefficients[power] = coefficients.get(power, 0) + sign ** (k - power) * m * Rational(value)
        lines.append(Poly(coefficients, Symbol("t"), domain=QQ))
    ends = [sum(sign**k * T[(1,) * k] for k, T in form.items()) for sign in (1, -1)]
    return max(ends) < 0 and all(line.eval(0) < 0 and line.count_roots() == 0 for line in lines)


def _negative_by_squares(form: Mapping[int, SymmetricTensor]) -> bool:
    """Is a matrix G of the form negative definite? Asked only where the form has one order."""
    order, n_dim = max(form), form[max(form)].n_dim
    half = order // 2
    if len(form) > 1 or order % 2 or n_dim > _MOST_SQUARES or packed_size(n_dim, half) > _MOST_SQUARES:
        return False
    index = colex_indices(n_dim, half)
    root = np.sqrt(multiplicity(index))
    minus_G = -form[order].packed[product_ranks(n_dim, half, half)] * np.outer(root, root)
    trace = np.all(index == index[:, :1], axis=1).astype(float)
    null = np.eye(len(root)) - np.outer(trace, trace)
    size = np.abs(minus_G).max()
    shifts = size * np.concatenate([[0.0], 2.0 ** np.arange(-8, 1)]) if order == 4 else [0.0]
    return any(_positive_definite(minus_G + epsilon * null, size) for epsilon in shifts)


def _positive_definite(matrix: np.ndarray, size: float) -> bool:
    try:
        np.linalg.cholesky(matrix - _ROUNDING * len(matrix) * size * np.eye(len(matrix)))
    except np.linalg.LinAlgError:
        return False
    return True


def _sampled(powers: Mapping[int, SymmetricTensor], form: Mapping[int, SymmetricTensor], weights: np.ndarray,
             unit: np.ndarray) -> Normalizability:
    directions, values = _maximize_on_sphere(polynomial(dict(form), len(unit)), len(unit))
    scale, order = np.sqrt(sum(T.norm() ** 2 for T in form.values())), max(powers)
    if values.max() > _ZERO * scale:
        worst = ", ".join(f"{v:.2g}" for v in (unit * directions[:, values.argmax()])[:6]) + (", …" if len(unit) > 6 else "")
        return Normalizability(False, "exact", f"the leading order {order} is positive along the direction ({worst}).")
    flat = directions[:, values > -_ZERO * scale].T
    trends = [_trend(powers, weights, v) for direction in flat for v in (direction, -direction)]
    if max(trends, default=-1) > 0:
        return Normalizability(False, "exact", f"the leading order {order} vanishes in a direction where lower orders rise.")
    if 0 in trends:
        return Normalizability(False, "sampled", f"the leading order {order} vanishes in a direction along which S stays constant.")
    return Normalizability(True, "sampled", f"the leading order {order} is negative along all directions that were driven towards "
                                            "its maximum.")


def _maximize_on_sphere(form: Polynomial, n_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Projected ascent of the form from random and coordinate directions; (n_dim, n) directions and their values."""
    rng = np.random.default_rng(0)
    v = np.concatenate([np.eye(n_dim, min(n_dim, _STARTS)), rng.normal(size=(n_dim, _STARTS))], axis=1)
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


def _rises_along_a_random_curve(powers: Mapping[int, SymmetricTensor], weights: np.ndarray) -> bool:
    """Valleys of S in which only some of the variables run away: the others get the weight 0."""
    rng = np.random.default_rng(0)
    moving = weights * (rng.random((_CURVES, len(weights))) < 0.5)
    v = rng.choice([-1.0, 1.0], size=moving.shape) * 10 ** rng.uniform(-1, 1, size=moving.shape)
    return any(_trend(powers, *curve) > 0 for curve in zip(moving, v) if curve[0].any())


def _trend(powers: Mapping[int, SymmetricTensor], weights: np.ndarray, v: np.ndarray) -> int:
    """Sign of the highest power of t in S(t^{weights} v) that does not vanish: −1 falls, 1 rises, 0 stays constant."""
    terms = [((T.values * T.multiplicity) * v[T.indices].prod(axis=1), T.values, weights[T.indices].sum(axis=1)) for T in powers.values()]
    value, entry, weight = (np.concatenate(parts) for parts in zip(*terms))
    noise = _ROUNDING * np.linalg.norm(entry)
    for group in np.unique(np.round(weight[weight > 0], 6))[::-1]:
        here = np.abs(weight - group) < 1e-6
        if abs(value[here].sum()) > max(noise, _ZERO * np.linalg.norm(entry[here])):
            return int(np.sign(value[here].sum()))
    return 0
