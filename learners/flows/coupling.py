"""Coupling layers: some variables are read and stay, the others are written.

* `AdditiveCouplingLayer`: y_w = x_w + t(x_r), ln|det| = 0 (L. Dinh, D. Krueger, Y. Bengio, arXiv:1410.8516).
* `AffineCouplingLayer`: y_w = x_w e^{s(x_r)} + t(x_r), ln|det| = Σ s, with bounded s = c tanh(raw/c) (L. Dinh, J. Sohl-Dickstein,
  S. Bengio, arXiv:1605.08803).
* `QuadraticCouplingLayer`: y_w = x_w + χ[x_r, x_r], ln|det| = 0 (C. Merger et al., Phys. Rev. X 13, 041033 (2023)).

The Jacobian is triangular, and the inverse needs no inverse of the conditioner: it reads what has not changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fieldtheory.errors import InputError

from .layer import Layer


class Halves(nn.Module):
    """The variables that a coupling layer reads and those that it writes.

    Parameters
    ----------
    read, written : sequence of int
        Disjoint, and together every variable.
    """

    def __init__(self, read: Sequence[int], written: Sequence[int]):
        super().__init__()
        self.read, self.written = [int(i) for i in read], [int(i) for i in written]
        together = self.read + self.written
        if sorted(together) != list(range(len(together))) or not (self.read and self.written):
            raise InputError("read and written must be non-empty and together name every variable once, got "
                             f"{self.read} and {self.written}.")
        self._in_order = together == sorted(together)
        self._slices = _as_slice(self.read), _as_slice(self.written)
        self.register_buffer("order", torch.tensor(together), persistent=False)
        self.register_buffer("inverse", torch.argsort(self.order), persistent=False)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(x_r, x_w), without copies where both are evenly spaced."""
        if all(self._slices):
            return x[:, self._slices[0]], x[:, self._slices[1]]
        return x.index_select(1, self.order).split([len(self.read), len(self.written)], dim=1)

    def join(self, read: Tensor, written: Tensor) -> Tensor:
        """Inverse of `split`."""
        x = torch.cat([read, written], dim=1)
        return x if self._in_order else x.index_select(1, self.inverse)


def _as_slice(indices: list[int]) -> slice | None:
    """The slice that names ascending, evenly spaced indices."""
    steps = set(np.diff(indices)) or {1}
    return slice(indices[0], indices[-1] + 1, int(min(steps))) if len(steps) == 1 and min(steps) > 0 else None


def checkerboard(n_dim: int, n_layers: int) -> list[tuple[range, range]]:
    """(read, written) of coupling layers that take turns: variables 0, 2, 4, … are read first, then 1, 3, 5, …

    Neighbours are what tells most about a variable; halves in one piece would leave most of them out.
    """
    turns = range(0, n_dim, 2), range(1, n_dim, 2)
    return [turns if l % 2 == 0 else turns[::-1] for l in range(n_layers)]


class _CouplingLayer(Layer):
    """What coupling layers share: the two groups of variables."""

    def __init__(self, read: Sequence[int], written: Sequence[int]):
        super().__init__()
        self.halves = Halves(read, written)

    @property
    def read(self) -> list[int]:
        """Indices of the variables that are read."""
        return self.halves.read

    @property
    def written(self) -> list[int]:
        """Indices of the variables that are written."""
        return self.halves.written


class AdditiveCouplingLayer(_CouplingLayer):
    """y_w = x_w + t(x_r).

    Parameters
    ----------
    conditioner : Module
        t, rows (n_points, n_read) → (n_points, n_written): an `MLP` or a `ConvNet`.
    read, written : sequence of int
        Disjoint index lists that together name every variable.
    """

    constant_jacobian = True

    def __init__(self, conditioner: nn.Module, read: Sequence[int], written: Sequence[int]):
        super().__init__(read, written)
        self.conditioner = conditioner

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_w → x_w + t(x_r), 0."""
        read, written = self.halves.split(x)
        return self.halves.join(read, written + self.conditioner(read)), x.new_zeros(())

    def to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """y_w → y_w − t(x_r), 0."""
        read, written = self.halves.split(z)
        return self.halves.join(read, written - self.conditioner(read)), z.new_zeros(())

    def draw(self, rng: np.random.Generator) -> None:
        """t = 0, its hidden weights random."""
        self.conditioner.draw(rng)


class AffineCouplingLayer(_CouplingLayer):
    """y_w = x_w e^{s(x_r)} + t(x_r), s = c tanh(raw/c).

    Parameters
    ----------
    conditioner : Module
        (t, raw), rows (n_points, n_read) → (n_points, 2 n_written): an `MLP` or a `ConvNet`.
    read, written : sequence of int
        Disjoint index lists that together name every variable.
    bound : float
        c > 0, the largest |s|.
    """

    def __init__(self, conditioner: nn.Module, read: Sequence[int], written: Sequence[int], bound: float = 2.0):
        super().__init__(read, written)
        if not 0 < bound < math.inf:
            raise InputError(f"bound must be a positive number, got {bound!r}.")
        self.conditioner, self.bound = conditioner, float(bound)

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_w → x_w e^s + t, Σ s."""
        read, written = self.halves.split(x)
        t, s = self._shift_and_log_scale(read)
        return self.halves.join(read, torch.addcmul(t, written, s.exp())), s.sum(1)

    def to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """y_w → (y_w − t) e^{−s}, −Σ s."""
        read, written = self.halves.split(z)
        t, s = self._shift_and_log_scale(read)
        return self.halves.join(read, (written - t) * (-s).exp()), -s.sum(1)

    def draw(self, rng: np.random.Generator) -> None:
        """s = t = 0, the hidden weights random."""
        self.conditioner.draw(rng)

    def _shift_and_log_scale(self, read: Tensor) -> tuple[Tensor, Tensor]:
        t, raw = self.conditioner(read).chunk(2, dim=1)
        return t, self.bound * torch.tanh(raw / self.bound)


class QuadraticCouplingLayer(_CouplingLayer):
    """y_w = x_w + χ[x_r, x_r].

    Only the unique entries of χ are parameters: the pairs b ≤ a of the variables read, row by row of the lower triangle.

    Parameters
    ----------
    chi : array_like, shape (n_written, n_read, n_read)
        χ; its part that is symmetric in the last two indices.
    read, written : sequence of int
        Disjoint index lists that together name every variable.
    """

    constant_jacobian = True

    def __init__(self, chi, read: Sequence[int], written: Sequence[int]):
        super().__init__(read, written)
        chi = torch.as_tensor(chi, dtype=torch.float64)
        if chi.shape != (len(self.written), len(self.read), len(self.read)):
            raise InputError(f"chi must have shape {(len(self.written), len(self.read), len(self.read))}, got {tuple(chi.shape)}.")
        a, b = torch.tril_indices(len(self.read), len(self.read))
        self.chi = nn.Parameter(0.5 * (chi[:, a, b] + chi[:, b, a]))

    def chi_dense(self) -> np.ndarray:
        """χ, symmetric, shape (n_written, n_read, n_read)."""
        return unpack(self.chi.detach().cpu().numpy(), len(self.read))

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_w → x_w + χ[x_r, x_r], 0."""
        return self._moved(x, 1.0), x.new_zeros(())

    def to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """y_w → y_w − χ[x_r, x_r], 0."""
        return self._moved(z, -1.0), z.new_zeros(())

    def _moved(self, x: Tensor, sign: float) -> Tensor:
        a, b = np.tril_indices(len(self.read))
        multiplicity = torch.as_tensor(2.0 - (a == b), dtype=x.dtype, device=x.device)
        read, written = self.halves.split(x)
        return self.halves.join(read, written + sign * (read[:, a] * read[:, b] * multiplicity) @ self.chi.T)


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
