"""The free theory, S = ln N(x; μ, Σ): the one action whose constant is known in closed form."""

from __future__ import annotations

import numpy as np

from ..action import Action
from ..arrays import as_covariance, as_vector


def gaussian(covariance, mean=None) -> Action:
    """S(x) = −½ (x − μ)ᵀ Σ^{-1} (x − μ) − ½ ln det 2πΣ.

    Parameters
    ----------
    covariance : array_like, shape (n_dim, n_dim)
        Σ, symmetric positive definite.
    mean : array_like, shape (n_dim,), optional
        μ, zero by default; the base point of the result.

    Raises
    ------
    InputError
        Σ is not a covariance, or μ has another shape.
    """
    covariance = as_covariance(np.atleast_2d(covariance))
    n_dim = len(covariance)
    at = np.zeros(n_dim) if mean is None else as_vector(mean, n_dim, "mean")
    precision = np.linalg.inv(covariance)
    constant = -0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    return Action({0: constant, 2: -0.25 * (precision + precision.T)}, at=at)
