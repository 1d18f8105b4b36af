"""Pairs of frames of one clip: from videos or folders of frames, or from the published code's database."""

from __future__ import annotations

import io
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...errors import DataError, DPEError, FrameError
from ...frames import check_square, to_network
from ..config import Source
from .batches import PairBatch
from .colour import recolour

logger = logging.getLogger(__name__)

VIDEO_ENDINGS = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".ogv"}
)
"""What counts as a video among clips."""

KEPT_BYTES = 1024**3
"""Memory for the frames of clips, in every process that reads them."""


class ClipReader:
    """Pairs of frames from a folder of videos, or of folders of frames, however deep they lie.

    A clip is decoded when it is first drawn, and up to `frames_a_clip` evenly spaced frames of it are kept in memory as
    JPEG. Where that takes more than `most_bytes`, the clips go that were not drawn for longest, and are decoded once
    more when they are drawn again. A clip that cannot be used is passed over, with a warning.

    Raises:
        DataError: no folder, or no clip in it.
    """

    def __init__(self, source: Source, frames_a_clip: int = 64, most_bytes: int = KEPT_BYTES) -> None:
        root = Path(source.path)
        if not root.is_dir():
            raise DataError(f"{root}: expected a folder of videos or of folders of frames, found none.")
        self.source = source
        self.frames_a_clip, self.most_bytes = frames_a_clip, most_bytes
        self.paths = find_clips(root)
        self.kept: OrderedDict[Path, list[bytes]] = OrderedDict()
        self.bytes = 0
        self.broken: set[Path] = set()
        self.reason = ""
        if not self.paths:
            raise DataError(
                f"{root}: expected videos ({', '.join(sorted(VIDEO_ENDINGS))}) or folders of frames, found none in it."
            )

    def sample(self, rng: np.random.Generator, size: int) -> PairBatch:
        """Two frames of one clip. Raises DataError where no clip is left that can be used."""
        frames: list[bytes] | None = None
        while frames is None:
            if len(self.broken) == len(self.paths):
                raise DataError(
                    f"{self.source.path}: expected clips of at least two square frames, but none of the "
                    f"{len(self.paths)} can be used. {self.reason}"
                )
            # Draws depend on the generator and the files alone, not on which clips are known or kept already.
            frames = self._frames(self.paths[int(rng.integers(len(self.paths)))])
        return pair_from([_decode(frames[i]) for i in rng.integers(len(frames), size=2)], rng, size, self.source)

    def _frames(self, path: Path) -> list[bytes] | None:
        """The frames of a clip that are kept, None of a broken one."""
        if path in self.broken:
            return None
        if path in self.kept:
            self.kept.move_to_end(path)
            return self.kept[path]
        try:
            found = self._read(path)
        except (DPEError, OSError) as error:
            self.broken.add(path)
            self.reason = str(error)
            logger.warning("Passed over a clip that cannot be used: %s", error)
            return None
        self.kept[path] = found
        self.bytes += _size(found)
        while self.bytes > self.most_bytes and len(self.kept) > 1:
            self.bytes -= _size(self.kept.popitem(last=False)[1])
        return found

    def _read(self, path: Path) -> list[bytes]:
        from ...video import open_frames

        opened = open_frames(path)
        count = opened.count_frames()
        wanted = np.linspace(0, count - 1, min(count, self.frames_a_clip)).round().astype(int).tolist()
        found: list[bytes] = []
        position = 0
        for chunk in opened.chunks(16, stop=count):
            for frame in chunk:
                if len(found) < len(wanted) and position == wanted[len(found)]:
                    found.append(_encode(frame))
                position += 1
            check_square(chunk, str(path))
        if len(found) < 2:
            raise DataError(f"{path}: expected a clip of at least two frames, found {len(found)}. Remove it.")
        return found


def find_clips(root: Path) -> list[Path]:
    """The videos, and the folders that hold pictures beside no video, in a folder and the folders in it, sorted.

    Hidden ones are left out, and pictures beside the folders in `root`. Linked folders are gone into, each once.
    """
    from ...video.pictures import is_picture

    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = [Path(place, name) for name in names if not name.startswith(".")]
        videos = [path for path in files if path.suffix.lower() in VIDEO_ENDINGS]
        stray = folders and Path(place) == root
        if not videos and not stray and any(map(is_picture, files)):
            found.append(Path(place))
        found += videos
    return sorted(found)


def _size(frames: Sequence[bytes]) -> int:
    return sum(map(len, frames))


def _encode(frame: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame.numpy()).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


def _decode(content: bytes) -> Tensor:
    with Image.open(io.BytesIO(content)) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy())


class LMDBReader:
    """Pairs of frames from the published code's layout.

    `PATH/256` is the database: `<video>-length` holds a clip's frame count as text, `<video>-<frame, 7 digits>` an
    encoded picture. `PATH/train_list.txt` names the videos, one a line, as `<person>#...`; a person is drawn, then one
    of their videos, then two of its first 500 frames.
    """

    MOST_FRAMES = 500

    def __init__(self, source: Source, listing: str = "train_list.txt", folder: str = "256") -> None:
        try:
            import lmdb
        except ModuleNotFoundError as error:
            raise DataError("Reading the LMDB layout needs the package lmdb. Install it, or use clips.") from error
        root = Path(source.path)
        names = root / listing
        if not names.is_file() or not (root / folder).is_dir():
            raise DataError(f"{root}: expected {listing} and the database folder {folder}, found not both.")
        self.source = source
        environment = lmdb.open(str(root / folder), readonly=True, lock=False, readahead=False, meminit=False)
        self.transaction = environment.begin(buffers=True)
        self.videos: dict[str, list[str]] = {}
        for name in names.read_text().split("\n"):
            if name.strip():
                self.videos.setdefault(name.split("#")[0], []).append(name.strip())
        self.people = sorted(self.videos)
        if not self.people:
            raise DataError(f"{names}: expected names of videos, one a line, found none.")

    def sample(self, rng: np.random.Generator, size: int) -> PairBatch:
        """Two frames of one video of one person."""
        videos = self.videos[self.people[int(rng.integers(len(self.people)))]]
        name = videos[int(rng.integers(len(videos)))]
        count = min(int(bytes(self._get(f"{name}-length")).decode()), self.MOST_FRAMES)
        frames = [_decode(bytes(self._get(f"{name}-{i:07d}"))) for i in rng.integers(count, size=2)]
        return pair_from(frames, rng, size, self.source)

    def _get(self, key: str) -> Any:
        value = self.transaction.get(key.encode())
        if value is None:
            raise DataError(f"{self.source.path}: expected the key {key} in the database, found none.")
        return value


def pair_from(frames: Sequence[Tensor], rng: np.random.Generator, size: int, source: Source) -> PairBatch:
    """Two frames [H, W, 3] as a sample; both mirrored or recoloured alike, as the source says."""
    try:
        a, b = (to_network(f[None], size) for f in frames)
    except FrameError as error:
        raise DataError(f"{source.path}: {error}") from error
    flip, draw = bool(rng.random() < 0.5), rng.uniform(-1.0, 1.0, size=(3,))
    if source.flip and flip:
        a, b = a.flip(-1), b.flip(-1)
    if source.jitter:
        a, b = (recolour(x, draw * source.jitter) for x in (a, b))
    return PairBatch(a, b)
