"""What FFmpeg makes of a video file: its packets and their times, its frames, and warnings about both."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from ..errors import VideoError
from .access import ffmpeg_path, naming
from .clock import STEP_BACK, FrameClock
from .notices import TRANSPARENCY, Notices
from .pixels import HDR_TRANSFERS

logger = logging.getLogger(__name__)

Stamp: TypeAlias = "Fraction | None"
"""A time in seconds where a file tells one."""


def video_streams(container: InputContainer) -> list[VideoStream]:
    """Streams of moving pictures; the cover of a sound file is none."""
    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


class open_video:  # noqa: N801
    """A container and its first real video stream, closed on leaving the block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> tuple[InputContainer, VideoStream]:
        advice = "Expected a video that FFmpeg can read; the file may be truncated, still being written, or no video."
        with naming(self._path, "opening", advice):
            self._container = av.open(ffmpeg_path(self._path), metadata_errors="replace")
        videos = video_streams(self._container)
        if not videos or not videos[0].codec_context:
            kinds = ", ".join(sorted({s.type for s in self._container.streams})) or "nothing"
            self._container.close()
            raise VideoError(f"{self._path}: expected a video stream, found {kinds}. Choose a file with pictures.")
        return self._container, videos[0]

    def __exit__(self, *_: object) -> None:
        self._container.close()


def shown_packets(path: Path, container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """The packets of pictures that are shown, in decoding order.

    Raises:
        VideoError: the file breaks off.
    """
    with naming(path, "reading", "The file may be truncated."):
        for packet in container.demux(stream):
            if packet.size > 0 and not packet.is_discard:
                yield packet


def time_of(ticks: int | None, of: av.Packet | av.VideoFrame) -> Stamp:
    """A time in seconds that a packet or frame counts in ticks."""
    return ticks * of.time_base if ticks is not None and of.time_base is not None else None


def packet_times(path: Path, fps: Fraction) -> list[Fraction]:
    """Times in seconds of all pictures of a video in the order shown, by its packets; `fps` where they have none.

    Raises:
        VideoError: the file cannot be read or breaks off.
    """
    with open_video(path) as (container, stream):
        found = [
            (time_of(packet.pts, packet), time_of(packet.dts, packet))
            for packet in shown_packets(path, container, stream)
        ]
    clock = FrameClock(fps)
    return [clock.at(time) for part in _parts(found) for time in _in_order(part)]


def _parts(stamps: list[tuple[Stamp, Stamp]]) -> list[list[Stamp]]:
    """Presentation times of packets, by (presentation, decoding) time; a part for each time that the clock starts."""
    parts: list[list[Stamp]] = [[]]
    last: Stamp = None
    for pts, dts in stamps:
        now = dts if dts is not None else pts
        if now is not None:
            if last is not None and now < last - STEP_BACK:
                parts.append([])
            last = now
        parts[-1].append(pts)
    return parts


def _in_order(times: list[Stamp]) -> list[Stamp]:
    """Packets come in decoding order; those without a time stamp of their own stand where they are."""
    known = iter(sorted(time for time in times if time is not None))
    return [None if time is None else next(known) for time in times]


def told_frames(container: InputContainer, stream: VideoStream) -> int:
    """How many frames the file says it has, 0 where it does not or its duration belies it.

    Fragments are not counted, frames that an edit list leaves out are, and AVI counts gaps in time as frames, too.
    """
    if container.format.name == "avi" or not stream.duration or not stream.time_base or not stream.average_rate:
        return 0
    lasting = stream.duration * stream.time_base * stream.average_rate
    return stream.frames if abs(stream.frames - lasting) <= 1 else 0


def decode(path: Path, notices: Notices | None = None) -> Generator[av.VideoFrame, None, None]:
    """Decoded frames in the order shown, what cannot be decoded skipped, with a warning when that was the case.

    Args:
        path: the video.
        notices: takes warnings about its frames; None: for the first frame only, with one thread and no warnings.
    """
    shown = failed = packets = 0
    broken: av.error.FFmpegError | None = None
    with open_video(path) as (container, stream):
        stream.thread_type = "NONE" if notices is None else "AUTO"
        expected = told_frames(container, stream)
        demuxer = container.demux(stream)
        while broken is None:
            frames: list[av.VideoFrame] = []
            try:
                packet = next(demuxer)
                packets += packet.size > 0
            except StopIteration:
                break
            except av.error.FFmpegError as error:
                broken, packet = error, None
            try:
                frames = stream.decode(packet)  # None drains what the decoder still holds
            except av.error.FFmpegError as error:
                failed += 1
                last_error = error
            for frame in frames:
                if notices is not None:
                    _warn_of_frame(notices, frame)
                    if not shown:
                        _warn_of_stream(notices, stream, frame)
                shown += 1
                yield frame
    if shown == 0:
        reason = f" ({last_error.strerror})" if failed else ""
        raise VideoError(
            f"{path}: expected a video, no frame of it could be decoded{reason}. The file is empty or damaged; "
            "play it in a player, or convert it with ffmpeg first."
        )
    if broken is not None or failed or packets < expected:
        of, why = f" of {expected}" if expected else "", f" ({broken.strerror})" if broken else ""
        (notices or Notices(path)).warn(
            f"the file is damaged or truncated: {shown} frames were decoded{of}, {failed} packets could not be "
            f"decoded{why}"
        )


def _warn_of_frame(notices: Notices, frame: av.VideoFrame) -> None:
    if frame.interlaced_frame:
        notices.warn(
            "interlaced video; it is not deinterlaced, so moving edges will look combed. Deinterlace it first, e.g. "
            "ffmpeg -i IN -vf bwdif OUT"
        )


def _warn_of_stream(notices: Notices, stream: VideoStream, frame: av.VideoFrame) -> None:
    curve = HDR_TRANSFERS.get(int(stream.codec_context.color_trc))
    if curve:
        notices.warn(f"HDR video ({curve}); it is not tone-mapped, colours will look flat")
    if stream.metadata.get("alpha_mode") == "1" or _shows_through(frame):
        notices.warn(TRANSPARENCY)


def _shows_through(frame: av.VideoFrame) -> bool:
    """Whether a frame has transparent places. RGB codecs such as GIF carry alpha always, most often unused."""
    if not any(component.is_alpha for component in frame.format.components):
        return False
    return not frame.format.is_rgb or bool((frame.to_ndarray(format="rgba")[..., 3] < 255).any())
