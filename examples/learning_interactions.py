"""Do flows learn the interactions behind their samples? The programme of Merger et al., Phys. Rev. X 13, 041033 (2023), in four figures.

    python learning_interactions.py [quick] [teacher] [confining] [lattice] [modes]

measures one figure after the other, by default all four, prints its tables and draws it into a file of its name. The full sizes take a
quarter of an hour; `quick` takes seconds and shows how it is done, not what comes out.
"""

import sys
from itertools import product

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from scipy.special import gammaln
from scipy.stats import ortho_group

import fieldtheory as ft
import learners as ln

COLORS = {"truth": "k", "score matching": "0.5", "volume-preserving": "#D55E00", "with tails": "#0072B2", "RealNVP": "#009E73"}
MARKERS = {"score matching": "o", "volume-preserving": "x", "with tails": "s", "RealNVP": "^"}


def flows(n_dim):
    return {"volume-preserving": ln.QuadraticFlow(n_dim, 8), "with tails": ln.QuadraticFlow(n_dim, 8, tails=True),
            "RealNVP": ln.RealNVP(n_dim, 8, hidden=(16,), unit="softplus")}


def fit_all(x, n_steps):
    return {name: flow.fit(x, seed=0, n_steps=n_steps, batch_size=512, average=0.999) for name, flow in flows(x.shape[1]).items()}


def in_gauges(flow, x, n_points):
    """Couplings in three gauges: where these disagree, couplings depend on how they were asked for."""
    average = {"at": x.mean(axis=0), "method": "normal_ordered", "samples": x, "n_points": n_points}
    return {"normal-ordered": ln.to_action(flow, **average), "half of q": ln.to_action(flow, **average, share=0.5),
            "projection": ln.to_action(flow, method="projection", samples=x)}


def agreement(comparison, **labels):
    return [{**labels, "order": k, "cosine": comparison.cosine[k], "relative error": comparison.relative_error[k]} for k in (2, 3, 4)]


def variances(S, x, models):
    """Var S over samples of the theory, and over its own samples for each model."""
    squares = (S(x) - S(x).mean()) ** 2
    rows = [{"model": "truth", "Var S": squares.mean(), "error": squares.std() / np.sqrt(len(x))}]
    own = {name: flow.variance_of_action(n_samples=len(x)) for name, flow in models.items()}
    return pd.DataFrame(rows + [{"model": name, "Var S": v.value, "error": v.error} for name, v in own.items()]).set_index("model")


# Teacher: couplings of random quadratic flows of two layers, learned from N samples by students of L layers.


def teacher(n_teachers=5, layers=(1, 2, 3, 4, 6), sizes=(300, 1000, 3000, 10_000, 30_000, 100_000), n_steps=3000):
    """Taylor couplings at the mean of the samples."""
    rows = []
    for seed in range(n_teachers):
        flow = ln.QuadraticFlow.random(n_dim=5, n_layers=2, seed=seed)
        x = flow.sample(max(sizes), seed=100 + seed)
        true = ln.to_action(flow, at=x.mean(axis=0))
        for L, N in product(layers, sizes):
            student = ln.QuadraticFlow(5, L).fit(x[:N], seed=0, n_starts=3, n_steps=n_steps)
            rows += agreement(ft.compare(ln.to_action(student, at=true.at), true, samples=x), teacher=seed, L=L, N=N)
    rows = pd.DataFrame(rows)
    return {"median relative error": rows.pivot_table("relative error", ["order", "L"], "N", "median"), "all": rows}


def draw_teacher(found):
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    *maps, lines = figure.subplots(1, 3)
    for ax, k in zip(maps, (3, 4)):
        shown = found["median relative error"].loc[k]
        picture = ax.imshow(shown, norm=LogNorm(0.01, 1), origin="lower", aspect="auto")
        for (row, column), value in np.ndenumerate(shown):
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color="k" if value > 0.15 else "w")
        ax.set(title=f"order {k}", xlabel="samples N", ylabel="layers L of the student")
        ax.set_xticks(range(shown.shape[1]), [f"{n:,}" for n in shown.columns], rotation=20, fontsize=8)
        ax.set_yticks(range(shown.shape[0]), shown.index)
    figure.colorbar(picture, ax=maps, label="relative error, median over teachers")
    draw_sizes(lines, found["all"], 3)
    return figure


def draw_sizes(ax, rows, order):
    """Medians and quartiles over teachers."""
    for L, depth in rows[rows["order"] == order].groupby("L"):
        low, middle, high = depth.groupby("N")["relative error"].quantile([0.25, 0.5, 0.75]).unstack().to_numpy().T
        sizes, color = np.unique(depth["N"]), colormaps["viridis"](0.9 * L / rows["L"].max())
        ax.errorbar(sizes, middle, [middle - low, high - middle], fmt="o-", ms=4, capsize=2, color=color, label=f"L = {L}")
    ax.plot(sizes, (sizes / sizes[0]) ** -0.5, "k:", lw=1, label="N^(−1/2)")
    ax.set(xscale="log", yscale="log", xlabel="samples N", ylabel="relative error", title=f"order {order}, with quartiles")
    ax.legend(fontsize=8, loc="lower left")


# Confining: a convex theory with all cubic and quartic couplings, whose Var S is not n_dim/2.


def confining(n_samples=100_000, n_steps=10_000, n_points=1024):
    """Normal-ordered couplings, q the Gaussian of the samples, and two other gauges beside them."""
    S = ft.theories.random_interactions(n_dim=5, strengths={3: 0.2, 4: 0.2}, seed=0)
    x = ft.sample(S, n_samples, seed=1, n_chains=64)
    q, models = (x.mean(axis=0), np.cov(x.T)), fit_all(x, n_steps)
    actions = {"score matching": {"normal-ordered": ft.estimate(x, order=4).action.normal_order(*q)},
               **{name: in_gauges(flow, x, n_points) for name, flow in models.items()}}
    rows = [row for name, gauges in actions.items() for gauge, action in gauges.items()
            for row in agreement(ft.compare(action, S, samples=x), model=name, gauge=gauge)]
    vertices = {"truth": S.normal_order(*q), **{name: gauges["normal-ordered"] for name, gauges in actions.items()}}
    return {"couplings": pd.DataFrame(rows).pivot(index=["model", "gauge"], columns="order", values=["cosine", "relative error"]),
            "variance": variances(S, x, models), "all": pd.DataFrame({name: A.vertex(4).packed for name, A in vertices.items()})}


def draw_confining(found):
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    scatter, cosines, variance = figure.subplots(1, 3)
    draw_vertices(scatter, found["all"])
    for (name, gauge), row in (1 - found["couplings"]["cosine"]).iterrows():
        marker = {"normal-ordered": "o", "half of q": "s", "projection": "x"}[gauge]
        cosines.plot(row.index, row, marker=marker, mfc="none", ls="-" if marker == "o" else "", color=COLORS[name])
    cosines.plot((2, 3, 4), (0.01, 0.02, 0.04), "k_", ms=30)
    cosines.set(xlabel="order", xticks=(2, 3, 4), yscale="log", ylabel="1 − cosine with the true couplings")
    cosines.set_title("○ normal-ordered  □ half of q  × projection  — asked for", fontsize=9)
    draw_variance(variance, found["variance"], n_dim=5)
    return figure


def draw_vertices(ax, vertices):
    truth = vertices["truth"]
    for name in vertices.columns.drop("truth"):
        ax.plot(truth, vertices[name], MARKERS[name], ms=4, mfc="none", color=COLORS[name], label=name)
    ax.axline((0, 0), slope=1, color="0.7", lw=1, zorder=0)
    ax.set(xlabel="true vertex of order 4", ylabel="learned")
    ax.legend(fontsize=8)


def draw_variance(ax, variance, n_dim):
    ax.errorbar(range(len(variance)), variance["Var S"], 3 * variance["error"], fmt="none", color="0.5", capsize=4)
    ax.scatter(range(len(variance)), variance["Var S"], color=[COLORS[name] for name in variance.index], zorder=3)
    ax.axhline(n_dim / 2, color="0.7", lw=1)
    ax.set_title("line: n_dim/2, for every constant Jacobian", fontsize=9)
    ax.set_ylabel("Var S, ± 3 errors")
    ax.set_xticks(range(len(variance)), variance.index, rotation=20, fontsize=8)
    ax.margins(x=0.15)


# Lattice: φ⁴ on 3×3 sites, whose single quartic entries drown in sampling noise. Averages over its 72 symmetries do not.


def lattice(n_samples=100_000, n_steps=10_000, n_points=512):
    """Couplings of order 4, as they come and averaged over the orbits of their entries.

    Flows are fitted to y = Rᵀx, R a random rotation, and their actions pulled back: sites are nearly independent, and affine coupling
    layers, which see dependence alone, would find no way away from the identity.
    """
    graph = ft.theories.lattice((3, 3))
    S = ft.theories.phi4(graph, mass_squared=1.0, coupling=4.0)
    x = ft.sample(S, n_samples, seed=1, n_chains=64)
    R = ortho_group.rvs(9, random_state=0)
    orbit, models = ft.symmetries.orbits(9, 4, ft.symmetries.automorphisms(graph)), fit_all(x @ R, n_steps)
    learned = {(name, gauge): action.pullback(R.T) for name, flow in models.items()
               for gauge, action in in_gauges(flow, x @ R, n_points).items()}
    actions = {("score matching", "exact"): ft.estimate(x, order=4).action, **learned}
    rows, vertices = [], {"truth": S.vertex(4).packed}
    for (name, gauge), action in actions.items():
        entries = action.vertex(4).packed
        averaged = (np.bincount(orbit, entries) / np.maximum(np.bincount(orbit), 1))[orbit]
        for what, values in (("as it comes", entries), ("averaged", averaged)):
            quartic = ft.Action({4: ft.SymmetricTensor.from_packed(values / 24, 9, 4)})
            found = ft.compare(quartic, ft.Action({4: S.couplings[4]}), samples=x)
            rows.append({"model": name, "gauge": gauge, "entries": what, "cosine": found.cosine[4],
                         "relative error": found.relative_error[4], "on-site vertex": values[0]})
        if gauge in ("exact", "normal-ordered"):
            vertices |= {name: averaged, f"{name}, as it comes": entries}
    return {"quartic": pd.DataFrame(rows).set_index(["model", "gauge", "entries"]), "variance": variances(S, x, models),
            "all": pd.DataFrame(vertices).assign(orbit=orbit)}


def draw_lattice(found):
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    raw, averaged, variance = figure.subplots(1, 3)
    everything = found["all"]
    draw_strips(raw, everything["truth"], everything.filter(like="as it comes"))
    raw.set(title="495 entries, one by one", ylabel="vertex of order 4; red: on-site, true −4")
    orbits = everything.drop_duplicates("orbit")
    draw_strips(averaged, orbits["truth"], orbits[[name for name in COLORS if name in orbits and name != "truth"]])
    averaged.set_title("averages over their 16 orbits")
    draw_variance(variance, found["variance"], n_dim=9)
    return figure


def draw_strips(ax, truth, vertices):
    sideways = np.random.default_rng(0).uniform(-0.3, 0.3, len(truth))
    for place, name in enumerate(vertices):
        ax.scatter(place + sideways, vertices[name], s=6, color=np.where(truth < -1, "#D55E00", "0.5"))
    for value in (0.0, -4.0):
        ax.plot([-0.4, vertices.shape[1] - 0.6], [value, value], color="0.8", lw=1, zorder=0)
    ax.set_xticks(range(vertices.shape[1]), [name.removesuffix(", as it comes") for name in vertices], rotation=20, fontsize=8)


# Modes: outside the unimodal class, where z = 0 is the only maximum that a flow of constant Jacobian can have.


def mixture(n_samples, seed):
    """Two unit Gaussians, three standard deviations apart, with weights 0.3 and 0.7."""
    rng = np.random.default_rng(seed)
    second = rng.random(n_samples) < 0.7
    return rng.normal(size=(n_samples, 3)) + np.sqrt(3) * second[:, None]


def reduced_ising(n_samples, seed):
    """Three groups of ten Ising spins, S = ½ M·K M + h Σ_a M_a, reduced to the field φ = K M + √K ξ (Hubbard and Stratonovich).

    S(φ) = −½ φ·K⁻¹ φ + 10 Σ_a ln cosh(φ_a + h). Magnetizations M are drawn from all 11³.
    """
    rng, K, h = np.random.default_rng(seed), 0.03 * (np.eye(3) + 1), 0.02
    M = np.array(list(product(range(-10, 11, 2), repeat=3)))
    log_weight = 0.5 * np.sum(M @ K * M, axis=1) + h * M.sum(axis=1) - gammaln([6 + M / 2, 6 - M / 2]).sum(axis=(0, 2))
    weight = np.exp(log_weight - log_weight.max())
    drawn = M[rng.choice(len(M), n_samples, p=weight / weight.sum())]
    return drawn @ K + rng.normal(size=(n_samples, 3)) @ np.linalg.cholesky(K).T


def modes(n_samples=100_000, layers=(1, 2, 4, 8), n_steps=6000):
    """Cumulants of fresh data in a flow's latent space beside those of N(0, 1), and of what it generates beside the data's, whitened."""
    rows, histograms, bins = [], {}, np.linspace(-4, 4, 61)
    for data, draw in {"mixture": mixture, "reduced Ising": reduced_ising}.items():
        x, fresh = draw(n_samples, seed=0), draw(n_samples, seed=1)
        whitened = whitening(x)
        generated = {"data": fresh, "Gaussian": np.random.default_rng(2).multivariate_normal(x.mean(axis=0), np.cov(x.T), n_samples)}
        latent = {"Gaussian": whitened(fresh)}
        students = {f"L = {L}": ln.QuadraticFlow(3, L) for L in layers}
        for name, flow in {**students, "tails": ln.QuadraticFlow(3, max(layers), tails=True)}.items():
            flow.fit(x, seed=0, n_starts=3, n_steps=n_steps, batch_size=512)
            latent[name], generated[name] = flow.to_latent(fresh)[0], flow.sample(n_samples, seed=2)
        for name, k in product(latent, (1, 2, 3, 4)):
            found, own, made = (ft.cumulants(y, k) for y in (latent[name], whitened(fresh), whitened(generated[name])))
            normal = ft.SymmetricTensor.from_dense(np.eye(3)) if k == 2 else ft.SymmetricTensor.zeros(3, k)
            rows.append({"data": data, "model": name, "order": k, "latent": (found - normal).norm(), "latent noise": found.error.norm(),
                         "generated": (made - own).norm(), "generated noise": np.hypot(made.error.norm(), own.error.norm())})
        place, scale = x.sum(axis=1).mean(), x.sum(axis=1).std()
        histograms |= {(data, name): np.histogram((y.sum(axis=1) - place) / scale, bins)[0] for name, y in generated.items()}
    return {"cumulants": pd.DataFrame(rows).set_index(["data", "model", "order"]).unstack(),
            "all": pd.DataFrame(histograms, index=0.5 * (bins[1:] + bins[:-1]))}


def whitening(x):
    mean, matrix = x.mean(axis=0), np.linalg.inv(np.linalg.cholesky(np.cov(x.T)))
    return lambda y: (y - mean) @ matrix.T


def draw_modes(found):
    figure = Figure(figsize=(11, 6), layout="constrained")
    for axes, data in zip(figure.subplots(2, 3), ("mixture", "reduced Ising")):
        counts, cumulants = found["all"][data], found["cumulants"].loc[data]
        deepest = [name for name in counts if name.startswith("L")][-1]
        for name, style, color in (("data", "-", "k"), (deepest, "-", COLORS["volume-preserving"]), ("tails", "--", COLORS["with tails"])):
            axes[0].plot(counts.index, counts[name], style, color=color, label=name)
        axes[0].set(xlabel="sum of the variables, standardized", ylabel="samples per bin", title=data)
        for ax, what, top in zip(axes[1:], ("latent", "generated"), (30, 100)):
            for k in (1, 2, 3, 4):
                color = ft.plots.color_of_order(k)
                ax.plot(cumulants.index, cumulants[what, k], "os^D"[k - 1] + "-", ms=4, color=color, label=f"order {k}")
                ax.plot(cumulants.index, cumulants[f"{what} noise", k], ":", lw=1, color=color)
            ax.set(yscale="log", ylim=(5e-4, top), ylabel="norm of the difference")
            ax.tick_params(axis="x", labelsize=8)
        for ax in axes[:2]:
            ax.legend(fontsize=8, loc="upper left" if ax is axes[0] else "upper right", ncols=1 if ax is axes[0] else 2)
    for ax, title in zip(figure.axes[1:3], ("cumulants: latent data − N(0, 1), dotted: noise", "generated − data, dotted: noise")):
        ax.set_title(title, fontsize=10)
    return figure


FIGURES = {"teacher": (teacher, draw_teacher, {"n_teachers": 1, "layers": (1, 4), "sizes": (300, 10_000), "n_steps": 500}),
           "confining": (confining, draw_confining, {"n_samples": 5000, "n_steps": 300, "n_points": 24}),
           "lattice": (lattice, draw_lattice, {"n_samples": 5000, "n_steps": 100, "n_points": 16}),
           "modes": (modes, draw_modes, {"n_samples": 5000, "layers": (1, 4), "n_steps": 300})}

if __name__ == "__main__":
    for chosen in [name for name in FIGURES if name in sys.argv] or FIGURES:
        measure, draw, quick = FIGURES[chosen]
        numbers = measure(**(quick if "quick" in sys.argv else {}))
        for title in [title for title in numbers if title != "all"]:
            print(f"\n{chosen}: {title}\n{numbers[title].to_string(float_format='{:.4f}'.format)}")
        draw(numbers).savefig(f"{chosen}.png", dpi=110)
