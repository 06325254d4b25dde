"""Every flow is its derivatives: nodes against nested differentiation, layers that build them up, and directions without the tensor."""

import re
from math import factorial

import numpy as np
import pytest
import torch
from torch import nn

import fieldtheory as ft
import learners as ln
from fieldtheory.assembly import assemble
from fieldtheory.errors import InputError
from fieldtheory.tape import Tape
from learners.conversion.model import as_model
from learners.conversion.record import expand, record, record_network
from learners.flows import (
    MLP,
    ActNormLayer,
    AdditiveCouplingLayer,
    AffineCouplingLayer,
    ConvNet,
    Invertible1x1Layer,
    LinearLayer,
    LULinearLayer,
    PermutationLayer,
    QuadraticCouplingLayer,
    ScalingLayer,
    SplitLayer,
    SqueezeLayer,
    TailLayer,
)


def shaken(module, seed=0, scale=0.4):
    """Random weights everywhere."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for weights in module.parameters():
            noise = rng.normal(size=tuple(weights.shape)) / np.sqrt(max(1, weights.shape[-1] if weights.ndim else 1))
            weights.add_(torch.as_tensor(scale * noise))
    return module


def nested(function, x, order):
    """∇^k f/k! by differentiating derivatives."""
    x = x if isinstance(x, torch.Tensor) else torch.as_tensor(np.array(x))
    for k in range(order + 1):
        yield k, function(x).detach().numpy() / factorial(k)
        function = torch.func.jacfwd(function)


LAYERS = {
    "linear": lambda: LinearLayer(np.eye(4) + 0.3 * np.random.default_rng(1).normal(size=(4, 4)), np.zeros(4)),
    "LU": lambda: LULinearLayer(4),
    "permutation": lambda: PermutationLayer([2, 0, 3, 1]),
    "scaling": lambda: ScalingLayer(4),
    "actnorm": lambda: ActNormLayer(2, 2),
    "1x1": lambda: Invertible1x1Layer(2, 2),
    "squeeze": lambda: SqueezeLayer((1, 2, 2)),
    "additive": lambda: AdditiveCouplingLayer(MLP(3, 1, (5,)), [0, 2, 3], [1]),
    "affine, two hidden layers": lambda: AffineCouplingLayer(MLP(2, 4, (4, 3), "softplus"), [3, 0], [1, 2], bound=1.5),
    "affine, convolutions": lambda: AffineCouplingLayer(ConvNet((1, 2, 1), 2, hidden=3, unit="silu"), [0, 1], [2, 3]),
    "quadratic": lambda: QuadraticCouplingLayer(np.random.default_rng(2).normal(size=(2, 2, 2)), [1, 3], [0, 2]),
    "tail": lambda: TailLayer(4),
    "split": lambda: SplitLayer([LULinearLayer(3), AffineCouplingLayer(MLP(1, 4, ()), [0], [1, 2])], 3),
}


@pytest.mark.parametrize("name", LAYERS)
def test_nodes_of_every_layer(name):
    """Image and ln|det| of a layer, and the first derivatives of the image, at points that are not special."""
    layer, x = shaken(LAYERS[name]()), np.random.default_rng(3).normal(size=4)
    image, series, log_det = expand(layer, x, 2)
    y, change = layer.to_latent(torch.as_tensor(x[None]))
    np.testing.assert_allclose(image, y.detach()[0], rtol=1e-12, atol=1e-12)
    assert log_det[0].packed[0] == pytest.approx(float(change.detach().sum()), rel=1e-12, abs=1e-12)
    jacobian = torch.func.jacfwd(lambda x: layer.to_latent(x[None])[0][0])(torch.as_tensor(x))
    np.testing.assert_allclose(series[1], jacobian.detach(), rtol=1e-11, atol=1e-11)
    assert float(torch.linalg.slogdet(jacobian.detach())[1]) == pytest.approx(log_det[0].packed[0], abs=1e-10)


FLOWS = {
    "RealNVP": lambda: ln.RealNVP(6, 2, (8,)),
    "RealNVP, softplus, no mixing": lambda: ln.RealNVP(5, 3, (4, 4), unit="softplus", mix=False),
    "GLOW of vectors": lambda: ln.Glow(n_dim=6, n_layers=1, hidden=6),
    "NICE, silu": lambda: ln.NICE(4, 3, (8,), unit="silu"),
    "quadratic with tails": lambda: ln.QuadraticFlow(4, 2, tails=True),
}


@pytest.mark.parametrize("name", FLOWS)
def test_taylor_couplings_are_nested_derivatives(name):
    """Relative to the largest entry of each order; order 4."""
    flow = shaken(FLOWS[name]())
    at = 0.5 * np.random.default_rng(1).normal(size=flow.n_dim)
    S = ln.to_action(flow, 4, at=at, method="taylor")
    assert S.gauge == "taylor"
    for k, expected in nested(lambda x: flow._log_prob(x[None])[0], at, 4):
        found = S.couplings[k].dense() if k else S[()]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_taylor_couplings_of_images():
    """GLOW with two scales on 4 × 4 pixels; order 2 and order 3 along directions."""
    flow = shaken(ln.Glow(shape=(1, 4, 4), n_layers=1, hidden=3))
    at, V = 0.3 * np.random.default_rng(2).normal(size=16), np.random.default_rng(3).normal(size=(3, 16))
    hessian = torch.func.hessian(lambda x: flow._log_prob(x[None])[0])(torch.as_tensor(at)).detach().numpy()
    np.testing.assert_allclose(ln.to_action(flow, 2, at=at).couplings[2].dense(), 0.5 * hessian, rtol=0, atol=1e-12 * np.abs(hessian).max())

    def function(t):
        return flow._log_prob((torch.as_tensor(at) + t @ torch.as_tensor(V))[None])[0]

    (*_, (_, expected)) = nested(function, np.zeros(3), 3)
    assert ln.coupling_along(flow, *V, at=at) == pytest.approx(expected[0, 1, 2], rel=1e-9)


def test_orders_above_four_go_along_lines_where_there_is_no_polynomial():
    flow = shaken(ln.RealNVP(2, 2, (4,)))
    S = ln.to_action(flow, 5, at=[0.2, -0.1])
    (*_, (_, expected)) = nested(lambda x: flow._log_prob(x[None])[0], [0.2, -0.1], 5)
    np.testing.assert_allclose(S.couplings[5].dense(), expected, rtol=0, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("order", [4, 6])
def test_a_polynomial_flow_along_directions(order):
    flow, V = ln.QuadraticFlow.random(4, 2, seed=1), np.random.default_rng(4).normal(size=(order, 4))
    whole = ln.to_action(flow, order, at=np.zeros(4)).couplings[order]
    assert ln.coupling_along(flow, *V, at=np.zeros(4)) == pytest.approx(whole.contract(*V), rel=1e-10)


@pytest.mark.parametrize("n_layers, order", [(1, 4), (2, 4), (2, 8), (3, 6)])
def test_series_and_nodes_agree(n_layers, order):
    """Two computations of one polynomial: order 4 assembled, all orders pulled back layer by layer."""
    flow, at = ln.QuadraticFlow.random(3, n_layers, seed=2), np.array([0.3, -0.2, 0.4])
    model = as_model(flow)
    series, nodes = model._pulled_back(at, order, None), assemble(model.tape, at, 4)
    for k in range(5):
        np.testing.assert_allclose(series[k].packed, nodes[k].packed, rtol=0, atol=1e-12 * (1 + np.abs(nodes[k].packed).max()))
    assert model.degree == 2 ** (n_layers + 1)


def test_the_default_base_point_of_a_curved_flow_is_a_mode():
    flow = shaken(ln.RealNVP(3, 3, (8,)))
    S = ln.to_action(flow, 2)
    assert S.couplings[1].norm() < 1e-6
    assert np.linalg.eigvalsh(S.couplings[2].dense()).max() < 0
    assert flow.log_prob(S.at.copy()) >= flow.log_prob(flow.to_data(np.zeros(3))[0])


@pytest.mark.filterwarnings("ignore:averages over q should rest on many points")
def test_averages_of_derivatives_and_of_values_agree():
    """Normal-ordered couplings of a flow with tails by two routes that share nothing; 34 couplings inside 4.5 σ, alarm 3e-4."""
    flow = shaken(ln.QuadraticFlow(3, 2, tails=True), scale=0.15)
    mean, covariance = np.array([0.1, -0.2, 0.0]), np.diag([0.5, 0.8, 0.6])
    averaged, error = ln.normal_ordered(flow, 4, mean, covariance, seed=1)
    values = ft.projection.stein(flow.log_prob, mean, covariance, 4, n_points=50_000, seed=2)
    for k in range(1, 5):
        scale = np.hypot(error[k].packed, values.standard_error[k].packed)
        assert np.all(np.abs(averaged.couplings[k].packed - values.couplings[k].packed) < 4.5 * scale), k
    assert averaged.standard_error is error


def test_a_share_of_the_covariance_and_samples_make_q():
    flow, x = ln.QuadraticFlow.random(3, 1, seed=3), np.random.default_rng(5).normal(size=(50, 3))
    half, _ = ln.normal_ordered(flow, 2, samples=x, share=0.5, n_points=4)
    by_hand, _ = ln.normal_ordered(flow, 2, x.mean(axis=0), 0.5 * np.cov(x, rowvar=False), n_points=4)
    np.testing.assert_allclose(half.couplings[2].packed, by_hand.couplings[2].packed, rtol=1e-12)
    own, _ = ln.normal_ordered(flow, 2, n_points=2)
    np.testing.assert_allclose(own.covariance, np.cov(flow.sample(10_000), rowvar=False))


def test_an_average_that_few_points_make_warns():
    """Deep quadratic flows explode in the tails of a wide q; in a narrow one they do not."""
    flow = ln.QuadraticFlow.random(3, 5, seed=0, chi_scale=0.3)
    message = r"averages over q should rest on many points, one of 128 pairs makes up .* of the spread .* Give share=0.5"
    with pytest.warns(ft.errors.RegimeWarning, match=message):
        ln.normal_ordered(flow, 4, np.zeros(3), 4 * np.eye(3), n_points=128)


def test_projection_is_the_polynomial_where_there_is_one():
    flow = ln.QuadraticFlow.random(3, 1, seed=4)
    S, found = ln.to_action(flow, 4, method="exact"), ln.project(flow, 4, at=np.zeros(3), n_samples=2000)
    assert found.residual < 1e-16 and found.curl_fraction == 0 and found.n_samples == 2000
    moved = S.recenter(np.zeros(3))
    for k in range(5):
        np.testing.assert_allclose(found.action.couplings[k].packed, moved.couplings[k].packed, rtol=0, atol=1e-8)
    given = ln.to_action(flow, 4, method="projection", samples=flow.sample(500, seed=7))
    assert given.gauge == "projection" and sorted(given.standard_error) == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(given.at, flow.sample(500, seed=7).mean(axis=0))


def test_auto_is_exact_taylor_or_projection():
    polynomial, curved = ln.QuadraticFlow.random(2, 1), shaken(ln.RealNVP(2, 1, (4,)))
    assert [ln.to_action(polynomial, k).gauge for k in (3, 4, 5)] == ["taylor", "exact", "exact"]
    assert ln.to_action(curved, 4).gauge == "taylor"
    assert ln.to_action(with_relu(), 2, n_samples=500).gauge == "projection"


def with_relu():
    """A flow of which one conditioner has kinks."""
    flow = shaken(ln.RealNVP(2, 1, (4,)))
    flow.layers[-1].conditioner = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    return flow


def test_kinks_in_a_flow_are_refused_by_taylor_and_not_by_averages():
    flow = with_relu()
    for ask in (lambda: ln.to_action(flow, method="taylor"), lambda: ln.trace_action(flow), lambda: ln.leading_directions(flow, 3)):
        with pytest.raises(InputError, match=r"taylor must be asked of a smooth ln p, .* kinks, ReLU \(at layers.2.conditioner.1\)"):
            ask()
    averaged = ln.to_action(flow, 2, [0.0, 0.0], "normal_ordered", covariance=np.eye(2), n_points=2000)
    assert averaged.gauge == "normal_ordered" and averaged.standard_error[2].norm() > 0


TRACED = {
    "quadratic": (lambda: ln.QuadraticFlow.random(3, 3, seed=5), 5),
    "RealNVP": (lambda: shaken(ln.RealNVP(3, 2, (6,))), 4),
    "tails": (lambda: shaken(ln.QuadraticFlow(2, 2, tails=True)), 4),
}


@pytest.mark.parametrize("name", TRACED)
def test_layers_build_up_the_action(name):
    """Trees and loops add up to the couplings before each layer; before the first they are those of the flow."""
    make, order = TRACED[name]
    flow = make()
    trace, S = ln.trace_action(flow, order), ln.to_action(flow, order)
    np.testing.assert_allclose(trace.action.at, S.at)
    assert trace.action.gauge == S.gauge and len(trace.layers) == len(flow.layers)
    for k in range(order + 1):
        scale = 1 + np.abs(S.couplings[k].packed).max()
        np.testing.assert_allclose(trace.action.couplings[k].packed, S.couplings[k].packed, rtol=0, atol=1e-11 * scale)
    for layer in trace.layers:
        for n in range(order + 1):
            parts = [T.packed for (k, _), T in layer.trees.items() if k == n] + [layer.loops[n].packed if n in layer.loops else 0.0]
            np.testing.assert_allclose(sum(parts), layer.couplings[n].packed, atol=1e-11 * (1 + np.abs(layer.couplings[n].packed).max()))
    assert trace.norms.shape == (len(flow.layers), order)


def test_what_comes_after_a_layer_is_the_flow_without_it():
    """Couplings before layer 3 are those of a flow that begins there, around the image of the base point."""
    flow, at = shaken(ln.RealNVP(3, 2, (6,))), np.array([0.1, 0.2, -0.3])
    trace, image = ln.trace_action(flow, 3, at=at), at
    for layer in flow.layers[:2]:
        image = layer.to_latent(torch.as_tensor(image[None]))[0].detach().numpy()[0]
    flow.layers = flow.layers[2:]
    rest = ln.to_action(flow, 3, at=image)
    for k in range(1, 4):
        np.testing.assert_allclose(trace.layers[-3].couplings[k].packed, rest.couplings[k].packed, atol=1e-11)


def test_diagrams_of_a_quadratic_layer():
    """One layer: order 3 is Λ with one leg split, 2·(−½)·χ by hand, order 4 the square of χ; no loops; linear layers keep the norms."""
    rng = np.random.default_rng(6)
    W, b, chi = np.eye(3) + 0.2 * rng.normal(size=(3, 3)), np.zeros(3), rng.normal(size=(1, 2, 2))
    chi = 0.5 * (chi + chi.swapaxes(1, 2))
    trace = ln.trace_action(ln.QuadraticFlow.from_weights([(W, b, chi)]), 4, at=np.zeros(3))
    quadratic, linear = trace.layers
    full = np.zeros((3, 3, 3))
    full[2, :2, :2] = chi[0]
    np.testing.assert_allclose(quadratic.trees[3, 2].dense(), ft.tensors.symmetrize(-full), atol=1e-14)
    np.testing.assert_allclose(quadratic.trees[4, 2].dense(), ft.tensors.symmetrize(-0.5 * np.einsum("aij,akl", full, full)), atol=1e-14)
    assert [name for name, value in quadratic.parts(3).items() if value > 0] == ["split from 2"]
    np.testing.assert_allclose([linear.norm(k) for k in (2, 3, 4)], [quadratic.norm(k) for k in (2, 3, 4)], rtol=1e-10)
    assert "2 QuadraticCouplingLayer" in trace.table() and "split from 2" in trace.table()


def test_loops_are_the_log_determinant():
    """Of an elementwise tail around a point: its own ln y', whatever the couplings behind it."""
    flow = shaken(ln.QuadraticFlow(2, 1, tails=True))
    tail = ln.trace_action(flow, 4, at=[0.4, -0.3]).layers[0]
    layer, x = flow.layers[-1], flow.layers[1].to_latent(flow.layers[0].to_latent(torch.tensor([[0.4, -0.3]], dtype=torch.float64))[0])[0]
    for k, expected in nested(lambda u: layer.to_latent(u[None])[1].sum(), x[0].detach(), 4):
        np.testing.assert_allclose(tail.loops[k].dense() if k else tail.loops[0].packed[0], expected, atol=1e-12)
    assert tail.parts(2)["loops"] > 0


def test_pictures_of_traces_and_of_training():
    flow = ln.QuadraticFlow.random(2, 2)
    figure = ln.trace_action(flow, 4).plot()
    assert len(figure.axes) == 3 and [label.get_text() for label in figure.axes[-1].get_xticklabels()][-1] == "1 Linear"
    recorder = ln.record_couplings(every=2, order=3)
    for step in range(5):
        recorder(step, flow)
    assert recorder.steps == [0, 2, 4]
    assert [line.get_label() for line in recorder.plot().axes[0].lines[:2]] == ["order 2", "order 3"]


def test_couplings_along_training():
    """All around one point, and the last are those of the learner after its last step."""
    x = np.random.default_rng(7).normal(size=(400, 2))
    x[:, 1] += 0.5 * x[:, 0] ** 2
    recorder = ln.record_couplings(every=20, order=3)
    flow = ln.QuadraticFlow(2, 1).fit(x, n_steps=60, callback=recorder, callback_every=20)
    assert recorder.steps == [0, 20, 40, 60]
    np.testing.assert_allclose(recorder.at, x.mean(axis=0), atol=0.2)
    assert {tuple(S.at) for S in recorder.actions} == {tuple(recorder.at)}
    cosines = recorder.cosines()
    assert cosines[2][-1] == pytest.approx(1) and cosines[3][-1] == pytest.approx(1)
    true = ln.to_action(flow, 3, at=recorder.at)
    assert len(recorder.comparisons(true)) == 4


def test_leading_directions_of_a_known_coupling():
    """The quadratic coupling: eigenvectors. A quartic in one direction: that direction."""
    flow, at = ln.QuadraticFlow.random(5, 2, seed=8), np.zeros(5)
    S = ln.to_action(flow, 4, at=at)
    values, vectors = np.linalg.eigh(S.couplings[2].dense())
    found = ln.leading_directions(flow, 2, 1, at=at)
    assert found.values[0] == pytest.approx(values[np.abs(values).argmax()], rel=1e-8)
    assert abs(found.vectors[0] @ vectors[:, np.abs(values).argmax()]) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("order", [3, 4])
def test_leading_directions_are_stationary_and_the_largest_of_many(order):
    """No random direction, refined or not, does better than the first; all are eigen-directions to rounding."""
    flow, at = shaken(ln.RealNVP(4, 2, (6,))), np.full(4, 0.2)
    T, found = ln.to_action(flow, order, at=at).couplings[order], ln.leading_directions(flow, order, at=at, n_starts=24)
    for value, v in zip(found.values, found.vectors):
        np.testing.assert_allclose(T.contract(*[v] * (order - 1)), value * v, rtol=0, atol=1e-6 * abs(value) + 1e-9)
    random = np.random.default_rng(9).normal(size=(2000, 4))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    reached = np.einsum({3: "ijk,ni,nj,nk->n", 4: "ijkl,ni,nj,nk,nl->n"}[order], T.dense(), *[random] * order)
    assert np.abs(reached).max() <= abs(found.values[0])
    assert np.all(np.diff(np.abs(found.values)) <= 0)


def test_leading_directions_in_units_of_the_data():
    """With a covariance, directions are as long as the data go: those of the coupling of whitened variables."""
    flow, at, root = ln.QuadraticFlow.random(3, 2, seed=1), np.zeros(3), np.array([[1.0, 0, 0], [0.4, 0.5, 0], [0, -0.3, 2.0]])
    found = ln.leading_directions(flow, 3, 1, at=at, covariance=root @ root.T)
    whitened = ln.to_action(flow, 3, at=at).couplings[3].transform(root)
    w = np.linalg.solve(root, found.vectors[0])
    assert np.linalg.norm(w) == pytest.approx(1)
    np.testing.assert_allclose(whitened.contract(w, w), found.values[0] * w, atol=1e-6 * abs(found.values[0]))


def test_the_factored_cubic_is_the_cubic():
    flow = shaken(ln.RealNVP(4, 2, (6,)))
    T, S = ln.factored_cubic(flow), ln.to_action(flow, 3)
    np.testing.assert_allclose(T.packed, S.couplings[3].packed, rtol=0, atol=1e-12)


class Foreign(nn.Module):
    """A layer that nobody has written down."""

    def to_latent(self, x):
        return x, x.new_zeros(())


@pytest.mark.parametrize("call, message", [
    (lambda: record(Foreign(), Tape(2), 0), "a layer of type Foreign must say what nodes it has to be converted; register it with"),
    (lambda: record_network(nn.GELU(), Tape(2), 0), "a network part of type GELU must say what nodes it has to be converted;"),
    (lambda: record_network(strided(), Tape(8), 0), "a convolution must keep height and width to be converted, got Conv2d(1, 1, "),
    (lambda: expand(LULinearLayer(400), np.zeros(400), 4), "the series of a layer of 400 variables to order 4 must fit in memory"),
    (lambda: ln.trace_action(lambda x: -x.square().sum()), "n_dim must be given for a model that is known by its density alone"),
    (lambda: ln.trace_action(CURVED, 0), "order must be a whole number of at least 1, got 0."),
    (lambda: ln.to_action(CURVED, method="exact"), "the action of this learner is no polynomial, so that no order is exact. Ask for"),
    (lambda: ln.coupling_along(CURVED), "directions must be given, as many as the order of the coupling, got none."),
    (lambda: ln.coupling_along(CURVED, [1.0]), "direction must have shape (..., 2), got (1,)"),
    (lambda: ln.leading_directions(CURVED, 1), "order must be a whole number of at least 2, got 1."),
    (lambda: ln.leading_directions(CURVED, 3, covariance=np.eye(3)), "covariance must be that of the 2 columns that vary, got shape"),
    (lambda: ln.normal_ordered(CURVED, 2, share=0.0), "share must be positive, got 0."),
    (lambda: ln.project(CURVED, 2, samples=np.zeros((5, 3))), "samples must have shape (..., 2), got (5, 3)"),
    (lambda: ln.record_couplings().cosines(), "couplings must have been recorded, got none; pass the recorder to fit(callback=…) first."),
    (lambda: ln.record_couplings(every=0), "every must be a whole number of at least 1, got 0."),
])
def test_wrong_arguments_get_one_sentence(call, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)


def strided():
    network = ConvNet((1, 2, 4), 1)
    network.network = nn.Sequential(nn.Conv2d(1, 1, 3, stride=2))
    return network


CURVED = shaken(ln.RealNVP(2, 1, (4,)))
