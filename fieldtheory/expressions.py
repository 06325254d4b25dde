"""Actions as sympy expressions, there and back without rounding.

    S = Σ_I c_I u_{i1} ⋯ u_{ik},    u = x − at,    c_I = k!/Πα! · A^(k)_I.

`to_sympy` writes c_I as a Float, of more than 53 bits where it takes them; `from_sympy` reads every number exactly and rounds
A^(k)_I once. An expression is walked as it stands, not expanded by sympy: sums of 10⁵ monomials take seconds, and products are formed
under the limits of `monomials`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from .action import Action
from .arrays import as_vector
from .errors import InputError
from .monomials import Expansion, Terms, entries, multiplicity, to_couplings
from .notation import quoted, variable_names

if TYPE_CHECKING:
    import sympy

_DIGITS = 40  # of π or √2, far beyond the 17 of a float64
_MAX_EXPONENT = 5000  # in bits; that of a float64 ends at 1074


def from_sympy(expression: sympy.Expr, symbols: Sequence[sympy.Symbol], at=None) -> Action:
    """The action that a sympy expression with numeric coefficients writes out.

    Parameters
    ----------
    expression : sympy.Expr
        A polynomial in the symbols, expanded or not, of order up to 20.
    symbols : sequence of sympy.Symbol or sympy.Indexed
        The variables, in their order; an IndexedBase with a shape stands for its elements.
    at : array_like, shape (n_dim,), optional
        Base point of the result, the origin by default. The function is that of the expression either way.

    Returns
    -------
    Action
        Exact, named after the symbols; each coupling is the float64 nearest to its exact value.

    Raises
    ------
    InputError
        Free symbols, which are named; no polynomial; coefficients that are not real and finite; too long to expand.
    """
    symbols = as_variables(symbols)
    at = np.zeros(len(symbols)) if at is None else as_vector(at, len(symbols), "at")

    def number(e: sympy.Expr) -> Fraction:
        if e.free_symbols:
            raise InputError(_free_symbols_found(free_symbols(expression).difference(symbols), symbols))
        return exact(e)

    polynomial = read(expression, symbols, [Fraction(a) for a in at.tolist()], number)
    return Action(to_couplings(polynomial, len(symbols)), at, names=names_of(symbols))


def to_sympy(action: Action, symbols: Sequence[sympy.Symbol] | None = None) -> sympy.Expr:
    """S as a sympy expression from which `from_sympy` gives back every coupling, bit for bit.

    Parameters
    ----------
    action : Action
        Of any gauge; one that is normal-ordered is written as the polynomial it is.
    symbols : sequence of sympy.Symbol or sympy.Indexed, optional
        The variables; by default made from their names where these can stand in formulas, otherwise x0, x1, …

    Returns
    -------
    sympy.Expr
        In powers of (x_i − at_i), not expanded: ``from_sympy(expression, symbols, action.at)`` reads it back.
    """
    import sympy

    symbols = as_variables(map(symbol_of, variable_names(action)) if symbols is None else symbols)
    if len(symbols) != action.n_dim:
        raise InputError(f"symbols must be one per variable, got {len(symbols)} for {action.n_dim} variables.")
    u = [x - sympy.Float(a) if a else x for x, a in zip(symbols, action.at.tolist())]
    terms = ((_float(value, multiplicity(index)), sympy.Mul(*[u[i] for i in index])) for index, value in entries(action._powers))
    return sympy.Add(*[sympy.Mul(c, *sympy.Mul.make_args(u_I), evaluate=False) for c, u_I in terms])  # c (x - a) stays one term


def read(expression: sympy.Expr, variables: Sequence[sympy.Symbol], at: Sequence, constant: Callable) -> Terms:
    """An expression as a polynomial in u = x − at.

    Parameters
    ----------
    expression : sympy.Expr
    variables : sequence of sympy.Symbol or sympy.Indexed
    at : sequence
        Base point, as coefficients.
    constant : callable
        From an expression without variables to a coefficient.
    """
    import sympy

    if not isinstance(expression, sympy.Expr) or expression.is_Matrix or expression.is_commutative is False:
        raise InputError(f"expression must be a scalar sympy expression, got {quoted(type(expression).__name__)}; text is read by "
                         "ft.parse_action and ft.SymbolicAction.from_text.")
    leaves = {x: {(): a, (i,): 1} if a else {(i,): 1} for i, (x, a) in enumerate(zip(variables, at))}
    try:
        return _Walk(leaves, constant).polynomial(expression)
    except RecursionError:
        raise InputError("expression must be nested less deeply to be read; expand it with sympy.expand.") from None


class _Walk:
    """One visit per node of the expression."""

    def __init__(self, leaves: dict[sympy.Expr, Terms], constant: Callable):
        self.leaves, self.constant = leaves, constant
        self.expansion = Expansion()

    def polynomial(self, e: sympy.Expr) -> Terms:
        if e in self.leaves:
            return self.leaves[e]
        if e.is_Add:
            return self.sum(e.args)
        if e.is_Mul:
            return self.expansion.multiply(*map(self.polynomial, e.args))
        if e.is_Pow and e.exp.is_Integer and e.exp.is_positive:
            base = self.polynomial(e.base)
            if any(base):  # some monomial other than ()
                return self.expansion.power(base, int(e.exp))
        elif not e.is_Atom:
            done = e.doit()  # a Sum over indices, a Derivative
            if done != e:
                return self.polynomial(done)
            if self.leaves.keys() & e.free_symbols:
                raise InputError(f"expression must be a polynomial in the variables, got a term {quoted(e)}.")
        c = self.constant(e)
        return {(): c} if c else {}

    def sum(self, terms: Iterable[sympy.Expr]) -> Terms:
        total: Terms = {}
        for term in terms:
            self.expansion.add(total, self.polynomial(term))
        return total


def exact(number: sympy.Expr) -> Fraction:
    """A finite real number as a fraction; of irrational ones the first forty digits."""
    from mpmath.libmp import to_rational

    value = number if number.is_Rational or number.is_Float else number.evalf(_DIGITS)
    if not (value.is_Rational or value.is_Float):
        raise InputError(f"coefficients must be finite real numbers, got {quoted(number)}.")
    if value.is_Rational:
        return Fraction(int(value.p), int(value.q))
    if abs(value._mpf_[2]) > _MAX_EXPONENT:  # the fraction would have as many bits
        raise InputError(f"coefficients must fit into float64, got {quoted(number)}.")
    return Fraction(*to_rational(value._mpf_))


def compiled(expressions: Sequence[sympy.Expr], parameters: Sequence[sympy.Symbol]) -> Callable[..., np.ndarray]:
    """Expressions as a function of floats, one for each parameter.

    sympy writes and runs code for it; symbols are replaced beforehand, so that no name of theirs gets into that code.
    """
    import sympy
    from sympy.core.function import AppliedUndef

    unknown = [f for e in expressions for f in e.atoms(AppliedUndef)]
    if unknown:
        raise InputError(f"bind needs functions that sympy can evaluate, got {quoted(unknown[0])}.")
    stand_ins = {symbol: sympy.Dummy() for symbol in parameters}
    function = sympy.lambdify(list(stand_ins.values()), [e.xreplace(stand_ins) for e in expressions], modules=["math", "mpmath"])

    def evaluate(*values: float) -> np.ndarray:
        try:
            found = np.array(function(*values), dtype=np.float64)
        except (ArithmeticError, ValueError, TypeError):  # division by zero, a logarithm or root of a negative number
            found = np.array([np.nan])
        if not np.isfinite(found).all():
            where = ", ".join(f"{name} = {value:g}" for name, value in zip(names_of(parameters), values))
            raise InputError(f"couplings must be finite real numbers, some are not at {where}.")
        return found

    return evaluate


def as_variables(variables) -> tuple[sympy.Symbol, ...]:
    """Distinct symbols, those of an IndexedBase with a shape one after the other; raises `InputError` otherwise."""
    import sympy

    symbols = tuple(elements(variables))
    wrong = [x for x in symbols if not isinstance(x, sympy.Symbol | sympy.Indexed) or not x.is_commutative]
    if wrong or not symbols or len(set(names_of(symbols))) < len(symbols):
        what = f"got {quoted(wrong[0])}" if wrong else "one name occurs twice" if symbols else "there is none"
        raise InputError(f"variables must be distinct sympy symbols, or elements such as phi[0] of an IndexedBase, {what}.")
    return symbols


def elements(variables) -> Iterable:
    """One by one: a single variable, a sequence, and an IndexedBase with a shape in the order of its indices."""
    import sympy

    for x in [variables] if isinstance(variables, str | sympy.Expr) else variables:
        if isinstance(x, sympy.IndexedBase) and x.shape and all(n.is_Integer for n in x.shape):
            yield from (x[index] for index in np.ndindex(*map(int, x.shape)))
        else:
            yield x


def names_of(symbols: Iterable[sympy.Symbol]) -> list[str]:
    """phi[0, 1] → phi[0,1]."""
    return ["".join(str(x).split()) for x in symbols]


def symbol_of(name: str) -> sympy.Symbol:
    """The symbol a name stands for, an element of an IndexedBase if it has indices."""
    import sympy

    base, _, indices = name.rstrip("]").partition("[")
    return sympy.IndexedBase(base)[tuple(map(int, indices.split(",")))] if indices else sympy.Symbol(name)


def free_symbols(expression: sympy.Expr) -> set[sympy.Symbol]:
    """Symbols and indexed elements, without the bases of the latter."""
    import sympy

    found = expression.free_symbols
    return found - {x.base.label for x in found if isinstance(x, sympy.Indexed)}


def _free_symbols_found(free: set[sympy.Symbol], variables: Sequence[sympy.Symbol]) -> str:
    names = sorted(names_of(free))
    doubles = set(names) & set(names_of(variables))
    way_out = (f"{min(doubles)} has the name of a variable but other assumptions or another shape, use one symbol for both" if doubles else
               "give them values with .subs, or keep them with ft.SymbolicAction")
    return f"expression must have numeric coefficients, got the free symbols {', '.join(names)}; {way_out}."


def _float(value: float, factor: int) -> sympy.Float:
    """factor · value, in more than 53 bits only where 53 would not give `value` back."""
    import sympy

    if factor * value / factor == value:
        return sympy.Float(factor * value)
    c = factor * Fraction(value)
    odd = abs(c.numerator) // (c.numerator & -c.numerator)
    return sympy.Float(sympy.Rational(c.numerator, c.denominator), precision=odd.bit_length())
