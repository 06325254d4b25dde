"""How long notation takes: 10⁵ monomials from sympy and from text, parameters bound."""

import time

import numpy as np
import pytest
import sympy

import fieldtheory as ft
from fieldtheory.tensors import packed_size

pytestmark = pytest.mark.benchmark


def seconds(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def test_a_hundred_thousand_monomials():
    rng, n_dim = np.random.default_rng(0), 38
    S = ft.Action({4: ft.SymmetricTensor.from_packed(rng.normal(size=packed_size(n_dim, 4)), n_dim, 4)})
    symbols, text = sympy.symbols(f"x:{n_dim}"), S.to_text()
    writing, expression = seconds(S.to_sympy)
    reading, again = seconds(ft.Action.from_sympy, expression, symbols)
    parsing, parsed = seconds(ft.parse_action, text)
    print(f"\n{len(expression.args):,} monomials: from_sympy {reading:.2f} s, parse_action {parsing:.2f} s, to_sympy {writing:.1f} s")
    assert len(expression.args) > 100_000 and reading < 5 and parsing < 5
    np.testing.assert_array_equal(again.couplings[4].values, S.couplings[4].values)
    np.testing.assert_array_equal(parsed.couplings[4].values, S.couplings[4].values)


def test_binding():
    x, (m2, g) = sympy.IndexedBase("x", shape=(100,)), sympy.symbols("m2 g")
    S = ft.SymbolicAction(sum(-m2 * x[i] ** 2 / 2 + x[i] * x[(i + 1) % 100] - g * x[i] ** 4 / 24 for i in range(100)), x)
    first, _ = seconds(lambda: S.bind(m2=1, g=1))
    later, _ = seconds(lambda: [S.bind(m2=value, g=1) for value in np.linspace(1, 2, 100)])
    direct, _ = seconds(lambda: ft.Action.from_sympy(S.expression.subs({m2: 1.5, g: 1}), x))
    print(f"\nchain of 100: first bind {1e3 * first:.1f} ms, later {10 * later:.2f} ms, subs and from_sympy {1e3 * direct:.1f} ms")
    assert later / 100 < direct
