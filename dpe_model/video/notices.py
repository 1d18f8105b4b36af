"""Warnings about one file, each given once however often it is read."""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger(__name__)

TRANSPARENCY = "its transparency is left out."


class Notices:
    """What was said about a file already.

    Args:
        path: the file or folder, which every warning names.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._said: set[str] = set()

    def said(self, text: str) -> bool:
        """Whether this warning was given."""
        return text in self._said

    def warn(self, text: str, *values: object) -> None:
        """Give a warning, unless it was given before; `values` go into it as logging has it."""
        if text not in self._said:
            self._said.add(text)
            logger.warning("%s: " + text, self._path, *values)
