"""How an action is written: names of variables, text that reads back exactly, LaTeX that stays readable.

A term of S = Σ_I c_I u_{i1} ⋯ u_{ik}, u = x − at, shows c_I = k!/Πα! · A^(k)_I. Text holds all terms and all digits. LaTeX gives each
order a line, rounds to four digits, and counts what it leaves out: "+ ⋯ (1,220 more terms of order 3)".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Context, Decimal

import numpy as np

from .action import Action
from .errors import InputError
from .monomials import entries, multiplicity, runs

NAME = r"[^\W\d]\w*(?:\[\s*[0-9]{1,9}(?:\s*,\s*[0-9]{1,9})*\s*\])?"
_BARE_INDEX = re.compile(r"[0-9]{1,9}(?:,[0-9]{1,9})*")
_PARTS = re.compile(r"[_\[\]]|(?<=[^\W\d])(?=[0-9])")
_EXACT = Context(prec=17 + 19)  # digits of a float64 times those of 20!, the largest multiplicity
SHOWN = 6
_GREEK = frozenset([
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi",
    "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega",
])


def canonical_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names as text writes them: phi[0,1] without spaces; bare indices such as 0,1 get the letter x.

    Raises
    ------
    InputError
        No names, one twice, or one that is no identifier with or without indices.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise InputError(f"variables must be a sequence of names, got {quoted(names)}.")
    names = ["".join(name.split()) if "[" in name else name for name in names]
    if names and all(map(_BARE_INDEX.fullmatch, names)):
        names = [f"x[{name}]" for name in names]
    wrong = [name for name in names if not is_name(name)]
    if not names or wrong or len(set(names)) < len(names):
        what = f"got {quoted(wrong[0])}" if wrong else "one occurs twice" if names else "there is none"
        raise InputError(f"variables must be distinct names such as x0, phi or phi[0,1], {what}.")
    return tuple(names)


def variable_names(action: Action) -> tuple[str, ...]:
    """The action's own names where they can stand in text and formulas, otherwise x0, x1, …"""
    try:
        return canonical_names(action.names or ())
    except InputError:
        return tuple(f"x{i}" for i in range(action.n_dim))


def is_name(token: str) -> bool:
    """An identifier, with or without indices in brackets."""
    return re.fullmatch(NAME, token) is not None and token.partition("[")[0].isidentifier()  # to \w alone, x² is a name


def quoted(value) -> str:
    """What an error shows of a value: its first characters."""
    text = str(value)
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def to_text(action: Action) -> str:
    """S as text from which ``parse_action(text, variables, action.at)`` gives back every coupling, bit for bit.

    Variables have their own names where these can stand in text, and x0, x1, … otherwise; the site i,j of a lattice is ``x[i,j]``.
    Around a base point a the powers are those of ``(x0 - a)``. A normal-ordered action is written as the polynomial it is.

    Examples
    --------
    >>> to_text(Action({2: [[-0.5, 0.1], [0.1, -0.5]]}))
    '-0.5*x0**2 + 0.2*x0*x1 - 0.5*x1**2'
    """
    factors = [_displaced(name, a, "({} {} {})", repr) for name, a in zip(variable_names(action), action.at.tolist())]
    return signed_sum([_term(_decimal(value, multiplicity(index)), powers(index, factors), "*")
                       for index, value in entries(action._powers)])


def to_latex(action: Action) -> str:
    """S as a displayed formula: one line per order, at most six terms on it, the others counted."""
    names = [name_latex(name) for name in variable_names(action)]
    factors = [_displaced(name, a, r"\left({} {} {}\right)", _four_digits) for name, a in zip(names, action.at.tolist())]
    orders = {}
    for k, T in sorted(action._powers.items()):
        where = np.flatnonzero(T.values)
        first = where[:SHOWN]
        orders[k] = where.size, list(zip(map(tuple, T.indices[first].tolist()), T.values[first].tolist()))
    subscript = "" if action.gauge == "exact" else rf"_\text{{{action.gauge.replace('_', '-')}}}"
    return formula(f"S{subscript}", names, orders,
                   lambda index, value: latex_term(_four_digits(multiplicity(index) * value), index, factors))


def formula(symbol: str, names: Sequence[str], orders: dict[int, tuple[int, list]], term: Callable[..., str]) -> str:
    """LaTeX of symbol(names) = Σ terms.

    Parameters
    ----------
    symbol, names : str and sequence of str
        LaTeX of the function and of its arguments; of more than three arguments the first and the last are shown.
    orders : dict of int to (int, list of tuple)
        How many terms each order has, and what makes the first of them.
    term : callable
        Called with such a tuple, gives the LaTeX of the term, with its sign.
    """
    arguments = ", ".join(names if len(names) <= 3 else (names[0], r"\ldots", names[-1]))
    first, *others = [signed_sum([term(*made) for made in shown]) + _left_out(n_terms - len(shown), k)
                      for k, (n_terms, shown) in orders.items() if n_terms] or ["0"]
    body = "".join(rf" \\ &{{}} {line[0]} {line[1:]}" if line[0] == "-" else rf" \\ &{{}} + {line}" for line in others)
    return rf"$$\begin{{aligned}}{symbol}({arguments}) ={{}}& {first}{body}\end{{aligned}}$$"


def latex_term(coefficient: str, index: Sequence[int], factors: Sequence[str]) -> str:
    """c u_i u_j … of the LaTeX of c and of the u."""
    return _term(coefficient, powers(index, factors, "{}^{{{}}}"), r"\,")


def name_latex(name: str) -> str:
    """phi[0,1] → \\phi_{0,1}, x12 → x_{12}."""
    base, *subscripts = map(_letter, filter(None, _PARTS.split(name)))
    return base + (f"_{{{','.join(subscripts)}}}" if subscripts else "")


def powers(index: Sequence[int], factors: Sequence[str], pattern: str = "{}**{}") -> list[str]:
    """(0, 1, 1) → x0, x1**2."""
    return [pattern.format(factors[i], n) if n > 1 else factors[i] for i, n in runs(index)]


def signed_sum(terms: Sequence[str]) -> str:
    """Terms joined by their signs, 0 if there are none."""
    return "".join([terms[0], *(f" - {t[1:]}" if t[0] == "-" else f" + {t}" for t in terms[1:])]) if terms else "0"


def _left_out(n_terms: int, order: int) -> str:
    return "" if n_terms <= 0 else rf" + \cdots\ (\text{{{n_terms:,} more term{'s' * (n_terms > 1)} of order {order}}})"


def _term(coefficient: str, factors: list[str], times: str) -> str:
    sign, size = ("-", coefficient[1:]) if coefficient[0] == "-" else ("", coefficient)
    return sign + times.join(factors if size == "1" and factors else [size, *factors])


def _displaced(name: str, a: float, pattern: str, number: Callable[[float], str]) -> str:
    return pattern.format(name, "-" if a > 0 else "+", number(abs(a))) if a else name


def _decimal(value: float, factor: int) -> str:
    """factor · value exactly, for the shortest decimal that is `value`."""
    product = _EXACT.multiply(Decimal(repr(value)), factor).normalize(_EXACT)
    return f"{product:f}" if -6 < product.adjusted() < 16 else f"{product:e}"


def _four_digits(value: float) -> str:
    mantissa, _, exponent = f"{value:.4g}".partition("e")
    return rf"{mantissa} \times 10^{{{int(exponent)}}}" if exponent else mantissa


def _letter(part: str) -> str:
    if part in _GREEK:
        return f"\\{part}"
    return part if len(part) == 1 or part[0].isdigit() else rf"\mathrm{{{part}}}"
