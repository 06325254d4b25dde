"""From samples to couplings to a verdict, in fifteen lines."""

import fieldtheory as ft
import learners as ln

S = ft.theories.random_interactions(n_dim=4, strengths={3: 0.2, 4: 0.2}, seed=0)  # a theory with known couplings
x = ft.sample(S, n_samples=20_000, seed=1)                                        # its samples

estimate = ft.estimate(x, order=4)                                # couplings straight from the samples, with standard errors
print(ft.compare(estimate, S, samples=x).table())                 # how far from the truth, order by order

flow = ln.QuadraticFlow(n_dim=4, n_layers=2).fit(x, n_steps=2000, seed=0)  # a generative model of the same samples
learned = ln.to_action(flow, order=4, at=x.mean(axis=0))          # what it learned, as couplings
print(ft.compare(learned, S, samples=x).table())

print("two diffusion models agree from N =", ft.generalization.samples_needed(x, convergence=0.9))
