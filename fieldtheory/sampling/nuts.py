"""The no-U-turn sampler: each chain finds the length of every trajectory by itself.

Chains have independent streams of random numbers, spawned from one seed, and share the frame and the step that warm-up found from all
of them. Chain by chain it makes fewer effective draws per second than HMC in lock step; it is for theories whose length scale changes
from place to place, where no one path length suits.
"""

from __future__ import annotations

import numpy as np

from ..action import Action
from ._nuts_kernel import Tree, transitions
from .adaptation import first_guess, shorten_until_stable, warm_up
from .walkers import Draws, Motion, Walkers


class NUTS:
    """Chains of one action.

    Parameters
    ----------
    action : Action
        Normalizable.
    n_chains : int
    rng : numpy.random.Generator
        Its children are the only source of randomness.

    Attributes
    ----------
    step_size : float
        Turn between two points of a trajectory, time in the frame.
    n_gradients : int
        Gradient evaluations so far, all chains.
    """

    def __init__(self, action: Action, n_chains: int, rng: np.random.Generator):
        self.action, self.n_chains, self.rngs = action, n_chains, rng.spawn(n_chains)
        self.step_size, self.n_gradients, guess = 0.1, 0, first_guess(action)
        self.walkers = [Walkers(action, guess, 2 * own.normal(size=(action.n_dim, 1))) for own in self.rngs]
        self.tree = Tree.blank(self.walkers[0].lanes)

    def warm_up(self, mass: str = "auto") -> NUTS:
        """Find the frame and the step; `mass` is auto, diagonal or dense."""
        warm_up(self, mass)
        shorten_until_stable(self)
        return self

    def fill(self, draws: Draws, interval: int = 1) -> float:
        """Overwrite `draws` with every `interval`-th state of what comes next; returns the mean acceptance probability."""
        for c, (walker, rng) in enumerate(zip(self.walkers, self.rngs)):
            x, *rest = draws
            self.n_gradients += transitions(walker.polynomial, walker.motion.frame, walker.lanes, self.tree, self.step_size, rng,
                                            interval, x[:, :, c], *(array[:, c] for array in rest))
        return float(draws.acceptance.mean())

    @property
    def motion(self) -> Motion:
        """The frame; path and jitter are not used."""
        return self.walkers[0].motion

    def reframe(self, motion: Motion) -> None:
        """Go on from the same points in another frame."""
        for walker in self.walkers:
            walker.reframe(motion)

    def state(self) -> dict:
        """Arrays and numbers from which `restore` goes on bit for bit."""
        y = np.concatenate([walker.lanes.y for walker in self.walkers], axis=1)
        return self.walkers[0].state() | {"y": y, "step_size": self.step_size, "n_gradients": self.n_gradients,
                                          "rngs": [rng.bit_generator.state for rng in self.rngs]}

    def restore(self, state: dict) -> None:
        """Take up what `state` returned."""
        self.step_size, self.n_gradients = state["step_size"], state["n_gradients"]
        for c, (walker, rng) in enumerate(zip(self.walkers, self.rngs)):
            walker.restore(state | {"y": np.ascontiguousarray(state["y"][:, [c]])})
            rng.bit_generator.state = state["rngs"][c]
