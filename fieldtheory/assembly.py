"""Derivatives of a network at a point, assembled node by node.

A scalar S(x) that is computed by linear maps, elementwise units a = s(u), products y = p q and quadratic maps y_a = χ_a[u, u] has nothing
but these nodes to be nonlinear in. Primes are derivatives along one direction v, bars are adjoints, ā = ∂S/∂a. Along x + v the
reverse sweep differentiates S once and the forward sweep the nodes; collecting what each node adds (the 2n + 1 rule of response
theory) gives, with F^(k) the k-th derivative of S along v and A^(k)[v, …, v] = F^(k)/k!,

    F''   = Σ ā s'' u'²                                                          + Σ 2 ȳ p' q'
    F'''  = Σ 3 s'' ā' u'² + s''' ā u'³                                          + Σ 6 ȳ' p' q'
    F'''' = Σ 12 s'' ā' u' u'' + 6 s''' ā u'² u'' + 3 s'' ā u''² + 4 s''' ā' u'³ + s'''' ā u'⁴
          + Σ 12 ȳ' (p'' q' + p' q'') + 6 ȳ p'' q'',

so that order 3 needs the first derivatives of nodes and adjoints alone, and order 4 the second derivatives of nodes on top. Linear nodes
add nothing. With all directions at once, J = ∇u and H = ∇∇u, every sum is a matrix product over the nodes:

    A^(3) = Sym Σ (½ s'' ∇ā + ⅙ s''' ā J) ⊗ J ⊗ J + Sym Σ ∇ȳ ⊗ J_p ⊗ J_q,

a tensor in factored form. A quadratic map adds ∇ȳ_a χ_a[J, J] to A^(3) and ∇ȳ_a χ_a[J, H] + ¼ ȳ_a χ_a[H, H] to A^(4).

A network is written down as a `Tape`: nodes that name their inputs, in the order in which they are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit
from scipy.linalg.blas import dgemm

from . import memory
from .errors import InputError
from .packing import colex_indices, packed_size
from .tensors import SymmetricTensor

Matrix = Any  # anything with M @ X and M.T @ X for X of shape (n, n_directions): numpy or scipy sparse arrays
Unit = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Linear:
    """y = Σ M u + b."""

    inputs: tuple[int, ...]
    matrices: tuple[Matrix, ...]
    bias: np.ndarray

    def value(self, *u: np.ndarray) -> np.ndarray:
        """y."""
        return sum(M @ w for M, w in zip(self.matrices, u)) + self.bias

    def push(self, state: _State) -> np.ndarray:
        """J of y."""
        return sum(M @ state.J[i] for M, i in zip(self.matrices, self.inputs))

    def pull(self, state: _State, bar: np.ndarray, slope: np.ndarray) -> list[tuple]:
        """Adjoint of each input, and its gradient."""
        return [(M.T @ bar, M.T @ slope) for M in self.matrices]

    def bend(self, state: _State, pairs: _Pairs) -> np.ndarray:
        """H of y."""
        return sum(M @ state.H[i] for M, i in zip(self.matrices, self.inputs))

    def factors(self, state: _State, bar, slope) -> list[tuple]:
        """Factors U, V, W of what the node adds to A^(3)."""
        return []

    def cubic(self, state: _State, pairs: _Pairs, bar, slope) -> list[tuple]:
        """Vectors U and pair matrices X with Σ U ⊗ X the node's part of A^(3)."""
        return []

    def quartic(self, state: _State, pairs: _Pairs, bar, slope) -> list[tuple]:
        """Pair matrices X, Y with Σ X ⊗ Y the node's part of A^(4)."""
        return []


@dataclass(frozen=True)
class Elementwise:
    """y = s(u)."""

    inputs: tuple[int]
    unit: Unit

    def value(self, u: np.ndarray) -> np.ndarray:
        """y."""
        return self.unit(u)[0]

    def push(self, state: _State) -> np.ndarray:
        """J of y."""
        (u,) = self.inputs
        return self._s(state)[1] * state.J[u]

    def pull(self, state: _State, bar, slope) -> list[tuple]:
        """ū = s' ȳ, ∇ū = s' ∇ȳ + s'' ȳ J."""
        _, s1, s2, *_ = self._s(state)
        return [(s1[:, 0] * bar, s1 * slope + s2 * bar[:, None] * state.J[self.inputs[0]])]

    def bend(self, state: _State, pairs: _Pairs) -> np.ndarray:
        """H of y."""
        (u,) = self.inputs
        _, s1, s2, *_ = self._s(state)
        return s1 * state.H[u] + s2 * pairs.square(state.J[u])

    def factors(self, state: _State, bar, slope) -> list[tuple]:
        """(½ s'' ∇ȳ + ⅙ s''' ȳ J) ⊗ J ⊗ J."""
        J = state.J[self.inputs[0]]
        _, _, s2, s3, _ = self._s(state)
        return [(s2 / 2 * slope + s3 / 6 * bar[:, None] * J, J, J)]

    def cubic(self, state: _State, pairs: _Pairs, bar, slope) -> list[tuple]:
        """The same, J ⊗ J as pairs."""
        return [(U, pairs.square(J)) for U, J, _ in self.factors(state, bar, slope)]

    def quartic(self, state: _State, pairs: _Pairs, bar, slope) -> list[tuple]:
        """H ⊗ (½ s'' ∇ȳ J + ¼ s''' ȳ JJ + ⅛ s'' ȳ H) + JJ ⊗ (⅙ s''' ∇ȳ J + s''''/24 ȳ JJ)."""
        J, H = state.J[self.inputs[0]], state.H[self.inputs[0]]
        _, _, s2, s3, s4 = self._s(state)
        bar, mixed, square = bar[:, None], pairs.product(slope, J), pairs.square(J)
        return [(H, s2 / 2 * mixed + s3 / 4 * bar * square + s2 / 8 * bar * H),
                (square, s3 / 6 * mixed + s4 / 24 * bar * square)]

    def _s(self, state: _State) -> np.ndarray:
        """s and its derivatives, shape (5, n, 1)."""
        return self.unit(state.u[self.inputs[0]])[:, :, None]


@dataclass(frozen=True)
class Product:
    """y = p q."""

    inputs: tuple[int, int]

    def value(self, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """y."""
        return p * q

    def push(self, state: _State) -> np.ndarray:
        """J of y."""
        p, q = self.inputs
        return state.u[p][:, None] * state.J[q] + state.u[q][:, None] * state.J[p]

    def pull(self, state: _State, bar, slope) -> list[tuple]:
        """p̄ = q ȳ, ∇p̄ = q ∇ȳ + ȳ J_q, and likewise for q."""
        return [(state.u[o] * bar, state.u[o][:, None] * slope + bar[:, None] * state.J[o]) for o in reversed(self.inputs)]

    def bend(self, state: _State, pairs: _Pairs) -> np.ndarray:
        """H of y."""
        p, q = self.inputs
        return state.u[p][:, None] * state.H[q] + state.u[q][:, None] * state.H[p] + 2 * pairs.product(state.J[p], state.J[q])

    def factors(self, state: _State, bar, slope) -> list[tuple]:
        """∇ȳ ⊗ J_p ⊗ J_q."""
        p, q = self.inputs
        return [(slope, state.J[p], state.J[q])]

    def cubic(self, state: _State, pairs: _Pairs, bar, slope) -> list[tuple]:
        """The same, J_p ⊗ J_q as pairs."""
        return [(U, pairs.product(V, W)) for U, V, W in self.factors(state, bar, slope)]

    def quartic(self, state: _State, pairs: _Pairs, bar, slope) -> list[tuple]:
        """½ H_p ⊗ ∇ȳ J_q + ½ H_q ⊗ ∇ȳ J_p + ¼ ȳ H_p ⊗ H_q."""
        p, q = self.inputs
        return [(state.H[p], 0.5 * pairs.product(slope, state.J[q]) + 0.25 * bar[:, None] * state.H[q]),
                (state.H[q], 0.5 * pairs.product(slope, state.J[p]))]


@dataclass(frozen=True)
class Quadratic:
    """y_a = χ_a[u, u], χ of shape (n_out, n, n) and symmetric in its last two indices."""

    inputs: tuple[int]
    chi: np.ndarray

    def value(self, u: np.ndarray) -> np.ndarray:
        """y."""
        return (self.chi @ u) @ u

    def push(self, state: _State) -> np.ndarray:
        """J of y, 2 χ[u, J]."""
        (u,) = self.inputs
        return 2 * (self.chi @ state.u[u]) @ state.J[u]

    def pull(self, state: _State, bar, slope) -> list[tuple]:
        """ū = 2 ȳ·χ[u], ∇ū = 2 (∇ȳ·χ[u] + ȳ·χ[J])."""
        (u,) = self.inputs
        forward = self.chi @ state.u[u]
        return [(2 * bar @ forward, 2 * (forward.T @ slope + self._weighted(bar) @ state.J[u]))]

    def bend(self, state: _State, pairs: _Pairs) -> np.ndarray:
        """H of y, 2 χ[u, H] + 2 χ[J, J]."""
        (u,) = self.inputs
        return 2 * (self.chi @ state.u[u]) @ state.H[u] + 2 * pairs.within(self.chi, state.J[u])

    def factors(self, state: _State, bar, slope) -> list[tuple]:
        """∇ȳ_a ⊗ χ_a[J, J], the second and third factor as one row for each index that χ_a contracts."""
        J = state.J[self.inputs[0]]
        n_out, n, _ = self.chi.shape
        return [(np.repeat(slope, n, axis=0), np.tile(J, (n_out, 1)), (self.chi @ J).reshape(n_out * n, -1))]

    def cubic(self, state: _State, pairs: _Pairs, bar, slope) -> list[tuple]:
        """The same with the contraction done."""
        return [(slope, pairs.within(self.chi, state.J[self.inputs[0]]))]

    def quartic(self, state: _State, pairs: _Pairs, bar, slope) -> list[tuple]:
        """H_c ⊗ (∇ȳ_a χ_abc J_b + ¼ ȳ_a χ_abc H_b)."""
        J, H = state.J[self.inputs[0]], state.H[self.inputs[0]]
        pulled = np.einsum("ai,abc,bj->cij", slope, self.chi, J, optimize=True)
        return [(H, pairs.symmetric(pulled) + 0.25 * self._weighted(bar) @ H)]

    def _weighted(self, bar: np.ndarray) -> np.ndarray:
        """Σ_a ȳ_a χ_a."""
        return np.tensordot(bar, self.chi, axes=1)


Node = Linear | Elementwise | Product | Quadratic


@dataclass
class Tape:
    """A scalar function as nodes in the order in which they are computed; variable 0 is its argument x.

    Each method adds a node and returns the number of its variable; `output` adds weights·variable to S.
    """

    n_in: int
    nodes: list[Node | None] = field(default_factory=lambda: [None])
    outputs: list[tuple[int, np.ndarray]] = field(default_factory=list)
    constant: float = 0.0

    def linear(self, terms: Sequence[tuple[int, Matrix]], bias: np.ndarray | float = 0.0) -> int:
        """Σ M u + b over terms (u, M)."""
        inputs, matrices = zip(*terms)
        return self._add(Linear(tuple(inputs), tuple(matrices), bias))

    def unit(self, u: int, s: Unit) -> int:
        """s(u); s returns itself and its first four derivatives, stacked along a new first axis."""
        return self._add(Elementwise((u,), s))

    def product(self, p: int, q: int) -> int:
        """p q, elementwise."""
        return self._add(Product((p, q)))

    def quadratic(self, u: int, chi: np.ndarray) -> int:
        """χ_a[u, u]."""
        return self._add(Quadratic((u,), chi))

    def output(self, u: int, weights: np.ndarray | float) -> None:
        """S += Σ weights u."""
        self.outputs.append((u, weights))

    def _add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1


@dataclass
class _State:
    """By variable: values u, first derivatives J (n, n_directions), second derivatives H (n, n_pairs)."""

    u: list[np.ndarray]
    J: list[np.ndarray]
    H: list[np.ndarray | None]


class _Pairs:
    """Symmetric pairs of directions, the unique ones in colexicographic order."""

    def __init__(self, n_directions: int):
        self.first, self.second = colex_indices(n_directions, 2).T

    def square(self, a: np.ndarray) -> np.ndarray:
        """a ⊗ a by node."""
        return a[:, self.first] * a[:, self.second]

    def product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Symmetric part of a ⊗ b by node."""
        return 0.5 * (a[:, self.first] * b[:, self.second] + a[:, self.second] * b[:, self.first])

    def symmetric(self, full: np.ndarray) -> np.ndarray:
        """Symmetric part of matrices, (n, n_directions, n_directions) → (n, n_pairs)."""
        return 0.5 * (full[:, self.first, self.second] + full[:, self.second, self.first])

    def within(self, chi: np.ndarray, J: np.ndarray) -> np.ndarray:
        """Jᵀ χ_a J."""
        return np.matmul(J.T, chi @ J).reshape(len(chi), -1)[:, self.first * J.shape[1] + self.second]


def assemble(tape: Tape, x: np.ndarray, order: int, directions: np.ndarray | None = None) -> dict[int, SymmetricTensor]:
    """Couplings A^(0) … A^(order) of the function on a tape around x, order ≤ 4.

    Parameters
    ----------
    tape : Tape
    x : ndarray, shape (n_in,)
    order : int
    directions : ndarray, shape (n_in, r), optional
        Couplings of t ↦ S(x + directions t) instead: A^(k)[v_a, …, v_b] without the tensor in n_in variables.

    Returns
    -------
    dict of int to SymmetricTensor
        By order, in r variables, n_in of them by default.

    Raises
    ------
    InputError
        An order above 4, or couplings that would not fit in memory.
    """
    if order > 4:
        raise InputError(f"couplings are assembled up to order 4, got order {order}; polynomial flows are exact at every order.")
    state = _forward(tape, x, np.eye(tape.n_in) if directions is None else directions)
    r = state.J[0].shape[1]
    couplings = {0: SymmetricTensor.from_packed([_value(tape, state)], r, 0)}
    if order > 0:
        adjoints = _reverse(tape, state)
        bar, slope = adjoints[0]
        couplings[1] = SymmetricTensor.from_packed(bar @ state.J[0], r, 1)
        couplings[2] = SymmetricTensor.symmetrized(0.5 * state.J[0].T @ slope, r)
    if order > 2:
        couplings[3] = _cubic(tape, state, adjoints, r)
    if order > 3:
        couplings[4] = _quartic(tape, state, adjoints, r)
    return {k: couplings[k] for k in range(order + 1)}


def cubic_factors(tape: Tape, x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Triples (U, V, W) of matrices (n_nodes, n_in) with A^(3) = Sym Σ U ⊗ V ⊗ W, row by row."""
    state = _forward(tape, x, np.eye(tape.n_in))
    return _factors(tape, state, _reverse(tape, state))


def _forward(tape: Tape, x: np.ndarray, directions: np.ndarray) -> _State:
    state = _State([x], [directions], [None] * len(tape.nodes))
    for node in tape.nodes[1:]:
        state.u.append(node.value(*(state.u[i] for i in node.inputs)))
        state.J.append(node.push(state))
    return state


def _value(tape: Tape, state: _State) -> float:
    return tape.constant + float(sum(np.sum(weights * state.u[i]) for i, weights in tape.outputs))


def _reverse(tape: Tape, state: _State) -> list[tuple[np.ndarray, np.ndarray]]:
    """Adjoint ū (n,) and its gradient ∇ū (n, n_directions) of every variable."""
    adjoints = [(np.zeros(u.shape), np.zeros(J.shape)) for u, J in zip(state.u, state.J)]
    for i, weights in tape.outputs:
        adjoints[i][0][:] += weights
    for v in range(len(tape.nodes) - 1, 0, -1):
        for i, (bar, slope) in zip(tape.nodes[v].inputs, tape.nodes[v].pull(state, *adjoints[v])):
            adjoints[i][0][:] += bar
            adjoints[i][1][:] += slope
    return adjoints


def _factors(tape: Tape, state: _State, adjoints: list) -> list[tuple]:
    return [factors for node, (bar, slope) in zip(tape.nodes[1:], adjoints[1:]) for factors in node.factors(state, bar, slope)]


def _cubic(tape: Tape, state: _State, adjoints: list, r: int) -> SymmetricTensor:
    """Σ over nodes of pairs ⊗ vector, then symmetrized."""
    pairs, total = _Pairs(r), np.zeros((packed_size(r, 2), r))
    for node, (bar, slope) in zip(tape.nodes[1:], adjoints[1:]):
        for U, X in node.cubic(state, pairs, bar, slope):
            total += X.T @ U
    packed = np.empty(packed_size(r, 3))
    _symmetrize_cubic(total, r, packed)
    return SymmetricTensor.from_packed(packed, r, 3)


def _quartic(tape: Tape, state: _State, adjoints: list, r: int) -> SymmetricTensor:
    """Second derivatives once more through the tape; each node's part goes into one matrix over pairs."""
    n_pairs = packed_size(r, 2)
    memory.require(8 * n_pairs**2, f"a matrix over pairs of {r} directions", "give fewer directions")
    pairs, total = _Pairs(r), np.zeros((n_pairs, n_pairs), order="F")
    last_use = {i: v for v, node in enumerate(tape.nodes) if node for i in node.inputs}
    state.H[0] = np.zeros((len(state.u[0]), n_pairs))
    for v, node in enumerate(tape.nodes[1:], start=1):
        for X, Y in node.quartic(state, pairs, *adjoints[v]):
            total = dgemm(1.0, X.T, Y.T, beta=1.0, c=total, trans_b=True, overwrite_c=True)
        if v in last_use:
            state.H[v] = node.bend(state, pairs)
        for i in node.inputs:
            if last_use[i] == v:
                state.H[i] = None
    packed = np.empty(packed_size(r, 4))
    _symmetrize_quartic(total, r, packed)
    return SymmetricTensor.from_packed(packed, r, 4)


@njit(cache=True)
def _symmetrize_cubic(total, n, packed):
    """A_ijk from a matrix over pairs and single directions."""
    e = 0
    for k in range(n):
        for j in range(k + 1):
            for i in range(j + 1):
                packed[e] = (total[_pair(i, j), k] + total[_pair(i, k), j] + total[_pair(j, k), i]) / 3.0
                e += 1


@njit(cache=True)
def _symmetrize_quartic(total, n, packed):
    """A_ijkl from a matrix over pairs and pairs, not symmetric itself."""
    e = 0
    for l in range(n):
        for k in range(l + 1):
            for j in range(k + 1):
                for i in range(j + 1):
                    packed[e] = (_both(total, _pair(i, j), _pair(k, l)) + _both(total, _pair(i, k), _pair(j, l))
                                 + _both(total, _pair(j, k), _pair(i, l))) / 6.0
                    e += 1


@njit(cache=True)
def _pair(i, j):
    """Colexicographic rank of i ≤ j."""
    return j * (j + 1) // 2 + i


@njit(cache=True)
def _both(total, a, b):
    return total[a, b] + total[b, a]
