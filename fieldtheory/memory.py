"""Requests that cannot fit are refused before the first byte is taken, with their size in GB."""

from __future__ import annotations

import os
from math import log10

from .errors import InputError

_UNKNOWN = 8e9


def physical_memory() -> float:
    """Bytes of memory this machine has; 8 GB where it does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN


def require(n_bytes: int, what: str, instead: str) -> None:
    """Raise `InputError` if `what` takes more memory than there is; `instead` says what to do."""
    if n_bytes > physical_memory():
        size = f"{n_bytes / 1e9:,.0f}" if n_bytes < 1e15 else f"10^{int(log10(n_bytes)) - 9}"
        raise InputError(f"{what} must fit in memory, {size} GB are needed and this machine has {physical_memory() / 1e9:.0f} GB; "
                         f"{instead}.")
