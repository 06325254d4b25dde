"""Models made elsewhere: whatever torch differentiates becomes an action, and what has kinks is told from what has not."""

import re
from functools import partial
from math import factorial

import numpy as np
import pytest
import torch
from torch import nn

import fieldtheory as ft
import learners as ln
from fieldtheory.errors import InputError, RegimeWarning
from learners.conversion.model import as_model
from learners.conversion.smoothness import kinks, largest_jump

POWER = 0.7


def sinh_flow(x):
    """ln p of z = sinh(ax)/a ~ N(0, 1), for one point of one variable."""
    return (-0.5 * (torch.sinh(POWER * x) / POWER) ** 2 + torch.log(torch.cosh(POWER * x))).sum() - 0.5 * np.log(2 * np.pi)


class Affine(nn.Module):
    """One affine autoregressive step in float32, as somebody else may have written it: z_1 = (x_1 − m(x_0)) e^{−s(x_0)}."""

    def __init__(self, unit=nn.Tanh, seed=0, hidden=6):
        super().__init__()
        torch.manual_seed(seed)
        self.network = nn.Sequential(nn.Linear(1, hidden), unit(), nn.Linear(hidden, 2))

    def log_prob(self, x):
        m, s = self.network(x[:, :1]).unbind(1)
        z = torch.stack([x[:, 0], (x[:, 1] - m) * torch.exp(-s)], dim=1)
        return -0.5 * z.square().sum(1) - s - np.log(2 * np.pi)

    def sample(self, n):
        z = torch.randn(n, 2, dtype=self.network[0].weight.dtype)
        m, s = self.network(z[:, :1]).unbind(1)
        return torch.stack([z[:, 0], z[:, 1] * torch.exp(s) + m], dim=1), "and what else it may return"


class Lazy(nn.Module):
    """Gives a distribution when it is called, as zuko's flows do."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self):
        return torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), self.scale), 1)


def nested(function, x, order):
    """∇^k f/k!."""
    x = torch.as_tensor(np.array(x, dtype=float))
    for k in range(order + 1):
        yield k, function(x).detach().numpy() / factorial(k)
        function = torch.func.jacfwd(function)


def test_a_module_converts_by_taylor_in_float64():
    module, at = Affine(), [0.3, -0.4]
    S = ln.to_action(module, 4, at=at)
    assert S.gauge == "taylor" and next(module.parameters()).dtype == torch.float32
    exact = Affine().double()
    for k, expected in nested(lambda x: exact.log_prob(x[None])[0], at, 4):
        np.testing.assert_allclose(S.couplings[k].dense() if k else S[()], expected, rtol=0, atol=1e-11 * (1 + np.abs(expected).max()))


def test_nodes_and_lines_agree():
    """A flow of this package, given as a function: two engines that share nothing."""
    flow = ln.QuadraticFlow.random(3, 2, seed=1)
    nodes = ln.to_action(flow, 4, at=[0.1, 0.2, 0.3])
    lines = ln.to_action(log_prob=flow._log_prob, order=4, at=[0.1, 0.2, 0.3])
    for k in range(5):
        np.testing.assert_allclose(lines.couplings[k].packed, nodes.couplings[k].packed, rtol=0, atol=1e-11)


@pytest.mark.parametrize("function", [
    sinh_flow,
    lambda x: torch.vmap(sinh_flow)(x),
    partial(lambda shift, x: sinh_flow(x) + shift, 0.0),
])
def test_one_variable_to_any_order(function):
    """Against the closed form of the series of sinh² and ln cosh; functions of one point and of rows."""
    S = ln.to_action(log_prob=function, n_dim=1, order=6, at=[0.0])
    a = POWER
    expected = [-0.5 * np.log(2 * np.pi), 0, -0.5 + a**2 / 2, 0, -(a**2) / 6 - a**4 / 12, 0, -(a**4) / 45 + a**6 / 45]
    np.testing.assert_allclose([S.couplings[k].packed[0] for k in range(7)], expected, atol=1e-12)


def test_the_sinh_flow_projects_to_other_numbers():
    """Of ln p over N(0, 1): A⁴ = −0.102 by Taylor, −0.224, −0.016, −0.123 by projection at K = 4, 6, 8; inside 4 σ, alarm 2e-4."""
    assert ln.to_action(log_prob=sinh_flow, order=4, at=[0.0])[0, 0, 0, 0] == pytest.approx(-0.1017, abs=1e-4)
    log_prob = as_model(sinh_flow, 1).log_prob
    for K, expected in ((4, -0.22419), (6, -0.01570), (8, -0.12325)):
        S = ft.projection.stein(log_prob, [0.0], [[1.0]], K, n_points=200_000)
        polynomial = {k: S.couplings[k].packed[0] for k in range(4, K + 1)}  # normal-ordered powers of unit variance, to plain ones
        back = {4: 1, 6: -15, 8: 210}
        value = sum(back[k] * polynomial[k] for k in range(4, K + 1, 2))
        error = np.sqrt(sum((back[k] * S.standard_error[k].packed[0]) ** 2 for k in range(4, K + 1, 2)))
        assert abs(value - expected) < 4 * error + 1e-3, K


def test_a_score_is_as_good_as_a_density():
    """All couplings but the constant, of a score that is a gradient; a rotation in it is averaged out and measured."""
    score = torch.func.grad(lambda x: sinh_flow(x[0]) + x[0] ** 2 * x[1] - x[1] ** 4)
    S = ln.to_action(score=score, n_dim=2, order=4, at=[0.2, -0.1])
    T = ln.to_action(log_prob=lambda x: sinh_flow(x[0]) + x[0] ** 2 * x[1] - x[1] ** 4, order=4, at=[0.2, -0.1])
    assert S[()] == 0.0
    for k in range(1, 5):
        np.testing.assert_allclose(S.couplings[k].packed, T.couplings[k].packed, atol=1e-12)
    A = np.array([[-1.0, 0.4], [-0.2, -2.0]])
    turned = ln.to_action(score=lambda x: x @ torch.as_tensor(A.T), n_dim=2, order=2, at=[0.0, 0.0])
    np.testing.assert_allclose(turned.couplings[2].dense(), 0.25 * (A + A.T))


def test_curl_of_a_score():
    """E|(A − Aᵀ)v|²/E|Av|² = ‖A − Aᵀ‖²/‖A‖² of a linear field over isotropic v; 400 components, inside 5 σ of a ratio of χ²s."""
    from learners.conversion.foreign import score_model

    A, x = np.array([[-1.0, 0.4], [-0.2, -2.0]]), np.random.default_rng(0).normal(size=(500, 2))
    found = ln.project(score_model(lambda x: x @ torch.as_tensor(A.T), 2), 2, samples=x)
    expected = np.sum((A - A.T) ** 2) / np.sum(A**2)
    assert found.curl_fraction == pytest.approx(expected, rel=5 * np.sqrt(2 / 200))
    assert found.residual > 0.001
    symmetric = ln.project(score_model(lambda x: -x @ torch.as_tensor(A @ A.T), 2), 2, samples=x)
    assert symmetric.curl_fraction < 1e-25 and symmetric.residual < 1e-20


def test_modules_that_give_a_distribution_when_called():
    S = ln.to_action(Lazy(), 2)
    np.testing.assert_allclose(S.couplings[2].dense(), [[-0.5, 0], [0, -0.125]], atol=1e-12)
    np.testing.assert_allclose(S.at, 0, atol=1e-6)  # uphill from the mean of its samples
    found = ln.certify(S, Lazy(), np.random.default_rng(0).normal(size=(100, 2)))
    assert found.residual[2][0] < 1e-12
    assert abs(found.log_integral[0]) < 5 * found.log_integral[1]


UNITS = {
    "ReLU": (nn.ReLU, "ReLU (at network.1)"), "leaky ReLU": (nn.LeakyReLU, "LeakyReLU (at network.1)"), "ELU": (nn.ELU, "ELU"),
    "hard tanh": (nn.Hardtanh, "Hardtanh"), "hard swish": (nn.Hardswish, "Hardswish"), "softshrink": (nn.Softshrink, "Softshrink"),
    "tanh": (nn.Tanh, None), "GELU": (nn.GELU, None), "SiLU": (nn.SiLU, None), "softplus": (nn.Softplus, None),
    "sigmoid": (nn.Sigmoid, None),
}


@pytest.mark.parametrize("name", UNITS)
def test_units_with_kinks_are_found_by_name(name):
    unit, found = UNITS[name]
    module = Affine(unit)
    assert (kinks(module) == ()) == (found is None)
    if found is None:
        assert ln.to_action(module, 2, at=[0.0, 0.0]).gauge == "taylor"
        return
    assert kinks(module)[0].startswith(found)
    with pytest.raises(InputError, match=r"taylor must be asked of a smooth ln p, this model has units with kinks, .* Ask for method="):
        ln.to_action(module, 2, at=[0.0, 0.0], method="taylor")


def test_functions_and_splines_held_by_a_module_are_found_too():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.activation = nn.functional.relu

    class MonotonicRQSTransform:
        pass

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.univariate, self.inner = partial(MonotonicRQSTransform), Functional()

    assert kinks(Holder()) == ("MonotonicRQSTransform (at the module itself)", "relu (at inner)")


def test_a_model_with_kinks_converts_by_averages_and_projection():
    """Normal-ordered couplings of a ReLU model against its score by Stein's identity; seven couplings inside 4.5 σ, alarm 5e-5."""
    module, rng = Affine(nn.ReLU), np.random.default_rng(2)
    averaged, error = ln.normal_ordered(module, 3, [0.0, 0.0], np.diag([1.0, 0.5]), n_points=40_000, seed=1)
    w = rng.normal(size=(200_000, 2))
    x = w * np.sqrt([1.0, 0.5])
    s = as_model(module).score(x)
    by_score = {(0,): s[:, 0], (1,): s[:, 1], (0, 0): s[:, 0] * w[:, 0] / 2, (1, 1): s[:, 1] * w[:, 1] / np.sqrt(0.5) / 2,
                (0, 1): s[:, 0] * w[:, 1] / np.sqrt(0.5) / 2, (0, 0, 0): s[:, 0] * (w[:, 0] ** 2 - 1) / 6,
                (0, 1, 1): s[:, 0] * (w[:, 1] ** 2 - 1) / 0.5 / 6}
    for index, terms in by_score.items():
        scale = np.hypot(terms.std() / np.sqrt(len(terms)), error[len(index)][index])
        assert abs(terms.mean() - averaged[index]) < 4.5 * scale, index
    projected = ln.to_action(module, 3)
    assert projected.gauge == "projection" and ln.to_action(module, 3, method="projection", seed=1).at is not projected.at
    own = as_model(module).sample(500, 3)
    assert ln.certify(projected, module, own).score_residual[3] < 0.3


TANH, RELU, ELU = (Affine(unit, hidden=30).double() for unit in (nn.Tanh, nn.ReLU, nn.ELU))
SMOOTH = {"sinh": sinh_flow, "polynomial": lambda x: -x.square().sum() ** 2 + x.sum() ** 3,
          "Gaussian": lambda x: -0.5 * x.square().sum(), "network": lambda x: TANH.log_prob(x)}
KINKED = {"ReLU": lambda x: RELU.log_prob(x), "distance": lambda x: -x.abs().sum() - x.square().sum(),
          "clamp": lambda x: -x.clamp(min=-0.1).square().sum() - x.square().sum(),
          "ELU": lambda x: ELU.log_prob(x)}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_functions_integrate(name):
    n_dim = 1 if name == "sinh" else 2
    model = as_model(SMOOTH[name], n_dim)
    assert largest_jump(model.score_function, np.full(n_dim, 0.05), 4)[0] < 1e-9


@pytest.mark.parametrize("name", KINKED)
def test_kinks_behind_a_function_warn(name):
    with pytest.warns(RegimeWarning, match=r"ln p should be smooth around the base point, its derivatives of order \d do not integrate"):
        ln.to_action(log_prob=KINKED[name], n_dim=2, at=[0.05, 0.05])


def test_no_warning_where_all_is_smooth(recwarn):
    for name, function in SMOOTH.items():
        ln.to_action(log_prob=function, at=[0.05] if name == "sinh" else [0.05, 0.05])
    assert not [w for w in recwarn if issubclass(w.category, RegimeWarning)]


def test_certify_measures_what_quadrature_finds():
    """Var[S_K − ln p] of a cut at each order over the density, on a grid in two dimensions; 4 σ for three orders, alarm 2e-4."""
    flow = ln.QuadraticFlow.random(2, 1, seed=2)
    S, grid = ln.to_action(flow, 4, at=[0.1, 0.2]), np.linspace(-12, 12, 801)
    found = ln.certify(S.truncate(3), flow, flow.sample(40_000, seed=1))
    x = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    log_p = flow.log_prob(x)
    p = np.exp(log_p)
    p /= p.sum()
    score = flow.score(x)
    for k in (1, 2, 3):
        lost = S.truncate(k)(x) - log_p
        rms = np.sqrt(p @ (lost - p @ lost) ** 2)
        value, error = found.residual[k]
        assert abs(value - rms) < 4 * error, (k, value, rms, error)
        missing = (p @ np.sum((S.truncate(k).score(x) - score) ** 2, axis=1)) / (p @ np.sum(score**2, axis=1))
        assert found.score_residual[k] == pytest.approx(missing, rel=0.1)
    whole = ln.certify(S, flow, flow.sample(500, seed=1))
    assert whole.residual[4][0] < 1e-12 and whole.score_residual[4] < 1e-24
    assert whole.disagreement == ()


def test_certify_says_where_the_couplings_depend_on_the_way():
    """Taylor couplings of a curved flow away from its middle against the projection on samples, and the other way round."""
    flow = ln.QuadraticFlow.random(2, 4, seed=3, chi_scale=0.4)
    x = flow.sample(4000, seed=1)
    cut = ln.certify(ln.to_action(flow, 4, at=x.mean(axis=0) + 2 * x.std(axis=0)), flow, x)
    assert cut.disagreement and f"they disagree at order {cut.disagreement[0]}" in cut.table()
    projected = ln.certify(ln.to_action(flow, 3, method="projection", samples=x), flow, x)
    assert "Cosine with the Taylor couplings" in projected.table()
    few = ln.certify(ln.to_action(flow, 4), flow, x[:5])
    assert few.other is None and few.disagreement == () and "Cosine" not in few.table()


def test_certify_of_a_bare_function():
    S = ln.to_action(log_prob=sinh_flow, order=4, at=[0.0])
    x = np.linspace(-1, 1, 50)[:, None]
    found = ln.certify(S, sinh_flow, x)
    assert (found.variance_of_action, found.log_integral) == (None, None)
    assert found.table().endswith(found.normalizability.reason)
    lost = S(x) - as_model(sinh_flow, 1).log_prob(x)
    assert found.residual[4][0] == pytest.approx(lost.std(), rel=1e-9)


def test_a_model_that_is_not_normalized_is_told():
    """Off by a factor of two: its logarithm is found, and nothing else changes."""
    class Twice(Affine):
        def log_prob(self, x):
            return super().log_prob(x) + np.log(2)

    module = Twice()
    S, x = ln.to_action(module, 2, at=[0.0, 0.0]), as_model(module).sample(200, 5)
    message = r"the model should be normalized, over its own samples the integral of exp\(log_prob\) is 2\.\d+,"
    with pytest.warns(RegimeWarning, match=message):
        found = ln.certify(S, module, x)
    value, error = found.log_integral
    assert abs(value - np.log(2)) < 5 * error
    np.testing.assert_allclose(S.couplings[2].packed, ln.to_action(Affine(), 2, at=[0.0, 0.0]).couplings[2].packed)


FLOW = ln.QuadraticFlow(2, 1)


class Shy(nn.Module):
    """A module without a density."""

    def forward(self, x):
        return x


@pytest.mark.parametrize("call, message", [
    (lambda: ln.to_action(), "a model must be given as one of learner, log_prob= and score=, got 0 of them."),
    (lambda: ln.to_action(Affine(), log_prob=sinh_flow, at=[0.0]), "a model must be given as one of learner, log_prob= and score=, got 2"),
    (lambda: ln.to_action(log_prob=sinh_flow), "n_dim must be given for a model that is known by its density alone, or a base point"),
    (lambda: ln.to_action(log_prob=sinh_flow, n_dim=1), "a base point must be given with at= for a model that cannot sample itself."),
    (lambda: ln.to_action(log_prob=sinh_flow, n_dim=0, at=[0.0]), "n_dim must be a whole number of at least 1, got 0."),
    (lambda: ln.to_action(log_prob=lambda x: x, at=[0.0, 0.0]),
     "log_prob must take float64 points of shape (3, 2) to shape (3,), or one point, with torch functions; it did not: it returned shape"),
    (lambda: ln.to_action(log_prob=lambda x: np.sin(x.numpy()).sum(), at=[0.0]), "or one point, with torch functions; it did not"),
    (lambda: ln.to_action(log_prob=nn.Linear(2, 1).forward, at=[0.0, 0.0]), "A model in float32 takes them after .double()."),
    (lambda: ln.to_action(Shy(), at=[0.0]), "a torch module must have log_prob, or give a distribution that has when it is called, Shy"),
    (lambda: ln.to_action(score=sinh_flow, at=[0.0, 0.0]), "score must take float64 points of shape (3, 2) to shape (3, 2), or one point"),
    (lambda: ln.to_action(log_prob=lambda x: torch.log(x).sum(), at=[-1.0]), "ln p must be finite at the base point, it is nan"),
    (lambda: ln.to_action(log_prob=lambda x: x.abs().sqrt().sum(), at=[0.0]), "derivatives of order 1 must be finite at the base point"),
    (lambda: ln.project(sinh_flow, 2), "n_dim must be given for a model that is known by its density alone"),
    (lambda: ln.to_action(log_prob=sinh_flow, at=[0.0], method="projection"), "this model must be able to sample itself for that, it is"),
    (lambda: ln.certify(ft.theories.gaussian(np.eye(2)), Affine(), np.zeros((5, 3))), "samples must have shape (..., 2), got (5, 3)"),
    (lambda: ln.certify(ft.theories.gaussian(np.eye(3)), Affine(), np.zeros((5, 3))), "points must have the 2 variables of the samples of"),
    (lambda: ln.certify(ft.theories.gaussian(np.eye(3)), FLOW, np.zeros((5, 2))), "action must be one of the 2 varying columns of the"),
    (lambda: ln.to_action(Affine(), at=[0.0]), "points must have the 2 variables of the samples of Affine, got 1."),
])
@pytest.mark.filterwarnings("ignore")
def test_wrong_arguments_get_one_sentence(call, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)
