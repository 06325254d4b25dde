"""Every flow obeys the same laws: it is invertible, its log-determinant is its Jacobian's, it generates what it says it does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldtheory.errors import InputError
from learners import NICE, Glow, QuadraticFlow, RealNVP
from learners.flows import LinearLayer, QuadraticCouplingLayer, VarianceOfAction
from learners.flows.coupling import pack, unpack

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "flows.json").read_text())["flows"]


def _reference(case):
    return QuadraticFlow.from_weights(case["weights"], case["read"])


def _fitted():
    samples = np.insert(np.random.default_rng(3).normal(size=(200, 3)), 1, 7.0, axis=1)
    return QuadraticFlow(4, 2).fit(samples, n_steps=20)


def _moved(flow):
    """Weights away from the identity."""
    rng = np.random.default_rng(4)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += torch.from_numpy(0.2 * rng.normal(size=tuple(parameter.shape)))
    return flow


FLOWS = {
    "untrained": lambda: QuadraticFlow(3, 2),
    "two variables": lambda: QuadraticFlow.random(2, 1, seed=1),
    "odd": lambda: QuadraticFlow.random(3, 2, seed=2),
    "deep": lambda: QuadraticFlow.random(4, 4, seed=3),
    "strong": lambda: QuadraticFlow.random(5, 2, seed=4, chi_scale=0.5, bias_scale=1.0, weight_scale=0.5),
    "reads one variable": lambda: _reference(REFERENCE[0]),
    "alternating": lambda: _reference(REFERENCE[1]),
    "constant column left out": _fitted,
    "tails": lambda: _moved(QuadraticFlow(3, 2, tails=True)),
    "NICE": lambda: _moved(NICE(5, 3, (8,))),
    "RealNVP": lambda: _moved(RealNVP(3, 2, (8,))),
    "RealNVP without mixing": lambda: _moved(RealNVP(2, 3, (8,), mix=False)),
    "Glow": lambda: _moved(Glow(n_dim=3, n_layers=2, hidden=8)),
    "Glow of images": lambda: _moved(Glow(shape=(1, 4, 4), n_layers=1, hidden=4)),
}


@pytest.fixture(params=FLOWS, scope="module")
def flow(request):
    return FLOWS[request.param]()


@pytest.fixture
def points(flow):
    return np.random.default_rng(5).normal(size=(3, 4, flow.columns.kept.size))


def test_to_data_inverts_to_latent(flow, points):
    z, log_det = flow.to_latent(points)
    x, log_det_back = flow.to_data(z)
    assert z.shape == points.shape
    assert log_det.shape == points.shape[:-1]
    np.testing.assert_allclose(x, points, atol=1e-9)
    np.testing.assert_allclose(log_det_back, -log_det, atol=1e-12)


def test_log_det_is_that_of_the_jacobian(flow, points):
    _, log_det = flow.to_latent(points)
    jacobian = torch.func.jacrev(lambda x: flow._to_latent(x[None])[0][0])
    expected = [torch.linalg.slogdet(jacobian(x).detach())[1] for x in torch.as_tensor(points.reshape(-1, points.shape[-1]))]
    np.testing.assert_allclose(log_det.ravel(), expected, atol=1e-10)


def test_log_prob_is_the_latent_gaussian_and_the_log_det(flow, points):
    x = flow.columns.restore(points)
    z, log_det = flow.to_latent(points)
    expected = -0.5 * np.sum(z**2, axis=-1) - 0.5 * z.shape[-1] * np.log(2 * np.pi) + log_det
    np.testing.assert_allclose(flow.log_prob(x), expected, rtol=1e-12)


def test_score_is_the_slope_of_log_prob(flow, points):
    x, step = flow.columns.restore(points), 1e-5
    directions = step * np.eye(flow.n_dim)[flow.columns.kept]
    slopes = [(flow.log_prob(x + d) - flow.log_prob(x - d)) / (2 * step) for d in directions]
    np.testing.assert_allclose(flow.score(x), np.stack(slopes, axis=-1), rtol=1e-5, atol=1e-5)


def test_samples_come_with_their_log_prob(flow):
    x, log_p = flow.sample_and_log_prob(50, seed=3)
    np.testing.assert_array_equal(x, flow.sample(50, seed=3))
    np.testing.assert_allclose(log_p, flow.log_prob(x), rtol=1e-9, atol=1e-9)


def test_generated_samples_are_standard_normal_in_latent_space(flow):
    """Means and covariances of 20,000 z's in units of their standard errors: at most 20 numbers inside 5 σ, alarm 1e-5."""
    n_samples = 20_000
    z, _ = flow.to_latent(flow.columns.drop(flow.sample(n_samples, seed=8)))
    n = z.shape[1]
    assert np.abs(z.mean(0) * np.sqrt(n_samples)).max() < 5
    errors = np.sqrt((1 + np.eye(n)) / n_samples)
    assert np.abs((z.T @ z / n_samples - np.eye(n)) / errors).max() < 5


def test_the_variance_of_the_action_is_half_the_dimension_where_jacobians_are_constant(flow):
    """Var of ½|z|² is n/2, of its estimate (n²/2 + 3n)/N by the moments of χ²_n; 5 σ, alarm 6e-7."""
    n_samples, n = 20_000, flow.columns.kept.size
    found = flow.variance_of_action(n_samples=n_samples, seed=9)
    S = flow.log_prob(flow.sample(n_samples, seed=9))
    assert found.value == pytest.approx(S.var(ddof=1), rel=1e-9)
    assert found.gaussian == n / 2
    assert not flow.constant_jacobian or abs(found.value - n / 2) < 5 * np.sqrt((n**2 / 2 + 3 * n) / n_samples)


def test_the_error_of_the_variance_is_calibrated():
    """Over 200 estimates z has unit spread: 1 ± 5/√400 and a bias of skewness, an alarm of 1e-6 if they were normal."""
    flow = QuadraticFlow.random(4, 1, seed=0)
    found = [flow.variance_of_action(n_samples=2000, seed=seed) for seed in range(200)]
    assert np.std([(f.value - 2) / f.error for f in found]) == pytest.approx(1, abs=0.25)


def test_held_out_samples_tell_what_a_flow_of_constant_jacobian_misses():
    """Uniform noise: Var ½z² = (E z⁴ − 1)/4 = .2 per variable instead of .5, and a whitening is all the Gaussian needs."""
    rng, flow = np.random.default_rng(0), QuadraticFlow(3, 1)
    uniform, gaussian = np.sqrt(3) * rng.uniform(-1, 1, size=(20_000, 3)), rng.normal(size=(20_000, 3))
    found = flow.variance_of_action(uniform)
    assert found.value == pytest.approx(0.6, abs=5 * found.error)
    assert "no flow of constant Jacobian can represent these samples. Use QuadraticFlow(…, tails=True) or RealNVP." in str(found)
    assert "agrees with n_dim/2" in flow.variance_of_action(gaussian).recommendation
    assert "Ask for the variance over held-out samples" in flow.variance_of_action().recommendation


def test_a_flow_that_is_not_volume_preserving_says_what_its_theory_needs():
    assert not QuadraticFlow(3, tails=True).constant_jacobian
    other = VarianceOfAction(4.0, 0.1, 4.5, constant_jacobian=False, own=True)
    assert str(other).startswith("Var S = 4.000 ± 0.100 (n_dim/2 = 4.5), off by -11 %")
    assert "no flow of constant Jacobian (QuadraticFlow without tails, NICE) is this theory" in other.recommendation
    assert "agrees with n_dim/2" in VarianceOfAction(4.3, 0.1, 4.5, constant_jacobian=False, own=True).recommendation


@pytest.mark.parametrize("name", [name for name in FLOWS if FLOWS[name]().constant_jacobian and isinstance(FLOWS[name](), QuadraticFlow)])
def test_its_weights_rebuild_it(name):
    flow = FLOWS[name]()
    points = np.random.default_rng(5).normal(size=(12, flow.columns.kept.size))
    again = QuadraticFlow.from_weights(flow.weights, [layer.read for layer in flow.layers[1::2]])
    np.testing.assert_array_equal(again.log_prob(points), flow.log_prob(flow.columns.restore(points)))
    assert all(np.array_equal(chi, chi.transpose(0, 2, 1)) for _, _, chi in flow.weights)


@pytest.mark.parametrize("case", REFERENCE)
def test_log_prob_of_reference_networks(case):
    flow = _reference(case)
    assert [layer.written for layer in flow.layers[1::2]] == case["written"]
    for entry in case["log_prob"]:
        assert flow.log_prob(entry["x"]) == pytest.approx(entry["value"], rel=1e-12)


def test_density_integrates_to_one():
    """Trapezoid on a fine grid, exponentially accurate for a density that decays inside it."""
    flow = QuadraticFlow.random(2, 2, seed=6)
    grid = np.linspace(-25, 25, 1001)
    x = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1)
    assert np.exp(flow.log_prob(x)).sum() * (grid[1] - grid[0]) ** 2 == pytest.approx(1, abs=1e-9)


def test_coupling_layer_is_its_formula():
    rng = np.random.default_rng(0)
    chi, read, written = rng.normal(size=(2, 3, 3)), [4, 0, 2], [3, 1]
    layer, h = QuadraticCouplingLayer(chi, read, written), rng.normal(size=5)
    expected = h.copy()
    for j, w in enumerate(written):
        expected[w] += sum(chi[j, a, b] * h[read[a]] * h[read[b]] for a in range(3) for b in range(3))
    y, _ = layer.to_latent(torch.as_tensor(h[None]))
    np.testing.assert_allclose(y.detach().numpy()[0], expected, rtol=1e-13)


@given(n_written=st.integers(1, 4), n_read=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_unique_entries_hold_a_symmetric_chi(n_written, n_read, seed):
    chi = np.random.default_rng(seed).normal(size=(n_written, n_read, n_read))
    packed = pack(chi)
    assert packed.shape == (n_written, n_read * (n_read + 1) // 2)
    np.testing.assert_array_equal(unpack(packed, n_read), 0.5 * (chi + chi.transpose(0, 2, 1)))


def test_random_teachers_have_the_scales_asked_for():
    """Standard deviations over 40 teachers; each estimate has relative error 1/√(2 count), and lies inside 5 of them."""
    weights = [layer for seed in range(40) for layer in QuadraticFlow.random(6, 2, seed=seed).weights]
    unique = np.concatenate([pack(chi).ravel() for _, _, chi in weights])
    bias = np.concatenate([b for _, b, _ in weights])
    noise = np.mean([np.sum(W**2) - 6 for W, _, _ in weights]) / 6  # ‖Q + ε G/√n‖² = n + ε² n on average
    assert unique.std() == pytest.approx(0.15, rel=5 / np.sqrt(2 * unique.size))
    assert bias.std() == pytest.approx(0.3, rel=5 / np.sqrt(2 * bias.size))
    assert noise == pytest.approx(0.04, abs=5 * 2 * 0.2 / np.sqrt(6 * 6 * 80))


def test_same_seed_same_teacher_and_samples():
    a, b, c = (QuadraticFlow.random(3, 2, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a.sample(5, seed=1), b.sample(5, seed=1))
    assert not np.array_equal(a.sample(5, seed=1), a.sample(5, seed=2))
    assert not np.array_equal(a.weights[0][0], c.weights[0][0])


W, b, CHI = np.eye(3), np.zeros(3), np.zeros((1, 2, 2))


@pytest.mark.parametrize("make, message", [
    (lambda: QuadraticFlow(1, 2), "a flow of coupling layers must have at least 2 varying columns, got 1"),
    (lambda: QuadraticFlow(3, 0), "n_layers must be a whole number of at least 1, got 0."),
    (lambda: QuadraticFlow(3, 2, read=[[0]]), "read must name the variables of each of the 2 layers, got 1 lists."),
    (lambda: QuadraticFlow(3, 1, read=[[0, 1, 2]]), "read and written must be non-empty and together name every variable once"),
    (lambda: QuadraticFlow(3, 1, read=[[0, 5]]), "read and written must be non-empty and together name every variable once"),
    (lambda: QuadraticFlow.from_weights([]), "weights must hold .* for at least one layer, got none."),
    (lambda: QuadraticFlow.from_weights([(W, b, CHI), (np.eye(4), np.zeros(4), np.zeros((2, 2, 2)))]), "weights must be of one n_dim"),
    (lambda: QuadraticFlow.from_weights([(W, b, np.zeros((2, 2, 2)))]), r"chi must have shape \(1, 2, 2\), got \(2, 2, 2\)."),
    (lambda: QuadraticFlow.random(1, 2), "n_dim must be a whole number of at least 2, got 1."),
    (lambda: LinearLayer(np.eye(3), np.zeros(2)), r"a linear layer must have weight \(n, n\) and bias \(n,\), got \(3, 3\) and \(2,\)."),
    (lambda: QuadraticFlow(3).to_latent(np.zeros(2)), r"points must have shape \(\.\.\., 3\), got \(2,\)"),
    (lambda: QuadraticFlow(3).log_prob([0, 0, np.nan]), "x must be finite"),
    (lambda: QuadraticFlow(3).sample(0), "n_samples must be a whole number of at least 1, got 0."),
    (lambda: NICE(1), "a flow of coupling layers must have at least 2 varying columns, got 1"),
    (lambda: RealNVP(3, 0), "n_layers must be a whole number of at least 1, got 0."),
    (lambda: RealNVP(3, hidden=(8, -1)), "hidden must be a whole number of at least 1, got -1."),
    (lambda: NICE(3, unit="relu"), "unit must be one of tanh, softplus, silu, or as many as there are hidden layers, 2; got 'relu'."),
    (lambda: RealNVP(3, unit=7), "unit must be one of tanh, softplus, silu, or as many as there are hidden layers, 2; got 7."),
    (lambda: Glow(n_dim=4, unit=["tanh"]), r"or as many as there are hidden layers, 2; got \['tanh'\]."),
    (lambda: Glow(), "Glow must be given shape or n_dim, got shape=None and n_dim=None."),
    (lambda: Glow((1, 4, 4), 16), r"Glow must be given shape or n_dim, got shape=\(1, 4, 4\) and n_dim=16."),
    (lambda: Glow((1, 3, 4)), r"shape must be \(channels, height, width\) with even height and width, got \(1, 3, 4\)"),
    (lambda: Glow((4, 4)), r"shape must be \(channels, height, width\) with even height and width, got \(4, 4\)"),
    (lambda: Glow((1, 4, 6), n_scales=2), "n_scales must be at most 1, as often as 4 x 6 can be halved, got 2."),
    (lambda: Glow((1, 2, 2)).fit(np.eye(12, 4) * [1, 0, 1, 1]), r"images must vary in every pixel, columns \[1\] are constant"),
])
def test_wrong_arguments_get_one_sentence(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
