"""A network written down as its nodes.

A scalar S(x) that is computed by linear maps, elementwise units a = s(u), products y = p q and quadratic maps y_a = χ_a[u, u] is a
`Tape` of such nodes, each naming its inputs, in the order in which they are computed. A node knows its value, how derivatives go
through it — J = ∇u and H = ∇∇u forwards, the adjoint ū = ∂S/∂u with its gradient backwards — and what it adds to the third and fourth
derivative of S, in the letters of `fieldtheory.assembly`: there the sums are derived and carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np

from . import units
from .packing import colex_indices

Matrix = Any  # anything with M @ X and M.T @ X for X of shape (n, n_directions): numpy or scipy sparse arrays
Unit = Callable[[np.ndarray], np.ndarray]


@dataclass
class State:
    """By variable: values u, first derivatives J (n, n_directions), second derivatives H (n, n_pairs)."""

    u: list[np.ndarray]
    J: list[np.ndarray]
    H: list[np.ndarray | None]


class Pairs:
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


@dataclass(frozen=True)
class Linear:
    """y = Σ M u + b."""

    inputs: tuple[int, ...]
    matrices: tuple[Matrix, ...]
    bias: np.ndarray

    def value(self, *u: np.ndarray) -> np.ndarray:
        """y."""
        return sum(M @ w for M, w in zip(self.matrices, u)) + self.bias

    def size(self, of: int) -> int:
        """Number of components of y, from that of the first input."""
        return self.matrices[0].shape[0]

    def degree(self, *of: float) -> float:
        """Degree of y as a polynomial, from those of its inputs."""
        return max(of)

    def push(self, state: State) -> np.ndarray:
        """J of y."""
        return sum(M @ state.J[i] for M, i in zip(self.matrices, self.inputs))

    def pull(self, state: State, bar: np.ndarray, slope: np.ndarray) -> list[tuple]:
        """Adjoint of each input, and its gradient."""
        return [(M.T @ bar, M.T @ slope) for M in self.matrices]

    def bend(self, state: State, pairs: Pairs) -> np.ndarray:
        """H of y."""
        return sum(M @ state.H[i] for M, i in zip(self.matrices, self.inputs))

    def factors(self, state: State, bar, slope) -> list[tuple]:
        """Factors U, V, W of what the node adds to A^(3)."""
        return []

    def cubic(self, state: State, pairs: Pairs, bar, slope) -> list[tuple]:
        """Vectors U and pair matrices X with Σ U ⊗ X the node's part of A^(3)."""
        return []

    def quartic(self, state: State, pairs: Pairs, bar, slope) -> list[tuple]:
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

    def size(self, of: int) -> int:
        """Number of components of y."""
        return of

    def degree(self, of: float) -> float:
        """Twice that of u for the square; other units have no end."""
        return 2 * of if self.unit is units.square else inf

    def push(self, state: State) -> np.ndarray:
        """J of y."""
        (u,) = self.inputs
        return self._s(state)[1] * state.J[u]

    def pull(self, state: State, bar, slope) -> list[tuple]:
        """ū = s' ȳ, ∇ū = s' ∇ȳ + s'' ȳ J."""
        _, s1, s2, *_ = self._s(state)
        return [(s1[:, 0] * bar, s1 * slope + s2 * bar[:, None] * state.J[self.inputs[0]])]

    def bend(self, state: State, pairs: Pairs) -> np.ndarray:
        """H of y."""
        (u,) = self.inputs
        _, s1, s2, *_ = self._s(state)
        return s1 * state.H[u] + s2 * pairs.square(state.J[u])

    def factors(self, state: State, bar, slope) -> list[tuple]:
        """(½ s'' ∇ȳ + ⅙ s''' ȳ J) ⊗ J ⊗ J."""
        J = state.J[self.inputs[0]]
        _, _, s2, s3, _ = self._s(state)
        return [(s2 / 2 * slope + s3 / 6 * bar[:, None] * J, J, J)]

    def cubic(self, state: State, pairs: Pairs, bar, slope) -> list[tuple]:
        """The same, J ⊗ J as pairs."""
        return [(U, pairs.square(J)) for U, J, _ in self.factors(state, bar, slope)]

    def quartic(self, state: State, pairs: Pairs, bar, slope) -> list[tuple]:
        """H ⊗ (½ s'' ∇ȳ J + ¼ s''' ȳ JJ + ⅛ s'' ȳ H) + JJ ⊗ (⅙ s''' ∇ȳ J + s''''/24 ȳ JJ)."""
        J, H = state.J[self.inputs[0]], state.H[self.inputs[0]]
        _, _, s2, s3, s4 = self._s(state)
        bar, mixed, square = bar[:, None], pairs.product(slope, J), pairs.square(J)
        return [(H, s2 / 2 * mixed + s3 / 4 * bar * square + s2 / 8 * bar * H),
                (square, s3 / 6 * mixed + s4 / 24 * bar * square)]

    def _s(self, state: State) -> np.ndarray:
        """s and its derivatives, shape (5, n, 1)."""
        return self.unit(state.u[self.inputs[0]])[:, :, None]


@dataclass(frozen=True)
class Product:
    """y = p q."""

    inputs: tuple[int, int]

    def value(self, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """y."""
        return p * q

    def size(self, of: int) -> int:
        """Number of components of y."""
        return of

    def degree(self, p: float, q: float) -> float:
        """The sum of those of p and q."""
        return p + q

    def push(self, state: State) -> np.ndarray:
        """J of y."""
        p, q = self.inputs
        return state.u[p][:, None] * state.J[q] + state.u[q][:, None] * state.J[p]

    def pull(self, state: State, bar, slope) -> list[tuple]:
        """p̄ = q ȳ, ∇p̄ = q ∇ȳ + ȳ J_q, and likewise for q."""
        return [(state.u[o] * bar, state.u[o][:, None] * slope + bar[:, None] * state.J[o]) for o in reversed(self.inputs)]

    def bend(self, state: State, pairs: Pairs) -> np.ndarray:
        """H of y."""
        p, q = self.inputs
        return state.u[p][:, None] * state.H[q] + state.u[q][:, None] * state.H[p] + 2 * pairs.product(state.J[p], state.J[q])

    def factors(self, state: State, bar, slope) -> list[tuple]:
        """∇ȳ ⊗ J_p ⊗ J_q."""
        p, q = self.inputs
        return [(slope, state.J[p], state.J[q])]

    def cubic(self, state: State, pairs: Pairs, bar, slope) -> list[tuple]:
        """The same, J_p ⊗ J_q as pairs."""
        return [(U, pairs.product(V, W)) for U, V, W in self.factors(state, bar, slope)]

    def quartic(self, state: State, pairs: Pairs, bar, slope) -> list[tuple]:
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

    def size(self, of: int) -> int:
        """Number of components of y."""
        return len(self.chi)

    def degree(self, of: float) -> float:
        """Twice that of u."""
        return 2 * of

    def push(self, state: State) -> np.ndarray:
        """J of y, 2 χ[u, J]."""
        (u,) = self.inputs
        return 2 * (self.chi @ state.u[u]) @ state.J[u]

    def pull(self, state: State, bar, slope) -> list[tuple]:
        """ū = 2 ȳ·χ[u], ∇ū = 2 (∇ȳ·χ[u] + ȳ·χ[J])."""
        (u,) = self.inputs
        forward = self.chi @ state.u[u]
        return [(2 * bar @ forward, 2 * (forward.T @ slope + self._weighted(bar) @ state.J[u]))]

    def bend(self, state: State, pairs: Pairs) -> np.ndarray:
        """H of y, 2 χ[u, H] + 2 χ[J, J]."""
        (u,) = self.inputs
        return 2 * (self.chi @ state.u[u]) @ state.H[u] + 2 * pairs.within(self.chi, state.J[u])

    def factors(self, state: State, bar, slope) -> list[tuple]:
        """∇ȳ_a ⊗ χ_a[J, J], the second and third factor as one row for each index that χ_a contracts."""
        J = state.J[self.inputs[0]]
        n_out, n, _ = self.chi.shape
        return [(np.repeat(slope, n, axis=0), np.tile(J, (n_out, 1)), (self.chi @ J).reshape(n_out * n, -1))]

    def cubic(self, state: State, pairs: Pairs, bar, slope) -> list[tuple]:
        """The same with the contraction done."""
        return [(slope, pairs.within(self.chi, state.J[self.inputs[0]]))]

    def quartic(self, state: State, pairs: Pairs, bar, slope) -> list[tuple]:
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

    def size(self, u: int) -> int:
        """Number of components of a variable."""
        node = self.nodes[u]
        return self.n_in if node is None else node.size(self.size(node.inputs[0]))

    def degree(self) -> float:
        """Degree of S as a polynomial in x, infinite where it is none."""
        degrees = [1.0]
        for node in self.nodes[1:]:
            degrees.append(node.degree(*(degrees[i] for i in node.inputs)))
        return max((degrees[i] for i, _ in self.outputs), default=0.0)

    def _add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1
