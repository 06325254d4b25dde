"""Denoising loss of the linear denoiser, averaged over data sets.

The optimum on N samples with penalty γ_t ‖W_t‖² is W_t = s (ᾱ Σ̂ + s² + γ)^{-1}, s² = 1 − ᾱ. With z = (s² + γ)/ᾱ · N/n,
f = s²/(s² + γ), and

    A = z tr(S + z)^{-1},    P = z² tr(S + z)^{-2},    Q = z² tr Σ(S + z)^{-2},

the losses summed over dimensions are

    train = d − f A − γ s²/(s² + γ)² P,    test = d − 2 f A + f² P + s² ᾱ/(s² + γ)² (1 + 1/N) Q,

without the 1/N where the mean is known.
"""

from __future__ import annotations

import numpy as np

from ..schedule import NoiseSchedule
from .spectrum import Nodes, Population
from .transfer import Transferred


def total_losses(curve: Population | Transferred, n_samples: int, schedule: NoiseSchedule, penalty: np.ndarray,
                 mean_known: bool = False, next_order: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Train and test loss summed over dimensions, by step.

    Parameters
    ----------
    curve : Population or Transferred
    n_samples : int
        N.
    schedule : NoiseSchedule
    penalty : ndarray, shape (n_steps,)
        γ_t.
    mean_known : bool
    next_order : bool
        Add the O(1/n) corrections for Gaussian samples; a `Population` only.

    Returns
    -------
    train, test : ndarray, shape (n_steps,)
    """
    n = n_samples if mean_known else n_samples - 1
    alpha_bar, s2 = schedule.alpha_bar, schedule.noise_variance
    nodes = curve.at((s2 + penalty) / alpha_bar * n_samples / n, n)
    A, P, Q = _traces(curve, nodes, n)
    if next_order:
        A, P, Q = (leading + delta for leading, delta in zip((A, P, Q), _corrections(curve, nodes, n)))
    f = s2 / (s2 + penalty)
    noise = 1.0 if mean_known else 1 + 1 / n_samples
    train = curve.n_dim - f * A - penalty * s2 / (s2 + penalty) ** 2 * P
    return train, curve.n_dim - 2 * f * A + f**2 * P + s2 * alpha_bar / (s2 + penalty) ** 2 * noise * Q


def _traces(curve, nodes: Nodes, n: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A, P, Q to leading order."""
    fluctuation = nodes.df1 - nodes.df2
    P = curve.n_dim - 2 * nodes.df1 + nodes.df2 + nodes.e2 * fluctuation**2 / (n * nodes.one_minus_v)
    return curve.n_dim - nodes.df1, P, nodes.kappa * fluctuation / nodes.one_minus_v


def _corrections(curve: Population, nodes: Nodes, n: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """δA, δP, δQ of the next order, real Gaussian samples."""
    z, kappa, c, u = nodes.z, nodes.kappa, nodes.c, nodes.one_minus_v
    h3, h4, g2 = curve.power_trace(kappa, 2, 3), curve.power_trace(kappa, 2, 4), curve.power_trace(kappa, 1, 2)
    B = nodes.df2 / u - kappa * h3 / u**2
    slope = (-2 * h3 / u - 2 * nodes.df2 * h3 / (n * u**2) - h3 / u**2 + 3 * kappa * h4 / u**2
             + 4 * kappa * h3**2 / (n * u**3))
    return (z * h3 / (n * u**2), z**2 / (n * u**3) * (3 * h4 + 4 * h3**2 / (n * u)),
            -(z**2) / u * (slope / (n * c) - B * g2 / (n * c) ** 2))
