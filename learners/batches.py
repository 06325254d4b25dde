"""Which samples a fit is validated on and which it sees at each step.

A share of the samples is set aside for validation. Batches follow a permutation of the others that is drawn anew for each epoch from
(seed, epoch), so that a fit which goes on at some step sees what it would have seen without the interruption. Samples in memory are
moved once to where the weights are; memory-mapped ones are read batch by batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .parallel import Processes
from .samples import MappedSamples, Samples

_VALIDATION_SHARE = 0.1
_LARGEST_VALIDATION = 20_000  # rows
_LARGEST_VALIDATION_SIZE = 2**25  # numbers


class Batches:
    """Batches of samples.

    Parameters
    ----------
    points : HeldSamples or MappedSamples
    seed : int
    batch_size : int
        Over all processes; never larger than the training set.
    like : Tensor
        Batches are of its dtype and on its device.
    processes : Processes
        This process gets its share of every batch and of the validation points.

    Attributes
    ----------
    validation : Tensor, shape (n_validation, n_varying)
        All of them.
    training : Tensor, shape (n_training, n_varying), or ndarray of int
        The training points, of mapped samples their indices.
    """

    def __init__(self, points: Samples, seed: int, batch_size: int, like: Tensor, processes: Processes):
        self.seed, self._points, self._like, self._processes = seed, points, like, processes
        order, n_validation = _permutation(len(points), [seed, 0]), _n_validation(points)
        self.validation, self.training = self._read(order[:n_validation]), order[n_validation:]
        if not isinstance(points, MappedSamples):
            self.training = self._read(self.training)
        self.batch_size = min(batch_size, len(self.training))

    def after(self, step: int) -> Iterator[Tensor]:
        """This process's share of the batch of step + 1 and of all that follow."""
        per_epoch = len(self.training) // self.batch_size
        epoch, first = divmod(step, per_epoch)
        while True:
            order = _permutation(len(self.training), [self.seed, 1, epoch])[: per_epoch * self.batch_size]
            yield from self._epoch(order[first * self.batch_size :])
            epoch, first = epoch + 1, 0

    def _epoch(self, order: np.ndarray) -> Iterator[Tensor]:
        share = self._processes.share(self.batch_size)
        if isinstance(self._points, MappedSamples):
            for first in range(0, len(order), self.batch_size):
                yield self._read(self.training[order[first : first + self.batch_size][share]])
        else:
            shuffled = self.training.index_select(0, torch.from_numpy(order).to(self.training.device))
            for batch in shuffled.split(self.batch_size):
                yield batch[share]

    def _read(self, indices: np.ndarray) -> Tensor:
        return torch.from_numpy(self._points.take(indices)).to(self._like.device, self._like.dtype)


def _n_validation(points: Samples) -> int:
    largest = min(_LARGEST_VALIDATION, max(1, _LARGEST_VALIDATION_SIZE // points.take(np.arange(1)).size))
    return min(max(1, round(_VALIDATION_SHARE * len(points))), largest)


def _permutation(n: int, seed) -> np.ndarray:
    """A random permutation in half the memory where indices are small enough."""
    order = np.random.default_rng(seed).permutation(n)
    return order if n > 2**31 - 1 else order.astype(np.int32)
