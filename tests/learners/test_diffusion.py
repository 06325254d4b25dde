"""The linear denoiser against brute force, its samplers against closed forms, and the density that it generates against both.

Two points ±√d e_k per dimension have the mean and the covariance of standard normal noise, so that an average over them is the exact
average of anything quadratic in ε.
"""

import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import learners
from fieldtheory import NoiseSchedule, files
from fieldtheory.errors import FileFormatError, InputError, NotNormalizableError, RegimeWarning
from learners import DDPM, LinearDenoiser, to_action
from learners.diffusion import Denoiser

HO, ALTERNATIVE = NoiseSchedule.linear(), NoiseSchedule.linear(1000, 1.099e-4, 0.01)
STEPS = [1, 2, 40, 300, 999, 1000]


def drawn(n_samples: int, n_dim: int, seed: int) -> np.ndarray:
    """Correlated samples away from the origin, variances between 0.05 and 20."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.normal(size=(n_dim, n_dim)))[0] * np.geomspace(0.3, 3, n_dim)
    return rng.normal(size=(n_samples, n_dim)) @ mixing.T + np.linspace(-2, 5, n_dim)


INSTANCES = {
    "three dimensions": (drawn(40, 3, 0), 0.0),
    "one dimension": (drawn(7, 1, 1), 0.0),
    "with a ridge": (drawn(30, 4, 2), 0.3),
    "constant columns": (np.insert(drawn(25, 3, 3), [1, 3], [7.0, -1.0], axis=1), 0.0),
    "constant columns, ridge": (np.insert(drawn(25, 3, 4), [0, 2], [7.0, 0.1], axis=1), 0.2),
    "fewer samples than dimensions": (drawn(4, 6, 5), 0.0),
    "fewer samples than dimensions, ridge": (drawn(4, 6, 6), 0.05),
    "two samples": (drawn(2, 2, 7), 0.0),
}
NORMALIZABLE = [name for name in INSTANCES if name not in ("fewer samples than dimensions", "two samples")]


def fitted(name: str, **options) -> DDPM:
    samples, ridge = INSTANCES[name]
    return DDPM(LinearDenoiser(samples.shape[1], ridge), **options).fit(samples)


def noise_points(n_dim: int) -> np.ndarray:
    points = np.sqrt(n_dim) * np.eye(n_dim)
    return np.concatenate([points, -points])


def noised(x: np.ndarray, t: int, schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of samples and noise points: x_t = √ᾱ_t x + s_t ε and ε."""
    eps = np.tile(noise_points(x.shape[1]), (len(x), 1))
    a, s2 = schedule.alpha_bar[t - 1], schedule.noise_variance[t - 1]
    return np.sqrt(a) * np.repeat(x, 2 * x.shape[1], axis=0) + np.sqrt(s2) * eps, eps


def predicted_noise(learner: DDPM, x: np.ndarray, t: int) -> np.ndarray:
    with torch.no_grad():
        return learner.denoiser(torch.as_tensor(x), t).numpy()


def matrix(learner: DDPM, t: int) -> np.ndarray:
    """W_t, from what the denoiser does to the unit vectors."""
    n_dim = learner.n_dim
    return predicted_noise(learner, np.eye(n_dim), t) - predicted_noise(learner, np.zeros((1, n_dim)), t)


def flow_matrix(learner: DDPM, n_sampling_steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """M and b of the affine map x = Mz + b from initial noise to samples."""
    b = learner.generate(np.zeros((1, learner.n_dim)), "probability_flow", n_sampling_steps)
    return (learner.generate(np.eye(learner.n_dim), "probability_flow", n_sampling_steps) - b).T, b[0]


def mode(variance: float, ridge: float = 0.0, schedule: NoiseSchedule = HO, mean: float = 0.0) -> DDPM:
    """A learner of one dimension whose two samples have exactly this (biased) variance."""
    learner = DDPM(LinearDenoiser(1, ridge))
    learner.schedule = schedule
    return learner.fit(mean + np.sqrt(variance) * np.array([[-1.0], [1.0]]))


# The optimum

@pytest.mark.parametrize("t", STEPS)
@pytest.mark.parametrize("name", INSTANCES)
def test_optimum_is_least_squares_on_noised_samples(name, t):
    """Rows for the penalty γ_t |W|², none for the offset; W is symmetric."""
    (x, ridge), learner = INSTANCES[name], fitted(name)
    x_t, eps = noised(x, t, HO)
    n_dim, weight = x.shape[1], np.sqrt(len(x_t) * ridge * HO.alpha_bar[t - 1])
    design = np.block([[x_t, np.ones((len(x_t), 1))], [weight * np.eye(n_dim), np.zeros((n_dim, 1))]])
    solution = np.linalg.lstsq(design, np.concatenate([eps, np.zeros((n_dim, n_dim))]), rcond=None)[0]
    W, b = solution[:-1].T, solution[-1]
    np.testing.assert_allclose(matrix(learner, t), W, atol=1e-8 * np.abs(W).max())
    np.testing.assert_allclose(predicted_noise(learner, np.zeros((1, n_dim)), t)[0], b, atol=1e-8 * (1 + np.abs(b).max()))
    np.testing.assert_allclose(W, W.T, atol=1e-8 * np.abs(W).max())


@pytest.mark.filterwarnings("ignore::fieldtheory.errors.RegimeWarning")
@settings(deadline=None, max_examples=40)
@given(x=arrays(float, (5, 3), elements=st.floats(-3, 3)), ridge=st.floats(0, 2), t=st.integers(1, 1000),
       change=arrays(float, (3, 3), elements=st.floats(-1, 1)))
def test_no_other_matrix_has_a_smaller_loss(x, ridge, t, change):
    """The penalized loss, written out over samples and noise points, rises by the square of any change of W."""
    assume(np.ptp(x, axis=0).max() > 0)
    learner = DDPM(LinearDenoiser(3, ridge)).fit(x)
    x_t, eps = noised(x, t, HO)
    x_t, gamma = x_t - np.sqrt(HO.alpha_bar[t - 1]) * x.mean(axis=0), ridge * HO.alpha_bar[t - 1]

    def penalized(W):
        return np.sum((eps - x_t @ W.T) ** 2) / len(x_t) + gamma * np.sum(W**2)

    W = matrix(learner, t)
    rise = np.sum((x_t @ change.T) ** 2) / len(x_t) + gamma * np.sum(change**2)
    assert penalized(W + change) == pytest.approx(penalized(W) + rise, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("t", STEPS)
def test_ridge_is_a_variance_added_to_the_covariance(t):
    """The same denoiser, at every step, as without a ridge on samples whose covariance is larger by it."""
    x, c = drawn(30, 4, 2), 0.3
    mean, (values, U) = x.mean(axis=0), np.linalg.eigh(np.cov(x.T, bias=True))
    wider = mean + (x - mean) @ (U * np.sqrt((values + c) / values)) @ U.T
    plain, ridged = DDPM(LinearDenoiser(4)).fit(wider), DDPM(LinearDenoiser(4, ridge=c)).fit(x)
    np.testing.assert_allclose(matrix(ridged, t), matrix(plain, t), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ridged.action().couplings[2].dense(), plain.action().couplings[2].dense(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("t", [1, 300, 1000])
@pytest.mark.parametrize("name", INSTANCES)
def test_gradient_descent_is_gradient_descent(name, t):
    """Nine steps in plain numpy on the explicit loss, from W = 0."""
    (x, ridge), n_dim = INSTANCES[name], INSTANCES[name][0].shape[1]
    learner = DDPM(LinearDenoiser(n_dim, ridge)).fit(x, method="gradient_descent", n_iterations=9, learning_rate=0.7)
    x_t, eps = noised(x - x.mean(axis=0), t, HO)
    gamma = ridge * HO.alpha_bar[t - 1]
    largest = np.linalg.eigvalsh(x_t.T @ x_t / len(x_t))[-1] + gamma
    W = np.zeros((n_dim, n_dim))
    for _ in range(9):
        gradient = -2 * (eps - x_t @ W.T).T @ x_t / len(x_t) + 2 * gamma * W
        W -= 0.7 / largest * gradient
    np.testing.assert_allclose(matrix(learner, t), W, atol=1e-10 * np.abs(W).max())


@pytest.mark.parametrize("name", INSTANCES)
def test_gradient_descent_ends_at_the_optimum(name):
    samples, ridge = INSTANCES[name]
    trained = DDPM(LinearDenoiser(samples.shape[1], ridge)).fit(samples, method="gradient_descent", n_iterations=10**8)
    torch.testing.assert_close(trained.denoiser.gain, fitted(name).denoiser.gain, rtol=1e-7, atol=0)


def test_no_iterations_leave_the_noise_as_it_is():
    """W = 0: every step only undoes the scale, x_0 = z/√ᾱ_T; there is no score to integrate."""
    learner = DDPM(LinearDenoiser(2)).fit(drawn(9, 2, 0), method="gradient_descent", n_iterations=0)
    z = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_allclose(learner.generate(z), z / np.sqrt(HO.alpha_bar[-1]), rtol=1e-10)
    with pytest.raises(NotNormalizableError, match="density of this learner is degenerate"):
        learner.action(t=3)


# The losses

@pytest.mark.parametrize("name", INSTANCES)
def test_losses_are_averages_over_noise_points(name):
    """Exactly, and on samples the learner has not seen too."""
    (x, _), learner = INSTANCES[name], fitted(name)
    for points in (x, x[:2] + [[0.3], [-1.1]]):
        for t in STEPS:
            x_t, eps = noised(points, t, HO)
            explicit = np.sum((eps - predicted_noise(learner, x_t, t)) ** 2) / len(x_t)
            assert learner.total_loss(points)[t - 1] == pytest.approx(explicit, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("name", ["three dimensions", "with a ridge", "fewer samples than dimensions, ridge"])
def test_losses_in_closed_form(name):
    """Σ (ᾱl + γ)/v − γs²/v² on the training samples, Σ ((ᾱl + γ)/v)² + s²ᾱδ/v² elsewhere, δ_k = ⟨(u_k·(x − μ̂))²⟩."""
    (x, ridge), learner = INSTANCES[name], fitted(name)
    unseen = drawn(50, x.shape[1], 8)
    l, U = np.linalg.eigh(np.cov(x.T, bias=True))
    delta = np.mean(((unseen - x.mean(axis=0)) @ U) ** 2, axis=0)
    a, s2 = HO.alpha_bar[:, None], HO.noise_variance[:, None]
    gamma = ridge * a
    v = a * l + s2 + gamma
    train = np.sum((a * l + gamma) / v - gamma * s2 / v**2, axis=1)
    test = np.sum(((a * l + gamma) / v) ** 2 + s2 * a * delta / v**2, axis=1)
    np.testing.assert_allclose(learner.total_loss(x), train, rtol=1e-8)
    np.testing.assert_allclose(learner.total_loss(unseen), test, rtol=1e-8)
    assert learner.history["step"] == list(range(1, 1001))
    np.testing.assert_allclose(learner.history["train"], train / x.shape[1], rtol=1e-8)


@pytest.mark.parametrize("seen", [True, False])
def test_losses_by_explicit_noise(seen):
    """Samples and noise drawn at random, 20,000 pairs at six steps: |z| < 4.5, a false alarm once in 12,000 runs of both."""
    learner, rng = fitted("with a ridge"), np.random.default_rng(9)
    points = INSTANCES["with a ridge"][0] if seen else drawn(50, 4, 8)
    exact = learner.total_loss(points)
    for t in STEPS:
        x, eps = points[rng.integers(len(points), size=20_000)], rng.normal(size=(20_000, 4))
        x_t = np.sqrt(HO.alpha_bar[t - 1]) * x + np.sqrt(HO.noise_variance[t - 1]) * eps
        squares = np.sum((eps - predicted_noise(learner, x_t, t)) ** 2, axis=1)
        assert abs(squares.mean() - exact[t - 1]) < 4.5 * squares.std() / np.sqrt(20_000), t


@pytest.mark.parametrize("name", ["constant columns", "constant columns, ridge"])
def test_constant_columns_have_no_part_in_the_mean_loss(name):
    samples, ridge = INSTANCES[name]
    learner = fitted(name)
    without = DDPM(LinearDenoiser(3, ridge)).fit(samples[:, learner.columns.kept])
    other = samples[:4] + np.arange(5.0)
    np.testing.assert_allclose(learner.history["train"], without.history["train"], rtol=1e-9)
    np.testing.assert_allclose(learner.loss(other), without.loss(other[:, learner.columns.kept]), rtol=1e-9)


# The samplers

TABLE = [  # v_0(l)/l of theory and simulation, without ridge, T = 1000
    (HO, "beta", [.705, .999, 1.015, 1.006, 1.000, .996, .994]),
    (HO, "posterior", [.430, .779, .928, .976, .991, .994, .994]),
    (HO, range(1000, 0, -1), [.470, .856, .967, .991, .996, .997, .993]),
    (HO, range(1000, 0, -20), [.017, .142, .550, .838, .928, .942, .930]),
    (ALTERNATIVE, "beta", [.651, .974, 1.008, 1.004, 1.000, .994, .848]),
    (ALTERNATIVE, range(1000, 0, -1), [.455, .861, .977, .998, .997, .945, .616]),
]
VARIANCES = [1e-4, 1e-3, 1e-2, .1, 1, 10, 100]


def sampled_variance(learner: DDPM, how) -> float:
    d, schedule = learner.denoiser, learner.schedule
    return float(d.ancestral_moments(schedule, how)[1] if isinstance(how, str) else d.flow_gain(schedule, how) ** 2)


@pytest.mark.filterwarnings("ignore::fieldtheory.errors.RegimeWarning")
@pytest.mark.parametrize("schedule, how, ratios", TABLE)
def test_variance_of_generated_samples_by_variance_of_the_data(schedule, how, ratios):
    found = [sampled_variance(mode(l, schedule=schedule), how) / l for l in VARIANCES]
    np.testing.assert_allclose(found, ratios, atol=1e-3)


@pytest.mark.filterwarnings("ignore::fieldtheory.errors.RegimeWarning")
@pytest.mark.parametrize("schedule", [HO, ALTERNATIVE])
@pytest.mark.parametrize("l", VARIANCES)
def test_ancestral_sampling_telescopes_to_a_riemann_sum(l, schedule):
    """v_0 = (l/(l + σ_T²))²/ᾱ_T + Σ_{t≥2} w_t (l/(l + σ_{t−1}²))² is a sum for ∫ l² du/(l + u)² = l; ρ = l/(l + σ_T²)."""
    learner = mode(l, schedule=schedule)
    a, sigma2 = schedule.alpha_bar, schedule.sigma2
    rise = sigma2[1:] - sigma2[:-1]
    weights = {"beta": (1 - schedule.beta[1:]) * rise, "posterior": sigma2[:-1] / sigma2[1:] * rise}
    for variance, w in weights.items():
        rho, v = learner.denoiser.ancestral_moments(schedule, variance)
        assert float(v) == pytest.approx((l / (l + sigma2[-1])) ** 2 / a[-1] + w @ (l / (l + sigma2[:-1])) ** 2, rel=1e-10)
        assert np.sqrt(a[-1]) * float(rho) == pytest.approx(l / (l + sigma2[-1]), rel=1e-10)


@pytest.mark.filterwarnings("ignore::fieldtheory.errors.RegimeWarning")
@settings(deadline=None, max_examples=60)
@given(l=st.floats(1e-3, 1e2), ridge=st.sampled_from([0.0, 0.1, 3.0]), steps=st.sets(st.integers(1, 1000), min_size=1, max_size=30))
def test_probability_flow_in_closed_form_on_any_steps(l, ridge, steps):
    """f = ᾱ_T^{−1/2} Π (l + c + σ_t σ_u)/(l + c + σ_t²) over the pairs of neighbouring steps t > u, 0 the last u."""
    steps = sorted(steps, reverse=True)
    learner, sigma = mode(l, ridge), np.sqrt(np.concatenate([[0.0], HO.sigma2]))
    t, u = np.array(steps), np.array([*steps[1:], 0])
    f = np.prod((l + ridge + sigma[t] * sigma[u]) / (l + ridge + sigma[t] ** 2)) / np.sqrt(HO.alpha_bar[steps[0] - 1])
    assert float(learner.denoiser.flow_gain(HO, steps)) == pytest.approx(f, rel=1e-10)


@pytest.mark.filterwarnings("ignore::fieldtheory.errors.RegimeWarning")
@pytest.mark.parametrize("ridge", [0.0, 0.5])
@pytest.mark.parametrize("l", [1e-2, 1.0, 100.0])
def test_many_steps_reach_the_continuum(l, ridge):
    """40,000 steps: v = (1 + σ_T²) A/(A + σ_T²) by the flow and A + (1 − A)(A/(A + σ_T²))² by the ancestral chain, A = l + c."""
    schedule = NoiseSchedule.linear(40_000, 2.5e-6, 5e-4)
    learner, A, last = mode(l, ridge, schedule), l + ridge, schedule.sigma2[-1]
    v = float(learner.denoiser.flow_gain(schedule, range(40_000, 0, -1)) ** 2)
    assert v == pytest.approx((1 + last) * A / (A + last), rel=2e-3)
    stochastic = float(learner.denoiser.ancestral_moments(schedule)[1])
    assert stochastic == pytest.approx(A + (1 - A) * (A / (A + last)) ** 2, rel=2e-3)


@pytest.mark.parametrize("steps", [range(1000, 0, -1), range(1000, 0, -20), [1000, 7, 3], [1000], [650, 1]], ids=str)
@pytest.mark.parametrize("name", INSTANCES)
def test_shortcut_through_the_modes_is_step_by_step_sampling(name, steps):
    learner = fitted(name)
    z = torch.as_tensor(np.random.default_rng(0).normal(size=(6, learner.n_dim)))
    one, all_steps = (sampler(learner.denoiser, z, HO, list(steps)) for sampler in (LinearDenoiser.probability_flow,
                                                                                  Denoiser.probability_flow))
    torch.testing.assert_close(one, all_steps, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("count, steps", [(None, range(1000, 0, -1)), (1000, range(1000, 0, -1)), (1, [1000]), (2, [1000, 1]),
                                          (4, [1000, 667, 334, 1])])
def test_fewer_sampling_steps_are_spread_between_the_last_and_the_first(count, steps):
    learner, z = fitted("three dimensions"), np.random.default_rng(0).normal(size=(4, 3))
    expected = Denoiser.probability_flow(learner.denoiser, torch.as_tensor(z), HO, list(steps))
    np.testing.assert_allclose(learner.generate(z, n_sampling_steps=count), expected, rtol=1e-9)


@pytest.mark.parametrize("name", NORMALIZABLE)
def test_action_of_the_flow_is_that_of_its_image(name):
    """The flow is affine, x = Mz + b: covariance MMᵀ, mean b, up to the columns that are constant."""
    learner = fitted(name)
    M, b = flow_matrix(learner)
    kept, S = learner.columns.kept, learner.action()
    covariance = np.linalg.inv(-2 * S.couplings[2].dense())
    np.testing.assert_allclose(covariance, (M @ M.T)[np.ix_(kept, kept)], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(S.at, b[kept], rtol=1e-9)
    assert (S.gauge, S.order, S.n_dim) == ("exact", 2, kept.size)


@pytest.mark.parametrize("name", ["three dimensions", "one dimension", "with a ridge", "constant columns"])
def test_action_of_the_ancestral_sampler_is_what_it_generates(name):
    """6,000 samples: every entry of mean and covariance at |z| < 5, a false alarm once in 50,000 runs of all."""
    learner, n = fitted(name, sampler="ancestral"), 6000
    S, x = learner.action(), learner.sample(n, seed=3)[:, learner.columns.kept]
    C = np.linalg.inv(-2 * S.couplings[2].dense())
    assert np.all(np.abs(x.mean(axis=0) - S.at) < 5 * np.sqrt(np.diag(C) / n))
    assert np.all(np.abs(np.cov(x.T).reshape(C.shape) - C) < 5 * np.sqrt((np.outer(np.diag(C), np.diag(C)) + C**2) / n))
    assert np.abs(C - np.linalg.inv(-2 * fitted(name).action().couplings[2].dense())).max() > 1e-4  # not the flow's


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_ancestral_samples_have_the_moments_of_their_modes(variance):
    """Four large steps, so that the noise of each is seen: |z| < 5 for 100,000 samples, a false alarm once in 150,000 runs."""
    x, n, schedule, d = drawn(40, 3, 0), 100_000, NoiseSchedule([0.1, 0.3, 0.4, 0.6]), LinearDenoiser(3)
    d.fit(x, schedule)
    z = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    along = (d.ancestral(z, schedule, torch.Generator().manual_seed(2), variance) - d.mean) @ d.vectors
    factor, v = d.ancestral_moments(schedule, variance)
    mean = -np.sqrt(schedule.alpha_bar[-1]) * factor * (d.mean @ d.vectors)
    assert torch.all((along.mean(0) - mean).abs() < 5 * (v / n).sqrt())
    assert torch.all((along.var(0) - v).abs() < 5 * v * np.sqrt(2 / n))


def test_mean_of_generated_samples_is_pulled_to_the_origin():
    """(1 − ρ) μ̂ with ρ = l/(l + σ_T²) for the ancestral chain: noise at the last step is not quite pure."""
    learner = mode(25.0, mean=40.0)
    rho = 25 / (25 + HO.sigma2[-1])
    learner.sampler = "ancestral"
    assert learner.action().at[0] == pytest.approx(40 * (1 - rho), rel=1e-10)


# The density

@pytest.mark.parametrize("t", STEPS)
@pytest.mark.parametrize("name", INSTANCES)
def test_action_at_a_step_is_that_of_the_score(name, t):
    """A^(2) = −W_t/(2 s_t), ∇S = −ε_θ/s_t; the data's coordinates are y = x_t/√ᾱ_t. Fewer samples than dimensions do not matter."""
    learner = fitted(name)
    kept, s, root = learner.columns.kept, np.sqrt(HO.noise_variance[t - 1]), np.sqrt(HO.alpha_bar[t - 1])
    S, in_data = (learner.action(t=t, coordinates=c) for c in ("noised", "data"))
    W = matrix(learner, t)[np.ix_(kept, kept)]
    np.testing.assert_allclose(S.couplings[2].dense(), -W / (2 * s), rtol=1e-6, atol=1e-9 * np.abs(W).max() / s)
    x = np.random.default_rng(0).normal(size=(2, 3, learner.n_dim)) + root * learner.columns.constants
    expected = -predicted_noise(learner, x.reshape(6, -1), t).reshape(x.shape)[..., kept] / s
    tolerance = {"rtol": 1e-6, "atol": 1e-8 * np.abs(expected).max()}
    np.testing.assert_allclose(learner.score(x, t), expected, rtol=1e-12)
    np.testing.assert_allclose(S.score(x[..., kept]), expected, **tolerance)
    moved = S.pullback(root * np.eye(kept.size), np.zeros(kept.size))
    np.testing.assert_allclose(in_data.score(x[..., kept]), moved.score(x[..., kept]), **tolerance)
    np.testing.assert_allclose(in_data(x[..., kept]), moved(x[..., kept]), rtol=1e-6)
    assert S.names == learner.names


@pytest.mark.parametrize("t", [None, 1, 200, 1000])
@pytest.mark.parametrize("sampler", ["probability_flow", "ancestral"])
def test_densities_are_normalized(sampler, t):
    """The trapezoid rule over ±8 standard deviations in one dimension."""
    learner = fitted("one dimension", sampler=sampler)
    S = learner.action(t)
    grid = S.at + np.linspace(-8, 8, 400)[:, None] / np.sqrt(-2 * S[0, 0])
    assert np.trapezoid(np.exp(S(grid)), grid[:, 0]) == pytest.approx(1, abs=1e-12)
    if t is None:
        np.testing.assert_allclose(learner.log_prob(grid), S(grid), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NORMALIZABLE)
def test_log_prob_is_the_gaussian_of_the_flow_and_the_score_its_slope(name):
    learner = fitted(name)
    kept, (M, b) = learner.columns.kept, flow_matrix(learner)
    covariance = (M @ M.T)[np.ix_(kept, kept)]
    x, h = INSTANCES[name][0][:5] + 0.1, 1e-4
    u = x[:, kept] - b[kept]
    expected = -0.5 * (np.sum(u * np.linalg.solve(covariance, u.T).T, axis=1) + np.linalg.slogdet(2 * np.pi * covariance)[1])
    np.testing.assert_allclose(learner.log_prob(x), expected, rtol=1e-7)
    step = h * np.eye(learner.n_dim)[kept]
    slope = (learner.log_prob(x[:, None] + step) - learner.log_prob(x[:, None] - step)) / (2 * h)
    np.testing.assert_allclose(learner.score(x), slope, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(to_action(learner)(x[:, kept]), expected, rtol=1e-7)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e7])
@pytest.mark.parametrize("sampler", ["probability_flow", "ancestral"])
@pytest.mark.filterwarnings("ignore::fieldtheory.errors.RegimeWarning")
def test_fewer_samples_than_dimensions_have_no_density(sampler, scale):
    """Whatever the units: rounding is no variance. A ridge gives the density back."""
    for n_samples in (2, 5, 6):
        x = scale * drawn(n_samples, 6, 10)
        for call in (lambda x=x: DDPM(LinearDenoiser(6), sampler=sampler).fit(x).action(),
                     lambda x=x: DDPM(LinearDenoiser(6), sampler=sampler).fit(x).log_prob(x)):
            with pytest.raises(NotNormalizableError, match=r"^the density of this learner is degenerate, its covariance is singular: it "
                                                           r"saw no more samples than dimensions, or its columns depend on each other\. "
                                                           r"Fit more samples, or give LinearDenoiser a ridge\.$"):
                call()
        DDPM(LinearDenoiser(6, ridge=scale**2), sampler=sampler).fit(x).action()
    assert DDPM(LinearDenoiser(6), sampler=sampler).fit(scale * drawn(40, 6, 10)).action().n_dim == 6


@pytest.mark.filterwarnings("ignore::fieldtheory.errors.RegimeWarning")
def test_a_small_variance_is_no_rounding():
    x = np.random.default_rng(0).normal(size=(50, 2)) * [1e4, 1e-2]
    learner = DDPM(LinearDenoiser(2)).fit(x)
    assert float(learner.denoiser.eigenvalues[0]) == pytest.approx(np.linalg.det(np.cov(x.T, bias=True)) / x[:, 0].var(), rel=1e-3)


def test_columns_that_depend_on_each_other_have_no_density():
    x = drawn(50, 3, 11)
    with pytest.raises(NotNormalizableError, match="or its columns depend on each other"):
        DDPM(LinearDenoiser(4)).fit(np.column_stack([x, x[:, 0] - x[:, 2]])).action()


# The learner

@pytest.mark.parametrize("name", INSTANCES)
def test_a_learner_comes_back_from_its_file(tmp_path, name):
    learner = fitted(name, n_steps=1000, sampler="ancestral")
    again = learners.load(learner.save(tmp_path / "learner.safetensors"))
    z = np.random.default_rng(0).normal(size=(3, learner.n_dim))
    assert again.config() == learner.config() == {"denoiser": {"n_dim": learner.n_dim, "ridge": INSTANCES[name][1]},
                                                  "n_steps": 1000, "sampler": "ancestral"}
    assert again.history == learner.history and again.names == learner.names
    np.testing.assert_array_equal(again.generate(z), learner.generate(z))
    np.testing.assert_array_equal(again.generate(z, "probability_flow"), learner.generate(z, "probability_flow"))
    np.testing.assert_array_equal(again.sample(3), learner.sample(3))
    np.testing.assert_array_equal(again.score(z, 5), learner.score(z, 5))
    np.testing.assert_array_equal(again.total_loss(z), learner.total_loss(z))


@pytest.mark.parametrize("entry, shape", [("gain", (999, 3)), ("gain", (1000, 2)), ("gain", (0, 3)), ("gain", (3000,)), ("gain", None),
                                          ("root_alpha_bar", (0,)), ("root_alpha_bar", (1,)), ("mean", (2,)), ("vectors", (9,))])
def test_a_file_of_another_shape_is_refused(tmp_path, entry, shape):
    path = fitted("three dimensions").save(tmp_path / "learner.safetensors")
    contents, header = files.read(path, "learner")
    if shape is None:
        del contents[f"state.denoiser.{entry}"]
    else:
        contents[f"state.denoiser.{entry}"] = np.ones(shape)
    files.write(path, "learner", contents, {k: v for k, v in header.items() if k not in ("kind", "format")})
    with pytest.raises(FileFormatError, match="must hold a complete DDPM, its header and weights do not fit together"):
        learners.load(path)


@pytest.mark.parametrize("sampler", ["probability_flow", "ancestral"])
def test_same_seed_same_numbers(sampler):
    learner, again = (fitted("with a ridge", sampler=sampler) for _ in range(2))
    np.testing.assert_array_equal(learner.sample(5, seed=1), again.sample(5, seed=1))
    assert not np.array_equal(learner.sample(5, seed=1), learner.sample(5, seed=2))
    z = np.random.default_rng(0).normal(size=(5, 4))
    same, other = learner.generate(z, seed=3), learner.generate(z, seed=4)
    np.testing.assert_array_equal(same, again.generate(z, seed=3))
    assert np.array_equal(same, other) == (sampler == "probability_flow")


def test_constants_come_back_in_samples():
    """A ridge is a variance of every direction to `generate`, which compares learners; samples have the constants of the data."""
    for name, varies in (("constant columns", False), ("constant columns, ridge", True)):
        learner = fitted(name)
        fixed = learner.columns.dropped
        sampled, generated = learner.sample(50, seed=1), learner.generate(np.random.default_rng(0).normal(size=(50, 5)))
        np.testing.assert_array_equal(sampled[:, fixed], np.tile(INSTANCES[name][0][0, fixed], (50, 1)))
        assert np.all(np.ptp(generated[:, fixed], axis=0) > 1e-9) == varies
        np.testing.assert_allclose(generated[:, fixed].mean(axis=0), INSTANCES[name][0][0, fixed], atol=0.5 if varies else 1e-9)


def test_samples_are_generated_on_the_steps_asked_for():
    learner = fitted("three dimensions")
    few, all_steps = (learner.sample(4000, seed=1, n_sampling_steps=n) for n in (10, None))
    M, b = flow_matrix(learner, 10)
    root = np.linalg.cholesky(M @ M.T)
    white = np.linalg.solve(root, (few - b).T)
    np.testing.assert_allclose(np.cov(white), np.eye(3), atol=5 * np.sqrt(2 / 4000))  # 5 σ
    assert not np.allclose(few, all_steps)


@pytest.mark.parametrize("scale, n_steps, outside", [(1.0, 1000, False), (0.01, 1000, True), (1e3, 1000, True), (1.0, 100, True)])
def test_variances_that_the_noise_does_not_resolve_are_warned_of(recwarn, scale, n_steps, outside):
    """And rightly: there, generated variances are off by more than 5 %, elsewhere by less."""
    x = scale * drawn(200, 3, 12)
    learner = DDPM(LinearDenoiser(3), n_steps=n_steps).fit(x)
    M, _ = flow_matrix(learner)
    assert (abs(np.trace(M @ M.T) / np.trace(np.cov(x.T, bias=True)) - 1) > 0.05) == outside
    words = [str(w.message) for w in recwarn if w.category is RegimeWarning]
    assert len(words) == outside
    assert all(re.match(r"the variances of the samples must lie well above 1\.0e-04 and well below \d\.\de[+-]\d\d, those of the noise",
                        text) for text in words)


def test_a_ridge_makes_small_variances_safe(recwarn):
    DDPM(LinearDenoiser(3, ridge=1.0)).fit(1e-4 * drawn(20, 3, 0))
    assert not recwarn.list


LEARNER, UNFITTED = fitted("three dimensions"), DDPM(LinearDenoiser(3))
Z = np.zeros((2, 3))


@pytest.mark.parametrize("call, message", [
    (lambda: LinearDenoiser(0), "n_dim must be a whole number of at least 1, got 0."),
    (lambda: LinearDenoiser(2.0), "n_dim must be a whole number of at least 1, got 2.0."),
    (lambda: LinearDenoiser(2, ridge=-0.1), "ridge must be a finite variance of at least 0, got -0.1."),
    (lambda: LinearDenoiser(2, ridge=np.nan), "ridge must be a finite variance of at least 0, got nan."),
    (lambda: LinearDenoiser(2, ridge=np.inf), "ridge must be a finite variance of at least 0, got inf."),
    (lambda: DDPM(3), "denoiser must be a LinearDenoiser, got int."),
    (lambda: DDPM(LinearDenoiser(2), n_steps=0), "n_steps must be a whole number of at least 1, got 0."),
    (lambda: DDPM(LinearDenoiser(2), sampler="ddim"), "sampler must be one of probability_flow, ancestral, got 'ddim'."),
    (lambda: UNFITTED.fit(np.zeros((9, 2))), "samples must have the learner's n_dim = 3 columns, got 2."),
    (lambda: UNFITTED.fit(np.ones((9, 3))), "samples must vary, all 3 columns are constant; there is no density to learn."),
    (lambda: UNFITTED.fit(Z[:1]), "samples must hold at least 2 rows and one column, got shape (1, 3)"),
    (lambda: UNFITTED.fit(np.full((9, 3), np.nan)), "samples must be finite, got 27 NaN or infinite entries"),
    (lambda: UNFITTED.fit(drawn(9, 3, 0), device="abacus"), "device must be auto, cpu or a GPU of this machine, got 'abacus'."),
    (lambda: UNFITTED.fit(drawn(9, 3, 0), method="magic"), "method must be closed_form or gradient_descent, got 'magic'."),
    (lambda: UNFITTED.fit(drawn(9, 3, 0), method="gradient_descent", n_iterations=-1), "n_iterations must be a whole number of at least 0"),
    (lambda: UNFITTED.fit(drawn(9, 3, 0), method="gradient_descent", learning_rate=1.0),
     "learning_rate must lie between 0 and 1, the stability limit, got 1.0."),
    (lambda: UNFITTED.action(), "the learner must be fitted first; call fit(samples)."),
    (lambda: UNFITTED.log_prob(Z), "the learner must be fitted first"),
    (lambda: UNFITTED.score(Z), "the learner must be fitted first"),
    (lambda: UNFITTED.score(Z, 1), "the learner must be fitted first"),
    (lambda: UNFITTED.sample(2), "the learner must be fitted first"),
    (lambda: UNFITTED.generate(Z), "the learner must be fitted first"),
    (lambda: UNFITTED.total_loss(Z), "the learner must be fitted first"),
    (lambda: UNFITTED.loss(Z), "the learner must be fitted first"),
    (lambda: UNFITTED.save("nothing.safetensors"), "the learner must be fitted first"),
    (lambda: LEARNER.generate(np.zeros((2, 4))), "noise must have shape (..., 3), got (2, 4)"),
    (lambda: LEARNER.generate(Z * np.nan), "noise must be finite, got 6 NaN or infinite entries"),
    (lambda: LEARNER.generate(Z, "magic"), "sampler must be one of probability_flow, ancestral, got 'magic'."),
    (lambda: LEARNER.generate(Z, ""), "sampler must be one of probability_flow, ancestral, got ''."),
    (lambda: LEARNER.generate(Z, seed=-1), "seed must be a whole number of at least 0, got -1."),
    (lambda: LEARNER.generate(Z, n_sampling_steps=0), "n_sampling_steps must be a whole number of at least 1, got 0."),
    (lambda: LEARNER.generate(Z, n_sampling_steps=1001), "n_sampling_steps must be at most the 1000 steps of the schedule, got 1001."),
    (lambda: LEARNER.generate(Z, "ancestral", 10), "n_sampling_steps must be left out for the ancestral sampler: it takes every step."),
    (lambda: LEARNER.denoiser.ancestral_moments(HO, "half"), "variance must be beta or posterior, got 'half'."),
    (lambda: LEARNER.action(t=0), "t must be a whole number of at least 1, got 0."),
    (lambda: LEARNER.action(t=1001), "t must be a step 1 … 1000, got 1001."),
    (lambda: LEARNER.action(t=1.5), "t must be a whole number of at least 1, got 1.5."),
    (lambda: LEARNER.score(Z, 1001), "t must be a step 1 … 1000, got 1001."),
    (lambda: LEARNER.score(np.zeros(2), 1), "x must have shape (..., 3), got (2,)"),
    (lambda: LEARNER.action(t=3, coordinates="latent"), "coordinates must be data or noised, got 'latent'."),
    (lambda: LEARNER.action(coordinates="noised"), "t must be a step for noised coordinates, got None"),
    (lambda: LEARNER.loss(np.zeros((2, 4))), "samples must have shape (..., 3), got (2, 4)"),
    (lambda: LEARNER.total_loss(np.zeros(3)), "samples must have shape (n_samples, n_dim), got an array of rank 1"),
])
def test_wrong_arguments_get_one_sentence(call, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"method": "magic"}, {"device": "abacus"}, {"method": "gradient_descent", "learning_rate": 2.0}])
def test_a_refused_fit_leaves_the_learner(options):
    learner, z = fitted("constant columns"), np.ones((2, 5))
    before, names = learner.generate(z), learner.names
    with pytest.raises(InputError):
        learner.fit(drawn(20, 5, 0), **options)
    np.testing.assert_array_equal(learner.generate(z), before)
    assert learner.names == names


def test_a_second_fit_forgets_the_first():
    learner, x = fitted("constant columns"), drawn(20, 5, 0)
    np.testing.assert_array_equal(learner.fit(x).log_prob(x), DDPM(LinearDenoiser(5)).fit(x).log_prob(x))
    assert learner.names is None
