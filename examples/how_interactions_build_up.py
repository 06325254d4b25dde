"""How interactions build up: when a flow learns those of each order, and which of its layers makes them.

    python how_interactions_build_up.py [quick]
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import fieldtheory as ft
import learners as ln

n_samples, n_steps, n_points = (2000, 80, 32) if "quick" in sys.argv else (100_000, 5120, 1024)
S = ft.theories.random_interactions(n_dim=4, strengths={3: 0.2, 4: 0.2}, seed=0)  # confining, with all cubic and quartic couplings
x = ft.sample(S, n_samples, seed=1, n_chains=64)
q = {"at": x.mean(axis=0), "covariance": np.cov(x.T)}
flow = ln.QuadraticFlow(4, 4, tails=True)

along = ln.record_couplings(10, order=4, method="normal_ordered", n_points=n_points, **q)
recorded = {0, *(10 * 2 ** np.arange(10))}
flow.fit(x, seed=0, n_steps=n_steps, batch_size=512, average=0.99, callback_every=10,
         callback=lambda step, now: step in recorded and along(step, now))
compared = along.comparisons(S.normal_order(*q.values()), samples=x)
figure = Figure(figsize=(8.5, 3.4), layout="constrained")
cosine, error = figure.subplots(1, 2)
ft.plots.learning_curves(cosine, along.steps, {k: [found.cosine[k] for found in compared] for k in (2, 3, 4)}, "the true couplings")
print("relative error, step", *along.steps, sep="\t")
for k in (2, 3, 4):
    errors = np.array([found.relative_error[k] for found in compared])
    print(f"            order {k}", *errors.round(3), sep="\t")
    error.plot(along.steps, errors, "os^Dv"[k % 5] + "-", ms=4, color=ft.plots.color_of_order(k))
error.set(xlabel="training step", ylabel="relative error", yscale="log")
for ax in (cosine, error):
    ax.set_xscale("symlog", linthresh=10)
    ax.set_xlim(left=-1)
figure.savefig("training.png", dpi=110)

trace = ln.trace_action(flow, order=4)                            # from latent to data: what each layer adds to each order
print(trace.table())
trace.plot().savefig("layers.png", dpi=110)
