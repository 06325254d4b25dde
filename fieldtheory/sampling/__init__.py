"""Samples of a theory: Hamiltonian Monte Carlo on actions, and the diagnostics that say whether to believe it."""

from .diagnostics import autocorrelation, bulk_ess, effective_sample_size, split_rhat, tail_ess
from .draw import interleaved, sample, sample_chains, thinned_chains
from .hmc import HMC
from .nuts import NUTS
from .tempering import Tempering

__all__ = ["HMC", "NUTS", "Tempering", "autocorrelation", "bulk_ess", "effective_sample_size", "interleaved", "sample",
           "sample_chains", "split_rhat", "tail_ess", "thinned_chains"]
