"""The error of a coupling is what refits scatter by, and in the Gaussian case the textbook's."""

import copy

import numpy as np
import pytest
import torch

from fieldtheory.tensors import colex_indices, symmetrize
from learners import QuadraticFlow, to_action
from learners.uncertainty import coupling_uncertainty

W = np.array([[1.2, 0.3, 0.1], [-0.4, 0.8, 0.0], [0.2, -0.3, 1.1]])
B = np.array([0.3, -0.2, 0.1])


def _gaussian_flow():
    """One layer without χ: p = N(−W^{-1} b, (WᵀW)^{-1})."""
    return QuadraticFlow.from_weights([(W, B, np.zeros((1, 2, 2)))])


def _unique(order):
    return colex_indices(3, order).T


def _wishart(P, n_samples):
    """Cov(A_ij, A_kl) = (P_ik P_jl + P_il P_jk)/(4 N) of A = −½ × inverse of the sample covariance, over unique entries."""
    i, j = _unique(2)
    k, l = i[:, None], j[:, None]
    return (P[i, k] * P[j, l] + P[i, l] * P[j, k]) / (4 * n_samples)


def test_couplings_of_a_gaussian_have_the_errors_of_an_inverse_covariance():
    """F is an average over 40,000 samples. Its inverse along one coupling is an average of squares of a quadratic form in Gaussian
    variables, of kurtosis at most 15: relative error √14/√40,000 in the variance, half in the error. 5 σ for 7 numbers, alarm 4e-6."""
    n_samples, flow = 40_000, _gaussian_flow()
    found = coupling_uncertainty(flow, flow.sample(n_samples, seed=1), order=2, at=flow.to_data(np.zeros(3))[0], n_fisher=n_samples)
    expected = _wishart(W.T @ W, n_samples)
    bound = 5 * 0.5 * np.sqrt(14 / n_samples)
    np.testing.assert_allclose(found.standard_error[2].packed, np.sqrt(np.diag(expected)), rtol=bound)
    weights = np.array([0.5, -1.0, 0.2, 0.0, 2.0, -0.3])
    assert found.of_combination(2, weights) == pytest.approx(np.sqrt(weights @ expected @ weights), rel=bound)


def _tangent_scores(samples):
    """Scores of the Gaussian's couplings and of χ = 0, by hand; what each adds to A^(1), A^(2), A^(3) around the mean."""
    mean = -np.linalg.solve(W, B)
    u, covariance = samples - mean, np.linalg.inv(W.T @ W)
    h = u @ W.T
    i, j = _unique(2)
    multiplicity = 2.0 - (i == j)
    order_1, order_2 = u, multiplicity * (u[:, i] * u[:, j] - covariance[i, j])
    a, b = np.tril_indices(2)
    order_3 = -(2.0 - (a == b)) * h[:, [2]] * h[:, a] * h[:, b]  # −z_2 ∂z_2/∂χ_ab
    legs = [-m * symmetrize(np.einsum("i,j,k->ijk", W[2], W[p], W[q])) for m, p, q in zip(2.0 - (a == b), a, b)]
    return np.hstack([order_1, order_2, order_3]), np.array([leg[tuple(_unique(3))] for leg in legs]).T


def test_errors_are_those_of_the_information_in_the_couplings_themselves():
    """The tangent space of one layer at χ = 0 is spanned by A^(1), A^(2) and three cubic directions. Nine weights of W give six
    couplings: rotations are redundant and must drop out. No sampling error: F is over the same samples."""
    flow = _gaussian_flow()
    samples = flow.sample(500, seed=2)
    scores, legs = _tangent_scores(samples)
    covariance = np.linalg.inv(scores.T @ scores / 500) / 500
    found = coupling_uncertainty(flow, samples, order=3, at=-np.linalg.solve(W, B), n_fisher=500)
    cubic = np.sqrt(np.diag(legs @ covariance[9:, 9:] @ legs.T))
    for k, expected in ((1, np.sqrt(np.diag(covariance))[:3]), (2, np.sqrt(np.diag(covariance))[3:9]), (3, cubic)):
        np.testing.assert_allclose(found.standard_error[k].packed, expected, rtol=1e-6)
    weights = np.linspace(-1, 1, 10)
    assert found.of_combination(3, weights) == pytest.approx(np.sqrt(weights @ legs @ covariance[9:, 9:] @ legs.T @ weights), rel=1e-6)


def _maximum_likelihood(flow, samples):
    """Newton-like steps from the truth on all samples."""
    student, x = copy.deepcopy(flow), torch.as_tensor(samples)
    optimizer = torch.optim.LBFGS(student.parameters(), max_iter=50, line_search_fn="strong_wolfe", tolerance_grad=1e-7)

    def loss():
        optimizer.zero_grad()
        value = -student._log_prob(x).mean()
        value.backward()
        return value

    optimizer.step(loss)
    return student


def test_refits_scatter_by_the_stated_errors():
    """Squares of (refit − teacher)/error over 100 independent data sets sum to χ²_100 for each of 14 couplings, to first order in
    1/√N; all inside 4.5 of its √200, alarm 14 · 7e-6 = 1e-4."""
    teacher = QuadraticFlow.from_weights([([[1.1, 0.3], [-0.4, 0.9]], [0.2, -0.1], [[[0.6]]])])
    at, n_samples, n_refits = [0.1, -0.2], 2000, 100
    true = to_action(teacher, 4, at=at)
    error = coupling_uncertainty(teacher, teacher.sample(10 * n_samples, seed=3), at=at, n_fisher=20_000).standard_error
    total = dict.fromkeys(error, 0.0)
    for refit in range(n_refits):
        found = to_action(_maximum_likelihood(teacher, teacher.sample(n_samples, seed=100 + refit)), 4, at=at)
        for k in error:
            total[k] = total[k] + ((found.couplings[k].packed - true.couplings[k].packed) / (np.sqrt(10) * error[k].packed)) ** 2
    z = (np.concatenate(list(total.values())) - n_refits) / np.sqrt(2 * n_refits)
    assert z.size == 14
    assert np.abs(z).max() < 4.5


def test_the_flow_is_left_as_it_was():
    flow = QuadraticFlow.random(3, 2, seed=4)
    before = [part.copy() for layer in flow.weights for part in layer]
    coupling_uncertainty(flow, flow.sample(50), order=2)
    for old, new in zip(before, (part for layer in flow.weights for part in layer)):
        np.testing.assert_array_equal(old, new)


def test_the_information_may_be_averaged_over_part_of_the_samples():
    """Every tenth of them; the number of all sets the size of the errors."""
    flow = QuadraticFlow.random(3, 1, seed=5)
    samples = flow.sample(4000, seed=6)
    thinned = coupling_uncertainty(flow, samples, order=2, at=[0.0, 0.0, 0.0], n_fisher=400)
    few = coupling_uncertainty(flow, samples[::10], order=2, at=[0.0, 0.0, 0.0])
    for k in (1, 2):
        np.testing.assert_allclose(thinned.standard_error[k].packed, few.standard_error[k].packed / np.sqrt(10), rtol=1e-12)


def test_errors_of_normal_ordered_couplings_pass_the_conversion_on():
    """Averaged over almost a point they are those of the Taylor couplings there."""
    flow = QuadraticFlow.random(2, 1, seed=7)
    samples, at = flow.sample(500, seed=8), [0.2, 0.1]
    taylor = coupling_uncertainty(flow, samples, order=3, at=at)
    averaged = coupling_uncertainty(flow, samples, order=3, at=at, method="normal_ordered", covariance=1e-8 * np.eye(2), n_points=2)
    wide = coupling_uncertainty(flow, samples, order=3, at=at, method="normal_ordered", covariance=np.eye(2), n_points=2)
    for k in (1, 2, 3):
        np.testing.assert_allclose(averaged.standard_error[k].packed, taylor.standard_error[k].packed, rtol=1e-4)
    assert np.abs(wide.standard_error[1].packed / taylor.standard_error[1].packed - 1).max() > 0.01


def test_constant_columns_carry_no_error():
    plain = np.random.default_rng(9).normal(size=(200, 2))
    flows = [QuadraticFlow(n, 1).fit(x, n_steps=20) for n, x in ((2, plain), (3, np.insert(plain, 1, 7.0, axis=1)))]
    bare, padded = (coupling_uncertainty(flow, x, order=2) for flow, x in zip(flows, (plain, np.insert(plain, 1, 7.0, axis=1))))
    assert padded.n_dim == 2
    np.testing.assert_array_equal(padded.standard_error[2].packed, bare.standard_error[2].packed)
