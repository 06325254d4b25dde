"""Deterministic equivalents of the sample covariance for a known spectrum.

With S the unbiased sample covariance of n degrees of freedom (n = N − 1 when the mean is estimated, N when it is known),

    z (S + z)^{-1} ≃ κ (Σ + κ)^{-1},    z = κ c(κ),    c = 1 − df_1(κ)/n,    dz/dκ = u = 1 − df_2(κ)/n.

κ ≥ κ_0, the value at z = 0: 0 for n ≥ rank Σ, else df_1(κ_0) = n. The leading order is exact up to O(1/d); the next order for real
Gaussian samples is known too and enters as corrections δ (all of them follow from E ln det(S + z) = leading + ½ ln u by
differentiating with respect to sources).

κ(z) is found by Newton from above: z(κ) is convex and rising for κ > κ_0, and κ ≤ z + E τ² tr Σ/n. c is evaluated without cancellation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from ..arrays import _as_real, _refuse_non_finite
from ..errors import InputError
from .norms import NormFluctuations

_SPAN = 50.0  # the integrands fall like exp(−|u|/2) in u = ln(κ − κ_0): 1e-11 at the ends
_STEP = 0.5  # trapezoidal error exp(−2π²/step)


@dataclass(frozen=True)
class Nodes:
    """What all observables are made of, at given z.

    Attributes
    ----------
    z, kappa, df1, df2 : ndarray, shape (n_nodes,)
    dz : ndarray, shape (n_nodes,)
        Quadrature weights of ∫ dz, zero where nodes are not for integration.
    c, one_minus_v, e2 : ndarray, shape (n_nodes,)
        z/κ; 1 − E_2 df_2/n, which is u for τ = 1; E_2.
    """

    z: np.ndarray
    kappa: np.ndarray
    df1: np.ndarray
    df2: np.ndarray
    dz: np.ndarray
    c: np.ndarray
    one_minus_v: np.ndarray
    e2: np.ndarray


class Population:
    """A known spectrum.

    Parameters
    ----------
    spectrum : array_like, shape (n_dim,)
        Eigenvalues of Σ, non-negative, not all zero; zeros are left out.
    norms : NormFluctuations
        τ = 1 by default.

    Raises
    ------
    InputError
        Not a vector of non-negative numbers.
    """

    def __init__(self, spectrum, norms: NormFluctuations | None = None):
        spectrum = np.atleast_1d(_as_real(spectrum, "spectrum"))
        _refuse_non_finite(spectrum, "spectrum")
        if spectrum.ndim != 1 or spectrum.size == 0 or spectrum.min() < 0 or spectrum.max() == 0:
            raise InputError(f"spectrum must be a vector of non-negative eigenvalues, at least one positive, got shape "
                             f"{spectrum.shape}" + (f" with minimum {spectrum.min():.3g}." if spectrum.size else "."))
        self.spectrum = np.sort(spectrum[spectrum > 0])[::-1]
        self.norms = norms or NormFluctuations()

    @property
    def n_dim(self) -> int:
        """Rank of Σ."""
        return self.spectrum.size

    @property
    def trace(self) -> float:
        """tr Σ."""
        return float(self.spectrum.sum())

    def power_trace(self, kappa: np.ndarray, numerator: int, denominator: int) -> np.ndarray:
        """tr Σ^numerator (Σ + κ)^{-denominator}."""
        return np.sum(self.spectrum**numerator / (self.spectrum + np.asarray(kappa)[..., None]) ** denominator, axis=-1)

    def kappa_0(self, n: float) -> float:
        """κ at z = 0: df_1(κ_0) = n where n < rank, else 0."""
        return border(self.spectrum, n)

    def at(self, z, n: float) -> Nodes:
        """Nodes at given z ≥ 0, shape (n_nodes,)."""
        z = np.asarray(z, dtype=np.float64)
        kappa_0 = self.kappa_0(n)
        excess = z + self.norms.second_moment * self.trace / n
        for _ in range(200):
            c, slope, *_ = self._slope(kappa_0, excess, n)
            step = ((kappa_0 + excess) * c - z) / slope
            excess = np.maximum(excess - step, 0.1 * excess)
            if np.all(np.abs(step) <= 1e-9 * excess):  # quadratic: the error left is the square of it
                break
        return self._nodes(kappa_0, excess, n, np.zeros_like(excess))

    def quadrature(self, n: float, floor: float = 0.0) -> Nodes:
        """Nodes for ∫_floor^∞ dz, trapezoidal in ln(κ − κ(floor))."""
        kappa_0 = self.kappa_0(n)
        start = float(self.at(np.array([floor]), n).kappa[0]) if floor > 0 else kappa_0
        middle = np.log(self.spectrum[0] + self.trace / n)
        excess = np.exp(np.arange(middle - _SPAN, middle + _SPAN, _STEP))
        return self._nodes(kappa_0, (start - kappa_0) + excess, n, excess * _STEP)

    def _slope(self, kappa_0: float, excess: np.ndarray, n: float):
        """c, dz/dκ, df_1, df_2, E_2 at κ = κ_0 + excess; 1 − df_1/n is taken without cancellation."""
        lam = self.spectrum
        inverse = 1 / (lam + (kappa_0 + excess)[:, None])
        df1, df2 = inverse @ lam, inverse**2 @ lam**2
        if n >= self.n_dim:
            slack = (n - self.n_dim + (kappa_0 + excess) * inverse.sum(axis=1)) / n
        else:
            slack = excess / n * (inverse @ (lam / (lam + kappa_0)))
        c, e1, e2 = self.norms.solve(df1 / n, slack)
        return c, (1 - e2 * df2 / n) / e1, df1, df2, e2

    def _nodes(self, kappa_0: float, excess: np.ndarray, n: float, dkappa: np.ndarray) -> Nodes:
        c, slope, df1, df2, e2 = self._slope(kappa_0, excess, n)
        kappa = kappa_0 + excess
        return Nodes(kappa * c, kappa, df1, df2, slope * dkappa, c, 1 - e2 * df2 / n, e2)

    def shrinkage(self, nodes: Nodes, n: float, next_order: bool) -> np.ndarray:
        """Diagonal of E[S(S + z)^{-1}] in the eigenbasis of Σ, shape (n_nodes, n_dim): λ/(λ + κ), plus δ where asked."""
        lam, kappa = self.spectrum, nodes.kappa[:, None]
        p = lam / (lam + kappa)
        if not next_order:
            return p
        u = nodes.one_minus_v[:, None]
        h3 = self.power_trace(nodes.kappa, 2, 3)[:, None]
        return p - kappa / (n * u) * (lam**2 / (lam + kappa) ** 3 - lam * kappa * h3 / ((lam + kappa) ** 2 * n * u))


def border(spectrum: np.ndarray, n: float) -> float:
    """κ_0 ≥ 0 with Σ λ/(λ + κ_0) = n for n below the number of positive eigenvalues, else 0."""
    if n >= spectrum.size:
        return 0.0
    low, high = np.log(spectrum.min() * (spectrum.size - n) / n), np.log(spectrum.sum() / n)  # sum ≥ n at the one, ≤ n at the other
    root = brentq(lambda ln_kappa: np.sum(spectrum / (spectrum + np.exp(ln_kappa))) - n, low - 1e-6, high + 1e-6, xtol=1e-15, rtol=1e-15)
    return float(np.exp(root))
