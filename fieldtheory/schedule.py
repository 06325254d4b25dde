"""The noise schedule of a diffusion model, shared by the prediction and by the learners.

    x_t = √ᾱ_t x_0 + s_t ε,   ᾱ_t = Π_{u≤t} (1 − β_u),   s_t² = 1 − ᾱ_t,   σ_t² = s_t²/ᾱ_t,   t = 1 … T,

(J. Ho, A. Jain, P. Abbeel, arXiv:2006.11239). σ_t² is the variance of the noise in the coordinates of the data, y_t = x_t/√ᾱ_t.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import as_count
from .errors import InputError


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Variances of the noise steps of a variance-preserving diffusion.

    Parameters
    ----------
    beta : array_like, shape (n_steps,)
        β_t for t = 1 … T, each in (0, 1).

    Examples
    --------
    >>> NoiseSchedule.linear(1000).alpha_bar[0]
    np.float64(0.9999)
    """

    beta: np.ndarray

    def __post_init__(self):
        beta = np.array(self.beta, dtype=np.float64)
        if beta.ndim != 1 or beta.size == 0 or not np.all((beta > 0) & (beta < 1)):
            raise InputError(f"beta must be a vector of numbers strictly between 0 and 1, got shape {beta.shape}.")
        beta.setflags(write=False)
        object.__setattr__(self, "beta", beta)

    @classmethod
    def linear(cls, n_steps: int = 1000, first: float = 1e-4, last: float = 2e-2) -> NoiseSchedule:
        """β rises linearly; the defaults are those of Ho et al. (2020)."""
        return cls(np.linspace(first, last, as_count(n_steps, "n_steps")))

    @property
    def n_steps(self) -> int:
        """T."""
        return self.beta.size

    @property
    def alpha_bar(self) -> np.ndarray:
        """ᾱ_t for t = 1 … T, shape (n_steps,)."""
        return np.exp(self._log_alpha_bar)

    @property
    def noise_variance(self) -> np.ndarray:
        """s_t² = 1 − ᾱ_t without cancellation, shape (n_steps,)."""
        return -np.expm1(self._log_alpha_bar)

    @property
    def sigma2(self) -> np.ndarray:
        """σ_t² = s_t²/ᾱ_t without cancellation, shape (n_steps,)."""
        return np.expm1(-self._log_alpha_bar)

    @property
    def _log_alpha_bar(self) -> np.ndarray:
        return np.cumsum(np.log1p(-self.beta))
