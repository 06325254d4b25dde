"""Simulation-based calibration: a parameter drawn from a prior must rank uniformly among draws from the posterior of its own data.

θ ~ N(0, 1) in two dimensions and y = θ_0 + ½θ_1² + ½ε with ε ~ N(0, 1), so that the posterior

    S(θ) = −½|θ|² − 2 (y − θ_0 − ½θ_1²)²

is a polynomial of order 4: bent, and with two modes where y is large. Averaged over the joint distribution, the number of posterior
draws below the true value of any function of θ is uniform (S. Talts, M. Betancourt, D. Simpson, A. Vehtari, A. Gelman,
arXiv:1804.06788). χ² over ten bins, one test per function and method: a right sampler fails one of the nine in 1,100 sets of seeds.
"""

import numpy as np
import pytest
from scipy.stats import chi2

import fieldtheory as ft

N_DRAWS, BINS = 59, 10
FALSE_ALARM = 1e-4
QUESTIONS = {"θ_0": lambda t: t[..., 0], "θ_1": lambda t: t[..., 1], "θ_0² + θ_1²": lambda t: (t**2).sum(axis=-1)}


def posterior(y):
    """S in monomials: (y − q)² with q = θ_0 + ½θ_1²."""
    third, fourth = np.zeros((2, 2, 2)), np.zeros((2, 2, 2, 2))
    third[0, 1, 1] = third[1, 0, 1] = third[1, 1, 0] = -2 / 3  # −2 θ_0θ_1²
    fourth[1, 1, 1, 1] = -0.5  # −½ θ_1⁴
    return ft.Action({1: [4 * y, 0], 2: [[-0.5 - 2, 0], [0, -0.5 + 2 * y]], 3: third, 4: fourth})


def ranks(method, n_simulations):
    rng, found = np.random.default_rng(0), []
    for simulation in range(n_simulations):
        theta = rng.normal(size=2)
        y = theta[0] + 0.5 * theta[1] ** 2 + 0.5 * rng.normal()
        draws = ft.sample(posterior(y), N_DRAWS, seed=simulation, n_chains=4, method=method)
        found.append([np.sum(f(draws) < f(theta)) for f in QUESTIONS.values()])
    return np.array(found)


def p_values(found):
    """Of uniform ranks 0 … N_DRAWS in each column."""
    counts = np.stack([np.bincount(column * BINS // (N_DRAWS + 1), minlength=BINS) for column in found.T])
    expected = len(found) / BINS
    return chi2.sf(((counts - expected) ** 2 / expected).sum(axis=1), BINS - 1)


def test_posterior_is_what_it_says():
    theta, y = np.random.default_rng(0).normal(size=(20, 2)), 0.7
    expected = -0.5 * (theta**2).sum(axis=1) - 2 * (y - theta[:, 0] - 0.5 * theta[:, 1] ** 2) ** 2 + 2 * y**2
    np.testing.assert_allclose(posterior(y)(theta), expected, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:chains should agree", "ignore:samples should", "ignore:trajectories")
@pytest.mark.parametrize("method", ["hmc", "nuts", "tempering"])
def test_true_parameters_rank_uniformly(method):
    p = p_values(ranks(method, 50))
    assert p.min() > FALSE_ALARM, dict(zip(QUESTIONS, p))


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:chains should agree", "ignore:samples should", "ignore:trajectories")
@pytest.mark.parametrize("method", ["hmc", "nuts", "tempering"])
def test_true_parameters_rank_uniformly_in_many_simulations(method):
    p = p_values(ranks(method, 2000))
    assert p.min() > FALSE_ALARM, dict(zip(QUESTIONS, p))


def test_ranks_of_draws_that_are_too_narrow_are_noticed():
    rng = np.random.default_rng(1)
    found = (0.8 * rng.normal(size=(400, N_DRAWS, 1)) < rng.normal(size=(400, 1, 1))).sum(axis=1)
    assert p_values(found)[0] < FALSE_ALARM < p_values((rng.normal(size=(400, N_DRAWS, 1)) < rng.normal(size=(400, 1, 1))).sum(axis=1))[0]
