"""Actions with exact coefficients in free parameters: theory on paper, kept in sympy.

    S(x) = Σ_k Σ_{i1…ik} A^(k)_{i1…ik} (x − at)_{i1} ⋯ (x − at)_{ik}

with A^(k) expressions in a mass, a coupling constant, a lattice spacing. What is derived by hand — vertices, propagators, the
expansion around another point, a change of variables, a field integrated out — is derived once, and `SymbolicAction.bind` turns it
into numbers as often as wanted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from math import factorial
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np

from .action import Action
from .arrays import as_count
from .errors import InputError, NotNormalizableError
from .expressions import as_variables, compiled, elements, exact, free_symbols, names_of, read, symbol_of
from .integration import gaussian_integral, positions
from .monomials import Expansion, Terms, multiplicity, rounded, runs
from .notation import SHOWN, formula, latex_term, quoted, signed_sum
from .tensors import SymmetricTensor
from .text import read_polynomial

if TYPE_CHECKING:
    import sympy

_MAX_PRODUCTS = 100_000  # of expressions: some ten microseconds each


class SymbolicAction:
    """An action with exact coefficients in free parameters.

    Parameters
    ----------
    expression : sympy.Expr
        A polynomial in the variables, of order up to 20; every other symbol in it is a parameter.
    variables : sequence of sympy.Symbol or sympy.Indexed
        In their order; an IndexedBase with a shape stands for its elements.
    at : sequence of sympy.Expr or float, optional
        Base point of the couplings, free of the variables; the origin by default.

    Attributes
    ----------
    variables, parameters : tuple of sympy.Symbol
        Parameters are sorted by name.
    at : tuple of sympy.Expr

    Raises
    ------
    InputError
        No polynomial in the variables, or variables and parameters that share a name.

    Examples
    --------
    >>> import sympy
    >>> phi, sigma, m2, M, g = sympy.symbols("phi sigma m2 M g", positive=True)
    >>> S = SymbolicAction(-m2 * phi**2 / 2 - M * sigma**2 / 2 - g * sigma * phi**2 / 2, [phi, sigma])
    >>> S.integrate_out([sigma]).couplings[4]
    {(0, 0, 0, 0): g**2/(8*M)}
    """

    def __init__(self, expression: sympy.Expr, variables: Sequence[sympy.Symbol], at: Sequence | None = None):
        variables = as_variables(variables)
        at = _as_expressions([0] * len(variables) if at is None else at, len(variables), variables, "at")
        self._hold(read(expression, variables, at, lambda e: e), variables, at)

    @classmethod
    def from_text(cls, text: str, variables: Sequence[str]) -> SymbolicAction:
        """From text such as ``-m2*x**2/2 - g*x**4/24``, in the grammar of `fieldtheory.text`.

        Parameters
        ----------
        text : str
            A polynomial in variables and parameters together; its decimals become exact rational numbers.
        variables : sequence of str
            All other names are parameters.
        """
        import sympy

        names, polynomial = read_polynomial(text, variables)
        symbols = list(map(symbol_of, names))
        terms = (sympy.Mul(sympy.Rational(c.numerator, c.denominator), *[symbols[i] for i in index]) for index, c in polynomial.items())
        return cls(sympy.Add(*terms), symbols[: len(variables)])

    @property
    def n_dim(self) -> int:
        """Number of variables."""
        return len(self.variables)

    @property
    def order(self) -> int:
        """The highest order that occurs."""
        return max(map(len, self._polynomial), default=0)

    @cached_property
    def couplings(self) -> dict[int, dict[tuple[int, ...], sympy.Expr]]:
        """{k: {(i1, …, ik): A^(k)_{i1…ik}}}, the unique entries that are not zero, in colexicographic order."""
        return {k: {index: c / multiplicity(index) for index, c in terms} for k, terms in self._terms().items()}

    def __getitem__(self, index) -> sympy.Expr:
        """One entry: ``S[0, 1, 1]`` is A^(3)_011."""
        import sympy

        index = tuple(sorted(index if isinstance(index, tuple) else (index,)))
        if not all(0 <= as_count(i, "index", 0) < self.n_dim for i in index):
            raise InputError(f"an entry must be named by indices in 0 … {self.n_dim - 1}, got {index}.")
        return self.couplings.get(len(index), {}).get(index, sympy.Integer(0))

    @property
    def expression(self) -> sympy.Expr:
        """S as a sympy expression in powers of x − at."""
        return self._assembled(self._polynomial)

    def vertex(self, order: int, at: Sequence | None = None) -> dict[tuple[int, ...], sympy.Expr]:
        """k! A^(k), the k-th derivative of S at the base point or at another one: unique entries that are not zero, by index."""
        order = as_count(order, "order", minimum=0)
        action = self if at is None else self.recenter(at)
        return {index: factorial(order) * A for index, A in action.couplings.get(order, {}).items()}

    def propagator(self, at: Sequence | None = None) -> sympy.Matrix:
        """(−2 A^(2))^{-1} at the base point or at another one, shape (n_dim, n_dim); `InputError` where −2 A^(2) is singular."""
        import sympy
        from sympy.matrices.exceptions import NonInvertibleMatrixError

        action = self if at is None else self.recenter(at)
        K = sympy.Matrix(self.n_dim, self.n_dim, lambda i, j: -2 * action[int(i), int(j)])
        try:
            return K.inv().applyfunc(_tidy)
        except NonInvertibleMatrixError:
            raise InputError("a propagator needs an invertible A^(2), this one is singular; recenter the action or add a mass.") from None

    def score(self) -> sympy.Matrix:
        """∇S, a column of n_dim expressions in the variables."""
        import sympy

        return sympy.Matrix(list(map(self._assembled, _gradient(self._polynomial, self.n_dim))))

    def hessian(self) -> sympy.Matrix:
        """∂_i ∂_j S, an (n_dim, n_dim) matrix of expressions in the variables."""
        import sympy

        rows = [_gradient(p, self.n_dim) for p in _gradient(self._polynomial, self.n_dim)]
        return sympy.Matrix([list(map(self._assembled, row)) for row in rows])

    def recenter(self, at: Sequence) -> SymbolicAction:
        """The same function, with its couplings at another base point, numbers or expressions free of the variables."""
        at = _as_expressions(at, self.n_dim, self.variables, "at")
        images = [_without_zeros({(): new - old, (i,): 1}) for i, (new, old) in enumerate(zip(at, self.at))]
        return self._of(_substituted(self._polynomial, images), self.variables, at)

    def pullback(self, matrix, shift: Sequence | None = None, variables: Sequence[sympy.Symbol] | None = None) -> SymbolicAction:
        """S'(y) = S(M y + b) + ln|det M|, the action of y when x = M y + b, around y = 0.

        Parameters
        ----------
        matrix : sympy.Matrix or array_like, shape (n_dim, n_new)
            M, of full column rank; numbers or expressions. The logarithm is there only where M is square.
        shift : sequence, length n_dim, optional
            b, zero by default.
        variables : sequence of sympy.Symbol, length n_new, optional
            The y; by default they keep the names of the x.
        """
        import sympy

        variables = self.variables if variables is None else as_variables(variables)
        rows = _as_rows(matrix, (self.n_dim, len(variables)), self.variables)
        b = _as_expressions([0] * self.n_dim if shift is None else shift, self.n_dim, self.variables, "shift")
        M = sympy.Matrix(rows)
        if M.rank(simplify=True) < len(variables):
            raise InputError("matrix must have full column rank, its columns depend on each other; a density needs all its variables.")
        images = [_without_zeros({(): b[i] - self.at[i]} | {(j,): m for j, m in enumerate(row)}) for i, row in enumerate(rows)]
        polynomial = _substituted(self._polynomial, images)
        if M.is_square:
            Expansion().add(polynomial, {(): sympy.log(sympy.Abs(_determinant(M)))})
        return self._of(polynomial, variables, (sympy.Integer(0),) * len(variables))

    def integrate_out(self, variables: Sequence[sympy.Symbol | str]) -> SymbolicAction:
        """S_eff(x) = ln ∫ dy exp S(x, y) over variables that enter quadratically, exactly; see `fieldtheory.integration`.

        The result holds where K = −2 A^(2) among the y is positive definite; it is refused where the assumptions on the parameters
        say that it is not.
        """
        names = names_of(self.variables)
        out = positions(names_of(elements(variables)), names)
        polynomial, kept = gaussian_integral(self._polynomial, out, names, _solve)
        return self._of(polynomial, tuple(self.variables[i] for i in kept), tuple(self.at[i] for i in kept))

    def bind(self, /, **values: float) -> Action:
        """Numbers for all parameters; what they enter is compiled at the first call.

        Raises
        ------
        InputError
            A parameter without value, a value without parameter, or couplings that are not real and finite there.
        """
        names = names_of(self.parameters)
        unmatched = [name for name in [*names, *values] if (name in names) != (name in values)]
        if unmatched:
            raise InputError(f"bind needs one value for each parameter ({', '.join(names) or 'there is none'}) and no other, got "
                             f"{'no value for' if unmatched[0] in names else 'unknown'} {', '.join(unmatched)}.")
        for name, value in values.items():
            if not isinstance(value, Real) or not np.isfinite(float(value)):
                raise InputError(f"parameter {name} must be a finite real number, got {quoted(value)}.")
        return self._program(*(float(values[name]) for name in names))

    @cached_property
    def _program(self) -> Callable[..., Action]:
        return _compiled(self)

    def __repr__(self) -> str:
        parameters = ", ".join(names_of(self.parameters))
        return f"SymbolicAction(n_dim={self.n_dim}, order={self.order}, parameters=({parameters}))"

    def _repr_latex_(self) -> str:
        import sympy

        names = list(map(sympy.latex, self.variables))
        factors = [rf"\left({signed_sum([x, _coefficient_latex(-a)])}\right)" if a != 0 else x for x, a in zip(names, self.at)]
        orders = {k: (len(terms), terms[:SHOWN]) for k, terms in self._terms().items()}
        return formula("S", names, orders, lambda index, c: latex_term(_coefficient_latex(c) if index else sympy.latex(c), index, factors))

    @classmethod
    def _of(cls, polynomial: Terms, variables: tuple, at: tuple) -> SymbolicAction:
        action = cls.__new__(cls)
        action._hold(polynomial, variables, at)
        return action

    def _hold(self, polynomial: Terms, variables: tuple, at: tuple) -> None:
        self.variables, self.at, self._polynomial = variables, at, _tidied(polynomial)
        self.parameters = _parameters([*at, *self._polynomial.values()], variables)

    def _terms(self) -> dict[int, list[tuple[tuple[int, ...], sympy.Expr]]]:
        """(I, c_I) by order, in colexicographic order."""
        orders: dict[int, list] = {}
        for index in sorted(self._polynomial, key=lambda index: (len(index), index[::-1])):
            orders.setdefault(len(index), []).append((index, self._polynomial[index]))
        return orders

    def _assembled(self, polynomial: Terms) -> sympy.Expr:
        import sympy

        u = [x - a for x, a in zip(self.variables, self.at)]
        return sympy.Add(*[sympy.Mul(c, *[u[i] for i in index]) for index, c in polynomial.items()])


def _as_expressions(values, length: int, variables: Sequence[sympy.Symbol], name: str) -> tuple[sympy.Expr, ...]:
    """Numbers and expressions without the variables."""
    try:
        found = tuple(map(_as_expression, values))
    except TypeError:
        found = ()
    usable = len(found) == length and None not in found
    if not usable or not set().union(*(a.free_symbols for a in found)).isdisjoint(variables):
        raise InputError(f"{name} must hold {length} numbers or sympy expressions without the variables, got {quoted(values)}.")
    return found


def _as_rows(matrix, shape: tuple[int, int], variables: Sequence[sympy.Symbol]) -> list[tuple[sympy.Expr, ...]]:
    rows = matrix.tolist() if hasattr(matrix, "tolist") else matrix
    if not isinstance(rows, Sequence) or len(rows) != shape[0]:
        raise InputError(f"matrix must have shape {shape}, got {quoted(matrix)}.")
    return [_as_expressions(row, shape[1], variables, "a row of matrix") for row in rows]


def _as_expression(value) -> sympy.Expr | None:
    """Never from text: sympy would execute it."""
    import sympy

    if isinstance(value, sympy.Expr):
        return value
    if isinstance(value, Integral):
        return sympy.Integer(int(value))
    return sympy.Float(float(value)) if isinstance(value, Real) and np.isfinite(value) else None


def _parameters(expressions: Iterable[sympy.Expr], variables: Sequence[sympy.Symbol]) -> tuple[sympy.Symbol, ...]:
    found = set().union(*map(free_symbols, dict.fromkeys(expressions)))
    parameters = tuple(sorted(found, key=str))
    names = names_of([*variables, *parameters])
    if len(set(names)) < len(names):
        [(double, _)] = Counter(names).most_common(1)
        raise InputError(f"variables and parameters must have distinct names, {double} occurs twice; if it is the same symbol with other "
                         "assumptions, use one for both.")
    return parameters


def _tidied(polynomial: Terms) -> Terms:
    """Coefficients in normal form, so that what cancels is seen to cancel."""
    tidy = {c: _tidy(c) for c in set(polynomial.values())}
    return {index: tidy[c] for index, c in polynomial.items() if tidy[c] != 0}


def _tidy(c) -> sympy.Expr:
    """Expanded, with all terms that have a denominator on one: a sum of what was there and of what was divided."""
    import sympy

    whole, divided = [], []
    for term in sympy.Add.make_args(sympy.expand(c, log=False)):
        powers = term.atoms(sympy.Pow)
        (divided if any(p.exp.could_extract_minus_sign() and p.free_symbols for p in powers) else whole).append(term)
    quotient = sympy.cancel(sympy.Add(*divided))
    return sympy.Add(*whole, sympy.expand(quotient) if quotient.is_polynomial() else quotient)


def _determinant(matrix: sympy.Matrix) -> sympy.Expr:
    """Without fractions on the way, in the ring of the entries."""
    entries = matrix.to_DM()
    return entries.domain.to_sympy(entries.det())


def _without_zeros(polynomial: Terms) -> Terms:
    return {index: c for index, c in polynomial.items() if c != 0}


def _gradient(polynomial: Terms, n_dim: int) -> list[Terms]:
    """∂P/∂u_i for every i."""
    derivatives: list[Terms] = [{} for _ in range(n_dim)]
    for index, c in polynomial.items():
        for i, exponent in runs(index):
            first = index.index(i)
            derivatives[i][index[:first] + index[first + 1:]] = exponent * c
    return derivatives


def _substituted(polynomial: Terms, images: Sequence[Terms]) -> Terms:
    """P with u_i replaced by the polynomial images[i]."""
    expansion, total = Expansion(_MAX_PRODUCTS, "bind the parameters and do it in numbers"), {}
    for index, c in polynomial.items():
        expansion.add(total, expansion.multiply({(): c}, *(expansion.power(images[i], n) for i, n in runs(index))))
    return total


def _solve(names: Sequence[str], K: dict, B: dict, n_sources: int) -> tuple[list[list[sympy.Expr]], sympy.Expr]:
    """½ BᵀK^{-1}B and −½ ln det(K/2π); Sylvester's minors of K must not be known to be negative."""
    import sympy

    n = len(names)
    K, B = sympy.Matrix(n, n, lambda a, b: K.get((a, b), 0)), sympy.Matrix(n, n_sources, lambda a, p: B.get((a, p), 0))
    minors = [_determinant(K[:a, :a]) for a in range(1, n + 1)]
    if any(minor.is_nonpositive for minor in minors):
        raise NotNormalizableError("variables that are integrated out must be confined by their own quadratic terms, −2 A^(2) of "
                                   f"{quoted(', '.join(names))} is not positive definite.")
    constant = (n * sympy.log(2 * sympy.pi) - sympy.log(minors[-1])) / 2
    return (B.T * K.inv() * B / 2).tolist(), constant


def _compiled(action: SymbolicAction) -> Callable[..., Action]:
    """A function of the parameters in their order: each distinct coefficient is compiled and evaluated once."""
    distinct = list(dict.fromkeys([*action.at, *(A for entries in action.couplings.values() for A in entries.values())]))
    moving = [p for p, c in enumerate(distinct) if c.free_symbols]
    fixed = np.array([0.0 if c.free_symbols else rounded(exact(c)) for c in distinct])
    evaluate = compiled([distinct[p] for p in moving], action.parameters)
    position = {c: p for p, c in enumerate(distinct)}
    at = [position[a] for a in action.at]
    orders = {k: (np.array(list(entries)).reshape(len(entries), k), [position[A] for A in entries.values()])
              for k, entries in (action.couplings if action.order else {1: {}} | action.couplings).items()}
    names = names_of(action.variables)

    def program(*values: float) -> Action:
        table = fixed.copy()
        table[moving] = evaluate(*values)
        couplings = {k: SymmetricTensor.from_entries(indices, table[where], action.n_dim) for k, (indices, where) in orders.items()}
        return Action(couplings, table[at], names=names)

    return program


def _coefficient_latex(c: sympy.Expr) -> str:
    import sympy

    if c.is_Add:
        return rf"\left({sympy.latex(c)}\right)"
    return f"-{sympy.latex(-c)}" if c.could_extract_minus_sign() else sympy.latex(c)
