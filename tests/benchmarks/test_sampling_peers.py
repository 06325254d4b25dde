"""Effective samples per second beside blackjax and emcee: the same actions, estimator, core and run; compilation and warm-up excluded.

    python -m pip install -e '.[benchmark]'
    python -m pytest -m benchmark -s tests/benchmarks/test_sampling_peers.py

The number is the smallest effective sample size over x_i, x_i² and Σ x_i, per second of the processor (so that other programs matter
less), the best of three runs. Everybody computes in float64 on one core. What the peers get: densities written for them by hand
(lattice shifts for φ⁴; for dense couplings a matrix of pairs, twice as fast as einsum of the tensors); their own window adaptation with
diagonal and dense mass; NUTS with 1 to 64 chains and HMC with 64, vectorized; for HMC the path length and the number of steps by search,
with their default integrator and with their two-stage one. emcee's walkers are evaluated by our own kernel. The targets stand in the
output; what is asserted holds on a busy machine.
"""

import os
import time

import numpy as np
import pytest

import fieldtheory as ft
from fieldtheory.sampling import HMC, NUTS, effective_sample_size
from fieldtheory.sampling.draw import observables
from fieldtheory.sampling.walkers import Draws

pytestmark = pytest.mark.benchmark

LATTICE, DENSE = "phi4:shape=8x8,mass_squared=1,coupling=1", "random_interactions:n_dim=10"
TARGETS = {LATTICE: 4.0, DENSE: 12.0, "nuts": 5.0}
CHAINS = (1, 16, 64)
TURNS = [(path, steps) for path in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2) for steps in (1, 2, 3, 4, 6)]


@pytest.fixture(autouse=True, scope="module")
def one_core():
    """Before the peers start their threads."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    yield
    os.sched_setaffinity(0, cores)


def worth(x, seconds):
    """Effective samples per second of draws (n_chains, n_draws, n_dim)."""
    return effective_sample_size(observables(np.asarray(x))).min() / seconds


def timed(run, *arguments):
    began = time.process_time()
    result = run(*arguments)
    return result, time.process_time() - began


def ours(S, sampler, n_chains, n_draws):
    chains, draws = sampler(S, n_chains, np.random.default_rng(0)).warm_up(), Draws.blank(n_draws, S.n_dim, n_chains)
    rates = []
    for _ in range(3):
        _, seconds = timed(chains.fill, draws)
        rates.append(worth(draws.by_chain(), seconds))
    return max(rates)


def lattice_density(jnp):
    def log_density(x):
        f = x.reshape(8, 8)
        bonds = jnp.sum((f - jnp.roll(f, 1, 0)) ** 2) + jnp.sum((f - jnp.roll(f, 1, 1)) ** 2)
        return -0.5 * bonds - jnp.sum(0.5 * f**2 + f**4 / 24)

    return log_density


def dense_density(jnp, S):
    """x_i x_j by pairs: p·(a + B x + Q p)."""
    i, j = np.triu_indices(S.n_dim)
    multiplicity = np.where(i == j, 1.0, 2.0)
    A2, A3, A4 = (S.couplings[k].dense() for k in (2, 3, 4))
    a, B = jnp.asarray(multiplicity * A2[i, j]), jnp.asarray(multiplicity[:, None] * A3[i, j])
    Q = jnp.asarray(multiplicity[:, None] * multiplicity * A4[i, j][:, i, j])

    def log_density(x):
        p = x[i] * x[j]
        return p @ (a + B @ x + Q @ p)

    return log_density


class Blackjax:
    """One theory in blackjax; `rates` is filled by what is run."""

    def __init__(self, S, density):
        self.jax, self.blackjax = pytest.importorskip("jax"), pytest.importorskip("blackjax")
        self.jax.config.update("jax_enable_x64", True)
        self.S, self.rates = S, {}
        self.log_density = density(self.jax.numpy)
        points = np.random.default_rng(0).normal(size=(2, S.n_dim))
        np.testing.assert_allclose(self.log_density(points[0]) - self.log_density(points[1]), S(points[0]) - S(points[1]), rtol=1e-10)

    def adapted(self, diagonal):
        warm_up = self.blackjax.window_adaptation(self.blackjax.nuts, self.log_density, is_mass_matrix_diagonal=diagonal)
        (state, parameters), _ = warm_up.run(self.jax.random.key(0), np.zeros(self.S.n_dim), 1000)
        return state.position, parameters

    def loop(self, kernel, n_draws):
        """Compiled: n_draws transitions of all chains, by scan."""
        jax = self.jax

        def draw(states, key):
            states, _ = jax.vmap(kernel)(jax.random.split(key, states.position.shape[0]), states)
            return states, states.position

        return jax.jit(lambda states, key: jax.lax.scan(draw, states, jax.random.split(key, n_draws)))

    def rate(self, loop, states, repeats=3):
        jax, rates = self.jax, []
        states, _ = jax.block_until_ready(loop(states, jax.random.key(1)))
        for repeat in range(repeats):
            (states, x), seconds = timed(lambda s=states, r=repeat: jax.block_until_ready(loop(s, jax.random.key(2 + r))))
            rates.append(worth(np.asarray(x).transpose(1, 0, 2), seconds))
        return max(rates)

    def starts(self, init, position, n_chains):
        return self.jax.vmap(init)(position + 0.3 * self.jax.random.normal(self.jax.random.key(3), (n_chains, self.S.n_dim)))

    def run_nuts(self, diagonal):
        position, parameters = self.adapted(diagonal)
        nuts = self.blackjax.nuts(self.log_density, **parameters)
        for n_chains in CHAINS:
            loop = self.loop(nuts.step, 4000 if n_chains == 1 else max(150, 4000 // n_chains))
            self.rates["nuts", n_chains, _mass(diagonal)] = self.rate(loop, self.starts(nuts.init, position, n_chains))

    def run_hmc(self, diagonal, integrator):
        """Path and number of steps by search in one compiled loop that takes them as arguments, then the best compiled in."""
        jax, integrator_of = self.jax, self.blackjax.mcmc.integrators
        position, parameters = self.adapted(diagonal)
        kernel, mass = self.blackjax.hmc.build_kernel(getattr(integrator_of, integrator)), parameters["inverse_mass_matrix"]
        quarter = 0.5 * np.pi * np.sqrt(self.slowest(mass))
        states = self.starts(lambda x: self.blackjax.hmc.init(x, self.log_density), position, CHAINS[-1])

        @jax.jit
        def loop(states, key, step, n_steps):
            def draw(states, key):
                keys = jax.random.split(key, CHAINS[-1])
                states, _ = jax.vmap(lambda k, s: kernel(k, s, self.log_density, step, mass, n_steps))(keys, states)
                return states, states.position

            return jax.lax.scan(draw, states, jax.random.split(key, 200))

        found = {(path, n): self.rate(lambda s, k, h=quarter * path / n, n=n: loop(s, k, h, n), states, repeats=1) for path, n in TURNS}
        path, n_steps = max(found, key=found.get)
        hmc = self.blackjax.hmc(self.log_density, step_size=quarter * path / n_steps, inverse_mass_matrix=mass,
                                num_integration_steps=n_steps, integrator=getattr(integrator_of, integrator))
        rate = self.rate(self.loop(hmc.step, 1000), self.starts(hmc.init, position, CHAINS[-1]))
        name = "hmc", CHAINS[-1], f"{_mass(diagonal)}, {integrator}, {path} quarter periods in {n_steps} steps"
        self.rates[name] = max(rate, found[path, n_steps])

    def slowest(self, inverse_mass):
        """Largest variance in units of the mass, from our own samples."""
        covariance = np.cov(ft.sample(self.S, 20_000).T)
        precision = np.linalg.inv(np.asarray(inverse_mass)) if np.ndim(inverse_mass) == 2 else np.diag(1 / np.asarray(inverse_mass))
        return np.linalg.eigvals(precision @ covariance).real.max()


def _mass(diagonal):
    return "diagonal mass" if diagonal else "dense mass"


def emcee_rate(S):
    emcee = pytest.importorskip("emcee")
    walkers = emcee.EnsembleSampler(4 * S.n_dim, S.n_dim, S, vectorize=True)
    start = walkers.run_mcmc(ft.sample(S, 4 * S.n_dim), 100)
    walkers.reset()
    _, seconds = timed(walkers.run_mcmc, start, 1000)
    return worth(walkers.get_chain().transpose(1, 0, 2), seconds)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [LATTICE, DENSE])
def test_effective_samples_per_second_beside_peers(name):
    S = ft.theories.from_text(name)
    peer = Blackjax(S, lattice_density if name == LATTICE else lambda jnp: dense_density(jnp, S))
    mine = {("hmc", n): ours(S, HMC, n, 32_000 // n) for n in (64, 128, 256)} | {("nuts", 1): ours(S, NUTS, 1, 4000)}
    for diagonal in (True, False):
        peer.run_nuts(diagonal)
        for integrator in ("velocity_verlet", "mclachlan"):
            peer.run_hmc(diagonal, integrator)
    best, default = max(mine.values()), max(rate for key, rate in peer.rates.items() if "mclachlan" not in key[-1])
    nuts = mine["nuts", 1] / max(rate for key, rate in peer.rates.items() if key[:2] == ("nuts", 1))
    print(f"\n{name}: effective samples per second")
    for owner, rates in (("ours", mine), ("blackjax", peer.rates), ("emcee", {("walkers", 4 * S.n_dim): emcee_rate(S)})):
        for key, rate in rates.items():
            print(f"{rate:>12,.0f}  {owner}", *key)
    print(f"our best / blackjax's best: {best / default:.1f} with its default integrator (target {TARGETS[name]:g}), "
          f"{best / max(peer.rates.values()):.1f} with any\nNUTS / NUTS, one chain: {nuts:.1f} (target {TARGETS['nuts']:g})")
    assert best > 1.5 * default and nuts > 1.5


@pytest.mark.parametrize("name", [LATTICE, DENSE])
def test_the_default_setting_is_the_fast_one(name):
    """`ft.sample` as it stands, warm-up and checks included, beside other numbers of chains."""
    S = ft.theories.from_text(name)
    ft.sample(S, 100)
    seconds = {n: min(timed(lambda n=n: ft.sample(S, 20_000, n_chains=n))[1] for _ in range(3)) for n in (None, 4, 16, 64, 256)}
    print(f"\n{name}: seconds for 20,000 samples by number of chains: "
          + ", ".join(f"{n or 'default'} {s:.2f}" for n, s in seconds.items()))
    assert seconds[None] < 1.5 * min(seconds.values())
