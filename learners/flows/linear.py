"""Layers that are affine, all with constant Jacobian.

* `LinearLayer`: y = W x + b, W any invertible matrix, ln|det W| computed.
* `LULinearLayer`: y = P L U x + b with a permutation P, L unit lower and U upper triangular with diagonal d, ln|det| = Σ ln d. The
  diagonal is positive and bounded, ln d = c tanh(raw/c): W stays invertible, and however many layers are stacked, the
  log-determinant stays within ±c n_dim each (D. Kingma, P. Dhariwal, arXiv:1807.03039, section 3.2, without the bound).
* `PermutationLayer`: y_i = x_π(i), ln|det| = 0.
* `ScalingLayer`: y = e^s x, ln|det| = Σ s, the diagonal layer of NICE (L. Dinh, D. Krueger, Y. Bengio, arXiv:1410.8516).
* `ActNormLayer`: y = e^s x + b, one s and b for all sites of a channel, set from the first points that it sees such that y has
  mean 0 and variance 1 (arXiv:1807.03039, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fieldtheory.errors import InputError

from .layer import Layer

_BOUND = 3.0  # c of ln d; the pivots of random rotations lie within it up to hundreds of variables


class LinearLayer(Layer):
    """h = W x + b.

    Parameters
    ----------
    weight : array_like, shape (n_dim, n_dim)
        W, invertible.
    bias : array_like, shape (n_dim,)
    """

    constant_jacobian = True

    def __init__(self, weight, bias):
        super().__init__()
        weight, bias = (torch.as_tensor(part, dtype=torch.float64).clone() for part in (weight, bias))
        if weight.ndim != 2 or weight.shape[0] != weight.shape[1] or bias.shape != weight.shape[:1]:
            raise InputError("a linear layer must have weight (n, n) and bias (n,), got "
                             f"{tuple(weight.shape)} and {tuple(bias.shape)}.")
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x → W x + b, ln|det W|."""
        return x @ self.weight.T + self.bias, torch.linalg.slogdet(self.weight)[1]

    def to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z → W^{-1}(z − b), −ln|det W|."""
        return torch.linalg.solve(self.weight, (z - self.bias).T).T, -torch.linalg.slogdet(self.weight)[1]


class LUMatrix(nn.Module):
    """W = P L U with its log-determinant; the identity at first.

    Parameters
    ----------
    n : int
        Rows and columns.

    Attributes
    ----------
    factors : Parameter, shape (n, n)
        Below the diagonal that of L, above it that of U, on it raw, with ln U_ii = c tanh(raw_i/c).
    permutation : Tensor of int, shape (n,)
        π of P: (P y)_i = y_π(i). Not trained.
    """

    def __init__(self, n: int):
        super().__init__()
        self.factors = nn.Parameter(torch.zeros(n, n, dtype=torch.float64))
        self.register_buffer("permutation", torch.arange(n))
        self.register_load_state_dict_post_hook(lambda module, _: _require_permutation(module.permutation.tolist()))

    def matrix(self) -> Tensor:
        """W, shape (n, n)."""
        L, U = self._triangles()
        return (L @ U)[self.permutation]

    def log_det(self) -> Tensor:
        """Σ_i ln U_ii."""
        return self._log_diagonal().sum()

    def solve(self, y: Tensor) -> Tensor:
        """W^{-1} y of columns y, shape (..., n, n_columns)."""
        L, U = self._triangles()
        y = y.index_select(-2, torch.argsort(self.permutation))
        y = torch.linalg.solve_triangular(L, y, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(U, y, upper=True)

    def draw(self, rng: np.random.Generator) -> None:
        """A random rotation, up to the bound; columns are reflected such that all pivots are positive."""
        from scipy.linalg import lu

        permutation, L, U = lu(random_orthogonal(len(self.factors), rng), p_indices=True)
        U = U * np.sign(np.diag(U))
        raw = _BOUND * np.arctanh(np.clip(np.log(np.diag(U)) / _BOUND, -0.99, 0.99))
        factors = np.tril(L, -1) + np.triu(U, 1) + np.diag(raw)
        with torch.no_grad():
            self.factors.copy_(torch.from_numpy(factors))
            self.permutation.copy_(torch.from_numpy(permutation))

    def _triangles(self) -> tuple[Tensor, Tensor]:
        F = self.factors
        one = torch.eye(len(F), dtype=F.dtype, device=F.device)
        return F.tril(-1) + one, F.triu(1) + torch.diag(self._log_diagonal().exp())

    def _log_diagonal(self) -> Tensor:
        return _BOUND * torch.tanh(self.factors.diagonal() / _BOUND)


class LULinearLayer(Layer):
    """y = P L U x + b; the identity at first, also at the start of a fit.

    Parameters
    ----------
    n_dim : int

    Attributes
    ----------
    lu : LUMatrix
    bias : Parameter, shape (n_dim,)
    """

    constant_jacobian = True

    def __init__(self, n_dim: int):
        super().__init__()
        self.lu = LUMatrix(n_dim)
        self.bias = nn.Parameter(torch.zeros(n_dim, dtype=torch.float64))

    @property
    def weight(self) -> Tensor:
        """W = P L U, shape (n_dim, n_dim)."""
        return self.lu.matrix()

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x → W x + b, Σ ln U_ii."""
        return x @ self.weight.T + self.bias, self.lu.log_det()

    def to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z → W^{-1}(z − b), −Σ ln U_ii."""
        return self.lu.solve((z - self.bias).T).T, -self.lu.log_det()


class PermutationLayer(Layer):
    """y_i = x_π(i).

    Parameters
    ----------
    indices : sequence of int
        π, every variable once.
    """

    constant_jacobian = True

    def __init__(self, indices: Sequence[int]):
        super().__init__()
        _require_permutation(indices)
        indices = torch.tensor(indices)
        self.register_buffer("indices", indices, persistent=False)
        self.register_buffer("inverse", torch.argsort(indices), persistent=False)

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x → x_π, 0."""
        return x.index_select(1, self.indices), x.new_zeros(())

    def to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Back, 0."""
        return z.index_select(1, self.inverse), z.new_zeros(())


class ScalingLayer(Layer):
    """y = e^s x.

    Parameters
    ----------
    n_dim : int

    Attributes
    ----------
    log_scale : Parameter, shape (n_dim,)
        s, 0 at first.
    """

    constant_jacobian = True

    def __init__(self, n_dim: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(n_dim, dtype=torch.float64))

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x → e^s x, Σ s."""
        return x * self.log_scale.exp(), self.log_scale.sum()

    def to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z → e^{−s} z, −Σ s."""
        return z * (-self.log_scale).exp(), -self.log_scale.sum()


class ActNormLayer(Layer):
    """y = e^s x + b, with one s and b per channel.

    Parameters
    ----------
    n_channels : int
    n_sites : int
        Variables per channel: height × width of an image, 1 for plain vectors.

    Attributes
    ----------
    log_scale, bias : Parameter, shape (n_channels,)
        s and b, 0 at first.
    n_sites : int
    """

    constant_jacobian = True

    def __init__(self, n_channels: int, n_sites: int = 1):
        super().__init__()
        self.n_sites = n_sites
        self.log_scale = nn.Parameter(torch.zeros(n_channels, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(n_channels, dtype=torch.float64))

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x → e^s x + b, n_sites Σ s."""
        y = by_channel(x, self.n_sites) * self.log_scale.exp()[:, None] + self.bias[:, None]
        return y.flatten(1), self.n_sites * self.log_scale.sum()

    def to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z → e^{−s}(z − b), −n_sites Σ s."""
        x = (by_channel(z, self.n_sites) - self.bias[:, None]) * (-self.log_scale).exp()[:, None]
        return x.flatten(1), -self.n_sites * self.log_scale.sum()

    def adapt(self, x: Tensor) -> None:
        """Mean 0 and variance 1 per channel over these points; a channel that does not vary keeps its scale."""
        with torch.no_grad():
            x = by_channel(x, self.n_sites)
            mean, deviation = x.mean((0, 2)), x.std((0, 2), correction=0)
            deviation = torch.where(deviation > 0, deviation, 1.0)
            self.log_scale.copy_(-deviation.log())
            self.bias.copy_(-mean / deviation)


def by_channel(x: Tensor, n_sites: int) -> Tensor:
    """Flat rows (n_points, n_channels n_sites) → (n_points, n_channels, n_sites)."""
    return x.unflatten(1, (-1, n_sites))


def random_orthogonal(n: int, rng: np.random.Generator) -> np.ndarray:
    """An orthogonal matrix, uniform over the group: QR of a Gaussian matrix, signs such that R has a positive diagonal."""
    Q, R = np.linalg.qr(rng.normal(size=(n, n)))
    return Q * np.where(np.diag(R) < 0, -1.0, 1.0)


def _require_permutation(indices: Sequence[int]) -> None:
    if sorted(indices) != list(range(len(indices))) or not len(indices):
        raise InputError(f"a permutation must name every variable once, got {str(list(indices))[:60]}.")
