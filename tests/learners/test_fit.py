"""The gradient by hand against autograd, the optimizer against torch's, and what a fit promises: same seed, safe interruption."""

import math
import re

import numpy as np
import pytest
import torch

from fieldtheory.errors import FileFormatError, InputError
from learners import QuadraticFlow
from learners.fit import Training, TrainingError
from learners.flows import TailLayer
from learners.flows.quadratic_gradient import mean_loss

SAMPLES = QuadraticFlow.random(3, 2, seed=0).sample(2000, seed=1)
TRUE_MEAN = np.array([1.0, -2.0])
POINTS = TRUE_MEAN + np.random.default_rng(1).normal(size=(500, 2))


def _stacked(flows):
    """Weights of flows as `mean_loss` takes them."""
    names = {"W": "weight", "b": "bias", "chi": "chi", "p": "log_power"}
    found = {}
    for name, ending in names.items():
        rows = [[p.detach() for key, p in flow.named_parameters() if key.endswith(ending)] for flow in flows]
        if rows[0]:
            found[name] = torch.stack([torch.stack(row) for row in rows])
            found[name] = (found[name][..., None] if name in "bp" else found[name]).requires_grad_()
    return found


def _square(weights, batch):
    """½⟨|x − w|²⟩ of each start: the minimum is the mean."""
    return 0.5 * (batch[None] - weights["w"][:, None]).square().sum(2).mean(1)


def _starts(*values):
    return {"w": torch.tensor(values, dtype=torch.float64)}


def _teacher(n_dim, n_layers, tails, seed):
    """A random quadratic flow, with tails of random powers if asked for."""
    rng, plain = np.random.default_rng(seed), QuadraticFlow.random(n_dim, n_layers, seed=seed)
    flow = QuadraticFlow(n_dim, n_layers, tails=tails)
    with torch.no_grad():
        for mine, theirs in zip((m for m in flow.layers if not isinstance(m, TailLayer)), plain.layers):
            mine.load_state_dict(theirs.state_dict())
        for tail in (m for m in flow.layers if isinstance(m, TailLayer)):
            tail.log_power.copy_(torch.from_numpy(0.3 * rng.normal(size=n_dim)))
    return flow


@pytest.mark.parametrize("n_dim, n_layers, n_starts, tails", [
    (2, 1, 1, False), (3, 2, 2, False), (4, 3, 1, False), (5, 4, 3, False), (2, 1, 2, True), (5, 3, 1, True)])
def test_loss_and_gradient_are_those_of_autograd_through_the_layers(n_dim, n_layers, n_starts, tails):
    flows = [_teacher(n_dim, n_layers, tails, seed) for seed in range(n_starts)]
    x = torch.tensor(np.random.default_rng(0).normal(size=(11, n_dim)))
    weights = _stacked(flows)
    losses = mean_loss(weights, x)
    upstream = torch.arange(1.0, n_starts + 1, dtype=torch.float64)
    (upstream * losses).sum().backward()
    for start, flow in enumerate(flows):
        expected = -flow._log_prob(x).mean() / n_dim
        (upstream[start] * expected).backward()
        assert float(losses[start].detach()) == pytest.approx(float(expected.detach()), rel=1e-13)
        found = {"W": [], "b": [], "chi": [], "p": []}
        for name, parameter in flow.named_parameters():
            found[{"weight": "W", "bias": "b", "chi": "chi", "log_power": "p"}[name.split(".")[-1]]].append(parameter.grad)
        for name, value in weights.items():
            autograd = torch.stack(found[name]).reshape(value.grad[start].shape)
            np.testing.assert_allclose(value.grad[start], autograd, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tails", [False, True])
def test_gradient_is_the_slope_of_the_loss(tails):
    weights = _stacked([_teacher(3, 2, tails, seed) for seed in (0, 1)])
    x = torch.tensor(np.random.default_rng(0).normal(size=(4, 3)))
    torch.autograd.gradcheck(lambda *parts: mean_loss(dict(zip(weights, parts)), x), tuple(weights.values()))


def test_steps_are_those_of_torch_with_the_schedule_and_the_clip():
    """Ten starts, some so far off that their gradient is clipped, against torch.optim.Adam on each start by itself."""
    starts = torch.tensor(np.random.default_rng(0).normal(size=(4, 2)) * [[1], [1], [30], [30]])
    n_steps = 50
    training = Training(_square, {"w": starts}, POINTS, n_steps=n_steps, batch_size=32)
    batches = training.batches.after(0)
    used = [next(batches) for _ in range(n_steps)]
    for _ in range(n_steps):
        training._advance(used[training.step])
    for start, now in zip(starts, training.now):
        w = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([w], betas=(0.9, 0.99))
        for step, batch in enumerate(used):
            warm_up = 2  # 3 % of 50, rounded
            after = (step - warm_up) / (n_steps - warm_up)
            optimizer.param_groups[0]["lr"] = 1e-2 * ((step + 1) / warm_up if step < warm_up else 0.5 * (1 + math.cos(math.pi * after)))
            optimizer.zero_grad()
            _square({"w": w[None]}, batch).sum().backward()
            torch.nn.utils.clip_grad_norm_([w], 10.0)
            optimizer.step()
        np.testing.assert_allclose(now.detach(), w.detach(), rtol=1e-6)


def test_a_fit_finds_the_minimum():
    """The weights end at the mean of the training points, up to the rate's last steps."""
    training = Training(_square, _starts([0.0, 0.0]), POINTS, n_steps=2000, batch_size=10_000)
    training.run()
    np.testing.assert_allclose(training.now[0].detach(), training.batches.training.mean(0), atol=1e-4)


def test_validation_points_are_a_tenth_and_not_trained_on():
    training = Training(_square, _starts([0.0, 0.0]), POINTS, seed=3)
    together = np.concatenate([training.batches.training, training.batches.validation])
    assert len(training.batches.validation) == 50
    np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(POINTS, axis=0))


def test_each_epoch_visits_every_point_once_in_a_new_order():
    training = Training(_square, _starts([0.0, 0.0]), POINTS, batch_size=90)
    batches = training.batches.after(0)
    first, second = (np.concatenate([next(batches) for _ in range(5)]) for _ in range(2))
    assert not np.array_equal(first, second)
    for epoch in (first, second):
        np.testing.assert_array_equal(np.sort(epoch, axis=0), np.sort(training.batches.training, axis=0))


def test_starts_do_not_see_each_other():
    together = QuadraticFlow(3, 2).fit(SAMPLES, n_steps=100, n_starts=3).history["starts"]
    weights = [Training(_square, _starts(*s), POINTS, n_steps=100) for s in ([[0.0, 0.0], [9.0, 9.0]], [[0.0, 0.0]], [[9.0, 9.0]])]
    for training in weights:
        training.run()
    both, one, other = (training.now.detach() for training in weights)
    np.testing.assert_allclose(both, np.concatenate([one, other]), rtol=1e-12)
    assert QuadraticFlow(3, 2).fit(SAMPLES, n_steps=100, n_starts=1).history["starts"][0] == pytest.approx(together[0], rel=1e-9)


def test_starts_differ():
    starts = QuadraticFlow(3, 2).fit(SAMPLES, n_steps=100, n_starts=3).history["starts"]
    assert len(set(starts)) == 3


def test_the_best_start_by_validation_is_kept():
    training = Training(_square, _starts([90.0, 90.0], [1.0, -2.0], [-90.0, 0.0]), POINTS, n_steps=200)
    training.run()
    weights, history = training.best()
    np.testing.assert_allclose(weights["w"], TRUE_MEAN, atol=0.3)
    assert np.argmin(history["starts"]) == 1
    assert min(history["validation"]) == history["starts"][1]


def test_the_best_weights_are_those_of_the_best_validation():
    flow = QuadraticFlow(3, 2).fit(SAMPLES[:60], n_steps=600, batch_size=54)
    best, last = min(flow.history["validation"]), flow.history["validation"][-1]
    held_out = Training(_square, _starts([0.0, 0.0]), SAMPLES[:60]).batches.validation.numpy()
    assert best < last
    assert -flow.log_prob(held_out).mean() / 3 == pytest.approx(best, rel=1e-12)


def test_same_seed_same_numbers():
    a, b, c = (QuadraticFlow(3, 2).fit(SAMPLES, n_steps=100, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a.log_prob(SAMPLES), b.log_prob(SAMPLES))
    assert not np.allclose(a.log_prob(SAMPLES), c.log_prob(SAMPLES))


def test_a_fit_begins_as_a_whitening_of_the_data_in_its_own_rotation():
    flows = [QuadraticFlow(3, 2).fit(SAMPLES, n_steps=1, learning_rate=1e-12, seed=seed) for seed in (0, 1)]
    for flow in flows:
        (W, b, chi), (rotation, zero, _) = flow.weights
        np.testing.assert_allclose(W @ np.cov(SAMPLES.T) @ W.T, np.eye(3), atol=1e-7)
        np.testing.assert_allclose(b, -W @ SAMPLES.mean(axis=0), atol=1e-9)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        np.testing.assert_allclose(zero, 0, atol=1e-9)
        assert 0 < np.abs(chi).max() < 0.06
    for mine, theirs in zip(*(flow.weights for flow in flows)):
        assert np.abs(mine[0] - theirs[0]).max() > 0.01


@pytest.mark.parametrize("scale, shift", [([1e6, 1e-6, 1.0], [0.0, 0.0, 1e3]), ([1e9] * 3, [0.0] * 3), ([1e-9] * 3, [1e-8] * 3)])
def test_units_do_not_matter(scale, shift):
    """ln p of scaled and shifted data is that of the data, less ln of the scales."""
    plain = QuadraticFlow(3, 2).fit(SAMPLES, n_steps=200)
    moved = QuadraticFlow(3, 2).fit(SAMPLES * scale + shift, n_steps=200)
    log_det = np.sum(np.log(scale))
    np.testing.assert_allclose(moved.log_prob(SAMPLES * scale + shift) + log_det, plain.log_prob(SAMPLES), rtol=1e-5)
    np.testing.assert_allclose(np.array(moved.history["validation"]) - log_det / 3, plain.history["validation"], rtol=1e-6)


@pytest.mark.parametrize("samples", [SAMPLES[:10], np.column_stack([SAMPLES, SAMPLES[:, 0]]), np.repeat(SAMPLES[:4], 5, axis=0)])
def test_few_or_dependent_samples_can_be_fitted(samples):
    flow = QuadraticFlow(samples.shape[1], 2).fit(samples, n_steps=100)
    assert np.isfinite(flow.log_prob(samples)).all()


def test_history_tells_the_whole_fit():
    flow = QuadraticFlow(3, 2).fit(SAMPLES, n_steps=250, n_starts=2)
    history = flow.history
    assert history["step"] == [100, 200, 250]
    assert all(len(history[name]) == 3 for name in ("train", "validation", "seconds", "learning_rate"))
    assert np.all(np.diff(history["seconds"]) > 0)
    assert history["validation"][-1] < history["validation"][0]
    assert history["learning_rate"][-1] < 1e-6 < history["learning_rate"][0] <= 1e-2


class _Interrupting:
    """A loss that is interrupted at a given call."""

    def __init__(self, loss, at):
        self.loss, self.left = loss, at

    def __call__(self, weights, batch):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.loss(weights, batch)


def test_a_resumed_fit_ends_in_the_numbers_of_an_uninterrupted_one(tmp_path):
    weights, settings = _starts([0.0, 0.0], [5.0, 5.0]), {"n_steps": 1250, "batch_size": 64, "seed": 4, "learning_rate": 0.3}
    whole = Training(_square, weights, POINTS, **settings)
    whole.run()
    path = tmp_path / "fit.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        Training(_Interrupting(_square, 1150), weights, POINTS, checkpoint=path, **settings).run()
    resumed = Training(_square, weights, POINTS, checkpoint=path, **settings)
    assert resumed.step == 1000
    resumed.run()
    np.testing.assert_array_equal(resumed.now.detach(), whole.now.detach())
    np.testing.assert_array_equal(np.delete(resumed.records, 1, axis=1), np.delete(whole.records, 1, axis=1))
    assert resumed.best_step == whole.best_step
    for mine, theirs in zip(resumed.best()[0].values(), whole.best()[0].values()):
        np.testing.assert_array_equal(mine, theirs)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    path = tmp_path / "fit.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        Training(_Interrupting(_square, 1200), _starts([0.0, 0.0]), POINTS, checkpoint=path).run()
    for points, settings in ((POINTS, {"seed": 1}), (POINTS, {"learning_rate": 1e-3}), (POINTS + 1, {})):
        with pytest.raises(FileFormatError, match="must belong to this fit, it was written with other samples or settings; remove it"):
            Training(_square, _starts([0.0, 0.0]), points, checkpoint=path, **settings)
    with pytest.raises(FileFormatError, match="must belong to this fit"):
        Training(_square, _starts([0.0, 0.0], [1.0, 1.0]), POINTS, checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FileFormatError, match="must be a complete safetensors file"):
        Training(_square, _starts([0.0, 0.0]), POINTS, checkpoint=path)


def test_an_interrupted_fit_leaves_the_best_weights_so_far(monkeypatch):
    monkeypatch.setattr("learners.flows.quadratic.mean_loss", _Interrupting(mean_loss, 250))
    flow = QuadraticFlow(3, 2)
    with pytest.raises(KeyboardInterrupt):
        flow.fit(SAMPLES, n_steps=1000)
    assert flow.history["step"] == [100, 200]
    held_out = Training(_square, _starts([0.0, 0.0]), SAMPLES).batches.validation.numpy()
    assert -flow.log_prob(held_out).mean() / 3 == pytest.approx(min(flow.history["validation"]), rel=1e-12)


def test_patience_stops_a_fit_that_no_longer_gets_better():
    training = Training(_square, _starts([0.0, 0.0]), POINTS, n_steps=20_000, patience=300, batch_size=32)
    training.run()
    assert training.step == training.best_step + 301
    assert training.step < 20_000


def test_a_start_that_diverges_takes_no_other_with_it():
    alone = Training(_square, _starts([0.0, 0.0]), POINTS, n_steps=100)
    alone.run()
    training = Training(_square, _starts([math.inf, 0.0], [0.0, 0.0]), POINTS, n_steps=100)
    training.run()
    np.testing.assert_array_equal(training.best()[0]["w"], alone.best()[0]["w"])
    assert training.best()[1]["starts"][0] is None


def test_a_loss_that_is_not_finite_names_step_and_layer():
    flow = QuadraticFlow(3, 2)
    with pytest.raises(TrainingError, match=re.escape("the loss must stay finite, after step ")) as caught:
        flow.fit(SAMPLES, n_steps=1000, learning_rate=1e30)
    ending = r"in layer [01]; the best weights so far \(step 0\) are kept\. Lower learning_rate or look for outliers\.$"
    assert re.search(ending, str(caught.value))
    assert np.isfinite(flow.log_prob(SAMPLES)).all()


@pytest.mark.parametrize("settings, message", [
    ({"n_steps": 0}, "n_steps must be a whole number of at least 1, got 0."),
    ({"n_starts": 1.5}, "n_starts must be a whole number of at least 1, got 1.5."),
    ({"batch_size": -1}, "batch_size must be a whole number of at least 1, got -1."),
    ({"patience": 0}, "patience must be a whole number of at least 1, got 0."),
    ({"seed": -1}, "seed must be a whole number of at least 0, got -1."),
    ({"learning_rate": 0.0}, "learning_rate must be a positive number, got 0.0."),
    ({"learning_rate": math.nan}, "learning_rate must be a positive number, got nan."),
    ({"device": "abacus"}, "device must be auto, cpu or a GPU of this machine, got 'abacus'."),
])
def test_settings_out_of_range_get_one_sentence(settings, message):
    with pytest.raises(InputError, match=re.escape(message)):
        QuadraticFlow(3, 2).fit(SAMPLES, **settings)


def test_progress_goes_to_the_error_stream_and_only_when_asked(capsys):
    QuadraticFlow(3, 1).fit(SAMPLES, n_steps=100)
    assert capsys.readouterr() == ("", "")
    QuadraticFlow(3, 1).fit(SAMPLES, n_steps=100, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "fit:" in err


def test_a_fit_leaves_the_number_of_threads_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        QuadraticFlow(3, 1).fit(SAMPLES, n_steps=10)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
