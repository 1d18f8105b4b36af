"""Edit a person inside a full-frame video: find, cut out, render, paste back, with everything else untouched."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

from ..engine import Engine
from ..errors import MotionError, OptionError
from ..memory import return_free_memory
from ..portrait import PasteOptions, Paster
from ..video import PICTURE_FPS, FrameSource, open_frames
from .portraits import CropOptions, CropWhen, Framed, PortraitClip, frame_person
from .report import Reporter, Silent
from .setup import Drivers, ModelOptions, lay_out, measure_drivers, measure_settings, source_clock
from .stream import AHEAD, Preview, stream
from .writing import VideoEncoding, check_kind, write_end

logger = logging.getLogger(__name__)

Result = Literal["frame", "portrait"]
RESULTS: tuple[Result, ...] = ("frame", "portrait")


@dataclass(frozen=True)
class EditOptions:
    """How an edited clip is made, apart from who is edited by whom.

    Attributes:
        crop: how the person is found and framed; the driver too, of whom the largest person counts.
        driver_crop: whether the driver's face is cut out first; "auto" does so where frames are not square.
        paste: how the edited portraits are put back.
        result: "frame", the full frames with the edit, or "portrait", the edited portraits alone.
        picture_fps: frames per second of a folder of pictures.
        encoding: how the video is encoded.
        overlap: chunks that decoding, pasting and encoding may be apart; 0 does one after the other.
    """

    crop: CropOptions = field(default_factory=CropOptions)
    driver_crop: CropWhen = "auto"
    paste: PasteOptions = field(default_factory=PasteOptions)
    result: Result = "frame"
    picture_fps: Fraction = PICTURE_FPS
    encoding: VideoEncoding = field(default_factory=VideoEncoding)
    overlap: int = AHEAD

    def __post_init__(self) -> None:
        if self.result not in RESULTS:
            raise OptionError(f"result: expected one of {', '.join(RESULTS)}, got {self.result!r}.")

    def paths(self) -> list[Path]:
        """The files that are read for it."""
        weights = self.paste.parsing_weights
        return [*self.crop.paths(), *([weights] if weights is not None else [])]


@dataclass(frozen=True)
class EditVideoJob:
    """A person edited inside a full-frame video.

    Attributes:
        source: the full-frame clip.
        drivers: who drives; the expression as a rule, since after a pose edit the neck no longer fits.
        output: the edited clip, as many frames as the source.
        model: which model runs where.
        options: how it is made.
    """

    source: Path
    drivers: Drivers
    output: Path
    model: ModelOptions = field(default_factory=ModelOptions)
    options: EditOptions = field(default_factory=EditOptions)

    def __post_init__(self) -> None:
        _check_length(self.drivers)


@dataclass(frozen=True)
class EditedClip:
    """What became of a clip.

    Attributes:
        frames: frames written: as many as the source has.
        outline_moved: whether the edit moves the head's outline, so that the neck no longer fits.
        framed: the person found in it.
    """

    frames: int
    outline_moved: bool
    framed: Framed


def edit_video(job: EditVideoJob, reporter: Reporter | None = None, engine: Engine | None = None) -> int:
    """Run the job, streaming from file to file; sound and time stamps are kept. Returns the number of frames written.

    Args:
        job: what to do.
        reporter: shows progress.
        engine: one that is open already, instead of the job's model.

    Raises:
        DPEError: any input that cannot be used, or an output that cannot be written, before rendering starts.
    """
    inputs = [job.source, *job.drivers.paths(), *job.options.paths(), *job.model.paths()]
    job.options.encoding.check(job.output, inputs)
    engine = engine or job.model.engine()
    source = open_frames(job.source, job.options.overlap, job.options.picture_fps)
    check_kind(job.output, source)
    sound = job.source if source.info.has_audio else None
    done = edit_clip(engine, source, job.drivers, job.output, job.options, reporter, sound, inputs)
    if done.outline_moved:
        logger.warning("%s: the edit moves the head's outline; the neck may no longer fit the body.", job.output)
    return done.frames


def edit_clip(
    engine: Engine,
    source: FrameSource,
    drivers: Drivers,
    output: Path,
    options: EditOptions,
    reporter: Reporter | None = None,
    sound: Path | None = None,
    inputs: Sequence[Path] = (),
    preview: Preview | None = None,
) -> EditedClip:
    """Edit an opened clip into a file: find the person, measure the drivers, then stream.

    Args:
        engine: renders.
        source: the full frames.
        drivers: who drives.
        output: the file to write.
        options: how.
        reporter: shows progress.
        sound: the file whose sound goes along, in step with the source's time stamps.
        inputs: files that the output must not replace.
        preview: shown a finished frame now and then.

    Raises:
        DPEError: any input that cannot be used, or an output that cannot be written.
    """
    _check_length(drivers)
    drivers.known_motions(engine.checkpoint)  # what does not fit is known before the clip is looked through
    reporter = reporter or Silent()
    shifts = measure_settings(engine, drivers, reporter)
    info, full = source.info, options.result == "frame"
    framed = frame_person(source, options.crop.beside(engine.device), engine.size, reporter, "source")
    crop = framed.crop
    seconds = source_clock(source)[: len(crop)]
    motions = measure_drivers(engine, drivers, options.driver_crop, options.crop.of_driver(), reporter, seconds)
    steps = lay_out(drivers.edits(motions), seconds, drivers.length, shifts)
    paster = Paster(options.paste, crop, engine.device) if full else None
    return_free_memory()
    pixel_aspect = info.pixel_aspect if full else Fraction(1)
    with options.encoding.clip_writer(output, info, inputs, sound, pixel_aspect) as writer:
        stream(engine, PortraitClip(source, crop), steps, writer, reporter, paster, options.overlap, preview)
        write_end(writer, source)
    right, down = writer.padding
    if right or down:
        was, now = f"{info.width}x{info.height}", f"{info.width + right}x{info.height + down}"
        reporter.warn(info.path, f"{was} became {now}, since the encoding needs even sides: the edge is repeated")
    return EditedClip(writer.frames, paster is not None and paster.outline_moved, framed)


def _check_length(drivers: Drivers) -> None:
    if drivers.length == "trim":
        raise MotionError("length: an edited video keeps its length; choose hold, loop or ping_pong.")
