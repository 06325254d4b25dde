"""Normalizing flows: invertible maps between data and a standard Gaussian, with tractable log-determinant."""

from .layers import LinearLayer, QuadraticCouplingLayer
from .quadratic import QuadraticFlow

__all__ = ["LinearLayer", "QuadraticCouplingLayer", "QuadraticFlow"]
