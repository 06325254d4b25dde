"""Denoising diffusion (J. Ho, A. Jain, P. Abbeel, arXiv:2006.11239), and with a linear denoiser the exact density of its samples.

Modes of Σ̂ decouple. Probability flow maps the initial noise z to x_0 = μ̂ + U diag(f) Uᵀ (z − √ᾱ_T μ̂), the ancestral sampler adds
independent noise in every step; both generate a Gaussian,

    mean = μ̂ − U diag(ρ) Uᵀ μ̂,  ρ = √ᾱ_T · (factor of the initial noise),    covariance = U diag(v) Uᵀ,

v = f² for probability flow. In directions without variance f vanishes: with fewer samples than dimensions and no ridge the
density is degenerate.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fieldtheory import Action, NoiseSchedule, theories
from fieldtheory.arrays import Columns, as_count, as_points, as_samples
from fieldtheory.errors import InputError, NotNormalizableError, RegimeWarning

from ..learner import Learner, resolve_device
from .denoiser import LinearDenoiser

_SAMPLERS = ("probability_flow", "ancestral")


class DDPM(Learner):
    """A diffusion model around a denoiser.

    Parameters
    ----------
    denoiser : LinearDenoiser
    n_steps : int
        T; β_t rises linearly from 1e-4 to 2e-2 (Ho et al. 2020). Much fewer than 1,000 steps do not end in pure noise.
    sampler : {"probability_flow", "ancestral"}
        Which one `sample`, `log_prob` and the action are about.

    Examples
    --------
    >>> ddpm = DDPM(LinearDenoiser(3)).fit(np.random.default_rng(0).normal(size=(100, 3)))
    >>> ddpm.sample(5, seed=1).shape
    (5, 3)
    """

    def __init__(self, denoiser: LinearDenoiser, n_steps: int = 1000, sampler: str = "probability_flow"):
        if not isinstance(denoiser, LinearDenoiser):
            raise InputError(f"denoiser must be a LinearDenoiser, got {type(denoiser).__name__}.")
        if sampler not in _SAMPLERS:
            raise InputError(f"sampler must be one of {', '.join(_SAMPLERS)}, got {sampler!r}.")
        super().__init__(denoiser.n_dim)
        self.denoiser, self.sampler = denoiser, sampler
        self.schedule = NoiseSchedule.linear(as_count(n_steps, "n_steps"))

    def fit(self, samples, *, seed: int = 0, device: str = "auto", method: str = "closed_form", n_iterations: int = 1000,
            learning_rate: float = 0.5) -> DDPM:
        """Fit the denoiser to samples.

        Parameters
        ----------
        samples : array_like, shape (n_samples, n_dim)
        seed : int
            Not used: nothing in a linear fit is random.
        device : str
        method, n_iterations, learning_rate
            See `LinearDenoiser.fit`.

        Returns
        -------
        DDPM
            self; `history` has step t and train loss (mean over varying dimensions) at each.

        Raises
        ------
        InputError
            Bad samples, device or numbers; the learner is left as it was.

        Warns
        -----
        RegimeWarning
            The variances of the samples lie outside what the noise of the schedule resolves.
        """
        samples = as_samples(samples)
        if samples.shape[1] != self.n_dim:
            raise InputError(f"samples must have the learner's n_dim = {self.n_dim} columns, got {samples.shape[1]}.")
        columns = Columns.of(samples)
        self.to(resolve_device(device))
        self.denoiser.fit(samples, self.schedule, method, n_iterations, learning_rate)
        self.columns = columns
        self.history = {"step": list(range(1, self.schedule.n_steps + 1)), "train": self.loss(samples).tolist()}
        self._warn_outside_regime()
        return self

    def loss(self, samples) -> np.ndarray:
        """Mean over the varying dimensions of E(ε − ε_θ)² on samples, the average over ε exact; shape (n_steps,)."""
        x = self._points(samples)
        total = self.denoiser.total_loss(self.columns.restore(self.columns.drop(x)), self.schedule)
        # Eigenvalues ascend: where columns are constant, the first is their zero; a ridge leaves them a loss of (1 − s w)² each.
        s, w = np.sqrt(self.schedule.noise_variance), self.denoiser.gain[:, 0].cpu().numpy()
        return (total - self.columns.dropped.size * (1 - s * w) ** 2) / self.columns.kept.size

    def total_loss(self, samples) -> np.ndarray:
        """Σ over all dimensions, constant columns included: off their constants, and with a ridge, they have a loss too."""
        return self.denoiser.total_loss(self._points(samples), self.schedule)

    def generate(self, noise, sampler: str | None = None, n_sampling_steps: int | None = None, seed: int = 0) -> np.ndarray:
        """What the sampler makes of given initial noise.

        With a ridge, columns that are constant in the samples vary by it like every direction without variance, so that learners
        of different halves can be compared; `sample` puts their constants back.

        Parameters
        ----------
        noise : array_like, shape (n_samples, n_dim)
            Standard normal; share it between learners to compare them.
        sampler : {"probability_flow", "ancestral"}, optional
            That of the learner by default.
        n_sampling_steps : int, optional
            Probability flow on so many steps, evenly chosen with T and 1; all by default.
        seed : int
            Of the step noises of the ancestral sampler: the same seed shares them too.

        Returns
        -------
        ndarray, shape (n_samples, n_dim)
        """
        self._require_fit()
        generator = torch.Generator().manual_seed(as_count(seed, "seed", minimum=0))
        z = torch.as_tensor(as_points(noise, self.n_dim, "noise"), device=self.device)
        with torch.no_grad():
            if self._sampler(sampler) == "ancestral":
                if n_sampling_steps not in (None, self.schedule.n_steps):
                    raise InputError("n_sampling_steps must be left out for the ancestral sampler: it takes every step.")
                x = self.denoiser.ancestral(z, self.schedule, generator)
            else:
                x = self.denoiser.probability_flow(z, self.schedule, self._steps(n_sampling_steps))
        return x.cpu().numpy()

    def score(self, x, t: int | None = None) -> np.ndarray:
        """∇S at points in the varying columns: of the generated density (t = None), or −ε_θ(x_t, t)/s_t of noised points at step t."""
        if t is None:
            return super().score(x)
        self._require_fit()
        t, x = self._step(t), as_points(x, self.n_dim)
        with torch.no_grad():
            flat = torch.as_tensor(x.reshape(-1, self.n_dim), device=self.device)
            noise = self.denoiser(flat, t).cpu().numpy().reshape(x.shape)
        return -self.columns.drop(noise) / math.sqrt(self.schedule.noise_variance[t - 1])

    def action(self, t: int | None = None, coordinates: str = "data") -> Action:
        """The exact Gaussian action of the varying columns.

        Parameters
        ----------
        t : int, optional
            None for the density that the sampler produces; a step 1 … T for the action whose score the denoiser learned at it.
        coordinates : {"data", "noised"}
            Of the action at step t: y = x_t/√ᾱ_t, or x_t.

        Raises
        ------
        InputError
            Not fitted, no such step or coordinates, or noised coordinates without a step.
        NotNormalizableError
            The density is degenerate: fewer samples than dimensions and no ridge, or an untrained direction.
        """
        self._require_fit()
        if coordinates not in ("data", "noised"):
            raise InputError(f"coordinates must be data or noised, got {coordinates!r}.")
        if t is None and coordinates == "noised":
            raise InputError("t must be a step for noised coordinates, got None: generated samples have coordinates of the data.")
        mean, variances = self._generated() if t is None else self._noised(self._step(t), coordinates)
        U = self.denoiser.vectors.cpu().numpy()[self.columns.kept]
        covariance = (U * variances) @ U.T
        if np.linalg.eigvalsh(covariance)[0] <= 1e-12 * variances.max():
            raise NotNormalizableError("the density of this learner is degenerate, its covariance is singular: it saw no more samples "
                                       "than dimensions, or its columns depend on each other. Fit more samples, or give LinearDenoiser "
                                       "a ridge.")
        action = theories.gaussian(covariance, self.columns.drop(mean))
        return Action(action.couplings, action.at, names=self.names)

    def save(self, path) -> Path:
        """As every learner's, but only after a fit; `InputError` before, when there is nothing to keep."""
        self._require_fit()
        return super().save(path)

    def config(self) -> dict:
        """Arguments of the constructor, the denoiser's among them."""
        return {"denoiser": self.denoiser.config(), "n_steps": self.schedule.n_steps, "sampler": self.sampler}

    @classmethod
    def from_config(cls, denoiser: dict, **rest) -> DDPM:
        """Rebuild the untrained module from `config`."""
        return cls(LinearDenoiser(**denoiser), **rest)

    def set_columns(self, columns: Columns) -> None:
        """The denoiser works on all columns; only the density leaves the constant ones out."""
        self.columns = columns

    def load_state_dict(self, state_dict, *args, **kwargs):
        """Of a fitted learner: a gain for every step."""
        self.denoiser.gain = self.denoiser.gain.new_zeros(self.schedule.n_steps, self.n_dim)
        self.denoiser.root_alpha_bar = self.denoiser.root_alpha_bar.new_zeros(self.schedule.n_steps)
        return super().load_state_dict(state_dict, *args, **kwargs)

    def _generated(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance per mode of what the sampler produces."""
        d = self.denoiser
        if self.sampler == "ancestral":
            factor, variances = d.ancestral_moments(self.schedule)
        else:
            factor = d.flow_gain(self.schedule, self._steps(None)).cpu()
            variances = factor**2
        U, mean = d.vectors.cpu().numpy(), d.mean.cpu().numpy()
        rho = math.sqrt(self.schedule.alpha_bar[-1]) * factor.numpy()
        return mean - U @ (rho * (U.T @ mean)), variances.numpy()

    def _noised(self, t: int, coordinates: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance s_t/w_tk per mode of the Gaussian with score −ε_θ/s_t."""
        gain, alpha_bar = self.denoiser.gain[t - 1].cpu().numpy(), self.schedule.alpha_bar[t - 1]
        with np.errstate(divide="ignore"):
            variances = np.where(gain > 0, math.sqrt(self.schedule.noise_variance[t - 1]) / gain, 0.0)
        mean = self.denoiser.mean.cpu().numpy()
        return (mean, variances / alpha_bar) if coordinates == "data" else (math.sqrt(alpha_bar) * mean, variances)

    def _log_prob(self, x: Tensor) -> Tensor:
        S = self.action()
        precision = torch.tensor(-2 * S.couplings[2].dense(), device=x.device)
        u = x - torch.tensor(S.at, device=x.device)
        return S[()] - 0.5 * ((u @ precision) * u).sum(dim=1)

    def _sample(self, n_samples: int, generator: torch.Generator, sampler: str | None = None,
                n_sampling_steps: int | None = None) -> Tensor:
        noise = torch.randn(n_samples, self.n_dim, dtype=torch.float64, generator=generator).numpy()
        seed = int(torch.randint(2**62, (1,), generator=generator))
        return torch.from_numpy(self.columns.drop(self.generate(noise, sampler, n_sampling_steps, seed)))

    def _steps(self, count: int | None) -> list[int]:
        T = self.schedule.n_steps
        count = T if count is None else as_count(count, "n_sampling_steps")
        if count > T:
            raise InputError(f"n_sampling_steps must be at most the {T} steps of the schedule, got {count}.")
        return [int(t) for t in np.unique(np.rint(np.linspace(T, 1, count)).astype(int))[::-1]] if count > 1 else [T]

    def _step(self, t) -> int:
        t = as_count(t, "t")
        if t > self.schedule.n_steps:
            raise InputError(f"t must be a step 1 … {self.schedule.n_steps}, got {t}.")
        return t

    def _sampler(self, sampler: str | None) -> str:
        sampler = self.sampler if sampler is None else sampler
        if sampler not in _SAMPLERS:
            raise InputError(f"sampler must be one of {', '.join(_SAMPLERS)}, got {sampler!r}.")
        return sampler

    def _warn_outside_regime(self) -> None:
        """More than a tenth of the variance in modes that the first step drowns, or that outlast the noise of the last."""
        variances = (self.denoiser.eigenvalues + self.denoiser.ridge).cpu().numpy()
        first, last = self.schedule.sigma2[[0, -1]]
        inside = (variances > 10 * first) & (variances < 0.1 * last)
        if variances[inside].sum() < 0.9 * variances.sum():
            warnings.warn(f"the variances of the samples must lie well above {first:.1e} and well below {last:.1e}, those of the noise "
                          f"in the first and last of {self.schedule.n_steps} steps; they do not, and generated samples will have other "
                          "variances. Multiply all samples by one number, or change n_steps.", RegimeWarning, stacklevel=3)

    def _points(self, samples) -> np.ndarray:
        self._require_fit()
        return as_points(as_samples(samples, min_samples=1), self.n_dim, "samples")

    def _require_fit(self) -> None:
        if self.denoiser.gain.shape[0] == 0:
            raise InputError("the learner must be fitted first; call fit(samples).")
