"""A flow written down as nodes.

Each layer becomes linear maps, elementwise units, products and quadratic maps on a `fieldtheory.tape.Tape`, and its log-determinant is
added to what the tape computes:

    S(x) = −½|z|² − (n_dim/2) ln 2π + Σ_l ln|det f_l'|.

Selections, permutations and convolutions are sparse matrices. A layer or a unit of another package joins by registering itself with
`record` or `record_network`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatch
from math import log, pi

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from fieldtheory import memory, units
from fieldtheory.assembly import assemble
from fieldtheory.errors import InputError
from fieldtheory.tape import Tape
from fieldtheory.tensors import SymmetricTensor

from ..flows import (
    MLP,
    ActNormLayer,
    AdditiveCouplingLayer,
    AffineCouplingLayer,
    ConvNet,
    Invertible1x1Layer,
    LinearLayer,
    LULinearLayer,
    PermutationLayer,
    QuadraticCouplingLayer,
    ScalingLayer,
    SplitLayer,
    TailLayer,
)

Couplings = dict[int, SymmetricTensor]


def tape_of(layers: Iterable[nn.Module], n_dim: int) -> Tape:
    """ln p as a function of x on a tape, for layers from data to a standard Gaussian."""
    tape, u = Tape(n_dim), 0
    for layer in layers:
        u = record(layer, tape, u)
    tape.output(tape.unit(u, units.square), -0.5)
    tape.constant -= 0.5 * n_dim * log(2 * pi)
    return tape


@singledispatch
def record(layer, tape: Tape, u: int) -> int:
    """Put a layer on the tape: the number of its output for input u. Its ln|det| goes to the tape's output."""
    raise InputError(f"a layer of type {type(layer).__name__} must say what nodes it has to be converted; register it with "
                     "learners.conversion.record.")


def expand(layer: nn.Module, x: np.ndarray, order: int) -> tuple[np.ndarray, dict[int, np.ndarray], Couplings]:
    """A layer around x: its image, the Taylor series of the displacement by degree, and the couplings of its ln|det|.

    Parameters
    ----------
    layer : Module
    x : ndarray, shape (n_dim,)
    order : int
        Highest degree; above 4 the layer must be a polynomial of degree at most 4.
    """
    memory.require(8 * x.size ** (min(order, 4) + 1), f"the series of a layer of {x.size} variables to order {order}",
                   "lower the order, or trace fewer variables")
    tape = Tape(x.size)
    y = record(layer, tape, 0)
    log_det = assemble(tape, x, min(order, 4) if tape.degree() > 0 else 0)
    rows = []
    for weights in np.eye(x.size):
        one = Tape(tape.n_in, tape.nodes, [(y, weights)])
        rows.append(assemble(one, x, int(min(order, one.degree()))))
    image = np.array([row[0].packed[0] for row in rows])
    degrees = range(1, 1 + max(max(row) for row in rows))
    return image, {d: np.stack([row[d].dense() if d in row else np.zeros((x.size,) * d) for row in rows]) for d in degrees}, log_det


@record.register(LinearLayer)
@record.register(LULinearLayer)
def _(layer, tape: Tape, u: int) -> int:
    return _affine(tape, u, layer, _array(layer.weight), _array(layer.bias))


@record.register
def _(layer: PermutationLayer, tape: Tape, u: int) -> int:
    return tape.linear([(u, _selection(layer.indices.tolist(), layer.indices.numel()))])


@record.register
def _(layer: ScalingLayer, tape: Tape, u: int) -> int:
    return _affine(tape, u, layer, sparse.diags_array(np.exp(_array(layer.log_scale))))


@record.register
def _(layer: ActNormLayer, tape: Tape, u: int) -> int:
    scale, bias = (np.repeat(part, layer.n_sites) for part in (np.exp(_array(layer.log_scale)), _array(layer.bias)))
    return _affine(tape, u, layer, sparse.diags_array(scale), bias)


@record.register
def _(layer: Invertible1x1Layer, tape: Tape, u: int) -> int:
    return _affine(tape, u, layer, sparse.kron(_array(layer.weight), sparse.eye_array(layer.n_sites), format="csr"))


@record.register
def _(layer: AdditiveCouplingLayer, tape: Tape, u: int) -> int:
    read, _ = _halves(layer)
    shift = record_network(layer.conditioner, tape, tape.linear([(u, read)]))
    return _with_added(tape, u, layer, shift)


@record.register
def _(layer: QuadraticCouplingLayer, tape: Tape, u: int) -> int:
    read, _ = _halves(layer)
    return _with_added(tape, u, layer, tape.quadratic(tape.linear([(u, read)]), layer.chi_dense().astype(float)))


@record.register
def _(layer: AffineCouplingLayer, tape: Tape, u: int) -> int:
    """y_w = x_w e^s + t, s = c tanh(raw/c)."""
    read, written = _halves(layer)
    both, n = record_network(layer.conditioner, tape, tape.linear([(u, read)])), len(layer.written)
    raw = tape.linear([(both, _selection(range(n, 2 * n), 2 * n))])
    s = tape.unit(raw, units.scaled(units.tanh, 1 / layer.bound, layer.bound))
    tape.output(s, np.ones(n))
    scaled = tape.product(tape.linear([(u, written)]), tape.unit(s, units.exp))
    return tape.linear([(u, read.T @ read), (scaled, written.T), (both, written.T @ _selection(range(n), 2 * n))])


@record.register
def _(layer: SplitLayer, tape: Tape, u: int) -> int:
    n_dim = tape.size(u)
    kept, rest = _selection(range(layer.n_kept), n_dim), _selection(range(layer.n_kept, n_dim), n_dim)
    inner = tape.linear([(u, kept)])
    for part in layer.layers:
        inner = record(part, tape, inner)
    return tape.linear([(inner, kept.T), (u, rest.T @ rest)])


@record.register
def _(layer: TailLayer, tape: Tape, u: int) -> int:
    power = np.exp(_array(layer.log_power))
    tape.output(tape.unit(u, units.tail_log_slope(power)), np.ones(power.size))
    return tape.unit(u, units.tail(power))


@singledispatch
def record_network(module, tape: Tape, u: int) -> int:
    """Put what a coupling layer computes from the variables it reads on the tape."""
    raise InputError(f"a network part of type {type(module).__name__} must say what nodes it has to be converted; register it with "
                     "learners.conversion.record_network, or convert by projection or normal_ordered.")


@record_network.register
def _(module: MLP, tape: Tape, u: int) -> int:
    return record_network(module.network, tape, u)


@record_network.register
def _(module: nn.Sequential, tape: Tape, u: int) -> int:
    for part in module:
        u = record_network(part, tape, u)
    return u


@record_network.register
def _(module: ConvNet, tape: Tape, u: int) -> int:
    """Convolutions keep height and width, so that each is a matrix once these are known."""
    _, H, W = module.shape
    for part in module.network:
        if isinstance(part, nn.Conv2d):
            u = tape.linear([(u, _convolution(part, H, W))], np.repeat(_array(part.bias), H * W))
        else:
            u = record_network(part, tape, u)
    return u


@record_network.register
def _(module: nn.Linear, tape: Tape, u: int) -> int:
    return tape.linear([(u, _array(module.weight))], 0.0 if module.bias is None else _array(module.bias))


@record_network.register
def _(module: nn.Tanh, tape: Tape, u: int) -> int:
    return tape.unit(u, units.tanh)


@record_network.register
def _(module: nn.SiLU, tape: Tape, u: int) -> int:
    return tape.unit(u, units.silu)


@record_network.register
def _(module: nn.Softplus, tape: Tape, u: int) -> int:
    return tape.unit(u, units.scaled(units.softplus, module.beta, 1 / module.beta))


def _affine(tape: Tape, u: int, layer: nn.Module, matrix, bias=0.0) -> int:
    """y = M u + b, and the layer's constant ln|det|."""
    weight = next(layer.parameters())
    with torch.no_grad():
        tape.constant += float(layer.to_latent(weight.new_zeros(1, matrix.shape[1]))[1])
    return tape.linear([(u, matrix)], bias)


def _with_added(tape: Tape, u: int, layer: nn.Module, shift: int) -> int:
    """y_w = u_w + shift."""
    _, written = _halves(layer)
    return tape.linear([(u, sparse.eye_array(written.shape[1], format="csr")), (shift, written.T)])


def _halves(layer: nn.Module) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Matrices that select the variables read and those written."""
    n_dim = len(layer.read) + len(layer.written)
    return _selection(layer.read, n_dim), _selection(layer.written, n_dim)


def _selection(indices: Iterable[int], n: int) -> sparse.csr_array:
    """y_i = u_{indices_i}, shape (n_indices, n)."""
    indices = list(indices)
    return sparse.csr_array((np.ones(len(indices)), (range(len(indices)), indices)), shape=(len(indices), n))


def _convolution(module: nn.Conv2d, H: int, W: int) -> sparse.csr_array:
    """The matrix of a convolution that keeps height and width: one shift of the image for each place of the kernel."""
    kernel = _array(module.weight)
    up, left = kernel.shape[2] // 2, kernel.shape[3] // 2
    if module.padding != (up, left) or module.stride != (1, 1) or module.dilation != (1, 1) or module.groups != 1:
        raise InputError(f"a convolution must keep height and width to be converted, got {module}.")
    shifts = (sparse.kron(kernel[:, :, i, j], sparse.kron(sparse.eye_array(H, k=i - up), sparse.eye_array(W, k=j - left)))
              for i, j in np.ndindex(kernel.shape[2:]))
    return sparse.csr_array(sum(shifts))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float64)
