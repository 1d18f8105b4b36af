"""Files that are written whole or not at all, and what a damaged file of tensors raises."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

UNREADABLE = (
    pickle.UnpicklingError, SafetensorError, RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError,
    AttributeError, AssertionError, struct.error,
)  # fmt: skip
"""What `torch.load` and safetensors raise on files that are damaged or none of theirs, such as a page of text."""


def why_unreadable(error: Exception) -> str:
    """One line on an error of `UNREADABLE`."""
    if isinstance(error, pickle.UnpicklingError):
        return "it carries code or is no model"  # PyTorch's own text advises loading it unsafely
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_writable(path: Path) -> None:
    """Make sure, before any work is done, that a file can be written there; creates the folders above it.

    Raises:
        OSError: it cannot.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected the name of a file to write, this is a folder. Add a file name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_place(path)
    partial.touch()
    partial.unlink()


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors beside the target first, then put the file in its place.

    Raises:
        OSError, SafetensorError: the place cannot be written.
    """
    with _put_in_place(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode  # as the umask has it; safetensors itself makes files that only the owner reads
        save_file(dict(tensors), partial, metadata=None if metadata is None else dict(metadata))
        partial.chmod(mode)


def write_text(path: Path, text: str) -> None:
    """Write text likewise, as UTF-8. Raises OSError where it cannot."""
    with _put_in_place(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def _put_in_place(path: Path) -> Iterator[Path]:
    """Where to write a file: put in its place when that went well, else removed. Creates the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_place(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def partial_place(path: Path) -> Path:
    """Where a file lies until it is complete: beside its place, hidden, apart from what other processes write."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")
