"""Paths and failures of files, in one place: what the system says becomes a VideoError that names the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import av.error

from ..errors import VideoError


def existing(path: str | Path) -> Path:
    """The path, `~` expanded.

    Raises:
        VideoError: nothing is there.
    """
    found = Path(path).expanduser()
    try:
        there = found.exists()
    except OSError as error:
        raise VideoError(f"{found}: cannot be reached ({error}). Check the path and its permissions.") from error
    if not there:
        raise VideoError(
            f"{found}: expected a video, a picture or a folder of pictures, found nothing. Check the path."
        )
    return found


def ffmpeg_path(path: Path) -> str:
    """The path as FFmpeg takes it: a name such as `scene:1.mp4` would otherwise be a protocol."""
    return str(path.absolute())


def same_place(one: Path, other: Path) -> bool:
    """Whether two paths name one file, links and letter case considered where the system tells."""
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist yet
        return one.absolute() == other.absolute()


def check_not_replaced(places: Iterable[Path], needed: Iterable[str | Path]) -> None:
    """Refuse to write over files that are still needed.

    Raises:
        VideoError: one of the places is one of them.
    """
    written = tuple(places)
    for file in needed:
        if any(same_place(place, Path(file).expanduser()) for place in written):
            raise VideoError(f"{written[0]}: writing it would replace {file}, which is needed. Choose another name.")


@contextmanager
def naming(path: Path, doing: str, advice: str) -> Iterator[None]:
    """Turns failures of FFmpeg and of the file system inside the block into a VideoError about `path`."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(f"{path}: {doing} failed: {reason}. {advice}") from error
