"""Deterministic equivalents from one data set, without its population's spectrum.

Eigenvalues l̂ of a sample covariance with n_t degrees of freedom know the population through df_1: at any z > 0

    df_1(κ) = Σ l̂/(l̂ + z),    κ = z/c_t,    E[τ/(c_t + τ df_1/n_t)] = 1,

a curve df_1(κ) of the *population*, parametrized by z, on κ ≥ κ_0(n_t). Inserted at another number n of degrees of freedom it gives
everything there: no inversion to a spectrum is needed. The eigenvalues themselves, used as if they were the population's,
are off by tens of per cent.

κ df_1 determines the rest: df_2 = d(κ df_1)/dκ and tr Σ²(Σ + κ)^{-1}(Σ + κ')^{-1} = (κ df_1 − κ' df_1')/(κ − κ').
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline

from .norms import NormFluctuations
from .spectrum import Nodes

_GRID = np.arange(-46.0, 30.0, 0.25)  # ln z relative to the largest eigenvalue


class Transferred:
    """What one sample covariance says about its population.

    Parameters
    ----------
    eigenvalues : ndarray, shape (n_dim,)
        Of the unbiased covariance; zeros are left out.
    n : float
        n_t, its degrees of freedom.
    norms : NormFluctuations
        Of the samples.
    """

    def __init__(self, eigenvalues: np.ndarray, n: float, norms: NormFluctuations):
        self.eigenvalues, self.n, self.norms = eigenvalues[eigenvalues > 0], float(n), norms
        self.ln_z = np.log(self.eigenvalues.max()) + _GRID
        z = np.exp(self.ln_z)[:, None]
        self.df1 = np.sum(self.eigenvalues / (self.eigenvalues + z), axis=1)
        slope = -np.sum(self.eigenvalues * z / (self.eigenvalues + z) ** 2, axis=1)  # d df_1/d ln z
        c, e1, e2 = norms.solve(np.minimum(self.df1 / self.n, 1 - 1e-15))
        self.kappa = z[:, 0] / c
        ln_kappa_slope = 1 + e2 / (self.n * e1 * c) * slope  # d ln κ/d ln z
        self.df2 = self.df1 + slope / ln_kappa_slope

    @property
    def n_dim(self) -> int:
        """Rank of the sample covariance, the population's where n_t exceeds it."""
        return self.eigenvalues.size

    @property
    def trace(self) -> float:
        """tr Σ, unbiased."""
        return float(self.eigenvalues.sum())

    @property
    def largest(self) -> float:
        """The largest number of degrees of freedom that can be predicted: unlimited once n_t exceeds the dimension."""
        return np.inf if self.n > self.n_dim else self.n

    def quadrature(self, n: float, floor: float = 0.0) -> Nodes:
        """Nodes for ∫_floor^∞ dz at n degrees of freedom, trapezoidal in ln(z − floor)."""
        ln_excess = self.ln_z[8:-8:2]
        excess = np.exp(ln_excess)
        nodes = self.at(floor + excess, n)
        weights = excess * (ln_excess[1] - ln_excess[0])
        return Nodes(nodes.z, nodes.kappa, nodes.df1, nodes.df2, weights, nodes.c, nodes.one_minus_v, nodes.e2)

    def at(self, z, n: float) -> Nodes:
        """Nodes at given z > 0, interpolated along the curve."""
        inside = self.df1 < n * (1 - 1e-12)
        c, _, _ = self.norms.solve(self.df1[inside] / n)
        ln_z = np.log(self.kappa[inside] * c)
        rising = np.concatenate([[True], np.diff(ln_z) > 1e-9])
        curve = CubicSpline(ln_z[rising], np.column_stack([np.log(self.kappa), self.df1, self.df2])[inside][rising])
        ln_kappa, df1, df2 = curve(np.clip(np.log(z), ln_z[0], ln_z[-1])).T
        c, _, e2 = self.norms.solve(np.clip(df1 / n, 0.0, 1 - 1e-15))
        return Nodes(np.asarray(z), np.exp(ln_kappa), df1, df2, np.zeros_like(df1), c, 1 - e2 * df2 / n, e2)
