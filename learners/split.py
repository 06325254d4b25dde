"""The experiment on disjoint halves: do two learners that saw different samples generate the same ones?

Learners A and B are trained on disjoint random sets D_A, D_B of N samples each and generate from the same initial noise
(Z. Kadkhodaie, F. Guth, E. Simoncelli, S. Mallat, arXiv:2310.02557). Per split, over the generated samples s,

    q = Σ_s ⟨x_A − x̄_A, x_B − x̄_B⟩ / √(Σ_s |x_A − x̄_A|² Σ_s |x_B − x̄_B|²)                                    (convergence)

in the coordinates of the data; `cosine` is the mean of the per-sample cosines, another number. A generated sample is memorized if its
nearest training sample is less than a third as far as the second nearest (T. Bonnaire et al., arXiv:2505.17638).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm
from xarray import Dataset

from fieldtheory import __version__, files
from fieldtheory.arrays import Columns, as_count, as_samples
from fieldtheory.errors import FileFormatError, InputError

from .data import disjoint_halves, fingerprint
from .learner import Learner

_MEMORIZED = 1 / 3
_QUANTITIES = ("convergence", "cosine", "train_loss", "test_loss", "memorization")


def split_experiment(samples, make_learner: Callable, n_samples: Sequence[int], n_splits: int = 20, seed: int = 0,
                     n_generated: int = 1000, progress: bool = False, checkpoint=None) -> Dataset:
    """Train pairs of learners on disjoint halves and measure how far they agree.

    Parameters
    ----------
    samples : array_like, shape (n_total, n_dim)
        Columns that never vary are left out.
    make_learner : callable
        ``make_learner(n_dim)`` gives a new, untrained learner with `fit`, ``generate(noise, seed=)`` and `total_loss`, such as
        ``lambda n_dim: DDPM(LinearDenoiser(n_dim))``.
    n_samples : sequence of int
        N per half, each from 2 to n_total/2.
    n_splits : int
        Random splits per N, at least 2.
    seed : int
        Of the splits and the noise.
    n_generated : int
        Samples per learner.
    progress : bool
        Show a bar on the error stream.
    checkpoint : path-like, optional
        Written after every split. If it exists, the experiment goes on where it stopped and ends in the same numbers; it is removed when
        the experiment is complete. Learners count as the same if their class and `config` are.

    Returns
    -------
    xarray.Dataset
        Over n_samples: convergence, cosine, train_loss, test_loss (means over dimensions and steps; the test set is what neither half
        contains, NaN if that is nothing), memorization (share of generated samples), each a mean over splits, with its standard error
        as `_error` and the single values as `_split`. Attributes: seed, n_splits, n_generated, learner, sha256 of the samples, dropped
        columns, version. The halves are those of ``learners.data.disjoint_halves(n_total, N, [seed, N, split])``.

    Raises
    ------
    InputError
        Bad samples, numbers or learners, or N above n_total/2: the halves would overlap.
    FileFormatError
        The checkpoint belongs to other samples, settings or learners.
    """
    samples = as_samples(samples, min_samples=4)
    columns = Columns.of(samples)
    x, sizes = columns.drop(samples), _sizes(n_samples, len(samples))
    settings = {"seed": as_count(seed, "seed", minimum=0), "n_splits": as_count(n_splits, "n_splits", minimum=2),
                "n_generated": as_count(n_generated, "n_generated", minimum=2), "learner": _description(make_learner, x.shape[1]),
                "sha256": fingerprint(samples), "version": __version__}
    record = _Record(checkpoint, sizes, settings)
    with tqdm(total=len(record.splits), initial=len(record.values), desc="split", disable=not progress, leave=False) as bar:
        for N, j in record.left():
            record.add(_one_split(x, N, make_learner, [settings["seed"], N, j], n_generated))
            bar.update()
    record.close()
    attributes = {**settings, "dropped_columns": [int(i) for i in columns.dropped]}
    return _dataset(record.values.reshape(len(sizes), n_splits, -1), sizes, attributes)


def _sizes(n_samples: Sequence[int], n_total: int) -> list[int]:
    sizes = [as_count(N, "n_samples", minimum=2) for N in np.atleast_1d(np.asarray(n_samples, dtype=object))]
    if not sizes or max(sizes) > n_total // 2:
        raise InputError(f"n_samples must be numbers from 2 to {n_total // 2}, half of the {n_total} samples, got {sizes}; "
                         "the halves would overlap.")
    return sizes


def _description(make_learner: Callable, n_dim: int) -> str:
    """Class and arguments of the learners, which must be able to do what is asked of them and share nothing."""
    if isinstance(make_learner, Learner) or not callable(make_learner):
        raise InputError("make_learner must be a function of n_dim that gives a new learner, such as "
                         f"lambda n_dim: DDPM(LinearDenoiser(n_dim)), got {type(make_learner).__name__}.")
    first, second = make_learner(n_dim), make_learner(n_dim)
    if not isinstance(first, Learner) or not all(hasattr(first, name) for name in ("generate", "total_loss")):
        raise InputError("make_learner must give learners that generate from given noise and have a denoising loss, such as DDPM, got "
                         f"{type(first).__name__}.")
    if set(first.modules()) & set(second.modules()):
        raise InputError("make_learner must give a new learner at every call, it gave one with parts of the one before; make its parts "
                         "inside the function.")
    return f"{type(first).__name__} {json.dumps(first.config())}"


class _Record:
    """Values of the splits that are done, in the order in which they are done; kept in a file if there is one to be."""

    def __init__(self, checkpoint, sizes: list[int], settings: dict):
        self.path = None if checkpoint is None else Path(checkpoint)
        self.splits = [(N, j) for N in sizes for j in range(settings["n_splits"])]
        self.settings = {**settings, "n_samples": sizes}
        self.values = np.empty((0, len(_QUANTITIES)))
        if self.path is not None and self.path.exists():
            self._resume()

    def left(self) -> list[tuple[int, int]]:
        """N and number of the splits still to do."""
        return self.splits[len(self.values):]

    def add(self, values: tuple) -> None:
        self.values = np.vstack([self.values, values])
        if self.path is not None:
            files.write(self.path, "checkpoint", {"values": self.values}, {"settings": self.settings})

    def close(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _resume(self) -> None:
        arrays, header = files.read(self.path, "checkpoint")
        values = arrays.get("values", np.empty(0))
        if header.get("settings") != self.settings or values.shape[1:] != (len(_QUANTITIES),) or len(values) > len(self.splits):
            raise FileFormatError(f"{self.path} must belong to this experiment, it was written with other samples, settings or learners; "
                                  "remove it or choose another checkpoint.")
        self.values = values


def _one_split(x: np.ndarray, N: int, make_learner: Callable, seed: list[int], n_generated: int) -> tuple:
    """All quantities of one split."""
    halves = disjoint_halves(len(x), N, seed)
    rng = np.random.default_rng([*seed, 1])
    noise, step_seed = rng.normal(size=(n_generated, x.shape[1])), int(rng.integers(2**32))
    learners = [make_learner(x.shape[1]).fit(x[half]) for half in halves]
    first, second = (learner.generate(noise, seed=step_seed) for learner in learners)
    unseen = np.delete(x, np.concatenate(halves), axis=0)
    train = np.mean([learner.total_loss(x[half]) for learner, half in zip(learners, halves)])
    test = np.mean([learner.total_loss(unseen) for learner in learners]) if len(unseen) else np.nan
    copied = np.mean([memorized(own, x[half]).mean() for own, half in zip((first, second), halves)])
    return convergence(first, second), mean_cosine(first, second), train / x.shape[1], test / x.shape[1], copied


def convergence(first: np.ndarray, second: np.ndarray) -> float:
    """q of samples generated from the same noise, each centred by its own mean; shapes (n, n_dim)."""
    a, b = first - first.mean(axis=0), second - second.mean(axis=0)
    return float(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b)))


def mean_cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Mean over samples of the cosine between the two, each centred by its own mean."""
    a, b = first - first.mean(axis=0), second - second.mean(axis=0)
    return float(np.mean(np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))))


def memorized(generated: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Which generated samples lie less than a third as far from their nearest training sample as from the second, bool (n,)."""
    centre = training.mean(axis=0)  # far from the origin the squares would cancel
    x, y = generated - centre, training - centre
    squares = np.sum(x**2, axis=1)[:, None] - 2 * x @ y.T + np.sum(y**2, axis=1)
    nearest = np.sqrt(np.maximum(np.partition(squares, 1, axis=1)[:, :2], 0.0))
    return nearest[:, 0] < _MEMORIZED * nearest[:, 1]


def _dataset(values: np.ndarray, sizes: list[int], attributes: dict) -> Dataset:
    """Means, standard errors and single values; `values` over n_samples, split and quantity."""
    data = {}
    for name, by_split in zip(_QUANTITIES, np.moveaxis(values, -1, 0)):
        data[name] = ("n_samples", by_split.mean(axis=1))
        data[f"{name}_error"] = ("n_samples", by_split.std(axis=1, ddof=1) / np.sqrt(by_split.shape[1]))
        data[f"{name}_split"] = (("n_samples", "split"), by_split)
    return Dataset(data, coords={"n_samples": sizes, "split": np.arange(values.shape[1])}, attrs=attributes)
