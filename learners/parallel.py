"""Several processes that fit one model.

Under torchrun, or wherever torch.distributed is initialized, every process runs the same program on the same samples. Each takes
its share of every batch; the gradients of the mean loss over the batch, and with them all that follows, are sums over the processes
and the same in all of them.
"""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """Who takes part.

    Attributes
    ----------
    rank : int
        Number of this process.
    count : int
        How many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def joined(cls) -> Processes:
        """Those of torch.distributed, which is initialized if torchrun started this process; else this one alone."""
        if not distributed.is_available():
            return cls()
        if not distributed.is_initialized() and all(name in os.environ for name in _TORCHRUN):
            distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
            atexit.register(distributed.destroy_process_group)
        if not distributed.is_initialized():
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def share(self, n: int) -> slice:
        """Which of n rows are this process's."""
        return slice(self.rank * n // self.count, (self.rank + 1) * n // self.count)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor


def local_gpu() -> torch.device:
    """The GPU of this process: torchrun numbers those on one machine."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
