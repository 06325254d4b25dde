"""The couplings of a flow along its training, to see which order is learned when."""

from __future__ import annotations

import numpy as np

from fieldtheory import Action, Comparison, compare, plots
from fieldtheory.arrays import as_count
from fieldtheory.errors import InputError

from .methods import to_action
from .model import as_model


class CouplingRecorder:
    """The actions of a flow as it is trained: what `record_couplings` gives and ``fit(callback=…)`` takes.

    Attributes
    ----------
    every : int
        Steps that are no multiple of it are skipped.
    steps : list of int
    actions : list of Action
        All by the same method and around the same base point.
    """

    def __init__(self, every: int, order: int, at, method: str, options: dict):
        self.every, self.order, self.at = as_count(every, "every"), as_count(order, "order"), at
        self.method, self.options = method, options
        self.steps: list[int] = []
        self.actions: list[Action] = []

    def __call__(self, step: int, flow) -> None:
        """Convert the flow as it is now."""
        if step % self.every:
            return
        if self.at is None:
            model = as_model(flow)
            self.at = model.columns.restore(model.centre())
        self.steps.append(int(step))
        self.actions.append(to_action(flow, self.order, self.at, self.method, **self.options))

    def comparisons(self, true: Action | None = None, samples=None) -> list[Comparison]:
        """Each action with the true one, by default with the last; see `fieldtheory.compare`."""
        if not self.actions:
            raise InputError("couplings must have been recorded, got none; pass the recorder to fit(callback=…) first.")
        return [compare(action, self.actions[-1] if true is None else true, samples) for action in self.actions]

    def cosines(self, true: Action | None = None, samples=None) -> dict[int, np.ndarray]:
        """Cosine along the steps, by order."""
        found = self.comparisons(true, samples)
        return {k: np.array([comparison.cosine[k] for comparison in found]) for k in range(1, self.order + 1)}

    def plot(self, true: Action | None = None, samples=None):
        """Which order is learned when: `fieldtheory.plots.learning_curves` in a matplotlib Figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.5, 3.6), layout="constrained")
        cosines = {k: values for k, values in self.cosines(true, samples).items() if k > 1}
        plots.learning_curves(figure.add_subplot(), self.steps, cosines, "the last couplings" if true is None else "the true couplings")
        return figure


def record_couplings(every: int = 100, order: int = 3, at=None, method: str = "taylor", **options) -> CouplingRecorder:
    """A callback for ``fit(callback=…, callback_every=every)`` that keeps the couplings along training.

    Parameters
    ----------
    every : int
        Record at multiples of this step.
    order : int
    at : array_like, shape (n_dim,), optional
        Base point, the same at all steps; by default the image of z = 0 at the first call, for a flow that begins with the whitening of
        its data their mean.
    method : str
        As in `to_action`; ``normal_ordered`` with ``covariance=`` compares without a base point.
    **options
        As in `to_action`.
    """
    return CouplingRecorder(every, order, at, method, options)
