"""Compiled kernels whose cache notices every change.

numba keeps compiled code on disk and compiles again when the file of a function changes, but not when that of a function it calls
does: a kernel that calls one in another file would return stale results. Here compiled code is kept in a folder named after the hash
of all kernel sources, the files ``_*kernel*.py`` of the package, so that a change in any of them starts a new folder. It lies in
``NUMBA_CACHE_DIR`` where that is set, else beside the sources, else in the user's cache; where none of them can be written, kernels
are compiled in every process. numba's own settings are left as they were for everyone else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numba

_PACKAGE = Path(__file__).parent


def njit(function: Callable, inline: str = "never") -> Callable:
    """`numba.njit` with numpy's division, cached under the hash of all kernel sources."""
    folder, before = _folder(), numba.config.CACHE_DIR
    try:
        numba.config.CACHE_DIR = folder or before
        return numba.njit(cache=folder is not None, error_model="numpy", inline=inline)(function)
    finally:
        numba.config.CACHE_DIR = before


def spliced(function: Callable) -> Callable:
    """As `njit`, but compiled into its callers: a call that passes tuples of arrays counts references for longer than a step takes."""
    return njit(function, inline="always")


@cache
def _folder() -> str | None:
    """Where compiled code of these sources is kept, None where nothing can be written."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "fieldtheory"
    for root in [Path(numba.config.CACHE_DIR)] if numba.config.CACHE_DIR else [_PACKAGE / "__pycache__", user]:
        folder = root / f"kernels-{_hash_of_sources()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return str(folder)
    return None


def _hash_of_sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("_*kernel*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
