"""Elementwise functions of networks, each with its first four derivatives.

A unit maps an array u to the stack (s, s', s'', s''', s'''') of shape (5, …). Derivatives come from the differential equation that the
function satisfies, differentiated: no number is lost to differences.
"""

from __future__ import annotations

import numpy as np


def square(u: np.ndarray) -> np.ndarray:
    """u²."""
    zero = np.zeros_like(u)
    return np.stack([u * u, 2 * u, zero + 2, zero, zero])


def exp(u: np.ndarray) -> np.ndarray:
    """e^u."""
    return np.stack([np.exp(u)] * 5)


def tanh(u: np.ndarray) -> np.ndarray:
    """tanh u, s' = 1 − s²."""
    s = np.tanh(u)
    d = 1 - s * s
    return np.stack([s, d, -2 * s * d, d * (6 * s * s - 2), 8 * s * d * (2 - 3 * s * s)])


def sigmoid(u: np.ndarray) -> np.ndarray:
    """1/(1 + e^{-u}) = ½ + ½ tanh(u/2)."""
    t = tanh(0.5 * u) * 0.5 ** np.arange(1.0, 6.0).reshape(-1, *[1] * u.ndim)
    t[0] += 0.5
    return t


def softplus(u: np.ndarray) -> np.ndarray:
    """ln(1 + e^u), whose slope is the sigmoid."""
    return np.concatenate([np.logaddexp(0, u)[None], sigmoid(u)[:4]])


def sin(u: np.ndarray) -> np.ndarray:
    """sin u."""
    return np.stack([np.sin(u), np.cos(u), -np.sin(u), -np.cos(u), np.sin(u)])


def scaled(unit, inside: float = 1.0, outside: float = 1.0):
    """The unit u ↦ outside · s(inside · u)."""
    def stretched(u: np.ndarray) -> np.ndarray:
        return outside * unit(inside * u) * (inside ** np.arange(5.0)).reshape(-1, *[1] * u.ndim)

    return stretched
