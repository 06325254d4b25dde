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


def silu(u: np.ndarray) -> np.ndarray:
    """u/(1 + e^{-u}), a product with the sigmoid σ: s^(k) = u σ^(k) + k σ^(k−1)."""
    t = sigmoid(u)
    return u * t + np.concatenate([np.zeros_like(t[:1]), [k * t[k - 1] for k in range(1, 5)]])


def sin(u: np.ndarray) -> np.ndarray:
    """sin u."""
    return np.stack([np.sin(u), np.cos(u), -np.sin(u), -np.cos(u), np.sin(u)])


def scaled(unit, inside: float = 1.0, outside: float = 1.0):
    """The unit u ↦ outside · s(inside · u)."""
    def stretched(u: np.ndarray) -> np.ndarray:
        return outside * unit(inside * u) * (inside ** np.arange(5.0)).reshape(-1, *[1] * u.ndim)

    return stretched


def tail(power: np.ndarray | float):
    """The unit x ↦ sinh(a arsinh x), which grows like |x|^a; a = power.

    It solves (1 + x²) y'' + x y' = a² y, hence (1 + x²) y^(k+2) + (2k + 1) x y^(k+1) + (k² − a²) y^(k) = 0.
    """
    def stretched(x: np.ndarray) -> np.ndarray:
        return _tail(power, x, 5)

    return stretched


def tail_log_slope(power: np.ndarray | float):
    """The unit x ↦ ln y' of y = sinh(a arsinh x), a = power: its derivatives are those of ln y' in terms of r_k = y^(k+1)/y'."""
    def log_slope(x: np.ndarray) -> np.ndarray:
        y = _tail(power, x, 6)
        r1, r2, r3, r4 = y[2:] / y[1]
        value = np.log(power) + np.logaddexp(power * np.arcsinh(x), -power * np.arcsinh(x)) - np.log(2) - 0.5 * np.log1p(x * x)
        return np.stack([value, r1, r2 - r1**2, r3 - 3 * r1 * r2 + 2 * r1**3,
                         r4 - 4 * r1 * r3 - 3 * r2**2 + 12 * r1**2 * r2 - 6 * r1**4])

    return log_slope


def _tail(a, x: np.ndarray, n: int) -> np.ndarray:
    """sinh(a arsinh x) and its first n − 1 derivatives."""
    y = np.empty((n, *np.shape(x)))
    y[0], y[1] = np.sinh(a * np.arcsinh(x)), a * np.cosh(a * np.arcsinh(x)) / np.hypot(1, x)
    for k in range(n - 2):
        y[k + 2] = ((a * a - k * k) * y[k] - (2 * k + 1) * x * y[k + 1]) / (1 + x * x)
    return y
