"""The flow under diffusion: against Gaussians in closed form, quadrature in one and two dimensions, and its own symmetries."""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fieldtheory as ft
from fieldtheory.calculus import direct_sum
from fieldtheory.errors import GaugeError, InputError
from fieldtheory.flow_equation import diffuse, loop_term, noised, tree_term
from fieldtheory.tensors import packed_size

REFERENCE = json.loads((pathlib.Path(__file__).parents[1] / "data/flow_equation.json").read_text())["noise_flow"]


def random_action(n_dim=3, order=4, seed=0, **options):
    rng = np.random.default_rng(seed)
    couplings = {k: ft.SymmetricTensor.from_packed(rng.normal(size=packed_size(n_dim, k)), n_dim, k) for k in range(order + 1)}
    return ft.Action(couplings, **options)


def random_gaussian(n_dim, seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n_dim, n_dim))
    return rng.normal(size=n_dim), root @ root.T + 0.3 * np.eye(n_dim)


def close_couplings(S, T, rtol, orders=None):
    for k in orders or range(max(S.order, T.order) + 1):
        expected = T._coupling(k).packed
        np.testing.assert_allclose(S._coupling(k).packed, expected, rtol=rtol, atol=rtol * (1 + np.abs(expected).max()))


def test_one_step_against_reference_numbers():
    S = ft.Action({k: ft.SymmetricTensor.from_packed(np.atleast_1d(A), 3, k) for k, A in enumerate(REFERENCE["A"])})
    loops, trees = loop_term(S), tree_term(S)
    for k, expected in enumerate(REFERENCE["rhs"]):
        np.testing.assert_allclose(loops[k].packed + trees[k].packed, np.atleast_1d(expected), rtol=1e-12, atol=1e-14)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_terms_are_half_the_laplacian_and_half_the_squared_score(n_dim, order, seed):
    S, x = random_action(n_dim, order, seed, at=np.ones(n_dim)), np.random.default_rng(seed).normal(size=(5, n_dim))
    complete = max(1, 2 * order - 2)
    loops, trees = (ft.Action(term(S, complete), at=S.at) for term in (loop_term, tree_term))
    laplacian, square = np.trace(S.hessian(x), axis1=1, axis2=2), np.sum(S.score(x) ** 2, axis=1)
    np.testing.assert_allclose(loops(x), 0.5 * laplacian, rtol=1e-9, atol=1e-9 * np.abs(laplacian).max())
    np.testing.assert_allclose(trees(x), 0.5 * square, rtol=1e-9, atol=1e-9 * np.abs(square).max())
    assert sorted(loop_term(S)) == sorted(tree_term(S)) == list(range(order + 1))


@pytest.mark.parametrize("n_dim", [1, 2, 3, 6])
@pytest.mark.parametrize("variance", [0.0, 0.05, 1.0, 40.0])
def test_gaussians_stay_gaussians(n_dim, variance):
    mean, C = random_gaussian(n_dim, n_dim)
    away = mean + np.linspace(-1, 1, n_dim)
    found = diffuse(ft.theories.gaussian(C, mean).recenter(away), variance, rtol=1e-12)
    close_couplings(found, ft.theories.gaussian(C + variance * np.eye(n_dim), mean).recenter(away), 1e-10)
    assert found.gauge == "exact"
    higher = diffuse(ft.theories.gaussian(C, mean), variance, order=4)
    assert higher.gauge == "exact" and not higher.couplings[4].packed.any() and not higher.couplings[3].packed.any()


def test_the_default_tolerance_is_kept():
    mean, C = random_gaussian(3, 5)
    close_couplings(diffuse(ft.theories.gaussian(C, mean), 2.0), ft.theories.gaussian(C + 2 * np.eye(3), mean), 1e-9)


def taylor_by_quadrature(S, variance, at, half_width, n_points):
    """ln ∫ exp(S(x)) N(at + u − x; s) dx up to order 3 in u: cumulants of x under exp(S(x) − |x − at|²/2s), legs divided by s."""
    line = np.linspace(-half_width, half_width, n_points)
    x = np.stack(np.meshgrid(*[line] * S.n_dim, indexing="ij"), -1).reshape(-1, S.n_dim)
    exponent = S(x) - np.sum((x - at) ** 2, axis=1) / (2 * variance)
    weight = np.exp(exponent - exponent.max())
    Z, weight = weight.sum(), weight / weight.sum()
    constant = np.log(Z) + exponent.max() + S.n_dim * (np.log(line[1] - line[0]) - 0.5 * np.log(2 * np.pi * variance))
    d = x - weight @ x
    second, third = np.einsum("n,ni,nj->ij", weight, d, d), np.einsum("n,ni,nj,nk->ijk", weight, d, d, d)
    return ft.Action({0: constant, 1: (weight @ x - at) / variance, 2: second / (2 * variance**2) - np.eye(S.n_dim) / (2 * variance),
                      3: third / (6 * variance**3)}, at=at)


def test_error_of_the_cut_in_one_dimension():
    """−½x² + x³/20 − x⁴/50 at s = 0.1: the error of A^(3) falls by two orders of magnitude with every second order that is kept."""
    S = ft.Action({2: [[-0.5]], 3: [[[0.05]]], 4: [[[[-0.02]]]]})
    exact = taylor_by_quadrature(S, 0.1, np.zeros(1), 12.0, 20001)
    errors = [abs(diffuse(S, 0.1, K, rtol=1e-12)[0, 0, 0] - exact[0, 0, 0]) for K in (4, 6, 8, 10)]
    assert [f"{e:.0e}" for e in errors] == ["4e-04", "3e-06", "3e-08", "4e-10"]


def test_two_dimensions_against_quadrature():
    S = ft.theories.random_interactions(2, {3: 0.15, 4: 0.1}, seed=1) + ft.Action({1: [0.3, -0.2]})
    at = np.array([0.4, -0.3])
    exact = taylor_by_quadrature(S, 0.1, at, 7.0, 601)
    errors = []
    for K in (4, 6, 8):
        flowed = diffuse(S.recenter(at), 0.1, K)
        errors.append([np.abs(flowed._coupling(k).packed - exact._coupling(k).packed).max() for k in range(4)])
        assert flowed.gauge == "taylor" and flowed.order == K
        np.testing.assert_array_equal(flowed.at, at)
    assert np.all(np.array(errors[-1]) < [3e-8, 2e-7, 1e-6, 5e-6]) and np.all(np.diff(np.log(errors), axis=0) < -1.5)


@given(st.integers(1, 3), st.floats(0.01, 0.1), st.floats(0.01, 0.1), st.integers(0, 50))
@settings(deadline=None, max_examples=10)
def test_two_steps_are_one(n_dim, first, second, seed):
    S = ft.theories.random_interactions(n_dim, {3: 0.03, 4: 0.2}, seed)
    close_couplings(diffuse(diffuse(S, first), second), diffuse(S, first + second), 1e-8)


def test_isotropic_noise_does_not_see_rotations():
    S, rng = ft.theories.random_interactions(3, seed=0), np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turned, flowed = diffuse(S.pullback(Q), 0.2), diffuse(S, 0.2)
    close_couplings(turned, flowed.pullback(Q), 1e-9)


def test_independent_variables_stay_independent():
    S, T = ft.theories.random_interactions(2, seed=0), ft.theories.random_interactions(1, seed=1)
    close_couplings(diffuse(direct_sum(S, T), 0.2), direct_sum(diffuse(S, 0.2), diffuse(T, 0.2)), 1e-9)


def test_variance_preserving_variables():
    schedule, (mean, C) = ft.NoiseSchedule.linear(50, last=0.05), random_gaussian(3, 1)
    for t in (1, 20, 50):
        alpha_bar, noise = schedule.alpha_bar[t - 1], schedule.noise_variance[t - 1]
        expected = ft.theories.gaussian(alpha_bar * C + noise * np.eye(3), np.sqrt(alpha_bar) * mean)
        close_couplings(noised(ft.theories.gaussian(C, mean), schedule, t, rtol=1e-12), expected, 1e-10)
    S, sigma2 = ft.theories.random_interactions(2, seed=0).recenter([0.1, 0.2]), schedule.sigma2[4]
    found, flowed = noised(S, schedule, 5, order=6), diffuse(S, sigma2, order=6)
    for k in range(1, 7):
        np.testing.assert_allclose(found.couplings[k].packed, schedule.alpha_bar[4] ** (-k / 2) * flowed.couplings[k].packed, rtol=1e-12)
    x = np.array([0.3, 0.1])
    np.testing.assert_allclose(found(x), flowed(x / np.sqrt(schedule.alpha_bar[4])) - np.log(schedule.alpha_bar[4]), rtol=1e-10)


def test_a_flow_starts_where_it_is_cut():
    S = random_action(names=["a", "b", "c"], at=[1.0, 0, 0])
    close_couplings(diffuse(S, 0.0, order=2), S.truncate(2), 1e-15)
    assert diffuse(S, 0.0).names == ("a", "b", "c")
    linear = diffuse(ft.Action({1: [2.0, 0]}), 3.0)
    assert linear[()] == pytest.approx(6) and linear.gauge == "exact"  # ½ s |h|²


averaged = random_action().normal_order(np.zeros(3), np.eye(3))
gaussian = ft.theories.gaussian([[1.0]])
REFUSED = {
    "averaged": (lambda: diffuse(averaged, 0.1), GaugeError, "derivatives at a point to flow by this equation, those .* normal_ordered"),
    "averaged loop": (lambda: loop_term(averaged), GaugeError, "start from an exact or a taylor one"),
    "backwards": (lambda: diffuse(gaussian, -0.1), InputError, "finite number of at least 0, got -0.1; the flow is unstable backwards"),
    "nan": (lambda: diffuse(gaussian, np.nan), InputError, "got nan"),
    "text": (lambda: diffuse(gaussian, "1"), InputError, "got '1'"),
    "array": (lambda: diffuse(gaussian, np.ones(2)), InputError, "variance of the noise must be a finite number"),
    "tolerance": (lambda: diffuse(gaussian, 0.1, rtol=1e-16), InputError, "rtol must lie between 1e-13 and 1, got 1e-16"),
    "order": (lambda: diffuse(gaussian, 0.1, order=0), InputError, "order must be a whole number of at least 1"),
    "unknown orders": (lambda: diffuse(random_action().truncate(3), 0.1, order=4), InputError, "at most 3, which is all that this cut"),
    "diverges": (lambda: diffuse(ft.Action({2: [[0.5]]}), 2.0), InputError, "stay finite up to the variance 2, .* diverges near 1; take"),
    "step": (lambda: noised(gaussian, ft.NoiseSchedule.linear(10), 11), InputError, "t must be a step of the schedule, 1 … 10, got 11"),
    "step 0": (lambda: noised(gaussian, ft.NoiseSchedule.linear(10), 0), InputError, "t must be a whole number of at least 1"),
    "too large": (lambda: diffuse(ft.theories.gaussian(np.eye(60)), 0.1, order=8), InputError,
                  "packed couplings of order 8 in 60 variables must fit in memory"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    request, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        request()
