"""The training loop.

Adam (D. Kingma and J. Ba, arXiv:1412.6980) with β = 0.9, 0.99, 3 % warm-up and a cosine to zero, gradients clipped, a tenth of the
samples set aside for validation, the weights with the best validation loss kept:

    m ← m + (1 − β_1)(g − m),   v ← v + (1 − β_2)(g² − v),   w ← w − η_t/(1 − β_1^t) · m/(√(v/(1 − β_2^t)) + 10^{-8}).

The recipe reached the statistical floor on quadratic teachers; a ten times smaller rate, or a start at the identity, lost a factor
of ten in excess loss.

Several starts are trained at once: every weight has a leading axis of starts, and the loss is one number per start. Steps on small
models cost what their calls cost, so that three starts take little longer than one. A start that diverges takes no other with it.

Batches follow a permutation of the training samples that is drawn anew for each epoch from (seed, epoch). Nothing else is random,
so a checkpoint needs only the step, the weights and the moments m, v, and a resumed fit ends in the same numbers as an
uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fieldtheory import files
from fieldtheory.arrays import as_count
from fieldtheory.errors import FieldTheoryError, FileFormatError, InputError

from .data import fingerprint

Weights = dict[str, Tensor]

_VALIDATION_SHARE = 0.1
_LARGEST_VALIDATION = 20_000
_VALIDATE_EVERY = 100
_CHECKPOINT_EVERY = 1000
_WARM_UP = 0.03
_CLIP = 10.0
_BETA = (0.9, 0.99)


class TrainingError(FieldTheoryError):
    """A fit that cannot go on: the loss or its gradient is not finite."""


class Training:
    """One fit: `run` goes through the steps, `best` is what it has found, also when `run` was interrupted.

    Parameters
    ----------
    loss : callable
        ``loss(weights, batch)``, shape (n_starts,): mean loss of each start, in nats per dimension. Differentiable.
    weights : dict of str to Tensor
        Where the starts begin, each with a leading axis of starts; not modified.
    points : ndarray of float64, shape (n_samples, n_varying)
    seed : int
        Of the validation split and the batches.
    n_steps, batch_size : int
        A batch is never larger than the training set.
    learning_rate : float
        At its highest.
    patience : int, optional
        Stop after so many steps in which no start got a better validation loss; by default never, as the best weights are kept
        and the rate has to fall for the best ones.
    checkpoint : path-like, optional
        Written every thousand steps. If it exists, the fit resumes from it; it is removed when the fit is complete.
    locate : callable, optional
        ``locate(weights, batch)`` names the part of the model that is not finite.

    Raises
    ------
    InputError
        Numbers out of range.
    FileFormatError
        The checkpoint belongs to other samples or settings.
    """

    def __init__(self, loss: Callable[[Weights, Tensor], Tensor], weights: Weights, points: np.ndarray, *, seed: int = 0,
                 n_steps: int = 10_000, batch_size: int = 256, learning_rate: float = 1e-2, patience: int | None = None,
                 checkpoint=None, locate: Callable[[Weights, Tensor], str] = lambda weights, batch: "the model"):
        if not 0 < learning_rate < math.inf:
            raise InputError(f"learning_rate must be a positive number, got {learning_rate!r}.")
        self.loss, self.locate, self.learning_rate = loss, locate, learning_rate
        self.seed, self.n_steps = as_count(seed, "seed", minimum=0), as_count(n_steps, "n_steps")
        self.patience = self.n_steps if patience is None else as_count(patience, "patience")
        self._shapes = {name: value.shape for name, value in weights.items()}
        self.now = torch.cat([value.detach().flatten(1) for value in weights.values()], dim=1)
        self.weights = {name: value.requires_grad_() for name, value in self._views(self.now).items()}
        self.first, self.second, self.best_weights = torch.zeros_like(self.now), torch.zeros_like(self.now), self.now.clone()
        self.training, self.validation = self._split(points)
        self.batch_size = min(as_count(batch_size, "batch_size"), len(self.training))
        self.step, self.best_step = 0, 0
        self.best_loss = np.full(len(self.now), np.inf)
        self.records: list[np.ndarray] = []
        self.settings = {"seed": self.seed, "n_steps": self.n_steps, "batch_size": self.batch_size, "learning_rate": learning_rate,
                         "patience": self.patience, "samples": fingerprint(points),
                         "shapes": {name: list(shape) for name, shape in self._shapes.items()}}
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        if self.checkpoint is not None and self.checkpoint.exists():
            self._resume()

    def run(self, progress: bool = False) -> None:
        """Go through the steps that are left, on one thread of the CPU: the calls are too small to share.

        Raises
        ------
        TrainingError
            No start has a finite loss.
        """
        batches, began = self._batches(), time.perf_counter() - (self.records[-1][1] if self.records else 0.0)
        with _one_thread(), tqdm(total=self.n_steps, initial=self.step, desc="fit", disable=not progress, leave=False) as bar:
            while self.step < self.n_steps and self.step - self.best_step <= self.patience:
                losses = self._advance(next(batches))
                bar.update()
                if self.step % _VALIDATE_EVERY == 0 or self.step == self.n_steps:
                    self._validate(losses, time.perf_counter() - began)
                    bar.set_postfix(validation=f"{self.best_loss.min():.4f}", refresh=False)
                if self.checkpoint is not None and self.step % _CHECKPOINT_EVERY == 0:
                    self._save()
        if self.checkpoint is not None:
            self.checkpoint.unlink(missing_ok=True)

    def best(self) -> tuple[Weights, dict[str, list]]:
        """Weights with the best validation loss, and the history of their start.

        Returns
        -------
        weights : dict of str to Tensor
            Without the axis of starts.
        history : dict of str to list
            step, seconds, learning_rate, train and validation (nats per dimension), one entry per validation; and starts, the best
            validation loss of each start, None if it diverged.
        """
        chosen = int(np.argmin(self.best_loss))
        rows = np.reshape(self.records, (-1, 3 + 2 * self.best_loss.size))
        train, validation = rows[:, 3 + chosen], rows[:, 3 + self.best_loss.size + chosen]
        history = {"step": rows[:, 0].astype(int).tolist(), "seconds": rows[:, 1].tolist(), "learning_rate": rows[:, 2].tolist(),
                   "train": train.tolist(), "validation": validation.tolist(),
                   "starts": [float(v) if math.isfinite(v) else None for v in self.best_loss]}
        return {name: value[chosen].clone() for name, value in self._views(self.best_weights).items()}, history

    def _views(self, flat: Tensor) -> Weights:
        """Weights by name, sharing memory with the flat array of them, shape (n_starts, n_weights)."""
        parts = flat.split([math.prod(shape[1:]) for shape in self._shapes.values()], dim=1)
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts)}

    def _split(self, points: np.ndarray) -> tuple[Tensor, Tensor]:
        """Training and validation points, where the weights are."""
        n_validation = min(max(1, round(_VALIDATION_SHARE * len(points))), _LARGEST_VALIDATION)
        shuffled = torch.from_numpy(points[np.random.default_rng([self.seed, 0]).permutation(len(points))]).to(self.now.device)
        return shuffled[n_validation:], shuffled[:n_validation]

    def _batches(self) -> Iterator[Tensor]:
        per_epoch = len(self.training) // self.batch_size
        epoch, first = divmod(self.step, per_epoch)
        while True:
            order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.training))
            shuffled = self.training[torch.from_numpy(order).to(self.training.device)]
            yield from shuffled[: per_epoch * self.batch_size].split(self.batch_size)[first:]
            epoch, first = epoch + 1, 0

    def _advance(self, batch: Tensor) -> Tensor:
        """One step of every start; returns the losses before it."""
        losses = self.loss(self.weights, batch)
        gradients = torch.autograd.grad(losses.sum(), list(self.weights.values()))
        gradient = torch.cat([g.flatten(1) for g in gradients], dim=1)
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        if not torch.isfinite(norm).any():
            raise TrainingError(f"the loss must stay finite, after step {self.step} it or its gradient is not, in "
                                f"{self.locate(self.weights, batch)}; the best weights so far (step {self.best_step}) are kept. "
                                "Lower learning_rate or look for outliers.")
        self._adam(gradient * (_CLIP / norm).clamp(max=1.0))
        return losses.detach()

    def _adam(self, g: Tensor) -> None:
        rate = self._rate()
        self.step += 1
        self.first.lerp_(g, 1 - _BETA[0])
        self.second.lerp_(g.square(), 1 - _BETA[1])
        scale = (self.second / (1 - _BETA[1] ** self.step)).sqrt_().add_(1e-8)
        self.now.addcdiv_(self.first, scale, value=-rate / (1 - _BETA[0] ** self.step))

    def _rate(self) -> float:
        """Learning rate: linear warm-up, then a cosine to zero."""
        warm_up = max(1, round(_WARM_UP * self.n_steps))
        if self.step < warm_up:
            return self.learning_rate * (self.step + 1) / warm_up
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (self.step - warm_up) / max(1, self.n_steps - warm_up)))

    def _validate(self, train: Tensor, seconds: float) -> None:
        with torch.no_grad():
            losses = self.loss(self.weights, self.validation).cpu().numpy()
        self.records.append(np.concatenate([[self.step, seconds, self._rate()], train.cpu().numpy(), losses]))
        better = losses < self.best_loss
        if better.any():
            self.best_step = self.step
            self.best_loss[better] = losses[better]
            self.best_weights[better] = self.now[better]

    def _save(self) -> None:
        tensors = {name: value.cpu().numpy() for name, value in self._state().items()}
        files.write(self.checkpoint, "checkpoint", {**tensors, "best_loss": self.best_loss, "records": np.array(self.records)},
                    {"settings": self.settings, "step": self.step, "best_step": self.best_step})

    def _resume(self) -> None:
        arrays, header = files.read(self.checkpoint, "checkpoint")
        if header.get("settings") != self.settings:
            raise FileFormatError(f"{self.checkpoint} must belong to this fit, it was written with other samples or settings; "
                                  "remove it or choose another checkpoint.")
        self.step, self.best_step = header["step"], header["best_step"]
        self.best_loss, self.records = arrays["best_loss"].copy(), list(arrays["records"])
        for name, value in self._state().items():
            value.copy_(torch.from_numpy(arrays[name]))

    def _state(self) -> Weights:
        return {"now": self.now, "first": self.first, "second": self.second, "best": self.best_weights}


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
