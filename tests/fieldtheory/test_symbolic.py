"""Actions and sympy: exact both ways, every derivation against sympy's calculus, fields integrated out against quadrature."""

import time

import numpy as np
import pytest
import sympy
from exact_actions import actions, assert_same_couplings, braces_match
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import dblquad, quad

import fieldtheory as ft
from fieldtheory.errors import GaugeError, InputError, NotNormalizableError
from fieldtheory.expressions import symbol_of
from fieldtheory.notation import variable_names
from fieldtheory.tensors import colex_indices, packed_size

X = sympy.symbols("x0:3")
phi, sigma, m2, M, g, lam = sympy.symbols("phi sigma m2 M g lambda", positive=True)
a, b = sympy.symbols("a b")


def yukawa():
    """φ⁴ with a field σ that sits on φ²."""
    return ft.SymbolicAction(-m2 * phi**2 / 2 - lam * phi**4 / 24 - M * sigma**2 / 2 - g * sigma * phi**2 / 2, [phi, sigma])


def chain(n_dim):
    x = sympy.IndexedBase("x", shape=(n_dim,))
    bonds = sum((x[i] - x[(i + 1) % n_dim]) ** 2 for i in range(n_dim))
    return ft.SymbolicAction(-g * bonds / 2 - sum(m2 * x[i] ** 2 / 2 for i in range(n_dim)), x)


def random_symbolic(seed, n_dim=2, order=3):
    """Dense, with two parameters and a base point."""
    rng = np.random.default_rng(seed)
    monomials = [index for k in range(order + 1) for index in colex_indices(n_dim, k).tolist()]
    numbers = rng.integers(1, 9, (len(monomials), 4)).tolist()
    expression = sympy.Add(*[(sympy.Rational(p, q) * g**r - b * s) * sympy.prod([X[i] for i in index])
                             for index, (p, q, r, s) in zip(monomials, numbers)])
    return expression, ft.SymbolicAction(expression, X[:n_dim], at=[a, *range(1, n_dim)])


def same(first, second):
    return sympy.expand(first - second) == 0


# --- numbers -----------------------------------------------------------------------------------------------------------------


@given(actions())
@settings(deadline=None)
def test_sympy_brings_every_bit_back(S):
    symbols = [symbol_of(name) for name in variable_names(S)]
    back = ft.Action.from_sympy(S.to_sympy(), symbols)
    assert_same_couplings(back, S)
    assert back.names == variable_names(S)


@given(actions(at=st.floats(-1e3, 1e3)))
@settings(deadline=None)
def test_sympy_brings_every_bit_back_around_a_base_point(S):
    symbols = X[: S.n_dim]
    assert_same_couplings(ft.Action.from_sympy(S.to_sympy(symbols), symbols, at=S.at), S)


@given(actions(entries=st.floats(-9, 9)))
@settings(deadline=None)
def test_text_to_sympy_to_text(S):
    symbols = X[: S.n_dim]
    text = ft.Action(S.couplings).to_text()
    assert ft.Action.from_sympy(ft.parse_action(text, [str(x) for x in symbols]).to_sympy(), symbols).to_text() == text


def test_the_text_of_sympy_reads_back():
    S = yukawa().recenter([a, sympy.Rational(1, 3)])
    again = ft.SymbolicAction.from_text(str(S.expression), ["phi", "sigma"])
    assert list(map(str, again.parameters)) == ["M", "g", "lambda", "m2"]  # the base point cancels
    assert str(again.expression) == str(sympy.expand(yukawa().expression))


def test_expressions_in_use_are_canonical_sympy():
    S = ft.parse_action("-0.3*x0**2 + 0.75*x0*x1**2 + x1 + 2")
    assert S.to_sympy(X[:2]) == -0.3 * X[0] ** 2 + 0.75 * X[0] * X[1] ** 2 + 1.0 * X[1] + 2.0
    assert S.to_sympy() == S.to_sympy(X[:2])


expressions = st.recursive(
    st.sampled_from([*X[:2], sympy.Integer(2), sympy.Rational(-1, 3), sympy.Float(0.7), sympy.pi, sympy.sqrt(2)]),
    lambda inner: st.one_of(st.tuples(inner, inner).map(lambda two: two[0] + two[1]), inner.map(lambda one: one**3),
                            st.tuples(inner, inner).map(lambda two: two[0] * two[1]), inner.map(lambda one: one**2)),
    max_leaves=6).filter(lambda e: e.is_number or sympy.Poly(e, *X[:2]).total_degree() <= 12)


@given(expressions)
@settings(deadline=None, max_examples=60)
def test_value_score_and_hessian_are_those_of_the_expression(e):
    S, x = ft.Action.from_sympy(e, X[:2]), np.array([0.6, -0.8])

    def at_x(f):
        return float(f.subs(dict(zip(X, x))))

    scale = 1e-11 * (1 + max(abs(at_x(f)) for f in (e, *(e.diff(s) for s in X[:2]))))
    np.testing.assert_allclose(S(x), at_x(e), rtol=1e-10, atol=scale)
    np.testing.assert_allclose(S.score(x), [at_x(e.diff(s)) for s in X[:2]], rtol=1e-9, atol=scale)
    np.testing.assert_allclose(S.hessian(x), [[at_x(e.diff(s, t)) for t in X[:2]] for s in X[:2]], rtol=1e-8, atol=10 * scale)


def test_families_of_variables():
    field, i = sympy.IndexedBase("phi", shape=(2, 2)), sympy.Symbol("i", integer=True)
    S = ft.Action.from_sympy(-field[0, 0] ** 2 + field[1, 0] * field[0, 1], field)
    assert S.names == ("phi[0,0]", "phi[0,1]", "phi[1,0]", "phi[1,1]") and S[1, 2] == 0.5
    assert S.to_sympy(field).has(field[1, 0]) and S.to_sympy().has(sympy.IndexedBase("phi")[1, 0])
    line = sympy.IndexedBase("x", shape=(4,))
    summed = ft.Action.from_sympy(sympy.Sum(-line[i] ** 2 / 2, (i, 0, 3)), line)
    np.testing.assert_array_equal(summed.couplings[2].dense(), -0.5 * np.eye(4))
    assert ft.Action.from_sympy(-X[0] ** 2, X[0]).n_dim == 1


def test_an_averaged_action_is_written_as_the_polynomial_it_is():
    S = ft.parse_action("-x0**2/2 - x0**4/8 + x0*x1 - x1**2").normal_order([0.25, -0.5], [[1.0, 0.5], [0.5, 2.0]])
    x = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_allclose(ft.Action.from_sympy(S.to_sympy(X[:2]), X[:2])(x), S(x), rtol=1e-12)
    np.testing.assert_allclose(ft.parse_action(S.to_text())(x), S(x), rtol=1e-12)


def test_ten_thousand_monomials_take_a_moment():
    rng = np.random.default_rng(0)
    T = ft.SymmetricTensor.from_packed(rng.normal(size=packed_size(22, 4)), 22, 4)
    expression = ft.Action({4: T}).to_sympy()
    start = time.process_time()
    S = ft.Action.from_sympy(expression, sympy.symbols("x:22"))
    assert time.process_time() - start < 2
    np.testing.assert_array_equal(S.couplings[4].values, T.values)


NESTED = X[0]
for _ in range(2000):
    NESTED = sympy.Add(1, sympy.Mul(2, NESTED, evaluate=False), evaluate=False)
FREE = "expression must have numeric coefficients, got the free symbols "
KEEP = "give them values with .subs, or keep them with ft.SymbolicAction."
REFUSED = {
    "free symbols": (g * X[0] ** 2 + lam * X[1], FREE + "g, lambda, x1; " + KEEP),
    "indexed symbols": (sympy.IndexedBase("J")[0] * X[0], FREE + "J[0]; " + KEEP),
    "other assumptions": (sympy.Symbol("x0", real=True), FREE + "x0; x0 has the name of a variable but other assumptions or another shape, "
                                                                "use one symbol for both."),
    "sine": (1 + sympy.sin(X[0]), "expression must be a polynomial in the variables, got a term 'sin(x0)'."),
    "division": (1 / X[0], "expression must be a polynomial in the variables, got a term '1/x0'."),
    "root": (sympy.sqrt(X[0] ** 2 + 1), "expression must be a polynomial in the variables, got a term 'sqrt(x0**2 + 1)'."),
    "text": ("x0", "expression must be a scalar sympy expression, got 'str'; text is read by ft.parse_action and "
                   "ft.SymbolicAction.from_text."),
    "matrix": (sympy.MatrixSymbol("A", 2, 2), "expression must be a scalar sympy expression, got 'MatrixSymbol'; text is read by "
                                              "ft.parse_action and ft.SymbolicAction.from_text."),
    "order": ((1 + X[0]) ** 21, "exponents must be whole numbers from 0 to 20, got 21."),
    "order of a product": (X[0] ** 20 * (X[0] + 1), "an action must be of order at most 20, got a term of order 21."),
    "exponent": (X[0] ** (10**5000), "exponents must be whole numbers from 0 to 20, got more than 2^63."),
    "too many terms": (sum(sympy.symbols("x:10")) ** 20, "expanding must take at most 500,000 products of terms, this takes more; give the "
                                                         "action as a sum of monomials."),
    "nesting": (NESTED, "expression must be nested less deeply to be read; expand it with sympy.expand."),
    "complex": (sympy.I * X[0], "coefficients must be finite real numbers, got 'I'."),
    "infinite": (sympy.oo * X[0], "coefficients must be finite real numbers, got 'oo'."),
    "nan": (sympy.nan, "coefficients must be finite real numbers, got 'nan'."),
    "large": (sympy.Integer(10) ** 400 * X[0], "coefficients must fit into float64, one exceeds 1.8e308."),
    "huge": (sympy.Float(10) ** 10**9 * X[0], "coefficients must fit into float64, got '1.00000000000000e+1000000000'."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_expressions_are_refused_in_one_sentence(case):
    expression, sentence = REFUSED[case]
    symbols = sympy.symbols("x:10") if case == "too many terms" else X[:1]
    start = time.process_time()
    with pytest.raises(InputError) as refusal:
        ft.Action.from_sympy(expression, symbols)
    assert str(refusal.value) == sentence
    assert time.process_time() - start < 1


DISTINCT = "variables must be distinct sympy symbols, or elements such as phi[0] of an IndexedBase, "
UNUSABLE = {
    "none": ([], DISTINCT + "there is none."),
    "twice": ([X[0], X[0]], DISTINCT + "one name occurs twice."),
    "names": (["x0"], DISTINCT + "got 'x0'."),
    "family without a shape": (sympy.IndexedBase("phi"), DISTINCT + "got 'phi'."),
    "product": ([X[0] * X[1]], DISTINCT + "got 'x0*x1'."),
    "matrices": ([sympy.Symbol("A", commutative=False)], DISTINCT + "got 'A'."),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_variables_are_symbols(case):
    symbols, sentence = UNUSABLE[case]
    with pytest.raises(InputError) as refusal:
        ft.Action.from_sympy(X[0], symbols)
    assert str(refusal.value) == sentence


def test_one_symbol_per_variable():
    with pytest.raises(InputError, match="symbols must be one per variable, got 3 for 1 variables"):
        ft.parse_action("x").to_sympy(X)


# --- free parameters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_couplings_vertices_score_and_hessian_are_derivatives(seed):
    expression, S = random_symbolic(seed)
    here = dict(zip(S.variables, S.at))
    assert same(S.expression, expression)
    for k in range(4):
        for index in colex_indices(2, k).tolist():
            vertex = expression.diff(*[X[i] for i in index]).subs(here) if k else expression.subs(here)
            assert same(S[tuple(index[::-1])] * sympy.factorial(k), vertex)
            assert same(S.vertex(k).get(tuple(index), 0), vertex)
    assert all(same(S.score()[i], expression.diff(X[i])) for i in range(2))
    assert all(same(S.hessian()[i, j], expression.diff(X[i], X[j])) for i in range(2) for j in range(2))


@pytest.mark.parametrize("seed", range(3))
def test_recentring_keeps_the_function_and_forgets_the_way(seed):
    expression, S = random_symbolic(seed)
    moved = S.recenter([b, sympy.sqrt(2)])
    assert same(moved.expression, expression)
    assert moved.recenter(S.at).couplings == S.couplings
    assert S.vertex(2, at=[b, sympy.sqrt(2)]) == moved.vertex(2)


def test_pullback_is_the_density_of_the_new_variables_and_composes():
    expression, S = random_symbolic(0)
    y, matrix, shift = sympy.symbols("y0 y1"), sympy.Matrix([[2, g], [b, 1]]), sympy.Matrix([a, 3])
    mapped = S.pullback(matrix, shift, y)
    images = dict(zip(X, matrix * sympy.Matrix(y) + shift))
    assert same(mapped.expression, expression.subs(images, simultaneous=True) + sympy.log(sympy.Abs(2 - b * g)))
    back = mapped.pullback(matrix.inv(), -matrix.inv() * shift, X[:2])
    assert sympy.simplify(sympy.expand(back.expression - expression)).subs({b: 3, g: 5}) == 0
    line = S.pullback([[1], [a]], variables=y[:1])
    assert same(line.expression, expression.subs({X[0]: y[0], X[1]: a * y[0]}, simultaneous=True))


def test_pullback_of_numbers_is_that_of_actions():
    expression, S = random_symbolic(1)
    numbers, matrix, shift = {g: 0.5, b: -0.25, a: 0.75}, np.array([[2.0, 1.0], [0.5, -1.0]]), np.array([0.25, 1.0])
    symbolic = S.pullback(matrix, shift).bind(g=0.5, b=-0.25, a=0.75)
    numeric = ft.Action.from_sympy(expression.subs(numbers), X[:2]).pullback(matrix, shift)
    for k in range(4):
        np.testing.assert_allclose(symbolic.couplings[k].values, numeric.couplings[k].values, rtol=1e-12, atol=1e-12)


def test_propagator_of_a_chain_is_its_fourier_series():
    Delta = chain(6).propagator()
    assert (chain(6).hessian() * Delta + sympy.eye(6)).applyfunc(sympy.cancel) == sympy.zeros(6)
    q = 2 * np.pi * np.arange(6) / 6
    assert chain(6).propagator(at=[a] * 6) == Delta  # of a Gaussian, everywhere the same
    fourier = np.mean(np.cos(2 * q) / (0.5 + 0.25 * (2 - 2 * np.cos(q))))
    np.testing.assert_allclose(float(Delta[0, 2].subs({m2: 0.5, g: 0.25})), fourier, rtol=1e-12)


BOUND = yukawa().recenter([a, 0])


@given(st.floats(0.1, 5), st.floats(0.1, 5), st.floats(-5, 5).map(lambda at: round(at, 6)))
@settings(deadline=None, max_examples=30)
def test_bind_is_substitution(mass, stiffness, at):
    S = BOUND
    numbers = S.bind(a=at, m2=mass, M=stiffness, g=0.3, **{"lambda": 2})
    substituted = sympy.expand(S.expression).subs({a: at, m2: mass, M: stiffness, g: 0.3, lam: 2})
    expected = ft.Action.from_sympy(substituted, [phi, sigma], at=[at, 0])
    assert numbers.names == ("phi", "sigma") and numbers.gauge == "exact"
    for k in range(5):
        np.testing.assert_allclose(numbers._coupling(k).values, expected._coupling(k).values, rtol=1e-11, atol=1e-11)
    np.testing.assert_array_equal(numbers.at, [at, 0])


def test_bind_without_parameters_is_the_numeric_action():
    text = "-0.1*x**2/3 + pi_*x*y/7 - y**4/24".replace("pi_", "0.3")
    assert_same_couplings(ft.SymbolicAction.from_text(text, ["x", "y"]).bind(), ft.parse_action(text, ["x", "y"]))
    irrational = sympy.pi * X[0] ** 2 - sympy.sqrt(2) * X[0] ** 4
    assert_same_couplings(ft.SymbolicAction(irrational, X[0]).bind(), ft.Action.from_sympy(irrational, X[0]))


def test_what_depends_on_nothing_has_zeros_of_order_one():
    for expression in (g + 0 * phi, sympy.Integer(0)):
        S = ft.SymbolicAction(expression, [phi, sigma])
        values = S.bind(**{str(p): 2.0 for p in S.parameters})
        assert values.n_dim == 2 and values.order == 1 and not values.couplings[1].values.any()
        assert S.order == 0 and S._repr_latex_().count("=") == 1


def test_binding_compiles_once_and_is_quick():
    S = yukawa().integrate_out(sigma)
    S.bind(m2=1, M=1, g=1, **{"lambda": 1})
    start = time.process_time()
    for mass in np.linspace(1, 2, 200):
        S.bind(m2=mass, M=1, g=1, **{"lambda": 1})
    assert time.process_time() - start < 1


def test_text_with_parameters():
    S = ft.SymbolicAction.from_text("-(m2 + r)*phi[0]**2/2 - 0.1*g*phi[0]*phi[1]**2", ["phi[0]", "phi[1]"])
    assert [str(p) for p in S.parameters] == ["g", "m2", "r"] and str(S[0, 0]) == "-m2/2 - r/2" and str(S[0, 1, 1]) == "-g/30"
    assert S.bind(m2=1, r=0.5, g=3).to_text() == "-0.75*phi[0]**2 - 0.3*phi[0]*phi[1]**2"
    assert repr(S) == "SymbolicAction(n_dim=2, order=3, parameters=(g, m2, r))"


def test_names_of_parameters_never_become_code():
    hostile = sympy.Symbol("__import__('os').abort()")
    S = ft.SymbolicAction(hostile * X[0] ** 2 + sympy.exp(hostile) * X[0], X[:1])
    assert S.bind(**{str(hostile): 2.0})[0, 0] == 2


def bound(**changes):
    return yukawa().integrate_out(sigma).bind(**{"m2": 1, "M": 2, "g": 0.5, "lambda": 1} | changes)


NEEDS = "bind needs one value for each parameter (M, g, lambda, m2) and no other, got "
WITHOUT = "numbers or sympy expressions without the variables, got "
RANK = "matrix must have full column rank, its columns depend on each other; a density needs all its variables."
CONFINED = "variables that are integrated out must be confined by their own quadratic terms, −2 A^(2) of 'sigma' is not positive definite."
ENTERS = ("variables that are integrated out must enter at most quadratically, and their quadratic form must not depend on the others, "
          "got a term ")
SYMBOLIC_REFUSED = {
    "no value": (lambda: yukawa().bind(m2=1, g=1), NEEDS + "no value for M, lambda."),
    "unknown": (lambda: bound(h=1), NEEDS + "unknown h."),
    "nan": (lambda: bound(M=np.nan), "parameter M must be a finite real number, got 'nan'."),
    "text": (lambda: bound(M="2"), "parameter M must be a finite real number, got '2'."),
    "complex": (lambda: bound(M=2j), "parameter M must be a finite real number, got '2j'."),
    "pole": (lambda: bound(M=0), "couplings must be finite real numbers, some are not at M = 0, g = 0.5, lambda = 1, m2 = 1."),
    "logarithm": (lambda: bound(M=-1), "couplings must be finite real numbers, some are not at M = -1, g = 0.5, lambda = 1, m2 = 1."),
    "too large": (lambda: ft.SymbolicAction(g * phi + sympy.Integer(10) ** 400 * phi**2, [phi]).bind(g=1),
                  "coefficients must fit into float64, one exceeds 1.8e308."),
    "imaginary": (lambda: ft.SymbolicAction(sympy.I * g * phi, [phi]).bind(g=1),
                  "couplings must be finite real numbers, some are not at g = 1."),
    "unknown function": (lambda: ft.SymbolicAction(sympy.Function("f")(g) * phi, [phi]).bind(g=1),
                         "bind needs functions that sympy can evaluate, got 'f(g)'."),
    "same name": (lambda: ft.SymbolicAction(sympy.Symbol("g") * phi + g * phi**2, [phi]),
                  "variables and parameters must have distinct names, g occurs twice; if it is the same symbol with other assumptions, "
                  "use one for both."),
    "no polynomial": (lambda: ft.SymbolicAction(g * sympy.cos(phi), [phi]),
                      "expression must be a polynomial in the variables, got a term 'cos(phi)'."),
    "power": (lambda: ft.SymbolicAction(phi**g, [phi]), "expression must be a polynomial in the variables, got a term 'phi**g'."),
    "negative power in text": (lambda: ft.SymbolicAction.from_text("g*x**-1", ["x"]),
                               "exponents must be whole numbers from 0 to 20, got '-' at character 6."),
    "base point of text": (lambda: yukawa().recenter(["a", 0]), "at must hold 2 " + WITHOUT + "\"['a', 0]\"."),
    "base point that moves": (lambda: yukawa().recenter([sigma, 0]), "at must hold 2 " + WITHOUT + "'[sigma, 0]'."),
    "short base point": (lambda: yukawa().recenter(1), "at must hold 2 " + WITHOUT + "'1'."),
    "singular": (lambda: yukawa().pullback([[g, 1], [g * b, b]]), RANK),
    "shape": (lambda: yukawa().pullback([[1, 1]]), "matrix must have shape (2, 2), got '[[1, 1]]'."),
    "row": (lambda: yukawa().pullback([[1], [1]]), "a row of matrix must hold 2 " + WITHOUT + "'[1]'."),
    "massless": (lambda: ft.SymbolicAction(phi - sigma**2, [phi, sigma]).propagator(),
                 "a propagator needs an invertible A^(2), this one is singular; recenter the action or add a mass."),
    "entry": (lambda: yukawa()[0, 2], "an entry must be named by indices in 0 … 1, got (0, 2)."),
    "large change of variables": (lambda: ft.SymbolicAction(g * X[0] ** 20, sympy.symbols("x:10")).pullback(np.ones((10, 10)) + np.eye(10)),
                                  "expanding must take at most 100,000 products of terms, this takes more; bind the parameters and do it "
                                  "in numbers."),
}


@pytest.mark.parametrize("case", SYMBOLIC_REFUSED)
def test_symbolic_refusals_are_one_sentence(case):
    request, sentence = SYMBOLIC_REFUSED[case]
    with pytest.raises(InputError) as refusal:
        request()
    assert str(refusal.value) == sentence


def test_latex_of_symbols():
    latex = yukawa().recenter([a, 0])._repr_latex_()
    assert braces_match(latex) and r"- \frac{\lambda}{24}\,\left(\phi - a\right)^{4}" in latex
    assert r"\left(- \frac{a^{2} \lambda}{4} - \frac{m_{2}}{2}\right)\,\left(\phi - a\right)^{2}" in latex
    large = chain(50)._repr_latex_()
    assert len(large) < 1000 and braces_match(large) and r"\text{94 more terms of order 2}" in large


# --- fields integrated out ---------------------------------------------------------------------------------------------------


def test_a_field_on_phi_squared_weakens_the_quartic_coupling():
    """Hubbard–Stratonovich: λ → λ − 3 g²/M."""
    effective = yukawa().integrate_out(sigma)
    assert same(effective.vertex(4)[0, 0, 0, 0], -lam + 3 * g**2 / M)
    assert same(effective[()], sympy.log(2 * sympy.pi / M) / 2) or float((effective[()] - sympy.log(2 * sympy.pi / M) / 2).subs(M, 3)) == 0


def test_one_field_against_the_integral_sympy_finds():
    y = sympy.Symbol("y", real=True)
    S = ft.SymbolicAction(-m2 * y**2 + (a * phi + b * phi**2 + 1) * y - phi**4, [phi, y])
    integral = sympy.integrate(sympy.exp(-m2 * y**2 + g * y), (y, -sympy.oo, sympy.oo))
    expected = sympy.log(integral).subs(g, a * phi + b * phi**2 + 1) - phi**4
    numbers = {m2: 0.75, a: 0.5, b: -0.25, phi: 1.5}
    np.testing.assert_allclose(float(S.integrate_out("y").expression.subs(numbers)), float(expected.subs(numbers)), rtol=1e-14)


def mixed(seed):
    """Cubic sources of two coupled variables in a quartic theory of two others, around a base point."""
    rng = np.random.default_rng(seed)
    K = rng.normal(size=(2, 2))
    sources = zip(0.5 * rng.normal(size=6), ["x1", "x0*x1", "x0**2*x1", "x2", "x3*x2", "x0*x3**2*x2"])
    text = "-x0**4 - x3**4 + 0.3*x0*x3**2 - 0.2*x0**2 + 0.4" + "".join(f" + {c}*{source}" for c, source in sources)
    K = K @ K.T + np.eye(2)
    quadratic = f" - {K[0, 0]}*x1**2 - {K[1, 1]}*x2**2 - {2 * K[0, 1]}*x1*x2"
    return ft.parse_action(text + quadratic, at=[0.5, -1.0, 0.25, 0.0])


@pytest.mark.parametrize("seed", range(2))
def test_two_fields_against_quadrature(seed):
    S = mixed(seed)
    effective = S.integrate_out([1, "x2"])
    assert effective.names == ("x0", "x3")
    np.testing.assert_array_equal(effective.at, [0.5, 0.0])
    for x0, x3 in [(0.3, -0.4), (-0.7, 0.9)]:
        integral = dblquad(lambda y, z, x=(x0, x3): np.exp(S([x[0], y, z, x[1]])), -9, 9, -9, 9, epsabs=1e-9)
        np.testing.assert_allclose(effective([x0, x3]), np.log(integral[0]), atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_order_of_integration_does_not_matter(seed):
    S = mixed(seed)
    together, apart = S.integrate_out([1, 2]), S.integrate_out([2]).integrate_out(["x1"])
    for k in {*together.couplings, *apart.couplings}:
        np.testing.assert_allclose(together._coupling(k).values, apart._coupling(k).values, rtol=1e-12, atol=1e-14)


@given(st.integers(0, 1000), st.sets(st.integers(0, 4), min_size=1, max_size=4))
@settings(deadline=None, max_examples=40)
def test_marginals_of_a_gaussian_are_blocks_of_its_covariance(seed, out):
    rng = np.random.default_rng(seed)
    root, mean = rng.normal(size=(5, 5)), rng.normal(size=5)
    kept = sorted({0, 1, 2, 3, 4} - out)
    covariance = root @ root.T + 0.1 * np.eye(5)
    marginal = ft.theories.gaussian(covariance, mean).integrate_out(sorted(out))
    expected = ft.theories.gaussian(covariance[np.ix_(kept, kept)], mean[kept])
    np.testing.assert_allclose(marginal[()], expected[()], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(marginal.couplings[2].dense(), expected.couplings[2].dense(), rtol=1e-8)
    np.testing.assert_array_equal(marginal.at, mean[kept])


def test_what_no_field_touches_keeps_its_bits():
    S = ft.theories.random_interactions(3, {3: 0.1, 4: 0.1}, seed=0)
    with_field = ft.Action.from_sympy(S.to_sympy(X) - sigma**2 / 2 + sigma * X[0] ** 2, [*X, sigma])
    effective, touched = with_field.integrate_out("sigma"), (0, 0, 0, 0)
    for k, T in S.couplings.items():
        same_entries = [tuple(index) == touched or effective.couplings[k][tuple(index)] == A for index, A in zip(T.indices, T.values)]
        assert all(same_entries)
    np.testing.assert_allclose(effective[touched], S[touched] + 0.5, rtol=1e-15)


def test_decimation_of_a_chain():
    """Every second site of a free chain: g' = g²/(2g + m²), m'² = m² (4g + m²)/(2g + m²)."""
    coarse = chain(8).integrate_out([chain(8).variables[i] for i in range(0, 8, 2)])
    stiffness, mass = g**2 / (2 * g + m2), m2 * (4 * g + m2) / (2 * g + m2)
    assert sympy.cancel(2 * coarse[0, 1] - stiffness) == 0
    assert sympy.cancel(-2 * coarse[0, 0] - mass - 2 * stiffness) == 0 and coarse.n_dim == 4


def test_numbers_before_or_after():
    values = {"m2": 1.25, "M": 2.0, "g": 0.5, "lambda": 0.75}
    assert_close = np.testing.assert_allclose
    first, last = yukawa().bind(**values).integrate_out(["sigma"]), yukawa().integrate_out(sigma).bind(**values)
    for k in (0, 2, 4):
        assert_close(first.couplings[k].values, last.couplings[k].values, rtol=1e-14)
    integral = quad(lambda y: np.exp(yukawa().bind(**values)([1.5, y])), -20, 20)[0]
    assert_close(first([1.5]), np.log(integral), rtol=1e-12)


def test_many_fields_on_their_own_sites_cost_no_large_inverse():
    n = 1500
    text = " + ".join(f"-0.5*s{i}**2 + 0.1*s{i}*x{i}**2 - x{i}**2" for i in range(n))
    names = [f"x{i}" for i in range(n)] + [f"s{i}" for i in range(n)]
    S = ft.SymbolicAction.from_text(text, names)
    start = time.process_time()
    effective = S.integrate_out([f"s{i}" for i in range(n)])
    assert time.process_time() - start < 20
    assert effective[7, 7, 7, 7] == sympy.Rational(1, 200)


def test_sites_are_called_as_the_lattice_calls_them():
    S = ft.theories.phi4(ft.theories.lattice((2, 2)), 1.0, 0.0)
    for name in ("0,1", "x[0,1]", 1):
        assert S.integrate_out([name]).names == ("0,0", "1,0", "1,1")
    twins = ft.Action({2: -np.eye(3)}, names=["a", "a", "b"])
    with pytest.raises(InputError, match=r"variables must be some of x0, x1, x2, but not all, got \['a'\]"):
        twins.integrate_out(["a"])


OUT_REFUSED = {
    "quartic": (lambda: yukawa().integrate_out(phi), InputError, ENTERS + "'phi**4'; the result would be no polynomial."),
    "mass that depends": (lambda: ft.parse_action("-s**2 - x**2*s**2 - x**2").integrate_out("s"), InputError,
                          ENTERS + "'s**2*x**2'; the result would be no polynomial."),
    "high order": (lambda: ft.parse_action("-s**2 + s*x**11").integrate_out("s"), InputError,
                   "an action must be of order at most 20, got a term of order 22."),
    "inverted": (lambda: ft.SymbolicAction(M * sigma**2 - phi**2, [phi, sigma]).integrate_out(sigma), NotNormalizableError, CONFINED),
    "flat": (lambda: ft.SymbolicAction(sigma * phi - phi**2, [phi, sigma]).integrate_out(sigma), NotNormalizableError, CONFINED),
    "saddle": (lambda: ft.parse_action("-x**2 - y**2 + 3*x*y - z**2").integrate_out(["x", "y"]), NotNormalizableError,
               CONFINED.replace("sigma", "x, y")),
    "symbolic saddle": (lambda: ft.SymbolicAction(-X[0] ** 2 - X[1] ** 2 + 3 * X[0] * X[1] - X[2] ** 2, X).integrate_out(X[:2]),
                        NotNormalizableError, CONFINED.replace("sigma", "x0, x1")),
    "all": (lambda: yukawa().integrate_out([phi, sigma]), InputError,
            "variables must be some of phi, sigma, but not all, got ['phi', 'sigma']."),
    "none": (lambda: ft.parse_action("-x0**2 - x1**2").integrate_out([]), InputError,
             "variables must be some of x0, x1, but not all, got []."),
    "unknown": (lambda: ft.parse_action("-x0**2 - x1**2").integrate_out(["x2"]), InputError,
                "variables must be some of x0, x1, but not all, got ['x2']."),
    "beyond": (lambda: ft.parse_action("-x0**2 - x1**2").integrate_out([2]), InputError,
               "variables must be some of x0, x1, but not all, got [2]."),
    "fraction": (lambda: ft.parse_action("-x0**2 - x1**2").integrate_out([0.5]), InputError,
                 "variable must be a whole number of at least 0, got 0.5."),
    "cut": (lambda: ft.parse_action("-x0**2 - x1**4").truncate(2).integrate_out([0]), GaugeError,
            "only an exact action may be integrated over, this one is taylor at its own base point; extract it anew there with "
            "to_action(..., at=)."),
}


@pytest.mark.parametrize("case", OUT_REFUSED)
def test_what_cannot_be_integrated_out(case):
    request, error, sentence = OUT_REFUSED[case]
    with pytest.raises(error) as refusal:
        request()
    assert str(refusal.value) == sentence
