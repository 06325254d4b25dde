"""The examples run as they are, each in a folder of its own, and the README shows the first of them word for word."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def first_light(shown, folder):
    cosines = [float(line.split()[2]) for line in shown.splitlines() if line.split()[:1] == ["3"]]
    assert "two diffusion models agree from N =" in shown and len(cosines) == 2 and min(cosines) > 0.8


def graphs(shown, folder):
    assert "hubs: [33, 0, 32]" in shown and "the same action: True" in shown
    assert (folder / "interactions.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def how_interactions_build_up(shown, folder):
    """Before training there is order 2 alone, by whitening; order 3 comes first."""
    errors = {line.split()[1]: [float(word) for word in line.split()[2:]] for line in shown.splitlines() if line.split()[:1] == ["order"]}
    assert min(errors["3"][0], errors["4"][0]) > 0.9 and errors["3"][-1] < 0.8 and errors["2"][-1] < 0.1
    assert "1 LinearLayer" in shown and "split from 2" in shown and "loops" in shown
    assert all((folder / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for name in ("training", "layers"))


def learning_interactions(shown, folder):
    tables = ("teacher: median relative error", "confining: couplings", "lattice: quartic", "modes: cumulants")
    assert all(title in shown for title in tables) and "nan" not in shown
    pictures = [(folder / f"{title.split(':')[0]}.png").read_bytes() for title in tables]
    assert all(picture[:8] == b"\x89PNG\r\n\x1a\n" for picture in pictures)


def sampling(shown, folder):
    found = [float(number) for number in re.findall(r"-?\d+\.\d+", shown)]
    mean, error, r_hat, worst, weight, weight_error, exact = found
    assert abs(mean + 1) < 4 * error < 0.01 and r_hat < 1.02 and abs(weight - exact) < 4.5 * weight_error
    assert worst > 1.05 and "hmc: chains should agree" in shown and " 0 divergences" in shown


def symbols(shown, folder):
    assert "effective quartic vertex: -lambda + 3*g**2/M" in shown
    assert float(re.search(r"difference to quadrature: (\S+)", shown)[1]) < 1e-10
    assert "mode: sqrt(6)*sqrt(m2)/sqrt(lambda)  propagator: 1/(2*m2)  cubic vertex: -sqrt(6)*sqrt(lambda)*sqrt(m2)" in shown
    assert "A_011 = 0.2  x1 alone: 0.91893853320467" in shown and shown.endswith(" - 0.5*x1**2 - 0.82*x1**4\n")


def textures(shown, folder):
    numbers = [float(number) for number in re.findall(r"-\d+\.\d+", shown)]
    assert numbers[0] < numbers[1] < 0 and numbers[2] < numbers[3] < 0, "GLOW tells more than a Gaussian, of either texture"
    assert (folder / "textures.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


EXAMPLES = {"first_light": first_light, "graphs": graphs, "how_interactions_build_up": how_interactions_build_up,
            "learning_interactions": learning_interactions, "sampling": sampling, "symbols": symbols, "textures": textures}
ARGUMENTS = dict.fromkeys(("how_interactions_build_up", "learning_interactions", "textures"), ("quick",))
NEEDS = {"textures": "skimage"}


def run(name, folder, *paths):
    command = [sys.executable, ROOT / f"examples/{name}.py", *ARGUMENTS.get(name, [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT]))}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name, tmp_path):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    done = run(name, tmp_path)
    assert done.returncode == 0, done.stderr
    EXAMPLES[name](done.stdout, tmp_path)


def test_an_example_without_the_package_that_it_needs_says_so_in_one_sentence(tmp_path):
    (tmp_path / "skimage.py").write_text("raise ImportError")
    done = run("textures", tmp_path, tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == ("The photographs come with scikit-image, which is not installed: "
                           "pip install 'fieldtheory-learners[images]'.\n")


def test_no_example_is_left_out():
    assert set(EXAMPLES) == {path.stem for path in (ROOT / "examples").glob("*.py")}


def test_the_readme_shows_the_example_as_it_is():
    code = (ROOT / "examples/first_light.py").read_text().split('"""\n\n', 1)[1]
    assert code.strip() in (ROOT / "README.md").read_text()
