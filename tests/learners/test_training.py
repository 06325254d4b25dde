"""What the loop promises for every model: torch's optimizer, averages, precision, files larger than memory, crashes, processes."""

import copy
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fieldtheory import files
from fieldtheory.errors import FileFormatError, InputError
from learners import NICE, Glow, QuadraticFlow, RealNVP
from learners.fit import Training, TrainingError, _checksum
from learners.samples import MappedSamples

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(500, 3)) @ RNG.normal(size=(3, 3)) + [1.0, -2.0, 0.5]
BENT = QuadraticFlow.random(3, 2, seed=0).sample(2000, seed=1)


def _net(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def _loss(module, batch):
    """Any scalar of a module and a batch."""
    return (module(batch) - batch.prod(1, keepdim=True)).square().mean()


def _small(**kwargs):
    return RealNVP(3, 2, (8,), **kwargs)


def test_steps_of_modules_are_those_of_torch():
    modules = [_net(seed) for seed in (0, 1)]
    expected, n_steps = copy.deepcopy(modules), 40
    training = Training.of_modules(_loss, modules, POINTS, n_steps=n_steps, batch_size=32, clip=0.3)
    batches = training.batches.after(0)
    used = [next(batches) for _ in range(n_steps)]
    for batch in used:
        training._advance(batch)
    for module, mine in zip(expected, modules):
        optimizer = torch.optim.Adam(module.parameters(), betas=(0.9, 0.99))
        for step, batch in enumerate(used):
            after = (step - 1) / (n_steps - 1)
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 if step < 1 else 0.5 * (1 + math.cos(math.pi * after)))
            optimizer.zero_grad()
            _loss(module, batch).backward()
            nn.utils.clip_grad_norm_(module.parameters(), 0.3)
            optimizer.step()
        for theirs, parameter in zip(module.parameters(), mine.parameters()):
            torch.testing.assert_close(parameter, theirs, rtol=1e-5, atol=1e-7)


def test_a_model_made_elsewhere_trains_and_parameters_that_are_frozen_stay():
    module = _net(0)
    module[0].requires_grad_(False)
    frozen = module[0].weight.clone()
    training = Training.of_modules(_loss, [module], POINTS, n_steps=400)
    training.run()
    best, history = training.best()
    assert set(best) == {"2.weight", "2.bias"}
    assert torch.equal(module[0].weight, frozen)
    assert torch.equal(module[2].weight, training.weights["2.weight"][0])
    assert history["validation"][-1] < history["validation"][0]


def test_a_loss_that_sees_no_parameter_is_not_hidden():
    with pytest.raises(RuntimeError, match="appears to not have been used"):
        Training.of_modules(lambda module, batch: module[0](batch).square().mean(), [_net(0)], POINTS, n_steps=1).run()


def test_averaged_weights_are_validated_and_kept():
    """Against the recursion on the path of the weights, whose memory is a tenth of the path at first."""
    path = []
    training = Training.of_modules(_loss, [_net(0)], POINTS, n_steps=100, average=0.8, learning_rate=0.1)
    expected = training.now.clone()
    training.run(callback=lambda step: path.append(training.now.clone()), callback_every=1)
    for step, now in enumerate(path[1:], start=1):
        decay = min(0.8, step / (step + 9))
        expected = decay * expected + (1 - decay) * now
    torch.testing.assert_close(training.mean_weights, expected)
    torch.testing.assert_close(training.best_weights, expected)
    plain = Training.of_modules(_loss, [_net(0)], POINTS, n_steps=100, learning_rate=0.1)
    plain.run()
    assert torch.equal(plain.now, training.now)
    assert plain.best()[1]["validation"] != training.best()[1]["validation"]


@pytest.mark.parametrize("make, precision, tolerance", [
    (_small, "float32", 1e-4), (_small, "bfloat16", 0.03), (lambda: QuadraticFlow(3, 2), "float32", 1e-4)])
def test_less_precision_finds_nearly_the_same(make, precision, tolerance):
    exact, flow = (make().fit(BENT, n_steps=300, precision=name) for name in ("float64", precision))
    assert {p.dtype for p in flow.parameters()} == {torch.float64}
    assert min(flow.history["validation"]) == pytest.approx(min(exact.history["validation"]), abs=tolerance)
    assert min(flow.history["validation"]) != min(exact.history["validation"])


def test_the_best_start_is_kept_with_everything_that_was_drawn_for_it():
    flow = Glow(n_dim=3, n_layers=2, hidden=4).fit(BENT, n_steps=200, n_starts=3, precision="float64")
    assert len(set(flow.history["starts"])) == 3
    held_out = Training.of_modules(_loss, [_net(0)], BENT).batches.validation.numpy()
    assert -flow.log_prob(held_out).mean() / 3 == pytest.approx(min(flow.history["starts"]), rel=1e-10)


def test_whitening_is_the_first_layer_and_not_trained():
    for flow in (NICE(3, 2, (4,)), Glow(n_dim=3, n_layers=1, hidden=4)):
        W = flow.fit(POINTS, n_steps=100).layers[0].weight.numpy()
        np.testing.assert_allclose(W @ np.cov(POINTS.T) @ W.T, np.eye(3), atol=1e-7)
        np.testing.assert_allclose(flow.layers[0].bias, -W @ POINTS.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(W, W.T, atol=1e-12)


def test_the_callback_sees_the_flow_at_each_step_and_changes_nothing():
    seen = {}
    flow = _small().fit(BENT, n_steps=250, callback=lambda step, flow: seen.update({step: flow.log_prob(BENT).mean()}))
    assert list(seen) == [0, 100, 200, 250]
    assert seen[0] < seen[100] < seen[250]
    np.testing.assert_array_equal(flow.log_prob(BENT), _small().fit(BENT, n_steps=250).log_prob(BENT))
    quadratic = QuadraticFlow(3, 2).fit(BENT, n_steps=100, n_starts=2, callback=lambda step, flow: seen.update({step: flow.weights}),
                                        callback_every=50)
    np.testing.assert_allclose(seen[100][0][0], quadratic.weights[0][0], rtol=1e-12)
    assert not np.allclose(seen[0][1][0], seen[50][1][0])


class _Noisy:
    """A loss that draws, and that is interrupted at a given call."""

    def __init__(self, at=None):
        self.generator, self.left = torch.Generator(), at

    def __call__(self, module, batch):
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return _loss(module, batch + 0.1 * torch.randn(batch.shape, dtype=batch.dtype, generator=self.generator))


def test_what_a_loss_draws_is_the_same_after_an_interruption(tmp_path):
    modules, path = [[_net(0)] for _ in range(3)], tmp_path / "fit.checkpoint"
    settings = {"n_steps": 60, "batch_size": 64, "average": 0.9, "checkpoint_every": 20}
    whole = Training.of_modules(loss := _Noisy(), modules[0], POINTS, generator=loss.generator, **settings)
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        Training.of_modules(loss := _Noisy(50), modules[1], POINTS, generator=loss.generator, checkpoint=path, **settings).run()
    resumed = Training.of_modules(loss := _Noisy(), modules[2], POINTS, generator=loss.generator, checkpoint=path, **settings)
    assert resumed.step == 40
    resumed.run()
    for mine, theirs in ((resumed.now, whole.now), (resumed.mean_weights, whole.mean_weights), (resumed.best_weights, whole.best_weights)):
        assert torch.equal(mine, theirs)
    assert torch.equal(modules[2][0][0].weight, modules[0][0][0].weight)


FIT = """
    import os, signal, sys
    import numpy as np
    from learners import RealNVP

    def kill(step, flow):
        if step == 60 and "kill" in sys.argv:
            os.kill(os.getpid(), signal.SIGKILL)

    samples = np.random.default_rng(0).gamma(2.0, size=(800, 3))
    flow = RealNVP(3, 2, (8,)).fit(samples, n_steps=90, batch_size=64, n_starts=2, average=0.9, checkpoint=sys.argv[1], checkpoint_every=25,
                                   callback=kill, callback_every=20, n_threads=1)
    flow.save(sys.argv[2])
"""


def _python(code, *arguments, **environment):
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], env={**os.environ, **environment},
                          cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)


def test_a_killed_fit_resumes_to_bit_equal_weights(tmp_path):
    checkpoint, killed, whole = (tmp_path / name for name in ("checkpoint", "killed", "whole"))
    assert _python(FIT, checkpoint, killed, "kill").returncode == -signal.SIGKILL
    assert checkpoint.exists()
    assert not killed.exists()
    for path in (killed, whole):
        done = _python(FIT, checkpoint, path)
        assert done.returncode == 0, done.stderr
        assert not checkpoint.exists()
    (mine, mine_header), (theirs, theirs_header) = (files.read(path, "learner") for path in (killed, whole))
    for name, value in theirs.items():
        np.testing.assert_array_equal(mine[name], value)
    assert mine_header["history"]["validation"] == theirs_header["history"]["validation"]


def _described(header):
    return {name: value for name, value in header.items() if name not in ("kind", "format")}


@pytest.mark.parametrize("at", ["weight", "step", "end"])
def test_a_checkpoint_with_one_wrong_bit_gets_one_sentence(tmp_path, at):
    path = tmp_path / "fit.checkpoint"
    training = Training.of_modules(_loss, [_net(0)], POINTS, n_steps=30, checkpoint=path, checkpoint_every=20)
    training._save()
    content = bytearray(path.read_bytes())
    place = {"weight": content.find(training.now.numpy().tobytes()) + 3, "step": content.find(b'[0, 0]') + 1, "end": len(content) - 1}[at]
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="must hold what was written into it, its checksum is wrong"):
        Training.of_modules(_loss, [_net(0)], POINTS, n_steps=30, checkpoint=path)


@pytest.mark.parametrize("damage", [lambda arrays: arrays.pop("first"), lambda arrays: arrays.update(now=np.zeros((1, 2))),
                                    lambda arrays: arrays.update(records=np.zeros(4))])
def test_a_checkpoint_that_lacks_parts_gets_one_sentence(tmp_path, damage):
    path = tmp_path / "fit.checkpoint"
    training = Training.of_modules(_loss, [_net(0)], POINTS, n_steps=30, checkpoint=path, checkpoint_every=20)
    training._save()
    arrays, header = files.read(path, "checkpoint")
    damage(arrays)
    files.write(path, "checkpoint", arrays, {**_described(header), "checksum": _checksum(arrays, header["steps"])})
    with pytest.raises(FileFormatError, match="must be a complete checkpoint, parts of it are missing or have other shapes"):
        Training.of_modules(_loss, [_net(0)], POINTS, n_steps=30, checkpoint=path)


def test_a_loss_that_is_not_finite_names_step_layer_and_checkpoint(tmp_path):
    path = tmp_path / "fit.checkpoint"

    def spoil(step, flow):
        if step == 30:
            training.now.fill_(math.inf)

    flow = _small()
    training = None
    original = Training.run

    def run(self, *args):
        nonlocal training
        training = self
        original(self, *args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(TrainingError) as caught:
        patch.setattr(Training, "run", run)
        flow.fit(BENT, n_steps=100, checkpoint=path, checkpoint_every=20, callback=spoil, callback_every=10)
    assert re.search(r"after step 30 it or its gradient is not, in layer 1 \(LULinearLayer\); the best weights so far \(step 0\) are kept, "
                     rf"and so is the checkpoint {re.escape(str(path))} of step 20\. Lower learning_rate", str(caught.value))
    assert path.exists()
    assert np.isfinite(flow.log_prob(BENT)).all()


@pytest.mark.parametrize("settings, message", [
    ({"average": 1.0}, "average must lie between 0 and 1, got 1.0."),
    ({"clip": 0}, "clip must be a positive number, got 0."),
    ({"precision": "float16"}, "precision must be one of float64, float32, bfloat16, got 'float16'."),
    ({"n_threads": 0}, "n_threads must be a whole number of at least 1, got 0."),
    ({"checkpoint_every": 0}, "checkpoint_every must be a whole number of at least 1, got 0."),
    ({"callback": print, "callback_every": 0}, "callback_every must be a whole number of at least 1, got 0."),
])
def test_settings_out_of_range_get_one_sentence(settings, message):
    with pytest.raises(InputError, match=re.escape(message)):
        _small().fit(BENT, **settings)


def test_a_flow_with_a_gradient_by_hand_is_not_mixed():
    with pytest.raises(InputError, match="precision must be float64 or float32 for a QuadraticFlow, got 'bfloat16'"):
        QuadraticFlow(3, 2).fit(BENT, precision="bfloat16")


@pytest.mark.parametrize("make", [lambda: QuadraticFlow(3, 2), lambda: NICE(3), lambda: Glow(n_dim=3)])
@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_samples_whose_squares_overflow_get_one_sentence(make, scale):
    with pytest.raises(InputError, match="samples must have a covariance that floating point can hold, its largest and smallest variance"):
        make().fit(POINTS * scale)


def _mapped(path, array):
    np.save(path, array)
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("make", [lambda: QuadraticFlow(4, 2), lambda: RealNVP(4, 2, (8,), )])
def test_a_mapped_file_is_fitted_as_the_array_in_it(tmp_path, make):
    samples = np.insert(BENT, 1, 7.0, axis=1)
    held = make().fit(samples, n_steps=120, batch_size=100, precision="float64")
    mapped = make().fit(_mapped(tmp_path / "samples.npy", samples), n_steps=120, batch_size=100, precision="float64")
    np.testing.assert_array_equal(mapped.columns.kept, [0, 2, 3])
    assert mapped.sample(1)[0, 1] == 7.0
    np.testing.assert_allclose(mapped.log_prob(samples), held.log_prob(samples), rtol=1e-8)


def test_mapped_samples_know_what_a_fit_has_to_know(tmp_path, monkeypatch):
    """From a slice of single-precision numbers far from 0, read in pieces of a few rows, and from columns that lie apart."""
    monkeypatch.setattr("learners.samples._CHUNK", 40)
    array = (1000 + RNG.normal(size=(200, 4))).astype(np.float32)
    array[:, 2] = 5.0
    mapped, rows = MappedSamples(_mapped(tmp_path / "samples.npy", array)[20:]), array[20:, [0, 1, 3]].astype(np.float64)
    np.testing.assert_allclose(mapped.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(mapped.covariance, np.cov(rows.T), rtol=1e-9)
    np.testing.assert_array_equal(mapped.take(np.array([7, 3, 179, 3])), rows[[3, 3, 7, 179]])
    np.testing.assert_array_equal(mapped.transformed(lambda x: -x).take(np.arange(5)), -rows[:5])
    assert len(mapped) == 180
    apart = MappedSamples(_mapped(tmp_path / "apart.npy", np.asfortranarray(array)))
    np.testing.assert_array_equal(apart.take(np.array([23, 27])), rows[[3, 7]])
    assert mapped.fingerprint != MappedSamples(_mapped(tmp_path / "other.npy", array)[:180]).fingerprint


def test_a_private_copy_of_a_mapped_file_keeps_what_was_written_into_it(tmp_path):
    np.save(tmp_path / "samples.npy", POINTS)
    private = np.load(tmp_path / "samples.npy", mmap_mode="c")
    private[3] = 9.0
    np.testing.assert_array_equal(MappedSamples(private).take(np.array([3])), [[9.0, 9.0, 9.0]])
    np.testing.assert_array_equal(private[3], 9.0)


def _with(row, column, value):
    array = np.ones((300, 3))
    array[:, 0], array[:, 1] = np.arange(300), np.arange(300) % 7
    array[row, column] = value
    return array


@pytest.mark.parametrize("array, message", [
    (_with(299, 1, np.nan), "samples must be finite, the first NaN or infinite entry is at index (299, 1); remove or impute such rows."),
    (np.ones((20, 3)), "samples must vary, all 3 columns are constant"),
    (_with(0, 0, 1.0)[:5], "samples must hold at least 10 rows and one column, got shape (5, 3)"),
    (np.ones((20, 3), dtype=complex), "samples must be real, got complex128"),
    (np.ones(20), "samples must have shape (n_samples, n_dim), got an array of rank 1"),
    (np.ones((20, 4)), "samples must have the learner's n_dim = 3 columns, got 4."),
])
def test_mapped_files_that_cannot_be_learned_get_one_sentence(tmp_path, monkeypatch, array, message):
    monkeypatch.setattr("learners.samples._CHUNK", 40)
    with pytest.raises(InputError, match=re.escape(message)):
        _small().fit(_mapped(tmp_path / "samples.npy", array))


MEMORY = """
    import sys
    import numpy as np
    from learners import NICE

    flow = NICE(256, 2, (16,)).fit(np.load(sys.argv[1], mmap_mode="r"), n_steps=300, batch_size=256)
    assert np.isfinite(flow.history["validation"]).all()
    print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


@pytest.mark.heavy
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_file_of_4_gb_trains_within_1_gb(tmp_path):
    """Sparse on disk: a twentieth of the rows are noise, the others zero."""
    samples = np.lib.format.open_memmap(tmp_path / "samples.npy", "w+", np.float32, (4_000_000, 256))
    for first in range(0, len(samples), 400_000):
        samples[first : first + 20_000] = np.random.default_rng(first).normal(size=(20_000, 256))
    samples.flush()
    del samples
    done = _python(MEMORY, tmp_path / "samples.npy")
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout) / 1e6
    print(f"\npeak memory {peak:.2f} GB for a file of {(tmp_path / 'samples.npy').stat().st_size / 1e9:.2f} GB")
    assert peak < 1


PROCESS = """
    import sys
    import numpy as np
    from learners import Glow, QuadraticFlow, RealNVP

    samples = np.random.default_rng(0).gamma(2.0, size=(700, 3))
    for i, flow in enumerate([QuadraticFlow(3, 2), RealNVP(3, 2, (8,)), Glow(n_dim=3, n_layers=1, hidden=4)]):
        path = f"{sys.argv[1]}.flow{i}"
        flow.fit(samples, n_steps=120, batch_size=101, n_starts=2, precision="float64", average=0.9, checkpoint=path, checkpoint_every=50)
        flow.save(path)
"""


def test_two_processes_fit_as_one(tmp_path):
    """Under the environment that torchrun sets, with gloo on the CPU and batches that do not divide evenly."""
    single = _python(PROCESS, tmp_path / "one")
    assert single.returncode == 0, single.stderr
    torchrun = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20_000 + os.getpid() % 20_000),
                "CUDA_VISIBLE_DEVICES": ""}
    ranks = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(PROCESS), str(tmp_path / name)], cwd=Path(__file__).parents[2],
                              env={**torchrun, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
             for rank, name in (("0", "two"), ("1", "other"))]
    for process in ranks:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    for i in range(3):
        one, two, other = (files.read(tmp_path / f"{name}.flow{i}", "learner") for name in ("one", "two", "other"))
        for loss in ("train", "validation", "starts"):
            np.testing.assert_allclose(two[1]["history"][loss], one[1]["history"][loss], rtol=0, atol=1e-6)
            assert two[1]["history"][loss] == other[1]["history"][loss]
        for name, value in two[0].items():
            np.testing.assert_array_equal(value, other[0][name])
    assert len(list(tmp_path.iterdir())) == 9
