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

import numpy as np
from scipy.linalg.blas import dgemm

from . import memory
from ._symmetrize import symmetrized_cubic, symmetrized_quartic
from .errors import InputError
from .factored import FactoredCubic
from .packing import packed_size
from .tape import Pairs, State, Tape
from .tensors import SymmetricTensor


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
        An order above 4, couplings that would not fit in memory, or S that overflows at x.
    """
    if order > 4:
        raise InputError(f"couplings are assembled up to order 4, got order {order}; polynomial flows are exact at every order.")
    directions = np.eye(tape.n_in) if directions is None else directions
    r = directions.shape[1]
    if order > 2:
        columns = r if order == 3 else packed_size(r, 2)
        memory.require(8 * packed_size(r, 2) * columns, f"the coupling of order {order} along {r} directions", "give fewer directions")
    with np.errstate(over="ignore", invalid="ignore"):
        state = _forward(tape, x, directions)
        value = _value(tape, state)
    if not np.isfinite(value):
        raise InputError(f"S must be finite at the base point, it is {value}; choose a point nearer to the samples.")
    couplings = {0: SymmetricTensor.from_packed([value], r, 0)}
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


def factored_cubic(tape: Tape, x: np.ndarray) -> FactoredCubic:
    """A^(3) around x in factored form: n_in derivatives along directions of one gradient, and no tensor."""
    state = _forward(tape, x, np.eye(tape.n_in))
    adjoints = _reverse(tape, state)
    factors = [(np.zeros((0, tape.n_in)),) * 3]
    for node, (bar, slope) in zip(tape.nodes[1:], adjoints[1:]):
        factors += node.factors(state, bar, slope)
    return FactoredCubic(tuple(np.concatenate(part) for part in zip(*factors)))


def _forward(tape: Tape, x: np.ndarray, directions: np.ndarray) -> State:
    state = State([x], [directions], [None] * len(tape.nodes))
    for node in tape.nodes[1:]:
        state.u.append(node.value(*(state.u[i] for i in node.inputs)))
        state.J.append(node.push(state))
    return state


def _value(tape: Tape, state: State) -> float:
    return tape.constant + float(sum(np.sum(weights * state.u[i]) for i, weights in tape.outputs))


def _reverse(tape: Tape, state: State) -> list[tuple[np.ndarray, np.ndarray]]:
    """Adjoint ū (n,) and its gradient ∇ū (n, n_directions) of every variable."""
    adjoints = [(np.zeros(u.shape), np.zeros(J.shape)) for u, J in zip(state.u, state.J)]
    for i, weights in tape.outputs:
        adjoints[i][0][:] += weights
    for v in range(len(tape.nodes) - 1, 0, -1):
        for i, (bar, slope) in zip(tape.nodes[v].inputs, tape.nodes[v].pull(state, *adjoints[v])):
            adjoints[i][0][:] += bar
            adjoints[i][1][:] += slope
    return adjoints


def _cubic(tape: Tape, state: State, adjoints: list, r: int) -> SymmetricTensor:
    """Σ over nodes of pairs ⊗ vector, then symmetrized."""
    pairs, total = Pairs(r), np.zeros((packed_size(r, 2), r))
    for node, (bar, slope) in zip(tape.nodes[1:], adjoints[1:]):
        for U, X in node.cubic(state, pairs, bar, slope):
            total += X.T @ U
    return SymmetricTensor.from_packed(symmetrized_cubic(total, r), r, 3)


def _quartic(tape: Tape, state: State, adjoints: list, r: int) -> SymmetricTensor:
    """Second derivatives once more through the tape; each node's part goes into one matrix over pairs."""
    n_pairs = packed_size(r, 2)
    pairs, total = Pairs(r), np.zeros((n_pairs, n_pairs), order="F")
    last_use = {i: v for v, node in enumerate(tape.nodes) if node for i in node.inputs}
    state.H[0] = np.zeros((len(state.u[0]), n_pairs))
    for v, node in enumerate(tape.nodes[1:], start=1):
        for X, Y in (part for part in node.quartic(state, pairs, *adjoints[v]) if part[1].any()):
            total = dgemm(1.0, X.T, Y.T, beta=1.0, c=total, trans_b=True, overwrite_c=True)
        if v in last_use:
            state.H[v] = node.bend(state, pairs)
        for i in node.inputs:
            if last_use[i] == v:
                state.H[i] = None
    return SymmetricTensor.from_packed(symmetrized_quartic(total, r), r, 4)
