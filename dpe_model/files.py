"""Files of tensors: written whole or not at all, and what a damaged one raises."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

UNREADABLE = (
    pickle.UnpicklingError, SafetensorError, RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError,
    AttributeError, AssertionError, struct.error,
)  # fmt: skip
"""What `torch.load` and safetensors raise on files that are damaged or none of theirs, such as a page of text."""


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


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors beside the target first, then put the file in its place.

    Raises:
        OSError, SafetensorError: the place cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_place(path)
    try:
        partial.touch()
        mode = partial.stat().st_mode  # as the umask has it; safetensors itself makes files that only the owner reads
        save_file(dict(tensors), partial, metadata=dict(metadata))
        partial.chmod(mode)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def partial_place(path: Path) -> Path:
    """Where a file lies until it is complete: beside its place, hidden, apart from what other processes write."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")
