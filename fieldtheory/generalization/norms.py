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

    @property
    def second_moment(self) -> float:
        """E τ²."""
        return float(self.values**2 @ self.weights)

    def solve(self, load: np.ndarray, slack: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """c, E_1 = E[τ/(c + τφ)²] and E_2 = E[τ²/(c + τφ)²] at φ = df_1/n < 1.

        1/E[τ/(c + τφ)] rises and is concave in c, and is below 1 at c = 0: Newton from there ascends monotonically. `slack` is
        1 − φ, if it is known without cancellation.
        """
        load = np.asarray(load, dtype=np.float64)
        slack = 1 - load if slack is None else slack
        if self.values.size == 1:
            one = np.ones_like(load)
            return slack, one, one
        c = slack / (self.weights @ (1 / self.values))
        for _ in range(_ITERATIONS):
            ratio = self.values / (c[..., None] + self.values * load[..., None])
            excess = (ratio * (slack[..., None] - c[..., None] / self.values)) @ self.weights
            step = excess * (ratio @ self.weights) / ((ratio**2 / self.values) @ self.weights)
            c = c + step
            if np.all(np.abs(step) <= 1e-14 * c):
                break
        ratio = self.values / (c[..., None] + self.values * load[..., None])
        return c, (ratio**2 / self.values) @ self.weights, ratio**2 @ self.weights
