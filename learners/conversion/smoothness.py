"""Does a model have the derivatives that its Taylor couplings would be?

Between the kinks of a ReLU network, or the knots of a spline, all higher derivatives vanish or are those of a neighbouring piece: Taylor
couplings there tell where the base point is, not what the model learned. Such units are found by name in the modules of a model
(`kinks`). Behind a bare function they show in the fundamental theorem of calculus: along a line x + t v

    ∫_{−h}^{h} S^(k+1)(t) dt = S^(k)(h) − S^(k)(−h),

unless S^(k) jumps, which no derivative sees. The integral, by Gauss–Legendre, is exact to rounding for smooth S at small h, and off by the
jumps otherwise (`largest_jump`).
"""

from __future__ import annotations

import re
import warnings
from functools import partial

import numpy as np
import torch
from torch import nn

from fieldtheory.errors import RegimeWarning

from .taylor_mode import Function, along

_KINKED = re.compile(r"relu|hard_?(tanh|swish|sigmoid|shrink)|softshrink|threshold|(?<!g)elu|softsign|max_?pool|spline|rational_?quadratic|"
                     r"rqs|piecewise", re.IGNORECASE)
_SHARES = (1.0, 0.3, 0.1)  # of the length over which ln p changes
_N_LINES, _N_NODES = 4, 32
_TOLERATED = 1e-3


def kinks(module: nn.Module) -> tuple[str, ...]:
    """Units without higher derivatives among the parts of a module: their names and where they are."""
    found = {}
    for path, part in module.named_modules():
        for name in (type(part).__name__, *(_name(value) for value in vars(part).values() if callable(value))):
            if _KINKED.search(name):
                found.setdefault(name, path or "the module itself")
    return tuple(f"{name} (at {path})" for name, path in found.items())


def warn_of_jumps(score: Function, x: np.ndarray, order: int, device=None) -> None:
    """Warn if derivatives below `order` jump near x."""
    jump, k = largest_jump(score, x, order, device)
    if jump > _TOLERATED:
        warnings.warn(f"ln p should be smooth around the base point, its derivatives of order {k} do not integrate to the change of those "
                      f"of order {k - 1} (off by {jump:.2g} of it): there may be kinks, such as those of ReLU or of spline knots, and "
                      "Taylor couplings that depend on which side of them the base point is. Compare with projection or normal_ordered.",
                      RegimeWarning, stacklevel=4)


def largest_jump(score: Function, x: np.ndarray, order: int, device=None) -> tuple[float, int]:
    """Largest |∫S^(k) − ΔS^(k−1)| relative to the change of S^(k−1) over all lines and lengths, for 2 ≤ k ≤ order, and its k.

    Parameters
    ----------
    score : callable
        ∇S of rows of points.
    x : ndarray, shape (n_dim,)
    order : int
        Highest derivative that is wanted.
    """
    v = np.random.default_rng(0).normal(size=(_N_LINES, x.size))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    nodes, weights = np.polynomial.legendre.leggauss(_N_NODES)
    t = np.concatenate([nodes, [-1.0, 1.0]])
    worst = (0.0, 2)
    for share in _SHARES:
        h = share * _length(score, x, v, device)[:, None]
        points = (x + (h * t)[..., None] * v[:, None]).reshape(-1, x.size)
        lines = [_line(score, points, np.repeat(v, t.size, axis=0), m, device).reshape(_N_LINES, -1) for m in range(order)]
        for k in range(2, order + 1):
            lower, upper = lines[k - 2], lines[k - 1]
            change = lower[:, -1] - lower[:, -2]
            missing = np.abs((h * weights * upper[:, :-2]).sum(1) - change)
            variation = (h * weights * np.abs(upper[:, :-2])).sum(1) + np.abs(change)
            relative = np.max(missing / np.maximum(variation, 1e-9 * (1 + np.abs(lower).max())))
            worst = max(worst, (float(np.nan_to_num(relative)), k))
    return worst


def _length(score: Function, x: np.ndarray, v: np.ndarray, device) -> np.ndarray:
    """Along each line the length over which ln p changes by about 1, from its slope and curvature; shape (n_lines,)."""
    slope, curvature = (_line(score, np.tile(x, (len(v), 1)), v, m, device) for m in (0, 1))
    rate = np.sqrt(slope**2 + np.abs(curvature))
    return 1.0 / np.where(rate > 0, rate, 1.0)


def _line(score: Function, x: np.ndarray, v: np.ndarray, m: int, device) -> np.ndarray:
    """S^(m+1) along v at rows of points."""
    x, v = (torch.as_tensor(part, device=device) for part in (x, v))
    return (along(score, x, v, m).detach() * v).sum(1).cpu().numpy()


def _name(value) -> str:
    return _name(value.func) if isinstance(value, partial) else getattr(value, "__name__", type(value).__name__)
