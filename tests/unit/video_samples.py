"""Small clips made on the spot: colour charts, flashes with clicks, uneven time stamps, turned and broken files."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

CORNERS = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255), "W": (255, 255, 255)}
CHART = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255), (128, 128, 128), (0, 0, 0)]
RATE = 44100


def corner_frames(count: int, width: int = 64, height: int = 32) -> Tensor:
    """Frames with red, green, blue and white quarters, in reading order."""
    frames = torch.zeros(count, height, width, 3, dtype=torch.uint8)
    for i, colour in enumerate(CORNERS.values()):
        rows, columns = (
            (slice(0, height // 2), slice(height // 2, None)),
            (slice(0, width // 2), slice(width // 2, None)),
        )
        frames[:, rows[i // 2], columns[i % 2]] = torch.tensor(colour, dtype=torch.uint8)
    return frames


def corners(frame: Tensor) -> str:
    """Names of the colours in the four quarters of a frame, in reading order: "RGBW" as made."""
    height, width = frame.shape[:2]
    seen = ""
    for y in (height // 4, 3 * height // 4):
        for x in (width // 4, 3 * width // 4):
            pixel = frame[y, x].int()
            seen += min(CORNERS, key=lambda name: int((pixel - torch.tensor(CORNERS[name])).abs().sum()))
    return seen


def chart_frame(size: int = 128) -> Tensor:
    """One frame [1, size, size, 3] of eight stripes: saturated colours, grey, black."""
    stripe = size // len(CHART)
    columns = np.array(CHART, np.uint8).repeat(stripe, 0)
    return torch.from_numpy(np.broadcast_to(columns[None, None], (1, size, size, 3)).copy())


def counted_frames(count: int, width: int = 32, height: int = 32) -> Tensor:
    """Grey frames whose brightness tells their number (4 levels a frame, so at most 60 of them)."""
    levels = torch.arange(count, dtype=torch.uint8) * 4 + 8
    return levels[:, None, None, None].expand(count, height, width, 3).contiguous()


def numbers(frames: Tensor) -> list[int]:
    """Which of `counted_frames` these are."""
    return ((frames.float().mean((1, 2, 3)) - 8) / 4).round().int().tolist()


def encode(
    path: Path,
    frames: Tensor,
    fps: Fraction | int = 25,
    pts: list[Fraction] | None = None,
    sound: np.ndarray | dict[str, np.ndarray] | None = None,
    sound_codec: str = "aac",
    sound_start: Fraction = Fraction(0),
    codec: str = "libx264",
    colour: tuple[int, int] | None = None,
    options: dict[str, str] | None = None,
    gop: int = 12,
) -> Path:
    """Writes a clip with PyAV alone, apart from the code under test.

    `sound` is mono float32 at 44.1 kHz, or several such tracks by language.
    """
    sounds = sound if isinstance(sound, dict) else {} if sound is None else {"und": sound}
    with av.open(str(path), "w", options=options or {}) as container:
        video = container.add_stream(codec, rate=Fraction(fps), options={"crf": "4"} if codec == "libx264" else {})
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.gop_size = gop
        base = Fraction(1, 90000) if pts else 1 / Fraction(fps)
        video.codec_context.time_base = base
        if colour:
            video.codec_context.colorspace, video.codec_context.color_range = colour
        tracks = [(container.add_stream(sound_codec, rate=RATE), samples) for samples in sounds.values()]
        for (audio, _), language in zip(tracks, sounds, strict=True):
            audio.codec_context.layout = "mono"
            audio.metadata["language"] = language
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")
            if colour:
                matrix, full = colour
                frame = frame.reformat(
                    format="yuv420p",
                    src_colorspace=5 if matrix == 1 else 1,
                    dst_colorspace=1 if matrix == 1 else 5,
                    src_color_range=2,
                    dst_color_range=full,
                )
            frame.pts, frame.time_base = round(pts[i] / base) if pts else i, base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for audio, samples in tracks:
            for at in range(0, len(samples), 1024):
                piece = av.AudioFrame.from_ndarray(samples[None, at : at + 1024], format="fltp", layout="mono")
                piece.sample_rate, piece.time_base = RATE, Fraction(1, RATE)
                piece.pts = at + round(sound_start * RATE)
                container.mux(audio.encode(piece))
            container.mux(audio.encode(None))
    return path


def clicks(times: list[float], seconds: float) -> np.ndarray:
    """Silence with a burst of 2 kHz of 10 ms at each time."""
    sound = np.zeros(round(seconds * RATE), np.float32)
    burst = np.sin(np.arange(RATE // 100) * 2 * np.pi * 2000 / RATE).astype(np.float32) * 0.8
    for time in times:
        at = round(time * RATE)
        sound[at : at + len(burst)] = burst[: len(sound) - at]
    return sound


def heard(path: Path, track: int = 0) -> tuple[list[float], float]:
    """When bursts start and when the sound ends, in seconds on the file's clock as a player hears it."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[track]
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE)
        line = np.zeros(60 * RATE, np.float32)
        end = 0
        for frame in container.decode(stream):
            for piece in resampler.resample(frame):
                at = round(float(piece.pts * piece.time_base) * RATE)
                samples = piece.to_ndarray()[0][max(0, -at) :]
                at = max(0, at)
                line[at : at + len(samples)] = samples
                end = max(end, at + len(samples))
    loud = np.flatnonzero(np.abs(line) > 0.25)
    starts = [int(i) for k, i in enumerate(loud) if k == 0 or i - loud[k - 1] > RATE // 20]
    return [i / RATE for i in starts], end / RATE


def turn(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Patches the display matrix (a, b, c, d) of the first track of an MP4 file (ISO/IEC 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    at += 4 + (32 if data[at] == 1 else 20) + 16
    a, b, c, d = (v * 65536 for v in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def without_elements(path: Path, *ids: bytes) -> Path:
    """Voids the first EBML element of each id in a Matroska file, which then says nothing of the kind."""
    data = bytearray(path.read_bytes())
    for name in ids:
        at = data.find(name)
        if at >= 0:
            size = len(name) + (data[at + len(name)] & 0x7F) + 1
            data[at : at + size] = bytes([0xEC, 0x80 | (size - 2)]) + bytes(size - 2)
    path.write_bytes(data)
    return path


def remux(source: Path, target: Path, last: Fraction | None = None, options: dict[str, str] | None = None) -> Path:
    """Copies a clip's pictures packet by packet; the last one shown lasts `last` seconds."""
    with av.open(str(source)) as before, av.open(str(target), "w", options=options or {}) as after:
        stream = before.streams.video[0]
        copied = after.add_stream_from_template(stream)
        packets = [packet for packet in before.demux(stream) if packet.size]
        if last is not None:
            shown = max(packets, key=lambda packet: packet.pts)
            shown.duration = round(last / shown.time_base)
        for packet in packets:
            packet.stream = copied
            after.mux(packet)
    return target
