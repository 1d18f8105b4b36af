"""Drive a portrait, still or moving, by others; the result is a portrait of the model's size."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from ..engine import Engine
from ..motion import kept_length, output_length, still_clock
from ..overlap import Behind
from ..video import PICTURE_FPS, as_fps, open_frames, probe
from ..video.writer import PICTURES
from .portraits import CropOptions, CropWhen, PortraitClip, open_portraits
from .report import Reporter, Silent
from .setup import Drivers, ModelOptions, lay_out, measure_drivers, measure_settings, source_clock
from .stream import AHEAD, stream
from .writing import VideoEncoding, check_kind, write_end


@dataclass(frozen=True)
class DriveJob:
    """A portrait driven by others, or set by hand.

    Attributes:
        source: who is edited: a video, a picture or a folder of pictures.
        drivers: who drives expression and pose, and what is set by hand.
        output: what is written; its ending says what.
        model: which model runs where.
        crop: whether faces are cut out first; "auto" does so where frames are not square.
        crop_options: how faces are found and framed.
        picture_fps: frames per second of pictures and folders of pictures.
        sound: copy the sound of a moving source; of the driver, where the source is a still.
        encoding: how a video is encoded.
    """

    source: Path
    drivers: Drivers
    output: Path
    model: ModelOptions = field(default_factory=ModelOptions)
    crop: CropWhen = "auto"
    crop_options: CropOptions = field(default_factory=CropOptions)
    picture_fps: Fraction = PICTURE_FPS
    sound: bool = True
    encoding: VideoEncoding = field(default_factory=VideoEncoding)


def drive(job: DriveJob, reporter: Reporter | None = None, engine: Engine | None = None) -> int:
    """Run the job: measure the drivers, then stream the source through. Returns the number of frames written.

    Args:
        job: what to do.
        reporter: shows progress.
        engine: one that is open already, instead of the job's model.

    Raises:
        DPEError: any input that cannot be used, or an output that cannot be written, before rendering starts.
    """
    reporter = reporter or Silent()
    inputs = [job.source, *job.drivers.paths(), *job.crop_options.paths(), *job.model.paths()]
    job.encoding.check(job.output, inputs)
    engine = engine or job.model.engine()
    source = open_frames(job.source, AHEAD, job.picture_fps)
    if job.drivers.length != "trim":  # else the drivers decide
        check_kind(job.output, source)
    crop_options = job.crop_options.beside(engine.device)
    clip = open_portraits(source, job.crop, crop_options, engine.size, reporter, "source")
    if len(source) > 1:
        return _drive_clip(job, engine, clip, inputs, reporter)
    return _drive_still(job, engine, clip, inputs, reporter)


def _drive_clip(job: DriveJob, engine: Engine, clip: PortraitClip, inputs: list[Path], reporter: Reporter) -> int:
    """The clip's frames, on the clip's clock."""
    info, policy = clip.source.info, job.drivers.length
    seconds = source_clock(clip.source)
    motions = measure_drivers(engine, job.drivers, job.crop, job.crop_options.of_driver(), reporter, seconds)
    edits = job.drivers.edits(motions)
    shifts = measure_settings(engine, job.drivers, reporter)
    seconds = seconds[: kept_length(seconds, edits.values(), policy)]
    check_kind(job.output, seconds)
    sound = job.source if info.has_audio and _takes_sound(job) else None
    with job.encoding.clip_writer(job.output, info, inputs, sound) as writer:
        stream(engine, clip, lay_out(edits, seconds, policy, shifts), writer, reporter)
        write_end(writer, clip.source)
    return writer.frames


def _drive_still(job: DriveJob, engine: Engine, clip: PortraitClip, inputs: list[Path], reporter: Reporter) -> int:
    """One picture, for as long as its drivers go."""
    if job.output.suffix.lower() in PICTURES:  # else nobody need count the drivers' frames
        check_kind(job.output, range(_driven_length(job.drivers, engine)))
    motions = measure_drivers(engine, job.drivers, job.crop, job.crop_options.of_driver(), reporter)
    edits = job.drivers.edits(motions)
    shifts = measure_settings(engine, job.drivers, reporter)
    fps = as_fps(next((m.fps for m in motions.values() if m.fps is not None), job.picture_fps))
    seconds = still_clock(edits.values(), float(fps), job.drivers.length)
    check_kind(job.output, seconds)
    steps = lay_out(edits, seconds, job.drivers.length, shifts)
    sound = _sound_of(job.drivers) if _takes_sound(job) else None
    with (
        job.encoding.writer(job.output, fps, inputs, sound) as writer,
        reporter.stage("render", len(seconds)) as count,
        Behind(writer.write, AHEAD) as writing,
    ):
        for frames in engine.render_still(next(clip.chunks(1)), steps):
            writing.add(frames)
            count(len(frames))
    return writer.frames


def _driven_length(drivers: Drivers, engine: Engine) -> int:
    """Frames of a still's result at its drivers' rate, before they are measured."""
    known = drivers.known_motions(engine.checkpoint)
    lengths = []
    for driver in map(drivers.driver, drivers.roles):
        if isinstance(driver, Path):
            lengths.append(len(known[driver] if driver in known else open_frames(driver)))
        elif driver is not None:
            lengths.append(len(driver))
    return output_length(1, lengths, drivers.length)


def _takes_sound(job: DriveJob) -> bool:
    return job.sound and job.output.suffix != "" and job.output.suffix.lower() not in PICTURES


def _sound_of(drivers: Drivers) -> Path | None:
    """The first driver that can be heard."""
    clips = [path for path in drivers.paths() if path.suffix != ".safetensors"]
    return next((path for path in clips if probe(path).has_audio), None)
