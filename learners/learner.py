"""What every learner is: fitted on samples, asked for ln p and its score, made to generate, written to a file and read back.

A learner is a torch module inside and speaks numpy outside. It computes in float64 with the weights it has. Columns of the samples
that never vary carry no density: they are left out at `fit`, and come back as constants in generated samples.
"""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fieldtheory import files
from fieldtheory.arrays import Columns, as_count, as_points, as_samples
from fieldtheory.errors import FileFormatError, InputError

from .parallel import local_gpu
from .samples import HeldSamples, MappedSamples, Samples

_CLASSES = {"DDPM": ".diffusion", "Glow": ".flows", "NICE": ".flows", "QuadraticFlow": ".flows", "RealNVP": ".flows"}
_TOGETHER = 2**18  # numbers that go through the model at once; more would not fit into a cache


class Learner(nn.Module):
    """Interface of a generative model of samples in `n_dim` columns.

    A learner defines `fit`, `_log_prob`, `_sample` and `config`; the rest follows.

    Attributes
    ----------
    n_dim : int
        Columns of the samples, constant ones included.
    columns : Columns
        Which of them vary; all, before a fit.
    history : dict of str to list
        What `fit` recorded.
    """

    def __init__(self, n_dim: int):
        super().__init__()
        self.n_dim = as_count(n_dim, "n_dim")
        self.columns = Columns.all(self.n_dim)
        self.history: dict[str, list] = {}

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the varying columns, None if all vary."""
        return None if self.columns.dropped.size == 0 else tuple(f"x{i}" for i in self.columns.kept)

    def log_prob(self, x) -> np.ndarray:
        """ln p_θ(x) of the varying columns in nats (total); x of shape (..., n_dim) gives shape (...)."""
        with torch.no_grad():
            return self._on_points(x, self._log_prob)

    def score(self, x) -> np.ndarray:
        """∇ ln p_θ(x) in the varying columns, shape (..., n_varying)."""
        return self._on_points(x, self._score)

    def sample(self, n_samples: int, seed: int = 0, **options) -> np.ndarray:
        """Generate `n_samples` points, shape (n_samples, n_dim); the same seed gives the same points."""
        n_samples = as_count(n_samples, "n_samples")
        generator = torch.Generator().manual_seed(as_count(seed, "seed", minimum=0))
        with torch.no_grad():
            return self.columns.restore(self._sample(n_samples, generator, **options).cpu().numpy())

    def save(self, path) -> Path:
        """Write weights and everything needed to rebuild the learner as one safe file, whole or not at all."""
        arrays = {f"state.{name}": value.detach().cpu().numpy() for name, value in self.state_dict().items()}
        arrays |= {"columns.kept": self.columns.kept, "columns.constants": self.columns.constants}
        header = {"class": type(self).__name__, "config": self.config(), "history": self.history}
        return files.write(path, "learner", arrays, header)

    def config(self) -> dict:
        """What `from_config` needs to rebuild the untrained module; JSON holds it exactly."""
        raise TypeError(f"{type(self).__name__} must define config()")

    @classmethod
    def from_config(cls, **config) -> Learner:
        """Rebuild the untrained module from `config`."""
        return cls(**config)

    def set_columns(self, columns: Columns) -> None:
        """Rebuild the untrained module for the columns that vary."""
        raise TypeError(f"{type(self).__name__} must define set_columns()")

    def _log_prob(self, x: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _log_prob()")

    def _sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _sample()")

    def _score(self, x: Tensor) -> Tensor:
        x = x.requires_grad_(True)
        with torch.enable_grad():
            (score,) = torch.autograd.grad(self._log_prob(x).sum(), x)
        return score

    def _on_points(self, x, function) -> np.ndarray:
        """numpy (..., n_dim) → varying columns → torch (n, n_varying) → function → numpy (..., …)."""
        x = as_points(x, self.n_dim)
        out = self._in_parts(self.columns.drop(x).reshape(-1, self.columns.kept.size), function)
        return out.reshape(x.shape[:-1] + out.shape[1:])

    def _in_parts(self, rows: np.ndarray, function) -> np.ndarray:
        """A function of torch rows, not of more at a time than fit well."""
        parts = torch.as_tensor(rows, device=self.device).split(max(1, _TOGETHER // rows.shape[1]))
        return torch.cat([function(part).detach().cpu() for part in parts]).numpy()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter([*self.parameters(), *self.buffers()])).device

    def _accept(self, samples, min_samples: int = 2) -> Samples:
        """Checked samples without constant columns; the module is rebuilt for those that vary. Mapped arrays stay on disk."""
        mapped = isinstance(samples, np.memmap)
        samples = samples if mapped else as_samples(samples, min_samples=min_samples)
        if samples.ndim == 2 and samples.shape[1] != self.n_dim:
            raise InputError(f"samples must have the learner's n_dim = {self.n_dim} columns, got {samples.shape[1]}.")
        if mapped:
            samples = MappedSamples(samples, min_samples)
            self.set_columns(samples.columns)
            return samples
        self.set_columns(Columns.of(samples))
        return HeldSamples(self.columns.drop(samples))


def load(path) -> Learner:
    """Read a learner written by `Learner.save`.

    Raises
    ------
    FileFormatError
        The file is missing, damaged, not a learner, or names a class this version does not know.
    """
    arrays, header = files.read(path, "learner")
    name = header.get("class")
    if not isinstance(name, str) or name not in _CLASSES:
        raise FileFormatError(f"{path} must hold one of the learners {', '.join(_CLASSES)}, it names {str(name)[:40]!r}.")
    try:
        cls, config = getattr(import_module(_CLASSES[name], __package__), name), header["config"]
        columns = Columns(arrays["columns.kept"], arrays["columns.constants"])
        _refuse_oversized(cls, config, columns, arrays)
        learner = _untrained(cls, config, columns)
        state = {key.removeprefix("state."): torch.from_numpy(v) for key, v in arrays.items() if key.startswith("state.")}
        if not all(torch.isfinite(value).all() for value in state.values()):
            raise ValueError("its weights are not finite")
        learner.load_state_dict(state)
        learner.history = dict(header["history"])
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, MemoryError, OverflowError) as error:
        raise FileFormatError(f"{path} must hold a complete {name}, its header and weights do not fit together: "
                              f"{' '.join(str(error).split())[:200]}") from None
    return learner


def _untrained(cls: type[Learner], config: dict, columns: Columns) -> Learner:
    learner = cls.from_config(**config)
    _check_columns(columns, learner.n_dim)
    if columns.dropped.size > 0:
        learner.set_columns(columns)
    learner.columns = columns
    return learner


def _refuse_oversized(cls: type[Learner], config: dict, columns: Columns, arrays: dict[str, np.ndarray]) -> None:
    """A few bytes must not ask for more layers, dimensions or weights than the file holds; the meta device takes no memory."""
    n_values = sum(a.size for a in arrays.values())
    _refuse_large_numbers(config, n_values)
    if config.get("n_layers", 0) > len(arrays):
        raise ValueError(f"it asks for {config['n_layers']} layers with {len(arrays)} arrays")
    if math.prod(size for size in config.get("shape") or [] if isinstance(size, int)) > max(1, columns.constants.size):
        raise ValueError(f"it asks for images of shape {config['shape']} with {columns.constants.size} columns")
    with torch.device("meta"):
        n_weights = sum(value.numel() for value in _untrained(cls, config, columns).state_dict().values())
    if n_weights > n_values:
        raise ValueError(f"it asks for {n_weights} weights with {n_values} numbers")


def _refuse_large_numbers(config, n_values: int) -> None:
    if isinstance(config, int) and config > n_values:
        raise ValueError(f"it asks for a size of {config} with {n_values} numbers")
    for entry in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        _refuse_large_numbers(entry, n_values)


def _check_columns(columns: Columns, n_dim: int) -> None:
    kept, constants = columns.kept, columns.constants
    indices = kept.ndim == 1 and kept.dtype.kind == "i" and kept.size > 0
    if not indices or np.any(np.diff(kept, prepend=-1, append=n_dim) <= 0) or constants.shape != (n_dim,):
        raise ValueError("its columns are inconsistent")


def resolve_device(device: str) -> torch.device:
    """``auto`` is the GPU where there is one, else the CPU; raises `InputError` on an unknown or missing device."""
    if device == "auto":
        return local_gpu() if torch.cuda.is_available() else torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError):
        raise InputError(f"device must be auto, cpu or a GPU of this machine, got {device!r}.") from None
