"""Normalizing flows: invertible maps between data and a standard Gaussian, with tractable log-determinant."""

from .conditioners import MLP, ConvNet
from .convolution import Invertible1x1Layer, SplitLayer, SqueezeLayer
from .coupling import AdditiveCouplingLayer, AffineCouplingLayer, QuadraticCouplingLayer
from .layer import Layer
from .linear import ActNormLayer, LinearLayer, LULinearLayer, PermutationLayer, ScalingLayer
from .quadratic import QuadraticFlow
from .tails import TailLayer

__all__ = [
    "MLP", "ActNormLayer", "AdditiveCouplingLayer", "AffineCouplingLayer", "ConvNet", "Invertible1x1Layer", "LULinearLayer", "Layer",
    "LinearLayer", "PermutationLayer", "QuadraticCouplingLayer", "QuadraticFlow", "ScalingLayer", "SplitLayer", "SqueezeLayer",
    "TailLayer",
]
