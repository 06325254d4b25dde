"""What each command does: read, compute, and only then write a folder.

Each function takes the parsed options of `learners.cli`. Results go to the screen as a short table and to the folder ``--out`` as a
page, a JSON summary and safe files; the folder is made when everything is ready.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import fieldtheory as ft
from fieldtheory.errors import InputError
from fieldtheory.files import atomic, write_text

from .data import fingerprint, load_samples
from .report import Chapter, Report, Text, versions


def demo(options: argparse.Namespace) -> None:
    """The main job on known theories and on the digits."""
    from .demo import run_demo

    out = _folder(options.out)
    report, summary = run_demo(seed=options.seed, progress=not options.quiet)
    _finish(out, report, summary)


def learn(options: argparse.Namespace) -> None:
    """Fit a quadratic flow to a file of samples and turn it into an action."""
    from .interactions import learn_interactions

    out, samples = _folder(options.out), load_samples(options.file, options.key)
    learned = learn_interactions(samples, order=options.order, n_layers=options.n_layers, n_steps=options.n_steps,
                                 n_starts=options.n_starts, components=options.components, seed=options.seed,
                                 progress=not options.quiet)
    question = f"Which interactions does a quadratic flow find in {Path(options.file).name} ({_size(samples)})?"
    report = Report("Learned interactions", question, [learned.chapter("Interactions")], _provenance(options, samples))
    _finish(out, report, learned.summary(), learned.files())


def predict(options: argparse.Namespace) -> None:
    """Predict from the covariance when two learners agree."""
    _agreement(options, n_splits=0)


def split(options: argparse.Namespace) -> None:
    """Measure when two learners agree, beside the prediction."""
    _agreement(options, n_splits=options.n_splits)


def _agreement(options: argparse.Namespace, n_splits: int) -> None:
    from .agreement import agreement

    out, samples = _folder(options.out), load_samples(options.file, options.key)
    found = agreement(samples, options.n_samples, options.convergence, options.ridge, options.seed, n_splits,
                      progress=not getattr(options, "quiet", True))
    question = f"From how many samples on do two diffusion models agree on {Path(options.file).name} ({_size(samples)})?"
    report = Report("When do two learners agree?", question, [found.chapter("Agreement")], _provenance(options, samples))
    _finish(out, report, found.summary())


def compare(options: argparse.Namespace) -> None:
    """Compare the couplings of two action files."""
    out = None if options.out is None else _folder(options.out)
    samples = None if options.samples is None else load_samples(options.samples)
    comparison = ft.compare(ft.Action.load(options.learned), ft.Action.load(options.true), samples=samples)
    print(comparison.table())
    if out is not None:
        question = f"How far are the couplings of {Path(options.learned).name} from those of {Path(options.true).name}?"
        chapter = Chapter("Comparison", comparison.note, [Text(line) for line in comparison.table().splitlines()])
        summary = {"relative_error": comparison.relative_error, "cosine": comparison.cosine}
        _finish(out, Report("Couplings compared", question, [chapter], {"command": options.command}), summary)


def sample(options: argparse.Namespace) -> None:
    """Draw samples of a named theory; an interrupted run goes on from the checkpoint in its folder."""
    theory = ft.theories.from_text(options.theory)
    with _kept_if_filled(_folder(options.out)) as out:
        chains = ft.sampling.thinned_chains(theory, options.n_samples, options.seed, options.n_chains, method=options.method,
                                            progress=not options.quiet, checkpoint=out / "checkpoint.safetensors")
        samples = ft.sampling.interleaved(chains, options.n_samples)
        with atomic(out / "samples.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, samples, allow_pickle=False)
        theory.save(out / "action.safetensors")
        summary = {"theory": options.theory, "seed": options.seed, "shape": samples.shape, "sha256": fingerprint(samples)}
        _write_summary(out, {**summary, "n_chains": chains.sizes["chain"], "diagnostics": chains.attrs})
    print(f"{_size(samples)} of {options.theory}\n{_chains_in_words(chains)}\n{out / 'samples.npy'}")


def _chains_in_words(chains) -> str:
    found = chains.attrs
    return (f"{chains.sizes['chain']} chains ({found['method']}), one draw in {found['interval']} kept: R-hat {found['r_hat']:.3f}, "
            f"effective share {found['worth']:.2f} ± {found['noise'] / 3:.2f}, acceptance {found['acceptance']:.2f}, "
            f"{found['n_divergent']} of {found['n_trajectories']} trajectories diverged")


@contextmanager
def _kept_if_filled(folder: Path) -> Iterator[Path]:
    """A folder that is made now, for a checkpoint, and goes again if nothing was written into it."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        for path in made:
            if not any(path.iterdir()):
                path.rmdir()


def _folder(name: str) -> Path:
    """The output folder, refused before any work if it cannot be one."""
    path = Path(name)
    if path.exists() and not path.is_dir():
        raise InputError(f"--out must name a folder, {path} is a file.")
    return path


def _finish(out: Path, report: Report, summary: dict, files: Mapping | None = None) -> None:
    """Write everything, then say the verdict and where the page is."""
    out.mkdir(parents=True, exist_ok=True)
    for name, save in (files or {}).items():
        save(out / name)
    _write_summary(out, {**summary, "provenance": report.provenance})
    page = report.save(out / "report.html")
    for chapter in report.chapters:
        print(f"\n{chapter.title}. {chapter.verdict}")
        for part in chapter.parts:
            if hasattr(part, "text"):
                print(f"\n{part.text()}")
    print(f"\n{page}")


def _write_summary(out: Path, summary: dict) -> None:
    plain = _plain({**summary, "versions": versions()})
    write_text(out / "summary.json", json.dumps(plain, indent=2, allow_nan=False) + "\n")


def _plain(value):
    """Numbers and containers as JSON holds them; NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _provenance(options: argparse.Namespace, samples: np.ndarray) -> dict:
    return {"command": f"fieldtheory {options.command}", "data": Path(options.file).name, "shape": list(samples.shape),
            "sha256": fingerprint(samples), "seed": options.seed, "options": {k: v for k, v in vars(options).items() if k != "file"}}


def _size(samples: np.ndarray) -> str:
    return f"{samples.shape[0]} samples of {samples.shape[1]} variables"
