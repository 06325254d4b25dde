"""Models made elsewhere: torch modules with log_prob, and bare functions.

A module is copied and evaluated in float64 with the weights it has; zuko's modules give a distribution when called, those of normflows
and nflows and FrEIA's `PullBackDistribution` have log_prob themselves. A function may take rows of points or one point; both are told
apart by trying. Nothing of the other packages is imported.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType

import numpy as np
import torch
from torch import Tensor, nn

from fieldtheory.arrays import Columns, as_count
from fieldtheory.errors import InputError

from .model import TorchModel, as_model
from .smoothness import kinks
from .taylor_mode import Function


def score_model(score: Callable, n_dim: int | None) -> TorchModel:
    """The model behind a score, a function that torch can differentiate."""
    columns = Columns.all(_n_dim(n_dim))
    return TorchModel(columns, None, _by_rows(score, columns.kept.size, "score"))


@as_model.register(FunctionType)
@as_model.register(MethodType)
@as_model.register(partial)
def _(log_prob: Callable, n_dim: int | None = None) -> TorchModel:
    columns = Columns.all(_n_dim(n_dim))
    return TorchModel(columns, _by_rows(log_prob, columns.kept.size, "log_prob"))


@as_model.register
def _(module: nn.Module, n_dim: int | None = None) -> TorchModel:
    module = copy.deepcopy(module).double().eval().requires_grad_(False)
    weight = next(iter([*module.parameters(), *module.buffers()]), torch.empty(0))
    density, draw = _density(module)
    draw, own = (draw, draw(1, 0).shape[-1]) if _works(draw) else (None, n_dim)
    if n_dim not in (None, own):
        raise InputError(f"points must have the {own} variables of the samples of {type(module).__name__}, got {n_dim}.")
    columns = Columns.all(_n_dim(own))
    return TorchModel(columns, _by_rows(density, columns.kept.size, "log_prob", weight.device), draw=draw, kinks=kinks(module),
                      device=weight.device)


def _n_dim(n_dim: int | None) -> int:
    if n_dim is None:
        raise InputError("n_dim must be given for a model that is known by its density alone, or a base point with at=.")
    return as_count(n_dim, "n_dim")


def _density(module: nn.Module) -> tuple[Callable, Callable | None]:
    """log_prob of a module, or of the distribution that it gives when called, and what draws from it."""
    if not callable(getattr(module, "log_prob", None)):
        try:
            distribution = module()
        except Exception:
            distribution = None
        if not callable(getattr(distribution, "log_prob", None)):
            raise InputError(f"a torch module must have log_prob, or give a distribution that has when it is called, "
                             f"{type(module).__name__} does neither; pass log_prob=, a function of the points.")
        return distribution.log_prob, _drawing(lambda n: distribution.sample((n,)))
    return module.log_prob, _drawing(module.sample) if callable(getattr(module, "sample", None)) else None


def _works(draw: Callable | None) -> bool:
    try:
        return draw is not None and draw(1, 0).ndim == 2
    except Exception:
        return False


def _drawing(sample: Callable) -> Callable[[int, int], np.ndarray]:
    """The first of what `sample` returns, from a generator of its own."""
    def draw(n_samples: int, seed: int) -> np.ndarray:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            drawn = sample(n_samples)
        return (drawn[0] if isinstance(drawn, tuple) else drawn).double().cpu().numpy()

    return draw


def _by_rows(function: Callable, n_dim: int, name: str, device=None) -> Function:
    """The function on rows of points: as it is, or over each row where it takes one point."""
    n_rows = n_dim + 1  # other than n_dim, so that an answer by columns is not taken for one by rows
    probe = torch.zeros(n_rows, n_dim, dtype=torch.float64, device=device)
    shape = (n_rows,) if name == "log_prob" else (n_rows, n_dim)
    failures = []
    for candidate in (function, torch.func.vmap(function)):
        try:
            if candidate(probe).shape == shape:
                return _checked(candidate, name)
            failures.append(f"it returned shape {tuple(candidate(probe).shape)}")
        except Exception as error:
            failures.append(" ".join(str(error).split())[:160])
    raise InputError(f"{name} must take float64 points of shape ({n_rows}, {n_dim}) to shape {shape}, or one point, with torch functions; "
                     f"it did not: {failures[0]}. A model in float32 takes them after .double().")


def _checked(function: Function, name: str) -> Function:
    """The function, in float64 whatever it returns."""
    def checked(x: Tensor) -> Tensor:
        return function(x).double()

    return checked
