"""How a job tells how far it is, and what its user should know of the clips."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

logger = logging.getLogger(__name__)


class Reporter(Protocol):
    """Whoever shows the progress of a job."""

    def stage(self, name: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
        """A stage of `total` frames begins; the function that comes back counts frames done."""
        ...

    def warn(self, clip: Path, message: str) -> None:
        """Something about a clip that the result shows, and its user may not expect."""
        ...


class Silent:
    """Shows no progress; warnings go to the log."""

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Nothing happens."""
        yield lambda count: None

    def warn(self, clip: Path, message: str) -> None:
        """One line in the log."""
        logger.warning("%s: %s.", clip, message)
