"""Normalizing flows: invertible maps between data and a standard Gaussian, with tractable log-determinant."""

from .base import Flow, VarianceOfAction
from .conditioners import MLP, ConvNet
from .convolution import Invertible1x1Layer, SplitLayer, SqueezeLayer
from .coupling import AdditiveCouplingLayer, AffineCouplingLayer, QuadraticCouplingLayer
from .glow import Glow
from .layer import Layer
from .linear import ActNormLayer, LinearLayer, LULinearLayer, PermutationLayer, ScalingLayer
from .nice import NICE
from .quadratic import QuadraticFlow
from .realnvp import RealNVP
from .tails import TailLayer

__all__ = [
    "MLP", "NICE", "ActNormLayer", "AdditiveCouplingLayer", "AffineCouplingLayer", "ConvNet", "Flow", "Glow", "Invertible1x1Layer",
    "LULinearLayer", "Layer", "LinearLayer", "PermutationLayer", "QuadraticCouplingLayer", "QuadraticFlow", "RealNVP", "ScalingLayer",
    "SplitLayer", "SqueezeLayer", "TailLayer", "VarianceOfAction",
]
