"""The command line: complete results or none, one sentence and exit code 2 for bad input, nothing heavy behind --help."""

import json
import subprocess
import sys

import numpy as np
import pytest

from learners.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    x[:, 1] += 0.5 * x[:, 0] ** 2
    x[:, 3] = 2.0
    np.save("good.npy", x)
    np.savetxt("good.csv", x, delimiter=",", header="a,b,c,d", comments="")
    np.save("nan.npy", np.where(np.arange(4) == 2, np.nan, x))
    np.save("one_row.npy", x[:1])
    np.save("constant.npy", np.ones((100, 3)))
    np.save("rank.npy", np.ones((4, 3, 2)))
    np.save("complex.npy", x + 1j)
    np.save("object.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    np.save("one_column.npy", x[:, :1])
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "truncated.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:900])
    (tmp_path / "truncated.safetensors").write_bytes(b"\x40\x00\x00\x00\x00\x00\x00\x00{}")
    return tmp_path


REFUSED = {
    "learn nan.npy": "nan.npy must be finite, got 300 NaN",
    "learn one_row.npy": "must hold at least 2 rows",
    "learn constant.npy": "all 3 columns are constant",
    "learn rank.npy": "must have shape (n_samples, n_dim), got an array of rank 3",
    "learn complex.npy": "must be real, got complex128",
    "learn object.npy": "must be a complete .npy file of numbers",
    "learn one_column.npy": "must have at least 2 varying columns, got 1",
    "learn text.npy": "must be a complete .npy file of numbers",
    "learn text.txt": "got .txt; convert it first",
    "learn truncated.npy": "it is damaged or of another format",
    "learn missing.npy": "there is none; check the path",
    "learn good.npy --order 1": "order must be at least 2",
    "predict nan.npy": "must be finite",
    "predict constant.npy": "all 3 columns are constant",
    "split good.npy --n-samples 20,200": "the halves would overlap",
    "sample phi4:shape=3x3,mass_squared=-1,coupling=0": "coupling must confine the field",
    "sample phi4:shape=3x3,mass_squared=__import__('os'),coupling=1": "mass_squared must be a number",
    "compare truncated.safetensors truncated.safetensors": "must be a complete safetensors file",
}


@pytest.mark.parametrize("line", REFUSED)
def test_bad_input_is_one_sentence_exit_code_2_and_nothing_written(line, folder, capsys):
    before = sorted(folder.iterdir())
    assert main([*line.split(), "--out", "result"]) == 2
    message = capsys.readouterr().err.strip()
    assert REFUSED[line] in message
    assert message.startswith("fieldtheory: error: ") and len(message.splitlines()) == 1
    assert sorted(folder.iterdir()) == before


def test_out_that_is_a_file_is_refused(folder, capsys):
    assert main(["predict", "good.npy", "--out", "good.csv"]) == 2
    assert "--out must name a folder" in capsys.readouterr().err


def test_learn_writes_everything_and_repeats_itself(folder):
    arguments = ["learn", "good.csv", "--order", "3", "--n-steps", "200", "--n-starts", "1", "--seed", "3", "--quiet", "--out"]
    assert main([*arguments, "a"]) == 0
    assert main([*arguments, "b"]) == 0
    assert sorted(p.name for p in (folder / "a").iterdir()) == ["action.safetensors", "learner.safetensors", "report.html",
                                                                "summary.json"]
    assert (folder / "a/action.safetensors").read_bytes() == (folder / "b/action.safetensors").read_bytes()
    summary = json.loads((folder / "a/summary.json").read_text())
    assert summary["n_dim"] == 3 and summary["dropped"] == "constant columns left out: 3"
    page = (folder / "a/report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page


def test_split_measures_beside_the_prediction(folder):
    assert main(["split", "good.npy", "--n-splits", "3", "--n-samples", "20,100", "--quiet", "--out", "run"]) == 0
    summary = json.loads((folder / "run/summary.json").read_text())
    assert summary["measured"]["n_samples"] == summary["prediction"]["n_samples"] == [20, 100]
    assert np.abs(np.subtract(summary["measured"]["convergence"], summary["prediction"]["convergence"])).max() < 0.1


def test_sample_and_compare(folder, capsys):
    assert main(["sample", "phi4:shape=3,mass_squared=1,coupling=1", "--n-samples", "40", "--out", "run"]) == 0
    assert np.load("run/samples.npy").shape == (40, 3)
    shown = capsys.readouterr()
    assert "R-hat 1.0" in shown.out and "sampling: 100%" in shown.err
    found = json.loads((folder / "run/summary.json").read_text())["diagnostics"]
    assert found["r_hat"] < 1.05 and found["worth"] > 0.8 and found["n_divergent"] == 0 and found["method"] == "hmc"
    assert main(["compare", "run/action.safetensors", "run/action.safetensors"]) == 0
    assert "1.0000" in capsys.readouterr().out


def test_an_interrupt_leaves_nothing(folder, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("learners.interactions.learn_interactions", interrupted)
    assert main(["learn", "good.npy", "--out", "run"]) == 130
    assert "no result was written" in capsys.readouterr().err and not (folder / "run").exists()


@pytest.mark.parametrize("method", ["hmc", "nuts", "tempering"])
def test_an_interrupted_sample_goes_on_from_its_folder(method, folder, monkeypatch, capsys):
    from fieldtheory.sampling import runs

    monkeypatch.setattr(runs, "_EVERY", 0.0)
    line = ["sample", "random_interactions:n_dim=2", "--n-samples", "300", "--method", method, "--quiet", "--out"]
    assert main([*line, "whole"]) == 0
    assert "sampling" not in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(runs.Checkpoint, "remove", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main([*line, "parts"]) == 130
    assert [path.name for path in (folder / "parts").iterdir()] == ["checkpoint.safetensors"]
    assert main([*line[:-1], "--seed", "1", "--out", "parts"]) == 2
    assert "made with another seed" in capsys.readouterr().err
    assert main([*line, "parts"]) == 0
    assert (folder / "parts/samples.npy").read_bytes() == (folder / "whole/samples.npy").read_bytes()
    assert sorted(p.name for p in (folder / "parts").iterdir()) == ["action.safetensors", "samples.npy", "summary.json"]


def test_a_sample_that_is_interrupted_early_leaves_no_folder(folder, monkeypatch):
    from fieldtheory.sampling import HMC

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(HMC, "warm_up", interrupted)
    assert main(["sample", "gaussian:n_dim=2", "--out", "a/b"]) == 130 and not (folder / "a").exists()


def test_help_loads_nothing_heavy():
    code = ("import sys\nfrom learners.cli import main\ntry:\n    main(['learn', '--help'])\nexcept SystemExit:\n    pass\n"
            "print(sorted({'torch', 'numpy', 'numba', 'matplotlib', 'scipy'} & set(sys.modules)))")
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.endswith("[]\n") and "--order" in shown


@pytest.mark.parametrize("bad", ["--n-samples 0", "--n-samples x", "--convergence 1.5", "--ridge -1", "--ridge nan", "--seed -1"])
def test_bad_options_exit_with_2(bad, folder, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["predict", "good.npy", *bad.split()])
    assert stop.value.code == 2 and "must" in capsys.readouterr().err
