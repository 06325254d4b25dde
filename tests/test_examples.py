"""The README's example runs, word for word, and says what it says."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def test_first_light_runs():
    shown = subprocess.run([sys.executable, ROOT / "examples/first_light.py"], capture_output=True, text=True, check=True).stdout
    assert "two diffusion models agree from N =" in shown
    cosines = [float(line.split()[2]) for line in shown.splitlines() if line.split()[:1] == ["3"]]
    assert len(cosines) == 2 and min(cosines) > 0.8


def test_the_readme_shows_the_example_as_it_is():
    code = (ROOT / "examples/first_light.py").read_text().split('"""\n\n', 1)[1]
    assert code.strip() in (ROOT / "README.md").read_text()
