"""A job's progress and warnings, shown on the node."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from . import host

logger = logging.getLogger("ComfyUI-DPE")


class HostReporter:
    """Shows a job's progress on the node: a bar for each stage. Keeps its warnings for the node's notes.

    Args:
        names: what the user knows a clip as, by its path.
    """

    def __init__(self, names: Mapping[Path, str]) -> None:
        self.warnings: list[str] = []
        self._names = names
        self._progress: host.Progress | None = None

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """A bar for one stage; counting stops the job where the user asked for it."""
        self._progress = host.Progress(total or 1)
        yield self._progress.add

    def warn(self, clip: Path, message: str) -> None:
        """Into the log, and kept under the name of the input."""
        logger.warning("%s: %s.", clip, message)
        self.warnings.append(f"{self._names.get(clip, clip.name)}: {message}")

    def show(self, frame: torch.Tensor) -> None:
        """Show a frame [H, W, 3] beside the bar."""
        if self._progress is not None:
            self._progress.add(0, frame[None])
