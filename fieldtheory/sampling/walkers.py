"""Where chains are, and what they leave behind."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..action import Action
from ._motion_kernel import Frame, Lanes, settle


class Motion(NamedTuple):
    """How chains move; found by warm-up.

    Attributes
    ----------
    frame : Frame
        Coordinates y in which the density is nearly a unit Gaussian.
    path : float
        Length of a trajectory, time in the frame.
    jitter : float
        Relative spread of the path; modes that have several frequencies need it, since a fixed length resonates.
    """

    frame: Frame
    path: float
    jitter: float


class Walkers:
    """Lanes of one action in a frame.

    Parameters
    ----------
    action : Action
    motion : Motion
    y : ndarray, shape (n_dim, n_lanes)
        Where they start, in the frame.

    Attributes
    ----------
    polynomial : Polynomial
        The action as the kernels read it.
    lanes : Lanes
        Their x is relative to the base point of the action.
    """

    def __init__(self, action: Action, motion: Motion, y: np.ndarray):
        self.polynomial, self.motion = action.polynomial, motion
        self.lanes = Lanes(np.ascontiguousarray(y), np.empty(y.shape), np.empty(y.shape), np.empty(y.shape[1]))
        self._settle()

    def reframe(self, motion: Motion) -> None:
        """Describe the lanes, where they are, in another frame."""
        mean, root = motion.frame
        self.motion, u = motion, self.lanes.x - mean
        self.lanes.y[:] = u / root if root.shape[1] == 1 else np.linalg.solve(root, u)
        self._settle()

    def state(self) -> dict:
        """All of it, as arrays and numbers."""
        return {"y": self.lanes.y, "mean": self.motion.frame.mean, "root": self.motion.frame.root, "path": self.motion.path,
                "jitter": self.motion.jitter}

    def restore(self, state: dict) -> None:
        """Take up what `state` returned, bit for bit."""
        self.motion = Motion(Frame(state["mean"], state["root"]), state["path"], state["jitter"])
        self.lanes = Lanes(state["y"].copy(), np.empty_like(state["y"]), np.empty_like(state["y"]), np.empty(state["y"].shape[1]))
        self._settle()

    def _settle(self) -> None:
        settle(self.polynomial, self.motion.frame, self.lanes, np.empty_like(self.lanes.y))


class Draws(NamedTuple):
    """What chains leave behind, by draw and chain, as the kernels fill it.

    Attributes
    ----------
    x : ndarray, shape (n_draws, n_dim, n_chains)
        Relative to the base point of the action.
    value : ndarray, shape (n_draws, n_chains)
        S(x) without its constant, nats.
    acceptance : ndarray, shape (n_draws, n_chains)
        Mean acceptance probability since the draw before.
    energy : ndarray, shape (n_draws, n_chains)
        H = −S + kinetic energy at the start of the last trajectory, nats.
    divergent : ndarray of int, shape (n_draws, n_chains)
        Trajectories since the draw before whose energy error exceeded 1,000 nats.
    """

    x: np.ndarray
    value: np.ndarray
    acceptance: np.ndarray
    energy: np.ndarray
    divergent: np.ndarray

    @classmethod
    def blank(cls, n_draws: int, n_dim: int, n_chains: int) -> Draws:
        """Room for draws."""
        value, acceptance, energy = np.zeros((3, n_draws, n_chains))
        return cls(np.zeros((n_draws, n_dim, n_chains)), value, acceptance, energy, np.zeros((n_draws, n_chains), np.int64))

    def part(self, start: int, stop: int) -> Draws:
        """Draws start … stop − 1; writing into them writes here."""
        return Draws(*(array[start:stop] for array in self))

    def by_chain(self) -> np.ndarray:
        """x of shape (n_chains, n_draws, n_dim)."""
        return self.x.transpose(2, 0, 1)
