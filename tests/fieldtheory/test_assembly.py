"""What is assembled node by node is the derivative: against nested differentiation, networks computed elsewhere, and high precision."""

import json
from math import factorial
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldtheory import units
from fieldtheory.assembly import assemble, factored_cubic
from fieldtheory.errors import InputError
from fieldtheory.tape import Tape
from fieldtheory.tensors import SymmetricTensor, symmetrize

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "assembly.json").read_text())

UNITS = {  # name: unit, the same in high precision, the same in torch
    "square": (units.square, lambda u: u * u, torch.square),
    "exp": (units.exp, mpmath.exp, torch.exp),
    "tanh": (units.tanh, mpmath.tanh, torch.tanh),
    "sigmoid": (units.sigmoid, lambda u: 1 / (1 + mpmath.exp(-u)), torch.sigmoid),
    "softplus": (units.softplus, lambda u: mpmath.log(1 + mpmath.exp(u)), torch.nn.functional.softplus),
    "silu": (units.silu, lambda u: u / (1 + mpmath.exp(-u)), torch.nn.functional.silu),
    "sin": (units.sin, mpmath.sin, torch.sin),
    "scaled": (units.scaled(units.tanh, 0.7, 1.9), lambda u: mpmath.mpf(1.9) * mpmath.tanh(mpmath.mpf(0.7) * u),
               lambda u: 1.9 * torch.tanh(0.7 * u)),
    "heavy tail": (units.tail(1.3), lambda u: mpmath.sinh(mpmath.mpf(1.3) * mpmath.asinh(u)), lambda u: torch.sinh(1.3 * torch.asinh(u))),
    "light tail": (units.tail(0.6), lambda u: mpmath.sinh(mpmath.mpf(0.6) * mpmath.asinh(u)), lambda u: torch.sinh(0.6 * torch.asinh(u))),
    "log slope of a tail": (units.tail_log_slope(1.3), lambda u: mpmath.log(mpmath.diff(UNITS["heavy tail"][1], u)),
                            lambda u: np.log(1.3) + torch.log(torch.cosh(1.3 * torch.asinh(u))) - 0.5 * torch.log1p(u * u)),
}


@pytest.mark.parametrize("name", UNITS)
def test_units_and_their_derivatives_in_high_precision(name):
    unit, exact, _ = UNITS[name]
    u = np.array([-3.1, -0.8, -1e-3, 0.0, 0.4, 1.7, 5.0])
    with mpmath.workdps(60):
        expected = np.array([[float(mpmath.diff(exact, mpmath.mpf(v), k)) for v in u] for k in range(5)])
    np.testing.assert_allclose(unit(u), expected, rtol=1e-12, atol=1e-13)


def test_units_far_out_stay_finite():
    u = np.array([-700.0, 700.0])
    for name in ("tanh", "sigmoid", "softplus", "silu", "heavy tail", "light tail", "log slope of a tail"):
        assert np.isfinite(UNITS[name][0](u)).all(), name


def test_a_tail_of_power_one_is_the_identity():
    x = np.linspace(-4, 4, 9)
    np.testing.assert_allclose(units.tail(1.0)(x), [x, x**0, 0 * x, 0 * x, 0 * x], atol=1e-13)
    np.testing.assert_allclose(units.tail_log_slope(1.0)(x), 0, atol=1e-13)


def random_network(n_in, n_nodes, seed):
    """A tape on which every kind of node has two others before it, and the same function in torch."""
    rng, tape, steps, sizes = np.random.default_rng(seed), Tape(n_in), [], [n_in]
    names = [name for name in UNITS if name != "exp"]
    for step in range(n_nodes):
        kind = ("linear", "unit", "product", "quadratic")[step % 4] if step < 8 else rng.choice(["linear", "unit", "product", "quadratic"])
        u = int(rng.integers(len(sizes)))
        same = [v for v, size in enumerate(sizes) if size == sizes[u]]
        if kind == "linear":
            v, n_out = int(rng.integers(len(sizes))), int(rng.integers(1, 4))
            M, N, b = (rng.normal(size=s) / 2 for s in ((n_out, sizes[u]), (n_out, sizes[v]), n_out))
            tape.linear([(u, M), (v, N)], b)
            steps.append(lambda x, u=u, v=v, M=M, N=N, b=b: torch.as_tensor(M) @ x[u] + torch.as_tensor(N) @ x[v] + torch.as_tensor(b))
            sizes.append(n_out)
        elif kind == "unit":
            unit, _, function = UNITS[names[int(rng.integers(len(names)))]]
            tape.unit(u, unit)
            steps.append(lambda x, u=u, s=function: s(x[u]))
            sizes.append(sizes[u])
        elif kind == "product":
            v = int(rng.choice(same))
            tape.product(u, v)
            steps.append(lambda x, u=u, v=v: x[u] * x[v])
            sizes.append(sizes[u])
        else:
            n_out = int(rng.integers(1, 4))
            chi = symmetric_pairs(rng.normal(size=(n_out, sizes[u], sizes[u])) / 3)
            tape.quadratic(u, chi)
            steps.append(lambda x, u=u, chi=chi: torch.einsum("abc,b,c->a", torch.as_tensor(chi), x[u], x[u]))
            sizes.append(n_out)
    weights = {v: rng.normal(size=sizes[v]) for v in {0, len(sizes) - 1, int(rng.integers(len(sizes)))}}
    for v, w in weights.items():
        tape.output(v, w)
    tape.constant = 0.3

    def function(x):
        values = [x]
        for step in steps:
            values.append(step(values))
        return 0.3 + sum(torch.as_tensor(w) @ values[v] for v, w in weights.items())

    return tape, function


def symmetric_pairs(chi):
    return 0.5 * (chi + chi.swapaxes(1, 2))


def nested_derivatives(function, x, order):
    """∇^k f/k! by differentiating derivatives."""
    couplings, x = [], torch.as_tensor(x)
    for k in range(order + 1):
        couplings.append(function(x).numpy() / factorial(k))
        function = torch.func.jacfwd(function)
    return couplings


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_against_nested_differentiation(seed):
    """Order 2 is half the Hessian; every kind of node feeds and is fed by others."""
    tape, function = random_network(3, 11, seed)
    x = np.random.default_rng(seed + 100).normal(size=3) / 2
    found = assemble(tape, x, 4)
    for k, expected in enumerate(nested_derivatives(function, x, 4)):
        scale = 1 + np.abs(expected).max()
        np.testing.assert_allclose(found[k].dense() if k else found[k].packed[0], expected, rtol=0, atol=1e-11 * scale)


@given(st.integers(0, 10**6), st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_couplings_along_directions_are_the_contracted_tensors(seed, r):
    tape, _ = random_network(3, 9, seed)
    rng = np.random.default_rng(seed)
    x, V = rng.normal(size=3) / 2, rng.normal(size=(3, r))
    full, along = assemble(tape, x, 4), assemble(tape, x, 4, directions=V)
    for k in range(5):
        assert along[k].n_dim == r
        expected = full[k].transform(V) if k else full[0]
        np.testing.assert_allclose(along[k].packed, expected.packed, rtol=0, atol=1e-10 * (1 + np.abs(expected.packed).max()))


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=15)
def test_along_one_direction_they_are_the_taylor_coefficients_of_a_line(seed):
    tape, function = random_network(3, 9, seed)
    rng = np.random.default_rng(seed)
    x, v = rng.normal(size=3) / 2, rng.normal(size=3)
    along = assemble(tape, x, 4, directions=v[:, None])
    line = nested_derivatives(lambda t: function(torch.as_tensor(x) + t * torch.as_tensor(v)), 0.0, 4)
    np.testing.assert_allclose([along[k].packed[0] for k in range(5)], line, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_factors_multiply_to_the_cubic_coupling(seed):
    tape, _ = random_network(4, 10, seed)
    x = np.random.default_rng(seed).normal(size=4) / 2
    found, expected = factored_cubic(tape, x), assemble(tape, x, 3)[3]
    product = np.einsum("ui,uj,uk->ijk", *found.factors)
    np.testing.assert_allclose(symmetrize(product), expected.dense(), rtol=0, atol=1e-12 * (1 + np.abs(expected.packed).max()))


def test_a_linear_function_has_no_cubic_terms():
    tape = Tape(3)
    tape.output(tape.linear([(0, np.ones((1, 3)))]), 1.0)
    assert factored_cubic(tape, np.zeros(3)).n_terms == 0 == factored_cubic(tape, np.zeros(3)).norm()


def perceptron(tape, u, net):
    """W2 act(W1 u + b1) + b2, bounded by a tanh where the network says so."""
    (W1, W2), (b1, b2) = ([np.array(part) for part in net[name]] for name in ("weights", "biases"))
    out = tape.linear([(tape.unit(tape.linear([(u, W1)], b1), getattr(units, net["act"])), W2)], b2)
    return tape.unit(out, units.scaled(units.tanh, outside=net["out_scale"])) if net["out_act"] == "tanh" else out


def add_layer(tape, u, n, layer):
    """The variable after a layer in the format of the reference; log-determinants go to the output."""
    if layer["type"] == "affine":
        tape.constant += np.linalg.slogdet(layer["W"])[1]
        return tape.linear([(u, np.array(layer["W"]))], np.array(layer["b"]))
    read, put = np.eye(n)[layer["read"]], np.eye(n)[layer["written"]].T
    h = tape.linear([(u, read)])
    if layer["type"] == "quadratic":
        return tape.linear([(u, np.eye(n)), (tape.quadratic(h, np.array(layer["chi"])), put)])
    if layer["type"] == "additive":
        return tape.linear([(u, np.eye(n)), (perceptron(tape, h, layer["t"]), put)])
    s = perceptron(tape, h, layer["s"])
    tape.output(s, 1.0)
    scaled = tape.product(tape.linear([(u, put.T)]), tape.unit(s, units.exp))
    return tape.linear([(u, read.T @ read), (scaled, put), (perceptron(tape, h, layer["t"]), put)])


def tape_of(layers, n):
    tape, u = Tape(n), 0
    for layer in layers:
        u = add_layer(tape, u, n, layer)
    tape.output(tape.unit(u, units.square), -0.5)
    tape.constant -= 0.5 * n * np.log(2 * np.pi)
    return tape


@pytest.mark.parametrize("case", REFERENCE["networks"])
def test_couplings_of_reference_networks(case):
    tape = tape_of(case["layers"], len(case["at"]))
    found = assemble(tape, np.array(case["at"]), 4)
    for k, expected in enumerate(case["couplings"]):
        expected = np.atleast_1d(expected)
        np.testing.assert_allclose(found[k].packed, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    for entry in case["log_prob"]:
        assert assemble(tape, np.array(entry["x"]), 0)[0].packed[0] == pytest.approx(entry["value"], rel=1e-12)


def formula_layers(d, L, H):
    """The network whose weights are formulas, see its spec in the reference."""
    for layer in range(L):
        read, written = (range(d // 2), range(d // 2, d)) if layer % 2 == 0 else (range(d - d // 2, d), range(d - d // 2))
        i, j, h, a = np.arange(d), np.arange(len(read)), np.arange(H), np.arange(len(written))
        hidden = np.sin(0.5 + layer + 0.9 * h[:, None] + 1.1 * j) / np.sqrt(len(read)), 0.2 * np.cos(h + layer)
        s = 0.3 * np.sin(2 + layer + 1.7 * a[:, None] + 0.6 * h) / np.sqrt(H), 0.05 * np.cos(a)
        t = 0.3 * np.cos(1 + layer + 0.8 * a[:, None] + 1.9 * h) / np.sqrt(H), 0.05 * np.sin(a)
        yield {"type": "affine", "W": np.eye(d) + 0.1 * np.sin(1 + layer + 0.7 * i[:, None] + 1.3 * i) / np.sqrt(d),
               "b": 0.1 * np.cos(layer + i)}
        nets = {name: {"weights": [hidden[0], W], "biases": [hidden[1], b], "act": "tanh", "out_act": act, "out_scale": 1.0}
                for name, (W, b), act in (("s", s, "tanh"), ("t", t, None))}
        yield {"type": "realnvp", "read": list(read), "written": list(written), **nets}


def test_the_network_with_formulas_for_weights():
    case = REFERENCE["formula_network"]
    d, i = case["d"], np.arange(case["d"])
    tape, x = tape_of(formula_layers(d, case["L"], case["H"]), d), 0.1 * np.sin(i)
    V = np.stack([np.sin(i + 1), np.cos(2 * i), np.cos(0.3 * i + 1)], axis=1) / np.sqrt(d)
    found, along = assemble(tape, x, 4), assemble(tape, x, 4, directions=V)
    assert found[0].packed[0] == pytest.approx(case["S"], rel=1e-10)
    assert along[1][0] == pytest.approx(case["A1_v1"], rel=1e-10)
    assert along[2][0, 1] == pytest.approx(case["A2_v1v2"], rel=1e-10)
    assert along[3][0, 1, 2] == pytest.approx(case["A3_v1v2v3"], rel=1e-10)
    assert along[4][0, 0, 1, 2] == pytest.approx(case["A4_v1v1v2v3"], rel=1e-10)
    np.testing.assert_allclose([found[k].norm() for k in range(1, 5)], case["norms"], rtol=1e-10)


def test_orders_are_cut_as_asked():
    tape, _ = random_network(3, 8, 0)
    x = np.zeros(3)
    whole = assemble(tape, x, 4)
    for order in range(4):
        cut = assemble(tape, x, order)
        assert sorted(cut) == list(range(order + 1))
        for k, T in cut.items():
            assert isinstance(T, SymmetricTensor)
            np.testing.assert_array_equal(T.packed, whole[k].packed)


def test_degree_of_the_polynomial_on_a_tape():
    tape = Tape(2)
    assert tape.degree() == 0
    squared = tape.unit(tape.linear([(0, np.eye(2))]), units.square)
    cubed = tape.product(squared, 0)
    tape.output(squared, 1.0)
    assert tape.degree() == 2
    tape.output(tape.linear([(tape.quadratic(cubed, np.ones((1, 2, 2))), np.eye(1)), (0, np.ones((1, 2)))]), 1.0)
    assert tape.degree() == 6
    tape.output(tape.unit(0, units.tanh), 1.0)
    assert tape.degree() == np.inf


def test_refusals():
    with pytest.raises(InputError, match="couplings are assembled up to order 4, got order 5"):
        assemble(Tape(2), np.zeros(2), 5)
    tape = Tape(1)
    tape.output(tape.unit(0, units.exp), 1.0)
    with pytest.raises(InputError, match="S must be finite at the base point, it is inf; choose a point nearer to"):
        assemble(tape, np.array([1e3]), 2)
    for order, n_directions in ((3, 20_000), (4, 1500)):
        message = f"the coupling of order {order} along {n_directions} directions must fit in memory, .*; give fewer directions"
        with pytest.raises(InputError, match=message):
            assemble(Tape(1), np.zeros(1), order, directions=np.zeros((1, n_directions)))
