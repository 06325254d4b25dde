"""Convergence q of two linear learners that generate from the same noise.

Probability flow maps noise to x = (Σ̂ + c)^{1/2} z, and the halves are independent, hence

    q = tr M²/(tr Σ + c d),    M = E(Σ̂ + c)^{1/2} = √c + (1/π) ∫_c^∞ dz √(z − c)/z · E[S(S + z)^{-1}],

with c the ridge, 0 by default. In the eigenbasis of Σ, E[S(S + z)^{-1}] = λ/(λ + κ(z)) to leading order (C. Merger, S. Goldt,
arXiv:2505.24769; A. Maillard, S. Goldt, arXiv:2605.21402 study this order parameter). A stochastic sampler that shares all its
noises, not only the first, has instead

    q_stochastic = ∫_c^∞ dz tr G(z)²/(tr Σ + c d),    G = 1 − (z − c)/z · (1 − E[S(S + z)^{-1}]).

Σ̂ = (n/N) S: the factor cancels, with c → c N/n.
"""

from __future__ import annotations

import numpy as np

from .spectrum import Population
from .transfer import Transferred


def convergence(curve: Population | Transferred, n: float, ridge: float = 0.0, next_order: bool = False) -> float:
    """q of the probability flow at n degrees of freedom; `ridge` in units of S (c N/n)."""
    nodes = curve.quadrature(n, ridge)
    weights = np.sqrt(np.maximum(nodes.z - ridge, 0)) / nodes.z * nodes.dz / np.pi
    total = curve.trace + ridge * curve.n_dim
    if isinstance(curve, Population):
        M = np.sqrt(ridge) + weights @ curve.shrinkage(nodes, n, next_order)
        return float(M @ M / total)
    pairs = _pair_traces(nodes.kappa, nodes.df1, nodes.df2)
    return float((ridge * curve.n_dim + 2 * np.sqrt(ridge) * weights @ nodes.df1 + weights @ pairs @ weights) / total)


def _pair_traces(kappa: np.ndarray, df1: np.ndarray, df2: np.ndarray) -> np.ndarray:
    """tr Σ²(Σ + κ)^{-1}(Σ + κ')^{-1} = (κ df_1 − κ' df_1')/(κ − κ'), df_2 on the diagonal."""
    gap = kappa[:, None] - kappa
    close = np.abs(gap) < 1e-6 * (kappa[:, None] + kappa)
    product = kappa * df1
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(close, 0.5 * (df2[:, None] + df2), (product[:, None] - product) / gap)


def convergence_stochastic(curve: Population | Transferred, n: float, ridge: float = 0.0, next_order: bool = False) -> float:
    """q of the stochastic sampler with all noises shared, many steps."""
    nodes = curve.quadrature(n, ridge)
    r = (nodes.z - ridge) / nodes.z
    square = curve.n_dim * (1 - r) ** 2 + 2 * r * (1 - r) * nodes.df1 + r**2 * nodes.df2
    if next_order:
        p, corrected = (curve.shrinkage(nodes, n, order) for order in (False, True))
        square = square + 2 * r * np.sum((1 - r[:, None] * (1 - p)) * (corrected - p), axis=1)
    return float(square @ nodes.dz / (curve.trace + ridge * curve.n_dim))
