"""Actions as text: exact round trips, the grammar against Python's own, refusals in time and in one sentence."""

import subprocess
import sys
import time

import numpy as np
import pytest
from exact_actions import actions, assert_same_couplings, braces_match
from hypothesis import given, settings
from hypothesis import strategies as st

import fieldtheory as ft
from fieldtheory.errors import InputError
from fieldtheory.monomials import MAX_ORDER, from_couplings, to_couplings
from fieldtheory.notation import name_latex, variable_names
from fieldtheory.tensors import packed_size


def again(S):
    return ft.parse_action(S.to_text(), variable_names(S), S.at)


@given(actions())
@settings(deadline=None)
def test_text_brings_every_bit_back(S):
    assert_same_couplings(again(S), S)
    assert again(S).to_text() == S.to_text()


@given(actions(at=st.floats(-1e3, 1e3)))
@settings(deadline=None)
def test_text_brings_every_bit_back_around_a_base_point(S):
    np.testing.assert_array_equal(again(S).at, S.at)
    assert_same_couplings(again(S), S)


def test_text_read_around_the_origin_is_the_same_function():
    S = ft.parse_action("1 - (x0 - 0.3)**2/2 + 0.2*(x0 - 0.3)*(x1 + 2)**3 - x1**4", at=[0.3, -2.0])
    x = np.random.default_rng(0).normal(size=(20, 2))
    moved = ft.parse_action(S.to_text())
    np.testing.assert_array_equal(moved.at, 0)
    np.testing.assert_allclose(moved(x), S(x), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moved.recenter(S.at).couplings[3].packed, S.couplings[3].packed, atol=1e-13)


@given(actions())
@settings(deadline=None)
def test_couplings_and_monomials_are_the_same_numbers(S):
    assert_same_couplings(ft.Action({1: np.zeros(S.n_dim)} | to_couplings(from_couplings(S.couplings), S.n_dim)), S)


@given(st.permutations(["0.1*x0**2", "0.2*x0**2", "0.3*x0**2", "1e17*x0**2", "-x0*x0*1e17", "x0**3/3", "-0.6*x0*x1**2"]))
def test_the_order_of_terms_does_not_matter(terms):
    S = ft.parse_action(" + ".join(terms))
    assert (S[0, 0], S[0, 0, 0], S[0, 1, 1]) == (0.6, 1 / 3, -0.2)


numbers = st.sampled_from(["0", "1", "3", "0.5", "2.", ".25", "1e-2", "1.5E+1"])
polynomials = st.recursive(
    numbers | st.sampled_from(["x0", "x1"]),
    lambda inner: st.one_of(st.tuples(inner, st.sampled_from(["+", "-", " * ", "*"]), inner).map("".join),
                            st.tuples(inner, st.sampled_from(["2", "4.0", "(1 - 3)"])).map("/".join),
                            st.tuples(st.sampled_from(["-", "+", "- -"]), inner).map("".join),
                            inner.map("({})".format), inner.map("({})**2".format), st.just("x1**3")),
    max_leaves=8)


@given(polynomials)
@settings(deadline=None, max_examples=300)
def test_the_grammar_is_that_of_python(text):
    x = np.array([0.7, -1.3])
    try:
        S = ft.parse_action(text, ["x0", "x1"])
    except InputError as refusal:
        assert "order at most 20" in str(refusal)
        return
    np.testing.assert_allclose(S(x), eval(text, {"x0": x[0], "x1": x[1]}), rtol=1e-9, atol=1e-9)


NAMES = {
    "x0 + x3": ("x0", "x1", "x2", "x3"),
    "phi[2] - phi[0]": ("phi[0]", "phi[1]", "phi[2]"),
    "phi[1,0] + phi[0,10] + phi[ 0, 9 ]": ("phi[0,9]", "phi[0,10]", "phi[1,0]"),
    "y*x10 + x9": ("x9", "x10", "y"),
    "sigma*phi": ("phi", "sigma"),
    "φ**2": ("φ",),
    "x_1": ("x_0", "x_1"),
    "x01": ("x01",),
}


@pytest.mark.parametrize("text", NAMES)
def test_variables_that_are_not_named_beforehand(text):
    assert ft.parse_action(text).names == NAMES[text]


def test_sites_of_a_lattice_have_names():
    S = ft.theories.phi4(ft.theories.lattice((2, 2)), 1.0, 0.4)
    assert S.to_text().startswith("-1.5*x[0,0]**2 + x[0,0]*x[0,1] - 1.5*x[0,1]**2")
    assert_same_couplings(ft.parse_action(S.to_text(), S.names), S)


def test_unreadable_names_give_way():
    S = ft.Action({2: -np.eye(2)}, names=["pixel 1", "pixel 2"])
    assert S.to_text() == "-x0**2 - x1**2" and ft.Action({2: np.zeros((2, 2))}).to_text() == "0"


SHORT = "text must be a polynomial made of numbers, variables, + - * / ** and parentheses, got "
WORK = "expanding must take at most 500,000 products of terms, this takes more; give the action as a sum of monomials."
DIGITS = "numbers must have at most 60 characters and powers of ten from -400 to 400, got "
DIVISOR = "only a number other than 0 may divide, an action is a polynomial; got another divisor at character "
HOSTILE = {
    "": "text must hold a polynomial such as -x0**2/2 + 0.1*x0*x1, it is empty.",
    " \n": "text must hold a polynomial such as -x0**2/2 + 0.1*x0*x1, it is empty.",
    "3": "text must hold a variable such as x0, it has none; name the variables with variables=.",
    "x0^2": SHORT + "'^' at character 3; powers are written **.",
    "2x0": SHORT + "'x0' at character 2; products are written *, nothing can be called.",
    "x0 +": SHORT + "an end too early.",
    "(x0": SHORT + "an end too early.",
    "x0)": SHORT + "')' at character 3.",
    "x0, x1": SHORT + "',' at character 3.",
    "x0 = 1": SHORT + "'=' at character 4.",
    "x[0": SHORT + "'[' at character 2.",
    "x²": "text must hold a variable such as x0, it has none; name the variables with variables=.",
    "٣*x0": SHORT + "'٣' at character 1.",
    "x0*1j": SHORT + "'j' at character 5; products are written *, nothing can be called.",
    "x0.real": SHORT + "'.' at character 3.",
    "lambda: x0": SHORT + "':' at character 7.",
    "sin(x0)": SHORT + "'(' at character 4; products are written *, nothing can be called.",
    "__import__('os').system('true')": SHORT + "'(' at character 11; products are written *, nothing can be called.",
    "x0 + inf": "constants must be written as finite numbers, got inf.",
    "pi*x0": "constants must be written as finite numbers, got pi.",
    "x0**-1": f"exponents must be whole numbers from 0 to {MAX_ORDER}, got '-' at character 5.",
    "x0**0.5": f"exponents must be whole numbers from 0 to {MAX_ORDER}, got '0.5' at character 5.",
    "x0**x0": f"exponents must be whole numbers from 0 to {MAX_ORDER}, got 'x0' at character 5.",
    "x0**": f"exponents must be whole numbers from 0 to {MAX_ORDER}, got '' at character 5.",
    "(x0+x1)**1000": f"exponents must be whole numbers from 0 to {MAX_ORDER}, got '1000' at character 10.",
    "x0 + 9**9**9": f"exponents must be whole numbers from 0 to {MAX_ORDER}, got '9' at character 9.",
    "x0**" + "9" * 10_000: f"exponents must be whole numbers from 0 to {MAX_ORDER}, got '{'9' * 37}...' at character 5.",
    "x0" + "*x0" * 50_000: "an action must be of order at most 20, got a term of order 50001.",
    "x0**20*x1": "an action must be of order at most 20, got a term of order 21.",
    "(x0+x1+x2+x3+x4+x5+x6+x7+x8+x9)**20": WORK,
    "((((x0+1)**20)**20)**20)**20": WORK,
    "(" * 1000 + "x0" + ")" * 1000: "parentheses must be nested at most 50 deep, got more at character 51.",
    "x0*1e999999999": DIGITS + "'1e999999999'.",
    "x0*0e-999999999": DIGITS + "'0e-999999999'.",
    "x0*" + "1" * 5000: DIGITS + f"'{'1' * 37}...'.",
    "x0*1e400*1e400": "coefficients must fit into float64, one exceeds 1.8e308.",
    "x0*" + "*".join(["1.1"] * 100_000): "coefficients must fit into 4,096 bits before they are rounded, one takes more; round its "
                                         "factors first.",
    "x0*(" + "+".join(f"1/{i}" for i in range(3, 30_000, 2)) + ")":
        "coefficients must fit into 4,096 bits before they are rounded, one takes more; round its factors first.",
    "x999999999": "variables must be numbered from 0 to 999999 at most, got x999999999.",
    "1/x0": DIVISOR + "3.",
    "x0/(1 - 1)": DIVISOR + "10.",
    "x" * 20_000_001: "text must have at most 20,000,000 characters, got 20,000,001; keep so large an action in a file with save.",
    b"x0": "text must be a string, got bytes.",
}


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:24]))
def test_refusals_are_one_sentence_and_quick(text):
    start = time.process_time()
    with pytest.raises(InputError) as refusal:
        ft.parse_action(text)
    assert str(refusal.value) == HOSTILE[text]
    assert time.process_time() - start < 1


@pytest.mark.parametrize("text", ["-" * 100_000 + "x0", "x[" + " " * 100_000, "(" * 49 + "x0" + ")" * 49, "x0" + "+x0" * 50_000,
                                  "x0" + "*1" * 100_000, "[" * 100_000, "." * 100_000, "x[0,0" * 20_000])
def test_long_texts_are_read_or_refused_in_time(text):
    start = time.process_time()
    try:
        assert ft.parse_action(text).order == 1
    except InputError as refusal:
        assert len(str(refusal)) < 300
    assert time.process_time() - start < 2


VARIABLES = {
    "a string": ("x0", "variables must be a sequence of names, got 'x0'."),
    "numbers": ([0, 1], "variables must be a sequence of names, got '[0, 1]'."),
    "none": ([], "variables must be distinct names such as x0, phi or phi[0,1], there is none."),
    "twice": (["x0", "x0"], "variables must be distinct names such as x0, phi or phi[0,1], one occurs twice."),
    "no identifier": (["x0", "x-1"], "variables must be distinct names such as x0, phi or phi[0,1], got 'x-1'."),
    "another": (["y"], "text must hold no names but its variables, got 'g, x0'; give them numbers, or keep them with "
                       "ft.SymbolicAction.from_text."),
}


@pytest.mark.parametrize("case", VARIABLES)
def test_variables_are_checked(case):
    variables, sentence = VARIABLES[case]
    with pytest.raises(InputError) as refusal:
        ft.parse_action("g*x0", variables)
    assert str(refusal.value) == sentence


def test_variables_may_be_absent_from_the_text():
    assert ft.parse_action("-b**2", ["a", "b"])[1, 1] == -1
    assert ft.parse_action("3", ["a"])[()] == 3 and ft.parse_action("a - a", ["a"]).order == 1


def test_reading_text_loads_neither_sympy_nor_anything_heavier():
    code = ("import sys, fieldtheory as ft; ft.parse_action('-x0**2').to_text(); "
            "assert not {'sympy', 'torch', 'matplotlib'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_latex_of_a_small_action_has_every_term():
    S = ft.parse_action("-x0**2/2 + 0.00001234567*x0*x1**2 - x1**4", at=[0.5, 0.0])
    assert S._repr_latex_() == (r"$$\begin{aligned}S(x_{0}, x_{1}) ={}& -0.125 \\ &{} - 0.5\,\left(x_{0} - 0.5\right) \\ &{} "
                                r"- 0.5\,\left(x_{0} - 0.5\right)^{2} + 6.173 \times 10^{-6}\,x_{1}^{2} \\ &{} + 1.235 \times 10^{-5}\,"
                                r"\left(x_{0} - 0.5\right)\,x_{1}^{2} \\ &{} - x_{1}^{4}\end{aligned}$$")


def test_latex_of_fifty_variables_is_short_and_counts_the_rest():
    S = ft.Action({k: ft.SymmetricTensor.from_packed(np.ones(packed_size(50, k)), 50, k) for k in (1, 2, 3)}, gauge="taylor")
    latex = S._repr_latex_()
    assert len(latex) < 1200 and braces_match(latex) and r"S_\text{taylor}(x_{0}, \ldots, x_{49})" in latex
    assert r"\text{44 more terms of order 1}" in latex and r"\text{22,094 more terms of order 3}" in latex


LETTERS = {"x12": "x_{12}", "phi[0,1]": r"\phi_{0,1}", "sigma_x": r"\sigma_{x}", "Omega": r"\Omega", "mass2": r"\mathrm{mass}_{2}",
           "φ": "φ", "m": "m"}


@pytest.mark.parametrize("name", LETTERS)
def test_latex_of_names(name):
    assert name_latex(name) == LETTERS[name]
