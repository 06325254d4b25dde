"""Deterministic equivalents from one data set, without its population's spectrum.

Eigenvalues l̂ of a sample covariance with n_t degrees of freedom know the population through df_1: at any w > 0

    df_1(κ) = Σ l̂/(l̂ + w),    κ = w/c_t,    E[τ/(c_t + τ df_1/n_t)] = 1,

a curve df_1(κ) of the *population*, parametrized by w, on κ ≥ κ_0(n_t). Inserted at another number n of degrees of freedom, z = κ c, it
gives everything there: no inversion to a spectrum is needed. The eigenvalues themselves, used as if they were the population's,
are off by tens of per cent.

κ df_1 determines the rest: df_2 = d(κ df_1)/dκ and tr Σ²(Σ + κ)^{-1}(Σ + κ')^{-1} = (κ df_1 − κ' df_1')/(κ − κ'). The curve starts at
w_0, where z = 0: 0 for n ≥ rank, else df_1 = n.
"""

from __future__ import annotations

import numpy as np

from .norms import NormFluctuations
from .spectrum import _SPAN, _STEP, Nodes, border


class Transferred:
    """What one sample covariance says about its population.

    Parameters
    ----------
    eigenvalues : ndarray
        Of the unbiased covariance; zeros are left out.
    n : float
        n_t, its degrees of freedom.
    norms : NormFluctuations
        Of the samples.
    n_dim : int, optional
        Dimension of the population, by default the number of eigenvalues given.
    """

    def __init__(self, eigenvalues: np.ndarray, n: float, norms: NormFluctuations, n_dim: int | None = None):
        self.eigenvalues, self.n, self.norms = eigenvalues[eigenvalues > 0], float(n), norms
        self.n_dim = len(eigenvalues) if n_dim is None else n_dim

    @property
    def trace(self) -> float:
        """tr Σ, unbiased."""
        return float(self.eigenvalues.sum())

    @property
    def largest(self) -> float:
        """The largest number of degrees of freedom that can be predicted: unlimited once n_t exceeds the dimension, else below n_t."""
        return np.inf if self.n > self.n_dim else self.n - 1

    def w_0(self, n: float) -> float:
        """w at z = 0."""
        return border(self.eigenvalues, n)

    def at(self, z, n: float) -> Nodes:
        """Nodes at given z ≥ 0, shape (n_nodes,)."""
        w_0 = self.w_0(n)
        excess = self._excess(np.asarray(z, dtype=np.float64), n, w_0)
        return self._nodes(w_0, excess, n, np.zeros_like(excess))

    def quadrature(self, n: float, floor: float = 0.0) -> Nodes:
        """Nodes for ∫_floor^∞ dz at n degrees of freedom, trapezoidal in ln(w − w(floor))."""
        w_0 = self.w_0(n)
        start = float(self._excess(np.array([floor]), n, w_0)[0]) if floor > 0 else 0.0
        middle = np.log(self.eigenvalues.max() + self.trace / n)
        step = np.exp(np.arange(middle - _SPAN, middle + _SPAN, _STEP))
        return self._nodes(w_0, start + step, n, step * _STEP)

    def _excess(self, z: np.ndarray, n: float, w_0: float) -> np.ndarray:
        """w − w_0 at given z, by Newton from above: w ≤ κ ≤ z + E τ² tr Σ/n.

        z(w) is convex for n below n_t; the floor of a tenth per step covers n above it.
        """
        excess = z + self.norms.second_moment * self.trace / n
        for _ in range(200):
            nodes = self._nodes(w_0, excess, n, np.ones_like(excess))
            step = (nodes.z - z) / nodes.dz
            excess = np.maximum(excess - step, 0.1 * excess)
            if np.all(np.abs(step) <= 1e-9 * excess):  # quadratic: the error left is the square of it
                break
        return excess

    def _nodes(self, w_0: float, excess: np.ndarray, n: float, dw: np.ndarray) -> Nodes:
        lam, w = self.eigenvalues, w_0 + excess
        inverse = 1 / (lam + w[:, None])
        df1, slope = inverse @ lam, -(inverse**2 @ lam)
        remainder = w * inverse.sum(axis=1)
        slack = (n - lam.size + remainder) / n if n >= lam.size else excess / n * (inverse @ (lam / (lam + w_0)))
        c_t, e1_t, e2_t = self.norms.solve(df1 / self.n, (self.n - lam.size + remainder) / self.n)
        c, e1, e2 = self.norms.solve(df1 / n, slack)
        kappa = w / c_t
        dkappa = (1 + kappa * e2_t / e1_t * slope / self.n) / c_t
        df2 = df1 + kappa * slope / dkappa
        one_minus_v = 1 - e2 * df2 / n
        return Nodes(kappa * c, kappa, df1, df2, one_minus_v / e1 * dkappa * dw, c, one_minus_v, e2)
