"""How far are learned couplings from the true ones?

Order by order, with multiplicity-weighted (full-tensor) inner products,

    relative error_k = ‖Â^(k) − A^(k)‖/‖A^(k)‖,    cosine_k = ⟨Â^(k), A^(k)⟩/(‖Â^(k)‖ ‖A^(k)‖),

with legs contracted by the covariance of samples where those are given: only that is invariant under linear maps. The cosine of two
unrelated random tensors scatters by 1/√C(n_dim + k − 1, k) around 0, its null spread. A^(0) is never compared. Couplings mean what
their gauge says: an exact action is brought into the other's gauge, and the comparison says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt

import numpy as np

from .action import Action, require_same_gauge
from .arrays import as_samples
from .errors import InputError
from .estimation import Estimate
from .tensors import SymmetricTensor, packed_size


@dataclass(frozen=True)
class Comparison:
    """Learned against true couplings by order k ≥ 1.

    Attributes
    ----------
    learned, true : Action
        In a common gauge, around a common base point.
    note : str
        What was done to bring them there.
    relative_error, cosine : dict of int to float
        NaN where the true coupling vanishes.
    null_cosine : dict of int to float
        Spread of the cosine of unrelated tensors.
    norm_learned, norm_true : dict of int to float
    norm_error : dict of int to float
        √(E‖δÂ‖²) that sampling alone would leave, from the standard errors; empty without them.
    standard_error : dict of int to SymmetricTensor
        Of the learned entries; empty if unknown.
    """

    learned: Action
    true: Action
    note: str
    relative_error: dict[int, float]
    cosine: dict[int, float]
    null_cosine: dict[int, float]
    norm_learned: dict[int, float]
    norm_true: dict[int, float]
    norm_error: dict[int, float]
    standard_error: dict[int, SymmetricTensor] = field(repr=False)

    @property
    def z(self) -> dict[int, np.ndarray]:
        """(learned − true)/standard error of every unique entry, by order, where errors are known; not finite where they are 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return {k: (_coupling(self.learned, k) - _coupling(self.true, k)).packed / error.packed
                    for k, error in self.standard_error.items()}

    def table(self) -> str:
        """The numbers by order, for a terminal."""
        lines = [self.note, f"{'order':>5} {'relative error':>15} {'cosine':>8} {'null spread':>12} {'|learned|':>11} {'|true|':>11}"
                            f"{' sampling noise' if self.norm_error else ''}"]
        for k in self.cosine:
            noise = f"{self.norm_error[k]:>15.4g}" if k in self.norm_error else ""
            lines.append(f"{k:>5} {self.relative_error[k]:>15.4g} {self.cosine[k]:>8.4f} {self.null_cosine[k]:>12.3f} "
                         f"{self.norm_learned[k]:>11.4g} {self.norm_true[k]:>11.4g}{noise}")
        return "\n".join(lines)

    def plot(self, orders=None):
        """A figure with one scatter of learned against true entries per order; returns the matplotlib Figure."""
        from .plots import comparison_figure

        return comparison_figure(self, orders)


def compare(learned: Action | Estimate, true: Action | Estimate, samples=None, standard_error=None) -> Comparison:
    """Compare learned with true couplings.

    Parameters
    ----------
    learned, true : Action or Estimate
        An estimate brings its standard errors.
    samples : array_like, shape (n_samples, n_dim), optional
        Their covariance contracts the legs of the norms.
    standard_error : mapping of int to SymmetricTensor, optional
        Of the learned couplings, where `learned` is an action; by default those it carries.

    Raises
    ------
    InputError
        Different numbers of variables.
    GaugeError
        Two actions neither of which is exact have different gauges or base points.
    """
    if isinstance(true, Estimate):
        true = true.action
    if _action(learned).n_dim != true.n_dim:
        raise InputError(f"actions must have the same n_dim, got {_action(learned).n_dim} and {true.n_dim}.")
    learned, errors, true, note = _common_gauge(learned, dict(standard_error or {}), true)
    metric = None if samples is None else _metric(samples, true.n_dim)
    orders = range(1, max(learned.order, true.order) + 1)
    pairs = {k: (_coupling(learned, k), _coupling(true, k)) for k in orders}
    norms = {k: (a.norm(metric), b.norm(metric), (a - b).norm(metric)) for k, (a, b) in pairs.items()}
    present = {k: norms[k][1] > 1e-12 * max(norms[k][0], 1e-300) for k in orders}
    return Comparison(
        learned=learned, true=true, note=note if samples is None else f"{note} Legs contracted by the covariance of the samples.",
        relative_error={k: n[2] / n[1] if present[k] else float("nan") for k, n in norms.items()},
        cosine={k: _cosine(*pairs[k], norms[k], metric) if present[k] else float("nan") for k in orders},
        null_cosine={k: 1 / sqrt(packed_size(true.n_dim, k)) for k in orders},
        norm_learned={k: n[0] for k, n in norms.items()},
        norm_true={k: n[1] for k, n in norms.items()},
        norm_error={k: e.norm() for k, e in errors.items()} if metric is None else {},
        standard_error=errors,
    )


def _metric(samples, n_dim: int) -> np.ndarray:
    samples = as_samples(samples)
    if samples.shape[1] != n_dim:
        raise InputError(f"samples must have the {n_dim} columns of the actions, got shape {samples.shape}.")
    return np.atleast_2d(np.cov(samples, rowvar=False))


def _action(either: Action | Estimate) -> Action:
    return either.action if isinstance(either, Estimate) else either


def _common_gauge(learned, errors: dict, true: Action):
    """Bring whichever is exact to the other; an estimate moves with its errors."""
    target = _action(learned)
    errors = {k: error for k, error in (errors or target.standard_error).items() if k > 0}
    if isinstance(learned, Estimate) and true.gauge in ("exact", "taylor"):
        learned, at = learned.recenter(true.at), true.at
        cut = learned.action if true.gauge == "exact" else learned.action.truncate(true.order)
        kept = {k: error for k, error in learned.standard_error.items() if k <= cut.order}
        return cut, kept, true, f"Both at the base point of the true action, |at| = {np.linalg.norm(at):.3g}."
    if true.gauge == "exact" and target.gauge != "exact":
        return target, errors, *_bring(true, target, "true")
    if target.gauge == "exact" and true.gauge != "exact":
        moved, note = _bring(target, true, "learned")
        return moved, {}, true, note
    if target.gauge == "exact":
        return target, errors, true.recenter(target.at), "Both exact, at the base point of the learned action."
    require_same_gauge(target, true)
    return target, errors, true, f"Both {target.gauge}, at a common base point."


def _bring(exact: Action, other: Action, which: str) -> tuple[Action, str]:
    """An exact action in the gauge of another."""
    if other.gauge == "taylor":
        moved = exact.recenter(other.at).truncate(other.order)
        return moved, f"The {which} action is exact; it was recentred at the other's base point and cut at order {other.order}."
    if other.gauge == "normal_ordered":
        moved = exact.normal_order(other.at, other.covariance)
        return moved, f"The {which} action is exact; it was averaged over the other's Gaussian."
    if other.order < exact.order:
        raise InputError(f"a projection of order {other.order} must not be compared with an exact action of higher order "
                         f"{exact.order}; project that one too, or to a higher order.")
    return exact.recenter(other.at), f"The {which} action is exact and of no higher order than the projection."


def _coupling(action: Action, k: int) -> SymmetricTensor:
    return action.couplings.get(k) or SymmetricTensor.zeros(action.n_dim, k)


def _cosine(a: SymmetricTensor, b: SymmetricTensor, norms: tuple, metric) -> float:
    return a.inner(b, metric) / (norms[0] * norms[1]) if norms[0] > 0 else 0.0
