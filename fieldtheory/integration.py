"""Integrating out variables that enter quadratically, exactly.

Write the action as a polynomial in the variables y that go and x that stay,

    S = c(x) + Σ_a b_a(x) y_a − ½ Σ_ab K_ab y_a y_b,        K = −2 A^(2) among the y.

If K is positive definite and does not depend on x, then

    S_eff(x) = ln ∫ dy exp S = c(x) + ½ b(x)ᵀ K^{-1} b(x) − ½ ln det(K/2π)

is again a polynomial, whatever the polynomials b are: the propagator K^{-1} of y links every two of its vertices (Hubbard–Stratonovich
read backwards). Sets of y that K does not couple are integrated one after the other, so local theories cost no large inverse. If
K depended on x, ln det K(x) would be no polynomial, and the request is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from fractions import Fraction
from itertools import combinations_with_replacement

import networkx as nx
import numpy as np
from scipy.linalg import solve_triangular

from .action import Action
from .arrays import as_count
from .errors import InputError, NotNormalizableError
from .monomials import Expansion, Terms, from_couplings, ordered, to_couplings
from .notation import powers, quoted, variable_names

_MAX_PAIRS = 20_000_000
_ADVICE = "integrate out fewer variables at a time"


def integrate_out(action: Action, variables: Sequence[int | str]) -> Action:
    """S_eff(x) = ln ∫ dy exp S(x, y), the action of the marginal density of the variables that stay.

    Parameters
    ----------
    action : Action
        Exact.
    variables : sequence of int or str
        Indices or names of the y; they enter at most quadratically, with a constant quadratic form among themselves.

    Returns
    -------
    Action
        Of the other variables, in their order, with their names and base point.

    Raises
    ------
    GaugeError
        The action is not exact.
    InputError
        No such variables, none left, or one that enters in another way.
    NotNormalizableError
        K is not positive definite.
    """
    action._require_exact("integrated over")
    names = variable_names(action)
    own = action.names or names
    out = positions(variables, names, own)
    polynomial, kept = gaussian_integral(from_couplings(action.couplings), out, names, _solve)
    return Action(to_couplings(polynomial, len(kept)), action.at[kept], names=[own[i] for i in kept])


def positions(variables: Sequence[int | str], names: Sequence[str], aliases: Sequence[str] = ()) -> list[int]:
    """Which variables are meant, by index, name or alias; raises `InputError` unless some are and some are not."""
    if isinstance(variables, str | int | np.integer):
        variables = [variables]
    distinct = aliases if len(set(aliases)) == len(aliases) else ()
    known = {name: i for called in (distinct, names) for i, name in enumerate(called)}
    out = sorted({known.get(v, -1) if isinstance(v, str) else as_count(v, "variable", 0) for v in variables})
    if not out or out[0] < 0 or out[-1] >= len(names) or len(out) == len(names):
        shown = ", ".join(names if len(names) <= 6 else [*names[:3], "…", names[-1]])
        raise InputError(f"variables must be some of {shown}, but not all, got {variables!r}.")
    return out


def gaussian_integral(polynomial: Terms, out: Collection[int], names: Sequence[str],
                      solve: Callable) -> tuple[Terms, list[int]]:
    """c + ½ bᵀK^{-1}b − ½ ln det(K/2π), for coefficients of any kind.

    Parameters
    ----------
    polynomial : dict
        S, by monomials.
    out : collection of int
        The y.
    names : sequence of str
        Of all variables, for errors.
    solve : callable
        From the names of n variables that K couples, K as {(a, b): K_ab}, B as {(a, p): B_ap} and the number of its columns, to
        ½ BᵀK^{-1}B by rows and −½ ln det(K/2π).

    Returns
    -------
    polynomial : dict
        S_eff in the variables that stay, numbered anew.
    kept : list of int
        What their numbers were.
    """
    effective, linear, quadratic = _split(polynomial, set(out), names)
    expansion = Expansion(_MAX_PAIRS, _ADVICE)
    for block in _blocks(out, quadratic):
        row = {y: a for a, y in enumerate(sorted(block))}
        sources = sorted({monomial for y in row for monomial in linear.get(y, ())})
        expansion.spend(len(row) ** 2 + len(sources) ** 2)
        K = {pair: -(1 + (y == z)) * c for y, z, c in block.edges(data="c") for pair in ((row[y], row[z]), (row[z], row[y]))}
        B = {(row[y], p): linear[y][source] for y in row for p, source in enumerate(sources) if source in linear.get(y, ())}
        pairs, constant = solve([names[y] for y in row], K, B, len(sources))
        expansion.add(effective, {(): constant})
        for (p, source), (q, other) in combinations_with_replacement(enumerate(sources), 2):
            expansion.add(effective, {ordered(source + other): (1 + (p != q)) * pairs[p][q]})
    kept = sorted({*range(len(names))} - set(out))
    renumbered = {i: k for k, i in enumerate(kept)}
    return {tuple(renumbered[i] for i in monomial): c for monomial, c in effective.items()}, kept


def _split(polynomial: Terms, out: set[int], names: Sequence[str]) -> tuple[Terms, dict[int, Terms], Terms]:
    """c(x), b_a(x) by a, and the coefficients of y_a y_b."""
    rest, linear, quadratic = {}, {}, {}
    for monomial, c in polynomial.items():
        inner = [i for i in monomial if i in out]
        if not inner:
            rest[monomial] = c
        elif len(inner) == 1:
            linear.setdefault(inner[0], {})[tuple(i for i in monomial if i != inner[0])] = c
        elif len(inner) == len(monomial) == 2:
            quadratic[monomial] = c
        else:
            raise InputError("variables that are integrated out must enter at most quadratically, and their quadratic form must not "
                             f"depend on the others, got a term {quoted('*'.join(powers(monomial, names)))}; the result would be no "
                             "polynomial.")
    return rest, linear, quadratic


def _blocks(out: Collection[int], quadratic: Terms) -> list[nx.Graph]:
    """The y as graphs of what K couples; c_ab is the attribute ``c`` of an edge."""
    graph = nx.Graph()
    graph.add_nodes_from(out)
    graph.add_edges_from((y, z, {"c": c}) for (y, z), c in quadratic.items())
    return [graph.subgraph(nodes) for nodes in nx.connected_components(graph)]


def _solve(names: Sequence[str], K: dict, B: dict, n_sources: int) -> tuple[list[list[Fraction]], Fraction]:
    try:
        L = np.linalg.cholesky(_filled(K, len(names), len(names)))
    except np.linalg.LinAlgError:
        raise NotNormalizableError(f"variables that are integrated out must be confined by their own quadratic terms, −2 A^(2) of "
                                   f"{quoted(', '.join(names))} is not positive definite.") from None
    W = solve_triangular(L, _filled(B, len(names), n_sources), lower=True)
    constant = 0.5 * len(names) * np.log(2 * np.pi) - np.log(np.diag(L)).sum()
    return [[Fraction(g) for g in row] for row in (0.5 * W.T @ W).tolist()], Fraction(constant)


def _filled(entries: dict, n_rows: int, n_columns: int) -> np.ndarray:
    matrix = np.zeros((n_rows, n_columns))
    for position, value in entries.items():
        matrix[position] = value
    return matrix
