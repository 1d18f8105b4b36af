"""Edit a person inside a full-frame video: find, cut out, render, paste back, with everything else untouched."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..errors import MotionError
from ..portrait import Crop, crop_frames, face_mask, feather_mask, paste_back
from ..video import FrameWriter, open_frames
from .portraits import CropOptions, CropWhen, find_crop
from .report import Reporter, Silent
from .setup import Clock, Drivers, ModelOptions, measure_drivers

MASKS = ("face", "crop")


@dataclass(frozen=True)
class EditVideoJob:
    """A person edited inside a full-frame video.

    Attributes:
        source: the full-frame clip.
        drivers: who drives; the expression as a rule, since after a pose edit the neck no longer fits.
        output: the edited clip, as many frames as the source.
        model: which model runs where.
        crop_options: how the person is found and framed.
        driver_crop: whether the driver's face is cut out first; "auto" does so where frames are not square.
        mask: "face" (by landmarks) or "crop" (all of it, feathered).
        feather: width of the mask's soft edge, in sides of the crop.
        colour_match: see `dpe_model.portrait.paste_back`.
    """

    source: Path
    drivers: Drivers
    output: Path
    model: ModelOptions = field(default_factory=ModelOptions)
    crop_options: CropOptions = field(default_factory=CropOptions)
    driver_crop: CropWhen = "auto"
    mask: str = "face"
    feather: float = 0.15
    colour_match: str = "none"

    def __post_init__(self) -> None:
        if self.drivers.length == "trim":
            raise MotionError("length: an edited video keeps its length; choose hold, loop or ping_pong.")
        if self.mask not in MASKS:
            raise MotionError(f"mask: expected one of {', '.join(MASKS)}, got {self.mask!r}.")


def edit_video(job: EditVideoJob, reporter: Reporter | None = None) -> int:
    """Run the job, streaming from file to file; sound and time stamps are kept. Returns the number of frames written.

    Raises:
        DPEError: any input that cannot be used, or an output that cannot be written, before rendering starts.
    """
    reporter = reporter or Silent()
    inputs = [job.source, *job.drivers.paths()]
    FrameWriter.check(job.output, *inputs)
    engine = job.model.engine()
    source = open_frames(job.source)
    crop = find_crop(source, job.crop_options, engine.size, reporter, "source")
    clock = Clock(len(crop), float(source.info.fps))
    motions = measure_drivers(engine, job.drivers, job.driver_crop, job.crop_options, reporter, clock)
    steps = job.drivers.steps(job.drivers.edits(motions, float(source.info.fps)), len(crop))
    moving = source.info.kind == "video"
    with (
        FrameWriter(
            job.output,
            source.info.fps,
            audio_from=job.source if source.info.has_audio else None,
            timestamps="given" if moving else "constant",
            sources=inputs,
        ) as writer,
        reporter.stage("edit", len(crop)) as count,
    ):
        start = 0
        for frames, times in source.timed_chunks(engine.chunk):
            part = crop[start : start + len(frames)]
            edited = engine.render_chunk(crop_frames(frames, part, engine.size), steps, start)
            pasted, _ = paste_back(frames, edited, part, _mask(job, part), job.colour_match)
            writer.write(pasted, times if moving else None)
            count(len(frames))
            start += len(frames)
    return writer.frames


def _mask(job: EditVideoJob, crop: Crop) -> Tensor:
    if job.mask == "crop" or crop.landmarks is None:
        return feather_mask(crop.size, job.feather)
    return face_mask(crop, feather=job.feather)
