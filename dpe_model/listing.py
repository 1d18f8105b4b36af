"""Files below a folder, listed again only where something has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SETTLED = 2_000_000_000
"""Nanoseconds after a folder's change until another one surely has another time: on FAT it counts in steps of 2 s."""


@dataclass(frozen=True)
class _Listing:
    """What was found, at `taken` ns, and when each folder was last changed, ns; None where it could not be told."""

    names: tuple[str, ...]
    taken: int
    changed: Mapping[Path, int | None]

    def is_current(self) -> bool:
        """Whether no folder has changed since."""
        return all(
            _changed(folder) == then and (then is None or self.taken - then > SETTLED)
            for folder, then in self.changed.items()
        )


class FileList:
    """The files with one ending in a folder and the folders in it.

    Linked folders are gone into, except where they lead back to where they lie. Folders that cannot be read, or vanish
    meanwhile, count as empty.

    Args:
        root: the folder; it need not exist.
        ending: of the files' names, such as ".safetensors".
    """

    def __init__(self, root: Path, ending: str) -> None:
        self.root, self.ending = root, ending
        self._last: _Listing | None = None

    def names(self) -> list[str]:
        """Paths from the folder on, with forward slashes, sorted."""
        last = self._last
        if last is None or not last.is_current():
            last = self._last = self._listing()
        return list(last.names)

    def _listing(self) -> _Listing:
        """Look into every folder. Its time is asked before that, so that what changes between is found next time."""
        taken, names = time.time_ns(), []
        changed = {self.root: _changed(self.root)}
        above = {self.root: frozenset([os.path.realpath(self.root)])}
        for place, folders, files in os.walk(self.root, followlinks=True):  # passes over what it cannot read
            folder = Path(place)
            names += [(folder / name).relative_to(self.root).as_posix() for name in files if name.endswith(self.ending)]
            real = {name: os.path.realpath(folder / name) for name in folders}
            folders[:] = [name for name in folders if real[name] not in above[folder]]
            for name in folders:
                changed[folder / name] = _changed(folder / name)
                above[folder / name] = above[folder] | {real[name]}
        return _Listing(tuple(sorted(names)), taken, changed)


def _changed(folder: Path) -> int | None:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return None
