"""Samples of a theory: Hamiltonian Monte Carlo on actions, and the diagnostics that say whether to believe it."""

from .diagnostics import autocorrelation, effective_sample_size, split_rhat
from .draw import sample, sample_chains
from .hmc import HMC

__all__ = ["HMC", "autocorrelation", "effective_sample_size", "sample", "sample_chains", "split_rhat"]
