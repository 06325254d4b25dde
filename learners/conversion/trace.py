"""How interactions build up from latent to data, layer by layer.

The latent Gaussian has couplings of order 2 alone. Going back through a layer x_l = f_l(x_{l−1}) with the series f_l = Σ_d f_d around the
base point, the action of the variables before it is

    S_{l−1}(u) = S_l(f_l(u)) + ln|det f_l'(u)|.

The first term is a sum of *trees*: a coupling of order m, each of whose legs goes through the linear part of the layer or splits into d
by f_d. Those of order n that come from order m have n − m legs more; where n = m no leg has split and the coupling is merely carried.
For a quadratic coupling layer these are the diagrams of C. Merger et al., Phys. Rev. X 13, 041033 (2023), with n − m legs split in two. The
second term, ln|det f'| = tr ln f', is a sum of closed *loops* of the layer's own vertices, no coupling takes part in it. Volume-preserving
layers have none, and build interactions by trees alone.

Norms have their legs contracted with the covariance of the flow's samples as they are before the layer: a linear map of the variables
leaves them as they are, so that layers can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fieldtheory import Action, SymmetricTensor, plots, series
from fieldtheory.arrays import as_count
from fieldtheory.errors import InputError

from .model import FlowModel, as_model, latent_gaussian
from .record import Couplings, expand
from .taylor import mode, require_smooth


@dataclass(frozen=True)
class LayerTrace:
    """Couplings before a layer, and what they are made of.

    Attributes
    ----------
    name : str
        Number and type of the layer, counted from the data.
    couplings : dict of int to SymmetricTensor
        By order n, of the variables that the layer takes.
    trees : dict of (int, int) to SymmetricTensor
        Part of order n that comes from order m behind the layer, by (n, m).
    loops : dict of int to SymmetricTensor
        Part of order n that ln|det| adds.
    covariance : ndarray, shape (n_dim, n_dim)
        Of the flow's samples before the layer.
    """

    name: str
    couplings: Couplings
    trees: dict[tuple[int, int], SymmetricTensor]
    loops: Couplings
    covariance: np.ndarray

    def norm(self, order: int) -> float:
        """Of the coupling of an order."""
        return self.couplings[order].norm(self.covariance)

    def parts(self, order: int) -> dict[str, float]:
        """Norms of what makes it up: ``carried``, ``split from m`` for each lower order m, and ``loops``."""
        trees = {m: T.norm(self.covariance) for (n, m), T in self.trees.items() if n == order}
        named = {("carried" if m == order else f"split from {m}"): value for m, value in sorted(trees.items(), reverse=True)}
        return {**named, "loops": self.loops[order].norm(self.covariance) if order in self.loops else 0.0}


@dataclass(frozen=True)
class ActionTrace:
    """The couplings of a flow layer by layer.

    Attributes
    ----------
    layers : tuple of LayerTrace
        From latent to data.
    action : Action
        What they add up to, that of `to_action`.
    """

    layers: tuple[LayerTrace, ...]
    action: Action

    @property
    def norms(self) -> np.ndarray:
        """By layer, from latent to data, and order 1 … K, shape (n_layers, K)."""
        return np.array([[layer.norm(k) for k in range(1, self.action.order + 1)] for layer in self.layers])

    def table(self) -> str:
        """Norm by layer and order with its parts, for a terminal."""
        return "\n".join(self._rows())

    def _rows(self) -> Iterator[str]:
        for layer in self.layers:
            yield layer.name
            for k in range(1, self.action.order + 1):
                parts = ", ".join(f"{name} {value:.3g}" for name, value in layer.parts(k).items() if value > 0)
                yield f"{k:>7} {layer.norm(k):>11.4g}  {parts}"

    def plot(self):
        """One panel per order: its norm from latent to data, and what each layer makes it of; a matplotlib Figure."""
        orders = range(2, self.action.order + 1)
        panels = {k: ([layer.norm(k) for layer in self.layers], [layer.parts(k) for layer in self.layers]) for k in orders}
        return plots.build_up_figure([layer.name.removesuffix("Layer") for layer in self.layers], panels)


def trace_action(flow, order: int = 4, at=None, n_samples: int = 2000, seed: int = 0) -> ActionTrace:
    """Couplings of a flow before each of its layers, from latent to data, with their trees and loops.

    Parameters
    ----------
    flow : Flow
    order : int
        Highest order; above 4 for polynomial flows alone.
    at : array_like, shape (n_dim,), optional
        Base point, by default the mode.
    n_samples, seed : int
        Of the samples whose covariance measures the norms.

    Raises
    ------
    InputError
        Not a flow of this package, or one with kinks.
    """
    model, order = as_model(flow), as_count(order, "order")
    require_smooth(model)
    if not isinstance(model, FlowModel):
        raise InputError(f"trace_action must be given a flow whose layers are known as nodes, got {type(flow).__name__}; to_action "
                         "converts other models, and learners.conversion.record takes new layers.")
    base = mode(model) if at is None else model.point(at)
    steps, image = [], base
    for layer in model.flow.layers:
        image, series_of_layer, log_det = expand(layer, image, order)
        steps.append((series_of_layer, log_det))
    couplings, traced = latent_gaussian(image), []
    covariances = _covariances(model, n_samples, seed)
    for number in reversed(range(len(steps))):
        trees, loops = _trees(couplings, steps[number][0], order), steps[number][1]
        couplings = {n: sum((T for (k, _), T in trees.items() if k == n), loops.get(n, SymmetricTensor.zeros(model.n_dim, n)))
                     for n in range(order + 1)}
        name = f"{number + 1} {type(model.flow.layers[number]).__name__}"
        traced.append(LayerTrace(name, couplings, trees, loops, covariances[number]))
    gauge = "exact" if order >= model.degree else "taylor"
    return ActionTrace(tuple(traced), Action(couplings, base, gauge, names=model.columns.names))


def _trees(couplings: Couplings, step: dict[int, np.ndarray], order: int) -> dict[tuple[int, int], SymmetricTensor]:
    """Contributions to order n from order m, by (n, m)."""
    return {(n, m): part for m, T in couplings.items() for n, part in series.compose({m: T}, step, order).items() if n >= m}


def _covariances(model: FlowModel, n_samples: int, seed: int) -> list[np.ndarray]:
    """Of the flow's samples before each layer."""
    x, found = model.sample(as_count(n_samples, "n_samples", minimum=2), seed=as_count(seed, "seed", minimum=0)), []
    for images in model.images(x):
        found.append(np.cov(images, rowvar=False))
    return found
