"""Pictures: an Axes goes in, is filled, and comes out. matplotlib is loaded by whoever made the Axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import factorial
from typing import TYPE_CHECKING

import numpy as np

from .graph_picture import interaction_graph as interaction_graph
from .tensors import SymmetricTensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import Dataset

    from .comparison import Comparison

COLORS = ("#CC79A7", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9")  # told apart by colour-blind eyes (M. Okabe and K. Ito)


def color_of_order(order: int) -> str:
    """The same in all pictures."""
    return COLORS[(order - 1) % len(COLORS)]


def coupling_scatter(ax: Axes, true: SymmetricTensor, learned: SymmetricTensor, learned_error: SymmetricTensor | None = None,
                     labels: tuple[str, str] = ("true", "learned")) -> Axes:
    """Vertices k! A^(k), learned against true, with the line of equality.

    Parameters
    ----------
    true, learned : SymmetricTensor
        Of the same order.
    learned_error : SymmetricTensor, optional
        Standard errors of the learned entries.
    labels : (str, str)
        What the axes show.
    """
    scale = factorial(true.order)
    x, y = scale * true.packed, scale * learned.packed
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    pad = 0.05 * (high - low) + 1e-12
    ax.plot([low - pad, high + pad], [low - pad, high + pad], color="0.6", lw=1, zorder=0)
    error = None if learned_error is None else scale * learned_error.packed
    ax.errorbar(x, y, yerr=error, fmt="o", ms=3, lw=0.8, alpha=0.75, color="C0", ecolor="0.65")
    ax.set(xlabel=f"{labels[0]}  {true.order}! A⁽{'⁰¹²³⁴⁵⁶⁷⁸⁹'[true.order]}⁾" if true.order < 10 else labels[0], ylabel=labels[1],
           title=f"order {true.order}")
    return ax


def comparison_figure(comparison: Comparison, orders: Sequence[int] | None = None):
    """One `coupling_scatter` per order, captioned with relative error and cosine; returns a matplotlib Figure."""
    from matplotlib.figure import Figure

    orders = list(comparison.cosine) if orders is None else list(orders)
    figure = Figure(figsize=(3.6 * len(orders), 3.4), layout="constrained")
    for ax, k in zip(np.atleast_1d(figure.subplots(1, len(orders))), orders):
        pair = [action.couplings.get(k) or SymmetricTensor.zeros(action.n_dim, k) for action in (comparison.true, comparison.learned)]
        coupling_scatter(ax, *pair, comparison.standard_error.get(k))
        ax.set_title(f"order {k}: error {comparison.relative_error[k]:.3f}, cosine {comparison.cosine[k]:.3f}")
    return figure


def convergence_curve(ax: Axes, prediction: Dataset, measured: Dataset | None = None) -> Axes:
    """Convergence q of two learners against N per half: predicted band, measured points with standard errors.

    Parameters
    ----------
    ax : matplotlib Axes
    prediction : xarray.Dataset
        From `fieldtheory.generalization.predict`.
    measured : xarray.Dataset, optional
        From `learners.split_experiment`.
    """
    _band(ax, prediction, "convergence", label="predicted from the covariance")
    if measured is not None:
        _points(ax, measured, "convergence", label="measured: two learners, disjoint halves")
    ax.set(xlabel="samples per half N", ylabel="convergence q", ylim=(None, 1.02))
    _count_axis(ax, prediction)
    ax.legend(loc="lower right")
    return ax


def loss_curve(ax: Axes, prediction: Dataset, measured: Dataset | None = None) -> Axes:
    """Train and test loss (mean over dimensions and steps) against N per half, as in `convergence_curve`."""
    for name, color, words in (("train_loss", "C2", "train"), ("test_loss", "C3", "test")):
        _band(ax, prediction, name, label=f"{words}, predicted", color=color)
        if measured is not None:
            _points(ax, measured, name, label=f"{words}, measured", color=color)
    ax.set(yscale="log", xlabel="samples per half N", ylabel="denoising loss per dimension")
    _count_axis(ax, prediction)
    ax.legend()
    return ax


def _count_axis(ax: Axes, data: Dataset) -> None:
    """A logarithmic axis with whole numbers from the data as ticks."""
    N = data["n_samples"].values
    shown = N[:: max(1, -(-len(N) // 6))]
    ax.set_xscale("log")
    ax.set_xticks(shown, labels=[str(n) for n in shown])
    ax.minorticks_off()


def _band(ax: Axes, data: Dataset, name: str, label: str, color: str = "C0") -> None:
    N = data["n_samples"].values
    ax.plot(N, data[name], color=color, label=label)
    if f"{name}_low" in data:
        ax.fill_between(N, data[f"{name}_low"], data[f"{name}_high"], color=color, alpha=0.25, lw=0)


def _points(ax: Axes, data: Dataset, name: str, label: str, color: str = "0.15") -> None:
    ax.errorbar(data["n_samples"], data[name], yerr=data[f"{name}_error"], fmt="o", ms=4.5, color=color, capsize=2.5, label=label)


def training_curve(ax: Axes, steps, train, validation) -> Axes:
    """Negative log-likelihood (nats per dimension) along training."""
    ax.plot(steps, train, color="0.7", lw=1, label="training batch")
    ax.plot(steps, validation, color="C0", label="validation")
    ax.set(xlabel="training step", ylabel="−ln p per dimension (nats)")
    low = min(np.min(validation), np.percentile(train, 1))
    ax.set_ylim(low - 0.05, np.percentile(validation, 90) + 0.1)
    ax.legend()
    return ax


def ratios_to_truth(ax: Axes, labels: Sequence[str], results: Mapping[str, tuple[Sequence, Sequence]]) -> Axes:
    """Estimate over truth for a few couplings, one colour per method, with standard errors.

    Parameters
    ----------
    labels : sequence of str
        One per coupling.
    results : mapping of str to (ratios, errors)
        By method.
    """
    positions = np.arange(len(labels), dtype=float)
    ax.axhline(1.0, color="0.5", lw=1)
    for i, (method, (ratio, error)) in enumerate(results.items()):
        shift = 0.16 * (i - 0.5 * (len(results) - 1))
        ax.errorbar(positions + shift, ratio, yerr=error, fmt="os^D"[i % 4], ms=5, capsize=3, color=f"C{i}", label=method)
    ax.set(xlim=(-0.6, len(labels) - 0.4), ylabel="estimate / truth")
    ax.set_xticks(positions, labels=[label.replace(", ", "\n") for label in labels])
    ax.legend()
    return ax


def image_rows(ax: Axes, rows: Sequence[np.ndarray], labels: Sequence[str]) -> Axes:
    """Rows of small images on one shared grey scale.

    Parameters
    ----------
    rows : sequence of ndarray, each of shape (n_images, height, width)
    labels : sequence of str
        One per row.
    """
    height, width = rows[0].shape[1:]
    canvas = np.full((len(rows) * (height + 2), len(rows[0]) * (width + 1)), np.nan)
    for r, images in enumerate(rows):
        for c, image in enumerate(images):
            canvas[r * (height + 2) : r * (height + 2) + height, c * (width + 1) : c * (width + 1) + width] = image
    ax.imshow(canvas, cmap="gray_r", interpolation="nearest")
    ax.set(xticks=[], yticks=[r * (height + 2) + 0.5 * height - 0.5 for r in range(len(rows))], yticklabels=labels)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def build_up_figure(names: Sequence[str], panels: Mapping[int, tuple[Sequence[float], Sequence[Mapping[str, float]]]]):
    """Norms of couplings from latent to data, one panel per order; returns a matplotlib Figure.

    Parameters
    ----------
    names : sequence of str
        Of the layers, from latent to data.
    panels : mapping of int to (norms, parts)
        By order: the norm before each layer, and by name the norms of what it is made of. Parts add up as tensors, so that their norms
        may exceed that of the sum.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 + 0.3 * len(names), 1.2 + 1.4 * len(panels)), layout="constrained")
    shown, layers = {}, np.arange(len(names))
    for ax, (order, (norms, parts)) in zip(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels.items()):
        bottom = np.zeros(len(names))
        for part in dict.fromkeys(name for layer in parts for name in layer):
            values = np.array([layer.get(part, 0.0) for layer in parts])
            if values.max() > 0.01 * max(norms):  # what can be seen
                color = {"carried": "0.8", "loops": "0.3"}.get(part) or color_of_order(int(part.split()[-1]))
                shown[part] = ax.bar(layers, values, bottom=bottom, color=color, width=0.75)
                bottom += values
        shown["norm of the sum"] = ax.plot(layers, norms, "k.-", lw=1)[0]
        ax.set(ylabel=f"order {order}", xticks=layers)
    ax.set_xticklabels(names, rotation=60, ha="right", fontsize="small")
    ax.set_xlabel("layer, from latent to data")
    figure.legend([shown[part] for part in sorted(shown)], sorted(shown), loc="outside right upper", fontsize="small")
    figure.supylabel("norm, legs contracted with the covariance", fontsize="medium")
    return figure


def learning_curves(ax: Axes, steps: Sequence[int], cosines: Mapping[int, Sequence[float]], reference: str = "the last ones") -> Axes:
    """When each order is learned: cosine of its couplings with a reference, along training.

    Parameters
    ----------
    steps : sequence of int
    cosines : mapping of int to sequence of float
        By order.
    reference : str
        What they are compared with, in words.
    """
    for order, values in cosines.items():
        ax.plot(steps, values, "os^Dv"[order % 5] + "-", ms=4, color=color_of_order(order), label=f"order {order}")
    ax.axhline(1.0, color="0.7", lw=1, zorder=0)
    ax.set(xlabel="training step", ylabel=f"cosine with {reference}", ylim=(None, 1.03))
    ax.legend()
    return ax
