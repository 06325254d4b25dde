"""Hamiltonian Monte Carlo, all chains in lock step.

The density exp S(x) is extended by momenta p ~ N(0, M); the Hamiltonian H = −S(x) + ½ pᵀM^{-1}p is followed for n leapfrog steps of
size ε and the end point is accepted with probability min(1, exp(−ΔH)) (S. Duane et al., Phys. Lett. B 195, 216 (1987)). Chains are
lanes of one array, so that a trajectory of all of them is one compiled call.

Warm-up has three stages. With a diagonal mass from how far S reaches along each variable the chains find the bulk; their draws,
pooled, give the mass; the step is adapted once more. ε follows the pooled acceptance by dual averaging (M. Hoffman, A. Gelman, JMLR 15,
1593 (2014)). The mass is dense where the variables are correlated and few enough to tell, else diagonal. The path is a quarter
period of the slowest mode, jittered, because a fixed length resonates.
"""

from __future__ import annotations

import numpy as np

from .. import _kernels
from ..action import Action

_TARGET = 0.8  # acceptance
_STAGES = (150, 350, 150)  # iterations: find the bulk, measure the mass, settle the step
_LONGEST = 200  # leapfrog steps
_TRIAL, _ATTEMPTS = 100, 12  # iterations of a trial of the step, and how often it may be shortened
_DIVERGENT = 1000.0  # nats of energy error
_DENSE_ABOVE = 4.0  # condition number of the correlations that pays for a dense mass
_JITTER = (0.6, 1.4)


class HMC:
    """Chains of one action, warmed up when built.

    Parameters
    ----------
    action : Action
        Normalizable.
    n_chains : int
    rng : numpy.random.Generator
        The only source of randomness.

    Attributes
    ----------
    step_size : float
    path_length : float
        In units of the mass-weighted coordinates.
    inverse_mass : ndarray, (n_dim, 1) or (n_dim, n_dim)
    acceptance : float
        Mean over the draws since warm-up.
    n_divergent : int
        Trajectories since warm-up whose energy error exceeded 1,000 nats.
    n_gradients : int
        Gradient evaluations since warm-up, all chains.
    """

    def __init__(self, action: Action, n_chains: int, rng: np.random.Generator):
        self.action, self.n_chains, self.rng = action, n_chains, rng
        self._start()
        self._warm_up()

    def run(self, n_draws: int, interval: int = 1) -> np.ndarray:
        """Every `interval`-th state of the next ``n_draws * interval`` iterations, shape (n_chains, n_draws, n_dim)."""
        draws = np.empty((n_draws, self.action.n_dim, self.n_chains))
        for i in range(n_draws):
            for _ in range(interval):
                self._iterate()
            draws[i] = self.u
        return draws.transpose(2, 0, 1) + self.action.at

    def _start(self) -> None:
        """Overdispersed around the base point."""
        scale = _reach(self.action)
        self._set_mass(np.diag(scale**2), dense=False)
        self.u = 2 * scale[:, None] * self.rng.normal(size=(self.action.n_dim, self.n_chains))
        self.value, self.score = np.zeros(self.n_chains), np.empty_like(self.u)
        _kernels.value_and_score(self.action.polynomial, self.u, self.value, self.score)
        self.step_size, self.path_length = 0.1, 1.0
        self._reset_counts()

    def _warm_up(self) -> None:
        bulk, measure, settle = _STAGES
        self._adapt_step(bulk)
        draws = self._adapt_step(measure)[measure // 5 :]
        pooled = draws.transpose(1, 0, 2).reshape(self.action.n_dim, -1)
        self._adapt_mass(pooled)
        self._adapt_step(settle)
        self._shorten_until_stable()
        self._reset_counts()

    def _shorten_until_stable(self) -> None:
        """A step that suits the bulk may be too long for steep tails: shorten it until no trajectory runs away."""
        for _ in range(_ATTEMPTS):
            self._reset_counts()
            for _ in range(_TRIAL):
                self._iterate()
            if self.n_divergent == 0:
                break
            self.step_size *= 0.8

    def _adapt_step(self, n_iterations: int) -> np.ndarray:
        """Dual averaging of ln ε towards the target acceptance; returns the states on the way."""
        anchor, mean_error, averaged = np.log(10 * self.step_size), 0.0, np.log(self.step_size)
        states = np.empty((n_iterations, *self.u.shape))
        for t in range(1, n_iterations + 1):
            accepted = self._iterate()
            mean_error += (_TARGET - accepted - mean_error) / (t + 10)
            log_step = anchor - np.sqrt(t) / 0.05 * mean_error
            averaged += t**-0.75 * (log_step - averaged)
            self.step_size = float(np.exp(np.clip(log_step, -30, 5)))
            states[t - 1] = self.u
        self.step_size = float(np.exp(averaged))
        return states

    def _adapt_mass(self, pooled: np.ndarray) -> None:
        """Inverse mass = covariance of the pooled draws, dense where that pays."""
        n_dim, n_pooled = pooled.shape
        shrink = n_pooled / (n_pooled + 5.0 * n_dim)
        covariance = np.atleast_2d(np.cov(pooled))
        scale = np.sqrt(np.diag(covariance)) + 1e-300
        correlation = shrink * covariance / np.outer(scale, scale) + (1 - shrink) * np.eye(n_dim)
        modes = np.linalg.eigvalsh(correlation)
        dense = bool(modes[-1] > _DENSE_ABOVE * modes[0]) and n_pooled > 20 * n_dim
        self._set_mass(correlation * np.outer(scale, scale), dense)
        self.path_length = 0.5 * np.pi * (1.0 if dense else np.sqrt(modes[-1]))
        self.step_size = min(self.step_size, 1.0)

    def _set_mass(self, covariance: np.ndarray, dense: bool) -> None:
        self.inverse_mass = np.ascontiguousarray(covariance) if dense else np.diag(covariance)[:, None].copy()
        self._momentum_root = np.linalg.inv(np.linalg.cholesky(covariance)).T if dense else self.inverse_mass**-0.5

    def _iterate(self) -> float:
        """One trajectory of every chain; returns the mean acceptance probability."""
        z = self.rng.normal(size=self.u.shape)
        dense = self.inverse_mass.shape[1] > 1
        p = self._momentum_root @ z if dense else self._momentum_root * z
        path = self.path_length * self.rng.uniform(*_JITTER)
        n_steps = int(np.clip(np.ceil(path / self.step_size), 1, _LONGEST))
        u, value, score = self.u.copy(), np.zeros(self.n_chains), self.score.copy()
        _kernels.leapfrog(self.action.polynomial, u, p, value, score, self.inverse_mass, self.step_size, n_steps)
        velocity = self.inverse_mass @ p if dense else self.inverse_mass * p
        with np.errstate(invalid="ignore", over="ignore"):
            gain = value - self.value + 0.5 * (np.sum(z * z, axis=0) - np.sum(p * velocity, axis=0))
        gain = np.where(np.isfinite(gain), gain, -np.inf)
        accept = np.log(self.rng.uniform(size=self.n_chains)) < gain
        np.copyto(self.u, u, where=accept)
        np.copyto(self.value, value, where=accept)
        np.copyto(self.score, score, where=accept)
        return self._count(gain, n_steps)

    def _count(self, gain: np.ndarray, n_steps: int) -> float:
        accepted = float(np.exp(np.minimum(gain, 0.0)).mean())
        self._iterations += 1
        self._accepted += accepted
        self.n_divergent += int(np.sum(gain < -_DIVERGENT))
        self.n_gradients += n_steps * self.n_chains
        return accepted

    def _reset_counts(self) -> None:
        self._iterations, self._accepted, self.n_divergent, self.n_gradients = 0, 0.0, 0, 0

    @property
    def n_trajectories(self) -> int:
        """Trajectories since warm-up, all chains."""
        return self._iterations * self.n_chains

    @property
    def acceptance(self) -> float:
        """Mean acceptance probability since warm-up."""
        return self._accepted / max(1, self._iterations)


def _reach(action: Action) -> np.ndarray:
    """How far along each variable S changes by half a nat: its standard deviation for a Gaussian, to a factor of 2."""
    steps = 2.0 ** np.arange(-120, 121)
    points = action.at + steps[:, None, None] * np.eye(action.n_dim)
    with np.errstate(over="ignore", invalid="ignore"):
        far = np.abs(action(points) - action(action.at)) >= 0.5
    return steps[np.where(far.any(axis=0), far.argmax(axis=0), 120)]
