"""Score matching against the published-form closed solution, exact densities, affine maps, and the scatter of its own estimates."""

import json
import pathlib

import numpy as np
import pytest

import fieldtheory as ft
from fieldtheory import hermite
from fieldtheory.errors import InputError, RegimeWarning
from fieldtheory.tensors import colex_indices

REFERENCE = json.loads((pathlib.Path(__file__).parents[1] / "data/action.json").read_text())["estimation"]
pytestmark = pytest.mark.filterwarnings("ignore::fieldtheory.errors.RegimeWarning")


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: f"order {c['K']}")
def test_reference_in_the_euclidean_metric(case):
    x, order = np.array(case["X"]), case["K"]
    found = ft.estimate(x, order, metric="euclidean", bias_correction=False).recenter(np.zeros(x.shape[1]))
    for k, expected in enumerate(case["action"], start=1):
        np.testing.assert_allclose(found.action.couplings[k].packed, expected, rtol=1e-10)
    multiplicities = np.concatenate([T.multiplicity for T in found.standard_error.values()])
    variances = np.concatenate([T.packed**2 for T in found.standard_error.values()])
    np.testing.assert_allclose(variances * multiplicities**2, case["cov_diag"], rtol=1e-8)  # of the coefficients of x^α


@pytest.mark.parametrize("corrected", [False, True])
def test_plain_minimum_of_hyvarinens_objective(corrected):
    """The objective itself, by monomials and least squares, without Hermite polynomials, packing or GEMM tricks.

    With it the sandwich covariance, and corrected: θ̂ − G^{-1} E[g G^{-1} ψ]/N and residuals ψ + ½ g G^{-1} ψ/N.
    """
    x = np.random.default_rng(0).normal(size=(400, 2)) @ [[1, 0.4], [0, 0.8]]
    found = ft.estimate(x, 3, metric="euclidean", bias_correction=corrected)
    u, powers = x - x.mean(0), [(a, b) for a in range(4) for b in range(4) if 1 <= a + b <= 3]

    def gradient(a, b):
        return np.stack([a * u[:, 0] ** max(a - 1, 0) * u[:, 1] ** b, b * u[:, 0] ** a * u[:, 1] ** max(b - 1, 0)], -1)

    def laplacian(a, b):
        first = a * (a - 1) * u[:, 0] ** max(a - 2, 0) * u[:, 1] ** b
        return first + b * (b - 1) * u[:, 0] ** a * u[:, 1] ** max(b - 2, 0)

    J = np.stack([gradient(*p) for p in powers], -1)
    terms, laplacians = np.einsum("nik,nil->nkl", J, J), np.stack([laplacian(*p) for p in powers], -1)
    inverse, N = np.linalg.inv(terms.mean(0)), len(x)
    theta = -inverse @ laplacians.mean(0)
    psi = terms @ theta + laplacians
    pushed = (terms @ (psi @ inverse)[..., None])[..., 0]
    if corrected:
        theta, psi = theta - inverse @ pushed.mean(0) / N, psi + 0.5 * pushed / N
    errors = np.sqrt(np.diag(inverse @ (psi.T @ psi / N) @ inverse) / N)
    for (a, b), coefficient, error in zip(powers, theta, errors):
        T = found.action.couplings[a + b]
        index = (0,) * a + (1,) * b
        multiplicity = T.multiplicity[[tuple(i) for i in T.indices.tolist()].index(index)]
        np.testing.assert_allclose(T[index] * multiplicity, coefficient, rtol=1e-8)
        np.testing.assert_allclose(found.standard_error[a + b][index] * multiplicity, error, rtol=1e-8)


def test_order_2_is_the_inverse_covariance():
    x = np.random.default_rng(1).normal(size=(500, 3)) @ np.random.default_rng(2).normal(size=(3, 3))
    plain = ft.estimate(x, 2, bias_correction=False)
    np.testing.assert_allclose(plain.action.couplings[2].dense(), -0.5 * np.linalg.inv(np.cov(x.T, bias=True)), rtol=1e-9)
    np.testing.assert_array_equal(plain.action.couplings[2].packed,
                                  ft.estimate(x, 2, "inverse_covariance", bias_correction=False).action.couplings[2].packed)


def test_bias_correction_removes_the_inflation_of_an_inverse_covariance():
    """E Σ̂^{-1} = N/(N − d − 2) Σ^{-1} for N samples and a fitted mean: 1.22 here, and 1 + O(1/N²) corrected."""
    rng, d, N, repeats = np.random.default_rng(3), 4, 33, 400
    found = {c: np.array([ft.estimate(rng.normal(size=(N, d)), 2, bias_correction=c).action.couplings[2].dense()
                          for _ in range(repeats)]) for c in (True, False)}
    inflation = {c: -2 * np.mean([np.trace(a) for a in values]) / d for c, values in found.items()}
    assert inflation[False] == pytest.approx(N / (N - d - 2), rel=0.03)
    assert abs(inflation[True] - 1) < 0.35 * (inflation[False] - 1)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_equivariant_under_affine_maps(order):
    rng = np.random.default_rng(order)
    x, M, b = rng.normal(size=(600, 3)) ** 3 / 3 + rng.normal(size=(600, 3)), rng.normal(size=(3, 3)), rng.normal(size=3)
    here, there = ft.estimate(x, order), ft.estimate(x @ M.T + b, order)
    back = there.action.pullback(M, b).recenter(here.action.at)
    for k in range(1, order + 1):
        np.testing.assert_allclose(back.couplings[k].packed, here.action.couplings[k].packed, rtol=1e-7, atol=1e-9)


def test_units_of_the_variables_do_not_matter():
    x = np.random.default_rng(0).normal(size=(800, 2))
    one, other = ft.estimate(x, 4), ft.estimate(x * [1e-6, 1e6], 4)
    np.testing.assert_allclose(other.action[0, 0, 1, 1], one.action[0, 0, 1, 1], rtol=1e-8)
    np.testing.assert_allclose(other.standard_error[4][0, 0, 0, 0] * 1e-24, one.standard_error[4][0, 0, 0, 0], rtol=1e-8)


def test_standard_errors_are_the_scatter_of_the_estimates():
    """z of 60 independent sets, all couplings at one base point: sd within 4 of its own error, 1/√(2·60·rank) with rank ≥ 9."""
    S = ft.theories.random_interactions(2, {3: 0.3, 4: 0.3}, seed=0)
    x = ft.sample(S, 60 * 1500, seed=1, n_chains=64)
    z = []
    for part in x.reshape(1500, 60, 2).transpose(1, 0, 2):
        found = ft.compare(ft.estimate(part, 4), S)
        z.append(np.concatenate([found.z[k] for k in (1, 2, 3, 4)]))
    assert abs(np.std(z) - 1) < 4 / np.sqrt(2 * 60 * 9)
    assert np.abs(np.mean(z, axis=0)).max() < 4 / np.sqrt(60)


def test_recentring_moves_values_and_errors_together():
    x = np.random.default_rng(0).normal(size=(700, 2))
    found = ft.estimate(x, 3)
    at = np.array([0.7, -0.4])
    moved = found.recenter(at)
    np.testing.assert_allclose(moved.action(x[:5]), found.action(x[:5]), rtol=1e-10)
    np.testing.assert_allclose(moved.action.couplings[1].packed, found.action.score(at), rtol=1e-10)
    there_and_back = moved.recenter(found.action.at)
    for k in (1, 2, 3):
        np.testing.assert_allclose(there_and_back.standard_error[k].packed, found.standard_error[k].packed, rtol=1e-8)


def test_covariance_and_combination():
    found = ft.estimate(np.random.default_rng(0).normal(size=(700, 2)), 3)
    C = found.covariance([(0, 0), (1, 0, 1)])
    np.testing.assert_allclose(np.sqrt(np.diag(C)), [found.standard_error[2][0, 0], found.standard_error[3][0, 1, 1]])
    value, error = found.combination(2, [1.0, 0, 1.0])
    assert value == pytest.approx(found.action[0, 0] + found.action[1, 1])
    C = found.covariance([(0, 0), (1, 1)])
    assert error == pytest.approx(np.sqrt(C.sum()))


def test_constant_columns_are_left_out_and_named():
    x = np.random.default_rng(0).normal(size=(300, 3))
    x[:, 1] = 7
    found = ft.estimate(x, 2)
    assert found.action.names == ("x0", "x2") and found.columns.dropped.tolist() == [1]


def test_one_variable():
    assert ft.estimate(np.random.default_rng(0).normal(size=(2000, 1)), 2).action[0, 0] == pytest.approx(-0.5, abs=0.08)


@pytest.mark.filterwarnings("default")
def test_a_fit_that_is_no_density_says_so():
    x = np.random.default_rng(0).normal(size=(300, 1))
    with pytest.warns(RegimeWarning, match="leading order 3 is odd"):
        found = ft.estimate(x, 3)
    assert not found.normalizability.normalizable


def test_hermite_features_are_orthonormal_and_differentiate_within_the_basis():
    x, w = np.polynomial.hermite_e.hermegauss(10)
    nodes = np.stack(np.meshgrid(x, x), -1).reshape(-1, 2)
    weights = np.outer(w, w).ravel() / w.sum() ** 2
    F = hermite.features(nodes, 4)
    np.testing.assert_allclose((F * weights[:, None]).T @ F, np.eye(F.shape[1]), atol=1e-10)
    point, step = np.array([[0.3, -0.7]]), 1e-6
    for i, D in enumerate(hermite.derivatives(2, 4)):
        shift = step * np.eye(2)[i]
        numeric = (hermite.features(point + shift, 4) - hermite.features(point - shift, 4)) / (2 * step)
        np.testing.assert_allclose(D @ hermite.features(point, 3)[0], numeric[0], atol=1e-8)


def test_hermite_to_powers_is_the_same_function():
    c = np.random.default_rng(0).normal(size=hermite.n_features(3, 5))
    powers, start, couplings = hermite.to_powers(3, 5) @ c, 0, {}
    for k in range(6):
        size = len(colex_indices(3, k))
        couplings[k] = ft.SymmetricTensor.from_packed(powers[start : start + size], 3, k)
        start += size
    points = np.random.default_rng(1).normal(size=(4, 3))
    np.testing.assert_allclose(ft.Action(couplings)(points), hermite.features(points, 5) @ c, rtol=1e-10)


good = np.random.default_rng(0).normal(size=(50, 2))
fitted = ft.estimate(good, 2)
REFUSED = {
    "nan": (lambda: ft.estimate([[1.0, np.nan], [0, 1]], 2), "samples must be finite, got 1 NaN"),
    "one row": (lambda: ft.estimate([[1.0, 2.0]], 2), "at least 2 rows"),
    "rank": (lambda: ft.estimate(np.ones(5), 2), "rank 1"),
    "constant": (lambda: ft.estimate(np.ones((5, 2)), 2), "all 2 columns are constant"),
    "few": (lambda: ft.estimate(good, 9), "got 50 samples for 54 couplings up to order 9"),
    "method": (lambda: ft.estimate(good, 2, "maximum_likelihood"), "method must be one of score_matching, inverse_covariance"),
    "metric": (lambda: ft.estimate(good, 2, metric="l1"), "metric one of covariance, euclidean"),
    "order": (lambda: ft.estimate(good, 0), "order must be a whole number of at least 1"),
    "inverse covariance": (lambda: ft.estimate(good, 3, "inverse_covariance"), "order must be 2 for inverse_covariance"),
    "dependent": (lambda: ft.estimate(np.c_[good, good[:, 0]], 2), "must not be linearly dependent"),
    "two values": (lambda: ft.estimate(np.sign(good), 3), "equations for them are singular"),
    "ragged": (lambda: ft.estimate([[1, 2], [3]], 2), "rows of different lengths"),
    "complex": (lambda: ft.estimate(good + 1j, 2), "must be real, got complex128"),
    "entry": (lambda: fitted.covariance([(-1, 0)]), r"named by 2 indices in 0 … 1, got \[-1, 0\]"),
    "order of an entry": (lambda: fitted.covariance([(0, 0, 1)]), "order must be one that was estimated, 1 … 2, got 3"),
    "weights": (lambda: fitted.combination(2, [1, 2]), r"one number per unique entry of order 2, 3 in all, got shape \(2,\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    request, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        request()


def lattice_z_scores(n_seeds, n_samples=20_000):
    """z of all couplings up to order 4 and of three symmetry averages, φ⁴ on a periodic 3×3 lattice, m² = 1, λ = 4."""
    graph = ft.theories.lattice((3, 3))
    S, group = ft.theories.phi4(graph, 1.0, 4.0), ft.symmetries.automorphisms(graph)
    weights = {index: ft.symmetries.orbit_weights(ft.symmetries.orbits(9, len(index), group),
                                                  int(ft.tensors.colex_rank(np.array(index))))
               for index in ((0, 0), (0, 1), (0, 0, 0, 0))}
    entries, averages = [], []
    for seed in range(n_seeds):
        found = ft.estimate(ft.sample(S, n_samples, seed=seed), 4).recenter(np.zeros(9))
        entries.append(np.concatenate([z for _, z in sorted(ft.compare(found, S).z.items())]))
        combined = [(found.combination(len(index), w), S[index]) for index, w in weights.items()]
        averages.append([(value - truth) / error for (value, error), truth in combined])
    correlation = np.concatenate([found.roots[k] / np.linalg.norm(found.roots[k], axis=1)[:, None] for k in range(1, 5)])
    return np.array(entries), np.array(averages), correlation @ correlation.T


def band(correlation, n_seeds, rate=1e-3):
    """Half-widths that mean and mean square of pooled z-scores with this correlation leave once in 1/rate times.

    Var(mean z) = 1ᵀC1/(n² seeds) and Var(mean z²) = 2 tr C²/(n² seeds), C the correlation of the entries.
    """
    from scipy.stats import norm

    n, quantile = len(correlation), norm.isf(rate / 4)  # two quantities, two sides
    return (quantile * np.sqrt(correlation.sum() / n_seeds) / n,
            quantile * np.sqrt(2 * np.sum(correlation**2) / n_seeds) / n)


@pytest.mark.heavy
def test_lattice_z_scores_lie_in_the_band_of_a_right_estimator():
    entries, averages, correlation = lattice_z_scores(20)
    wide_mean, wide_square = band(correlation, len(entries))
    low, high = np.sqrt(1 - wide_square), np.sqrt(1 + wide_square)
    print(f"\npooled z over {entries.size}: mean {entries.mean():+.4f} (band ±{wide_mean:.4f}), "
          f"sd {np.sqrt((entries**2).mean()):.4f} (band {low:.4f} … {high:.4f}); symmetry averages: largest |z| "
          f"{np.abs(averages).max():.2f}, means {averages.mean(axis=0).round(2)}")
    assert abs(entries.mean()) < wide_mean
    assert low < np.sqrt((entries**2).mean()) < high
    pooled = averages.mean(axis=0) * np.sqrt(len(averages))
    assert np.abs(pooled).max() < 3.5 and np.abs(averages).max() < 3.5


@pytest.mark.heavy
def test_the_error_falls_like_one_over_root_n():
    S = ft.theories.phi4(ft.theories.lattice((3, 3)), 1.0, 4.0)
    x = ft.sample(S, 320_000, seed=9, n_chains=64)
    sizes = np.array([20_000, 40_000, 80_000, 160_000])
    error = []
    for N in sizes:
        found = [ft.estimate(x[i * N : (i + 1) * N], 4).recenter(np.zeros(9)).action for i in range(2)]
        error.append(np.mean([np.sqrt(sum((a.couplings[k] - S.couplings.get(k, ft.SymmetricTensor.zeros(9, k))).norm() ** 2
                                          for k in (1, 2, 3, 4))) for a in found]))
    slope = np.polyfit(np.log(sizes), np.log(error), 1)[0]
    print(f"\nerror ~ N^{slope:.3f}")
    assert abs(slope + 0.5) <= 0.05
