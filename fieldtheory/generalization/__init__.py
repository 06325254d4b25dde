"""When does a generative model generalize? Predictions from the covariance of the data.

Two linear diffusion models, trained on disjoint halves with N samples each, are compared through the random matrices Σ̂_A, Σ̂_B. Their
averages follow from the population's spectrum alone (deterministic equivalents), and the spectrum enters only through

    df_1(κ) = tr Σ(Σ + κ)^{-1},    df_2(κ) = tr Σ²(Σ + κ)^{-2},

which can be had from a known spectrum (`spectrum.Population`) or from one data set (`transfer.Transferred`).
"""

from .kullback_leibler import kl_exact, kl_with_ridge
from .predict import SamplesNeeded, predict, samples_needed

__all__ = ["SamplesNeeded", "kl_exact", "kl_with_ridge", "predict", "samples_needed"]
