"""Portraits of one person out of a clip: found in a first pass, cut out in the second."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..errors import FrameError, NoFaceError, OptionError, VideoError
from ..frames import to_unit
from ..portrait import (
    Crop,
    FaceDetector,
    People,
    Track,
    TrackBuilder,
    check_selection,
    crop_frames,
    draw_overlay,
    frame_portraits,
    load_detector,
    matching_scale,
)
from ..portrait.crop import SCALE, check_framing
from ..portrait.scale import head_proportion, spread
from ..video import PICTURE_FPS, FrameSource, VideoInfo, open_frames, probe, read_frames
from ..video.writer import partial_of
from .report import Reporter, Silent
from .writing import VideoEncoding, check_kind, write_end, write_timed

logger = logging.getLogger(__name__)

CropWhen = Literal["auto", "face", "none"]
CROP_WHEN: tuple[CropWhen, ...] = ("auto", "face", "none")
DETECT_CHUNK = 8
CUT_CHUNK = 8


@dataclass(frozen=True)
class CropOptions:
    """How a person is found and framed; see `dpe_model.portrait.frame_portraits` and `People.choose`.

    Attributes:
        position: x and y in 0..1 of the frame, for `person="position"`.
        mask: a picture of the whole frame, white over the face, for `person="mask"`: its file, or [1 or N, H, W] in
            0..1.
        match: a clip of square portraits, its file or opened: whoever else is cut out shows a head of the same size;
            `scale` is not used.
        device: where the detector runs; None: beside the model, and on the CPU where there is none.
        detector_root: the folder of an optional detector's models, where not its own.
    """

    framing: str = "follow"
    scale: float = SCALE
    person: str = "largest"
    person_index: int = 0
    no_face: str = "auto"
    detector: str = "mtcnn"
    device: str | None = None
    position: tuple[float, float] = (0.5, 0.5)
    mask: Path | Tensor | None = field(default=None, compare=False)
    match: Path | FrameSource | None = None
    detector_root: Path | None = None

    def __post_init__(self) -> None:
        check_framing(self.scale, self.framing, self.no_face)
        if not all(0.0 <= place <= 1.0 for place in self.position):
            raise OptionError(f"position: expected x and y in 0..1 of the frame, got {self.position}.")

    def beside(self, device: torch.device) -> CropOptions:
        """The same, the detector on this device unless another is named."""
        return self if self.device is not None else replace(self, device=str(device))

    def of_driver(self) -> CropOptions:
        """The same for another clip, of whom the largest person counts."""
        return replace(self, person="largest")

    def paths(self) -> list[Path]:
        """The files that are read for it."""
        return [path for path in (self.mask, self.match) if isinstance(path, Path)]

    def person_mask(self) -> Tensor | None:
        """The mask [1 or N, H, W] in 0..1, read from its picture where it is a file.

        Raises:
            VideoError: it cannot be read.
        """
        if isinstance(self.mask, Path):
            return to_unit(read_frames(self.mask, limit=1)).mean(-1)
        return self.mask


@contextmanager
def naming_clip(source: FrameSource) -> Iterator[None]:
    """What is wrong with a clip's pictures is said with its name."""
    try:
        yield
    except (NoFaceError, FrameError) as error:
        if str(source.info.path) in str(error):
            raise
        raise type(error)(f"{source.info.path}: {error}") from error


@dataclass(frozen=True, eq=False)
class Framed:
    """A person found and framed in a clip, and who else is in it."""

    crop: Crop
    people: People
    track: Track


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
    return frame_person(source, options, size, reporter, name, stop).crop


def frame_person(
    source: FrameSource, options: CropOptions, size: int, reporter: Reporter, name: str, stop: int | None = None
) -> Framed:
    """As `find_crop`, with everybody who was found.

    Raises:
        NoFaceError: no face anywhere, or in some frame under `no_face="stop"`.
        FrameError: the clip to match is not one of square portraits.
    """
    root = {"root": options.detector_root} if options.detector_root is not None else {}
    detector = load_detector(options.detector, options.device or "cpu", unsure=True, **root)
    mask = options.person_mask()
    proportion = None
    match = open_frames(options.match) if isinstance(options.match, Path) else options.match
    if match is not None and match.info.path != source.info.path:
        proportion = clip_proportion(match, detector, reporter)
    _warn_of_pixels(source.info, reporter)
    builder = TrackBuilder(detector)
    total = len(source) if stop is None else min(stop, len(source))
    check_selection(options.person, total, options.position, mask)
    with naming_clip(source):
        with reporter.stage(f"find the {name}'s face", total) as count:
            for frames in source.chunks(DETECT_CHUNK, stop=stop):
                builder.add(frames)
                count(len(frames))
        people = builder.sightings().people()
        track = people.choose(options.person, options.person_index, options.position, mask)
        scale = options.scale if proportion is None else matching_scale(track, proportion)
        if proportion is not None:
            logger.info("%s: scale %.2f matches the heads of %s", source.info.path, scale, match and match.info.path)
        return Framed(frame_portraits(track, scale, options.framing, size, options.no_face), people, track)


def clip_proportion(source: FrameSource, detector: FaceDetector, reporter: Reporter) -> float:
    """How large the head is in a clip of square portraits, in their side, from frames spread over it.

    Raises:
        FrameError: the frames are not square.
        NoFaceError: no face in any of them.
    """
    if source.info.width != source.info.height:
        raise FrameError(
            f"{source.info.path}: expected square portraits, whose heads are to be matched, got {source.info.width}x"
            f"{source.info.height}. Cut them out first (command: crop), or give a scale as a number."
        )
    wanted = set(spread(len(source)))
    builder, start = TrackBuilder(detector), 0
    with naming_clip(source):
        with reporter.stage("measure the heads to match", len(source)) as count:
            for frames in source.chunks(DETECT_CHUNK):
                here = [n - start for n in range(start, start + len(frames)) if n in wanted]
                if here:
                    builder.add(frames[here])
                start += len(frames)
                count(len(frames))
        return head_proportion(builder.sightings().people().choose().seen, float(source.info.width))


def taken_as_portraits(info: VideoInfo, when: CropWhen) -> bool:
    """Whether a clip's frames are taken as portraits as they are: see `open_portraits`."""
    return when == "none" or (when == "auto" and info.width == info.height)


def first_portraits(paths: Iterable[Path], when: CropWhen) -> Path | None:
    """The first of these clips of square portraits that are taken as they are; None where all are cut out.

    One that cannot be read is passed over: the job that needs it says so.
    """
    for path in paths:
        if path.suffix == ".safetensors":
            continue
        try:
            info = probe(path)
        except VideoError:
            continue
        if info.width == info.height and taken_as_portraits(info, when):
            return path
    return None


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
    if taken_as_portraits(source.info, when):
        _warn_of_pixels(source.info, reporter)
        return PortraitClip(source, None, stop)
    return PortraitClip(source, find_crop(source, options, size, reporter, name, stop), stop)


def _warn_of_pixels(info: VideoInfo, reporter: Reporter) -> None:
    if info.pixel_aspect != 1:
        aspect = f"{info.pixel_aspect} wide to high"
        reporter.warn(info.path, f"its pixels are not square ({aspect}), so faces come out squeezed. Convert it first")


def crop_clip(
    source: Path,
    output: Path,
    options: CropOptions,
    size: int,
    reporter: Reporter | None = None,
    overlay: Path | None = None,
    encoding: VideoEncoding | None = None,
    picture_fps: Fraction = PICTURE_FPS,
) -> int:
    """Cut one person's portraits out of a clip into a file of their own, with the clip's times, colours and sound.

    Args:
        source: the full frames.
        output: the portraits.
        options: how the person is found and framed.
        size: side of the portraits, px.
        reporter: shows progress.
        overlay: also write the small full frames with everybody's box and number, and the square that is cut out.
        encoding: how videos are encoded.
        picture_fps: frames per second of a folder of pictures.

    Returns:
        The number of frames written.
    """
    check_framing(options.scale, options.framing, options.no_face, size)
    reporter, encoding = reporter or Silent(), encoding or VideoEncoding()
    inputs = [source, *options.paths()]
    clip = open_frames(source, picture_fps=picture_fps)
    for place, needed in ((output, inputs), (overlay, [*inputs, output, partial_of(output)])):
        if place is not None:
            encoding.check(place, needed)
            check_kind(place, clip)
    framed = frame_person(clip, options, size, reporter, "source")
    with ExitStack() as stack:
        sound, aspect = source if clip.info.has_audio else None, clip.info.pixel_aspect
        writer = stack.enter_context(encoding.clip_writer(output, clip.info, inputs, sound, aspect))
        shown = None
        if overlay is not None:
            shown = stack.enter_context(encoding.clip_writer(overlay, clip.info, inputs, None, aspect))
        count = stack.enter_context(reporter.stage("cut", len(clip)))
        start = 0
        for frames, times in clip.timed_chunks(CUT_CHUNK):
            write_timed(writer, crop_frames(frames, framed.crop[start : start + len(frames)]), times)
            if shown is not None:
                overlays = draw_overlay(frames, framed.people, framed.track.person, framed.crop, start)
                write_timed(shown, overlays, times)
            start += len(frames)
            count(len(frames))
        for written in (writer, shown):
            if written is not None:
                write_end(written, clip)
    return writer.frames
