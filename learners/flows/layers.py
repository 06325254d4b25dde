"""Layers of flows. Each maps data towards latent with `to_latent` and back with `to_data`, both returning (value, log_det).

* `LinearLayer`: h = W x + b, ln|det| = ln|det W|.
* `QuadraticCouplingLayer`: y_j = h_j for the variables that are read, y_j = h_j + Σ_ab χ_jab h_a h_b for those that are written;
  the Jacobian is unit triangular, ln|det| = 0 (C. Merger et al., Phys. Rev. X 13, 041033 (2023)).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fieldtheory.errors import InputError


class LinearLayer(nn.Module):
    """h = W x + b.

    Parameters
    ----------
    weight : array_like, shape (n_dim, n_dim)
        W, invertible.
    bias : array_like, shape (n_dim,)
    """

    def __init__(self, weight, bias):
        super().__init__()
        weight, bias = np.array(weight, dtype=np.float64), np.array(bias, dtype=np.float64)
        if weight.ndim != 2 or weight.shape[0] != weight.shape[1] or bias.shape != weight.shape[:1]:
            raise InputError(f"a linear layer must have weight (n, n) and bias (n,), got {weight.shape} and {bias.shape}.")
        self.weight = nn.Parameter(torch.from_numpy(weight))
        self.bias = nn.Parameter(torch.from_numpy(bias))

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x → W x + b, ln|det W|."""
        return x @ self.weight.T + self.bias, torch.linalg.slogdet(self.weight)[1]

    def to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z → W^{-1}(z − b), −ln|det W|."""
        return torch.linalg.solve(self.weight, (z - self.bias).T).T, -torch.linalg.slogdet(self.weight)[1]


class QuadraticCouplingLayer(nn.Module):
    """y_written = h_written + χ[h_read, h_read].

    Only the unique entries of χ are parameters: the pairs b ≤ a of the variables read, row by row of the lower triangle.

    Parameters
    ----------
    chi : array_like, shape (n_written, n_read, n_read)
        χ; its part that is symmetric in the last two indices.
    read, written : sequence of int
        Disjoint index lists that together name every variable.
    """

    def __init__(self, chi, read: Sequence[int], written: Sequence[int]):
        super().__init__()
        self.read, self.written = [int(i) for i in read], [int(i) for i in written]
        complete = sorted(self.read + self.written) == list(range(len(self.read) + len(self.written)))
        if not (complete and self.read and self.written):
            raise InputError("read and written must be non-empty and together name every variable once, got "
                             f"{self.read} and {self.written}.")
        chi = np.array(chi, dtype=np.float64)
        if chi.shape != (len(self.written), len(self.read), len(self.read)):
            raise InputError(f"chi must have shape {(len(self.written), len(self.read), len(self.read))}, got {chi.shape}.")
        self.chi = nn.Parameter(torch.from_numpy(pack(chi)))

    def chi_dense(self) -> np.ndarray:
        """χ, symmetric, shape (n_written, n_read, n_read)."""
        return unpack(self.chi.detach().cpu().numpy(), len(self.read))

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """h → y, 0."""
        return self._moved(x, 1.0), x.new_zeros(())

    def to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """y → h, 0: the variables that were read are unchanged."""
        return self._moved(z, -1.0), z.new_zeros(())

    def _moved(self, x: Tensor, sign: float) -> Tensor:
        a, b = np.tril_indices(len(self.read))
        h = x[:, self.read]
        multiplicity = torch.as_tensor(2.0 - (a == b), device=x.device)
        y = x.clone()
        y[:, self.written] += sign * (h[:, a] * h[:, b] * multiplicity) @ self.chi.T
        return y


def pack(chi: np.ndarray) -> np.ndarray:
    """χ, shape (n_written, n_read, n_read), to its unique entries, shape (n_written, n_read (n_read + 1)/2)."""
    a, b = np.tril_indices(chi.shape[-1])
    return 0.5 * (chi[:, a, b] + chi[:, b, a])


def unpack(packed: np.ndarray, n_read: int) -> np.ndarray:
    """Inverse of `pack`."""
    a, b = np.tril_indices(n_read)
    chi = np.empty((len(packed), n_read, n_read))
    chi[:, a, b] = chi[:, b, a] = packed
    return chi
