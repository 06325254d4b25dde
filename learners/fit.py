"""The training loop.

Adam (β = 0.9, 0.99) with 3 % warm-up and a cosine to zero, gradients clipped, a tenth of the samples set aside for validation, the
weights with the best validation loss kept. The recipe reached the statistical floor on quadratic teachers; a ten times smaller
rate, or a start at the identity, lost a factor of ten in excess loss.

Batches follow a permutation of the training samples that is drawn anew for each epoch from (seed, start, epoch). Nothing else is
random, so a checkpoint needs only the step, the weights and the optimizer's moments, and a resumed fit ends in the same numbers
as an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fieldtheory import files
from fieldtheory.arrays import as_count
from fieldtheory.errors import FieldTheoryError, FileFormatError, InputError

from .data import fingerprint

_VALIDATION_SHARE = 0.1
_VALIDATE_EVERY = 100
_WARM_UP = 0.03
_CLIP = 10.0
_LARGEST_VALIDATION = 20_000


class TrainingError(FieldTheoryError):
    """A fit that cannot go on: the loss or a gradient is not finite."""


@dataclass
class _Run:
    """One start: where it is, its best weights and what it recorded."""

    start: int
    step: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    history: dict[str, list] = field(default_factory=lambda: {"step": [], "train": [], "validation": [], "seconds": []})


def maximize_likelihood(module, points: np.ndarray, start: Callable, loss: Callable[..., Tensor], *, seed: int = 0,
                        n_steps: int = 10_000, n_starts: int = 1, batch_size: int = 256, learning_rate: float = 1e-2,
                        patience: int | None = None, progress: bool = False, checkpoint=None) -> None:
    """Minimize ``loss(module, batch)`` over the module's weights.

    Parameters
    ----------
    module : torch module
        Left with the best weights of the best start; its `history` is that start's.
    points : ndarray of float64, shape (n_samples, n_varying)
    start : callable
        ``start(points, rng)`` sets the initial weights.
    loss : callable
        Mean loss of a batch, nats per dimension.
    seed, n_steps, n_starts, batch_size, learning_rate : numbers
        A batch is never larger than the training set.
    patience : int, optional
        Stop a start after so many steps without a better validation loss; by default a third of `n_steps`.
    progress : bool
        Show a bar on the error stream.
    checkpoint : path-like, optional
        Written every thousand steps and when interrupted; if it exists, the fit resumes from it and removes it at the end.

    Raises
    ------
    InputError
        Numbers out of range.
    TrainingError
        The loss is not finite; the best weights so far are in the module.
    FileFormatError
        The checkpoint belongs to other samples or settings.
    """
    for name, value in (("n_steps", n_steps), ("n_starts", n_starts), ("batch_size", batch_size)):
        as_count(value, name)
    if not 0 < learning_rate < math.inf:
        raise InputError(f"learning_rate must be a positive number, got {learning_rate!r}.")
    trainer = _Trainer(module, points, start, loss, seed, n_steps, min(batch_size, len(points)), learning_rate,
                       patience or max(1, n_steps // 3), None if checkpoint is None else Path(checkpoint))
    trainer.run(n_starts, progress)


class _Trainer:
    """Everything one fit needs to know; `run` is the loop over starts, `_advance` the loop over steps."""

    def __init__(self, module, points, start, loss, seed, n_steps, batch_size, learning_rate, patience, checkpoint):
        self.module, self.points, self.start, self.loss = module, points, start, loss
        self.seed, self.n_steps, self.batch_size = seed, n_steps, batch_size
        self.learning_rate, self.patience, self.checkpoint = learning_rate, patience, checkpoint
        chosen = np.random.default_rng([seed, 0]).permutation(len(points))
        n_validation = min(max(1, round(_VALIDATION_SHARE * len(points))), _LARGEST_VALIDATION)
        device = next(module.parameters()).device
        self.validation = torch.as_tensor(points[chosen[:n_validation]], device=device)
        self.training = torch.as_tensor(points[chosen[n_validation:]], device=device)
        self.batch_size = min(batch_size, len(self.training))
        self.parameters: list[Tensor] = []

    def run(self, n_starts: int, progress: bool) -> None:
        finished, current = self._resume()
        try:
            with tqdm(total=n_starts * self.n_steps, desc="fit", disable=not progress, leave=False) as bar:
                for start in range(len(finished), n_starts):
                    current = current or self._begin(start)
                    self._advance(current, finished, bar)
                    finished.append(current)
                    current = None
        finally:
            runs = [*finished, *([current] if current and current.best else [])]
            if runs:
                best = min(runs, key=lambda run: run.best_loss)
                self.module.load_state_dict(best.best)
                self.module.history = best.history
        if self.checkpoint is not None:
            self.checkpoint.unlink(missing_ok=True)

    def _begin(self, start: int) -> _Run:
        self.start(self.points, np.random.default_rng([self.seed, 1, start]))
        self._new_optimizer()
        return _Run(start)

    def _new_optimizer(self) -> None:
        self.parameters = list(self.module.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.learning_rate, betas=(0.9, 0.99), fused=True)

    def _advance(self, run: _Run, finished: list[_Run], bar) -> None:
        batches, began = self._batches(run), time.perf_counter()
        earlier = run.history["seconds"][-1] if run.history["seconds"] else 0.0
        try:
            while run.step < self.n_steps and run.step - run.best_step <= self.patience:
                value = self._step(run, next(batches))
                run.step += 1
                bar.update()
                if run.step % _VALIDATE_EVERY == 0 or run.step == self.n_steps:
                    self._validate(run, value, earlier + time.perf_counter() - began)
                    bar.set_postfix(validation=f"{run.best_loss:.4f}", refresh=False)
                if run.step % (10 * _VALIDATE_EVERY) == 0:
                    self._save(run, finished)
        except KeyboardInterrupt:
            self._save(run, finished)
            raise

    def _batches(self, run: _Run):
        per_epoch = len(self.training) // self.batch_size
        epoch, first = divmod(run.step, per_epoch)
        while True:
            order = np.random.default_rng([self.seed, 2, run.start, epoch]).permutation(len(self.training))
            shuffled = self.training[torch.from_numpy(order).to(self.training.device)]
            for i in range(first, per_epoch):
                yield shuffled[i * self.batch_size : (i + 1) * self.batch_size]
            epoch, first = epoch + 1, 0

    def _step(self, run: _Run, batch: Tensor) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * _schedule(run.step, self.n_steps)
        self.optimizer.zero_grad(set_to_none=True)
        value = self.loss(self.module, batch)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, _CLIP)
        if not torch.isfinite(norm):
            self._refuse(run)
        self.optimizer.step()
        return value.detach()

    def _refuse(self, run: _Run) -> None:
        layer = next((name for name, p in self.module.named_parameters() if not torch.isfinite(p.grad).all()), "the loss")
        raise TrainingError(f"the loss must stay finite, it or its gradient in {layer} is not after step {run.step} of start "
                            f"{run.start}; the best weights so far (step {run.best_step}) are kept. Lower learning_rate or look "
                            "for outliers.")

    def _validate(self, run: _Run, train: Tensor, seconds: float) -> None:
        with torch.no_grad():
            value = float(self.loss(self.module, self.validation))
        for name, entry in zip(run.history, (run.step, float(train), value, seconds)):
            run.history[name].append(entry)
        if value < run.best_loss:
            run.best_loss, run.best_step = value, run.step
            run.best = {name: p.detach().clone() for name, p in self.module.state_dict().items()}

    def _settings(self) -> dict:
        return {"seed": self.seed, "n_steps": self.n_steps, "batch_size": self.batch_size, "learning_rate": self.learning_rate,
                "patience": self.patience, "samples": fingerprint(self.points)}

    def _save(self, run: _Run, finished: list[_Run]) -> None:
        if self.checkpoint is None:
            return
        arrays = {f"now.{name}": p.detach().cpu().numpy() for name, p in self.module.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            arrays |= {f"adam.{i}.{name}": np.asarray(value.cpu()) for name, value in state.items()}
        for other in [*finished, run]:
            arrays |= {f"best.{other.start}.{name}": p.cpu().numpy() for name, p in other.best.items()}
        runs = [{"start": r.start, "step": r.step, "best_step": r.best_step, "history": r.history,
                 "best_loss": None if math.isinf(r.best_loss) else r.best_loss} for r in [*finished, run]]
        files.write(self.checkpoint, "checkpoint", arrays, {"settings": self._settings(), "runs": runs})

    def _resume(self) -> tuple[list[_Run], _Run | None]:
        if self.checkpoint is None or not self.checkpoint.exists():
            return [], None
        arrays, header = files.read(self.checkpoint, "checkpoint")
        if header.get("settings") != self._settings():
            raise FileFormatError(f"{self.checkpoint} must belong to this fit, it was written with other samples or settings; "
                                  "remove it or choose another checkpoint.")
        runs = [_Run(r["start"], r["step"], math.inf if r["best_loss"] is None else r["best_loss"], r["best_step"],
                     _tensors(arrays, f"best.{r['start']}."), r["history"]) for r in header["runs"]]
        self.module.load_state_dict(_tensors(arrays, "now."))
        self._new_optimizer()
        state = self.optimizer.state_dict()
        count = len(state["param_groups"][0]["params"])
        state["state"] = {i: _tensors(arrays, f"adam.{i}.") for i in range(count)}
        self.optimizer.load_state_dict(state)
        return runs[:-1], runs[-1]


def _tensors(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): torch.from_numpy(a.copy()) for name, a in arrays.items() if name.startswith(prefix)}


def _schedule(step: int, n_steps: int) -> float:
    """Share of the learning rate: linear warm-up, then a cosine to zero."""
    warm_up = max(1, round(_WARM_UP * n_steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, n_steps - warm_up)))
