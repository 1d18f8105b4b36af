"""One encoder, one container: pictures and sound into a video file."""

from __future__ import annotations

import io as memory_io
import logging
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.container import OutputContainer

from ..errors import VideoError
from .access import ffmpeg_path
from .pixels import BT709, RGB, Colour, from_rgb
from .reader import first_time
from .sound import Sound, codec_name

logger = logging.getLogger(__name__)

TIME_BASES = (Fraction(1, 360000), Fraction(1, 60000))
"""For given time stamps: exact for milliseconds, 24, 25 and 30 fps and their 1000/1001 kin. The second, for encoders
that count in 16 bits (MPEG-4), misses the kin of 24 by half a tick."""
WORST_CRF = {"libx264": 51, "libx265": 51, "libvpx": 63, "libvpx-vp9": 63, "libaom-av1": 63, "libsvtav1": 63}
"""Largest constant rate factor an encoder knows; it takes larger ones for this without a word."""
TRIAL = (288, 352)
"""Height and width of the picture that an encoder is tried on; old ones take few others."""
UNORDERED = 2
"""Clips of so few pictures get no decoding times from x265, which leaves them as they are in memory."""
UNTAGGED = {"libvpx": Colour(5), "mjpeg": Colour(5, full_range=True)}
"""Encoders whose streams carry no matrix or range, with those that decoders take for granted."""


class VideoSink:
    """An encoder and, beside it, the sound; opened with the first picture, whose size it takes."""

    def __init__(
        self,
        path: Path,
        container: str,
        fps: Fraction,
        codec: str | None,
        crf: int | None,
        pix_fmt: str,
        sound: Path | None,
        colour: Colour = BT709,
        pixel_aspect: Fraction = Fraction(1),
        timecode: str | None = None,
        created: str | None = None,
    ) -> None:
        self.padding = 0, 0
        """Pixels added on the right and at the bottom of every picture so far."""
        self._path, self._format, self._fps, self._pix_fmt = path, container, fps, pix_fmt
        self._codec = codec or ("libvpx-vp9" if container == "webm" else "libx264")
        self._step = _halvings(path, self._codec, pix_fmt)
        self._colour, self._pixel_aspect = _storable(colour, self._codec, pix_fmt), pixel_aspect
        self._options = _options(self._codec, crf)
        self._is_hevc = codec_name(av.Codec(self._codec, "w")) == "hevc"
        self._base = self._find_base()
        self._sound_path = sound
        self._timecode, self._created = timecode, created
        self._container: OutputContainer | None = None
        self._stream: Any = None
        self._sound: Sound | None = None
        self._origin = Fraction(0)
        self._last = Fraction(-1)
        self._end = Fraction(0)
        self._held: list[av.Packet] = []
        self._first_dts: int | None = None
        self._told_end = False
        self._count = 0

    def add(self, picture: np.ndarray, time: Fraction | None) -> None:
        """Encodes a picture RGB uint8 [H, W, 3]; `time` in seconds, or None for the next tick of a constant rate."""
        picture = self._even(picture)
        container = self._container or self._start(picture, time)
        if time is None:
            at = round(self._end * self._fps) / self._fps
        else:
            at = time - self._origin
            if at <= self._last:
                raise VideoError(
                    f"{self._path}: expected increasing time stamps, got {float(time):.6f} s after "
                    f"{float(self._last + self._origin):.6f} s."
                )
        frame = from_rgb(picture, self._pix_fmt, self._colour)
        base = self._stream.codec_context.time_base
        frame.pts, frame.time_base = round(at / base), base
        self._last, self._end = at, at + 1 / self._fps
        self._count += 1
        # The last packets wait, since only the end tells how long the last frame is shown.
        container.mux(self._held)
        self._held = self._stream.encode(frame)
        if self._first_dts is None and self._held:
            self._first_dts = self._held[0].dts
        if self._sound is not None:
            self._sound.write_until(at)

    def end_at(self, time: Fraction) -> None:
        """Until when the last picture given so far is shown, in seconds on the clock of its time stamp."""
        if time - self._origin > self._last:
            self._end, self._told_end = time - self._origin, True

    def finish(self) -> None:
        """Writes what the encoder still holds, the rest of the sound and the container's index."""
        if self._container is None:
            return
        packets = [*self._held, *self._stream.encode(None)]
        self._held = []
        if self._is_hevc and self._count <= UNORDERED:
            for packet in packets:
                packet.dts = packet.pts
        if self._told_end:
            self._lengthen(packets)
        self._container.mux(packets)
        if self._sound is not None:
            self._sound.finish(self._end)
        self._container.close()
        self._container = None

    def close(self) -> None:
        """Lets go of the files, finished or not."""
        if self._sound is not None:
            self._sound.close()
        if self._container is not None:
            container, self._container = self._container, None
            try:
                container.close()
            except (av.error.FFmpegError, OSError) as error:
                logger.warning("%s: closing failed: %s", self._path, error)

    def _lengthen(self, packets: list[av.Packet]) -> None:
        """Gives the last frame the duration up to the end, where there are packets left."""
        base = self._stream.codec_context.time_base
        last, end = round(self._last / base), round(self._end / base)
        for packet in packets:
            if packet.pts == last:
                packet.duration = end - last
        if self._format in ("mp4", "mov") and packets and packets[-1].dts is not None:
            # There durations are those in decoding order, and their sum is how long the pictures last.
            first = self._first_dts if self._first_dts is not None else packets[0].dts or 0
            packets[-1].duration = max(1, end + first - packets[-1].dts)

    def _start(self, picture: np.ndarray, time: Fraction | None) -> OutputContainer:
        options = {"movflags": "+faststart"} if self._format in ("mp4", "mov") else {}
        container = av.open(ffmpeg_path(self._path), "w", format=self._format, options=options)
        self._container = container
        self._stream = self._add_stream(container, picture, 1 / self._fps if time is None else self._base)
        if self._format in ("mp4", "mov"):
            marks = {"timecode": self._timecode, "creation_time": self._created}
            container.metadata.update({key: text for key, text in marks.items() if text})
        self._origin = time if time is not None else Fraction(0)
        if self._sound_path is not None:
            origin = time if time is not None else first_time(self._sound_path)
            self._sound = Sound(self._sound_path, container, self._format, origin)
        return container

    def _add_stream(self, container: OutputContainer, picture: np.ndarray, base: Fraction) -> Any:
        stream: Any = container.add_stream(self._codec, rate=self._fps, options=self._options)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = self._pix_fmt
        context = stream.codec_context
        if self._format in ("mp4", "mov") and self._is_hevc:
            context.codec_tag = "hvc1"  # Apple's players take no other
        context.time_base = base
        context.colorspace, context.color_range = self._colour.matrix, self._colour.range
        context.color_primaries, context.color_trc = self._colour.primaries, self._colour.transfer
        if self._pixel_aspect != 1:
            context.sample_aspect_ratio = self._pixel_aspect
        return stream

    def _find_base(self) -> Fraction:
        """The finest time base the encoder takes, tried on a picture or three, so that what fails does so at once.

        Raises:
            VideoError: it takes none, or the container does not take its stream.
        """
        picture = np.zeros((*TRIAL, 3), np.uint8)
        for base in (*TIME_BASES, 1 / self._fps):
            try:
                with av.open(memory_io.BytesIO(), "w", format=self._format) as container:
                    stream = self._add_stream(container, picture, base)
                    for i in range(UNORDERED + 1 if self._is_hevc else 1):
                        frame = from_rgb(picture, self._pix_fmt, self._colour)
                        frame.pts, frame.time_base = round(i / self._fps / base), base
                        container.mux(stream.encode(frame))
                    container.mux(stream.encode(None))
                return base
            except (av.error.FFmpegError, ValueError) as error:
                reason = error
        raise VideoError(
            f"Expected an encoder that works, but {self._codec} in {self._pix_fmt} does not go into {self._format} "
            f"files ({reason}). Choose another codec, or another ending for the file."
        ) from reason

    def _even(self, picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        down, right = -height % self._step[0], -width % self._step[1]
        self.padding = right, down
        return np.pad(picture, ((0, down), (0, right), (0, 0)), mode="edge") if down or right else picture


def _halvings(path: Path, codec: str, pix_fmt: str) -> tuple[int, int]:
    """What height and width must be multiples of, by the encoder's chroma subsampling.

    Raises:
        VideoError: no such encoder or pixel format here.
    """
    try:
        formats = [f.name for f in av.Codec(codec, "w").video_formats or ()]
        layout = av.VideoFormat(pix_fmt)
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(
            f"{path}: this PyAV has no encoder {codec!r} or no pixel format {pix_fmt!r}. Choose another codec, "
            "or install PyAV's own wheel: pip install av."
        ) from error
    if formats and pix_fmt not in formats:
        raise VideoError(f"{path}: {codec} takes no pixel format {pix_fmt}. Choose one of {', '.join(formats)}.")
    probe = 64
    return probe // layout.chroma_height(probe), probe // layout.chroma_width(probe)


def _storable(colour: Colour, codec: str, pix_fmt: str) -> Colour:
    """The colour as an encoder can store it."""
    if av.VideoFormat(pix_fmt).is_rgb:
        return replace(colour, matrix=RGB, full_range=True)
    return UNTAGGED.get(codec, colour)


def _options(codec: str, crf: int | None) -> dict[str, str]:
    worst = WORST_CRF.get(codec, max(WORST_CRF.values()))
    if crf is not None and not 0 <= crf <= worst:
        raise VideoError(f"Expected a crf of 0 (the best) to {worst} for {codec}, got {crf}.")
    if codec.startswith("libvpx"):
        return {"crf": str(28 if crf is None else crf), "b": "0", "row-mt": "1", "cpu-used": "4"}
    if codec in ("libx264", "libx265"):
        return {"crf": str(18 if crf is None else crf)}
    return {} if crf is None else {"crf": str(crf)}
