"""Named theories: actions with known couplings to learn from and to test against.

* `gaussian` — S = ln N(x; mean, covariance), with its true constant.
* `phi4` — a scalar field on the nodes of any graph.
* `random_interactions` — dense random couplings of order 3 and above, convex, hence normalizable and unimodal.

`from_text` reads the same from a line such as ``phi4:shape=8x8,mass_squared=1,coupling=1``.
"""

from __future__ import annotations

from collections.abc import Mapping

import networkx as nx
import numpy as np

from .action import Action
from .arrays import as_count, as_covariance, as_vector
from .errors import InputError, NotNormalizableError
from .tensors import SymmetricTensor, colex_indices


def gaussian(covariance, mean=None) -> Action:
    """S(x) = −½ (x − μ)ᵀ Σ^{-1} (x − μ) − ½ ln det 2πΣ.

    Parameters
    ----------
    covariance : array_like, shape (n_dim, n_dim)
        Σ, symmetric positive definite.
    mean : array_like, shape (n_dim,), optional
        μ, zero by default; the base point of the result.

    Raises
    ------
    InputError
        Σ is not a covariance, or μ has another shape.
    """
    covariance = as_covariance(np.atleast_2d(covariance))
    n_dim = len(covariance)
    at = np.zeros(n_dim) if mean is None else as_vector(mean, n_dim, "mean")
    precision = np.linalg.inv(covariance)
    constant = -0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    return Action({0: constant, 2: -0.25 * (precision + precision.T)}, at=at)


def lattice(shape) -> nx.Graph:
    """A periodic hypercubic lattice; an axis of length 2 has one bond, not two, between its sites.

    Parameters
    ----------
    shape : sequence of int
        Sites along each axis, such as (8, 8).
    """
    shape = tuple(as_count(n, "sites along an axis") for n in np.atleast_1d(shape).tolist())
    graph = nx.grid_graph(shape[::-1], periodic=True)
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))  # an axis of length 1 closes on itself
    return graph


def phi4(graph: nx.Graph, mass_squared: float, coupling: float, hopping: float = 1.0) -> Action:
    """φ⁴ theory on a graph,

        S = −Σ_<ij> (hopping/2) (x_i − x_j)² − Σ_i (m²/2 x_i² + λ/4! x_i⁴).

    Hence A^(2)_ii = −(m² + hopping·degree)/2, A^(2)_ij = hopping/2 on edges, A^(4)_iiii = −λ/4!.

    Parameters
    ----------
    graph : networkx.Graph
        Undirected, without self-loops; its nodes, in their order, are the variables.
    mass_squared : float
        m², negative in the broken phase.
    coupling : float
        λ ≥ 0; positive where m² ≤ 0.
    hopping : float
        Strength of the bonds.

    Raises
    ------
    InputError
        Not a simple undirected graph with nodes, or a parameter that is not finite.
    NotNormalizableError
        λ < 0, or λ = 0 with a mass that does not confine.
    """
    if not isinstance(graph, nx.Graph) or graph.is_directed() or graph.is_multigraph() or nx.number_of_selfloops(graph):
        raise InputError(f"graph must be a simple undirected networkx graph without self-loops, got {graph}.")
    if graph.number_of_nodes() == 0:
        raise InputError("graph must have at least one node, it is empty.")
    parameters = {"mass_squared": mass_squared, "coupling": coupling, "hopping": hopping}
    for name, value in parameters.items():
        if not np.isfinite(value):
            raise InputError(f"{name} must be a finite number, got {value!r}.")
    n_dim = graph.number_of_nodes()
    quadratic = -0.5 * (mass_squared * np.eye(n_dim) + hopping * nx.laplacian_matrix(graph, weight=None).toarray())
    couplings = {2: SymmetricTensor.from_dense(quadratic)}
    if coupling:
        sites = np.repeat(np.arange(n_dim)[:, None], 4, axis=1)
        couplings[4] = SymmetricTensor.from_entries(sites, np.full(n_dim, -coupling / 24), n_dim)
    if coupling < 0 or (coupling == 0 and np.linalg.eigvalsh(quadratic)[-1] >= 0):
        raise NotNormalizableError(f"coupling must confine the field, got λ = {coupling:g} with m² = {mass_squared:g}; take λ > 0.")
    return Action(couplings, names=[_node_name(node) for node in graph.nodes])


def _node_name(node) -> str:
    return ",".join(map(str, node)) if isinstance(node, tuple) else str(node)


def random_interactions(n_dim: int, strengths: Mapping[int, float] | None = None, seed: int = 0) -> Action:
    """Random dense couplings around a unit Gaussian, S = −½|x|² + A^(3)·x³ + A^(4)·x⁴, concave everywhere.

    With n_dim(n_dim + 1)/2 directions v_a, uniform on the sphere, so that all variables mix,

        A^(3) = Σ_a c_a v_a⊗v_a⊗v_a,    A^(4) = −Σ_a w_a v_a⊗v_a⊗v_a⊗v_a,    w_a > 0, c_a of either sign.

    With t_a = v_a·x the Hessian is −1 + Σ_a (6 c_a t_a − 12 w_a t_a²) v_a v_aᵀ, and 6ct − 12wt² ≤ ¾ c²/w, hence

        ∇²S ≤ −1 + ‖Σ_a ¾ (c_a²/w_a) v_a v_aᵀ‖ < 0

    is sufficient for S to be concave: normalizable with one mode. It is checked, and implies that cubic interactions need quartic
    ones to hold them.

    Parameters
    ----------
    n_dim : int
    strengths : mapping of int to float, optional
        Norms of A^(3) and A^(4) where A^(2) = −½·1; {3: 0.1, 4: 0.05} by default. Order 3 may be missing.
    seed : int

    Raises
    ------
    InputError
        Orders other than 3 and 4, or strengths that are not positive and finite.
    NotNormalizableError
        The bound does not hold: A^(3) is too strong for A^(4).
    """
    n_dim = as_count(n_dim, "n_dim")
    strengths = {3: 0.1, 4: 0.05} if strengths is None else dict(strengths)
    if not strengths or not set(strengths) <= {3, 4} or not all(0 < s < np.inf for s in strengths.values()):
        raise InputError(f"strengths must give positive norms for the orders 3 and 4, got {strengths}.")
    rng = np.random.default_rng(seed)
    v = rng.normal(size=(n_dim * (n_dim + 1) // 2, n_dim))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    weights = {3: rng.normal(size=len(v)), 4: -rng.uniform(0.5, 1.5, size=len(v))}
    couplings = {2: SymmetricTensor.from_dense(-0.5 * np.eye(n_dim))}
    for k, strength in strengths.items():
        T = _sum_of_powers(v, weights[k], k)
        weights[k] = weights[k] * strength / T.norm()
        couplings[k] = (strength / T.norm()) * T
    _require_concave(v, weights, strengths)
    return Action(couplings)


def _sum_of_powers(v: np.ndarray, weights: np.ndarray, order: int) -> SymmetricTensor:
    """Σ_a weights_a v_a⊗…⊗v_a, by unique entry."""
    indices = colex_indices(v.shape[1], order)
    packed = sum(w * u[indices].prod(axis=1) for u, w in zip(v, weights))
    return SymmetricTensor.from_packed(packed, v.shape[1], order)


def _require_concave(v: np.ndarray, weights: dict[int, np.ndarray], strengths: Mapping[int, float]) -> None:
    if 3 not in strengths:
        return
    if 4 not in strengths:
        raise NotNormalizableError("strengths must hold an order 4 that confines the odd order 3, got order 3 alone.")
    bound = np.linalg.norm((0.75 * weights[3] ** 2 / -weights[4] * v.T) @ v, ord=2)
    if bound >= 1:
        allowed = 0.99 * strengths[3] / np.sqrt(bound)
        raise NotNormalizableError(f"strengths must keep S concave: the bound on the cubic part is {bound:.3g}, it must stay below "
                                   f"1. Lower the strength of order 3 to {allowed:.2g} or raise that of order 4.")


def from_text(text: str) -> Action:
    """A theory from ``name:key=value,…``.

    ``phi4:shape=8x8,mass_squared=1,coupling=1,hopping=1`` on a periodic lattice; ``gaussian:n_dim=3,variance=1``;
    ``random_interactions:n_dim=5,cubic=0.1,quartic=0.05,seed=0``. Nothing is evaluated: names and keys are looked up, values are
    numbers or sizes.

    Raises
    ------
    InputError
        Unknown name or key, or a value that is not a number.
    """
    name, _, rest = str(text).partition(":")
    if name not in _THEORIES:
        raise InputError(f"theory must be one of {', '.join(_THEORIES)}, got {name[:40]!r}; write it as name:key=value,key=value.")
    build, readers, required = _THEORIES[name]
    found = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if key not in readers or not equals or key in found:
            raise InputError(f"{name} takes {', '.join(f'{k}=' for k in readers)} once each, got {part[:40]!r}.")
        found[key] = _read_value(readers[key], key, value)
    missing = [key for key in required if key not in found]
    if missing:
        raise InputError(f"{name} needs {', '.join(f'{k}=' for k in missing)}, got {rest!r}.")
    return build(**found)


def _read_value(reader, key: str, value: str):
    try:
        read = reader(value)
    except ValueError:
        raise InputError(f"{key} must be a {'size such as 8x8' if reader is _shape else 'number'}, got {value[:40]!r}.") from None
    numbers = np.asarray(read, dtype=float)
    if numbers.size > 4 or not np.all(np.isfinite(numbers)) or (reader in (int, _shape) and numbers.prod() > 4096):
        raise InputError(f"{key} must be finite and of a size that fits in memory (up to 4096 variables), got {value[:40]!r}.")
    return read


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split("x"))


def _phi4_on_lattice(shape, mass_squared, coupling, hopping=1.0) -> Action:
    return phi4(lattice(shape), mass_squared, coupling, hopping)


def _isotropic_gaussian(n_dim, variance=1.0) -> Action:
    return gaussian(variance * np.eye(as_count(n_dim, "n_dim")))


def _random_cubic_and_quartic(n_dim, cubic=0.1, quartic=0.05, seed=0) -> Action:
    return random_interactions(n_dim, {k: s for k, s in {3: cubic, 4: quartic}.items() if s}, as_count(seed, "seed", minimum=0))


_THEORIES = {
    "phi4": (_phi4_on_lattice, {"shape": _shape, "mass_squared": float, "coupling": float, "hopping": float},
             ("shape", "mass_squared", "coupling")),
    "gaussian": (_isotropic_gaussian, {"n_dim": int, "variance": float}, ("n_dim",)),
    "random_interactions": (_random_cubic_and_quartic, {"n_dim": int, "cubic": float, "quartic": float, "seed": int}, ("n_dim",)),
}
