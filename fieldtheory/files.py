"""One file format: safetensors with a JSON header, written whole or not at all.

A file holds named float64/int64 arrays and, under the safetensors metadata key ``fieldtheory``, a JSON header
``{"kind": "action" | "learner" | …, "format": 1, …}``. Nothing in it can be executed. Every file of this package — these, JSON
summaries, report pages — goes through `atomic`: it is written under a temporary name in the same folder and then renamed, so
that an interrupted run leaves either the old file or the new one.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .errors import FileFormatError, InputError

FORMAT = 1
_KEY = "fieldtheory"


@contextmanager
def atomic(path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well and removed when it does not."""
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"path must lie in an existing folder, {path.parent} is none; create it first.")
    if path.is_dir():
        raise InputError(f"path must name a file, {path} is a folder.")
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path, text: str) -> Path:
    """Write a text file whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write(path, kind: str, arrays: dict[str, np.ndarray], header: dict) -> Path:
    """Write arrays and a JSON header as one file.

    Parameters
    ----------
    path : path-like
    kind : str
        What the file holds; `read` refuses another kind.
    arrays : dict of str to ndarray
    header : dict
        Anything JSON can hold exactly.
    """
    from safetensors.numpy import save_file

    metadata = {_KEY: json.dumps({"kind": kind, "format": FORMAT, **header}, allow_nan=False)}
    with atomic(path) as temporary:
        save_file({k: np.asarray(v, order="C") for k, v in arrays.items()}, temporary, metadata=metadata)
    return Path(path)


def read(path, kind: str) -> tuple[dict[str, np.ndarray], dict]:
    """Read a file written by `write`.

    Returns
    -------
    arrays, header

    Raises
    ------
    FileFormatError
        The file is missing, truncated, not safetensors, without our header, of another kind or a newer format.
    """
    arrays, metadata = _read_safetensors(Path(path))
    try:
        header = json.loads(metadata[_KEY])
        found, version = header["kind"], header["format"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise FileFormatError(f"{path} must carry a fieldtheory header, it has none; another program wrote it.") from None
    if version != FORMAT:
        raise FileFormatError(f"{path} must be of format {FORMAT}, it is of format {version!r}; update fieldtheory to read it.")
    if found != kind:
        raise FileFormatError(f"{path} must hold a fieldtheory {kind}, it holds {str(found)[:40]!r}.")
    return arrays, header


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileFormatError(f"{path} must be a file, there is none; check the path.")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, KeyError):
        raise FileFormatError(f"{path} must be a complete safetensors file, it is damaged or of another format; "
                              "copy or write it again.") from None
