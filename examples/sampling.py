"""Samples of a theory, chains with their diagnostics, and two wells that plain chains cannot weigh."""

import warnings

import numpy as np

import fieldtheory as ft

# Nearly independent samples of φ⁴ on an 8×8 lattice: ⟨x_i ∂_i S⟩ = −1 for every action (Schwinger–Dyson).
S = ft.theories.phi4(ft.theories.lattice((8, 8)), mass_squared=1.0, coupling=1.0)
x = ft.sample(S, 20_000, seed=0)
identity = (x * S.score(x)).mean(axis=1)
print(f"<x dS/dx> = {identity.mean():.4f} ± {identity.std() / np.sqrt(len(x)):.4f}")

# Chains with everything arviz wants to see; the no-U-turn sampler finds the length of its trajectories by itself.
chains = ft.sample_chains(S, n_draws=1000, n_chains=4, seed=0, method="nuts")
print(f"largest R-hat {float(chains.r_hat.max()):.3f}, smallest effective sample size {float(chains.ess.min()):.0f} of 4000, "
      f"{chains.attrs['n_divergent']} divergences")

# Two wells, ten temperatures deep: plain chains stay where they start and say so; replica exchange weighs them.
wells = ft.Action({1: [-0.3], 2: [[20.0]], 4: np.full((1, 1, 1, 1), -10.0)})  # −10 (x² − 1)² − 0.3 x
with warnings.catch_warnings(record=True) as doubts:
    warnings.simplefilter("always")
    ft.sample(wells, 400, n_chains=8)
print("hmc:", doubts[0].message)
right = ft.sample(wells, 20_000, seed=0, method="tempering")[:, 0] > 0
grid = np.linspace(-3, 3, 6001)
weight = np.exp(wells(grid[:, None]))
print(f"weight of the right well: {right.mean():.3f} ± {right.std() / np.sqrt(right.size):.3f}, by quadrature "
      f"{weight[grid > 0].sum() / weight.sum():.3f}")
