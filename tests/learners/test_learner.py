"""What holds for a learner as such: numpy in and out, constant columns, files that come back whole or not at all."""

import copy
import json
import re

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import learners
from fieldtheory import Action, files
from fieldtheory.errors import FieldTheoryError, FileFormatError, InputError
from learners import NICE, Glow, Learner, QuadraticFlow, RealNVP

RNG = np.random.default_rng(0)
SAMPLES = RNG.normal(size=(200, 3))
WITH_CONSTANTS = np.insert(SAMPLES, [1, 3], [7.0, -1.0], axis=1)  # columns 1 and 4

LEARNERS = {
    "teacher": lambda: QuadraticFlow.random(3, 2, seed=1),
    "own choice of what is read": lambda: QuadraticFlow(3, 2, read=[[2], [0, 1]]),
    "fitted": lambda: QuadraticFlow(3, 2).fit(SAMPLES, n_steps=100),
    "with tails": lambda: QuadraticFlow(3, 2, tails=True).fit(SAMPLES, n_steps=20),
    "NICE": lambda: NICE(3, 2, (4, 4)).fit(SAMPLES, n_steps=20),
    "NICE, a unit per hidden layer": lambda: NICE(3, 2, (4, 3, 4), ("tanh", "silu", "softplus")).fit(SAMPLES, n_steps=20),
    "RealNVP": lambda: RealNVP(5, 2, (4,), "silu").fit(WITH_CONSTANTS, n_steps=20),
    "RealNVP without mixing": lambda: RealNVP(3, 2, (4,), mix=False).fit(SAMPLES, n_steps=20, device="cpu"),
    "RealNVP, a unit per hidden layer": lambda: RealNVP(3, 2, (4, 3), ["silu", "tanh"]).fit(SAMPLES, n_steps=20),
    "Glow": lambda: Glow(n_dim=3, n_layers=2, hidden=4).fit(SAMPLES, n_steps=20, n_starts=2),
    "Glow of images": lambda: Glow((1, 4, 4), n_layers=1, hidden=4).fit(RNG.normal(size=(50, 16)), n_steps=20),
    "Glow of images, a unit per hidden layer": lambda: Glow((1, 2, 2), hidden=4, unit=["softplus", "silu"])
    .fit(RNG.normal(size=(50, 4)), n_steps=20),
    "fitted with constant columns": lambda: QuadraticFlow(5, 2).fit(WITH_CONSTANTS, n_steps=100),
}


@pytest.fixture(params=LEARNERS, scope="module")
def learner(request):
    return LEARNERS[request.param]()


def test_a_learner_comes_back_from_its_file(tmp_path, learner):
    again = learners.load(learner.save(tmp_path / "learner.safetensors"))
    x = RNG.normal(size=(2, 4, learner.n_dim))
    assert type(again) is type(learner)
    assert again.config() == learner.config()
    assert again.history == learner.history
    np.testing.assert_array_equal(again.columns.kept, learner.columns.kept)
    np.testing.assert_array_equal(again.log_prob(x), learner.log_prob(x))
    np.testing.assert_array_equal(again.sample(5, seed=2), learner.sample(5, seed=2))


def test_points_of_any_shape_give_float64_numbers(learner):
    x = RNG.normal(size=(2, 4, learner.n_dim)).astype(np.float32)
    value, score = learner.log_prob(x), learner.score(x)
    assert value.dtype == score.dtype == np.float64
    assert (value.shape, score.shape) == ((2, 4), (2, 4, learner.columns.kept.size))
    assert learner.log_prob(x[0, 0]) == pytest.approx(value[0, 0], rel=1e-13)
    np.testing.assert_allclose(learner.score(x[0, 0]), score[0, 0], rtol=1e-13)
    assert learner.log_prob(x[:, :0]).shape == (2, 0)


def test_constant_columns_are_left_out_named_and_restored():
    learner = LEARNERS["fitted with constant columns"]()
    assert learner.names == ("x0", "x2", "x3")
    assert learner.columns.describe() == "constant columns left out: 1, 4"
    generated = learner.sample(20, seed=1)
    assert generated.shape == (20, 5)
    np.testing.assert_array_equal(generated[:, [1, 4]], np.tile([7.0, -1.0], (20, 1)))
    plain = LEARNERS["fitted"]()
    assert plain.names is None
    np.testing.assert_array_equal(learner.log_prob(WITH_CONSTANTS), plain.log_prob(SAMPLES))


def test_a_second_fit_forgets_the_first():
    learner = QuadraticFlow(5, 2).fit(WITH_CONSTANTS, n_steps=100)
    varied = RNG.normal(size=(200, 5))
    again, fresh = learner.fit(varied, n_steps=100), QuadraticFlow(5, 2).fit(varied, n_steps=100)
    np.testing.assert_array_equal(again.log_prob(varied), fresh.log_prob(varied))


def _with(entry, value):
    samples = SAMPLES.copy()
    samples[entry] = value
    return samples


@pytest.mark.parametrize("samples, message", [
    (_with((3, 1), np.nan), "samples must be finite, got 1 NaN or infinite entries, the first at index (3, 1)"),
    (_with((0, 0), np.inf), "samples must be finite"),
    (SAMPLES[:1], "samples must hold at least 10 rows and one column, got shape (1, 3)"),
    (SAMPLES[:, 0], "samples must have shape (n_samples, n_dim), got an array of rank 1"),
    (SAMPLES[None], "samples must have shape (n_samples, n_dim), got an array of rank 3"),
    (SAMPLES + 1j, "samples must be real, got complex128"),
    (SAMPLES.astype(object), "samples must be an array of real numbers, got dtype object"),
    ([["a", "b"]] * 10, "samples must be an array of real numbers, got dtype <U1"),
    (SAMPLES[:, :2], "samples must have the learner's n_dim = 3 columns, got 2."),
    (np.ones((20, 3)), "samples must vary, all 3 columns are constant; there is no density to learn."),
    (SAMPLES * [1, 0, 0], "a flow of coupling layers must have at least 2 varying columns, got 1"),
])
def test_samples_that_cannot_be_learned_get_one_sentence_and_leave_the_learner(samples, message):
    learner = LEARNERS["own choice of what is read"]()
    before, config = learner.log_prob(SAMPLES), learner.config()
    with pytest.raises(InputError, match=re.escape(message)):
        learner.fit(samples)
    assert learner.config() == config
    np.testing.assert_array_equal(learner.log_prob(SAMPLES), before)


@pytest.mark.parametrize("x, message", [
    (np.zeros((2, 4)), r"x must have shape (..., 3), got (2, 4)"),
    ([0, 1, np.nan], "x must be finite"),
    (1.0, "x must have shape (..., 3)"),
])
def test_points_that_are_none_get_one_sentence(x, message):
    for function in (LEARNERS["teacher"]().log_prob, LEARNERS["teacher"]().score):
        with pytest.raises(InputError, match=re.escape(message)):
            function(x)


def test_seeds_and_counts_are_checked():
    with pytest.raises(InputError, match=r"seed must be a whole number of at least 0, got -1."):
        LEARNERS["teacher"]().sample(3, seed=-1)
    with pytest.raises(InputError, match=r"n_samples must be a whole number of at least 1, got 2.5."):
        LEARNERS["teacher"]().sample(2.5)


def test_an_unfinished_learner_says_what_it_must_define():
    class Unfinished(Learner):
        pass

    for call, name in ((lambda u: u.config(), "config"), (lambda u: u.set_columns(None), "set_columns"),
                       (lambda u: u._log_prob(None), "_log_prob"), (lambda u: u._sample(1, None), "_sample")):
        with pytest.raises(TypeError, match=rf"Unfinished must define {name}\(\)"):
            call(Unfinished(2))


@pytest.fixture
def saved(tmp_path):
    return LEARNERS["teacher"]().save(tmp_path / "learner.safetensors")


def _parts(path):
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["fieldtheory"])  # noqa: SIM118


def test_a_missing_truncated_or_foreign_file_gets_one_sentence(tmp_path, saved):
    with pytest.raises(FileFormatError, match="must be a file, there is none"):
        learners.load(tmp_path / "absent")
    content = saved.read_bytes()
    for damaged in (b"", content[:7], content[:200], content[:-8], b"a text file\n" * 50):
        saved.write_bytes(damaged)
        with pytest.raises(FileFormatError, match=r"must be a complete safetensors file, it is damaged or of another format"):
            learners.load(saved)
    save_file({"a": np.zeros(3)}, saved)
    with pytest.raises(FileFormatError, match="must carry a fieldtheory header, it has none"):
        learners.load(saved)
    Action({2: -0.5 * np.eye(2)}).save(saved)
    with pytest.raises(FileFormatError, match="must hold a fieldtheory learner, it holds 'action'"):
        learners.load(saved)


def _set(*path_and_value):
    *path, key, value = path_and_value

    def change(arrays, header):
        place = {"arrays": arrays, "header": header}
        for step in path:
            place = place[step]
        place[key] = value

    return change


def _remove(where, key):
    return lambda arrays, header: {"arrays": arrays, "header": header}[where].pop(key)


INCOMPLETE = "must hold a complete QuadraticFlow, its header and weights do not fit together"


@pytest.mark.parametrize("change, message", [
    (_set("header", "class", "os.system"), "must hold one of the learners DDPM, Glow, NICE, QuadraticFlow, RealNVP, it names 'os.system'"),
    (_set("header", "class", ["QuadraticFlow"]), "must hold one of the learners"),
    (_remove("header", "class"), "must hold one of the learners DDPM, Glow, NICE, QuadraticFlow, RealNVP, it names 'None'"),
    (_remove("header", "config"), INCOMPLETE),
    (_remove("header", "history"), INCOMPLETE),
    (_set("header", "history", [1]), INCOMPLETE),
    (_set("header", "config", [1]), INCOMPLETE),
    (_set("header", "config", "n_dim", "three"), INCOMPLETE),
    (_set("header", "config", "n_dim", 10**12), "asks for a size of 1000000000000 with"),
    (_set("header", "config", "n_layers", 10**12), "asks for a size of 1000000000000 with"),
    (_set("header", "config", "n_layers", 3), INCOMPLETE),
    (_set("header", "config", "read", [[0, 1], [7]]), INCOMPLETE),
    (_set("header", "config", "surprise", 1), INCOMPLETE),
    (_remove("arrays", "state.layers.0.weight"), INCOMPLETE),
    (_set("arrays", "state.layers.0.weight", np.eye(4)), INCOMPLETE),
    (_set("arrays", "state.layers.0.weight", np.full((3, 3), np.nan)), "its weights are not finite"),
    (_set("arrays", "state.extra", np.zeros(2)), INCOMPLETE),
    (_remove("arrays", "columns.kept"), INCOMPLETE),
    (_set("arrays", "columns.kept", np.array([0, 1, 3])), "its columns are inconsistent"),
    (_set("arrays", "columns.kept", np.array([-1, 0, 1])), "its columns are inconsistent"),
    (_set("arrays", "columns.kept", np.array([0, 0, 1])), "its columns are inconsistent"),
    (_set("arrays", "columns.kept", np.array([0.0, 1.0, 2.0])), "its columns are inconsistent"),
    (_set("arrays", "columns.constants", np.zeros(2)), "its columns are inconsistent"),
])
def test_a_hostile_file_gets_one_sentence(saved, change, message):
    arrays, header = _parts(saved)
    change(arrays, header)
    del header["kind"], header["format"]
    files.write(saved, "learner", arrays, header)
    with pytest.raises(FileFormatError, match=re.escape(message)) as caught:
        learners.load(saved)
    assert "\n" not in str(caught.value)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("name, change, message", [
    ("NICE", _set("header", "config", "n_layers", 50), "it asks for 50 layers with 17 arrays"),
    ("NICE", _set("header", "config", "n_dim", 4), "its columns are inconsistent"),
    ("NICE", _set("header", "config", "hidden", [90, 90, 90]), "weights with "),
    ("NICE", _set("header", "config", "hidden", ["8"]), "hidden must be a whole number of at least 1, got '8'."),
    ("NICE", _set("header", "config", "unit", "__import__"), "or as many as there are hidden layers, 2; got '__import__'."),
    ("NICE", _set("header", "config", "unit", ["tanh"] * 3), "or as many as there are hidden layers, 2; got ['tanh', 'tanh', 'tanh']."),
    ("NICE", _set("header", "config", "unit", [["tanh"], "tanh"]), "or as many as there are hidden layers, 2; got [['tanh'], 'tanh']."),
    ("NICE", _set("header", "config", "unit", 7), "or as many as there are hidden layers, 2; got 7."),
    ("RealNVP", _set("header", "config", "mix", False), "Missing key"),
    ("Glow", _set("arrays", "state.layers.2.lu.permutation", np.array([0, 1, 1])), "a permutation must name every variable once"),
    ("Glow", _set("header", "config", "n_dim", 10**9), "it asks for a size of 1000000000 with"),
    ("Glow of images", _set("header", "config", "shape", [1, 512, 512]), "it asks for images of shape [1, 512, 512] with 16 columns"),
    ("Glow of images", _set("header", "config", "n_scales", 3), "n_scales must be at most 2"),
    ("Glow of images", _set("header", "config", "shape", None), "Glow must be given shape or n_dim"),
    ("with tails", _set("header", "config", "tails", False), "Unexpected key"),
])
def test_hostile_files_of_flows_get_one_sentence(tmp_path, name, change, message):
    path = LEARNERS[name]().save(tmp_path / "learner.safetensors")
    arrays, header = _parts(path)
    change(arrays, header)
    del header["kind"], header["format"]
    files.write(path, "learner", arrays, header)
    with pytest.raises(FileFormatError, match=re.escape(message)):
        learners.load(path)


def test_a_header_takes_no_memory_before_it_is_believed(tmp_path):
    """A file of a few megabytes that asks for a matrix of 800 GB."""
    n = 300_000
    path = tmp_path / "learner.safetensors"
    arrays = {"columns.kept": np.arange(n), "columns.constants": np.zeros(n)}
    for name, config in (("QuadraticFlow", {"n_dim": n, "n_layers": 1}), ("RealNVP", {"n_dim": n, "n_layers": 1})):
        files.write(path, "learner", arrays, {"class": name, "config": config, "history": {}})
        with pytest.raises(FileFormatError, match=r"it asks for \d+ weights with 600000 numbers"):
            learners.load(path)


def test_saving_into_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FieldTheoryError, match="path must lie in an existing folder"):
        LEARNERS["teacher"]().save(tmp_path / "absent" / "learner.safetensors")


def test_learners_can_be_copied():
    learner = LEARNERS["fitted"]()
    np.testing.assert_array_equal(copy.deepcopy(learner).log_prob(SAMPLES), learner.log_prob(SAMPLES))
