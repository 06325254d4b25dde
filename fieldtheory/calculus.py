"""Actions of other variables.

* `pullback` — x = My + b: S'(y) = S(My + b), plus ln|det M| where M is square and y has a density of its own,

      A'^(k) = Σ_{m ≥ k} C(m, k) A^(m)[M, …, M, c, …, c],    c = b − at.

* `restrict` — some variables held fixed: as a function of the others, ln p of these given those, up to a constant.
* `direct_sum` — independent variables side by side, S(x) + T(y).
* `compose` — S(f(y)) for a polynomial map f, to a given order, with what was dropped.

None of them writes out a full tensor where entries are few: A_I x_I becomes a handful of monomials of the new variables, and those
that agree are added up.

A cut (taylor) action is known at its base point only. It goes through a map whose image contains that point, and is refused
elsewhere: the orders that were cut would feed all others. Couplings that are averages, over a Gaussian or over samples, survive
invertible maps alone, since what they are averaged over spreads off the image of any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy import sparse

from . import series
from .action import Action
from .arrays import _as_real, _refuse_non_finite, as_count, as_vector
from .errors import GaugeError, InputError
from .tensors import SymmetricTensor


def pullback(action: Action, matrix, shift=None) -> Action:
    """S(My + b) + ln|det M|, the action of y when x = My + b; no determinant where M is not square.

    An exact action comes back around y = 0; any other keeps its base point, which must lie on the image of the map.

    Parameters
    ----------
    action : Action
    matrix : array_like or scipy.sparse array, shape (n_dim, n_new)
        M, of full column rank. Scales, permutations and stencils are best given as sparse: they keep local couplings local.
    shift : array_like, shape (n_dim,), optional
        b, zero by default.

    Raises
    ------
    InputError
        M is not finite or has dependent columns.
    GaugeError
        M is rectangular, and a taylor action has its base point off the image, or the couplings are averages.
    """
    M = _as_matrix(matrix, action.n_dim)
    b = np.zeros(action.n_dim) if shift is None else as_vector(shift, action.n_dim, "shift")
    solve, log_det = _inverse(M)
    if log_det is None:
        _require_local(action, "pulled back by a rectangular matrix")
    exact = action.gauge == "exact"
    at = np.zeros(M.shape[1]) if exact else _preimage(M, solve, action.at - b)
    rows = sparse.csr_array(M)
    couplings = series.shifted(action.couplings, b - action.at) if exact else action.couplings
    couplings = {k: T.transform(rows) for k, T in couplings.items()}
    if log_det is not None:
        constant = couplings[0][()] if 0 in couplings else 0.0
        couplings[0] = SymmetricTensor.from_entries([[]], [constant + log_det], M.shape[1])
    covariance = None if action.covariance is None else solve(solve(action.covariance).T)
    return Action(couplings, at, action.gauge, covariance)


def restrict(action: Action, fixed: Mapping) -> Action:
    """S as a function of the variables that are not fixed: ln p of these given those, up to a constant.

    Parameters
    ----------
    action : Action
    fixed : mapping of int or str to float
        Values by index or name of the variable.

    Returns
    -------
    Action
        Of the free variables in their order, with their names and their part of the base point.

    Raises
    ------
    InputError
        Unknown variables, or none left free.
    GaugeError
        A taylor action is held off its base point, or the couplings are averages.
    """
    place, value = _held(action, fixed)
    displacement = value - action.at[place]
    if action.gauge != "exact":
        _require_local(action, "restricted")
        _require_at_base(np.abs(displacement).max(initial=0.0), np.abs(action.at).max(), "the values it is held at")
        displacement = np.zeros(len(place))
    free, factor = np.ones(action.n_dim, dtype=bool), np.ones(action.n_dim)
    free[place], factor[place] = False, displacement
    names = None if action.names is None else [name for name, kept in zip(action.names, free) if kept]
    return Action(_restricted(action.couplings, free, factor), action.at[free], action.gauge, names=names)


def direct_sum(*actions: Action) -> Action:
    """S(x) + T(y) + …, the action of independent variables side by side.

    Parameters
    ----------
    *actions : Action
        In one gauge; q of normal_ordered ones becomes the product of theirs.

    Returns
    -------
    Action
        Of all variables in the order given; names are kept where every action has them.

    Raises
    ------
    InputError
        No action.
    GaugeError
        Different gauges.
    """
    if not actions:
        raise InputError("a direct sum must have at least one action, got none.")
    if len({S.gauge for S in actions}) > 1:
        raise GaugeError(f"actions must share their gauge, got {', '.join(S.gauge for S in actions)}; truncate exact ones at the order "
                         "of the others, or extract all the same way.")
    starts = np.cumsum([0, *(S.n_dim for S in actions)])
    orders = sorted({k for S in actions for k in S.couplings})
    couplings = {k: _side_by_side([(S.couplings[k], n) for S, n in zip(actions, starts) if k in S.couplings], starts[-1]) for k in orders}
    covariance = _block_diagonal([S.covariance for S in actions]) if actions[0].gauge == "normal_ordered" else None
    names = [name for S in actions for name in S.names] if all(S.names for S in actions) else None
    return Action(couplings, np.concatenate([S.at for S in actions]), actions[0].gauge, covariance, names)


@dataclass(frozen=True)
class Composition:
    """S(f(y)) up to an order, and the rest.

    Attributes
    ----------
    action : Action
        Couplings up to the order asked for, around y = 0: exact if that is all of S∘f, else taylor.
    known_order : int
        Up to which S∘f is known: its degree for an exact S, the order of S for a taylor one.
    """

    action: Action
    known_order: int
    _outer: Action = field(repr=False)
    _displacement: dict[int, np.ndarray] = field(repr=False)

    @cached_property
    def dropped(self) -> Action:
        """The known orders above the cut, computed when first asked for; a zero action if there are none.

        For an exact S, ``action(y) + dropped(y)`` is S(f(y)). Where its entries would not fit in memory it is refused, and
        S(f(y)) − ``action(y)`` at points of interest tells as much.
        """
        cut, n_dim = self.action.order, self.action.n_dim
        known = series.compose(self._outer.couplings, self._displacement, self.known_order) if self.known_order > cut else {}
        higher = {k: T for k, T in known.items() if k > cut}
        return Action(higher or {1: SymmetricTensor.from_monomials(np.zeros((0, 1)), np.zeros(0), n_dim)}, gauge=self._outer.gauge)


def compose(action: Action, polynomial: Mapping, order: int) -> Composition:
    """S(f(y)) up to `order`, and what that drops.

    This is the function alone. If f is a change of variables, the density of y has ln|det f'(y)| besides, which is no polynomial
    unless the determinant is constant.

    Parameters
    ----------
    action : Action
        exact, or taylor with its base point at f(0).
    polynomial : mapping of int to array_like
        f(y) = Σ_d f_d[y, …, y]: f_d by degree d, shape (n_dim,) + (n_new,)*d, symmetric or not; d = 0 may be missing.
    order : int
        K.

    Raises
    ------
    InputError
        Shapes that do not fit, or more orders than a taylor action knows.
    GaugeError
        f(0) is not the base point of a taylor action, or the couplings are averages.
    """
    order, f = as_count(order, "order"), _as_polynomial(polynomial, action.n_dim)
    origin = f.pop(0)
    if action.gauge == "exact":
        outer, known = action.recenter(origin), action.order * max(f)
    else:
        _require_local(action, "composed with a map")
        _require_at_base(np.abs(origin - action.at).max(), np.abs(action.at).max(), "the map's value at y = 0")
        outer, known = action, action.order
        if order > known:
            raise InputError(f"order must be at most {known}, which is all that this cut action knows, got {order}.")
    couplings = series.compose(outer.couplings, f, min(order, known))
    gauge = "exact" if action.gauge == "exact" and order >= known else "taylor"
    return Composition(Action(couplings, gauge=gauge), known, outer, f)


def _restricted(couplings: Mapping[int, SymmetricTensor], free: np.ndarray, factor: np.ndarray) -> dict[int, SymmetricTensor]:
    """Held variables turn into factors, the others are numbered anew; an entry's order is how many of its indices are free."""
    number = np.cumsum(free) - 1
    parts = {k: [(np.zeros((0, k), dtype=np.intp), np.zeros(0))] for k in couplings}
    for T in couplings.values():
        coefficient = T.values * T.multiplicity * factor[T.indices].prod(axis=1)
        left = free[T.indices]
        n_left = np.where(coefficient != 0, left.sum(axis=1), -1)
        for k in np.unique(n_left[n_left >= 0]).tolist():
            rows = n_left == k
            index = number[T.indices[rows][left[rows]]].reshape(rows.sum(), k)
            parts.setdefault(k, []).append((index, coefficient[rows]))
    return {k: SymmetricTensor.from_monomials(*map(np.concatenate, zip(*p)), int(free.sum())) for k, p in sorted(parts.items())}


def _side_by_side(blocks: list[tuple[SymmetricTensor, int]], n_dim: int) -> SymmetricTensor:
    index = np.concatenate([T.indices + start for T, start in blocks])
    return SymmetricTensor.from_monomials(index, np.concatenate([T.values * T.multiplicity for T, _ in blocks]), n_dim)


def _block_diagonal(blocks: list[np.ndarray]) -> np.ndarray:
    return sparse.block_diag(blocks).toarray()


def _as_matrix(matrix, n_dim: int):
    """M as a float64 array or CSR array of shape (n_dim, n_new ≤ n_dim)."""
    if sparse.issparse(matrix):
        M = sparse.csr_array(matrix, copy=True)
        M.data = _as_real(M.data, "matrix")
        M.sum_duplicates()
    else:
        M = _as_real(matrix, "matrix")
    if M.ndim != 2 or M.shape[0] != n_dim or not 1 <= M.shape[1] <= n_dim:
        raise InputError(f"matrix must have shape ({n_dim}, n_new) with n_new from 1 to {n_dim}, got {M.shape}; the {n_dim} variables "
                         "are functions of at most as many others.")
    _refuse_non_finite(M.data if sparse.issparse(M) else M, "matrix")
    return M


def _inverse(M) -> tuple[Callable, float | None]:
    """v ↦ the y for which My is closest to v, and ln|det M|, None if M is not square; refused without full column rank."""
    square = M.shape[0] == M.shape[1]
    length = np.sqrt(np.asarray((M * M).sum(axis=0)))  # of the columns, whose units must not matter
    if not np.all(length > 0):
        raise _singular(square)
    if sparse.issparse(M):
        return _sparse_inverse(M @ sparse.diags_array(1 / length), length, square)
    scaled = M / length
    values = np.linalg.svd(scaled, compute_uv=False)
    if values[-1] <= len(M) * np.finfo(float).eps * values[0]:
        raise _singular(square)
    log_det = np.log(values).sum() + np.log(length).sum() if square else None
    return lambda v: (np.linalg.lstsq(scaled, v)[0].T / length).T, log_det


def _sparse_inverse(scaled: sparse.csr_array, length: np.ndarray, square: bool) -> tuple[Callable, float | None]:
    from scipy.sparse.linalg import splu

    try:
        factors = splu(sparse.csc_array(scaled if square else scaled.T @ scaled))
    except RuntimeError:
        raise _singular(square) from None
    pivots = np.abs(factors.U.diagonal())
    if pivots.min() <= len(pivots) * np.finfo(float).eps * pivots.max():
        raise _singular(square)
    log_det = np.log(pivots).sum() + np.log(length).sum() if square else None
    return lambda v: (factors.solve(v if square else scaled.T @ v).T / length).T, log_det


def _singular(square: bool) -> InputError:
    if square:
        return InputError("matrix must be invertible, its determinant is 0; a density needs all its variables.")
    return InputError("matrix must have full column rank, some of its columns depend on the others; leave those out.")


def _preimage(M, solve: Callable, image: np.ndarray) -> np.ndarray:
    y = solve(image)
    _require_at_base(np.abs(M @ y - image).max(), np.abs(image).max(), "the image of the map")
    return y


def _require_local(action: Action, what: str) -> None:
    if action.gauge not in ("exact", "taylor"):
        raise GaugeError(f"only an exact or a taylor action may be {what}, this one is {action.gauge}: what its couplings are averaged "
                         "over spreads off the image; start from an exact one.")


def _require_at_base(distance: float, scale: float, what: str) -> None:
    if distance > 1e-10 * (1.0 + scale):
        raise GaugeError(f"a taylor action is known at its base point only, which lies {distance:.2g} off {what}; extract it anew with "
                         "to_action(..., at=).")


def _held(action: Action, fixed: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Positions and values of the variables to hold."""
    if not isinstance(fixed, Mapping):
        raise InputError(f"fixed must be a mapping {{variable: value}}, got {type(fixed).__name__}.")
    names = action.names or ()
    first, last = ({name: i for i, name in order} for order in (reversed([*enumerate(names)]), enumerate(names)))
    named = {name: i for name, i in first.items() if last[name] == i}  # each name that stands for one variable
    place = np.array([_position(action.n_dim, named, key) for key in fixed], dtype=np.intp)
    if len(np.unique(place)) != len(place):
        raise InputError(f"fixed must name each variable once, got {', '.join(map(str, fixed))}.")
    if len(place) == action.n_dim:
        raise InputError(f"fixed must leave a variable free, it names all {action.n_dim}; the value there is S(x).")
    return place, as_vector(list(fixed.values()), len(place), "values of fixed")


def _position(n_dim: int, named: Mapping[str, int], key) -> int:
    if isinstance(key, str):
        if key not in named:
            raise InputError(f"a variable must be an index or the name of just one, such as {', '.join([*named][:6]) or 'none here'}, got "
                             f"{key!r}.")
        return named[key]
    place = as_count(key, "index of a variable", minimum=0)
    if place >= n_dim:
        raise InputError(f"index of a variable must lie in 0 … {n_dim - 1}, got {place}.")
    return place


def _as_polynomial(polynomial: Mapping, n_dim: int) -> dict[int, np.ndarray]:
    """f_d by degree, with a part of degree 0 and of degree 1, those above that vanish left out."""
    if not isinstance(polynomial, Mapping) or not any(polynomial):
        raise InputError(f"the map must be given as {{degree: array}} with a degree of 1 or more, got {polynomial!r:.60}.")
    f = {as_count(d, "degree of the map", minimum=0): _as_real(part, f"the map's part of degree {d}") for d, part in polynomial.items()}
    n_new = f[max(f)].shape[-1] if f[max(f)].ndim else 0
    f = {0: np.zeros(n_dim), 1: np.zeros((n_dim, n_new)), **f}
    for d, part in sorted(f.items()):
        if part.shape != (n_dim,) + (n_new,) * d or part.size == 0:
            raise InputError(f"the map's part of degree {d} must have shape {(n_dim,) + (n_new,) * d}, got {part.shape}.")
        _refuse_non_finite(part, f"the map's part of degree {d}")
    return {d: part for d, part in f.items() if d < 2 or part.any()}
