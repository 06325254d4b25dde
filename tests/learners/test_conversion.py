"""The action read off a learner is the learner's: every coupling against the fully expanded polynomial, every average exact."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sympy import QQ, Matrix, Rational, ring

from fieldtheory.errors import InputError
from fieldtheory.tensors import colex_indices, multiplicity
from learners import DDPM, QuadraticFlow, certify, to_action
from learners.conversion import normal_ordered
from learners.diffusion import LinearDenoiser

ORDER = 4
REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "conversion.json").read_text())["flows"]


def _reference(case):
    return QuadraticFlow.from_weights(case["weights"], case["read"])


def _rational_flow(n_dim, n_layers, seed):
    """A random flow with weights in sixteenths: exact as floats and small as fractions."""
    weights = QuadraticFlow.random(n_dim, n_layers, seed=seed, bias_scale=0.5).weights
    return QuadraticFlow.from_weights([tuple(np.round(16 * part) / 16 for part in layer) for layer in weights])


def _rational(value):
    return QQ(*float(value).as_integer_ratio())


def _linear(W, b, x):
    """W x + b of polynomials."""
    return [sum((_rational(w) * v for w, v in zip(row, x)), 0 * x[0] + _rational(c)) for row, c in zip(W, b)]


def _coupling(layer, h):
    """h + χ[h, h] of polynomials."""
    chi, z = layer.chi_dense(), list(h)
    for j, k in enumerate(layer.written):
        for p, q in np.ndindex(chi.shape[1:]):
            z[k] = z[k] + _rational(chi[j, p, q]) * h[layer.read[p]] * h[layer.read[q]]
    return z


def _maps(flow):
    """Linear and coupling maps of polynomials in turn, from data to latent."""
    for (W, b, _), layer in zip(flow.weights, flow.layers[1::2]):
        yield partial(_linear, W, b)
        yield partial(_coupling, layer)


def _expanded(flow, at):
    """−½|z(at + u)|² as one polynomial in u: nothing cut, nothing rounded."""
    R, *u = ring([f"u{i}" for i in range(len(at))], QQ)
    x = [v + _rational(a) for v, a in zip(u, at)]
    for f in _maps(flow):
        x = f(x)
    return sum((v**2 for v in x), R(0)) * QQ(-1, 2)


def _constant(flow):
    """ln|det| − (n_dim/2) ln 2π with rational determinants."""
    dets = [float(Matrix([[Rational(float(w)) for w in row] for row in W]).det()) for W, _, _ in flow.weights]
    return sum(np.log(np.abs(dets))) - 0.5 * flow.n_dim * np.log(2 * np.pi)


def _unique_entries(polynomial, n_dim, k):
    """Coefficients of degree k by index tuple, each shared out over its permutations."""
    indices = colex_indices(n_dim, k)
    coefficients = [float(polynomial.get(tuple(np.bincount(i, minlength=n_dim).tolist()), 0)) for i in indices]
    return np.array(coefficients) / multiplicity(indices)


@pytest.mark.parametrize("n_dim, n_layers, at", [
    (2, 1, [0.0, 0.0]),
    (3, 2, [0.5, -1.25, 0.75]),
    (4, 3, [0.0, 0.0, 0.0, 0.0]),
    (4, 3, [0.5, -1.25, 0.75, 1.0]),
    (3, 4, [0.5, -1.25, 0.75]),
    pytest.param(3, 4, [0.0, 0.0, 0.0], marks=pytest.mark.heavy),
])
def test_couplings_are_those_of_the_expanded_polynomial(n_dim, n_layers, at):
    """Relative to the largest entry of each order."""
    flow = _rational_flow(n_dim, n_layers, seed=1)
    polynomial = _expanded(flow, at)
    assert n_dim < 3 or max(map(sum, polynomial)) > ORDER
    S = to_action(flow, ORDER, at=at)
    assert sorted(S.couplings) == list(range(ORDER + 1))
    for k, T in S.couplings.items():
        expected = _unique_entries(polynomial, n_dim, k) + (_constant(flow) if k == 0 else 0)
        np.testing.assert_allclose(T.packed, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_orders_above_the_degree_vanish():
    flow = _rational_flow(2, 1, seed=2)
    S = to_action(flow, 6)
    assert all(not S.couplings[k].packed.any() for k in (5, 6))
    assert S.gauge == "exact"


@pytest.mark.parametrize("case", REFERENCE)
def test_couplings_of_reference_networks(case):
    S = to_action(_reference(case), ORDER, at=case["at"])
    for k, expected in enumerate(case["couplings"]):
        expected = np.atleast_1d(expected)
        np.testing.assert_allclose(S.couplings[k].packed, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def _cut_in_absolute_coordinates(flow):
    """Pull −½|z|² back map by map and drop degrees above ORDER after each, though the biases would bring them down again."""
    R, *x = ring([f"x{i}" for i in range(flow.n_dim)], QQ)
    S = sum((v**2 for v in x), R(0)) * QQ(-1, 2)
    for f in reversed(list(_maps(flow))):
        S = S.compose(list(zip(x, f(x))))
        S = R.from_dict({powers: c for powers, c in S.items() if sum(powers) <= ORDER})
    return S


@pytest.mark.parametrize("case", REFERENCE)
def test_cutting_in_absolute_coordinates_is_wrong(case):
    """One layer loses nothing; two lose a percent of the forces and half of order 4."""
    flow = _reference(case)
    naive, S = _cut_in_absolute_coordinates(flow), to_action(flow, ORDER, at=np.zeros(flow.n_dim))
    for k, expected in zip(range(1, ORDER + 1), case["naive_truncation_relative_error"]):
        exact, weight = S.couplings[k].packed, multiplicity(colex_indices(flow.n_dim, k))
        error = exact - _unique_entries(naive, flow.n_dim, k)
        relative = np.sqrt(weight @ error**2 / (weight @ exact**2))
        assert relative == pytest.approx(expected, rel=1e-9, abs=1e-14)


@pytest.fixture(scope="module")
def flow():
    return _rational_flow(3, 2, seed=4)


@pytest.fixture(scope="module")
def full(flow):
    """All eight orders."""
    return to_action(flow, 8, method="exact")


def test_the_default_base_point_is_the_mode(flow):
    """ln p has no slope there, and curves downwards; elsewhere it is lower."""
    S = to_action(flow, ORDER)
    np.testing.assert_allclose(flow.to_latent(S.at.copy())[0], 0, atol=1e-12)
    np.testing.assert_allclose(S.couplings[1].packed, 0, atol=1e-12)
    assert np.linalg.eigvalsh(S.couplings[2].dense()).max() < 0
    assert np.all(flow.log_prob(flow.sample(1000)) < S[()])


def test_the_gauge_says_whether_orders_are_missing(flow, full):
    """In full the action is ln p everywhere; cut it is so only near its base point."""
    cut, x = to_action(flow, ORDER), flow.sample(20, seed=3)
    assert (full.gauge, cut.gauge, to_action(flow, ORDER, method="taylor").gauge) == ("exact", "taylor", "taylor")
    np.testing.assert_allclose(full(x), flow.log_prob(x), rtol=1e-10)
    assert np.abs(cut(x) - flow.log_prob(x)).max() > 0.01
    near = cut.at + 1e-3 * (x - cut.at)
    np.testing.assert_allclose(cut(near), flow.log_prob(near), rtol=1e-12)


def test_extraction_elsewhere_is_the_exact_action_moved_there(flow, full):
    at = np.array([0.3, -0.2, 0.5])
    moved, again = full.recenter(at), to_action(flow, ORDER, at=at)
    np.testing.assert_array_equal(again.at, at)
    for k in range(ORDER + 1):
        expected = moved.couplings[k].packed
        np.testing.assert_allclose(again.couplings[k].packed, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


MEAN = np.array([0.2, -0.4, 0.1])
COVARIANCE = np.array([[0.3, 0.1, 0.0], [0.1, 0.2, -0.05], [0.0, -0.05, 0.4]])


def _largest_z(averaged, error, exact):
    """Of all couplings that sampling makes uncertain; the others must agree to rounding."""
    z = []
    for k in range(1, ORDER + 1):
        difference, scale = averaged.couplings[k].packed - exact.couplings[k].packed, np.abs(exact.couplings[k].packed).max()
        uncertain = error[k].packed > 1e-12 * scale
        assert np.all(np.abs(difference[~uncertain]) < 1e-12 * scale)
        z.extend(np.abs(difference / error[k].packed)[uncertain])
    return np.max(z)


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value):RuntimeWarning")
@pytest.mark.parametrize("n_layers", [1, 2])
def test_normal_ordered_couplings_are_the_gaussian_average(flow, full, n_layers):
    """The exact average closes legs of all orders by Wick's theorem. At most 34 couplings inside 4 σ: alarm 34 · 6e-5 = 2e-3."""
    learner = flow if n_layers == 2 else _rational_flow(3, 1, seed=5)
    exact = (full if n_layers == 2 else to_action(learner, ORDER, method="exact")).normal_order(MEAN, COVARIANCE)
    averaged, error = normal_ordered(learner, ORDER, MEAN, COVARIANCE, seed=1)
    assert _largest_z(averaged, error, exact) < 4
    # n_layers = 1: orders 3 and 4 have no more than a linear part to average, which the pairs cancel
    assert all(error[k].packed.max() < 1e-14 for k in (3, 4)) == (n_layers == 1)
    assert averaged.gauge == "normal_ordered"
    np.testing.assert_array_equal(averaged.at, MEAN)
    np.testing.assert_array_equal(averaged.covariance, COVARIANCE)


def test_the_method_normal_ordered_is_the_function(flow):
    options = {"covariance": COVARIANCE, "n_points": 3, "seed": 2}
    by_method = to_action(flow, 2, at=MEAN, method="normal_ordered", **options)
    by_function, _ = normal_ordered(flow, 2, MEAN, **options)
    other, _ = normal_ordered(flow, 2, MEAN, **{**options, "seed": 3})
    for k in range(3):
        np.testing.assert_array_equal(by_method.couplings[k].packed, by_function.couplings[k].packed)
        assert not np.array_equal(by_method.couplings[k].packed, other.couplings[k].packed)


def test_a_diffusion_model_has_the_action_of_its_gaussian():
    samples = np.random.default_rng(0).normal(size=(50, 2)) @ [[1.0, 0.0], [0.5, 0.3]] + [2.0, -1.0]
    learner, at, x = DDPM(LinearDenoiser(2), n_steps=20).fit(samples), [0.5, 0.25], samples[:5]
    S, cut = to_action(learner, at=at), to_action(learner, 1, at=at)
    assert (S.gauge, S.order, cut.gauge, cut.order) == ("exact", 2, "taylor", 1)
    np.testing.assert_array_equal(S.at, at)
    np.testing.assert_allclose(S(x), learner.log_prob(x), rtol=1e-10)
    np.testing.assert_allclose(cut.couplings[1].packed, learner.score(at), rtol=1e-10)
    np.testing.assert_allclose(to_action(learner, t=7, coordinates="noised").score(x), learner.score(x, t=7), rtol=1e-10)


@pytest.fixture(scope="module")
def with_constants():
    """A fit of five columns, of which the second and the last never vary."""
    samples = np.insert(np.random.default_rng(1).normal(size=(200, 3)), [1, 3], [7.0, -1.0], axis=1)
    return QuadraticFlow(5, 1).fit(samples, n_steps=20)


def test_constant_columns_are_named_and_left_out(with_constants):
    at = np.array([0.1, 7.0, 0.2, 0.3, -1.0])
    S = to_action(with_constants, 2, at=at)
    assert (S.n_dim, S.names) == (3, ("x0", "x2", "x3"))
    np.testing.assert_array_equal(S.at, [0.1, 0.2, 0.3])
    assert S[()] == pytest.approx(with_constants.log_prob(at), rel=1e-12)
    np.testing.assert_allclose(S.couplings[1].packed, with_constants.score(at), rtol=1e-10)
    averaged, error = normal_ordered(with_constants, 2, at, COVARIANCE, n_points=2)
    assert (averaged.names, averaged.n_dim, error[2].n_dim) == (S.names, 3, 3)
    np.testing.assert_array_equal(averaged.at, S.at)


def test_certify_finds_nothing_missing_from_the_whole_action(flow, full):
    found = certify(full, flow, flow.sample(500, seed=7))
    assert found.orders == tuple(range(1, 9))
    assert found.residual[8][0] < 1e-10
    assert abs(found.explained[8] - 1) < 1e-10
    assert found.score_residual[8] < 1e-20
    assert (found.n_dim, found.n_samples) == (3, 500)


def _log_prob_and_slope(flow, x):
    """ln p at one point from the layers' formula, by autograd."""
    x = torch.tensor(x, requires_grad=True)
    h = x
    for (W, b, chi), layer in zip(flow.weights, flow.layers[1::2]):
        h = torch.as_tensor(W) @ h + torch.as_tensor(b)
        step = torch.einsum("jab,a,b->j", torch.as_tensor(chi), h[layer.read], h[layer.read])
        h = h + torch.zeros_like(h).index_add(0, torch.tensor(layer.written), step)
    S = -0.5 * h @ h + _constant(flow)
    S.backward()
    return S.item(), x.grad.numpy()


def test_certify_measures_what_a_cut_loses(flow):
    """Against ln p by hand and the Taylor polynomial summed over dense tensors."""
    at, samples = np.array([0.3, -0.2, 0.5]), flow.sample(40, seed=8)
    S = to_action(flow, 3, at=at)
    found = certify(S, flow, samples)
    log_p, slopes = (np.array(part) for part in zip(*[_log_prob_and_slope(flow, x) for x in samples]))
    A0, (A1, A2, A3) = S[()], (S.couplings[k].dense() for k in (1, 2, 3))
    u = samples - at
    terms = [A0 + u @ A1, np.einsum("ij,ni,nj->n", A2, u, u), np.einsum("ijk,ni,nj,nk->n", A3, u, u, u)]
    forces = [np.tile(A1, (40, 1)), 2 * u @ A2, 3 * np.einsum("ijk,nj,nk->ni", A3, u, u)]
    assert found.orders == (1, 2, 3)
    for k in found.orders:
        lost = sum(terms[:k]) - log_p
        squares = (lost - lost.mean()) ** 2
        rms = np.sqrt(squares.mean())
        np.testing.assert_allclose(found.residual[k], (rms, squares.std() / np.sqrt(40) / (2 * rms)), rtol=1e-9)
        assert found.explained[k] == pytest.approx(1 - lost.var() / log_p.var(), rel=1e-9)
        missing = np.sum((sum(forces[:k]) - slopes) ** 2) / np.sum(slopes**2)
        assert found.score_residual[k] == pytest.approx(missing, rel=1e-9)


def test_certify_finds_the_variance_of_every_such_flow(flow):
    """Var ½|z|² = n_dim/2, over 10,000 of the learner's own samples whatever it is asked about; 4 σ, alarm 6e-5."""
    found = certify(to_action(flow, 2), flow, flow.sample(20, seed=9))
    value, error = found.variance_of_action
    assert abs(value - 1.5) < 4 * error
    assert error == pytest.approx(np.sqrt((3**2 / 2 + 3 * 3) / 10_000), rel=0.3)  # moments of χ²_3, found to 6 % from 10,000 values: 5 σ


def test_certify_prints_its_numbers_by_order(flow):
    found = certify(to_action(flow, 2), flow, flow.sample(50, seed=9))
    table = found.table().splitlines()
    assert len(table) == 5
    assert f"{found.residual[2][0]:.4g} ± {found.residual[2][1]:.2g}" in " ".join(table[2].split())
    assert table[3].startswith(f"Cosine with the projection couplings: {found.other.cosine[2]:.3f} at order 2")
    assert "(n_dim/2 = 1.5)" in table[4]
    assert table[4].endswith(found.normalizability.reason)


def test_certify_leaves_constant_columns_out(with_constants):
    x = with_constants.sample(50, seed=1)
    found = certify(to_action(with_constants, ORDER), with_constants, x)
    assert (found.n_dim, found.n_samples) == (3, 50)
    assert found.residual[ORDER][0] < 1e-10


FLOW, DIFFUSION = QuadraticFlow.random(3, 2), DDPM(LinearDenoiser(2), n_steps=5).fit([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize("call, message", [
    (lambda: to_action(FLOW, 0), "order must be a whole number of at least 1, got 0."),
    (lambda: to_action(FLOW, method="best"), "method must be one of auto, exact, taylor, normal_ordered, projection, got 'best'."),
    (lambda: to_action(FLOW, 7, method="exact"), "the action of this learner has order 8; it is exact only in full, got order=7. Ask"),
    (lambda: to_action(DIFFUSION, 1, method="exact"), "the action of this learner has order 2; it is exact only in full, got order=1."),
    (lambda: to_action("a flow"), "a model must be a learner, a torch module with log_prob, or be given as log_prob= or score=, got str."),
    (lambda: to_action(FLOW, at=[0.0, 0.0]), "at must have shape (..., 3), got (2,)"),
    (lambda: to_action(FLOW, at=np.zeros((2, 3))), "at must be one point of shape (3,), got shape (2, 3)."),
    (lambda: to_action(FLOW, at=[0.0, 0.0, np.inf]), "at must be finite"),
    (lambda: to_action(DIFFUSION, at=[0.0, 0.0, 0.0]), "at must have shape (..., 2), got (3,)"),
    (lambda: normal_ordered(FLOW, 2, MEAN[:2], COVARIANCE), "at must have shape (..., 3), got (2,)"),
    (lambda: normal_ordered(FLOW, 2, MEAN, np.eye(2)), "covariance must be that of the 3 columns that vary, got shape (2, 2)."),
    (lambda: normal_ordered(FLOW, 2, MEAN, -COVARIANCE), "covariance must be positive definite"),
    (lambda: normal_ordered(FLOW, 2, MEAN, COVARIANCE, n_points=1), "n_points must be a whole number of at least 2, got 1."),
    (lambda: certify(to_action(FLOW), FLOW, np.zeros((5, 2))), "samples must have shape (..., 3), got (5, 2)"),
    (lambda: certify(to_action(FLOW), FLOW, np.zeros(3)), "samples must have shape (n_samples, n_dim), got an array of rank 1"),
])
def test_wrong_arguments_get_one_sentence(call, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)
