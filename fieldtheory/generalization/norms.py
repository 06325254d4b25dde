"""Fluctuations of the norm of samples, x = μ + √τ Σ^{1/2} g with E τ = 1.

Images and gene expression have strong ones, and they matter more than other departures from a Gaussian: the sample covariance of n such
points has the deterministic equivalent z (S + z)^{-1} ≃ κ (Σ + κ)^{-1} with

    z = κ c,    E_τ[τ/(c + τ df_1/n)] = 1.

For τ = 1 this is c = 1 − df_1/n. Two-point functions need E_2 = E[τ²/(c + τ df_1/n)²] as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

_NODES = 21
_ITERATIONS = 200


@dataclass(frozen=True)
class NormFluctuations:
    """A distribution of τ by nodes and weights; τ = 1 by default.

    Attributes
    ----------
    values, weights : ndarray, shape (n_nodes,)
        Weights add up to 1, and so do values·weights.
    """

    values: np.ndarray = field(default_factory=lambda: np.ones(1))
    weights: np.ndarray = field(default_factory=lambda: np.ones(1))

    @classmethod
    def lognormal(cls, variance: float) -> NormFluctuations:
        """ln τ normal with this variance and mean −variance/2, by Gauss–Hermite quadrature."""
        if variance <= 0:
            return cls()
        x, w = np.polynomial.hermite_e.hermegauss(_NODES)
        values = np.exp(np.sqrt(variance) * x)
        w = w / w.sum()
        return cls(values / (values @ w), w)

    def solve(self, load: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """c, E_1 = E[τ/(c + τφ)²] and E_2 = E[τ²/(c + τφ)²] at φ = df_1/n < 1.

        E[τ/(c + τφ)] falls and is convex in c, and exceeds 1 at c = 0: Newton from there ascends monotonically.
        """
        load = np.asarray(load, dtype=np.float64)
        if self.values.size == 1:
            one = np.ones_like(load)
            return 1 - load, one, one
        c = np.zeros_like(load)
        for _ in range(_ITERATIONS):
            denominator = c[..., None] + self.values * load[..., None]
            step = ((self.values / denominator) @ self.weights - 1) / ((self.values / denominator**2) @ self.weights)
            c = c + step
            if np.all(np.abs(step) <= 1e-14 * c):
                break
        denominator = c[..., None] + self.values * load[..., None]
        return c, (self.values / denominator**2) @ self.weights, (self.values / denominator) ** 2 @ self.weights
