"""The experiment on disjoint halves: do two learners that saw different samples generate the same ones?

Learners A and B are trained on disjoint random sets D_A, D_B of N samples each and generate from the same initial noise
(Z. Kadkhodaie, F. Guth, E. Simoncelli, S. Mallat, arXiv:2310.02557). Per split, over the generated samples s,

    q = Σ_s ⟨x_A − x̄_A, x_B − x̄_B⟩ / √(Σ_s |x_A − x̄_A|² Σ_s |x_B − x̄_B|²)                                    (convergence)

in the coordinates of the data; `cosine` is the mean of the per-sample cosines, another number. A generated sample is memorized if its
nearest training sample is less than a third as far as the second nearest (T. Bonnaire et al., arXiv:2505.17638).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm
from xarray import Dataset

from fieldtheory import __version__
from fieldtheory.arrays import Columns, as_count, as_samples
from fieldtheory.errors import InputError

from .data import disjoint_halves, fingerprint

_MEMORIZED = 1 / 3
_QUANTITIES = ("convergence", "cosine", "train_loss", "test_loss", "memorization")


def split_experiment(samples, make_learner: Callable, n_samples: Sequence[int], n_splits: int = 20, seed: int = 0,
                     n_generated: int = 1000, progress: bool = False) -> Dataset:
    """Train pairs of learners on disjoint halves and measure how far they agree.

    Parameters
    ----------
    samples : array_like, shape (n_total, n_dim)
        Columns that never vary are left out.
    make_learner : callable
        ``make_learner(n_dim)`` gives an untrained learner with `fit`, `generate(noise)` and `total_loss`, such as
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

    Returns
    -------
    xarray.Dataset
        Over n_samples: convergence, cosine, train_loss, test_loss (means over dimensions and steps; the test set is what neither half
        contains, NaN if that is nothing), memorization (share of generated samples), each a mean over splits, with its standard error
        as `_error` and the single values as `_split`. Attributes: seed, sha256 of the samples, dropped columns, version. The
        halves are those of ``learners.data.disjoint_halves(n_total, N, [seed, N, split])``.

    Raises
    ------
    InputError
        Bad samples or numbers, or N above n_total/2: the halves would overlap.
    """
    samples = as_samples(samples, min_samples=4)
    columns = Columns.of(samples)
    x = columns.drop(samples)
    sizes = [as_count(N, "n_samples", minimum=2) for N in n_samples]
    if not sizes or max(sizes) > len(x) // 2:
        raise InputError(f"n_samples must be numbers from 2 to {len(x) // 2}, half of the {len(x)} samples, got {list(n_samples)}; "
                         "the halves would overlap.")
    n_splits, seed = as_count(n_splits, "n_splits", minimum=2), as_count(seed, "seed", minimum=0)
    values = np.empty((len(_QUANTITIES), len(sizes), n_splits))
    with tqdm(total=len(sizes) * n_splits, desc="split", disable=not progress, leave=False) as bar:
        for i, N in enumerate(sizes):
            for j in range(n_splits):
                values[:, i, j] = _one_split(x, N, make_learner, [seed, N, j], as_count(n_generated, "n_generated", minimum=2))
                bar.update()
    return _dataset(values, sizes, {"seed": seed, "n_splits": n_splits, "sha256": fingerprint(samples), "version": __version__,
                                    "dropped_columns": [int(i) for i in columns.dropped]})


def _one_split(x: np.ndarray, N: int, make_learner: Callable, seed: list[int], n_generated: int) -> tuple:
    """All quantities of one split."""
    halves = disjoint_halves(len(x), N, seed)
    noise = np.random.default_rng([*seed, 1]).normal(size=(n_generated, x.shape[1]))
    learners = [make_learner(x.shape[1]).fit(x[half]) for half in halves]
    first, second = (learner.generate(noise) for learner in learners)
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
    squares = np.sum(generated**2, axis=1)[:, None] - 2 * generated @ training.T + np.sum(training**2, axis=1)
    nearest = np.sqrt(np.maximum(np.partition(squares, 1, axis=1)[:, :2], 0.0))
    return nearest[:, 0] < _MEMORIZED * nearest[:, 1]


def _dataset(values: np.ndarray, sizes: list[int], attributes: dict) -> Dataset:
    data = {}
    for name, by_split in zip(_QUANTITIES, values):
        data[name] = ("n_samples", by_split.mean(axis=1))
        data[f"{name}_error"] = ("n_samples", by_split.std(axis=1, ddof=1) / np.sqrt(by_split.shape[1]))
        data[f"{name}_split"] = (("n_samples", "split"), by_split)
    return Dataset(data, coords={"n_samples": sizes, "split": np.arange(values.shape[2])}, attrs=attributes)
