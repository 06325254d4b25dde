"""Hamiltonian Monte Carlo, all chains in lock step.

The density exp S(x) is extended by velocities; H = −S(x) + ½|v|², in the frame of `_motion_kernel`, is followed for a quarter period
and the end point is accepted with probability min(1, exp(−ΔH)) (S. Duane et al., Phys. Lett. B 195, 216 (1987)). Chains are lanes of
one array: whole trajectories of all of them, velocities and acceptance included, are one compiled loop.

A theory that is nearly Gaussian takes a single turn per draw: one evaluation of the score for a nearly independent draw.
"""

from __future__ import annotations

import numpy as np

from ..action import Action
from ._hmc_kernel import trajectories
from .adaptation import first_guess, shorten_until_stable, warm_up
from .walkers import Draws, Motion, Walkers

_ENOUGH = 0.9  # acceptance that makes a single turn worth while
_TRIAL = 2000  # trajectories that decide it


class HMC:
    """Chains of one action.

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
        Longest turn, time in the frame.
    single : bool
        Whether one turn covers the whole path.
    n_gradients : int
        Gradient evaluations so far, all chains.
    """

    def __init__(self, action: Action, n_chains: int, rng: np.random.Generator):
        self.action, self.n_chains, self.rng = action, n_chains, rng
        self.step_size, self.single, self.n_gradients = 0.1, False, 0
        self.walkers = Walkers(action, first_guess(action), 2 * rng.normal(size=(action.n_dim, n_chains)))

    def warm_up(self, mass: str = "auto") -> HMC:
        """Find the frame and the step; `mass` is auto, diagonal or dense."""
        warm_up(self, mass)
        shorten_until_stable(self)
        self._try_a_single_turn()
        return self

    def fill(self, draws: Draws, interval: int = 1) -> float:
        """Overwrite `draws` with every `interval`-th state of what comes next; returns the mean acceptance probability."""
        frame, path, jitter = self.walkers.motion
        self.n_gradients += self.n_chains * trajectories(self.walkers.polynomial, frame, self.walkers.lanes, path, jitter,
                                                         self.step_size, self.single, self.rng, interval, *draws)
        return float(draws.acceptance.mean())

    @property
    def motion(self) -> Motion:
        """Frame, path and jitter."""
        return self.walkers.motion

    def reframe(self, motion: Motion) -> None:
        """Go on from the same points in another frame."""
        self.walkers.reframe(motion)

    def state(self) -> dict:
        """Arrays and numbers from which `restore` goes on bit for bit."""
        return self.walkers.state() | {"step_size": self.step_size, "single": self.single, "n_gradients": self.n_gradients,
                                       "rng": self.rng.bit_generator.state}

    def restore(self, state: dict) -> None:
        """Take up what `state` returned."""
        self.walkers.restore(state)
        self.step_size, self.single, self.n_gradients = state["step_size"], state["single"], state["n_gradients"]
        self.rng.bit_generator.state = state["rng"]

    def _try_a_single_turn(self) -> None:
        draws = Draws.blank(1 + _TRIAL // self.n_chains, self.action.n_dim, self.n_chains)
        self.single = True
        self.single = self.fill(draws) > _ENOUGH and not draws.divergent.any()
