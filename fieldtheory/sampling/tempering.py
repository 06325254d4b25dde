"""Parallel tempering, for actions with several modes.

Each chain runs replicas with densities exp β_k S on a ladder 1 = β_0 > … > β_{R−1}; the hot ones cross the barriers, and exchanges
carry that down to β = 1. Towards small β a polynomial action is ruled by its leading order, whatever its modes, so the ladder only
has to reach a β at which the barrier is about one nat.

With r_k the share of exchanges refused between neighbours, Λ = Σ r_k hardly depends on the ladder: it is the barrier that the ladder
itself sets. The best ladder has r_k equal, and R ≈ 2Λ + 1 replicas make the most round trips per cost (S. Syed et al., J. R. Stat.
Soc. B 84, 321 (2022)); warm-up measures Λ(β) and builds that ladder.
"""

from __future__ import annotations

import numpy as np

from ..action import Action
from ._tempering_kernel import tempered
from .adaptation import first_guess, shorten_until_stable, warm_up
from .walkers import Draws, Motion, Walkers

_FIRST, _MOST = 8, 64  # replicas per chain: to begin with, and at most
_ROUNDS, _ITERATIONS = 4, 100  # of the search for the ladder


class Tempering:
    """Chains of one action, each with a ladder of replicas, all in lock step.

    Parameters
    ----------
    action : Action
        Normalizable.
    n_chains : int
    rng : numpy.random.Generator
        The only source of randomness.
    hottest : float
        β of the last replica.

    Attributes
    ----------
    betas : ndarray, shape (R,)
        The ladder, descending from 1.
    n_round_trips : int
        Replicas that came back to β = 1 from the hot end since warm-up, all chains.
    step_size : float
        Longest turn, time in the frame.
    n_gradients : int
        Gradient evaluations so far, all replicas of all chains.
    """

    def __init__(self, action: Action, n_chains: int, rng: np.random.Generator, hottest: float = 0.05):
        self.action, self.n_chains, self.rng, self.betas = action, n_chains, rng, np.geomspace(1, hottest, _FIRST)
        self.step_size, self.n_gradients = 0.1, 0
        n_lanes = n_chains * _FIRST
        self.walkers = Walkers(action, first_guess(action), 2 * rng.normal(size=(action.n_dim, n_lanes)))
        self._lane = np.arange(n_lanes).reshape(n_chains, _FIRST)
        self._reset_counts()

    def warm_up(self, mass: str = "auto") -> Tempering:
        """Find the frame, the step and the ladder; `mass` is auto, diagonal or dense."""
        warm_up(self, mass)
        draws = Draws.blank(_ITERATIONS, self.action.n_dim, self.n_chains)
        for _ in range(_ROUNDS):
            self._reset_counts()
            self.fill(draws)
            self._climb(even_ladder(self.betas, 1 - self.swap_rates))
        warm_up(self, mass)
        shorten_until_stable(self)
        self._reset_counts()
        return self

    def fill(self, draws: Draws, interval: int = 1) -> float:
        """Overwrite `draws` with every `interval`-th state at β = 1; returns the lowest mean acceptance probability of all β."""
        frame, path, jitter = self.walkers.motion
        met, iterations = np.zeros(self.betas.size), len(draws.value) * interval
        n_turns = tempered(self.walkers.polynomial, frame, self.walkers.lanes, self.betas, self._lane, self._was_hot, path, jitter,
                           self.step_size, False, self.rng, interval, self._clock % 2, *draws, met, self._swaps, self._trips)
        self.n_gradients += n_turns * self._lane.size
        self._clock += iterations
        return float(met.min()) / (iterations * self.n_chains)

    @property
    def swap_rates(self) -> np.ndarray:
        """Mean acceptance probability of exchanges between neighbours since warm-up, shape (R − 1,)."""
        offered = (self._clock + 1 - np.arange(self.betas.size - 1) % 2) // 2 * self.n_chains
        return self._swaps / np.maximum(1, offered)

    @property
    def n_round_trips(self) -> int:
        """Of replicas, since warm-up."""
        return int(self._trips[0])

    @property
    def motion(self) -> Motion:
        """Frame, path and jitter."""
        return self.walkers.motion

    def reframe(self, motion: Motion) -> None:
        """Go on from the same points in another frame."""
        self.walkers.reframe(motion)

    def state(self) -> dict:
        """Arrays and numbers from which `restore` goes on bit for bit."""
        return self.walkers.state() | {
            "step_size": self.step_size, "n_gradients": self.n_gradients, "rng": self.rng.bit_generator.state, "betas": self.betas,
            "lane": self._lane, "was_hot": self._was_hot.astype(np.int64), "clock": self._clock, "swaps": self._swaps, "trips": self._trips}

    def restore(self, state: dict) -> None:
        """Take up what `state` returned."""
        self.walkers.restore(state)
        self.step_size, self.n_gradients, self._clock = state["step_size"], state["n_gradients"], state["clock"]
        self.betas, self._lane, self._was_hot = state["betas"], state["lane"].copy(), state["was_hot"].astype(bool)
        self._swaps, self._trips = state["swaps"].copy(), state["trips"].copy()
        self.rng.bit_generator.state = state["rng"]

    def _climb(self, betas: np.ndarray) -> None:
        """Go on with another ladder: each new replica starts where one of the nearest old β stands."""
        nearest = np.abs(np.log(betas[:, None] / self.betas)).argmin(axis=1)
        y = self.walkers.lanes.y[:, self._lane[:, nearest].ravel()]
        self.betas, self._lane = betas, np.arange(self.n_chains * betas.size).reshape(self.n_chains, betas.size)
        self.walkers.restore(self.walkers.state() | {"y": np.ascontiguousarray(y)})
        self._reset_counts()

    def _reset_counts(self) -> None:
        self._clock, self._was_hot = 0, np.zeros(self._lane.size, bool)
        self._swaps, self._trips = np.zeros(self.betas.size - 1), np.zeros(1, np.int64)


def even_ladder(betas: np.ndarray, refused: np.ndarray) -> np.ndarray:
    """A ladder between the same ends whose neighbours refuse equal shares of exchanges, with about 2Λ + 1 replicas.

    Parameters
    ----------
    betas : ndarray, shape (R,)
        Descending.
    refused : ndarray, shape (R − 1,)
        Share of exchanges refused between neighbours.
    """
    barrier = np.concatenate([[0.0], np.cumsum(np.clip(refused, 1e-3, None))])
    count = int(np.clip(np.ceil(2 * barrier[-1]) + 1, 2, _MOST))
    return np.exp(np.interp(np.linspace(0, barrier[-1], count), barrier, np.log(betas)))
