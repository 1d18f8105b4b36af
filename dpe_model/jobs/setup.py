"""What every job needs first: an engine, the drivers' motions, and what is set by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..bundled import default_model
from ..checkpoint import ROLES, Checkpoint, Role, load_checkpoint
from ..controls import check_settings, known_controls, probe_count, set_roles
from ..devices import chosen_device
from ..engine import Engine, Precision, RenderStep, compile_on_gpu, resolve_precision
from ..errors import MotionError
from ..motion import Edit, EditMode, EditPlan, LengthPolicy, Motion, check_strength
from ..motion_filters import bridge
from ..portrait import Crop
from ..portrait.crop import ranges
from ..video import FrameSource, open_frames
from .portraits import CropOptions, CropWhen, naming_clip, open_portraits
from .report import Reporter
from .stream import AHEAD, chunk_size

logger = logging.getLogger(__name__)

READ_CHUNK = 16
EVEN = 1e-5
"""How far, in seconds, time stamps may be from those of a constant rate to be that."""


@dataclass(frozen=True)
class ModelOptions:
    """Which model runs where.

    Attributes:
        path: a model file; None is the bundled one.
        precision: see `resolve_precision`.
        device: "auto" (a GPU where there is one that PyTorch can compute on), "cpu", "cuda", "cuda:1", "mps".
        compiled: use `torch.compile` on a CUDA GPU; elsewhere it is passed over with a note.
    """

    path: Path | None = None
    precision: Precision = "auto"
    device: str = "auto"
    compiled: bool = False

    def paths(self) -> list[Path]:
        """The model's file, where one is named."""
        return [] if self.path is None else [self.path]

    def engine(self) -> Engine:
        """Open the model.

        Raises:
            CheckpointError: the file cannot be used.
            DPEError: there is no such device.
        """
        device = chosen_device(self.device)
        path = self.path or default_model()
        checkpoint = load_checkpoint(path, resolve_precision(self.precision, device))
        logger.info("%s: %d px, %s", checkpoint.name, checkpoint.config.size, checkpoint.network.compute_dtype)
        if self.compiled:
            compile_on_gpu(checkpoint, device)
        return Engine(checkpoint, device)


Driver: TypeAlias = "Path | FrameSource | Motion"
"""Somebody who drives: by file, as an opened clip, or measured already."""


@dataclass(frozen=True)
class Drivers:
    """Who drives what, and how, and what of the face is set by hand on top of that.

    Attributes:
        expression, pose: a clip, a picture, a folder of pictures or a motion file (.safetensors), by its path; an
            opened clip; or a motion. None keeps the source's own.
        expression_strength, pose_strength: see `dpe_model.motion.Edit`.
        mode, reference, length: see `Edit` and `LengthPolicy`.
        settings: by name of the control, see `dpe_model.controls`; for every frame alike, and after the drivers.
    """

    expression: Driver | None = None
    pose: Driver | None = None
    expression_strength: float = 1.0
    pose_strength: float = 1.0
    mode: EditMode = "absolute"
    reference: int = 0
    length: LengthPolicy = "hold"
    settings: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_settings(self.settings)
        if not self.edited:
            raise MotionError(
                "drivers: expected somebody to drive the expression, the pose, or both, or something set by hand; got "
                "nothing."
            )
        for strength in (self.expression_strength, self.pose_strength):
            check_strength(strength)

    @property
    def roles(self) -> tuple[Role, ...]:
        """What is driven, in the published order: expression, then pose."""
        return tuple(role for role in ROLES if self.driver(role) is not None)

    @property
    def edited(self) -> tuple[Role, ...]:
        """What is driven or set by hand, in the same order."""
        by_hand = set_roles(self.settings)
        return tuple(role for role in ROLES if role in self.roles or role in by_hand)

    def driver(self, role: Role) -> Driver | None:
        """The driver of a role."""
        return self.expression if role == "expression" else self.pose

    def unmeasured(self) -> list[Path | FrameSource]:
        """All drivers that are no motions yet, each once."""
        drivers = (self.driver(role) for role in self.roles)
        return list(dict.fromkeys(d for d in drivers if isinstance(d, (Path, FrameSource))))

    def paths(self) -> list[Path]:
        """All drivers' files, each once."""
        return [driver for driver in self.unmeasured() if isinstance(driver, Path)]

    def known_motions(self, checkpoint: Checkpoint) -> dict[Path | FrameSource, Motion]:
        """The motions in drivers' files; looks through these and those given as motions, which takes no time.

        Raises:
            MotionError: one was measured with another checkpoint, or is too short for the reference frame.
        """
        files: dict[Path | FrameSource, Motion] = {}
        for role in self.roles:
            driver, name = self.driver(role), f"{role} driver"
            if isinstance(driver, Path) and driver.suffix == ".safetensors":
                if driver not in files:
                    files[driver] = Motion.load(driver)
                driver, name = files[driver], str(driver)
            if isinstance(driver, Motion):
                driver.require_checkpoint(checkpoint.fingerprint, name, checkpoint.config.motion_dim)
                Edit(driver, mode=self.mode, reference=self.reference)
        return files

    def edits(self, motions: Mapping[Path | FrameSource, Motion]) -> dict[Role, Edit]:
        """The edits, made from the drivers' motions."""
        edits: dict[Role, Edit] = {}
        for role in self.roles:
            driver = self.driver(role)
            motion = driver.settled() if isinstance(driver, Motion) else motions[driver]  # type: ignore[index]
            strength = self.expression_strength if role == "expression" else self.pose_strength
            edits[role] = Edit(motion, strength, self.mode, self.reference)
        return edits


def measure_settings(engine: Engine, drivers: Drivers, reporter: Reporter) -> dict[Role, Tensor]:
    """What is set by hand in the model's numbers: by role, what is added to every frame's motion, [M]."""
    roles = set_roles(drivers.settings)
    if not roles:
        return {}
    with reporter.stage("measure the controls", probe_count()) as count:
        directions = known_controls(engine, count)
    return {role: directions.shift(role, drivers.settings) for role in roles}


def lay_out(
    edits: Mapping[Role, Edit], seconds: Tensor, policy: LengthPolicy, shifts: Mapping[Role, Tensor]
) -> list[RenderStep]:
    """Edits and shifts in rendering order over frames shown at these times [n], in seconds, increasing from 0."""
    return [
        (role, EditPlan.on_clock([edits[role]] if role in edits else [], seconds, policy, shifts.get(role)))
        for role in ROLES
        if role in edits or role in shifts
    ]


def source_clock(source: FrameSource) -> Tensor:
    """When a clip's frames are shown: [N] float64, seconds since the first."""
    return seconds_of(source.frame_times())


def seconds_of(times: Sequence[Fraction]) -> Tensor:
    """Time stamps as float64 seconds since the first."""
    return torch.tensor([float(time - times[0]) for time in times], dtype=torch.float64)


def measure_drivers(
    engine: Engine,
    drivers: Drivers,
    when: CropWhen,
    options: CropOptions,
    reporter: Reporter,
    clock: Tensor | None = None,
) -> dict[Path | FrameSource, Motion]:
    """The motion of every driver, each measured once or read from its motion file.

    With a `clock` only as much of a driver is measured as the source and the reference frame need.

    Raises:
        MotionError: a motion was measured with another checkpoint.
    """
    motions = drivers.known_motions(engine.checkpoint)
    for driver in drivers.unmeasured():
        if driver not in motions:
            source = open_frames(driver, read_ahead=AHEAD) if isinstance(driver, Path) else driver
            reference = drivers.reference if drivers.mode == "relative" else 0
            motions[driver] = measure_clip(engine, source, when, options, reporter, clock, reference)
    return motions


def measure_clip(
    engine: Engine,
    source: FrameSource,
    when: CropWhen,
    options: CropOptions,
    reporter: Reporter,
    clock: Tensor | None = None,
    reference: int = 0,
) -> Motion:
    """The motion of a driver.

    Args:
        engine: measures.
        source: the driver: a video, a picture or a folder of pictures.
        when, options: whether and how the face is cut out.
        reporter: shows progress.
        clock: [N] seconds at which the source's frames are shown: no more is measured than they reach.
        reference: the driver's frame that counts as its rest, measured in any case.
    """
    stop = None
    if clock is not None and reference >= 0:
        stop = max(_needed(source, clock), reference + 1)
    clip = open_portraits(source, when, options.beside(engine.device), engine.size, reporter, "driver", stop)
    with reporter.stage("measure the driver", len(clip)) as count:
        chunks = clip.chunks(chunk_size(READ_CHUNK, source.info))
        with naming_clip(source):
            motion = engine.measure(_counted(chunks, count), None)
    if clip.crop is not None:
        crop = clip.crop[: len(motion)]
        if len(crop.faceless_frames):
            frames = ranges(crop.faceless_frames)
            reporter.warn(source.info.path, f"no face at frames {frames}: there the motion is interpolated")
        motion = bridge_faceless(motion, crop)
    if source.info.kind != "video":
        return motion
    seconds, fps = source_clock(source)[: len(motion)], float(source.info.fps)
    even = torch.arange(len(seconds), dtype=torch.float64) / fps
    constant = len(seconds) < len(motion) or bool(((seconds - even).abs() < EVEN).all())
    return replace(motion, fps=fps, times=None if constant else seconds)


def bridge_faceless(motion: Motion, crop: Crop | None) -> Motion:
    """A driver's motion, straight where its crop knows of no face; measured now if it must be (`motion.settled`)."""
    if crop is None or not len(crop.faceless_frames):
        return motion
    known = np.ones(len(crop), dtype=bool)
    known[crop.faceless_frames] = False
    return bridge(motion.settled(), known, crop.parts())


def _needed(source: FrameSource, clock: Tensor) -> int:
    """Frames of a driver that a source's clock reaches, with one to interpolate to."""
    if source.info.kind != "video":
        return len(clock) + 1
    return int((source_clock(source) <= float(clock[-1]) + EVEN).sum()) + 1


def _counted(chunks: Iterable[Tensor], count: Callable[[int], None]) -> Iterator[Tensor]:
    for frames in chunks:
        yield frames
        count(len(frames))
