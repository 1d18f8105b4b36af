"""How a job tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Reporter(Protocol):
    """Whoever shows the progress of a job."""

    def stage(self, name: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
        """A stage of `total` frames begins; the function that comes back counts frames done."""
        ...


class Silent:
    """Shows nothing."""

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Nothing happens."""
        yield lambda count: None
