"""The training loop.

Adam (D. Kingma and J. Ba, arXiv:1412.6980) with β = 0.9, 0.99, 3 % warm-up and a cosine to zero, gradients clipped, a tenth of the
samples set aside for validation, the weights with the best validation loss kept:

    m ← m + (1 − β_1)(g − m),   v ← v + (1 − β_2)(g² − v),   w ← w − η_t/(1 − β_1^t) · m/(√(v/(1 − β_2^t)) + 10^{-8}).

The recipe reached the statistical floor on quadratic teachers; a ten times smaller rate, or a start at the identity, lost a factor
of ten in excess loss.

All weights lie in one array with one row per start, so that an optimizer step is a handful of calls whatever the model. The model is a
function of weights with a leading axis of starts, all of which go through each call together, or a list of torch modules, one per
start, whose parameters become views of the rows. A start that diverges takes no other with it.

Nothing is random but the batches, drawn from (seed, epoch), and what a loss may draw from a generator that is seeded from
(seed, step). So a checkpoint needs only the step, the weights and the moments m, v, and a resumed fit ends in the same numbers as an
uninterrupted one.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from fieldtheory import files
from fieldtheory.arrays import as_count
from fieldtheory.errors import FieldTheoryError, FileFormatError, InputError

from .batches import Batches
from .parallel import Processes
from .samples import HeldSamples, Samples

Weights = dict[str, Tensor]

PRECISIONS = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.float32}

_VALIDATE_EVERY = 100
_VALIDATE_TOGETHER = 4096
_WARM_UP = 0.03
_BETA = (0.9, 0.99)


class TrainingError(FieldTheoryError):
    """A fit that cannot go on: the loss or its gradient is not finite."""


class Training:
    """One fit: `run` goes through the steps, `best` is what it has found, also when `run` was interrupted.

    Under torchrun every process makes the same call; each sees its share of every batch (`learners.parallel`).

    Parameters
    ----------
    loss : callable
        ``loss(weights, batch)``, shape (n_starts,): mean loss of each start, in nats per dimension. Differentiable.
    weights : dict of str to Tensor
        Where the starts begin, each with a leading axis of starts; not modified.
    points : ndarray of float64, shape (n_samples, n_varying), HeldSamples or MappedSamples
    seed : int
        Of the validation split and the batches.
    n_steps, batch_size : int
        A batch is never larger than the training set.
    learning_rate : float
        At its highest.
    patience : int, optional
        Stop after so many steps in which no start got a better validation loss; by default never, as the best weights are kept
        and the rate has to fall for the best ones.
    clip : float
        Largest norm of the gradient of a start.
    average : float, optional
        Validate, and keep, the exponential moving average w̄ ← average·w̄ + (1 − average)·w of the weights instead of them.
    precision : {"float64", "float32", "bfloat16"}
        Of weights and arithmetic; with ``bfloat16`` weights are float32 and matrix products take place in bfloat16.
    n_threads : int, optional
        Of the CPU. One by default: most calls are too small to share; None leaves torch's setting.
    checkpoint : path-like, optional
        Written every `checkpoint_every` steps. If it exists, the fit resumes from it; it is removed when the fit is complete.
    checkpoint_every : int
    locate : callable, optional
        ``locate(weights, batch)`` names the part of the model that is not finite.
    generator : torch.Generator, optional
        The one that the loss draws from.

    Raises
    ------
    InputError
        Numbers out of range.
    FileFormatError
        The checkpoint is damaged, or belongs to other samples or settings.
    """

    def __init__(self, loss: Callable[[Weights, Tensor], Tensor], weights: Weights, points: np.ndarray | Samples, *,
                 seed: int = 0, n_steps: int = 10_000, batch_size: int = 256, learning_rate: float = 1e-2, patience: int | None = None,
                 clip: float = 10.0, average: float | None = None, precision: str = "float64", n_threads: int | None = 1,
                 checkpoint=None, checkpoint_every: int = 1000,
                 locate: Callable[[Weights, Tensor], str] = lambda weights, batch: "the model",
                 generator: torch.Generator | None = None):
        self.loss, self.locate, self.generator = loss, locate, generator
        self.learning_rate, self.clip = _positive(learning_rate, "learning_rate"), _positive(clip, "clip")
        self.average, self.precision = _share(average), _known(precision)
        self.seed, self.n_steps = as_count(seed, "seed", minimum=0), as_count(n_steps, "n_steps")
        self.patience = self.n_steps if patience is None else as_count(patience, "patience")
        self.n_threads = None if n_threads is None else as_count(n_threads, "n_threads")
        self._shapes = {name: value.shape for name, value in weights.items()}
        self.now = torch.cat([value.detach().flatten(1) for value in weights.values()], dim=1).to(PRECISIONS[precision])
        self.weights = {name: value.requires_grad_() for name, value in self._views(self.now).items()}
        self._leaves = [list(self.weights.values())]
        self.first, self.second, self.best_weights = torch.zeros_like(self.now), torch.zeros_like(self.now), self.now.clone()
        self.mean_weights = None if average is None else self.now.clone()
        self.modules: Sequence[nn.Module] = ()
        self.processes = Processes.joined()
        points = HeldSamples(points) if isinstance(points, np.ndarray) else points
        self.batches = Batches(points, self.seed, as_count(batch_size, "batch_size", self.processes.count), self.now, self.processes)
        self.step, self.best_step = 0, 0
        self.best_loss = np.full(len(self.now), np.inf)
        self.records: list[np.ndarray] = []
        self.settings = {"seed": self.seed, "n_steps": self.n_steps, "batch_size": self.batches.batch_size, "patience": self.patience,
                         "learning_rate": learning_rate, "clip": clip, "average": average, "precision": precision,
                         "samples": points.fingerprint,
                         "shapes": {name: list(shape) for name, shape in self._shapes.items()}}
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.checkpoint_every, self._saved_step = as_count(checkpoint_every, "checkpoint_every"), None
        if self.checkpoint is not None and self.checkpoint.exists():
            self._resume()

    @classmethod
    def of_modules(cls, loss: Callable[[nn.Module, Tensor], Tensor], modules: Sequence[nn.Module],
                   points: np.ndarray | Samples, **settings) -> Training:
        """A fit of any torch module.

        Parameters
        ----------
        loss : callable
            ``loss(module, batch)``, a scalar: mean loss in nats per dimension.
        modules : sequence of Module
            Of one architecture, one per start. They are trained in place: their parameters always are the present weights.
        points, **settings
            As of the class.
        """
        trained = [name for name, parameter in modules[0].named_parameters() if parameter.requires_grad]
        for module in modules:
            module.to(PRECISIONS[_known(settings.get("precision", "float64"))])
        weights = {name: torch.stack([module.get_parameter(name).detach() for module in modules]) for name in trained}
        training = cls(lambda _, batch: torch.stack([loss(module, batch) for module in modules]), weights, points, **settings)
        training.modules, training._leaves = modules, [[module.get_parameter(name) for name in trained] for module in modules]
        for leaves, views in zip(training._leaves, zip(*training.weights.values())):
            for leaf, view in zip(leaves, views):
                leaf.data = view.detach()
        return training

    def run(self, progress: bool = False, callback: Callable[[int], None] | None = None, callback_every: int = 100) -> None:
        """Go through the steps that are left.

        Parameters
        ----------
        progress : bool
            Show a bar.
        callback : callable, optional
            ``callback(step)`` at step 0, every `callback_every` steps and after the last one; in the first process only.
        callback_every : int

        Raises
        ------
        TrainingError
            No start has a finite loss.
        """
        batches, began = self.batches.after(self.step), time.perf_counter() - (self.records[-1][1] if self.records else 0.0)
        callback_every, first = as_count(callback_every, "callback_every"), self.processes.rank == 0
        with _threads(self.n_threads), tqdm(total=self.n_steps, initial=self.step, desc="fit", disable=not (progress and first),
                                            leave=False) as bar:
            if callback and first and self.step == 0:
                callback(0)
            while self.step < self.n_steps and self.step - self.best_step <= self.patience:
                losses = self._advance(next(batches))
                bar.update()
                if self.step % _VALIDATE_EVERY == 0 or self.step == self.n_steps:
                    self._validate(losses, time.perf_counter() - began)
                    bar.set_postfix(validation=f"{self.best_loss.min():.4f}", refresh=False)
                if self.checkpoint is not None and self.step % self.checkpoint_every == 0 and first:
                    self._save()
                if callback and first and (self.step % callback_every == 0 or self.step == self.n_steps):
                    callback(self.step)
        if self.checkpoint is not None and first:
            self.checkpoint.unlink(missing_ok=True)

    @property
    def best_start(self) -> int:
        """Number of the start with the best validation loss so far."""
        return int(np.argmin(self.best_loss))

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
        chosen = self.best_start
        rows = np.reshape(self.records, (-1, 3 + 2 * self.best_loss.size))
        train, validation = rows[:, 3 + chosen], rows[:, 3 + self.best_loss.size + chosen]
        history = {"step": rows[:, 0].astype(int).tolist(), "seconds": rows[:, 1].tolist(), "learning_rate": rows[:, 2].tolist(),
                   "train": train.tolist(), "validation": validation.tolist(),
                   "starts": [float(v) if math.isfinite(v) else None for v in self.best_loss]}
        return self._of_start(self.best_weights, chosen), history

    def present(self) -> Weights:
        """Weights at the present step, averaged if asked for, of the start that has been best so far."""
        return self._of_start(self.now if self.mean_weights is None else self.mean_weights, self.best_start)

    def _of_start(self, flat: Tensor, start: int) -> Weights:
        return {name: value[start].detach().clone() for name, value in self._views(flat).items()}

    def _views(self, flat: Tensor) -> Weights:
        """Weights by name, sharing memory with the flat array of them, shape (n_starts, n_weights)."""
        parts = flat.split([math.prod(shape[1:]) for shape in self._shapes.values()], dim=1)
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts)}

    def _advance(self, batch: Tensor) -> Tensor:
        """One step of every start; returns the losses before it."""
        self._seed(self.step)
        with self._arithmetic():
            losses = self.loss(self.weights, batch)
        gradient, losses = self._summed(self._gradient(losses), losses.detach(), len(batch) / self.batches.batch_size)
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        if not torch.isfinite(norm).any():
            raise TrainingError(self._not_finite(batch))
        self._adam(gradient * (self.clip / norm).clamp(max=1.0))
        if self.mean_weights is not None:
            self.mean_weights.lerp_(self.now, 1 - min(self.average, self.step / (self.step + 9)))  # a short memory at first
        return losses

    def _gradient(self, losses: Tensor) -> Tensor:
        """Of each start, in the order of the flat array."""
        gradients = iter(torch.autograd.grad(losses.sum(), [leaf for leaves in self._leaves for leaf in leaves]))
        n_rows = len(self.now) // len(self._leaves)
        rows = [torch.cat([next(gradients).reshape(n_rows, -1) for _ in leaves], dim=1) for leaves in self._leaves]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _summed(self, gradient: Tensor, losses: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Over processes, each with its share of the batch."""
        if self.processes.count == 1:
            return gradient, losses
        together = self.processes.sum(share * torch.cat([gradient, losses[:, None].to(gradient.dtype)], dim=1))
        return together[:, :-1], together[:, -1]

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
        with self._averaged():
            losses = self._validation_loss().cpu().numpy()
            self.records.append(np.concatenate([[self.step, seconds, self._rate()], train.cpu().numpy(), losses]))
            better = losses < self.best_loss
            if better.any():
                self.best_step = self.step
                self.best_loss[better] = losses[better]
                self.best_weights[better] = self.now[better]

    def _validation_loss(self) -> Tensor:
        """Mean over all validation points, a few thousand at a time."""
        points = self.batches.validation
        total = torch.zeros(len(self.now), dtype=torch.float64, device=self.now.device)
        self._seed(self.n_steps)
        with torch.no_grad(), self._arithmetic():
            for part in points[self.processes.share(len(points))].split(_VALIDATE_TOGETHER):
                total += self.loss(self.weights, part) * len(part) if len(part) else 0.0
        return self.processes.sum(total) / len(points)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights in the place of the present ones."""
        if self.mean_weights is None:
            yield
            return
        present = self.now.clone()
        self.now.copy_(self.mean_weights)
        yield
        self.now.copy_(present)

    def _arithmetic(self) -> AbstractContextManager:
        mixed = self.precision == "bfloat16"
        return torch.autocast(self.now.device.type, torch.bfloat16) if mixed else nullcontext()

    def _seed(self, step: int) -> None:
        """What the loss draws at a step is the same after an interruption, and the same at every validation."""
        if self.generator is not None:
            (number,) = np.random.SeedSequence([self.seed, 2, step, self.processes.rank]).generate_state(1)
            self.generator.manual_seed(int(number))

    def _not_finite(self, batch: Tensor) -> str:
        saved = "" if self._saved_step is None else f", and so is the checkpoint {self.checkpoint} of step {self._saved_step}"
        return (f"the loss must stay finite, after step {self.step} it or its gradient is not, in {self.locate(self.weights, batch)}; "
                f"the best weights so far (step {self.best_step}) are kept{saved}. Lower learning_rate or look for outliers.")

    def _save(self) -> None:
        tensors = {name: value.cpu().numpy() for name, value in self._state().items()}
        arrays, steps = {**tensors, "best_loss": self.best_loss, "records": np.array(self.records)}, [self.step, self.best_step]
        header = {"settings": self.settings, "steps": steps, "checksum": _checksum(arrays, steps)}
        files.write(self.checkpoint, "checkpoint", arrays, header)
        self._saved_step = self.step

    def _resume(self) -> None:
        arrays, header = files.read(self.checkpoint, "checkpoint")
        if header.get("settings") != self.settings:
            raise FileFormatError(f"{self.checkpoint} must belong to this fit, it was written with other samples or settings; "
                                  "remove it or choose another checkpoint.")
        if header.get("checksum") != _checksum(arrays, header.get("steps")):
            raise FileFormatError(f"{self.checkpoint} must hold what was written into it, its checksum is wrong; remove it to begin anew.")
        try:
            self.step, self.best_step = (int(step) for step in header["steps"])
            self._saved_step = self.step
            self.best_loss[:] = arrays["best_loss"]
            self.records = list(np.reshape(arrays["records"], (-1, 3 + 2 * self.best_loss.size)))
            for name, value in self._state().items():
                value.copy_(torch.from_numpy(arrays[name]))
        except (LookupError, TypeError, ValueError, RuntimeError):
            raise FileFormatError(f"{self.checkpoint} must be a complete checkpoint, parts of it are missing or have other shapes; "
                                  "remove it to begin anew.") from None

    def _state(self) -> Weights:
        state = {"now": self.now, "first": self.first, "second": self.second, "best": self.best_weights}
        return state if self.mean_weights is None else {**state, "mean": self.mean_weights}


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _checksum(arrays: dict[str, np.ndarray], steps: Sequence[int]) -> int:
    """Of names, numbers and steps: a single wrong bit in a file shows nowhere else."""
    checksum = zlib.crc32(repr(steps).encode())
    for name in sorted(arrays):
        checksum = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), zlib.crc32(name.encode(), checksum))
    return checksum


def _positive(value: float, name: str) -> float:
    if not 0 < value < math.inf:
        raise InputError(f"{name} must be a positive number, got {value!r}.")
    return value


def _share(average: float | None) -> float | None:
    if average is not None and not 0 < average < 1:
        raise InputError(f"average must lie between 0 and 1, got {average!r}.")
    return average


def _known(precision: str) -> str:
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    return precision
