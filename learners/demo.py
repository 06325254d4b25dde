"""The main job on input whose answer is known, and on real data.

1. A random quadratic flow as teacher: does a student's action have its couplings?
2. φ⁴ theory on a periodic 3×3 lattice: score matching and a flow beside the truth.
3. scikit-learn's digits: at which N do two diffusion models agree, predicted and measured?
4. The same digits: which interactions does a flow find?
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial

import numpy as np
from tqdm import tqdm

import fieldtheory as ft
from fieldtheory import plots, symmetries, theories

from .agreement import agreement
from .conversion import certify, to_action
from .data import disjoint_halves, fingerprint
from .diffusion import DDPM, LinearDenoiser
from .flows import QuadraticFlow
from .interactions import learn_interactions
from .report import Chapter, Picture, Report, Table, Text, panel
from .uncertainty import coupling_uncertainty

_SIZES = [20, 30, 50, 80, 120, 200, 350, 600, 800]
_PICTURED = (20, 100, 800)
_COMPONENTS = 6


def run_demo(seed: int = 0, progress: bool = True) -> tuple[Report, dict]:
    """All four chapters; returns the page and the numbers for a JSON file."""
    digits = load_digits()
    chapters: list[Callable] = [_teacher, _lattice, lambda *a: _agreement(digits, *a), lambda *a: _interactions(digits, *a)]
    found = []
    with tqdm(total=len(chapters), desc="demo", disable=not progress) as bar:
        for chapter in chapters:
            found.append(chapter(seed, progress))
            bar.update()
    question = ("What did a generative model learn about its data, and from how many samples on does it generalize? Two theories "
                "with known couplings come first; then 1,797 handwritten digits of 8×8 pixels.")
    provenance = {"command": "fieldtheory demo", "seed": seed, "data": "scikit-learn digits", "sha256": fingerprint(digits)}
    summary = dict(zip(("teacher", "lattice", "agreement", "interactions"), (numbers for _, numbers in found)))
    return Report("fieldtheory: from data to couplings to a verdict", question, [c for c, _ in found], provenance), summary


def load_digits() -> np.ndarray:
    """scikit-learn's handwritten digits, shape (1797, 64), three pixels constant."""
    from sklearn.datasets import load_digits as load

    return load().data.astype(np.float64)


@dataclass(frozen=True)
class Recovery:
    """A student's couplings beside its teacher's.

    Attributes
    ----------
    comparison : Comparison
        Taylor couplings at the mean of the training samples, with the sampling errors of the student's.
    excess : (float, float)
        Negative log-likelihood of the student above the teacher's, nats per dimension on fresh samples, with its standard error.
    """

    comparison: ft.Comparison
    excess: tuple[float, float]


def recover_teacher(seed: int, n_samples: int = 100_000, n_steps: int = 10_000, n_starts: int = 3, progress: bool = False) -> Recovery:
    """Fit a four-layer student to a random two-layer teacher in five dimensions and compare their couplings."""
    teacher = QuadraticFlow.random(5, 2, seed=seed)
    x, fresh = teacher.sample(n_samples, seed=seed + 1), teacher.sample(200_000, seed=seed + 2)
    student = QuadraticFlow(5, 4).fit(x, seed=seed, n_steps=n_steps, n_starts=n_starts, progress=progress)
    at = x.mean(axis=0)
    errors = coupling_uncertainty(student, x, order=4, at=at).standard_error
    loss = (teacher.log_prob(fresh) - student.log_prob(fresh)) / 5
    return Recovery(ft.compare(to_action(student, order=4, at=at), to_action(teacher, order=4, at=at), standard_error=errors),
                    (float(loss.mean()), float(loss.std() / np.sqrt(loss.size))))


def _teacher(seed: int, progress: bool) -> tuple[Chapter, dict]:
    found = recover_teacher(seed, progress=progress)
    c, (excess, error) = found.comparison, found.excess
    orders = (2, 3, 4)
    scatter = [panel(plots.coupling_scatter, c.true.couplings[k], c.learned.couplings[k], c.standard_error[k], size=(3.9, 3.5))
               for k in orders]
    rows = [[str(k), f"{c.relative_error[k]:.3f}", f"{c.cosine[k]:.4f}", f"{c.null_cosine[k]:.2f}", f"{np.std(c.z[k]):.2f}"]
            for k in orders]
    outcome = "recovers its teacher" if min(c.cosine[k] for k in orders) > 0.98 else "does not recover its teacher"
    verdict = (f"The student {outcome}: couplings of orders 2, 3, 4 agree with cosine "
               f"{', '.join(f'{c.cosine[k]:.4f}' for k in orders)}, and it loses {1e4 * excess:.1f} ± {1e4 * error:.1f} ×10⁻⁴ nats "
               "per dimension on fresh samples.")
    caption = ("Taylor couplings at the mean of 100,000 samples of a random quadratic flow (5 variables, two layers): a four-layer "
               "student against its teacher, as vertices k! A⁽ᵏ⁾ with standard errors; grey: equality.")
    table = Table(["order", "relative error", "cosine", "null spread of the cosine", "sd of z-scores"], rows, "Student against teacher")
    numbers = {"relative_error": c.relative_error, "cosine": c.cosine, "excess_nats_per_dimension": found.excess}
    return Chapter("A teacher with known couplings", verdict, [Picture(scatter, caption), table]), numbers


def _lattice(seed: int, progress: bool) -> tuple[Chapter, dict]:
    graph = theories.lattice((3, 3))
    truth = theories.phi4(graph, mass_squared=1.0, coupling=4.0)
    x = ft.sample(truth, 20_000, seed=seed)
    origin = np.zeros(truth.n_dim)
    matched = ft.estimate(x, order=4).recenter(origin)
    flow = QuadraticFlow(truth.n_dim, 6).fit(x, seed=seed, n_steps=4000, batch_size=512, progress=progress)
    learned = to_action(flow, order=4, at=origin)
    errors = coupling_uncertainty(flow, x, order=4, at=origin, n_fisher=2500)
    averages = _symmetry_averages(graph, truth, {"score matching": (matched.action, matched.combination),
                                                 "flow": (learned, lambda k, w: (w @ learned.couplings[k].packed,
                                                                                 errors.of_combination(k, w)))})
    S = truth(x)
    variance, spread = S.var(), np.std((S - S.mean()) ** 2) / np.sqrt(S.size)
    own = certify(learned, flow, x[:2000]).variance_of_action
    verdict = (f"Symmetry-averaged couplings lie within {_worst(averages, 'score matching'):.1f} standard errors of the truth for "
               f"score matching, {_worst(averages, 'flow'):.1f} for the flow. Every volume-preserving flow has Var S = n_dim/2 = "
               f"{truth.n_dim / 2:g} whatever its depth, this theory has {variance:.2f} ± {spread:.2f} (the fitted flow: {own[0]:.2f} "
               f"± {own[1]:.2f}): a confining theory lies outside what such a flow can represent, and order 4 suffers first.")
    scatter = [panel(_two_methods, truth, matched, learned, k, size=(3.9, 3.5)) for k in (2, 4)]
    labels = list(averages)
    ratios = {name: tuple(np.array([averages[label][name][i] for label in labels]) / np.array(
        [averages[label]["truth"] * (1, np.sign(averages[label]["truth"]))[i] for label in labels]) for i in (0, 1))
        for name in ("score matching", "flow")}
    bars = panel(plots.ratios_to_truth, labels, ratios, size=(3.9, 3.5))
    caption = ("φ⁴ theory on a periodic 3×3 lattice (m² = 1, λ = 4), 20,000 samples of our own Hamiltonian Monte Carlo. Left and "
               "middle: couplings entry by entry. Right: averaged over the 72 symmetries of the lattice.")
    rows = [[label, f"{a['truth']:+.4f}", *(f"{a[m][0]:+.4f} ± {a[m][1]:.4f}" for m in ("score matching", "flow"))]
            for label, a in averages.items()]
    table = Table(["symmetry average", "truth", "score matching", "flow"], rows, "Couplings of the lattice theory")
    numbers = {"averages": averages, "variance_of_action": (variance, spread), "variance_of_flow": own, "half_n_dim": truth.n_dim / 2}
    return Chapter("A lattice field theory", verdict, [Picture([*scatter, bars], caption), table]), numbers


def _worst(averages: dict, method: str) -> float:
    """Largest distance from the truth in standard errors."""
    return max(abs(a[method][0] - a["truth"]) / a[method][1] for a in averages.values())


def _two_methods(ax, truth, matched, learned, k: int):
    plots.coupling_scatter(ax, truth.couplings[k], matched.action.couplings[k], matched.standard_error[k])
    ax.plot(factorial(k) * truth.couplings[k].packed, factorial(k) * learned.couplings[k].packed, "x", color="C1", ms=4)
    ax.set_title(f"order {k}: score matching (dots), flow (crosses)", fontsize=9)
    return ax


def _symmetry_averages(graph, truth, methods: dict) -> dict:
    """On-site and neighbour coupling of order 2 and on-site coupling of order 4, averaged over the lattice's symmetries."""
    n_dim, group = truth.n_dim, symmetries.automorphisms(graph)
    first, second = next(iter(graph.edges))
    places = {node: i for i, node in enumerate(graph.nodes)}
    pair = tuple(sorted((places[first], places[second])))
    averages = {}
    for label, index in {"on-site, order 2": (0, 0), "neighbours, order 2": pair, "on-site, order 4": (0,) * 4}.items():
        k = len(index)
        member = int(ft.tensors.colex_rank(np.array(index)))
        weights = symmetries.orbit_weights(symmetries.orbits(n_dim, k, group), member)
        averages[label] = {"truth": truth[index], **{name: tuple(map(float, combine(k, weights)))
                                                     for name, (_, combine) in methods.items()}}
    return averages


def _agreement(digits: np.ndarray, seed: int, progress: bool) -> tuple[Chapter, dict]:
    found = agreement(digits, _SIZES, convergence=0.9, seed=seed, n_splits=50, progress=progress)
    chapter = found.chapter("When two diffusion models agree on digits")
    picture = Picture([panel(plots.image_rows, *_pairs(digits, seed), size=(6.2, 4.4))],
                      "What two linear diffusion models A and B, trained on disjoint halves of N digits each, generate from the same "
                      "noise (columns). They differ while they memorize, and become one as they generalize.")
    words = Text("The prediction uses the covariance of the digits and the measured fluctuation of their norms, no training; three "
                 "pixels that never vary are left out.")
    return Chapter(chapter.title, chapter.verdict, [chapter.parts[0], picture, words, *chapter.parts[1:]]), found.summary()


def _pairs(digits: np.ndarray, seed: int) -> tuple[list, list]:
    noise = np.random.default_rng(seed).normal(size=(10, digits.shape[1]))
    rows, labels = [], []
    for N in _PICTURED:
        for name, half in zip("AB", disjoint_halves(len(digits), N, [seed, N])):
            learner = DDPM(LinearDenoiser(digits.shape[1])).fit(digits[half])
            rows.append(np.clip(learner.generate(noise), 0, 16).reshape(-1, 8, 8))
            labels.append(f"{name}, N = {N}")
    return rows, labels


def _interactions(digits: np.ndarray, seed: int, progress: bool) -> tuple[Chapter, dict]:
    found = learn_interactions(digits, order=4, n_layers=2, n_steps=4000, n_starts=3, components=_COMPONENTS, seed=seed,
                               progress=progress)
    return found.chapter("Interactions in the digits"), found.summary()
