"""Which interactions does a flow find in samples, and can they be believed?

A quadratic flow is fitted to four fifths of the samples and turned into an action. Its couplings are averages over a Gaussian q with
the samples' mean and half their covariance (normal order): real data are rarely close to a polynomial around one point, and deep
quadratic flows explode in the tails of the full Gaussian. Three things speak for or against them: the sampling error of the fit
(`learners.uncertainty`), how much of ln p they explain on the held-out fifth (`learners.certify`), and score matching on the
same samples, averaged over the same q, which shares nothing with the flow.

Strengths are compared in units of the standard deviation of each variable, as vertices k! A^(k).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial
from pathlib import Path

import numpy as np

import fieldtheory as ft
from fieldtheory import files, plots
from fieldtheory.arrays import Columns, as_samples
from fieldtheory.errors import FieldTheoryError, InputError

from .conversion import Certificate, certify, normal_ordered, to_action
from .flows import QuadraticFlow
from .report import Chapter, Picture, Table, panel
from .uncertainty import coupling_uncertainty

_HELD_OUT = 0.2
_FEW = 24  # pairs of base points that an error bar needs
_SIGNIFICANT = 4.0  # |z| beyond which an entry is called significant: 6e-5 false alarms per entry


@dataclass(frozen=True)
class PrincipalComponents:
    """y = Vᵀ(x − mean), V the eigenvectors of the largest eigenvalues of the covariance.

    Attributes
    ----------
    mean : ndarray, shape (n_columns,)
    vectors : ndarray, shape (n_columns, n_components)
    explained : float
        Share of the total variance.
    """

    mean: np.ndarray
    vectors: np.ndarray
    explained: float

    @classmethod
    def of(cls, samples: np.ndarray, n_components: int) -> PrincipalComponents:
        """The leading components of samples; `InputError` if there are fewer."""
        values, vectors = np.linalg.eigh(np.cov(samples, rowvar=False))
        rank = int(np.sum(values > 1e-12 * values[-1]))
        if n_components > rank:
            raise InputError(f"components must be at most the rank {rank} of the samples' covariance, got {n_components}.")
        leading = vectors[:, ::-1][:, :n_components]
        leading = leading * np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(n_components)])
        return cls(samples.mean(axis=0), leading, float(values[::-1][:n_components].sum() / values.sum()))

    def project(self, samples: np.ndarray) -> np.ndarray:
        """x → y."""
        return (samples - self.mean) @ self.vectors

    def save(self, path: Path) -> Path:
        """One safe file."""
        return files.write(path, "components", {"mean": self.mean, "vectors": self.vectors}, {"explained": self.explained})


@dataclass(frozen=True)
class LearnedInteractions:
    """A fitted flow, its action, and what speaks for it.

    Attributes
    ----------
    flow : QuadraticFlow
    action : Action
        Normal-ordered over N(mean, covariance/2) of the training samples.
    errors : dict of int to SymmetricTensor
        Standard errors of its entries: sampling of the fit, and Monte Carlo over q.
    certificate, taylor : Certificate
        Of the action, and of the Taylor polynomial at the mean.
    estimate : Estimate or None
        Score matching on the same samples; None where they are too few for it.
    scale : ndarray, shape (n_dim,)
        Standard deviations of the variables.
    held_out : float
        Mean −ln p of the held-out samples under the flow, nats per dimension.
    gain : (float, float)
        How much more that is under the Gaussian with the training samples' mean and covariance, with the standard error of the
        difference.
    components : PrincipalComponents or None
    dropped : str
        Which columns were left out.
    """

    flow: QuadraticFlow
    action: ft.Action
    errors: dict[int, ft.SymmetricTensor]
    certificate: Certificate
    taylor: Certificate
    estimate: object | None
    scale: np.ndarray
    held_out: float
    gain: tuple[float, float]
    components: PrincipalComponents | None
    dropped: str

    @property
    def standardized(self) -> ft.Action:
        """The action of x/σ, whose couplings are comparable."""
        return self.action.pullback(np.diag(self.scale))

    @property
    def verdict(self) -> str:
        """The answer in words."""
        gain, error = self.gain
        basis = "The" if self.components is None else (f"In the {self.components.vectors.shape[1]} leading principal components "
                                                       f"({100 * self.components.explained:.0f} % of the variance) the")
        better = (f"beats a Gaussian by {gain:.3f} ± {error:.3f} nats per dimension on held-out samples" if gain > 2 * error else
                  f"is no better than a Gaussian on held-out samples (gain {gain:.3f} ± {error:.3f} nats per dimension): the "
                  "couplings beyond order 2 are not established")
        share = self.certificate.explained[self.action.order]
        worth = (f"Its couplings up to order {self.action.order} explain {100 * share:.0f} % of the variance of ln p there" if share > 0
                 else f"Cut at order {self.action.order} its couplings explain none of the variance of ln p: they hold on average "
                 "near the mean only")
        return f"{basis} flow {better}. {worth}. {self._significance()}{self._second_opinion()}"

    def _significance(self) -> str:
        counts = []
        for k in range(2, self.action.order + 1):
            z = self._z(k)
            mixed = self._mixed(k)
            counts.append(f"{int(np.sum(np.abs(z[mixed]) > _SIGNIFICANT))} of {mixed.sum()} of order {k}")
        return f"Interactions between different variables beyond {_SIGNIFICANT:g} standard errors: {', '.join(counts)}."

    def _second_opinion(self) -> str:
        if self.estimate is None:
            return ""
        comparison = self.comparison()
        words = ", ".join(f"{comparison.cosine[k]:.2f} at order {k}" for k in range(2, self.action.order + 1))
        return f" Score matching on the same samples points the same way with cosine {words}."

    def comparison(self):
        """Flow against score matching, in standardized variables."""
        return ft.compare(self.standardized, self.estimate.action.pullback(np.diag(self.scale)))

    def _z(self, k: int) -> np.ndarray:
        return self.action.couplings[k].packed / self.errors[k].packed

    def _mixed(self, k: int) -> np.ndarray:
        return (np.diff(self.action.couplings[k].indices, axis=1) > 0).any(axis=1)

    def chapter(self, title: str) -> Chapter:
        """For a report: graph, fit, second opinion, strongest interactions."""
        fit = [panel(plots.interaction_graph, self.standardized), panel(plots.training_curve, *self._training())]
        parts = [Picture(fit, "Left: strongest pair (edges) and triple interactions (shaded) of the learned action, in units of each "
                         "variable's standard deviation; blue raises ln p when the variables grow together, red lowers it. Right: "
                         "the fit.")]
        if self.estimate is not None:
            panels = [panel(self._scatter, k) for k in range(2, self.action.order + 1) if k in self.estimate.action.couplings]
            parts.append(Picture(panels, "Vertices k! A^(k) of the flow against score matching on the same samples, standardized "
                                 "variables, standard errors; grey: equality."))
        return Chapter(title, self.verdict, [*parts, self.table(), self._certificate_table()])

    def _training(self):
        history = self.flow.history
        return history["step"], history["train"], history["validation"]

    def _scatter(self, ax, k: int):
        second = self._in_our_units(k)
        return plots.coupling_scatter(ax, second, self.standardized.couplings[k], self._scaled_error(k), ("score matching", "flow"))

    def _in_our_units(self, k: int):
        averaged = self.estimate.action.normal_order(self.action.at, self.action.covariance)
        return averaged.pullback(np.diag(self.scale)).couplings[k]

    def _scaled_error(self, k: int):
        T = self.errors[k]
        return ft.SymmetricTensor.from_packed(T.packed * self.scale[T.indices].prod(axis=1), T.n_dim, k)

    def table(self, count: int = 12) -> Table:
        """The strongest interactions between different variables."""
        rows = []
        for k in range(2, self.action.order + 1):
            T, error = self.standardized.couplings[k], self._scaled_error(k).packed
            other = None if self.estimate is None else self._in_our_units(k).packed
            for r in np.flatnonzero(self._mixed(k)):
                size = factorial(k) * T.packed[r]
                words = "" if other is None else f"{factorial(k) * other[r]:+.3f}"
                rows.append((abs(size), [" · ".join(self._name(i) for i in T.indices[r]), str(k),
                                         f"{size:+.3f} ± {factorial(k) * error[r]:.3f}", words]))
        chosen = [row for _, row in sorted(rows, key=lambda row: -row[0])[:count]]
        return Table(["interaction", "order", "flow", "score matching"], chosen, "Strongest vertices, standardized variables")

    def _name(self, i: int) -> str:
        return f"x{i}" if self.action.names is None else self.action.names[i]

    def _certificate_table(self) -> Table:
        c, at_mean = self.certificate, self.taylor
        rows = [[str(k), f"{c.residual[k][0]:.3g} ± {c.residual[k][1]:.1g}", f"{c.explained[k]:.3f}", f"{at_mean.explained[k]:.3f}"]
                for k in c.orders]
        value, error = c.variance_of_action
        return Table(["cut at order", "residual of ln p (nats)", "variance explained", "by Taylor at the mean"], rows,
                     f"What a cut leaves out, {c.n_samples} held-out samples. Var S = {value:.2f} ± {error:.2f} (n_dim/2 = "
                     f"{c.n_dim / 2:g} for every volume-preserving flow). {c.normalizability.reason.capitalize()}")

    def summary(self) -> dict:
        """The numbers for a JSON file."""
        c = self.certificate
        return {"verdict": self.verdict, "n_dim": self.action.n_dim, "order": self.action.order, "gauge": self.action.gauge,
                "dropped": self.dropped, "base_point": self.action.at, "held_out_nats_per_dimension": self.held_out,
                "gain_over_gaussian": self.gain, "variance_explained": c.explained,
                "variance_of_action": c.variance_of_action, "normalizable": c.normalizability.normalizable,
                "norms": {k: T.norm() for k, T in self.standardized.couplings.items() if k}}

    def files(self) -> dict[str, Callable]:
        """What to write beside the page, by file name."""
        saved = {"action.safetensors": self.action.save, "learner.safetensors": self.flow.save}
        return saved if self.components is None else {**saved, "components.safetensors": self.components.save}


def learn_interactions(samples, order: int = 4, n_layers: int = 2, n_steps: int = 5000, n_starts: int = 2,
                       components: int | None = None, seed: int = 0, progress: bool = False) -> LearnedInteractions:
    """Fit a quadratic flow to samples and collect what speaks for its couplings.

    Parameters
    ----------
    samples : array_like, shape (n_samples, n_dim)
    order : int
        Highest order of the couplings, at least 2.
    n_layers, n_steps, n_starts : int
        Of the flow and its fit.
    components : int, optional
        Work in that many leading principal components.
    seed : int
    progress : bool
        Show bars.

    Raises
    ------
    InputError
        Bad samples, fewer than 50 of them, or order < 2.
    """
    samples = as_samples(samples, min_samples=50)
    if order < 2:
        raise InputError(f"order must be at least 2 to hold interactions, got {order}.")
    columns = Columns.of(samples)
    basis = None if components is None else PrincipalComponents.of(samples, components)
    points = samples if basis is None else basis.project(samples)
    train, held_out = _hold_out(points, seed)
    flow = QuadraticFlow(points.shape[1], n_layers)
    flow.fit(train, seed=seed, n_steps=n_steps, n_starts=n_starts, progress=progress)
    kept = flow.columns.drop
    at, q = train.mean(axis=0), {"covariance": 0.5 * np.atleast_2d(np.cov(kept(train), rowvar=False)), "seed": seed}
    action, monte_carlo = normal_ordered(flow, order, at, **q)
    fit_error = coupling_uncertainty(flow, train, order, at, method="normal_ordered", n_fisher=2000, n_points=_FEW, **q).standard_error
    log_p = flow.log_prob(held_out) / action.n_dim
    gain = log_p - _gaussian_log_prob(kept(train), kept(held_out)) / action.n_dim
    return LearnedInteractions(
        flow=flow,
        action=action,
        errors={k: _in_quadrature(fit_error[k], monte_carlo[k]) for k in fit_error},
        certificate=certify(action, flow, held_out),
        taylor=certify(to_action(flow, order, at), flow, held_out),
        estimate=_score_matching(kept(train), order),
        scale=kept(train).std(axis=0),
        held_out=float(-log_p.mean()),
        gain=(float(gain.mean()), float(gain.std() / np.sqrt(gain.size))),
        components=basis,
        dropped=columns.describe(),
    )


def _in_quadrature(first: ft.SymmetricTensor, second: ft.SymmetricTensor) -> ft.SymmetricTensor:
    return ft.SymmetricTensor.from_packed(np.hypot(first.packed, second.packed), first.n_dim, first.order)


def _hold_out(points: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    chosen = np.random.default_rng(seed).permutation(len(points))
    n_train = round((1 - _HELD_OUT) * len(points))
    return points[chosen[:n_train]], points[chosen[n_train:]]


def _score_matching(train: np.ndarray, order: int):
    """A second opinion, or None where the samples cannot determine that many couplings."""
    try:
        return ft.estimate(train, order=order)
    except FieldTheoryError:
        return None


def _gaussian_log_prob(train: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    return ft.theories.gaussian(np.cov(train, rowvar=False), train.mean(axis=0))(held_out)
