"""Frames from a video, a picture or a folder of pictures, decoded as they are asked for."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.stream import VideoStream
from torch import Tensor

from ..errors import VideoError
from ..frames import check_finite, check_frames, to_uint8
from ..overlap import ahead
from .access import existing, ffmpeg_path, naming
from .clock import FrameClock, Grid, find_grid, may_round, rate_of
from .decoding import decode, open_video, packet_times, shown_packets, time_of, told_frames, video_streams
from .notices import Notices
from .pictures import is_picture, list_pictures, moves, picture_size, read_picture
from .pixels import Colour, Orientation, colour_of, orientation_of, to_rgb
from .timing import as_fps

logger = logging.getLogger(__name__)

PICTURE_FPS = Fraction(25)
"""The rate given to pictures, which have none of their own, where nobody says another."""

LARGE_CHUNK = 64
"""Chunks of more frames than this are made no larger than the clip."""

MAX_BYTES = 4 * 1024**3
"""What `read_frames` takes into memory unless it is told to take more."""

SAME = Fraction(1, 500)
"""Seconds by which the last frame's duration must differ from one frame of the rate to be told apart from rounding."""

Pictures: TypeAlias = Generator[tuple[np.ndarray, Fraction], None, None]
"""Pictures RGB uint8 [H, W, 3] with their time stamps in seconds."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file of frames says of itself.

    Attributes:
        path: the file or folder.
        width: pixels, after turning the pictures upright.
        height: pixels, after turning.
        fps: average frames per second; of pictures as asked for, else 25.
        frames: how many frames the container says there are, None where it does not say or contradicts itself
            (`FrameSource.count_frames` finds out). A truncated file holds fewer.
        has_audio: whether there is a sound track.
        rotation: degrees clockwise (0, 90, 180, 270) by which stored pictures are turned to be upright.
        kind: "video", "picture" or "folder".
        start: time stamp of the first frame in seconds on the file's clock.
        duration: seconds the container says the frames last, None where it does not say.
        mirrored: whether stored pictures are mirrored besides.
        colour: how the file stores colours; None where it does not matter.
        pixel_aspect: width of a pixel over its height, after turning.
        tick: seconds to which the file rounds time stamps; 0 where they are exact.
        timecode: the first frame's, as the camera counted, e.g. "01:02:03:04"; None without.
        created: when it was recorded (ISO 8601), None where the file does not say.
    """

    path: Path
    width: int
    height: int
    fps: Fraction
    frames: int | None
    has_audio: bool
    rotation: int
    kind: Literal["video", "picture", "folder"]
    start: Fraction = Fraction(0)
    duration: Fraction | None = None
    mirrored: bool = False
    colour: Colour | None = None
    pixel_aspect: Fraction = Fraction(1)
    tick: Fraction = Fraction(0)
    timecode: str | None = None
    created: str | None = None


class FrameSource(ABC):
    """Frames of one file or folder, decoded when iterated; every iteration starts anew."""

    read_ahead = 0
    """How many chunks a thread decodes in advance; 0 decodes a chunk when it is asked for."""

    def __init__(self, info: VideoInfo) -> None:
        self.info = info
        self._notices = Notices(info.path)
        self._counted = info.frames
        self._times: list[Fraction] | None = None

    @abstractmethod
    def _pictures(self, start: int, stop: int | None) -> Pictures:
        """Pictures [H, W, 3] uint8 and their time stamps in seconds, those before `start` not converted."""

    @abstractmethod
    def _count(self) -> int:
        """How many frames there are, found by going through the file."""

    @abstractmethod
    def _find_times(self) -> list[Fraction]:
        """Time stamps of all frames in seconds, found without decoding them."""

    def chunks(self, n: int, start: int = 0, stop: int | None = None) -> Iterator[Tensor]:
        """Frames `start` to `stop` (not included), at most `n` at a time: uint8 [<=n, H, W, 3].

        Memory is two chunks at most, and `read_ahead` more. Frames before `start` are decoded, since only that finds
        the exact frame.

        Raises:
            VideoError: no frame at all can be decoded. A file that breaks off gives the frames before and a warning.
        """
        for frames, _ in self._read(n, start, stop, exact=False):
            yield frames

    def timed_chunks(self, n: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[Tensor, list[Fraction]]]:
        """As `chunks`, with the frames' time stamps in seconds on the file's own clock (see `VideoInfo.start`).

        Those of a constant rate are exact, also where the file rounds them to milliseconds.
        """
        yield from self._read(n, start, stop, exact=True)

    def _read(self, n: int, start: int, stop: int | None, exact: bool) -> Iterator[tuple[Tensor, list[Fraction]]]:
        if n < 1 or start < 0 or (stop is not None and stop < start):
            raise VideoError(f"{self.info.path}: expected n >= 1 and 0 <= start <= stop, got {n=}, {start=}, {stop=}.")
        chunks = self._chunks(n, start, stop, exact)
        yield from ahead(chunks, self.read_ahead) if self.read_ahead else chunks

    def _chunks(
        self, n: int, start: int, stop: int | None, exact: bool
    ) -> Generator[tuple[Tensor, list[Fraction]], None, None]:
        room = n if n <= LARGE_CHUNK else min(n, max(1, self.count_frames()))
        chunk: np.ndarray | None = None
        times: list[Fraction] = []
        every: list[Fraction] = []
        with closing(self._pictures(start, stop)) as decoded:
            for picture, time in decoded:
                if chunk is None:
                    chunk = np.empty((room, *picture.shape), dtype=np.uint8)
                chunk[len(times)] = picture
                times.append(time)
                every.append(time)
                if len(times) == room:
                    yield torch.from_numpy(chunk), self._exact(times) if exact else times
                    chunk, times = None, []
        if start == 0 and stop is None:
            # Containers promise frames that edit lists leave out.
            self._times, self._counted = self._exact(every, whole=True), len(every)
        if chunk is not None:
            yield torch.from_numpy(chunk[: len(times)]), self._exact(times) if exact else times

    def _exact(self, times: list[Fraction], whole: bool = False) -> list[Fraction]:
        """Time stamps as the file has them made exact; `whole`: they are those of all frames."""
        return times

    @property
    def notices(self) -> tuple[str, ...]:
        """What the log was told of the file while it was read (HDR, transparency, damage and so on), no full stops."""
        return self._notices.texts

    def end_time(self) -> Fraction | None:
        """Until when the last frame is shown, in seconds on the file's own clock.

        Known once that frame was read; None before, and where it is shown for one frame of the rate or nothing is told.
        """
        return None

    def frame_times(self) -> list[Fraction]:
        """Time stamps of all frames in seconds, on the file's own clock.

        Those of the last complete reading; before one, as the file's packets say, which differs in a damaged file only.
        """
        if self._times is None:
            self._times = self._find_times()
        return self._times

    def count_frames(self) -> int:
        """How many frames there are: as the container says, else counted once by going through its packets."""
        if self._counted is None:
            self._counted = self._count()
        return self._counted

    def __len__(self) -> int:
        return self.count_frames()

    def __bool__(self) -> bool:  # a source without frames cannot be opened; do not count for `if source:`
        return True


def probe(path: str | Path, picture_fps: Fraction = PICTURE_FPS) -> VideoInfo:
    """What a video, picture or folder of pictures is, without reading more than its start.

    Args:
        path: the file or folder.
        picture_fps: frames per second of pictures.

    Raises:
        VideoError: missing, not a video or picture, no video stream, no decodable frame, or a folder whose pictures
            differ in size.
    """
    found = existing(path)
    if found.is_dir():
        with naming(found, "reading the folder", "Check its permissions."):
            return _probe_folder(found, list_pictures(found), picture_fps)
    if is_picture(found) and not moves(found):
        width, height = picture_size(found)
        return VideoInfo(found, width, height, picture_fps, 1, False, 0, "picture", duration=1 / picture_fps)
    return _probe_video(found)[0]


def open_frames(path: str | Path, read_ahead: int = 0, picture_fps: Fraction = PICTURE_FPS) -> FrameSource:
    """The frames of a video, a picture or a folder of pictures (in the counting order of their names).

    Args:
        path: the file or folder.
        read_ahead: how many chunks a thread decodes in advance.
        picture_fps: frames per second of pictures.

    Raises:
        VideoError: as `probe`.
    """
    found = existing(path)
    source: FrameSource
    if found.is_dir() or (is_picture(found) and not moves(found)):
        info = probe(found, picture_fps)
        source = _Pictures(info, list_pictures(found) if info.kind == "folder" else [found])
    else:
        source = _Video(*_probe_video(found))
    source.read_ahead = read_ahead
    return source


def read_frames(path: str | Path, limit: int | None = None, max_bytes: int = MAX_BYTES) -> Tensor:
    """All frames, or the first `limit`, in memory: uint8 [N, H, W, 3].

    Raises:
        VideoError: as `probe`, or when they would take more than `max_bytes` bytes.
    """
    if limit is not None and limit < 1:
        raise VideoError(f"{path}: expected a limit of at least 1 frame, got {limit}.")
    source = open_frames(path)
    count = source.count_frames() if limit is None else min(limit, source.count_frames())
    size = source.info.width * source.info.height * 3
    if count * size > max_bytes:
        raise VideoError(
            f"{path}: {count} frames of {source.info.width}x{source.info.height} take {count * size / 1024**3:.1f} GB, "
            f"more than the {max_bytes / 1024**3:.1f} GB allowed. Read them in chunks (open_frames), set a limit "
            "on the number of frames, or raise max_bytes."
        )
    frames = torch.empty((count, source.info.height, source.info.width, 3), dtype=torch.uint8)
    filled = 0
    for chunk in source.chunks(16, stop=count):
        frames[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return frames[:filled]


class _Pictures(FrameSource):
    def __init__(self, info: VideoInfo, paths: list[Path]) -> None:
        super().__init__(info)
        self._paths = paths

    def _pictures(self, start: int, stop: int | None) -> Pictures:
        for i, path in enumerate(self._paths[start:stop], start):
            yield read_picture(path, self._notices), i / self.info.fps

    def _count(self) -> int:
        return len(self._paths)

    def _find_times(self) -> list[Fraction]:
        return [i / self.info.fps for i in range(len(self._paths))]


class MemoryFrames(FrameSource):
    """Frames that lie in memory already, as a source.

    Args:
        frames: [N, H, W, 3] uint8 0..255 or floating point 0..1.
        fps: frames per second.
        name: what messages call it.

    Raises:
        FrameError: no frames, or another layout.
    """

    def __init__(self, frames: Tensor, fps: Fraction, name: str = "frames in memory") -> None:
        self._frames = check_frames(frames, name)
        count, height, width = self._frames.shape[:3]
        fps = as_fps(fps)
        super().__init__(VideoInfo(Path(name), width, height, fps, count, False, 0, "video", duration=count / fps))

    def _pictures(self, start: int, stop: int | None) -> Pictures:
        for i, frame in enumerate(self._frames[start:stop], start):
            check_finite(frame[None], str(self.info.path), i)
            yield to_uint8(frame).cpu().numpy(), i / self.info.fps

    def _count(self) -> int:
        return len(self._frames)

    def _find_times(self) -> list[Fraction]:
        return [i / self.info.fps for i in range(len(self._frames))]


class Section(FrameSource):
    """A stretch of another source, on its clock: the frames shown from `begin` on, for `seconds` of it.

    Args:
        source: all of it.
        begin: time stamp of the first frame or before, in seconds on the file's clock.
        seconds: how long; to the end if None.

    Raises:
        VideoError: no frame lies in there.
    """

    def __init__(self, source: FrameSource, begin: Fraction, seconds: Fraction | None = None) -> None:
        times = source.frame_times()
        end = None if seconds is None else begin + seconds
        inside = [i for i, time in enumerate(times) if time >= begin and (end is None or time < end)]
        if not inside:
            raise VideoError(
                f"{source.info.path}: expected frames between {float(begin):.3f} s and "
                f"{'the end' if end is None else f'{float(end):.3f} s'}, the file has them from "
                f"{float(times[0]):.3f} s to {float(times[-1]):.3f} s. Trim it elsewhere."
            )
        self._first, self._last = inside[0], inside[-1] + 1
        kept = times[self._first : self._last]
        info, count = source.info, len(kept)
        timecode = info.timecode if self._first == 0 else None
        duration = kept[-1] - kept[0] + 1 / info.fps
        super().__init__(replace(info, frames=count, start=kept[0], duration=duration, timecode=timecode))
        self._source = source
        self._times = kept
        self._reaches_end, self._end = self._last == len(times), end
        self.read_ahead = source.read_ahead

    def _pictures(self, start: int, stop: int | None) -> Pictures:
        last = self._last if stop is None else min(self._first + stop, self._last)
        return self._source._pictures(self._first + start, last)

    def _count(self) -> int:
        return self._last - self._first

    def _find_times(self) -> list[Fraction]:
        return self._source.frame_times()[self._first : self._last]

    def _exact(self, times: list[Fraction], whole: bool = False) -> list[Fraction]:
        return self._source._exact(times)

    @property
    def notices(self) -> tuple[str, ...]:
        """Those of the whole source."""
        return self._source.notices

    def end_time(self) -> Fraction | None:
        """As the whole source's, where the stretch reaches to its last frame; cut off where the stretch ends."""
        told = self._source.end_time() if self._reaches_end else None
        return told if told is None or self._end is None else min(told, self._end)


class _Video(FrameSource):
    def __init__(self, info: VideoInfo, orientation: Orientation) -> None:
        super().__init__(info)
        self._orientation = orientation
        self._grid: Grid | None = None
        self._grid_sought = not may_round(info.fps, info.tick) if info.tick else True
        self._furthest, self._until = -1, Fraction(0)

    def _pictures(self, start: int, stop: int | None) -> Pictures:
        width, height = self.info.width, self.info.height
        if self._orientation.transpose:
            width, height = height, width
        clock = FrameClock(self.info.fps)
        with closing(decode(self.info.path, self._notices)) as frames:
            for i, frame in enumerate(islice(frames, stop)):
                time = clock.at(time_of(frame.pts, frame))
                if i >= self._furthest:
                    self._furthest, self._until = i, self._ends(frame, i, time)
                if i >= start:
                    yield self._orientation.apply(to_rgb(frame, width, height)), time

    def _ends(self, frame: av.VideoFrame, number: int, time: Fraction) -> Fraction:
        """Until when a frame is shown, as the file says; its own time where it does not.

        Containers that count their frames (MP4) know how long they are shown altogether. Their single durations are
        those of frames in decoding order.
        """
        info = self.info
        if info.frames is not None:
            return info.start + (info.duration or 0) if number == info.frames - 1 else time
        ticks = getattr(frame, "duration", None)  # which older PyAV does not have
        return time + ticks * frame.time_base if ticks and frame.time_base else time

    def end_time(self) -> Fraction | None:
        times = self.frame_times()
        if not times:
            return None
        lasts = self._until - times[-1]
        if self._furthest != len(times) - 1 or lasts <= 0 or abs(lasts - 1 / self.info.fps) <= SAME + self.info.tick:
            return None
        return self._until

    def _exact(self, times: list[Fraction], whole: bool = False) -> list[Fraction]:
        if not self._grid_sought:
            self._grid_sought = True
            try:
                every = times if whole else packet_times(self.info.path, self.info.fps)
            except VideoError as error:  # damaged; what can be decoded is read all the same, at its own times
                logger.debug("%s", error)
                return times
            self._grid = find_grid(every, self.info.fps, self.info.tick)
        return [self._grid.nearest(time) for time in times] if self._grid is not None else times

    def _count(self) -> int:
        """Packets that are shown; a packet is a frame in every container that does not know its count."""
        with open_video(self.info.path) as (container, stream):
            return sum(1 for _ in shown_packets(self.info.path, container, stream))

    def _find_times(self) -> list[Fraction]:
        return self._exact(packet_times(self.info.path, self.info.fps), whole=True)


def first_time(path: Path) -> Fraction:
    """Time stamp of the first picture of a file that has sound, in seconds; 0 for a mere sound file."""
    with naming(path, "opening", "The file may be truncated."):
        container = av.open(ffmpeg_path(path), metadata_errors="replace")
    with container:
        if not video_streams(container):
            return Fraction(0)
    return _probe_video(path)[0].start


def _probe_folder(folder: Path, paths: list[Path], fps: Fraction) -> VideoInfo:
    size = picture_size(paths[0])
    for path in paths[1:]:
        other = picture_size(path)
        if other != size:
            raise VideoError(
                f"{folder}: expected pictures of one size, found {path.name} with {other[0]}x{other[1]} and "
                f"{paths[0].name} with {size[0]}x{size[1]}. Resize or remove the odd one."
            )
    return VideoInfo(folder, *size, fps, len(paths), False, 0, "folder", duration=len(paths) / fps)


def _probe_video(path: Path) -> tuple[VideoInfo, Orientation]:
    with open_video(path) as (container, stream):
        frames = told_frames(container, stream) or None
        duration = None
        if stream.duration is not None and stream.time_base is not None:
            duration = stream.duration * stream.time_base
        elif container.duration is not None:
            duration = Fraction(container.duration, av.time_base)
        has_audio = bool(container.streams.audio)
        context = stream.codec_context
        primaries, transfer = int(context.color_primaries), int(context.color_trc)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        tick, marks = stream.time_base or Fraction(0), _marks(container, stream)
        fps = _rate(path, container, stream)
    with closing(decode(path)) as decoded:
        first = next(decoded)
    orientation = orientation_of(first)
    aspect = 1 / aspect if orientation.transpose else aspect
    colour = colour_of(first, primaries, transfer)
    width, height = (first.height, first.width) if orientation.transpose else (first.width, first.height)
    info = VideoInfo(
        path, width, height, fps, frames, has_audio, orientation.rotation, "video", duration=duration,
        start=first.pts * first.time_base if first.pts is not None and first.time_base else Fraction(0),
        mirrored=orientation.mirrored, colour=colour, pixel_aspect=aspect, tick=tick,
        timecode=marks.get("timecode"), created=marks.get("creation_time"),
    )  # fmt: skip
    return info, orientation


def _rate(path: Path, container: InputContainer, stream: VideoStream) -> Fraction:
    """Frames per second on average; from the packets, where the file has none (browsers' recordings). Reads on."""
    rate = None if container.format.name == "apng" else stream.average_rate  # there it is but one frame's
    if rate:
        return rate
    times: list[Fraction] = []
    try:
        for packet in shown_packets(path, container, stream):
            if packet.pts is not None and packet.time_base is not None:
                times.append(packet.pts * packet.time_base)
    except VideoError as error:  # what can be decoded is read all the same
        logger.debug("%s", error)
    return rate_of(times) or PICTURE_FPS


def _marks(container: InputContainer, stream: VideoStream) -> dict[str, str]:
    """Tags of the file and its pictures by lower-case name."""
    return {key.lower(): text for tags in (container.metadata, stream.metadata) for key, text in tags.items()}
