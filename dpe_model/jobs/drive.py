"""Drive a portrait, still or moving, by others; the result is a portrait of the model's size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from ..engine import Engine, RenderStep
from ..errors import VideoError
from ..motion import Motion, output_length
from ..video import FrameWriter, as_fps, open_frames, probe
from ..video.writer import PICTURES
from .portraits import CropOptions, CropWhen, PortraitClip, open_portraits
from .report import Reporter, Silent
from .setup import READ_CHUNK, Clock, Drivers, ModelOptions, measure_drivers

DEFAULT_FPS = 25.0


@dataclass(frozen=True)
class DriveJob:
    """A portrait driven by others.

    Attributes:
        source: who is edited: a video, a picture or a folder of pictures.
        drivers: who drives expression and pose.
        output: what is written; its ending says what.
        model: which model runs where.
        crop: whether faces are cut out first; "auto" does so where frames are not square.
        crop_options: how faces are found and framed.
        sound: copy the sound of a moving source; of the driver, where the source is a still.
    """

    source: Path
    drivers: Drivers
    output: Path
    model: ModelOptions = field(default_factory=ModelOptions)
    crop: CropWhen = "auto"
    crop_options: CropOptions = field(default_factory=CropOptions)
    sound: bool = True


def drive(job: DriveJob, reporter: Reporter | None = None) -> int:
    """Run the job: measure the drivers, then stream the source through. Returns the number of frames written.

    Raises:
        DPEError: any input that cannot be used, or an output that cannot be written, before rendering starts.
    """
    reporter = reporter or Silent()
    inputs = [job.source, *job.drivers.paths()]
    FrameWriter.check(job.output, *inputs)
    engine = job.model.engine()
    source = open_frames(job.source)
    clip = open_portraits(source, job.crop, job.crop_options, engine.size, reporter, "source")
    clock = Clock(len(source), float(source.info.fps)) if len(source) > 1 else None
    motions = measure_drivers(engine, job.drivers, job.crop, job.crop_options, reporter, clock)
    fps = _output_fps(clip, list(motions.values()))
    edits = job.drivers.edits(motions, float(fps))
    length = output_length(len(clip.source), [len(e.driver) for e in edits.values()], job.drivers.length)
    _check_kind(job.output, length)
    steps = job.drivers.steps(edits, length)
    with (
        FrameWriter(job.output, fps, audio_from=_sound(job, clip), sources=inputs) as writer,
        reporter.stage("render", length) as count,
    ):
        for frames in _render(engine, clip, steps):
            writer.write(frames)
            count(len(frames))
    return writer.frames


def _render(engine: Engine, clip: PortraitClip, steps: list[RenderStep]) -> Iterator[Tensor]:
    if len(clip.source) > 1:
        return engine.render_stream(clip.chunks(READ_CHUNK), steps)
    return engine.render_still(next(clip.chunks(1)), steps)


def _output_fps(clip: PortraitClip, drivers: list[Motion]) -> Fraction:
    if len(clip.source) > 1:
        return clip.source.info.fps
    known = [d.fps for d in drivers if d.fps is not None]
    return as_fps(known[0] if known else DEFAULT_FPS)


def _sound(job: DriveJob, clip: PortraitClip) -> Path | None:
    if not job.sound or job.output.suffix == "" or job.output.suffix.lower() in PICTURES:
        return None
    candidates = [job.source] if len(clip.source) > 1 else job.drivers.paths()
    candidates = [p for p in candidates if p.suffix != ".safetensors"]
    return next((p for p in candidates if probe(p).has_audio), None)


def _check_kind(output: Path, length: int) -> None:
    if output.suffix.lower() in PICTURES and length > 1:
        raise VideoError(
            f"{output}: a {output.suffix} file holds one picture, the result has {length} frames. Choose a name ending "
            "in .mp4 for a video, or one without ending for a folder of pictures."
        )
