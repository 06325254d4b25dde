"""Actions from text such as ``-x0**2/2 + 0.1*x0*x1*x2``, read by a small grammar and by nothing else.

    sum      = product { ("+" | "-") product }
    product  = factor { ("*" | "/") factor }              only a number divides
    factor   = { "+" | "-" } atom [ "**" whole number ]
    atom     = number | variable | "(" sum ")"
    variable = name [ "[" index { "," index } "]" ]       such as x0, phi[0,1] or φ

Nothing is evaluated: names are looked up among the variables, and exponents, digits, nesting, length and the work of expanding are
limited before they cost anything. Numbers are read as the decimals they are (0.6 is 3/5), and each coupling is rounded once, when
everything is summed: the order of the terms does not matter, and what `notation.to_text` writes comes back bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NoReturn

from .action import Action
from .arrays import as_vector
from .errors import InputError
from .monomials import MAX_ORDER, Expansion, Terms, to_couplings
from .notation import NAME, canonical_names, is_name, quoted

_TOKEN = re.compile(rf"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|{NAME}|\*\*|\S")
_NUMBERED = re.compile(r"(.*?[^\W\d])(0|[1-9][0-9]{0,8})")
_CONSTANTS = {"pi", "inf", "infinity", "nan"}
_DIGITS = frozenset("0123456789")
_EXPONENTS = frozenset(map(str, range(MAX_ORDER + 1)))
_MAX_LENGTH, _MAX_DEPTH, _MAX_DIGITS, _MAX_POWER_OF_TEN, _MAX_VARIABLES = 20_000_000, 50, 60, 400, 1_000_000


def parse_action(text: str, variables: Sequence[str] | None = None, at=None) -> Action:
    """The action that a text writes out.

    Parameters
    ----------
    text : str
        A polynomial in numbers, variables, ``+ - * / **`` and parentheses; see the module for the grammar.
    variables : sequence of str, optional
        The variables, in their order. By default those that occur: one family x0, x1, … or phi[0], phi[1], … counts up to its highest
        index; anything else is sorted by name and indices.
    at : array_like, shape (n_dim,), optional
        Base point of the result, the origin by default. The function is that of the text either way.

    Returns
    -------
    Action
        Exact, named after its variables.

    Raises
    ------
    InputError
        Anything that is not such a polynomial, is of order above 20, or would take long to expand.

    Examples
    --------
    >>> S = parse_action("-x0**2/2 - x1**2/2 + 0.6*x0*x1**2")
    >>> S.n_dim, S[0, 1, 1]
    (2, 0.2)
    """
    tokens = _tokens(text)
    names = _variables_in(tokens) if variables is None else canonical_names(variables)
    at = [0.0] * len(names) if at is None else as_vector(at, len(names), "at").tolist()
    polynomial = _Reader(text, tokens, {name: _displaced(i, a) for i, (name, a) in enumerate(zip(names, at))}).read()
    return Action(to_couplings(polynomial, len(names)), at, names=names)


def read_polynomial(text: str, variables: Sequence[str]) -> tuple[list[str], Terms]:
    """A polynomial in given variables and in whatever other names occur.

    Returns
    -------
    names : list of str
        The variables, followed by the other names as they are met.
    polynomial : dict
        In these, with rational coefficients.
    """
    tokens = _tokens(text)
    names = list(dict.fromkeys([*canonical_names(variables), *filter(is_name, tokens)]))
    return names, _Reader(text, tokens, {name: {(i,): 1} for i, name in enumerate(names)}).read()


def _tokens(text: str) -> list[str]:
    if not isinstance(text, str):
        raise InputError(f"text must be a string, got {type(text).__name__}.")
    if len(text) > _MAX_LENGTH:
        raise InputError(f"text must have at most {_MAX_LENGTH:,} characters, got {len(text):,}; keep so large an action in a file "
                         "with save.")
    tokens = ["".join(token.split()) for token in _TOKEN.findall(text)]
    if not tokens:
        raise InputError("text must hold a polynomial such as -x0**2/2 + 0.1*x0*x1, it is empty.")
    return tokens


def _variables_in(tokens: list[str]) -> Sequence[str]:
    """The variables of a text that comes without a list of them."""
    names = list(filter(is_name, dict.fromkeys(tokens)))
    if not names:
        raise InputError("text must hold a variable such as x0, it has none; name the variables with variables=.")
    constants = [name for name in names if name.lower() in _CONSTANTS]
    if constants:
        raise InputError(f"constants must be written as finite numbers, got {constants[0]}.")
    parts = sorted((*_stem_and_indices(name), name) for name in names)
    stem, highest, _ = parts[-1]
    if parts[0][0] != stem or any(len(indices) != 1 for _, indices, _ in parts):
        return [name for *_, name in parts]
    if highest[0] >= _MAX_VARIABLES:
        raise InputError(f"variables must be numbered from 0 to {_MAX_VARIABLES - 1} at most, got {parts[-1][-1]}.")
    return [stem.replace("#", str(i)) for i in range(highest[0] + 1)]


def _stem_and_indices(name: str) -> tuple[str, tuple[int, ...]]:
    """phi3 → phi#, (3); phi[0,1] → phi[#], (0, 1); phi → phi, ()."""
    base, _, bracket = name.rstrip("]").partition("[")
    if bracket:
        return f"{base}[#]", tuple(map(int, bracket.split(",")))
    numbered = _NUMBERED.fullmatch(name)
    return (f"{numbered[1]}#", (int(numbered[2]),)) if numbered else (name, ())


def _displaced(i: int, a: float) -> Terms:
    """x_i = a_i + u_i, with a_i the decimal that `to_text` writes."""
    return {(): Fraction(repr(a)), (i,): 1} if a else {(i,): 1}


class _Reader:
    """One method per line of the grammar."""

    def __init__(self, text: str, tokens: list[str], leaves: dict[str, Terms]):
        self.text, self.tokens, self.leaves = text, [*tokens, ""], leaves
        self.position = self.depth = 0
        self.expansion = Expansion()

    def read(self) -> Terms:
        polynomial = self.sum()
        if self.next():
            self.refuse()
        return polynomial

    def sum(self) -> Terms:
        total: Terms = {}
        self.expansion.add(total, self.product())
        while self.tokens[self.position] in ("+", "-"):
            sign = 1 if self.next() == "+" else -1
            self.expansion.add(total, self.product(), sign)
        return total

    def product(self) -> Terms:
        factors = [self.factor()]
        while self.tokens[self.position] in ("*", "/"):
            divides = self.next() == "/"
            factors.append(self.inverse(self.factor()) if divides else self.factor())
        return self.expansion.multiply(*factors)

    def factor(self) -> Terms:
        sign = 1
        while self.tokens[self.position] in ("+", "-"):
            sign = sign if self.next() == "+" else -sign
        base = self.atom()
        if self.tokens[self.position] == "**":
            base = self.expansion.power(base, self.exponent())
        return base if sign == 1 else {monomial: -c for monomial, c in base.items()}

    def atom(self) -> Terms:
        token = self.next()
        if token in self.leaves:
            return self.leaves[token]
        if token == "(":
            return self.parenthesis()
        if _is_number(token):
            number = _number(token)
            return {(): number} if number else {}
        return self.refuse_name() if is_name(token) else self.refuse()

    def parenthesis(self) -> Terms:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise InputError(f"parentheses must be nested at most {_MAX_DEPTH} deep, got more at character {self.character()}.")
        inner = self.sum()
        if self.next() != ")":
            self.refuse()
        self.depth -= 1
        return inner

    def exponent(self) -> int:
        self.next()
        token = self.next()
        if token not in _EXPONENTS or self.tokens[self.position] == "**":
            raise InputError(f"exponents must be whole numbers from 0 to {MAX_ORDER}, got {quoted(token)} at character "
                             f"{self.character()}.")
        return int(token)

    def inverse(self, divisor: Terms) -> Terms:
        if divisor.keys() != {()}:
            raise InputError("only a number other than 0 may divide, an action is a polynomial; got another divisor at character "
                             f"{self.character()}.")
        return {(): 1 / Fraction(divisor[()])}

    def next(self) -> str:
        self.position += 1
        return self.tokens[self.position - 1]

    def character(self) -> int:
        """Where the token read last begins, counted from 1."""
        starts = [match.start() for match in _TOKEN.finditer(self.text)]
        return [*starts, len(self.text)][self.position - 1] + 1

    def refuse(self) -> NoReturn:
        token = self.tokens[self.position - 1]
        factor = is_name(token) or _is_number(token) or token == "("
        hint = "; powers are written **" if token == "^" else "; products are written *, nothing can be called" if factor else ""
        found = f"{quoted(token)} at character {self.character()}" if token else "an end too early"
        raise InputError(f"text must be a polynomial made of numbers, variables, + - * / ** and parentheses, got {found}{hint}.")

    def refuse_name(self) -> NoReturn:
        unknown = [name for name in dict.fromkeys(self.tokens) if is_name(name) and name not in self.leaves]
        raise InputError(f"text must hold no names but its variables, got {quoted(', '.join(unknown))}; give them numbers, or keep "
                         "them with ft.SymbolicAction.from_text.")


def _is_number(token: str) -> bool:
    return token[:1] in _DIGITS or (token[:1] == "." and len(token) > 1)


def _number(token: str) -> int | Fraction:
    mantissa, _, exponent = token.lower().partition("e")
    if len(token) > _MAX_DIGITS or abs(int(exponent or 0)) > _MAX_POWER_OF_TEN:
        raise InputError(f"numbers must have at most {_MAX_DIGITS} characters and powers of ten from -{_MAX_POWER_OF_TEN} to "
                         f"{_MAX_POWER_OF_TEN}, got {quoted(token)}.")
    return Fraction(Decimal(token)) if "." in token or exponent else int(mantissa)
