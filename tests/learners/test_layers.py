"""Every layer and every flow obeys the same laws, at weights away from those that it starts with: identities hide signs."""

import copy
import re
from dataclasses import dataclass

import mpmath
import numpy as np
import pytest
import torch

from fieldtheory.errors import InputError
from learners.flows import (
    MLP,
    NICE,
    ActNormLayer,
    AdditiveCouplingLayer,
    AffineCouplingLayer,
    ConvNet,
    Glow,
    Invertible1x1Layer,
    LinearLayer,
    LULinearLayer,
    PermutationLayer,
    QuadraticCouplingLayer,
    QuadraticFlow,
    RealNVP,
    ScalingLayer,
    SplitLayer,
    SqueezeLayer,
    TailLayer,
)


@dataclass(frozen=True)
class Row:
    """A layer of n_dim variables; `unit` if its log-determinant is zero at all weights."""

    make: object
    n_dim: int
    unit: bool = False


def _linear(n):
    return LinearLayer(np.eye(n), np.zeros(n))


def _image_coupling():
    """Channels 0, 1 of 3×2×4 images are read, channel 2 is written."""
    return AffineCouplingLayer(ConvNet((2, 2, 4), 2, hidden=3), range(16), range(16, 24))


def _flow(flow):
    """The layers of a flow as one layer, its whitening moved away from the identity too."""
    return SplitLayer(flow.layers, flow.n_dim)


def _multi_scale():
    inner = [ActNormLayer(2, 2), Invertible1x1Layer(2, 2), AffineCouplingLayer(MLP(2, 4, (3,)), [0, 1], [2, 3])]
    return SplitLayer(inner, 4)


LAYERS = {
    "linear": Row(lambda: _linear(3), 3),
    "LU linear": Row(lambda: LULinearLayer(3), 3),
    "LU linear, permuted": Row(lambda: _permuted(LULinearLayer(5)), 5),
    "permutation": Row(lambda: PermutationLayer([2, 0, 3, 1]), 4, unit=True),
    "scaling": Row(lambda: ScalingLayer(3), 3),
    "actnorm": Row(lambda: ActNormLayer(3), 3),
    "actnorm of images": Row(lambda: ActNormLayer(3, 4), 12),
    "additive coupling": Row(lambda: AdditiveCouplingLayer(MLP(3, 2, (4,)), range(3), range(3, 5)), 5, unit=True),
    "affine coupling": Row(lambda: AffineCouplingLayer(MLP(2, 2, (4, 3)), range(2), range(2, 3)), 3),
    "affine coupling, backwards": Row(lambda: AffineCouplingLayer(MLP(2, 6, (4,), "softplus"), [3, 4], [0, 1, 2]), 5),
    "affine coupling, checkerboard": Row(lambda: AffineCouplingLayer(MLP(2, 6, (), "silu"), [1, 3], [0, 2, 4]), 5),
    "affine coupling of images": Row(_image_coupling, 24),
    "additive coupling of images": Row(lambda: AdditiveCouplingLayer(ConvNet((1, 2, 2), 1, 2, "silu"), range(4), range(4, 8)), 8, True),
    "quadratic coupling": Row(lambda: QuadraticCouplingLayer(np.zeros((2, 3, 3)), range(3), range(3, 5)), 5, unit=True),
    "quadratic coupling, checkerboard": Row(lambda: QuadraticCouplingLayer(np.zeros((1, 2, 2)), [2, 0], [1]), 3, unit=True),
    "tails": Row(lambda: TailLayer(3), 3),
    "invertible 1x1": Row(lambda: Invertible1x1Layer(3, 4), 12),
    "invertible 1x1 of vectors": Row(lambda: Invertible1x1Layer(5), 5),
    "squeeze": Row(lambda: SqueezeLayer((2, 2, 4)), 16, unit=True),
    "split": Row(_multi_scale, 7),
    "QuadraticFlow": Row(lambda: _flow(QuadraticFlow(3, 2)), 3),
    "QuadraticFlow with tails": Row(lambda: _flow(QuadraticFlow(5, 2, tails=True)), 5),
    "NICE": Row(lambda: _flow(NICE(5, 3, (4,))), 5),
    "RealNVP": Row(lambda: _flow(RealNVP(3, 2, (4,))), 3),
    "RealNVP without mixing": Row(lambda: _flow(RealNVP(5, 3, (4, 3), "softplus", mix=False)), 5),
    "Glow of vectors": Row(lambda: _flow(Glow(n_dim=5, n_layers=2, hidden=4)), 5),
    "Glow of one scale": Row(lambda: _flow(Glow((3, 4, 4), n_layers=1, hidden=3, n_scales=1)), 48),
    "Glow of two scales": Row(lambda: _flow(Glow((1, 4, 4), n_layers=2, hidden=3, unit="silu")), 16),
}
PLANES = {
    "linear": lambda: _linear(2),
    "LU linear": lambda: LULinearLayer(2),
    "scaling": lambda: ScalingLayer(2),
    "actnorm": lambda: ActNormLayer(2),
    "additive coupling": lambda: AdditiveCouplingLayer(MLP(1, 1, (4,)), [0], [1]),
    "affine coupling": lambda: AffineCouplingLayer(MLP(1, 2, (4,)), [1], [0]),
    "quadratic coupling": lambda: QuadraticCouplingLayer(np.zeros((1, 1, 1)), [0], [1]),
    "tails": lambda: TailLayer(2),
    "invertible 1x1": lambda: Invertible1x1Layer(1, 2),
    "split": lambda: SplitLayer([ScalingLayer(1), TailLayer(1)], 1),
    "QuadraticFlow": lambda: _flow(QuadraticFlow(2, 1)),
    "QuadraticFlow with tails": lambda: _flow(QuadraticFlow(2, 2, tails=True)),
    "NICE": lambda: _flow(NICE(2, 2, (4,))),
    "RealNVP": lambda: _flow(RealNVP(2, 2, (4,))),
    "Glow": lambda: _flow(Glow(n_dim=2, n_layers=2, hidden=4)),
}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def _drawn(layer):
    layer.draw(np.random.default_rng(1))
    return layer


def _permuted(layer):
    layer.lu.draw(np.random.default_rng(1))
    return layer


def _perturbed(layer):
    """All parameters moved by a few tenths."""
    rng = np.random.default_rng(2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += torch.from_numpy(0.3 * rng.normal(size=tuple(parameter.shape)))
    return layer


@pytest.fixture(params=LAYERS)
def row(request):
    return LAYERS[request.param]


@pytest.fixture
def layer(row):
    return _perturbed(row.make())


@pytest.fixture
def points(row):
    return torch.from_numpy(np.random.default_rng(3).normal(size=(6, row.n_dim)))


def test_to_data_inverts_to_latent(layer, points):
    y, log_det = layer.to_latent(points)
    x, log_det_back = layer.to_data(y)
    assert y.shape == points.shape
    assert log_det.shape in ((), points.shape[:1])
    torch.testing.assert_close(x, points, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_det_back, -log_det, rtol=1e-12, atol=1e-12)


def test_log_det_is_that_of_the_jacobian(row, layer, points):
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: layer.to_latent(x[None])[0][0]))(points)
    expected = torch.linalg.slogdet(jacobian)[1]
    log_det = layer.to_latent(points)[1].expand(len(points))
    torch.testing.assert_close(log_det, expected, rtol=1e-11, atol=1e-11)
    assert row.unit == (log_det.abs().max().item() < 1e-3)


def test_a_layer_says_whether_its_jacobian_is_constant(layer, points):
    log_det = layer.to_latent(points)[1].expand(len(points))
    assert layer.constant_jacobian == (log_det.std().item() < 1e-12)


def test_gradients_reach_every_parameter(layer, points):
    """Of a loss that sees both results, at every entry."""
    y, log_det = layer.to_latent(points.requires_grad_())
    (y.sin().sum() + log_det.sum()).backward()
    for name, parameter in layer.named_parameters():
        if name.startswith("layers.0.") and not parameter.requires_grad:
            continue  # the whitening of a flow
        assert (parameter.grad != 0).all(), name


def test_single_precision_is_close(layer, points):
    """Rounding y alone moves x by 2e-5 where a flow of many layers stretches."""
    single = copy.deepcopy(layer).to(torch.float32)
    y, log_det = single.to_latent(points.to(torch.float32))
    x, _ = single.to_data(y)
    assert {y.dtype, x.dtype, log_det.dtype} == {torch.float32}
    for mine, exact in zip((y, log_det, x), (*layer.to_latent(points), points)):
        torch.testing.assert_close(mine.to(torch.float64), exact, rtol=1e-4, atol=5e-5)


def test_points_do_not_see_each_other(layer, points):
    y, log_det = layer.to_latent(points)
    for i in range(len(points)):
        alone, log_det_alone = layer.to_latent(points[i : i + 1])
        torch.testing.assert_close(alone[0], y[i], rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(log_det_alone.expand(1)[0], log_det.expand(len(points))[i], rtol=1e-13, atol=1e-13)
    for function in (layer.to_latent, layer.to_data):
        assert function(points[:0])[0].shape == (0, points.shape[1])


def test_weights_rebuild_the_layer(row, layer, points):
    again = row.make()
    again.load_state_dict(layer.state_dict())
    for mine, theirs in zip(again.to_latent(points), layer.to_latent(points)):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_a_layer_moves_to_a_device(layer, points, device):
    moved = copy.deepcopy(layer).to(device)
    y, log_det = moved.to_latent(points.to(device))
    assert y.device.type == log_det.device.type == device
    torch.testing.assert_close(y.cpu(), layer.to_latent(points)[0])
    torch.testing.assert_close(moved.to_data(y)[0].cpu(), points)


def test_a_start_is_drawn_from_its_generator_alone(row, points):
    before = torch.random.get_rng_state()
    a, b = (_drawn(_perturbed(row.make())) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.testing.assert_close(a.to_latent(points)[0], b.to_latent(points)[0], rtol=0, atol=0)


@pytest.mark.parametrize("make", PLANES.values(), ids=PLANES)
def test_the_density_of_a_layer_integrates_to_one(make):
    """∫ N(y(x)) |det ∂y/∂x| dx by the trapezoid rule, exponentially accurate for a density that decays inside the grid."""
    grid = torch.linspace(-40, 40, 1601, dtype=torch.float64)
    z, log_det = _perturbed(make()).to_latent(torch.cartesian_prod(grid, grid))
    density = torch.exp(-0.5 * z.square().sum(1) + log_det) / (2 * np.pi)
    assert density.sum().item() * (grid[1] - grid[0]).item() ** 2 == pytest.approx(1, abs=1e-7)


def test_the_linear_layer_is_its_three_factors():
    """W x by hand from P, L, U, and a drawn start is a rotation with positive pivots."""
    layer = _perturbed(_permuted(LULinearLayer(4)))
    F, x = layer.lu.factors.detach().numpy(), np.random.default_rng(0).normal(size=4)
    L, U = np.tril(F, -1) + np.eye(4), np.triu(F, 1) + np.diag(np.exp(3 * np.tanh(np.diag(F) / 3)))
    expected = (L @ U @ x)[layer.lu.permutation.numpy()] + layer.bias.detach().numpy()
    np.testing.assert_allclose(layer.to_latent(torch.from_numpy(x[None]))[0][0].detach(), expected, rtol=1e-13)
    for n in (2, 7, 40):
        W = _drawn(Invertible1x1Layer(n)).weight.detach().numpy()
        np.testing.assert_allclose(W @ W.T, np.eye(n), atol=1e-10)
        assert np.abs(W).max() < 1


def test_log_determinants_are_bounded_whatever_the_weights():
    lu, affine = LULinearLayer(3), AffineCouplingLayer(MLP(1, 4), [0], [1, 2], bound=1.5)
    for layer in (lu, affine):
        for parameter in layer.parameters():
            torch.nn.init.constant_(parameter, 1e3)
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert lu.to_latent(x)[1].item() == pytest.approx(9.0)
    torch.testing.assert_close(affine.to_latent(x)[1].abs(), torch.full((5,), 3.0, dtype=torch.float64))


def test_the_invertible_1x1_layer_mixes_channels_at_each_site():
    layer = _perturbed(Invertible1x1Layer(3, 4))
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.conv2d(x[..., None], layer.weight[:, :, None, None])[..., 0]
    torch.testing.assert_close(layer.to_latent(x.flatten(1))[0], expected.flatten(1))


def test_squeezing_gathers_blocks_of_four_sites():
    image = torch.arange(2 * 4 * 6, dtype=torch.float64).reshape(1, 2, 4, 6)
    y, _ = SqueezeLayer((2, 4, 6)).to_latent(image.flatten(1))
    torch.testing.assert_close(y, torch.nn.functional.pixel_unshuffle(image, 2).flatten(1))


def test_actnorm_adapts_to_the_first_points():
    layer, x = ActNormLayer(2, 3), 5 + 2 * torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer.adapt(x)
    y = layer.to_latent(x)[0].detach().unflatten(1, (2, 3))
    torch.testing.assert_close(y.mean((0, 2)), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(y.var((0, 2), correction=0), torch.ones(2, dtype=torch.float64))
    layer.adapt(torch.ones(5, 6, dtype=torch.float64))
    assert layer.log_scale.tolist() == [0.0, 0.0]
    split = SplitLayer([ScalingLayer(2), ActNormLayer(2)], 2)
    torch.nn.init.constant_(split.layers[0].log_scale, 1.0)
    split.adapt(x)
    torch.testing.assert_close(split.to_latent(x)[0][:, :2].var(0, correction=0), torch.ones(2, dtype=torch.float64))


def test_tails_are_their_formula_and_stay_finite():
    """Against the definition in extended precision by hand: p = ln 2 doubles arsinh x, sinh(2a) = 2x√(1+x²), slope 2(1+2x²)/√(1+x²)."""
    layer = TailLayer(1)
    torch.nn.init.constant_(layer.log_power, np.log(2))
    x = np.array([-30.0, -1.0, 0.0, 1e-8, 0.3, 1e4])
    y, log_det = layer.to_latent(torch.from_numpy(x[:, None]))
    np.testing.assert_allclose(y[:, 0].detach(), 2 * x * np.sqrt(1 + x**2), rtol=1e-12)
    np.testing.assert_allclose(log_det.detach(), np.log(2 * (1 + 2 * x**2) / np.sqrt(1 + x**2)), rtol=1e-12)
    far, log_det = layer.to_latent(torch.tensor([[1e150]], dtype=torch.float64))
    assert torch.isfinite(far).all()
    assert torch.isfinite(log_det).all()


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-12), (torch.float32, 5e-5)])
@pytest.mark.parametrize("p", [-0.5, 0.0, 0.3])
def test_tails_have_their_slopes_at_extreme_points(dtype, rtol, p):
    """Slopes of y and of ln dy/dx in x and in p, with a hundred digits, wherever y is a number of that precision."""
    mp, largest = mpmath.mp.clone(), torch.finfo(dtype).max
    mp.dps = 100
    layer = TailLayer(1).to(dtype)
    torch.nn.init.constant_(layer.log_power, p)
    power = mp.exp(mp.mpf(layer.log_power.item()))
    for exponent in (-1.0, -0.6, -0.3, -0.1, 0.1, 0.3, 0.45, 0.6, 0.7):  # |x| from 1/largest to what y can hold
        x = torch.full((1, 1), -float(largest) ** exponent, dtype=dtype, requires_grad=True)
        exact, y = mp.mpf(x.item()), layer.to_latent(x)
        u, root = power * mp.asinh(exact), mp.sqrt(1 + exact**2)
        slopes = [(power * mp.cosh(u) / root, u * mp.cosh(u)),
                  ((power * mp.tanh(u) - exact / root) / root, 1 + u * mp.tanh(u))]
        for value, expected in zip(y, slopes):
            found = torch.autograd.grad(value.sum(), (x, layer.log_power), retain_graph=True)
            assert found[0].item() == pytest.approx(float(expected[0]), rel=rtol, abs=rtol / float(root) if value is y[1] else 0)
            assert found[1].item() == pytest.approx(float(expected[1]), rel=rtol)


def test_coupling_layers_are_their_formulas():
    x, read, written = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), [4, 1], [0, 3, 2]
    affine = _perturbed(_drawn(AffineCouplingLayer(MLP(2, 6, (4,)), read, written)))
    first, _, last = affine.conditioner.network
    out = torch.tanh(x[:, read] @ first.weight.T + first.bias) @ last.weight.T + last.bias
    y, _ = affine.to_latent(x)
    torch.testing.assert_close(y[:, written], x[:, written] * torch.exp(2 * torch.tanh(out[:, 3:] / 2)) + out[:, :3])
    torch.testing.assert_close(y[:, read], x[:, read], rtol=0, atol=0)
    additive = _perturbed(AdditiveCouplingLayer(affine.conditioner.network[:2].append(torch.nn.Linear(4, 3).double()), read, written))
    torch.testing.assert_close(additive.to_latent(x)[0][:, written], x[:, written] + additive.conditioner(x[:, read]))


def test_a_drawn_conditioner_is_uniform_inside_and_has_no_output():
    """Within ±1/√inputs, with standard deviation 1/√(3 inputs): 4,000 numbers or more give it to 5 relative errors of 1/√(5 count)."""
    for network in (MLP(40, 3, (64, 64)), ConvNet((3, 4, 4), 2, 64)):
        network.draw(np.random.default_rng(0))
        *hidden, last = [m for m in network.network if hasattr(m, "weight")]
        scaled = torch.cat([(p * m.weight[0].numel() ** 0.5).flatten() for m in hidden for p in m.parameters()])
        assert scaled.abs().max() <= 1
        assert scaled.std().item() == pytest.approx(3**-0.5, rel=5 * (5 * len(scaled)) ** -0.5)
        assert not any(p.any() for p in last.parameters())


@pytest.mark.parametrize("make, message", [
    (lambda: PermutationLayer([0, 2]), "a permutation must name every variable once, got [0, 2]."),
    (lambda: PermutationLayer([]), "a permutation must name every variable once, got []."),
    (lambda: SqueezeLayer((1, 3, 4)), "height and width must be even to be squeezed, got 3 x 4; crop or pad the images."),
    (lambda: MLP(2, 2, (0,)), "hidden must be a whole number of at least 1, got 0."),
    (lambda: MLP(2, 2, unit="relu"), "unit must be one of tanh, softplus, silu, or as many as there are hidden layers, 2; got 'relu'."),
    (lambda: AffineCouplingLayer(MLP(1, 2), [0], [0]), "read and written must be non-empty and together name every variable once"),
    (lambda: AffineCouplingLayer(MLP(1, 2), [0], [1], bound=0.0), "bound must be a positive number, got 0.0."),
    (lambda: AdditiveCouplingLayer(MLP(2, 1), [0, 1], []), "read and written must be non-empty"),
    (lambda: LULinearLayer(2).load_state_dict({"lu.factors": torch.zeros(2, 2), "lu.permutation": torch.tensor([1, 1]),
                                               "bias": torch.zeros(2)}), "a permutation must name every variable once, got [1, 1]."),
])
def test_wrong_arguments_get_one_sentence(make, message):
    with pytest.raises(InputError, match=re.escape(message)):
        make()
