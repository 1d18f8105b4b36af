"""Portraits of one person out of a clip: found in a first pass, cut out in the second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from ..portrait import Crop, Face, crop_frames, frame_portraits, load_detector, track_faces
from ..portrait.crop import SCALE
from ..video import FrameSource, FrameWriter, open_frames
from .report import Reporter, Silent

CropWhen = Literal["auto", "face", "none"]
CROP_WHEN: tuple[CropWhen, ...] = ("auto", "face", "none")
DETECT_CHUNK = 8
CUT_CHUNK = 8


@dataclass(frozen=True)
class CropOptions:
    """How a person is found and framed; see `dpe_model.portrait.frame_portraits` and `track_faces`."""

    framing: str = "follow"
    scale: float = SCALE
    person: str = "largest"
    person_index: int = 0
    no_face: str = "hold"
    detector: str = "mtcnn"
    device: str = "cpu"


@dataclass(frozen=True)
class PortraitClip:
    """A clip of square portraits: the frames as they are, or cut out of them; the first `stop` of them, if given."""

    source: FrameSource
    crop: Crop | None
    stop: int | None = None

    def __len__(self) -> int:
        return len(self.source) if self.stop is None else min(self.stop, len(self.source))

    def chunks(self, n: int) -> Iterator[Tensor]:
        """Portraits, at most `n` at a time: uint8 [<=n, S, S, 3]."""
        start = 0
        for frames in self.source.chunks(n, stop=self.stop):
            part = slice(start, start + len(frames))
            yield frames if self.crop is None else crop_frames(frames, self.crop[part])
            start += len(frames)


def find_crop(
    source: FrameSource, options: CropOptions, size: int, reporter: Reporter, name: str, stop: int | None = None
) -> Crop:
    """Go through a clip (its first `stop` frames) and lay out the crop of one person, `size` px a side.

    Raises:
        NoFaceError: no face anywhere, or in some frame under `no_face="stop"`.
    """
    detector = load_detector(options.detector, options.device)
    found: list[list[Face]] = []
    total = len(source) if stop is None else min(stop, len(source))
    with reporter.stage(f"find the {name}'s face", total) as count:
        for frames in source.chunks(DETECT_CHUNK, stop=stop):
            found += detector.detect(frames)
            count(len(frames))
    track = track_faces(found, (source.info.height, source.info.width), options.person, options.person_index)
    return frame_portraits(track, options.scale, options.framing, size, options.no_face)


def open_portraits(
    source: FrameSource,
    when: CropWhen,
    options: CropOptions,
    size: int,
    reporter: Reporter,
    name: str,
    stop: int | None = None,
) -> PortraitClip:
    """A clip as portraits.

    Args:
        source: a video, a picture or a folder of pictures.
        when: "face" cuts out the face, "none" takes the frames as they are, "auto" cuts frames that are not square.
        options: how the face is found and framed.
        size: side of cut-out portraits, px.
        reporter: shows progress.
        name: what the progress calls the person.
        stop: how many frames matter; all if None.
    """
    square = source.info.width == source.info.height
    if when == "none" or (when == "auto" and square):
        return PortraitClip(source, None, stop)
    return PortraitClip(source, find_crop(source, options, size, reporter, name, stop), stop)


def crop_clip(source: Path, output: Path, options: CropOptions, size: int, reporter: Reporter | None = None) -> int:
    """Cut one person's portraits out of a clip into a file of their own, with the clip's rate and sound.

    Returns:
        The number of frames written.
    """
    reporter = reporter or Silent()
    FrameWriter.check(output, source)
    clip = open_portraits(open_frames(source), "face", options, size, reporter, "source")
    info = clip.source.info
    sound = source if info.has_audio else None
    with (
        FrameWriter(output, info.fps, audio_from=sound, sources=[source]) as writer,
        reporter.stage("cut", len(clip.source)) as count,
    ):
        for frames in clip.chunks(CUT_CHUNK):
            writer.write(frames)
            count(len(frames))
    return writer.frames
