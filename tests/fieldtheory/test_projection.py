"""The projection is the polynomial where there is one, the least-squares solution where there is none, and its errors are its scatter."""

import numpy as np
import pytest

import fieldtheory as ft
from fieldtheory.errors import InputError
from fieldtheory.projection import project, stein
from fieldtheory.tensors import packed_size

POWER = 0.7


def sinh_action(x):
    """ln p of z = sinh(ax)/a ~ N(0, 1), up to a constant."""
    return -0.5 * (np.sinh(POWER * x) / POWER) ** 2 + np.log(np.cosh(POWER * x))


def sinh_score(x):
    return -np.sinh(POWER * x) * np.cosh(POWER * x) / POWER + POWER * np.tanh(POWER * x)


def random_action(n_dim, order, seed=0):
    rng = np.random.default_rng(seed)
    return ft.Action({k: ft.SymmetricTensor.from_packed(rng.normal(size=packed_size(n_dim, k)), n_dim, k) for k in range(order + 1)})


@pytest.mark.parametrize("n_dim, order, K", [(1, 4, 4), (3, 3, 3), (3, 4, 4), (2, 2, 5), (4, 1, 2)])
def test_a_polynomial_is_its_own_projection(n_dim, order, K):
    S, rng = random_action(n_dim, order), np.random.default_rng(1)
    x = rng.normal(size=(400, n_dim)) @ rng.normal(size=(n_dim, n_dim)) + rng.normal(size=n_dim)
    found = project(x, S.score(x), K, values=S(x))
    assert found.residual < 1e-20 and found.action.gauge == "projection" and found.n_samples == 400
    moved = S.recenter(found.action.at)
    for k in range(K + 1):
        expected = moved.couplings[k].packed if k <= order else 0.0
        np.testing.assert_allclose(found.action.couplings[k].packed, expected, rtol=0, atol=1e-9)
        assert found.action.standard_error[k].packed.max() < 1e-9


def weighted_projection(x, weight, K):
    """Least squares of the score in plain powers, by QR: coefficients of x, x², …"""
    slopes = np.stack([k * x ** (k - 1) for k in range(1, K + 1)], axis=1)
    return np.linalg.lstsq(slopes * np.sqrt(weight)[:, None], sinh_score(x) * np.sqrt(weight), rcond=None)[0]


@pytest.mark.parametrize("K", [2, 4, 6, 8])
def test_a_score_that_is_no_polynomial_is_met_in_the_mean(K):
    """The same least squares in plain powers around the mean; the residual is that of the fit."""
    x = np.random.default_rng(2).normal(size=(4000, 1))
    found = project(x, sinh_score(x), K)
    u = x[:, 0] - x.mean()
    slopes = np.stack([k * u ** (k - 1) for k in range(1, K + 1)], axis=1)
    expected, missed, *_ = np.linalg.lstsq(slopes, sinh_score(x[:, 0]), rcond=None)
    np.testing.assert_allclose([found.action.couplings[k].packed[0] for k in range(1, K + 1)], expected, rtol=1e-8, atol=1e-10)
    assert found.residual == pytest.approx(missed[0] / np.sum(sinh_score(x) ** 2), rel=1e-8)


def test_projections_are_no_taylor_coefficients():
    """Of ln p of z = sinh(0.7x)/0.7 over N(0, 1): −0.102 by Taylor, far from it and on both sides of it at orders 4, 6, 8."""
    nodes, weight = np.polynomial.hermite_e.hermegauss(120)
    over_normal = [weighted_projection(nodes, weight, K)[3] for K in (4, 6, 8)]
    np.testing.assert_allclose(over_normal, [-0.2242, -0.0157, -0.1233], atol=1e-4)
    taylor = -(POWER**2) / 6 - POWER**4 / 12
    assert abs(taylor + 0.1017) < 1e-4


@pytest.mark.parametrize("K", [2, 4, 6])
def test_projections_over_samples_scatter_around_those_of_quadrature(K):
    """4 σ of the stated errors for at most six couplings, alarm 4e-4; points bounded, so that the errors are normal."""
    nodes, weight = np.polynomial.legendre.leggauss(60)
    expected = weighted_projection(1.5 * nodes, weight, K)
    x = np.random.default_rng(7).uniform(-1.5, 1.5, size=(20_000, 1))
    found = project(x, sinh_score(x), K).action
    moved = ft.Action({k: [c] if k == 1 else np.full((1,) * k, c) for k, c in enumerate(expected, 1)}).recenter(found.at)
    z = [(found.couplings[k].packed - moved.couplings[k].packed)[0] / found.standard_error[k].packed[0] for k in range(1, K + 1)]
    assert np.abs(z).max() < 4, z


@pytest.mark.parametrize("draw, n_samples", [("normal", 5000), ("uniform", 300)])
def test_standard_errors_are_the_scatter_over_samples(draw, n_samples):
    """Of 200 sets of samples; a standard deviation from 200 values is known to 5 %: inside 5 σ for two couplings, alarm 1e-6."""
    rng, couplings, errors = np.random.default_rng(3), [], []
    for _ in range(200):
        x = 0.7 * rng.normal(size=(n_samples, 1)) if draw == "normal" else rng.uniform(-1.5, 1.5, size=(n_samples, 1))
        x -= x.mean()
        found = project(x, sinh_score(x), 4).action
        couplings.append([found.couplings[k].packed[0] for k in (2, 4)])
        errors.append([found.standard_error[k].packed[0] for k in (2, 4)])
    ratio = np.std(couplings, axis=0) / np.sqrt(np.mean(np.square(errors), axis=0))
    assert np.all(np.abs(ratio - 1) < 0.25), ratio


def test_the_constant_makes_the_means_agree():
    x = np.random.default_rng(4).normal(size=(300, 1))
    S = project(x, sinh_score(x), 4, values=sinh_action(x[:, 0])).action
    assert np.mean(S(x)) == pytest.approx(np.mean(sinh_action(x)), abs=1e-12)
    assert project(x, sinh_score(x), 4).action[()] == 0.0 == project(x, sinh_score(x), 4, at=[0.5]).action[()]
    elsewhere = project(x, sinh_score(x), 4, values=sinh_action(x[:, 0]), at=[0.5]).action
    np.testing.assert_allclose(elsewhere(x), S(x), rtol=1e-9)


def test_constant_columns_are_left_out():
    S, x = random_action(2, 3), np.random.default_rng(5).normal(size=(100, 2))
    found = project(np.insert(x, 1, 7.0, axis=1), np.insert(S.score(x), 1, 0.3, axis=1), 3)
    assert found.action.names == ("x0", "x2") and found.columns.dropped.tolist() == [1]
    np.testing.assert_allclose(found.action.couplings[3].packed, S.couplings[3].packed, atol=1e-10)


def test_the_base_point_may_be_chosen():
    """The same polynomial there; the highest order keeps its error, lower ones gain those of what is shifted into them."""
    x = np.random.default_rng(8).normal(size=(2000, 1))
    here, there = project(x, sinh_score(x), 4).action, project(x, sinh_score(x), 4, at=[0.5]).action
    moved = ft.Action(here.couplings, here.at).recenter([0.5])
    for k in range(1, 5):
        assert there.couplings[k].packed[0] == pytest.approx(moved.couplings[k].packed[0], rel=1e-12)
    assert there.standard_error[4].packed[0] == pytest.approx(here.standard_error[4].packed[0], rel=1e-9)
    near = project(x, sinh_score(x), 4, at=here.at + 1e-9).action
    assert near.standard_error[1].packed[0] == pytest.approx(here.standard_error[1].packed[0], rel=1e-6)


def polynomial_and_kink(x):
    """x_0 + x_0 x_1² + |x_1|."""
    return x[:, 0] + x[:, 0] * x[:, 1] ** 2 + np.abs(x[:, 1])


def test_normal_ordered_couplings_from_values_alone():
    """Of a function with a kink, E_q[∇^k S]/k! in closed form; 14 couplings inside 4.5 σ, alarm 1e-4."""
    s = 0.8  # standard deviation of x_1, that of x_0 is 1.2; q is centred and has no correlations
    found = stein(polynomial_and_kink, [0.0, 0.0], np.diag([1.44, s**2]), 4, n_points=20_000, seed=1)
    kink = np.sqrt(2 / np.pi) * np.array([s, 1 / s, -1 / s**3])  # means of |x| and of its second and fourth derivative
    expected = {(): kink[0], (0,): 1 + s**2, (1,): 0, (0, 0): 0, (0, 1): 0, (1, 1): kink[1] / 2, (0, 1, 1): 1 / 3, (1, 1, 1): 0,
                (0, 0, 0): 0, (0, 0, 1): 0, (1, 1, 1, 1): kink[2] / 24, (0, 0, 1, 1): 0, (0, 1, 1, 1): 0, (0, 0, 0, 0): 0}
    for index, value in expected.items():
        assert abs(found[index] - value) < 4.5 * found.standard_error[len(index)][index] + 1e-12, index
    assert found.standard_error[4][1, 1, 1, 1] < 0.02 and found.standard_error[3][0, 1, 1] < 1e-10  # pairs cancel what is odd
    assert found.gauge == "normal_ordered"


def test_errors_of_values_are_their_scatter():
    """Of 200 draws; a standard deviation from 200 values is known to 5 %: inside 5 σ for three couplings, alarm 2e-6."""
    runs = [stein(polynomial_and_kink, [0.3, 0.2], np.diag([1.44, 0.64]), 4, n_points=600, seed=seed) for seed in range(200)]
    for index in [(1,), (1, 1), (1, 1, 1, 1)]:
        spread = np.std([run[index] for run in runs])
        stated = np.sqrt(np.mean([run.standard_error[len(index)][index] ** 2 for run in runs]))
        assert abs(spread / stated - 1) < 0.25, index


X = np.random.default_rng(6).normal(size=(10, 3))


@pytest.mark.parametrize("call, message", [
    (lambda: project(X, X[:5], 2), r"scores must be one per sample, shape \(10, 3\), got \(5, 3\)."),
    (lambda: project(X, X[:, :2], 2), r"scores must have shape \(\.\.\., 3\), got \(10, 2\)"),
    (lambda: project(X, np.full((10, 3), np.nan), 2), "scores must be finite"),
    (lambda: project(X, X, 0), "order must be a whole number of at least 1, got 0."),
    (lambda: project(X, X, 4), "samples must determine the couplings up to order 4, 10 samples in 3 variables leave"),
    (lambda: project(X, X, 2, at=[0.0]), r"at must have shape \(\.\.\., 3\), got \(1,\)"),
    (lambda: stein(polynomial_and_kink, [0.0, 0.0], np.eye(2), 4, n_points=10),
     r"n_points must be enough for 9 couplings of orders \[0, 2, 4\], got 10."),
    (lambda: stein(polynomial_and_kink, [0.0], np.eye(2), 4), r"mean must have shape \(\.\.\., 2\), got \(1,\)"),
    (lambda: project(X, X, 2, values=np.zeros(3)), r"values must have shape \(\.\.\., 10\), got \(3,\)"),
])
def test_refusals(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
