"""Two linear diffusion models, trained on disjoint halves, agree as much as was predicted without training any.

Everything goes through the public functions. Predictions are ratios of means over data sets, measurements the mean over 50 random splits
of q of one split, with its standard error. Run with -s to see the numbers.
"""

import numpy as np
import pytest
from sklearn.datasets import load_digits

import fieldtheory as ft
import learners as ln

N_SPLITS = 50


def linear(n_dim: int) -> ln.DDPM:
    return ln.DDPM(ln.LinearDenoiser(n_dim))


class Trained(ln.DDPM):
    """A denoiser that is trained by gradient descent."""

    n_iterations = 10**8

    def fit(self, samples, **options):
        return super().fit(samples, method="gradient_descent", n_iterations=self.n_iterations, **options)


def gaps(title: str, predicted, measured) -> tuple[np.ndarray, np.ndarray]:
    """|q_predicted − q_measured| and the standard error of the measurement by N, printed."""
    q, found, error = predicted["convergence"].values, measured["convergence"].values, measured["convergence_error"].values
    print(f"\n{title}, {measured.attrs['n_splits']} splits\n{'N':>6} {'predicted':>10} {'measured':>18} {'difference':>11}")
    for row in zip(measured["n_samples"].values, q, found, error, q - found):
        print("{:>6} {:>10.4f} {:>9.4f} ± {:.4f} {:>+11.4f}".format(*row))
    return np.abs(q - found), error


def test_digits():
    """Within 0.03 at every N."""
    samples, sizes = load_digits().data, [20, 30, 50, 80, 120, 200, 350, 600, 800]
    predicted = ft.generalization.predict(samples=samples, n_samples=sizes)
    measured = ln.split_experiment(samples, linear, sizes, n_splits=N_SPLITS, seed=0)
    gap, _ = gaps("digits", predicted, measured)
    assert np.all(gap <= 0.03), gap


@pytest.mark.heavy
def test_gaussian_data_of_a_power_law():
    """Spectrum 1/k in 100 dimensions, predicted from the spectrum: within 0.01 + 2 standard errors at every N.

    40,000 rows, so that the splits are nearly independent data sets.
    """
    spectrum, sizes = 1 / np.arange(1, 101), [20, 50, 100, 200, 500, 1000, 2000]
    samples = np.random.default_rng(0).normal(size=(40_000, 100)) * np.sqrt(spectrum)
    predicted = ft.generalization.predict(spectrum=spectrum, n_samples=sizes)
    measured = ln.split_experiment(samples, linear, sizes, n_splits=N_SPLITS, seed=0)
    gap, error = gaps("Gaussian data, spectrum 1/k, d = 100", predicted, measured)
    assert np.all(gap <= 0.01 + 2 * error), gap


def test_gaussian_data_in_fewer_dimensions():
    """The same in 20 dimensions, quickly."""
    spectrum, sizes = 1 / np.arange(1, 21), [20, 100, 500]
    samples = np.random.default_rng(0).normal(size=(20_000, 20)) * np.sqrt(spectrum)
    predicted = ft.generalization.predict(spectrum=spectrum, n_samples=sizes)
    measured = ln.split_experiment(samples, linear, sizes, n_splits=N_SPLITS, seed=0, n_generated=500)
    gap, error = gaps("Gaussian data, spectrum 1/k, d = 20", predicted, measured)
    assert np.all(gap <= 0.01 + 2 * error), gap


def test_training_long_enough_is_the_closed_form():
    """Split by split, gradient descent comes closer to the closed form the longer it lasts: within 1e-4 after 1e8 steps."""
    samples, options = load_digits().data, {"n_samples": [30, 200], "n_splits": 3, "n_generated": 500}
    solved = ln.split_experiment(samples, linear, **options)["convergence_split"].values
    print("\ndigits, N = 30 and 200, q of three splits\nclosed form     ", solved.round(4).ravel())
    gaps_by_length = []
    for Trained.n_iterations in (10, 10**4, 10**6, 10**8):
        q = ln.split_experiment(samples, lambda n_dim: Trained(ln.LinearDenoiser(n_dim)), **options)["convergence_split"].values
        gaps_by_length.append(np.abs(q - solved).max())
        print(f"{Trained.n_iterations:>9} steps ", q.round(4).ravel(), f"largest gap {gaps_by_length[-1]:.1e}")
    assert np.all(np.diff(gaps_by_length) < 0) and gaps_by_length[0] > 0.1 and gaps_by_length[-1] < 1e-4
