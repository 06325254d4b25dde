"""Effective samples per second of our sampler on the 8×8 φ⁴ lattice, and how much of the time the gradients take.

    python -m pytest -m benchmark -s tests/benchmarks
"""

import time

import numpy as np
import pytest

import fieldtheory as ft
from fieldtheory import _kernels
from fieldtheory.sampling import HMC, effective_sample_size
from fieldtheory.sampling.draw import observables
from fieldtheory.sampling.walkers import Draws

pytestmark = pytest.mark.benchmark


def gradient_time(S, n_chains, repeats=2000):
    """Seconds of one kernel call on all chains."""
    x = np.random.default_rng(0).normal(size=(S.n_dim, n_chains))
    value, score = np.zeros(n_chains), np.empty_like(x)
    began = time.perf_counter()
    for _ in range(repeats):
        _kernels.value_and_score(S.polynomial, x, value, score)
    return (time.perf_counter() - began) / repeats


@pytest.mark.parametrize("name", ["phi4:shape=8x8,mass_squared=1,coupling=1", "random_interactions:n_dim=10"])
def test_effective_samples_per_second(name):
    S = ft.theories.from_text(name)
    ft.sample(S, 10)  # compile
    print(f"\n{name}: chains, ESS/s (minimum over x_i, x_i², Σx_i), ESS per draw, share of the time in gradients")
    rates = []
    for n_chains in (4, 16, 64, 128):
        chains, draws = HMC(S, n_chains, np.random.default_rng(0)).warm_up(), Draws.blank(max(400, 60_000 // n_chains), S.n_dim, n_chains)
        began, before = time.perf_counter(), chains.n_gradients
        chains.fill(draws)
        seconds = time.perf_counter() - began
        ess = effective_sample_size(observables(draws.by_chain())).min()
        gradients = (chains.n_gradients - before) / n_chains * gradient_time(S, n_chains)
        rates.append(ess / seconds)
        print(f"{n_chains:>5} {ess / seconds:>12,.0f} {ess / draws.value.size:>8.2f} {gradients / seconds:>8.2f}")
    assert max(rates) > 0
