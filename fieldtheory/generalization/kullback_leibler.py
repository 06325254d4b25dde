"""Kullback–Leibler divergence between a Gaussian and its fit to N samples, averaged over data sets.

The fit p_θ = N(μ̂, Σ̂ + c) of p = N(μ, Σ). Without ridge the average is exact for every N and does not depend on the spectrum: with
Λ = Σ_{i=1}^d ψ((n − i + 1)/2) + d ln(2/N) = E ln det Σ̂ − ln det Σ (Wishart),

    E KL(p‖p_θ) = ½ [(N + 1) d/(n − d − 1) − d + Λ],    E KL(p_θ‖p) = −½ Λ,

→ d/(4N) per dimension for N ≫ d (C. Merger, S. Goldt, arXiv:2505.24769). Infinite for N ≤ d + 2 and N ≤ d.
"""

from __future__ import annotations

import numpy as np
from scipy.special import digamma

from .spectrum import Population


def kl_exact(n_dim: int, n_samples: int, mean_known: bool = False) -> tuple[float, float]:
    """E KL(p‖p_θ) and E KL(p_θ‖p) in nats per dimension, without ridge; inf where they diverge."""
    d, N = n_dim, n_samples
    n = N if mean_known else N - 1
    if n < d:
        return np.inf, np.inf
    log_det = np.sum(digamma(0.5 * (n - np.arange(d)))) + d * np.log(2 / N)
    misfit = (N if mean_known else N + 1) * d / (n - d - 1) if n > d + 1 else np.inf
    return float(0.5 * (misfit - d + log_det) / d), float(-0.5 * log_det / d)


def kl_with_ridge(population: Population, n_samples: int, ridge: float, mean_known: bool = False,
                  next_order: bool = True) -> tuple[float, float]:
    """The same for p_θ = N(μ̂, Σ̂ + c), c > 0, from deterministic equivalents, any N.

    With z = c N/n: E ln det(S + z) ≃ Σ ln(λ + κ) + (d − n) ln(z/κ) + n (z/κ − 1) [+ ½ ln u], tr Σ(S + z)^{-1} ≃ n (κ − z)/z [+ B/(nc)].
    """
    N, d, lam = n_samples, population.n_dim, population.spectrum
    n = N if mean_known else N - 1
    nodes = population.at(np.array([ridge * N / n]), n)
    z, kappa, c, u = nodes.z[0], nodes.kappa[0], nodes.c[0], nodes.one_minus_v[0]
    log_det = np.sum(np.log(lam + kappa)) + (d - n) * np.log(c) + n * (c - 1)
    trace = n * (kappa - z) / z
    if next_order:
        log_det += 0.5 * np.log(u)
        trace += (nodes.df2[0] / u - kappa * population.power_trace(nodes.kappa, 2, 3)[0] / u**2) / (n * c)
    relative = log_det + d * np.log(n / N) - np.sum(np.log(lam))
    spread = 1.0 if mean_known else 1 + 1 / N
    forward = 0.5 * (N / n * spread * trace - d + relative)
    backward = 0.5 * (ridge * np.sum(1 / lam) - relative)
    return float(forward / d), float(backward / d)
