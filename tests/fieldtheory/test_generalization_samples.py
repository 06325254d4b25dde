"""Prediction from one data set: the transferred curve, the calibration of norm fluctuations, intervals, real data."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from sklearn.datasets import load_digits

from fieldtheory import NoiseSchedule
from fieldtheory.errors import InputError, RegimeWarning
from fieldtheory.generalization import predict, samples_needed
from fieldtheory.generalization.convergence import convergence, convergence_stochastic
from fieldtheory.generalization.losses import total_losses
from fieldtheory.generalization.norms import NormFluctuations
from fieldtheory.generalization.spectrum import Population
from fieldtheory.generalization.split_half import calibrate, split_half_convergence
from fieldtheory.generalization.transfer import Transferred

SHORT = NoiseSchedule.linear(40, 1e-3, 0.2)


def gaussian(n_samples: int, lam: np.ndarray, seed: int, norm_variance: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tau = np.exp(np.sqrt(norm_variance) * rng.normal(size=(n_samples, 1)) - norm_variance / 2)
    return rng.normal(size=(n_samples, lam.size)) * np.sqrt(lam * tau) + 3.0


def power_law(d: int, exponent: float = 1.0) -> np.ndarray:
    return np.arange(1, d + 1) ** -exponent


@pytest.mark.parametrize("n", [4, 19, 29, 30, 200])
@pytest.mark.parametrize("variance", [0.0, 0.4])
def test_many_samples_know_the_population(n, variance):
    """With n_t → ∞ a measured spectrum is the population's: below, at and above as many samples as dimensions."""
    lam, norms = power_law(30), NormFluctuations.lognormal(variance)
    known, measured = Population(lam, norms), Transferred(lam, 1e13, norms)
    for observable in (convergence, convergence_stochastic):
        for ridge in (0.0, 0.05):
            assert observable(measured, n, ridge) == pytest.approx(observable(known, n, ridge), rel=3e-7)
    for penalty in (0.0, 0.02):
        losses = [total_losses(curve, n + 1, SHORT, np.full(40, penalty)) for curve in (known, measured)]
        np.testing.assert_allclose(losses[1], losses[0], rtol=3e-7)


@pytest.mark.parametrize(("n_samples", "d"), [(40, 15), (12, 30)])
def test_curve_at_its_own_size_is_the_data(n_samples, d):
    """At n = n_t nothing is transferred: tr S(S + z)⁻¹ comes back as it was measured, whatever the norms."""
    S = np.cov(gaussian(n_samples, power_law(d), 0).T)
    z = np.array([0.01, 0.3, 5.0])
    expected = [np.trace(S @ np.linalg.inv(S + w * np.eye(d))) for w in z]
    values = np.linalg.eigvalsh(S)[-min(d, n_samples - 1):]
    for variance in (0.0, 0.5):
        nodes = Transferred(values, n_samples - 1, NormFluctuations.lognormal(variance), d).at(z, n_samples - 1)
        np.testing.assert_allclose(nodes.df1, expected, rtol=1e-9)
        np.testing.assert_allclose(nodes.z, z, rtol=1e-9)


def test_df2_is_the_slope_of_the_curve():
    """df_2 = d(κ df_1)/dκ, by finite differences along the curve."""
    curve = Transferred(power_law(20), 35.0, NormFluctuations.lognormal(0.3))
    z = np.array([0.02, 0.5])
    near = [curve.at(z * factor, 25.0) for factor in (1 - 1e-5, 1 + 1e-5)]
    slope = (near[1].kappa * near[1].df1 - near[0].kappa * near[0].df1) / (near[1].kappa - near[0].kappa)
    np.testing.assert_allclose(curve.at(z, 25.0).df2, slope, rtol=1e-7)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize("n_total", [60, 400])
def test_transfer_is_unbiased_where_the_plug_in_is_not(n_total, ridge):
    """Mean over 30 data sets of one size against the population: |z| < 4 plus 1.5 % of q; the plug-in is off by far more."""
    d = 100 if n_total == 60 else 150
    lam, n = power_law(d, 0.5), 40.0
    truth = convergence(Population(lam), n, ridge)
    found = []
    for seed in range(30):
        S = np.linalg.svd(gaussian(n_total, lam, seed) - 3.0, compute_uv=False) ** 2 / n_total
        found.append([convergence(Transferred(S, n_total, NormFluctuations(), d), n, ridge), convergence(Population(S), n, ridge)])
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(30)
    assert abs(mean[0] - truth) < 4 * error[0] + 0.015 * truth
    assert abs(mean[1] - truth) > 3 * abs(mean[0] - truth) + 4 * error[1]


@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize("n_total", [120, 500])
def test_fewer_samples_than_dimensions_predict_like_the_spectrum(n_total, ridge):
    """d = 200: losses and convergence within 8 % of those of the true spectrum at every N that 120 or 500 samples can tell."""
    lam, sizes = power_law(200, 0.5), [20, 60, 90]
    found = predict(samples=gaussian(n_total, lam, 1), n_samples=sizes, ridge=ridge, schedule=SHORT)
    truth = predict(spectrum=lam, n_samples=sizes, ridge=ridge, schedule=SHORT)
    for name in ("convergence", "convergence_stochastic", "train_loss", "test_loss"):
        np.testing.assert_allclose(found[name], truth[name], rtol=0.08, err_msg=name)


def test_intervals_cover_the_truth():
    """20 data sets of 200 samples in 30 dimensions: the 95 % intervals cover at least 15 times.

    At a true coverage of 0.95 fewer happens three times in 1e4.
    """
    lam, sizes = power_law(30), [15, 40, 200]
    truth = predict(spectrum=lam, n_samples=sizes, schedule=SHORT)
    covered = np.zeros(3)
    for seed in range(20):
        found = predict(samples=gaussian(200, lam, seed), n_samples=sizes, schedule=SHORT, seed=seed)
        covered += (found["convergence_low"] <= truth["convergence"]) & (truth["convergence"] <= found["convergence_high"])
    assert np.all(covered >= 15), covered


def test_intervals_hold_the_values():
    found = predict(samples=gaussian(90, power_law(10), 2), n_samples=[10, 40, 300], schedule=SHORT)
    for name in ("convergence", "convergence_stochastic", "train_loss", "test_loss", "train_loss_step", "test_loss_step"):
        assert np.all((found[f"{name}_low"] <= found[name]) & (found[name] <= found[f"{name}_high"])), name
        assert found[f"{name}_low"].dims == found[name].dims


def test_split_half_convergence_by_matrix_square_roots():
    x = gaussian(50, power_law(6), 3)
    found = split_half_convergence(x, 12, 5, np.random.default_rng(9))
    rng = np.random.default_rng(9)
    for q in found:
        rows = rng.permutation(50)[:24]
        A, B = (sqrtm(np.cov(x[i].T, bias=True)).real for i in (rows[:12], rows[12:]))
        assert q == pytest.approx(np.sum(A * B) / np.sqrt(np.sum(A**2) * np.sum(B**2)), rel=1e-9)


@pytest.mark.parametrize("variance", [0.3, 1.0])
def test_calibration_finds_the_norm_fluctuations(variance):
    """z of the fitted variance of ln τ below 4, plus the 0.1 that the leading order itself is off by at N = 10."""
    x = gaussian(1500, power_law(40, 0.5), 4, norm_variance=variance)
    fitted, error = calibrate(x, np.linalg.eigvalsh(np.cov(x.T)), seed=0)
    assert abs(fitted - variance) < 4 * error + 0.1
    assert error < 0.2


def test_too_few_samples_to_calibrate():
    x = gaussian(79, power_law(4), 5)
    assert calibrate(x, np.linalg.eigvalsh(np.cov(x.T)), seed=0) == (0.0, 0.0)


def test_norm_fluctuations_matter():
    """Convergence of elliptical data measured on fresh pairs: the calibrated prediction meets it, a Gaussian one does not."""
    lam, N = power_law(60, 0.5), 50
    predicted = float(predict(samples=gaussian(1600, lam, 6, 0.8), n_samples=[N], schedule=SHORT)["convergence"][0])
    measured = np.array([split_half_convergence(gaussian(2 * N, lam, 100 + i, 0.8), N, 1, np.random.default_rng(i)) for i in range(60)])
    error = measured.std() / np.sqrt(60)
    assert abs(predicted - measured.mean()) < 0.015 + 3 * error
    assert convergence(Population(lam), N - 1) - measured.mean() > 0.05


def digits() -> np.ndarray:
    return load_digits().data


def measured_convergence(x: np.ndarray, N: int, n_splits: int, rng) -> tuple[float, float]:
    """Mean over splits of q of one split (mean of ratios) and its standard error, written out."""
    values = []
    for _ in range(n_splits):
        rows = rng.permutation(len(x))[: 2 * N]
        roots = []
        for half in (x[rows[:N]], x[rows[N:]]):
            variances, modes = np.linalg.eigh(np.cov(half.T, bias=True))
            roots.append((modes * np.sqrt(np.maximum(variances, 0))) @ modes.T)
        A, B = roots
        values.append(np.sum(A * B) / np.sqrt(np.sum(A**2) * np.sum(B**2)))
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(n_splits))


def test_digits():
    """Prediction within 0.03 of the convergence measured on 50 random splits at every N, and the intervals are not empty words."""
    sizes = [20, 50, 100, 200, 400, 800]
    x, rng = digits(), np.random.default_rng(0)
    found = predict(samples=x, n_samples=sizes, schedule=SHORT)
    for N, q, low, high in zip(sizes, *(found[f"convergence{end}"].values for end in ("", "_low", "_high"))):
        measured, error = measured_convergence(x, N, 50, rng)
        assert abs(q - measured) <= 0.03, N
        assert low - 4 * error < measured < high + 4 * error, N


@pytest.mark.heavy
def test_digits_from_a_quarter_of_them():
    """450 digits predict what halves of all of them do."""
    x, rng = digits(), np.random.default_rng(1)
    found = predict(samples=x[rng.permutation(len(x))[:450]], n_samples=[20, 50, 100, 200, 400, 800])["convergence"]
    for N in found["n_samples"].values:
        measured, error = measured_convergence(x, N, 100, rng)
        assert abs(float(found.sel(n_samples=N)) - measured) <= 0.03 + 2 * error, N


def test_samples_needed_on_digits():
    needed = samples_needed(digits(), convergence=0.9)
    measured = [measured_convergence(digits(), N, 50, np.random.default_rng(2))[0] for N in (int(0.8 * needed.low), int(1.2 * needed.high))]
    assert measured[0] < 0.9 < measured[1]
    assert needed.low < needed.n_samples < needed.high
    assert needed.summary() == {"n_samples": needed.n_samples, "low": needed.low, "high": needed.high, "convergence": 0.9}


def test_constant_columns_are_left_out_and_named():
    x = gaussian(100, power_law(5), 7)
    padded = np.insert(x, [1, 4], [2.5, -1.0], axis=1)
    found, plain = (predict(samples=s, n_samples=[20], schedule=SHORT) for s in (padded, x))
    assert found.attrs["dropped_columns"] == [1, 5]
    assert plain.attrs["dropped_columns"] == []
    for name in plain.data_vars:
        np.testing.assert_array_equal(found[name], plain[name])


def test_shifts_rotations_and_units_do_not_matter():
    x = gaussian(120, power_law(8), 8)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    one, other = (predict(samples=s, n_samples=[10, 50], schedule=SHORT)["convergence"] for s in (x, 7 * x @ rotation - 100))
    np.testing.assert_allclose(one, other, rtol=1e-7)


def test_same_seed_same_numbers():
    x = gaussian(120, power_law(8), 9)
    one, again, other = (predict(samples=x, n_samples=[20], schedule=SHORT, seed=seed) for seed in (1, 1, 2))
    assert one.identical(again)
    assert float(one["convergence_low"][0]) != float(other["convergence_low"][0])
    assert one.attrs["seed"] == 1


def test_one_dimension():
    found = predict(samples=gaussian(200, np.ones(1), 10), n_samples=[3, 30], schedule=SHORT)
    truth = predict(spectrum=[1.0], n_samples=[3, 30], schedule=SHORT)
    np.testing.assert_allclose(found["convergence"], truth["convergence"], atol=0.15)
    assert np.all(np.isfinite(found["test_loss"]))


def test_what_few_samples_cannot_tell_is_nan():
    """30 samples in 50 dimensions: the smallest jackknife sample has 26 degrees of freedom, and nothing at or beyond it is known."""
    x = gaussian(30, power_law(50), 11)
    words = "N beyond 25 cannot be told from so few samples in 50 dimensions, they are NaN; give more samples"
    with pytest.warns(RegimeWarning, match=words):
        found = predict(samples=x, n_samples=[10, 25, 26, 100], schedule=SHORT)
    for name in ("convergence", "convergence_low", "convergence_stochastic", "train_loss", "test_loss_high"):
        np.testing.assert_array_equal(np.isnan(found[name]), [False, False, True, True], err_msg=name)
    needed = samples_needed(x, convergence=0.999)
    assert needed.n_samples == np.inf
    assert str(needed) == "more than 25"


@pytest.mark.parametrize(("samples", "words"), [
    (np.full((20, 3), np.nan), "samples must be finite, got 60 NaN or infinite entries"),
    (np.ones((1, 3)), "samples must hold at least 4 rows and one column, got shape \\(1, 3\\)"),
    (np.ones((20, 3)), "samples must vary, all 3 columns are constant"),
    (np.ones(20), "samples must have shape \\(n_samples, n_dim\\), got an array of rank 1"),
    (np.ones((20, 3), dtype=complex), "samples must be real, got complex128"),
    (np.array([["a", "b"]] * 9), "samples must be an array of real numbers"),
])
def test_bad_samples_are_refused(samples, words):
    for function in (lambda: predict(samples=samples, n_samples=[20]), lambda: samples_needed(samples)):
        with pytest.raises(InputError, match=words):
            function()
