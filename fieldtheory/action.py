"""The action S(x) = ln p(x) + const of a density, as a polynomial around a base point.

    S(x) = Σ_k Σ_{i1…ik} A^(k)_{i1…ik} u_{i1} ⋯ u_{ik},    u = x − at,

full sums, symmetric tensors, no 1/k!; k! A^(k) is the vertex. What the couplings mean is the *gauge*:

* ``exact`` — S is this polynomial, all of it. Only such an action may be recentred.
* ``taylor`` — the Taylor polynomial of some S at `at`.
* ``normal_ordered`` — A^(k) = E_q[∇^k S]/k! over a stated Gaussian q = N(at, covariance).
* ``projection`` — the best polynomial on stated samples.

Under x = M y + b a density picks up the Jacobian, S'(y) = S(My + b) + ln|det M|, and

    A'^(k) = Σ_{m ≥ k} C(m, k) A^(m)[M, …, M, c, …, c],    c = b − at,

with k legs M and m − k legs c: exact for the full polynomial only. A Taylor polynomial that was cut and is then shifted is wrong
in every order, which is why a cut action keeps its base point and refuses to leave it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from math import factorial
from typing import TYPE_CHECKING

import numpy as np

from . import _kernels, files, memory, series
from .arrays import _as_real, as_count, as_covariance, as_points, as_vector
from .errors import FieldTheoryError, FileFormatError, GaugeError, InputError
from .polynomial import Polynomial, polynomial
from .tensors import SymmetricTensor

if TYPE_CHECKING:
    import networkx as nx

GAUGES = ("exact", "taylor", "normal_ordered", "projection")
_FILE_CONVENTION = "S = ln p = sum_k A^(k) (x - at)^k, unique entries in colex order, or those that indices_k names"
_LANES, _LANE_ENTRIES = 256, 2**16  # points per kernel call, and their coordinates: x, score and buffers stay in the cache


class Action:
    """A polynomial action.

    Parameters
    ----------
    couplings : mapping of int to array_like or SymmetricTensor
        A^(k) by order k: a number for k = 0, dense symmetric arrays of shape (n_dim,)*k or packed tensors above. Missing orders
        are zero.
    at : array_like, shape (n_dim,), optional
        Base point, the origin by default.
    gauge : {"exact", "taylor", "normal_ordered", "projection"}
        What the couplings mean, see the module.
    covariance : array_like, shape (n_dim, n_dim), optional
        Of the Gaussian q = N(at, covariance); required by, and only by, ``normal_ordered``.
    names : sequence of str, optional
        One name per variable.
    standard_error : mapping of int to SymmetricTensor, optional
        By order, of the entries of couplings that were averaged or fitted; none by default.

    Raises
    ------
    InputError
        Couplings that are not symmetric, not finite, or of different n_dim; no coupling of order ≥ 1; unknown gauge.

    Examples
    --------
    >>> S = Action({2: [[-0.5]], 4: [[[[-0.1]]]]})
    >>> float(S([1.0]))
    -0.6
    """

    def __init__(self, couplings: Mapping, at=None, gauge: str = "exact", covariance=None, names=None, standard_error=None):
        self.couplings = _checked_couplings(couplings)
        self.n_dim = _common_n_dim(self.couplings)
        self.at = np.zeros(self.n_dim) if at is None else as_vector(at, self.n_dim, "at").copy()
        self.at.setflags(write=False)
        if gauge not in GAUGES:
            raise InputError(f"gauge must be one of {', '.join(GAUGES)}, got {gauge!r}.")
        if (gauge == "normal_ordered") != (covariance is not None):
            raise InputError("covariance must be given for a normal_ordered action and for no other: it is that of q.")
        self.gauge = gauge
        self.covariance = None if covariance is None else as_covariance(covariance)
        self.names = None if names is None else tuple(map(str, names))
        if self.names is not None and len(self.names) != self.n_dim:
            raise InputError(f"names must hold one name per variable, got {len(self.names)} for {self.n_dim} variables.")
        self.standard_error = _checked_errors(standard_error or {}, self.couplings)

    @property
    def order(self) -> int:
        """The highest order that is stored."""
        return max(self.couplings)

    def __getitem__(self, index) -> float:
        """One entry: ``S[0, 1, 1]`` is A^(3)_011 and ``S[()]`` is A^(0)."""
        index = index if isinstance(index, tuple) else (index,)
        return self._coupling(len(index))[index]

    def __call__(self, x) -> np.ndarray:
        """S(x) in nats; x of shape (..., n_dim) gives shape (...)."""
        return self._evaluate(x)[0]

    def score(self, x) -> np.ndarray:
        """∇S(x), shape (..., n_dim)."""
        return self._evaluate(x)[1]

    def value_and_score(self, x) -> tuple[np.ndarray, np.ndarray]:
        """S(x) and ∇S(x) in one pass, shapes (...) and (..., n_dim)."""
        return self._evaluate(x)

    def hessian(self, x) -> np.ndarray:
        """∂_i ∂_j S(x), shape (..., n_dim, n_dim)."""
        x = as_points(x, self.n_dim)
        memory.require(8 * x.size * self.n_dim, f"the Hessian in {self.n_dim} variables", "use hessian_vector")
        out = np.empty((x.size // self.n_dim, self.n_dim, self.n_dim))
        for block, lanes in _lanes((x - self.at).reshape(-1, self.n_dim)):
            second = np.empty((self.n_dim, *lanes.shape))
            _kernels.hessian(self.polynomial, lanes, second)
            out[block] = np.moveaxis(second, -1, 0)
        return out.reshape(*x.shape, self.n_dim)

    def hessian_vector(self, x, v) -> np.ndarray:
        """Σ_j ∂_i ∂_j S(x) v_j without the Hessian; x and v of shapes (..., n_dim) that fit together."""
        x, v = np.broadcast_arrays(as_points(x, self.n_dim), as_points(v, self.n_dim, "v"))
        out = np.empty((x.size // self.n_dim, self.n_dim))
        directions = v.reshape(-1, self.n_dim)
        for block, lanes in _lanes((x - self.at).reshape(-1, self.n_dim)):
            product = np.empty_like(lanes)
            _kernels.hessian_vector(self.polynomial, lanes, np.ascontiguousarray(directions[block].T), product)
            out[block] = product.T
        return out.reshape(x.shape)

    @cached_property
    def polynomial(self) -> Polynomial:
        """The polynomial in u = x − at without its constant, as the kernels read it."""
        return polynomial(self._powers, self.n_dim)

    @cached_property
    def _powers(self) -> dict[int, SymmetricTensor]:
        """Coefficients of plain powers of x − at; they are the couplings except where those are normal-ordered."""
        if self.gauge != "normal_ordered":
            return self.couplings
        return series.gaussian_average(self.couplings, self.covariance, sign=-1.0)

    def _evaluate(self, x) -> tuple[np.ndarray, np.ndarray]:
        x = as_points(x, self.n_dim)
        u = (x - self.at).reshape(-1, self.n_dim)
        value = np.full(len(u), self._powers[0].values[0] if 0 in self._powers else 0.0)
        score = np.empty_like(u)
        for block, lanes in _lanes(u):
            gradient = np.empty_like(lanes)
            _kernels.value_and_score(self.polynomial, lanes, value[block], gradient)
            score[block] = gradient.T
        return value.reshape(x.shape[:-1]), score.reshape(x.shape)

    def truncate(self, order: int) -> Action:
        """Drop the couplings above `order`; an exact action that loses something becomes ``taylor``."""
        order = as_count(order, "order")
        kept = {k: T for k, T in self.couplings.items() if k <= order}
        lost = any(T.values.any() for k, T in self.couplings.items() if k > order)
        if not any(kept):
            kept[order] = SymmetricTensor.zeros(self.n_dim, order)
        errors = {k: T for k, T in self.standard_error.items() if k <= order}
        return self._like(kept, gauge="taylor" if lost and self.gauge == "exact" else self.gauge, standard_error=errors)

    def recenter(self, at) -> Action:
        """The same function, with its couplings at another base point.

        Raises
        ------
        GaugeError
            The action is not exact: extract it anew at that point with ``to_action(..., at=)``.
        """
        at = as_vector(at, self.n_dim, "at")
        self._require_exact("recentred")
        return self._like(series.shifted(self.couplings, at - self.at), at=at)

    def pullback(self, matrix, shift=None) -> Action:
        """S'(y) = S(M y + b) + ln|det M|, the action of y when x = M y + b; no determinant where M is not square.

        M, dense or scipy.sparse, has shape (n_dim, n_new) and full column rank; see `calculus.pullback`.
        """
        from .calculus import pullback

        return pullback(self, matrix, shift)

    def restrict(self, fixed: Mapping) -> Action:
        """S as a function of the variables not in `fixed` = {index or name: value}; see `calculus.restrict`."""
        from .calculus import restrict

        return restrict(self, fixed)

    def compose(self, polynomial: Mapping, order: int):
        """S(f(y)) up to `order` and what that drops, for f(y) = Σ_d f_d[y, …, y] as {d: f_d}; see `calculus.compose`."""
        from .calculus import compose

        return compose(self, polynomial, order)

    def normal_order(self, mean, covariance) -> Action:
        """Couplings averaged over q = N(mean, covariance): A^(k) = E_q[∇^k S]/k!, exactly.

        Wick's theorem gives A'^(k) = Σ_j (k + 2j)!/(k! j! 2^j) A^(k+2j)[Σ, …, Σ] with j pairs of legs closed by the covariance,
        around the mean.

        Raises
        ------
        GaugeError
            The action is not exact.
        """
        centred = self.recenter(mean)
        covariance = as_covariance(covariance)
        averaged = series.gaussian_average(centred.couplings, covariance, sign=1.0)
        return Action(averaged, centred.at, "normal_ordered", covariance, self.names)

    def vertex(self, order: int, at=None) -> SymmetricTensor:
        """k! A^(k), the k-th derivative of S at the base point, or at another one if the action is exact."""
        action = self if at is None else self.recenter(at)
        return factorial(order) * action._coupling(as_count(order, "order", minimum=0))

    def propagator(self, at=None) -> np.ndarray:
        """Δ = (−2A^(2))^{-1} at the base point, or at another one if the action is exact; see `stationary.propagator`."""
        from .stationary import propagator

        return propagator(self, at)

    def modes(self, n_starts: int = 64, seed: int = 0) -> tuple:
        """Stationary points of S from many starts, classified, the highest first; see `stationary.modes`."""
        from .stationary import modes

        return modes(self, n_starts, seed)

    def laplace(self, n_starts: int = 64, seed: int = 0):
        """ln ∫ exp S from the maxima of S, with the two-loop diagrams as its error; see `stationary.laplace`."""
        from .stationary import laplace

        return laplace(self, n_starts, seed)

    def integrate_out(self, variables) -> Action:
        """ln ∫ dy exp S over variables y that enter quadratically, given by index or name; see `fieldtheory.integration`."""
        from .integration import integrate_out

        return integrate_out(self, variables)

    @classmethod
    def from_sympy(cls, expression, symbols, at=None) -> Action:
        """The action a sympy expression with numeric coefficients writes out; see `fieldtheory.expressions.from_sympy`."""
        from .expressions import from_sympy

        return from_sympy(expression, symbols, at)

    def to_sympy(self, symbols=None):
        """S as a sympy expression that `from_sympy` reads back bit for bit; see `fieldtheory.expressions.to_sympy`."""
        from .expressions import to_sympy

        return to_sympy(self, symbols)

    def to_text(self) -> str:
        """S as text that `fieldtheory.parse_action` reads back bit for bit; see `fieldtheory.notation.to_text`."""
        from .notation import to_text

        return to_text(self)

    def _repr_latex_(self) -> str:
        from .notation import to_latex

        return to_latex(self)

    def __add__(self, other: Action) -> Action:
        if not isinstance(other, Action):
            return NotImplemented
        if other.n_dim != self.n_dim:
            raise InputError(f"actions must have the same n_dim, got {self.n_dim} and {other.n_dim}.")
        if self.gauge == other.gauge == "exact":
            other = other.recenter(self.at)
        require_same_gauge(self, other)
        orders = sorted({*self.couplings, *other.couplings})
        return self._like({k: self._coupling(k) + other._coupling(k) for k in orders})

    def __sub__(self, other: Action) -> Action:
        return self + (-other)

    def __mul__(self, factor: float) -> Action:
        return self._like({k: float(factor) * T for k, T in self.couplings.items()})

    __rmul__ = __mul__

    def __neg__(self) -> Action:
        return -1.0 * self

    def __repr__(self) -> str:
        norms = ", ".join(f"|A{k}|={T.norm():.4g}" for k, T in self.couplings.items() if k)
        return f"Action(n_dim={self.n_dim}, order={self.order}, gauge={self.gauge!r}, {norms})"

    def save(self, path, provenance: Mapping | None = None):
        """Write one ``.safetensors`` file with a JSON header, whole or not at all.

        `provenance` is anything JSON can hold that says where the couplings came from.
        """
        from . import __version__

        sparse = {k: T for k, T in self.couplings.items() if T.storage == "sparse"}
        arrays = {f"coupling_{k}": T.values for k, T in self.couplings.items()} | {"at": self.at}
        arrays |= {f"indices_{k}": T.indices for k, T in sparse.items()}
        arrays |= {f"error_{k}": T.packed for k, T in self.standard_error.items()}
        if self.covariance is not None:
            arrays["covariance"] = self.covariance
        header = {"n_dim": self.n_dim, "orders": sorted(self.couplings), "sparse": sorted(sparse), "gauge": self.gauge, "names": self.names,
                  "convention": _FILE_CONVENTION, "version": __version__, "provenance": provenance or {}}
        return files.write(path, "action", arrays, header)

    @classmethod
    def load(cls, path) -> Action:
        """Read what `save` wrote, bit for bit; raises `FileFormatError` on anything else."""
        arrays, header = files.read(path, "action")
        try:
            n_dim, orders = as_count(header["n_dim"], "n_dim"), [as_count(k, "order", minimum=0) for k in header["orders"]]
            couplings = {k: _stored(arrays, n_dim, k, k in header.get("sparse", ())) for k in orders}
            errors = {k: SymmetricTensor.from_packed(arrays[f"error_{k}"], n_dim, k) for k in orders if f"error_{k}" in arrays}
            return cls(couplings, arrays["at"], header["gauge"], arrays.get("covariance"), header["names"], errors)
        except (FieldTheoryError, KeyError, TypeError, AttributeError) as error:
            raise FileFormatError(f"{path} must hold a complete action, its header and arrays do not fit together: "
                                  f"{error}") from None

    def to_graph(self, threshold: float = 0.0) -> nx.Graph:
        """The interaction graph, pairs as weighted edges and higher couplings as hyperedge nodes; see `fieldtheory.graphs`."""
        from .graphs import to_graph

        return to_graph(self, threshold)

    @classmethod
    def from_graph(cls, graph: nx.Graph) -> Action:
        """The action of an interaction graph, or of any networkx graph with weights; see `fieldtheory.graphs`."""
        from .graphs import from_graph

        return from_graph(graph)

    def _coupling(self, order: int) -> SymmetricTensor:
        if order in self.couplings:
            return self.couplings[order]
        return SymmetricTensor.zeros(self.n_dim, order)

    def _like(self, couplings: dict, at=None, gauge: str | None = None, standard_error=None) -> Action:
        return Action(couplings, self.at if at is None else at, gauge or self.gauge, self.covariance, self.names, standard_error)

    def _require_exact(self, what: str) -> None:
        if self.gauge != "exact":
            raise GaugeError(f"only an exact action may be {what}, this one is {self.gauge} at its own base point; extract it "
                             "anew there with to_action(..., at=).")


def _stored(arrays: Mapping, n_dim: int, order: int, is_sparse: bool) -> SymmetricTensor:
    values = arrays[f"coupling_{order}"]
    if not is_sparse:
        return SymmetricTensor.from_packed(values, n_dim, order)
    indices = arrays[f"indices_{order}"]
    if indices.shape[1:] != (order,):
        raise InputError(f"indices of order {order} must have shape (n_entries, {order}), got {indices.shape}.")
    return SymmetricTensor.from_entries(indices, values, n_dim)


def require_same_gauge(first: Action, second: Action) -> None:
    """Raise `GaugeError` unless couplings of the two actions mean the same thing."""
    if first.gauge != second.gauge:
        raise GaugeError(f"actions must share their gauge, got {first.gauge} and {second.gauge}; bring an exact one to the other "
                         "with recenter(...).truncate(...) or normal_order(...), or extract both the same way.")
    scale = 1.0 + np.abs(first.at).max()
    if np.abs(first.at - second.at).max() > 1e-12 * scale:
        raise GaugeError("actions must share their base point, theirs differ by "
                         f"{np.abs(first.at - second.at).max():.2g}; extract both with the same to_action(..., at=).")
    if first.covariance is not None and not np.allclose(first.covariance, second.covariance, rtol=1e-12, atol=0):
        raise GaugeError("normal-ordered actions must share the Gaussian they are averaged over, their covariances differ.")


def _lanes(u: np.ndarray):
    """Slices of the rows of u (n, n_dim), each with its points as lanes."""
    n_lanes = min(_LANES, max(1, _LANE_ENTRIES // u.shape[1]))
    for start in range(0, len(u), n_lanes):
        block = slice(start, start + n_lanes)
        yield block, np.ascontiguousarray(u[block].T)


def _checked_couplings(couplings: Mapping) -> dict[int, SymmetricTensor]:
    if not isinstance(couplings, Mapping):
        raise InputError(f"couplings must be a mapping {{order: array}}, got {type(couplings).__name__}.")
    return {as_count(k, "order of a coupling", minimum=0): _as_coupling(k, T) for k, T in sorted(couplings.items())}


def _as_coupling(order: int, values) -> SymmetricTensor | float:
    if isinstance(values, SymmetricTensor):
        tensor = values
    elif order == 0:
        array = _as_real(values, "the constant A^(0)")
        if array.size != 1 or not np.isfinite(array).all():
            raise InputError(f"the constant A^(0) must be one finite number, got {values!r}.")
        return float(array.reshape(()))
    else:
        tensor = SymmetricTensor.from_dense(values)
    if tensor.order != order:
        raise InputError(f"the coupling under key {order} must be of order {order}, got order {tensor.order}.")
    return tensor


def _checked_errors(errors: Mapping, couplings: Mapping) -> dict[int, SymmetricTensor]:
    for k, T in errors.items():
        if k not in couplings or (T.order, T.n_dim) != (k, couplings[k].n_dim):
            raise InputError(f"standard_error must hold tensors like the couplings by their orders {list(couplings)}, got one of order "
                             f"{T.order} and n_dim {T.n_dim} under key {k}.")
    return dict(errors)


def _common_n_dim(couplings: dict) -> int:
    sizes = {k: T.n_dim for k, T in couplings.items() if k > 0}
    if not sizes:
        raise InputError("an action must have a coupling of order 1 or more, got none; n_dim is read off it.")
    if len(set(sizes.values())) > 1:
        raise InputError(f"all couplings must have the same n_dim, got {sizes} by order.")
    n_dim = next(iter(sizes.values()))
    if isinstance(couplings.get(0), float):
        couplings[0] = SymmetricTensor.from_packed([couplings[0]], n_dim, 0)
    return n_dim
