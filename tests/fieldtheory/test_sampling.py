"""Samples against quadrature, a transfer matrix and closed forms, for every method: laws × theories × samplers.

Moments carry the standard error of their own effective sample size. With |z| ≤ 4.5 a right sampler fails one moment in 150,000; about
four hundred moments are looked at below, with fixed seeds, so that a right package fails once in 400 sets of seeds.
"""

import json
import pathlib

import networkx as nx
import numpy as np
import pytest
from scipy.integrate import quad

import fieldtheory as ft
from fieldtheory.errors import ConvergenceWarning, InputError, NotNormalizableError
from fieldtheory.sampling import HMC, NUTS, effective_sample_size, thinned_chains
from fieldtheory.sampling.draw import _checked_chains
from fieldtheory.sampling.walkers import Draws

CHAIN = json.loads((pathlib.Path(__file__).parents[1] / "data/sampling.json").read_text())["periodic_chain"]
SAMPLERS = {
    "hmc": {"method": "hmc", "n_draws": 2500, "n_chains": 16},
    "hmc, four chains, diagonal": {"method": "hmc", "mass": "diagonal", "n_draws": 5000, "n_chains": 4},
    "hmc, dense": {"method": "hmc", "mass": "dense", "n_draws": 2000, "n_chains": 20},
    "nuts": {"method": "nuts", "n_draws": 4000, "n_chains": 3},
    "nuts, dense": {"method": "nuts", "mass": "dense", "n_draws": 6000, "n_chains": 1},
    "tempering": {"method": "tempering", "n_draws": 2000, "n_chains": 8},
}


def power(**exponents):
    """x0=2, x3=1 ↦ the observable x_0² x_3."""
    return lambda x: np.prod([x[..., int(name[1:])] ** k for name, k in exponents.items()], axis=0)


def correlated_gaussian():
    root = np.random.default_rng(0).normal(size=(3, 3)) + 0.2 * np.eye(3)
    C, mu = root @ root.T, np.arange(3.0)
    moments = []
    for i in range(3):
        moments.append((power(**{f"x{i}": 1}), mu[i]))
        for j in range(i, 3):
            centred = lambda x, i=i, j=j: (x[..., i] - mu[i], x[..., j] - mu[j])  # noqa: E731
            moments += [(lambda x, f=centred: f(x)[0] * f(x)[1], C[i, j]),
                        (lambda x, f=centred: f(x)[0] ** 2 * f(x)[1] ** 2, C[i, i] * C[j, j] + 2 * C[i, j] ** 2),
                        (lambda x, f=centred: f(x)[0] ** 2 * f(x)[1], 0.0)]
    return ft.theories.gaussian(C, mu), moments


def one_quartic_variable():
    S = ft.Action({1: [0.3], 2: [[0.5]], 4: np.full((1, 1, 1, 1), -0.25)})
    Z = quad(lambda x: np.exp(S([x])), -8, 8)[0]
    return S, [(power(x0=k), quad(lambda x, k=k: x**k * np.exp(S([x])), -8, 8)[0] / Z) for k in range(1, 5)]


def two_variables_with_cubic_vertices():
    S = ft.theories.random_interactions(2, {3: 0.4, 4: 0.3}, seed=1).recenter([0.3, -0.2])
    axis = np.linspace(-8, 8, 801)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
    weight = np.exp(S(grid))
    weight /= weight.sum()
    observables = [power(x0=a, x1=b) for a in range(5) for b in range(5) if 1 <= a + b <= 4]
    assert abs(np.sum(weight * power(x0=2, x1=1)(grid))) > 0.02  # the vertex is felt
    return S, [(f, np.sum(weight * f(grid))) for f in observables]


def periodic_chain():
    """Against its transfer matrix."""
    n, ring = CHAIN["n_sites"], nx.cycle_graph(CHAIN["n_sites"])
    A2 = -CHAIN["a"] * np.eye(n) + 0.5 * CHAIN["kappa"] * nx.to_numpy_array(ring)
    A4 = ft.SymmetricTensor.from_entries([(i,) * 4 for i in range(n)], [-CHAIN["lam"]] * n, n)
    observables = [lambda x: (x**2).mean(-1), lambda x: (x**4).mean(-1), lambda x: (x * np.roll(x, 1, -1)).mean(-1),
                   lambda x: (x * np.roll(x, n // 2, -1)).mean(-1)]
    return ft.Action({2: A2, 4: A4}), list(zip(observables, [CHAIN[name] for name in ("x2", "x4", "xx1", "xxh")]))


def lattice():
    """Schwinger–Dyson: ⟨x_i ∂_i S⟩ = −1."""
    S = ft.theories.phi4(ft.theories.lattice((3, 3)), 1.0, 4.0)
    return S, [(lambda x, i=i: x[..., i] * S.score(x)[..., i], -1.0) for i in range(0, 9, 2)]


THEORIES = [correlated_gaussian, one_quartic_variable, two_variables_with_cubic_vertices, periodic_chain, lattice]


def z_scores(draws, moments):
    """(mean − expected)/standard error of functions of draws (n_chains, n_draws, n_dim)."""
    values = np.stack([f(draws) for f, _ in moments], axis=-1)
    error = values.std(axis=(0, 1)) / np.sqrt(effective_sample_size(values))
    return (values.mean(axis=(0, 1)) - [expected for _, expected in moments]) / error


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("theory", THEORIES)
def test_moments(theory, sampler):
    S, moments = theory()
    z = z_scores(ft.sample_chains(S, seed=0, **SAMPLERS[sampler])["x"].values, moments)
    assert np.abs(z).max() < 4.5


@pytest.mark.parametrize("factor", [1.0, 1.6, 2.2])
@pytest.mark.parametrize("sampler", [HMC, NUTS])
def test_no_step_is_too_long_to_be_right(sampler, factor):
    """A coarse step is refused more often, and its points weigh differently: the moments are right all the same."""
    S, moments = one_quartic_variable()
    chains, draws = sampler(S, 8, np.random.default_rng(0)).warm_up("diagonal"), Draws.blank(8000, 1, 8)
    chains.step_size *= factor
    assert factor == 1 or chains.fill(draws) < 0.8
    chains.fill(draws)
    assert np.abs(z_scores(draws.by_chain(), moments)).max() < 4.5


@pytest.mark.parametrize("method", ["hmc", "nuts", "tempering"])
def test_samples_are_worth_their_number_and_repeat(method):
    S = ft.theories.phi4(nx.path_graph(4), 0.5, 1.0)
    x = ft.sample(S, 8000, seed=3, n_chains=8, method=method)
    assert x.shape == (8000, 4)
    np.testing.assert_array_equal(x[:50], ft.sample(S, 8000, seed=3, n_chains=8, method=method)[:50])
    assert not np.array_equal(x[:50], ft.sample(S, 80, seed=4, n_chains=8, method=method)[:50])
    chains = x.reshape(1000, 8, 4).transpose(1, 0, 2)
    assert effective_sample_size(chains).min() > 0.85 * 8000  # 0.9 promised; the smallest of four estimates, ±0.03 each


def test_chains_are_chosen_for_the_method():
    S = ft.theories.gaussian(np.eye(2))
    counts = [thinned_chains(S, 10, method=method).sizes["chain"] for method in ("hmc", "nuts", "tempering")]
    assert counts == [128, 4, 16] and thinned_chains(S, 2000, n_chains=7).sizes["chain"] == 7
    assert _checked_chains(None, 10_000, "hmc") == 13 and _checked_chains(None, 100_000, "hmc") == 4  # what stays in the cache


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_samples", [1, 3, 7])
def test_few_samples(n_samples):
    assert ft.sample(ft.theories.gaussian([[1.0]]), n_samples).shape == (n_samples, 1)


@pytest.mark.parametrize("method", ["hmc", "nuts"])
def test_scales_far_from_one(method):
    x = ft.sample(ft.theories.gaussian(np.diag([1e-10, 1e10]), [1e3, -1e6]), 4000, seed=1, method=method)
    np.testing.assert_allclose(x.std(axis=0), [1e-5, 1e5], rtol=0.06)


WELLS = ft.Action({1: [-0.3], 2: [[20.0]], 4: np.full((1, 1, 1, 1), -10.0)})  # −10(x² − 1)² − 0.3x: a barrier of 10 between ±1


def test_separate_modes_are_noticed():
    with pytest.warns(ConvergenceWarning, match="chains should agree, R-hat is") as warned:
        ft.sample(WELLS, 400, n_chains=8)
    assert any("effective sample size is about" in str(w.message) for w in warned)


def test_tempering_weighs_two_wells_across_ten_temperatures():
    """The weight of the right well, and all moments to order 4, against quadrature."""
    moments = [(lambda x: (x[..., 0] > 0).astype(float), 0.0), *((power(x0=k), 0.0) for k in range(1, 5))]
    Z = quad(lambda x: np.exp(WELLS([x])), -3, 3, points=[-1, 0, 1])[0]
    moments = [(f, quad(lambda x, f=f: f(np.array([x])) * np.exp(WELLS([x])) / Z, -3, 3, points=[-1, 0, 1])[0]) for f, _ in moments]
    assert 0.3 < moments[0][1] < 0.4
    data = ft.sample_chains(WELLS, 4000, 8, seed=2, method="tempering")
    assert np.abs(z_scores(data["x"].values, moments)).max() < 4
    assert data["r_hat"].max() < 1.02 and data["ess"].min() > 3000
    assert data.attrs["n_round_trips"] > 500


def test_tempering_weighs_two_wells_of_several_variables():
    """Two wells along one direction of three variables, independent of what lies across."""
    Q = np.linalg.qr(np.array([[1.0, 1, 0], [1, 0, 1], [1, 0, 0]]))[0]
    A4 = ft.SymmetricTensor.from_entries([(0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2)], [-10.0, -1.0, -0.1], 3)
    S = ft.Action({1: [-0.3, 0, 0], 2: np.diag([20.0, -2, -0.5]), 4: A4}).pullback(Q.T)
    data = ft.sample_chains(S, 2500, 8, seed=0, method="tempering")
    along, Z = data["x"].values @ Q[:, 0], quad(lambda x: np.exp(WELLS([x])), -3, 3, points=[-1, 0, 1])[0]
    weight = quad(lambda x: np.exp(WELLS([x])) / Z, 0, 3, points=[1])[0]
    assert np.abs(z_scores(along[..., None], [(lambda x: (x[..., 0] > 0).astype(float), weight)])).max() < 4


REFUSED = {
    "odd": (lambda: ft.sample(ft.Action({2: [[-1.0]], 3: np.ones((1, 1, 1))}), 5), NotNormalizableError, "leading order 3 is odd"),
    "saddle": (lambda: ft.sample(ft.Action({2: np.diag([-1.0, 1])}), 5), NotNormalizableError, "must be positive definite"),
    "count": (lambda: ft.sample(ft.theories.gaussian([[1]]), 0), InputError, "n_samples must be a whole number of at least 1"),
    "chains": (lambda: ft.sample(ft.theories.gaussian([[1]]), 5, n_chains=0), InputError, "n_chains must be"),
    "seed": (lambda: ft.sample(ft.theories.gaussian([[1]]), 5, seed=-1), InputError, "seed must be"),
    "draws": (lambda: ft.sample_chains(ft.theories.gaussian([[1]]), 3), InputError, "n_draws must be a whole number of at least 4"),
    "method": (lambda: ft.sample(ft.theories.gaussian([[1]]), 5, method="gibbs"), InputError,
               "method must be one of hmc, nuts, tempering, got 'gibbs'"),
    "mass": (lambda: ft.sample(ft.theories.gaussian([[1]]), 5, mass="heavy"), InputError,
             "mass must be one of auto, diagonal, dense, got 'heavy'"),
    "hottest": (lambda: ft.sample(ft.theories.gaussian([[1]]), 5, method="tempering", hottest=1.0), InputError,
                "hottest must lie between 0 and 1"),
    "hottest is no number": (lambda: ft.sample(ft.theories.gaussian([[1]]), 5, method="tempering", hottest=np.nan), InputError,
                             "hottest must lie between 0 and 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    request, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        request()
