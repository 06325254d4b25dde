"""When do two learners agree? The prediction from the covariance, the measurement on disjoint halves, and the verdict in words.

The prediction needs one data set and no training (`fieldtheory.generalization`); the measurement trains two linear diffusion models
on D_A and D_B and lets both generate from the same noise (`learners.split`). N counts samples per half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xarray import Dataset

from fieldtheory import generalization, plots
from fieldtheory.arrays import as_samples
from fieldtheory.errors import InputError

from .report import Chapter, Picture, Table, panel

_GRID = np.array([1, 1.5, 2, 3, 5, 7])


@dataclass(frozen=True)
class Agreement:
    """Prediction, threshold and, where there is one, measurement.

    Attributes
    ----------
    prediction : xarray.Dataset
        From `fieldtheory.generalization.predict`.
    needed
        From `fieldtheory.generalization.samples_needed`: N at which q reaches `convergence`.
    convergence : float
        The q that counts as agreement.
    measured : xarray.Dataset or None
        From `learners.split_experiment`.
    """

    prediction: Dataset
    needed: object
    convergence: float
    measured: Dataset | None = None

    @property
    def verdict(self) -> str:
        """The answer in words."""
        words = (f"Two linear diffusion models trained on disjoint halves should agree (convergence q ≥ {self.convergence:g}) "
                 f"from {self.needed} samples per half on, as predicted from the covariance alone.")
        return words if self.measured is None else f"{words} {self._check()}"

    def _check(self) -> str:
        gap = np.abs(self.prediction["convergence"] - self.measured["convergence"]).values
        worst = int(np.nanargmax(gap))
        N = self.measured["n_samples"].values
        above = N[self.measured["convergence"].values >= self.convergence]
        reached = f"first reaches it at N = {above[0]}" if above.size else f"has not reached it by N = {N[-1]}"
        outcome = "confirms" if gap[worst] <= 0.03 else "differs from"
        error = float(self.measured["convergence_error"][worst])
        return (f"The measurement {outcome} the prediction: the largest gap is {gap[worst]:.3f} ± {error:.3f}, at N = {N[worst]}, "
                f"and the measured q {reached} of the sizes tried.")

    def chapter(self, title: str) -> Chapter:
        """For a report: the curve, the losses and the numbers."""
        panels = [panel(plots.convergence_curve, self.prediction, self.measured),
                  panel(plots.loss_curve, self.prediction, self.measured)]
        caption = ("Left: convergence q of the samples that two learners generate from the same noise. Right: denoising loss on the "
                   "training half and on unseen samples. Lines are predicted from one data set without training, bands are 95 % "
                   "intervals, points are measured with standard errors over random splits. Where N is close to the number of variables, "
                   "directions of almost no variance dominate the test loss and make it heavy-tailed: there it is the one number that a "
                   "covariance does not tell.")
        return Chapter(title, self.verdict, [Picture(panels, caption), self.table()])

    def table(self) -> Table:
        """Prediction and measurement by N."""
        columns = ["N per half", "q predicted", "interval"] + ([] if self.measured is None else ["q measured", "gap"])
        rows = [self._row(i) for i in range(self.prediction.sizes["n_samples"])]
        return Table(columns, rows, "Convergence of two learners on disjoint halves")

    def _row(self, i: int) -> list[str]:
        p = self.prediction.isel(n_samples=i)
        row = [str(int(p["n_samples"])), f"{float(p['convergence']):.3f}",
               f"{float(p['convergence_low']):.3f} … {float(p['convergence_high']):.3f}"]
        if self.measured is None:
            return row
        m = self.measured.isel(n_samples=i)
        value, error = float(m["convergence"]), float(m["convergence_error"])
        return [*row, f"{value:.3f} ± {error:.3f}", f"{float(p['convergence']) - value:+.3f}"]

    def summary(self) -> dict:
        """The numbers for a JSON file."""
        found = {"verdict": self.verdict, "samples_needed": self.needed.summary(), "prediction": _columns(self.prediction)}
        return found if self.measured is None else {**found, "measured": _columns(self.measured)}


def agreement(samples, n_samples: Sequence[int] | None = None, convergence: float = 0.9, ridge: float = 0.0, seed: int = 0,
              n_splits: int = 0, progress: bool = False) -> Agreement:
    """Predict when two linear diffusion models agree and, with `n_splits` > 0, measure it.

    Parameters
    ----------
    samples : array_like, shape (n_total, n_dim)
    n_samples : sequence of int, optional
        N per half; by default a grid from 20 to half the data.
    convergence : float
        q that counts as agreement, in (0, 1).
    ridge : float
        Variance added to every direction by the learners.
    seed : int
        Of the intervals and of the splits.
    n_splits : int
        Random disjoint splits per N; 0 predicts only.
    progress : bool
        Show a bar of the splits on the error stream.

    Raises
    ------
    InputError
        Bad samples, or too few of them for a single N.
    """
    samples = as_samples(samples)
    sizes = default_sizes(len(samples)) if n_samples is None else list(n_samples)
    prediction = generalization.predict(samples=samples, n_samples=sizes, ridge=ridge, seed=seed)
    needed = generalization.samples_needed(samples, convergence=convergence, ridge=ridge, seed=seed)
    measured = _measure(samples, sizes, ridge, seed, n_splits, progress) if n_splits else None
    return Agreement(prediction, needed, convergence, measured)


def _measure(samples, sizes, ridge: float, seed: int, n_splits: int, progress: bool) -> Dataset:
    from .diffusion import DDPM, LinearDenoiser
    from .split import split_experiment

    return split_experiment(samples, lambda n_dim: DDPM(LinearDenoiser(n_dim, ridge=ridge)), n_samples=sizes, n_splits=n_splits,
                            seed=seed, progress=progress)


def default_sizes(n_total: int) -> list[int]:
    """A grid of N per half from 20, or as few as 3, to half of `n_total`, a few per decade."""
    largest = n_total // 2
    if largest < 4:
        raise InputError(f"samples must hold at least 8 rows to be split into two halves, got {n_total}.")
    grid = np.unique(np.concatenate([_GRID * 10**k for k in range(8)]).astype(int))
    chosen = grid[(grid >= max(3, min(20, largest // 2))) & (grid <= largest)]
    return [int(N) for N in chosen[np.unique(np.linspace(0, chosen.size - 1, min(9, chosen.size)).astype(int))]]


def _columns(data: Dataset) -> dict:
    """Per-N variables as lists, None for NaN."""
    names = ["n_samples", *(v for v in data.data_vars if data[v].dims == ("n_samples",))]
    return {name: [None if not np.isfinite(v) else float(v) for v in data[name].values] for name in names}
