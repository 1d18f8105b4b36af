"""The sound of one file beside the pictures of another: packets as they are where the container takes them."""

from __future__ import annotations

import io
import logging
import wave
from collections import deque
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import av.error
import numpy as np
import torch
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream
from torch import Tensor

from .access import ffmpeg_path, naming
from .clock import STEP_BACK
from .decoding import video_streams
from .notices import Notices
from .reader import PICTURE_FPS

logger = logging.getLogger(__name__)

COPIED: dict[str, frozenset[str] | None] = {
    "mp4": frozenset({"aac", "mp3", "ac3", "eac3", "alac", "flac", "opus"}),
    "mov": frozenset(
        {"aac", "mp3", "ac3", "eac3", "alac"}
        | {f"pcm_{kind}{order}" for kind in ("s16", "s24", "s32", "f32") for order in ("le", "be")}
    ),
    "matroska": None,
    "webm": frozenset({"opus", "vorbis"}),
}
"""Sound codecs that a container takes as they are, by FFmpeg's names; None = all that FFmpeg itself puts there."""

SLOWEST_MP3 = 16000
"""Samples a second from which on MP3 may lie in an MP4 file."""

AAC_RATES = frozenset({8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000})
OPUS_RATE = 48000

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
"""What sound of so many channels is encoded as; of another number, as stereo or, from six on, 5.1.

Not as 7.1: PyAV looks for a ninth plane of frames that have eight, and may crash.
"""

NAMED_BY = ("language", "title")
"""What tells one sound track from another in players and editors."""

PREROLL = Fraction(1, 10)
"""Seconds of sound kept before the start where an edit list hides them: decoders need a packet or two to settle."""

LOOK_AHEAD = 500
"""Packets of sound that wait for the pictures' clock to start again as theirs did."""

Piece: TypeAlias = "av.Packet | av.AudioFrame"
Pieces: TypeAlias = Generator[tuple[Fraction, Fraction, Piece], None, None]
"""Packets or frames with their start and end in seconds of output."""


class Sound:
    """Copies the sound of `source` into `output`, a stretch at a time, so that memory stays flat.

    All its tracks that can be read: cameras write a track a microphone, films one a language.

    Must be made before anything is written to `output`.

    Args:
        source: a file with sound, opened here; `close` closes it.
        output: the container written to.
        container: its FFmpeg name, a key of `COPIED`.
        origin: the time on the source's clock, in seconds, that becomes 0 in the output; earlier sound is left out.
    """

    def __init__(self, source: Path, output: OutputContainer, container: str, origin: Fraction) -> None:
        with _open(source) as opened:
            numbers = [i for i, s in enumerate(opened.streams.audio) if s.codec_context is not None]
        self._tracks = [_Track(source, number, output, container, origin) for number in numbers]

    def write_until(self, end: Fraction) -> None:
        """Writes the sound before `end` seconds of output that has not been written yet, in whole pieces."""
        for track in self._tracks:
            track.write_until(end)

    def finish(self, end: Fraction) -> None:
        """Writes the rest of the sound before `end`, the end of the pictures; a packet may reach over it."""
        for track in self._tracks:
            track.finish(end)

    def close(self) -> None:
        """Closes the source."""
        for track in self._tracks:
            track.close()


def _open(source: Path) -> InputContainer:
    with naming(source, "opening", "Its sound was asked for; the file may be truncated."):
        return av.open(ffmpeg_path(source), metadata_errors="replace")


class _Track:
    """Sound track `number` of `source`, read beside the others; see `Sound`."""

    def __init__(self, source: Path, number: int, output: OutputContainer, container: str, origin: Fraction) -> None:
        self._path = source
        self._damages = Notices(source)
        self._origin = origin
        self._keeps_early = container in ("mp4", "mov")  # whose edit lists hide what lies before 0
        self._input = _open(source)
        self._stream: AudioStream = self._input.streams.audio[number]
        codec = codec_name(self._stream.codec_context.codec)
        self._copy = _copies(self._stream, codec, container)
        if self._copy:
            self._out: Any = output.add_stream_from_template(self._stream)
        else:
            wanted, rate = ("libopus", OPUS_RATE) if container == "webm" else ("aac", self._stream.rate)
            rate = rate if rate in AAC_RATES or rate == OPUS_RATE else 48000
            logger.info("%s: sound is re-encoded from %s to %s, to fit %s", source, codec, wanted, container)
            self._out = output.add_stream(wanted, rate=rate)
            channels = self._stream.codec_context.channels
            layout = LAYOUTS.get(channels, "stereo" if channels < 6 else "5.1")
            self._out.codec_context.layout = layout
            if channels not in LAYOUTS:
                logger.warning("%s: its %d channels become %s", source, channels, layout)
        self._out.metadata.update({k: v for k, v in self._stream.metadata.items() if k in NAMED_BY})
        self._output = output
        self._pending = self._packets() if self._copy else self._frames()
        self._next: tuple[Fraction, Fraction, Piece] | None = None

    def write_until(self, end: Fraction) -> None:
        while True:
            self._next = self._next or next(self._pending, None)
            if self._next is None or self._next[1] > end:
                return
            self._write(self._next[2])
            self._next = None

    def finish(self, end: Fraction) -> None:
        self.write_until(end)
        if self._next is not None and self._next[0] < end:
            start, _, piece = self._next
            if isinstance(piece, av.AudioFrame):
                piece = _slice(piece, 0, round((end - start) * piece.sample_rate))
            self._write(piece)
        if not self._copy:
            self._output.mux(self._out.encode(None))

    def _write(self, piece: Piece) -> None:
        if not isinstance(piece, av.Packet):
            self._output.mux(self._out.encode(piece))
            return
        try:
            self._output.mux([piece])
        except (av.error.InvalidDataError, av.error.PatchWelcomeError) as error:  # what converts or muxes it reads it
            self._damages.warn(f"a stretch of its sound is damaged and is left out ({error.strerror})")

    def close(self) -> None:
        self._pending.close()
        self._input.close()

    def _packets(self) -> Pieces:
        """Packets to copy, with start and end in seconds of output."""
        last = None
        for packet in self._joined():
            if packet.pts is None or packet.dts is None or packet.size == 0:
                continue
            shift = round(self._origin / packet.time_base)
            start = (packet.pts - shift) * packet.time_base
            end = start + (packet.duration or 0) * packet.time_base
            early = end <= -PREROLL if self._keeps_early else start < 0
            if early or (last is not None and packet.dts <= last):
                continue
            last = packet.dts
            packet.pts -= shift
            packet.dts -= shift
            packet.stream = self._out
            yield start, end, packet

    def _frames(self) -> Pieces:
        """Decoded sound to encode, what lies before 0 cut off, with start and end in seconds of output."""
        context = self._out.codec_context
        rate = context.sample_rate
        resampler, setup = av.AudioResampler(format="fltp", layout=context.layout, rate=rate), None
        expected = done = 0
        for packet in self._joined():
            try:
                decoded = self._stream.decode(packet)
            except av.error.FFmpegError as error:
                logger.warning("%s: a stretch of sound cannot be decoded and is left out (%s)", self._path, error)
                continue
            resampled: list[av.AudioFrame] = []
            for whole in decoded:
                found = (whole.layout.name, whole.sample_rate, whole.format.name)
                if setup not in (None, found):  # broadcasts change from mono to stereo, or their rate
                    resampled += resampler.resample(None)
                    resampler = av.AudioResampler(format="fltp", layout=context.layout, rate=rate)
                setup = found
                resampled += resampler.resample(whole)
            for frame in resampled:
                if frame.pts is not None and frame.time_base is not None:
                    expected = round((frame.pts * frame.time_base - self._origin) * rate)
                start, expected = expected, expected + frame.samples
                frame.pts, frame.time_base = start, Fraction(1, rate)
                if expected > done:  # also where time stamps step back
                    piece = _slice(frame, max(0, done - start), frame.samples)
                    yield Fraction(max(done, start), rate), Fraction(expected, rate), piece
                    done = expected

    def _joined(self) -> Iterator[av.Packet]:
        """The track's packets on the clock that its pictures have; see `_Joins`."""
        joins = _Joins(next(iter(video_streams(self._input)), None))
        waiting: deque[tuple[int, av.Packet]] = deque()
        part, last = 0, None
        for packet in self._demuxed(joins.pictures):
            if packet.stream_index != self._stream.index:
                joins.see(packet)
            else:
                ticks = packet.dts if packet.dts is not None else packet.pts
                if ticks is not None:
                    time = ticks * packet.time_base
                    part += last is not None and time < last - STEP_BACK
                    last = time
                waiting.append((part, packet))
            while waiting and (joins.knows(waiting[0][0]) or len(waiting) > LOOK_AHEAD):
                yield joins.shifted(*waiting.popleft())
        while waiting:
            yield joins.shifted(*waiting.popleft())

    def _demuxed(self, pictures: VideoStream | None) -> Iterator[av.Packet]:
        demuxer = self._input.demux([self._stream, pictures] if pictures is not None else self._stream)
        while True:
            try:
                packet = next(demuxer)
            except StopIteration:
                return
            except av.error.FFmpegError as error:
                logger.warning("%s: the sound breaks off (%s); the rest is silent", self._path, error)
                return
            yield packet


class _Joins:
    """How far sound must be shifted where recordings were joined end to end, so that their clock starts again.

    Each part is shifted as its pictures are (see `clock.FrameClock`), whose first follows one frame after the last.
    A part without pictures follows the end of the sound before.

    Args:
        pictures: the stream of pictures in the same file.
    """

    def __init__(self, pictures: VideoStream | None) -> None:
        self.pictures = pictures
        rate = pictures.average_rate if pictures is not None else None
        self._frame = 1 / (rate or PICTURE_FPS)
        self._shifts = [Fraction(0)]
        self._last: Fraction | None = None
        self._end = self._sound_end = Fraction(0)

    def see(self, packet: av.Packet) -> None:
        """A packet of the pictures, in the file's order."""
        ticks = packet.dts if packet.dts is not None else packet.pts
        if ticks is None:
            return
        time = ticks * packet.time_base
        shown = packet.pts * packet.time_base if packet.pts is not None else time
        if self._last is None:
            self._end = shown
        elif time < self._last - STEP_BACK:
            self._shifts.append(self._end - shown)
        self._last = time
        self._end = max(self._end, shown + self._shifts[-1] + self._frame)

    def knows(self, part: int) -> bool:
        """Whether it is known how far part number `part` is shifted."""
        return part < len(self._shifts) or self.pictures is None

    def shifted(self, part: int, packet: av.Packet) -> av.Packet:
        """A packet of the sound in part number `part`, shifted."""
        ticks = packet.pts if packet.pts is not None else packet.dts
        if ticks is None:
            return packet
        while part >= len(self._shifts):
            self._shifts.append(self._sound_end - ticks * packet.time_base)
        shift = round(self._shifts[part] / packet.time_base)
        if shift:
            packet.pts = packet.pts + shift if packet.pts is not None else None
            packet.dts = packet.dts + shift if packet.dts is not None else None
        self._sound_end = (ticks + shift + (packet.duration or 0)) * packet.time_base
        return packet


def codec_name(codec: av.Codec) -> str:
    """FFmpeg's name of a codec whatever implements it: mp3 for mp3float, hevc for libx265."""
    return str(getattr(codec, "canonical_name", None) or codec.name.removeprefix("lib").removesuffix("float"))


def _copies(stream: AudioStream, codec: str, container: str) -> bool:
    """Whether a container takes the stream's packets as they are."""
    takes = COPIED[container]
    if takes is not None and codec not in takes:
        return False
    if codec == "mp3" and container == "mp4" and (stream.rate or 0) < SLOWEST_MP3:
        return False
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _slice(frame: av.AudioFrame, begin: int, end: int) -> av.AudioFrame:
    """Samples `begin` to `end` of a planar frame, at their own time."""
    if begin == 0 and end >= frame.samples:
        return frame
    samples: Any = np.ascontiguousarray(frame.to_ndarray()[:, begin:end])
    part = av.AudioFrame.from_ndarray(samples, format=frame.format.name, layout=frame.layout.name)
    part.sample_rate = frame.sample_rate
    part.pts, part.time_base = (frame.pts or 0) + begin, frame.time_base
    return part


def write_wav(path: Path, samples: Tensor, rate: int) -> None:
    """Sound in memory as a 16-bit WAV file.

    Args:
        path: the file.
        samples: [C, S] floating point in -1..1; beyond is clipped.
        rate: samples a second.

    Raises:
        VideoError: the file cannot be written.
    """
    values = (samples.detach().float().nan_to_num().clamp(-1.0, 1.0) * 32767.0).round().to(torch.int16).cpu()
    with naming(path, "writing the sound", "Check the free space."), wave.open(str(path), "wb") as file:
        file.setnchannels(values.shape[0])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(values.T.contiguous().numpy().astype("<i2").tobytes())
