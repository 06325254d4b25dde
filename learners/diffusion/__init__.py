"""Diffusion models: denoisers, the chain that samples with them, and the density that it samples."""

from .ddpm import DDPM
from .denoiser import Denoiser, LinearDenoiser

__all__ = ["DDPM", "Denoiser", "LinearDenoiser"]
