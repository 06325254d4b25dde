"""Denoisers ε_θ(x_t, t) ≈ ε of x_t = √ᾱ_t x_0 + s_t ε, and the two samplers that only need to call one.

The linear denoiser is exactly solvable. On N samples with mean μ̂ and covariance Σ̂ = U diag(l) Uᵀ, averaged over ε,

    ε_θ(x, t) = W_t (x − √ᾱ_t μ̂),    loss_t = Σ_k 1 − 2 s w_tk + w_tk² (ᾱ_t l_k + s²) + γ_t w_tk²,    W_t = U diag(w_t) Uᵀ,

has its optimum at w_tk = s/(ᾱ_t l_k + s² + γ_t), and gradient descent from W = 0 never leaves the eigenbasis. The penalty is
γ_t = c ᾱ_t with c the ridge, so that Σ̂ → Σ̂ + c at every step (C. Merger, S. Goldt, arXiv:2505.24769).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fieldtheory import NoiseSchedule
from fieldtheory.arrays import as_count
from fieldtheory.errors import InputError


class Denoiser(nn.Module):
    """Interface: ``forward(x, t)`` is ε_θ of points (n, n_dim) at step t = 1 … T.

    A denoiser also defines ``fit(points, schedule, …)`` and ``config()``.
    """

    def probability_flow(self, noise: Tensor, schedule: NoiseSchedule, steps: Sequence[int]) -> Tensor:
        """Deterministic sampling (DDIM, η = 0): x_u = √ᾱ_u x̂_0 + s_u ε_θ along the descending `steps`, and x̂_0 at the end."""
        root, s = _roots(schedule)
        x = noise
        for t, u in zip(steps, [*steps[1:], 0]):
            noise_part = self(x, t)
            x = root[u] / root[t] * (x - s[t] * noise_part) + s[u] * noise_part
        return x

    def ancestral(self, noise: Tensor, schedule: NoiseSchedule, generator: torch.Generator, variance: str = "beta") -> Tensor:
        """Stochastic sampling of Ho et al. (2020) with step noise β_t, or its posterior value; none in the last step."""
        _, s = _roots(schedule)
        sigma = step_noise(schedule, variance)
        x = noise
        for t in range(schedule.n_steps, 0, -1):
            beta = schedule.beta[t - 1]
            x = (x - beta / s[t] * self(x, t)) / np.sqrt(1 - beta)
            if t > 1:
                x = x + sigma[t] * torch.randn(x.shape, dtype=x.dtype, generator=generator).to(x.device)
        return x


def step_noise(schedule: NoiseSchedule, variance: str) -> np.ndarray:
    """Standard deviation of the noise added in step t, indexed by t = 0 … T; none for t ≤ 1."""
    if variance not in ("beta", "posterior"):
        raise InputError(f"variance must be beta or posterior, got {variance!r}.")
    s2 = np.concatenate([[0.0], schedule.noise_variance])
    sigma2 = np.concatenate([[0.0], schedule.beta])
    if variance == "posterior":
        sigma2[1:] *= s2[:-1] / s2[1:]
    sigma2[1] = 0.0
    return np.sqrt(sigma2)


def _roots(schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray]:
    """√ᾱ_t and s_t for t = 0 … T."""
    return np.concatenate([[1.0], np.sqrt(schedule.alpha_bar)]), np.concatenate([[0.0], np.sqrt(schedule.noise_variance)])


class LinearDenoiser(Denoiser):
    """ε_θ(x, t) = W_t (x − √ᾱ_t μ̂).

    Parameters
    ----------
    n_dim : int
    ridge : float
        c ≥ 0, a variance.

    Attributes
    ----------
    mean, eigenvalues, vectors : Tensor
        μ̂ (n_dim,), l (n_dim,), U (n_dim, n_dim) of the biased covariance (1/N).
    gain : Tensor, shape (n_steps, n_dim)
        w_tk.
    """

    def __init__(self, n_dim: int, ridge: float = 0.0):
        super().__init__()
        self.n_dim = as_count(n_dim, "n_dim")
        if not 0 <= ridge < np.inf:
            raise InputError(f"ridge must be a finite variance of at least 0, got {ridge!r}.")
        self.ridge = float(ridge)
        for name, shape in (("mean", (n_dim,)), ("eigenvalues", (n_dim,)), ("vectors", (n_dim, n_dim)), ("gain", (0, n_dim)),
                            ("root_alpha_bar", (0,))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def fit(self, points: np.ndarray, schedule: NoiseSchedule, method: str = "closed_form", n_iterations: int = 1000,
            learning_rate: float = 0.5) -> None:
        """Set W_t to its optimum, or to where gradient descent gets.

        Parameters
        ----------
        points : ndarray, shape (n_samples, n_dim)
        schedule : NoiseSchedule
        method : {"closed_form", "gradient_descent"}
            Gradient descent starts at W = 0 and follows the exact gradient of the loss on all samples.
        n_iterations : int
            Of gradient descent.
        learning_rate : float
            In units of the inverse of the largest curvature at each step, stable below 1.
        """
        centred = points - points.mean(axis=0)
        values, vectors = np.linalg.eigh(centred.T @ centred / len(points))
        # Rounding must not give variance to directions that have none, whatever the units.
        values = np.where(values > values.size * np.finfo(float).eps * values[-1], values, 0.0)
        s = np.sqrt(schedule.noise_variance)[:, None]
        curvature = schedule.alpha_bar[:, None] * (values + self.ridge) + s**2
        gain = s / curvature
        if method == "gradient_descent":
            gain = gain * self._progress(curvature, n_iterations, learning_rate)
        elif method != "closed_form":
            raise InputError(f"method must be closed_form or gradient_descent, got {method!r}.")
        for name, value in (("mean", points.mean(axis=0)), ("eigenvalues", values), ("vectors", vectors), ("gain", gain),
                            ("root_alpha_bar", np.sqrt(schedule.alpha_bar))):
            setattr(self, name, torch.as_tensor(value, device=self.mean.device))

    @staticmethod
    def _progress(curvature: np.ndarray, n_iterations: int, learning_rate: float) -> np.ndarray:
        """w_n/w_∞ of w ← w − 2η (v w − s): 1 − (1 − 2ηv)^n with 2η v_max = 2·learning_rate."""
        n_iterations = as_count(n_iterations, "n_iterations", minimum=0)
        if not 0 < learning_rate < 1:
            raise InputError(f"learning_rate must lie between 0 and 1, the stability limit, got {learning_rate!r}.")
        return 1 - (1 - 2 * learning_rate * curvature / curvature.max(axis=1, keepdims=True)) ** n_iterations

    def forward(self, x: Tensor, t: int) -> Tensor:
        """ε_θ(x, t)."""
        return (x - self.root_alpha_bar[t - 1] * self.mean) @ self.vectors * self.gain[t - 1] @ self.vectors.T

    def flow_gain(self, schedule: NoiseSchedule, steps: Sequence[int]) -> Tensor:
        """f_k, with x_0 = μ̂ + U diag(f) Uᵀ (noise − √ᾱ μ̂): the product of what each deterministic step does to mode k."""
        root, s = (torch.as_tensor(a) for a in _roots(schedule))
        t = torch.as_tensor(list(steps))
        u = torch.cat([t[1:], t.new_zeros(1)])
        gain = self.gain.cpu()[t - 1]
        factors = (root[u] / root[t])[:, None] * (1 - s[t][:, None] * gain) + s[u][:, None] * gain
        return factors.prod(dim=0).to(self.mean.device)

    def ancestral_moments(self, schedule: NoiseSchedule, variance: str = "beta") -> tuple[Tensor, Tensor]:
        """Per mode: the factor of the initial noise, and the variance of the sample."""
        beta, s = schedule.beta, np.sqrt(schedule.noise_variance)
        factors = (1 - (beta / s)[:, None] * self.gain.cpu().numpy()) / np.sqrt(1 - beta)[:, None]
        sigma = step_noise(schedule, variance)
        v = np.ones(self.n_dim)
        for t in range(schedule.n_steps, 0, -1):
            v = factors[t - 1] ** 2 * v + sigma[t] ** 2
        return torch.as_tensor(factors.prod(axis=0)), torch.as_tensor(v)

    def probability_flow(self, noise: Tensor, schedule: NoiseSchedule, steps: Sequence[int]) -> Tensor:
        """The same map as step by step, in one product: all steps share their eigenbasis."""
        centred = (noise - self.root_alpha_bar[steps[0] - 1] * self.mean) @ self.vectors
        return self.mean + (centred * self.flow_gain(schedule, steps)) @ self.vectors.T

    def total_loss(self, points: np.ndarray, schedule: NoiseSchedule) -> np.ndarray:
        """Σ over dimensions of E(ε − ε_θ)², averaged over points and, exactly, over ε; shape (n_steps,)."""
        y2 = (((points - self.mean.cpu().numpy()) @ self.vectors.cpu().numpy()) ** 2).mean(axis=0)
        w, s2 = self.gain.cpu().numpy(), schedule.noise_variance[:, None]
        return np.sum(1 - 2 * np.sqrt(s2) * w + w**2 * (schedule.alpha_bar[:, None] * y2 + s2), axis=1)

    def config(self) -> dict:
        """Arguments of the constructor."""
        return {"n_dim": self.n_dim, "ridge": self.ridge}
