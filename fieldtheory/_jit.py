"""Compiled kernels whose cache notices every change, and arrays they borrow.

numba keeps compiled code on disk and compiles again when the file of a function changes, but not when that of a function it calls
does: a kernel that calls one in another file would return stale results. Here compiled code is kept in a folder named after the hash
of all kernel sources, the files ``_*kernel*.py`` of the package and this one, so that a change in any of them starts a new folder. It
lies in ``NUMBA_CACHE_DIR`` where that is set, else beside the sources, else in the user's cache; where none of them can be written,
kernels are compiled in every process. numba's own settings are left as they were for everyone else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numba
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

_PACKAGE = Path(__file__).parent


def njit(function: Callable | None = None, **options) -> Callable:
    """`numba.njit` with numpy's division, cached under the hash of all kernel sources."""
    if function is None:
        return partial(njit, **options)
    folder, before = _folder(), numba.config.CACHE_DIR
    try:
        numba.config.CACHE_DIR = folder or before
        return numba.njit(cache=folder is not None, error_model="numpy", **options)(function)
    finally:
        numba.config.CACHE_DIR = before


def spliced(function: Callable | None = None, **options) -> Callable:
    """As `njit`, but compiled into its callers, which know then what is borrowed."""
    return njit(function, forceinline=True, **options)


def borrowed(arrays):
    """The same array, or tuple of arrays, to compiled code that must not outlive it, such as an argument: no reference is counted.

    Counting takes longer than a step of one chain: each look into a tuple of arrays adds one to a number in memory and takes it off
    again, and the compiler must assume that all else in memory has changed meanwhile.
    """
    return arrays


@overload(borrowed)
def _borrowed(arrays):
    return lambda arrays: _without_owner(arrays)


@intrinsic
def _without_owner(typing_context, arrays):
    return arrays(arrays), lambda context, builder, signature, values: _disown(context, builder, arrays, values[0])


def _disown(context, builder, kind: types.Type, value):
    """An array without the pointer to its owner, where references are counted."""
    if isinstance(kind, types.BaseTuple):
        parts = [_disown(context, builder, part, builder.extract_value(value, i)) for i, part in enumerate(kind.types)]
        return context.make_tuple(builder, kind, parts)
    array = context.make_array(kind)(context, builder, value)
    array.meminfo = cgutils.get_null_value(array.meminfo.type)
    return array._getvalue()


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
    for path in sorted([Path(__file__), *_PACKAGE.rglob("_*kernel*.py")]):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
