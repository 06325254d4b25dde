"""The experiment on disjoint halves, written out in numpy; its laws; what it refuses; and that it can be interrupted."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldtheory import NoiseSchedule, files, generalization
from fieldtheory.errors import FileFormatError, InputError
from learners import DDPM, LinearDenoiser, QuadraticFlow, split_experiment
from learners.data import disjoint_halves
from learners.split import convergence, mean_cosine, memorized

HO = NoiseSchedule.linear()
QUANTITIES = ("convergence", "cosine", "train_loss", "test_loss", "memorization")
SAMPLES = np.random.default_rng(0).normal(size=(60, 4)) * [2.0, 1.0, 0.7, 0.3] + [5.0, 0.0, -3.0, 1.0]


def linear(n_dim: int) -> DDPM:
    return DDPM(LinearDenoiser(n_dim))


class Recorder(DDPM):
    """Keeps what every learner was fitted to and which seeds it generated with; interrupts at a given fit."""

    fits: list
    seeds: list
    stop = np.inf

    def fit(self, samples, **options):
        if len(Recorder.fits) >= Recorder.stop:
            raise KeyboardInterrupt
        Recorder.fits.append(np.array(samples))
        return super().fit(samples, **options)

    def generate(self, noise, *args, seed=0, **options):
        Recorder.seeds.append(seed)
        return super().generate(noise, *args, seed=seed, **options)


@pytest.fixture
def recorder():
    Recorder.fits, Recorder.seeds, Recorder.stop = [], [], np.inf
    return lambda n_dim: Recorder(LinearDenoiser(n_dim))


# One split, written out

def written_out(x: np.ndarray, N: int, seed: list[int], n_generated: int, ridge: float) -> dict:
    """Halves, the closed form of the linear model and of the flow, and every quantity by its definition."""
    chosen = np.random.default_rng(seed).permutation(len(x))[:2 * N]
    rest = np.setdiff1d(np.arange(len(x)), chosen)
    z = np.random.default_rng([*seed, 1]).normal(size=(n_generated, x.shape[1]))
    models = [model(x[half], ridge) for half in (chosen[:N], chosen[N:])]
    A, B = ([mean + (u - root_alpha * mean) @ M for u in z] for mean, M, root_alpha, _ in models)
    a, b = np.array(A) - np.mean(A, axis=0), np.array(B) - np.mean(B, axis=0)
    inner = [np.dot(u, v) for u, v in zip(a, b)]
    norms = [(np.dot(u, u), np.dot(v, v)) for u, v in zip(a, b)]
    total = np.sum(norms, axis=0)
    seen = [losses(x[half], m) for half, m in zip((chosen[:N], chosen[N:]), models)]
    unseen = [losses(x[rest], m) for m in models] if len(rest) else [np.nan]
    copies = [copied(u, x[half]) for half, own in zip((chosen[:N], chosen[N:]), (A, B)) for u in own]
    return {"convergence": np.sum(inner) / np.sqrt(total[0] * total[1]),
            "cosine": np.mean([i / np.sqrt(n * m) for i, (n, m) in zip(inner, norms)]),
            "train_loss": np.mean(seen), "test_loss": np.mean(unseen), "memorization": np.mean(copies)}


def model(x: np.ndarray, ridge: float) -> tuple:
    """Mean, matrix of the flow (C. f of the closed form with all steps), √ᾱ_T, and W_t by matrix inversion."""
    mean, C, one = x.mean(axis=0), np.cov(x.T, bias=True), np.eye(x.shape[1])
    l, U = np.linalg.eigh(C)
    sigma = np.sqrt(np.concatenate([[0.0], HO.sigma2]))
    f = [np.prod((v + ridge + sigma[1:] * sigma[:-1]) / (v + ridge + sigma[1:] ** 2)) / np.sqrt(HO.alpha_bar[-1]) for v in l]
    W = [s * np.linalg.inv(a * (C + ridge * one) + s**2 * one) for a, s in zip(HO.alpha_bar, np.sqrt(HO.noise_variance))]
    return mean, (U * f) @ U.T, np.sqrt(HO.alpha_bar[-1]), np.array(W)


def losses(y: np.ndarray, fitted: tuple) -> float:
    """E|ε − W(√ᾱ(y − μ̂) + sε)|²/d = (|1 − sW|² + ᾱ tr W Y Wᵀ)/d, mean over steps."""
    mean, _, _, W = fitted
    Y, s = (y - mean).T @ (y - mean) / len(y), np.sqrt(HO.noise_variance)[:, None, None]
    noise = np.sum((np.eye(y.shape[1]) - s * W) ** 2, axis=(1, 2))
    return float(np.mean(noise + HO.alpha_bar * np.einsum("tij,jk,tik->t", W, Y, W)) / y.shape[1])


def copied(point: np.ndarray, training: np.ndarray) -> bool:
    nearest, second = sorted(np.linalg.norm(point - row) for row in training)[:2]
    return nearest < second / 3


@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_every_quantity_of_every_split(ridge):
    """Fewer samples than dimensions, more, and half of all, where nothing is unseen."""
    found = split_experiment(SAMPLES, lambda n_dim: DDPM(LinearDenoiser(n_dim, ridge)), [3, 20, 30], n_splits=3, seed=5, n_generated=40)
    for N in (3, 20, 30):
        for j in range(3):
            for name, value in written_out(SAMPLES, N, [5, N, j], 40, ridge).items():
                assert float(found[f"{name}_split"].sel(n_samples=N, split=j)) == pytest.approx(value, rel=1e-7, nan_ok=True), name
    assert np.isnan(found["test_loss"].sel(n_samples=30))
    assert float(found["memorization"].sel(n_samples=3)) > 0


def test_means_and_standard_errors():
    found = split_experiment(SAMPLES, linear, [5, 20], n_splits=4, n_generated=50)
    for name in QUANTITIES:
        values = found[f"{name}_split"].values
        assert values.shape == (2, 4)
        np.testing.assert_allclose(found[name], values.mean(axis=1))
        np.testing.assert_allclose(found[f"{name}_error"], np.sqrt(((values.T - values.mean(axis=1)) ** 2).sum(axis=0) / 3 / 4))
    assert np.all(found["convergence_error"] > 0)
    assert found.attrs["n_splits"] == 4 and found.attrs["n_generated"] == 50 and found.attrs["seed"] == 0
    assert found.attrs["learner"] == 'DDPM {"denoiser": {"n_dim": 4, "ridge": 0.0}, "n_steps": 1000, "sampler": "probability_flow"}'


@pytest.mark.parametrize("N", [2, 17, 30])
def test_halves_are_disjoint_and_as_many_as_asked_for(N, recorder):
    split_experiment(SAMPLES, recorder, [N], n_splits=4, seed=3, n_generated=10)
    rows = [sorted(int(np.flatnonzero((row == SAMPLES).all(axis=1))[0]) for row in half) for half in Recorder.fits]
    assert len(rows) == 8
    for j, (first, second) in enumerate(zip(rows[::2], rows[1::2])):
        assert len(set(first) | set(second)) == 2 * N
        assert [first, second] == [sorted(half) for half in disjoint_halves(60, N, [3, N, j])]
    assert len({tuple(half) for half in rows}) == 8


# Laws

pairs = st.tuples(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 6))


@settings(deadline=None, max_examples=50)
@given(pair=pairs, scale=st.floats(1e-6, 1e6), shift=st.floats(-100, 100))
def test_laws_of_convergence(pair, scale, shift):
    """1 with itself, symmetric, at most 1, blind to a shared scale, shift and rotation; the opposite has −1."""
    seed, n, d = pair
    a, b = np.random.default_rng(seed).normal(size=(2, n, d))
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    q = convergence(a, b)
    assert abs(q) <= 1 + 1e-12
    assert convergence(a, a) == pytest.approx(1, rel=1e-12)
    assert convergence(a, -a) == pytest.approx(-1, rel=1e-12)
    assert convergence(b, a) == pytest.approx(q, abs=1e-12)
    assert convergence(scale * a @ rotation, scale * b @ rotation) == pytest.approx(q, abs=1e-10)
    assert convergence(a + shift, b + shift) == pytest.approx(q, abs=1e-10)
    assert mean_cosine(a, a) == pytest.approx(1, rel=1e-12)
    assert mean_cosine(scale * a + shift, scale * b + shift) == pytest.approx(mean_cosine(a, b), abs=1e-8 + 1e-13 * abs(shift) / scale)


def test_convergence_weighs_samples_by_their_norms_and_the_cosine_does_not():
    a = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    b = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
    assert convergence(a, b) == pytest.approx((18 - 2) / 20)
    assert mean_cosine(a, b) == 0


def test_learners_of_the_same_half_agree_and_independent_noise_does_not(monkeypatch):
    """q = 1 if D_A = D_B. Noise that is not shared leaves q at 0 ± 1/√(1000·d_PR): |z| < 5."""
    monkeypatch.setattr("learners.split.disjoint_halves", lambda n, N, seed: (np.arange(N), np.arange(N)))
    found = split_experiment(SAMPLES, linear, [20], n_splits=2, n_generated=1000)
    np.testing.assert_allclose(found["convergence_split"], 1, rtol=1e-12)
    np.testing.assert_allclose(found["cosine_split"], 1, rtol=1e-12)
    learner, rng = linear(4).fit(SAMPLES), np.random.default_rng(0)
    q = convergence(*(learner.generate(rng.normal(size=(1000, 4))) for _ in "AB"))
    variances = np.linalg.eigvalsh(np.cov(SAMPLES.T))
    assert abs(q) < 5 * np.sqrt(np.sum(variances**2) / np.sum(variances) ** 2 / 1000)


def test_a_shift_of_the_data_changes_nothing_and_a_scale_little():
    """The flow is affine, a shift leaves its matrix alone. A scale moves the data relative to the noise: 1,000 steps allow 1 %."""
    one, shifted, scaled = (split_experiment(x, linear, [10, 25], n_splits=3, n_generated=100)
                            for x in (SAMPLES, SAMPLES - 300, 3 * SAMPLES))
    for name in ("convergence_split", "cosine_split", "train_loss_split", "test_loss_split"):
        np.testing.assert_allclose(shifted[name], one[name], rtol=1e-7)
    np.testing.assert_allclose(scaled["convergence_split"], one["convergence_split"], atol=0.01)


def test_same_seed_same_numbers_and_sizes_do_not_disturb_each_other():
    one, again, other, alone = (split_experiment(SAMPLES, linear, sizes, n_splits=2, seed=seed, n_generated=30)
                                for sizes, seed in (([5, 20], 1), ([5, 20], 1), ([5, 20], 2), (20, 1)))
    assert one.identical(again)
    assert one.attrs["sha256"] == other.attrs["sha256"]
    for name in ("convergence", "cosine", "train_loss", "test_loss"):
        assert np.all(one[f"{name}_split"].values != other[f"{name}_split"].values)
        np.testing.assert_array_equal(alone[f"{name}_split"][0], one[f"{name}_split"].sel(n_samples=20))


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_constant_columns_are_left_out_and_named(ridge):
    padded = np.insert(SAMPLES, [1, 4], [2.5, -1.0], axis=1)
    found, plain = (split_experiment(x, lambda n_dim: DDPM(LinearDenoiser(n_dim, ridge)), [5, 20], n_splits=2, n_generated=30)
                    for x in (padded, SAMPLES))
    assert found.attrs["dropped_columns"] == [1, 5] and plain.attrs["dropped_columns"] == []
    for name in plain.data_vars:
        np.testing.assert_array_equal(found[name], plain[name])


def test_a_column_that_is_constant_in_one_half_only():
    """One row in sixty differs: most halves see a constant, and all have a loss on the samples that neither saw."""
    x = np.column_stack([SAMPLES, np.eye(60)[0]])
    found = split_experiment(x, linear, [10], n_splits=6, n_generated=30)
    assert found.attrs["dropped_columns"] == []
    assert np.all(np.isfinite(found["convergence_split"])) and np.all(np.isfinite(found["test_loss_split"]))


def test_one_dimension():
    """q of x = σ_A z + μ_A and σ_B z + μ_B is 1."""
    found = split_experiment(SAMPLES[:, :1], linear, [5, 30], n_splits=2, n_generated=30)
    np.testing.assert_allclose(found["convergence"], 1, rtol=1e-12)
    np.testing.assert_allclose(found["cosine"], 1, rtol=1e-12)


@pytest.mark.parametrize("sampler, name", [("probability_flow", "convergence"), ("ancestral", "convergence_stochastic")])
def test_learners_share_all_noise_of_their_sampler(sampler, name, recorder):
    """Both learners of a split take the same step noises, two splits different ones; q is what theory says, |z| < 4.5 plus 0.02."""
    lam, n_splits = np.array([3.0, 1.0, 1.0, 0.5, 0.5]), 8
    x = np.random.default_rng(1).normal(size=(2000, 5)) * np.sqrt(lam)
    found = split_experiment(x, lambda n_dim: Recorder(LinearDenoiser(n_dim), sampler=sampler), [10], n_splits, n_generated=300)
    expected = float(generalization.predict(spectrum=lam, n_samples=[10])[name][0])
    assert abs(float(found["convergence"][0]) - expected) < 4.5 * float(found["convergence_error"][0]) + 0.02
    assert Recorder.seeds[::2] == Recorder.seeds[1::2] and len(set(Recorder.seeds)) == n_splits


# Memorization

@settings(deadline=None, max_examples=50)
@given(pair=pairs, far=st.sampled_from([0.0, 1e3, 1e8]))
def test_memorized_by_looking_at_every_distance(pair, far):
    """Near the origin and so far from it that squares of coordinates would drown the distances."""
    seed, n, d = pair
    rng = np.random.default_rng(seed)
    training = far + rng.normal(size=(n, d))
    generated = training[rng.integers(n, size=20)] + rng.normal(size=(20, d)) * 10 ** rng.uniform(-4, 1, size=(20, 1))
    np.testing.assert_array_equal(memorized(generated, training), [copied(point, training) for point in generated])


def test_copies_are_memorized_and_midpoints_are_not():
    training = np.random.default_rng(0).normal(size=(9, 3))
    assert np.all(memorized(training, training))
    assert not np.any(memorized(0.5 * (training + np.roll(training, 1, axis=0)), training))


@pytest.mark.parametrize("N, share", [(2, 0.161), (3, 0.0736), (4, 0.0336), (5, 0.0152), (6, 0.0068)])
def test_how_often_the_span_of_few_samples_passes_for_memory(N, share):
    """x = Xᵀξ/√N in 1,000 dimensions: 24,000 samples, |z| < 4.5 (a false alarm once in 30,000 runs of all) plus 2 % for the dimension."""
    rng = np.random.default_rng(N)
    found = []
    for _ in range(12):
        training = rng.normal(size=(N, 1000))
        found.append(memorized(rng.normal(size=(2000, N)) @ training / np.sqrt(N), training).mean())
    assert abs(np.mean(found) - share) < 4.5 * np.sqrt(share / 24_000) + 0.02 * share


def test_a_linear_model_that_estimates_its_mean_memorizes_this_often():
    """The learner's samples are μ̂ + Σ_j ξ_j (x_j − μ̂)/√N: simulated by weights alone, as distances are those of the weights where N ≪ d.

    |z| < 4.5 of the splits' scatter plus 10 % for 200 dimensions; none at N = 20.
    """
    x = np.random.default_rng(0).normal(size=(400, 200))
    found = split_experiment(x, linear, [3, 20], n_splits=12, n_generated=500)
    rng = np.random.default_rng(1)
    xi = rng.normal(size=(100_000, 3)) / np.sqrt(3)
    weights = 1 / 3 + xi - xi.mean(axis=1, keepdims=True)
    expected = memorized(weights, np.eye(3)).mean()
    value, error = float(found["memorization"][0]), float(found["memorization_error"][0])
    assert abs(value - expected) < 4.5 * error + 0.1 * expected
    assert found["memorization"][1] == 0


# Refusals

SHARED, DENOISER = linear(4), LinearDenoiser(4)


@pytest.mark.parametrize("arguments, message", [
    ({"samples": SAMPLES[0]}, "samples must have shape (n_samples, n_dim), got an array of rank 1"),
    ({"samples": SAMPLES[:3]}, "samples must hold at least 4 rows and one column, got shape (3, 4)"),
    ({"samples": np.where(SAMPLES > 5, np.nan, SAMPLES)}, "samples must be finite"),
    ({"samples": np.ones((9, 2))}, "samples must vary, all 2 columns are constant"),
    ({"n_samples": []}, "n_samples must be numbers from 2 to 30, half of the 60 samples, got []"),
    ({"n_samples": [10, 31]}, "n_samples must be numbers from 2 to 30, half of the 60 samples, got [10, 31]; the halves would overlap."),
    ({"n_samples": [1]}, "n_samples must be a whole number of at least 2, got 1."),
    ({"n_samples": [10.0]}, "n_samples must be a whole number of at least 2, got 10.0."),
    ({"n_samples": "10"}, "n_samples must be a whole number of at least 2, got '10'."),
    ({"n_splits": 1}, "n_splits must be a whole number of at least 2, got 1."),
    ({"seed": -1}, "seed must be a whole number of at least 0, got -1."),
    ({"n_generated": 1}, "n_generated must be a whole number of at least 2, got 1."),
    ({"make_learner": SHARED}, "make_learner must be a function of n_dim that gives a new learner, such as "
                               "lambda n_dim: DDPM(LinearDenoiser(n_dim)), got DDPM."),
    ({"make_learner": "DDPM"}, "make_learner must be a function of n_dim that gives a new learner"),
    ({"make_learner": lambda n_dim: SHARED}, "make_learner must give a new learner at every call, it gave one with parts of the one "
                                             "before; make its parts inside the function."),
    ({"make_learner": lambda n_dim: DDPM(DENOISER)}, "make_learner must give a new learner at every call"),
    ({"make_learner": lambda n_dim: QuadraticFlow(n_dim, 1)}, "make_learner must give learners that generate from given noise and have a "
                                                             "denoising loss, such as DDPM, got QuadraticFlow."),
    ({"make_learner": LinearDenoiser}, "make_learner must give learners that generate from given noise"),
    ({"make_learner": lambda n_dim: None}, "such as DDPM, got NoneType."),
    ({"make_learner": lambda n_dim: linear(7)}, "samples must have the learner's n_dim = 7 columns, got 4."),
    ({"checkpoint": "absent/checkpoint.safetensors"}, "path must lie in an existing folder"),
])
def test_wrong_arguments_get_one_sentence(arguments, message):
    arguments = {"samples": SAMPLES, "make_learner": linear, "n_samples": [10], "n_splits": 2, "n_generated": 10} | arguments
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        split_experiment(**arguments)
    assert "\n" not in str(caught.value)


# Interruption

LONG = {"n_samples": [5, 10], "n_splits": 3, "seed": 4, "n_generated": 20}


@pytest.mark.parametrize("stop", [0, 1, 2, 5, 11])
def test_an_interrupted_experiment_ends_in_the_same_numbers(tmp_path, recorder, stop):
    """Interrupted in the fit number `stop` of twelve: whole splits are kept, only the rest is done again."""
    path, whole = tmp_path / "split.safetensors", split_experiment(SAMPLES, recorder, **LONG)
    Recorder.fits.clear()
    Recorder.stop = stop
    with pytest.raises(KeyboardInterrupt):
        split_experiment(SAMPLES, recorder, **LONG, checkpoint=path)
    assert path.exists() == (stop > 1)
    Recorder.fits.clear()
    Recorder.stop = np.inf
    resumed = split_experiment(SAMPLES, recorder, **LONG, checkpoint=path)
    assert resumed.identical(whole)
    assert len(Recorder.fits) == 12 - 2 * (stop // 2)
    assert list(tmp_path.iterdir()) == []


def test_progress_goes_on_where_it_stopped(tmp_path, recorder, capsys):
    Recorder.stop = 6
    for count in ("0/6", "3/6"):
        with pytest.raises(KeyboardInterrupt):
            split_experiment(SAMPLES, recorder, **LONG, checkpoint=tmp_path / "split", progress=True)
        assert count in capsys.readouterr().err


@pytest.fixture
def interrupted(tmp_path, recorder):
    """A checkpoint after two of six splits."""
    Recorder.stop = 4
    with pytest.raises(KeyboardInterrupt):
        split_experiment(SAMPLES, recorder, **LONG, checkpoint=tmp_path / "split")
    Recorder.stop = np.inf
    return tmp_path / "split"


def test_a_checkpoint_after_the_last_split_needs_no_training(interrupted, recorder):
    whole = split_experiment(SAMPLES, recorder, **LONG)
    arrays, header = files.read(interrupted, "checkpoint")
    values = np.stack([whole[f"{name}_split"].values.ravel() for name in QUANTITIES], axis=1)
    np.testing.assert_array_equal(arrays["values"], values[:2])
    files.write(interrupted, "checkpoint", {"values": values}, {"settings": header["settings"]})
    Recorder.fits.clear()
    assert split_experiment(SAMPLES, recorder, **LONG, checkpoint=interrupted).identical(whole)
    assert Recorder.fits == []


@pytest.mark.parametrize("change", [{"seed": 5}, {"n_samples": [5, 11]}, {"n_samples": [5]}, {"n_splits": 4}, {"n_generated": 21},
                                    {"samples": SAMPLES + 1e-12}, {"make_learner": linear},
                                    {"make_learner": lambda n_dim: Recorder(LinearDenoiser(n_dim, ridge=0.1))},
                                    {"make_learner": lambda n_dim: Recorder(LinearDenoiser(n_dim), n_steps=999)}])
def test_a_checkpoint_of_another_experiment_is_refused(interrupted, recorder, change):
    before = interrupted.read_bytes()
    with pytest.raises(FileFormatError, match=r"must belong to this experiment, it was written with other samples, settings or learners; "
                                              r"remove it or choose another checkpoint\.$"):
        split_experiment(**{"samples": SAMPLES, "make_learner": recorder, **LONG, "checkpoint": interrupted, **change})
    assert interrupted.read_bytes() == before


@pytest.mark.parametrize("values", [None, np.zeros(5), np.zeros((2, 4)), np.zeros((7, 5)), np.zeros((1, 5, 1))])
def test_a_damaged_checkpoint_is_refused(interrupted, recorder, values):
    _, header = files.read(interrupted, "checkpoint")
    contents = {"other": np.zeros(1)} if values is None else {"values": values}
    files.write(interrupted, "checkpoint", contents, {"settings": header["settings"]})
    with pytest.raises(FileFormatError, match="must belong to this experiment"):
        split_experiment(SAMPLES, recorder, **LONG, checkpoint=interrupted)


def test_a_file_that_is_no_checkpoint_is_not_overwritten(tmp_path, recorder):
    learner = linear(4).fit(SAMPLES).save(tmp_path / "learner.safetensors")
    with pytest.raises(FileFormatError, match="must hold a fieldtheory checkpoint, it holds 'learner'"):
        split_experiment(SAMPLES, recorder, **LONG, checkpoint=learner)
    learner.write_bytes(b"something else")
    with pytest.raises(FileFormatError, match="must be a complete safetensors file"):
        split_experiment(SAMPLES, recorder, **LONG, checkpoint=learner)
    assert learner.read_bytes() == b"something else"
