"""Runs that are interrupted end in the same draws; chains come with diagnostics that agree with arviz and with known processes."""

import json

import numpy as np
import pytest

import fieldtheory as ft
from fieldtheory import files
from fieldtheory.errors import FileFormatError, InputError
from fieldtheory.sampling import (
    HMC,
    NUTS,
    Tempering,
    autocorrelation,
    bulk_ess,
    effective_sample_size,
    runs,
    split_rhat,
    tail_ess,
    thinned_chains,
)
from fieldtheory.sampling.adaptation import reach
from fieldtheory.sampling.tempering import even_ladder

S = ft.theories.random_interactions(3)
METHODS = ["hmc", "nuts", "tempering"]
REQUESTS = {"sample": lambda **options: ft.sample(S, 240, 5, 6, **options),
            "sample_chains": lambda **options: ft.sample_chains(S, 40, 6, 5, **options)["x"].values}


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_ends_in_the_same_draws(method, request_name, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_EVERY", 0.0)
    monkeypatch.setattr(runs, "_BLOCK", 0.0)
    path, ask, original, blocks = tmp_path / "checkpoint.safetensors", REQUESTS[request_name], runs.Checkpoint.write, []
    expected = ask(method=method)

    def interrupted(self, *arguments):
        blocks.append(original(self, *arguments))
        if len(blocks) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(runs.Checkpoint, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(method=method, checkpoint=path)
    assert path.exists()
    with monkeypatch.context() as patch:
        patch.setattr({"hmc": HMC, "nuts": NUTS, "tempering": Tempering}[method], "warm_up", None)  # it goes on, it does not start anew
        np.testing.assert_array_equal(ask(method=method, checkpoint=path), expected)
    assert len(blocks) > 20 and not path.exists()


def test_blocks_do_not_change_the_draws(monkeypatch):
    expected = ft.sample_chains(S, 50, 3, method="tempering")["x"].values
    monkeypatch.setattr(runs, "_BLOCK", 0.0)
    np.testing.assert_array_equal(ft.sample_chains(S, 50, 3, method="tempering")["x"].values, expected)


@pytest.fixture
def left_over(tmp_path, monkeypatch):
    """The checkpoint of a request that was interrupted."""
    def killed(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "_EVERY", 0.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs.Checkpoint, "remove", killed)
        ft.sample_chains(S, 40, 4, 1, checkpoint=tmp_path / "run")
    return tmp_path / "run"


OTHERS = {"n_draws": lambda path: ft.sample_chains(S, 41, 4, 1, checkpoint=path),
          "n_chains": lambda path: ft.sample_chains(S, 40, 5, 1, checkpoint=path),
          "seed": lambda path: ft.sample_chains(S, 40, 4, 2, checkpoint=path),
          "method": lambda path: ft.sample_chains(S, 40, 4, 1, method="nuts", checkpoint=path),
          "mass": lambda path: ft.sample_chains(S, 40, 4, 1, mass="dense", checkpoint=path),
          "action": lambda path: ft.sample_chains(2 * S, 40, 4, 1, checkpoint=path),
          "thinned": lambda path: ft.sample(S, 160, 1, 4, checkpoint=path)}


@pytest.mark.parametrize("key", OTHERS)
def test_a_checkpoint_of_another_request_is_refused(key, left_over):
    with pytest.raises(InputError, match=f"checkpoint must belong to the same request, .* was made with another {key}; ask for the same"):
        OTHERS[key](left_over)
    assert left_over.exists()


def test_damaged_checkpoints_are_refused(left_over, tmp_path):
    left_over.write_bytes(left_over.read_bytes()[:200])
    with pytest.raises(FileFormatError, match="must be a complete safetensors file"):
        ft.sample_chains(S, 40, 4, 1, checkpoint=left_over)
    S.save(tmp_path / "action")
    with pytest.raises(FileFormatError, match="must hold a fieldtheory sampling checkpoint, it holds 'action'"):
        ft.sample_chains(S, 40, 4, 1, checkpoint=tmp_path / "action")
    files.write(tmp_path / "empty", "sampling checkpoint", {"x": np.zeros(1)}, {})
    with pytest.raises(FileFormatError, match="must hold a complete checkpoint, parts of it are missing; remove it"):
        ft.sample_chains(S, 40, 4, 1, checkpoint=tmp_path / "empty")
    with pytest.raises(InputError, match="path must lie in an existing folder"):
        runs.Checkpoint(tmp_path / "nowhere" / "run", {}).write(HMC(S, 1, np.random.default_rng(0)), runs.Draws.blank(1, 3, 1), 1)


def test_progress_is_drawn_only_when_asked(capsys):
    ft.sample(S, 100)
    assert capsys.readouterr().err == ""
    ft.sample(S, 100, progress=True)
    shown = capsys.readouterr()
    assert "sampling: 100%" in shown.err and shown.out == ""


@pytest.mark.parametrize("method", METHODS)
def test_chains_come_with_their_diagnostics(method):
    data = ft.sample_chains(ft.theories.gaussian(np.eye(2)), 800, n_chains=4, seed=1, method=method)
    assert dict(data.sizes) == {"chain": 4, "draw": 800, "variable": 2} and list(data.data_vars) == ["x"]
    assert np.all(data["r_hat"] < 1.02) and np.all(data["ess"] > 500) and np.all(data["ess_tail"] > 500)
    assert data.attrs["n_divergent"] == 0 and not data["diverging"].any() and data.attrs["n_gradients"] > 3200
    assert 0.6 < data.attrs["acceptance"] <= 1 and data.attrs["magnetization_ess"] > 500
    np.testing.assert_allclose(data["lp"], ft.theories.gaussian(np.eye(2))(data["x"].values), rtol=1e-12)
    kinetic = data["energy"].values[:, 1:] + data["lp"].values[:, :-1]  # H at the start of what led to a draw
    np.testing.assert_allclose(kinetic.mean(), 1.0, atol=5 / np.sqrt(kinetic.size))  # n_dim/2
    json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in data.attrs.items()})


def test_replicas_have_their_own_temperatures():
    """⟨x²⟩ = 1/β of a Gaussian, at every step of the ladder; z-scores of 8 numbers."""
    sampler = Tempering(ft.theories.gaussian(np.eye(1)), 200, np.random.default_rng(0), hottest=0.02).warm_up()
    squares, draws = [], runs.Draws.blank(1, 1, 200)
    for _ in range(60):
        sampler.fill(draws, interval=3)
        squares.append(sampler.walkers.lanes.x[0, sampler._lane] ** 2)
    z = (np.mean(squares, axis=(0, 1)) * sampler.betas - 1) / np.sqrt(2 / (60 * 200)) / 1.3  # draws three iterations apart are nearly new
    assert np.abs(z).max() < 4 and sampler.betas[0] == 1 and np.isclose(sampler.betas[-1], 0.02)


def test_ladder_has_equal_refusals_when_the_barrier_is_smooth():
    betas, density = np.geomspace(1, 0.01, 30), lambda beta: 1.5 * np.ones_like(beta)  # Λ grows with ln 1/β
    refused = density(betas[1:]) * np.diff(-np.log(betas)) / 2
    ladder = even_ladder(betas, refused)
    np.testing.assert_allclose(np.diff(np.log(ladder)), np.diff(np.log(ladder))[0], rtol=1e-10)
    assert ladder.size == np.ceil(2 * refused.sum()) + 1 and ladder[0] == 1 and np.isclose(ladder[-1], 0.01)


@pytest.mark.parametrize("dense", [True, False])
def test_mass_follows_the_correlations(dense):
    C = np.array([[1, 0.95], [0.95, 1]]) if dense else np.eye(2)
    root = HMC(ft.theories.gaussian(C), 16, np.random.default_rng(0)).warm_up().motion.frame.root
    assert root.shape == ((2, 2) if dense else (2, 1))
    np.testing.assert_allclose(root @ root.T if dense else np.diag(root[:, 0] ** 2), C, atol=0.15)


def test_local_theories_of_many_variables_keep_a_diagonal_mass():
    chain = ft.theories.phi4(ft.theories.lattice((60,)), 3.0, 1.0)
    data = ft.sample_chains(chain, 50, 16)
    assert data.attrs["dense_mass"] == 0 and data.attrs["acceptance"] > 0.6
    assert ft.sample_chains(chain, 4, 16, mass="dense").attrs["dense_mass"] == 1


def test_reach_of_a_gaussian_is_its_conditional_deviation():
    C = np.diag([1e-8, 4.0, 1e6])
    ratio = reach(ft.theories.gaussian(C, [1.0, 2, 3])) / np.sqrt(np.diag(C))
    assert np.all((ratio >= 0.5) & (ratio <= 2))


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, -0.4])
def test_effective_sample_size_of_an_autoregressive_process(phi):
    rng, n = np.random.default_rng(1), 20_000
    x = np.zeros((8, n))
    x[:, 0] = rng.normal(size=8) / np.sqrt(1 - phi**2)
    for t in range(1, n):
        x[:, t] = phi * x[:, t - 1] + rng.normal(size=8)
    expected = 8 * n * (1 - phi) / (1 + phi)
    np.testing.assert_allclose(effective_sample_size(x), expected, rtol=0.08)
    np.testing.assert_allclose(bulk_ess(x), expected, rtol=0.08)
    np.testing.assert_allclose(autocorrelation(x)[1:4], phi ** np.arange(1, 4), atol=0.02)
    np.testing.assert_allclose(autocorrelation(x, 5), autocorrelation(x)[:5], atol=1e-10)


def test_rhat_sees_shifts_and_widths():
    rng = np.random.default_rng(0)
    same, shifted, wide = rng.normal(size=(3, 4, 1000))
    shifted[0] += 1
    wide[0] *= 4
    assert split_rhat(same) < 1.01 < 1.05 < min(split_rhat(shifted), split_rhat(wide))
    assert np.isnan(split_rhat(np.ones((4, 100)))) and np.isnan(effective_sample_size(np.ones((4, 100))))


def test_ranks_see_through_heavy_tails():
    x = np.random.default_rng(0).standard_cauchy(size=(4, 2000))
    assert 0.8 < bulk_ess(x) / 8000 < 1.2 and 0.8 < tail_ess(x) / 8000 < 1.2 and split_rhat(x) < 1.01


@pytest.mark.filterwarnings("ignore")
def test_arviz_takes_the_chains_and_agrees():
    arviz = pytest.importorskip("arviz")
    data = ft.sample_chains(S, 301, 5, method="nuts")
    ours = {"r_hat": data["r_hat"], "ess": data["ess"], "ess_tail": data["ess_tail"]}
    theirs = {"r_hat": arviz.rhat(data), "ess": arviz.ess(data, method="bulk"), "ess_tail": arviz.ess(data, method="tail")}
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name]["x"], rtol=1e-10)
    np.testing.assert_allclose(effective_sample_size(data["x"].values), arviz.ess(data, method="mean")["x"], rtol=1e-10)
    summary = arviz.summary(data, round_to="none")
    assert list(summary.index) == ["x[x0]", "x[x1]", "x[x2]"]
    np.testing.assert_allclose(summary["r_hat"], ours["r_hat"], rtol=1e-3)  # the summary ranks before it splits
    assert "posterior" in arviz.convert_to_inference_data(data).groups()


def test_thinned_chains_say_what_sample_warns_of():
    data = thinned_chains(S, 1000, seed=2)
    np.testing.assert_array_equal(data["x"].transpose("draw", "chain", "variable").values.reshape(-1, 3)[:1000], ft.sample(S, 1000, seed=2))
    assert data.attrs["interval"] >= 1 and data.attrs["worth"] > 0.8 and data.attrs["r_hat"] < 1.05
    assert data.attrs["n_trajectories"] == data.sizes["chain"] * data.sizes["draw"] * data.attrs["interval"]
