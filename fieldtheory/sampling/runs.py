"""Long runs: in blocks, with progress, and with a checkpoint from which an interrupted run ends in the same draws.

A block is what runs without looking up, about half a second. The chains carry everything from one block to the next, so neither blocks
nor interruptions change a draw. A checkpoint holds the request, the state of the chains and the draws so far; it is written whole
or not at all, every `_EVERY` seconds, and removed when the run is complete.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .. import files
from ..action import Action
from ..errors import FileFormatError, InputError
from .walkers import Draws

_BLOCK = 0.5  # seconds without looking up
_EVERY = 20.0  # seconds between checkpoints
_KIND = "sampling checkpoint"


class Checkpoint:
    """A file that remembers an unfinished run, or nothing if there is no path.

    Parameters
    ----------
    path : path-like or None
    request : dict
        What was asked for; a checkpoint of another request is refused.

    Raises
    ------
    InputError
        The file belongs to another request.
    FileFormatError
        The file is damaged or no checkpoint.
    """

    def __init__(self, path, request: dict):
        self.path, self.request, self.found = None if path is None else Path(path), request, None
        self.extra: dict = {}
        if self.path is not None and self.path.exists():
            arrays, header = files.read(self.path, _KIND)
            self.found = self._checked(arrays, header)
            self.extra = header["extra"]

    def write(self, sampler, draws: Draws, done: int) -> None:
        """Remember the sampler and the first `done` draws."""
        state = sampler.state()
        arrays = {f"state_{k}": v for k, v in state.items() if isinstance(v, np.ndarray)}
        arrays |= {f"draws_{k}": np.ascontiguousarray(v) for k, v in draws.part(0, done)._asdict().items()}
        numbers = {k: v for k, v in state.items() if not isinstance(v, np.ndarray)}
        files.write(self.path, _KIND, arrays, {"request": self.request, "extra": self.extra, "state": numbers, "done": done})

    def resume(self, sampler, draws: Draws) -> int:
        """Bring sampler and draws to where they were; returns how many draws are done."""
        if self.found is None:
            return 0
        arrays, header = self.found
        sampler.restore({**header["state"], **{k[6:]: v for k, v in arrays.items() if k.startswith("state_")}})
        for name, array in draws.part(0, header["done"])._asdict().items():
            array[:] = arrays[f"draws_{name}"]
        return header["done"]

    def remove(self) -> None:
        """The run is complete."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _checked(self, arrays: dict, header: dict) -> tuple[dict, dict]:
        if not {"request", "extra", "state", "done"} <= set(header) or not isinstance(header["request"], dict):
            raise FileFormatError(f"{self.path} must hold a complete checkpoint, parts of it are missing; remove it to start anew.")
        for key, asked in self.request.items():
            if header["request"].get(key) != asked:
                raise InputError(f"checkpoint must belong to the same request, {self.path} was made with another {key}; ask for the "
                                 "same again or remove the file.")
        return arrays, header


def fingerprint(action: Action) -> str:
    """SHA-256 of what the kernels read of an action, and of its base point."""
    digest = hashlib.sha256(action.at.tobytes())
    for array in action.polynomial:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def run(sampler, n_draws: int, interval: int, checkpoint: Checkpoint, progress: bool) -> Draws:
    """Every `interval`-th state of the next ``n_draws * interval`` iterations."""
    draws = Draws.blank(n_draws, sampler.action.n_dim, sampler.n_chains)
    done, size, saved = checkpoint.resume(sampler, draws), 1, time.monotonic()
    with _bar(progress, n_draws, done) as advance:
        while done < n_draws:
            stop, began = min(done + size, n_draws), time.monotonic()
            sampler.fill(draws.part(done, stop), interval)
            advance(stop - done)
            done, now = stop, time.monotonic()
            size = 2 * size if now - began < 0.5 * _BLOCK else max(1, size // 2) if now - began > 2 * _BLOCK else size
            if checkpoint.path is not None and now - saved >= _EVERY and done < n_draws:
                checkpoint.write(sampler, draws, done)
                saved = time.monotonic()
    checkpoint.remove()
    return draws


@contextmanager
def _bar(progress: bool, total: int, done: int) -> Iterator:
    """A function to tell of draws made; it draws a bar on stderr if asked."""
    if not progress:
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=done, desc="sampling", unit="draw") as bar:
        yield bar.update
