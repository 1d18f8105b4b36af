"""Warnings about one file, each given once however often it is read."""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger(__name__)

TRANSPARENCY = "its transparency is left out"


class Notices:
    """What was said about a file already.

    Args:
        path: the file or folder, which every line in the log names.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._said: list[str] = []

    @property
    def texts(self) -> tuple[str, ...]:
        """The warnings given so far, without the file's name and the full stop."""
        return tuple(self._said)

    def said(self, text: str) -> bool:
        """Whether this warning was given."""
        return text in self._said

    def warn(self, text: str) -> None:
        """Give a warning (no full stop at its end), unless it was given before."""
        if text not in self._said:
            self._said.append(text)
            logger.warning("%s: %s.", self._path, text)
