"""What every job needs first: an engine, and the drivers' motions."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..bundled import default_model
from ..checkpoint import ROLES, Role, load_checkpoint
from ..engine import Engine, Precision, RenderStep, resolve_precision
from ..errors import DPEError, MotionError
from ..motion import Edit, EditMode, EditPlan, LengthPolicy, Motion
from ..video import open_frames
from .portraits import CropOptions, CropWhen, open_portraits
from .report import Reporter

logger = logging.getLogger(__name__)

READ_CHUNK = 16


@dataclass(frozen=True)
class ModelOptions:
    """Which model runs where.

    Attributes:
        path: a model file; None is the bundled one.
        precision: see `resolve_precision`.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", "mps".
    """

    path: Path | None = None
    precision: Precision = "auto"
    device: str = "auto"

    def engine(self) -> Engine:
        """Open the model.

        Raises:
            CheckpointError: the file cannot be used.
            DPEError: there is no such device.
        """
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise DPEError(f"device: {device} was asked for, but PyTorch finds no GPU here. Choose cpu or auto.")
        path = self.path or default_model()
        checkpoint = load_checkpoint(path, resolve_precision(self.precision, device))
        logger.info("%s: %d px, %s", checkpoint.name, checkpoint.config.size, checkpoint.network.compute_dtype)
        return Engine(checkpoint, device)


@dataclass(frozen=True)
class Drivers:
    """Who drives what, and how.

    Attributes:
        expression, pose: a clip, a picture, a folder of pictures, or a motion file (.safetensors); None keeps the
            source's own.
        strength: see `dpe_model.motion.Edit`, the same for both.
        mode, reference, length: see `Edit` and `LengthPolicy`.
    """

    expression: Path | None = None
    pose: Path | None = None
    expression_strength: float = 1.0
    pose_strength: float = 1.0
    mode: EditMode = "absolute"
    reference: int = 0
    length: LengthPolicy = "hold"

    def __post_init__(self) -> None:
        if self.expression is None and self.pose is None:
            raise MotionError("drivers: expected somebody to drive the expression, the pose, or both; got nobody.")

    @property
    def roles(self) -> tuple[Role, ...]:
        """What is edited, in the published order: expression, then pose."""
        return tuple(role for role in ROLES if self.path(role) is not None)

    def path(self, role: Role) -> Path | None:
        """The driver of a role."""
        return self.expression if role == "expression" else self.pose

    def paths(self) -> list[Path]:
        """All drivers' files, each once."""
        return list(dict.fromkeys(p for role in self.roles if (p := self.path(role)) is not None))

    def edits(self, motions: dict[Path, Motion], fps: float) -> dict[Role, Edit]:
        """The edits, the drivers' motions brought to `fps`."""
        edits: dict[Role, Edit] = {}
        for role in self.roles:
            path = self.path(role)
            assert path is not None
            strength = self.expression_strength if role == "expression" else self.pose_strength
            edits[role] = Edit(motions[path].resampled(fps), strength, self.mode, self.reference)
        return edits

    def steps(self, edits: dict[Role, Edit], length: int) -> list[RenderStep]:
        """The edits laid out over `length` frames, in rendering order."""
        return [(role, EditPlan.make([edit], length, self.length)) for role, edit in edits.items()]


@dataclass(frozen=True)
class Clock:
    """How long a moving source lasts: drivers need not be measured beyond it."""

    frames: int
    fps: float

    def driver_frames(self, fps: float) -> int:
        """Frames of a driver at `fps` that the source's length reaches, with one to interpolate to."""
        return math.ceil(self.frames * fps / self.fps) + 1


def measure_drivers(
    engine: Engine,
    drivers: Drivers,
    when: CropWhen,
    options: CropOptions,
    reporter: Reporter,
    clock: Clock | None = None,
) -> dict[Path, Motion]:
    """The motion of every driver, each measured once or read from its motion file.

    With a `clock` only as much of a driver is measured as the source and the reference frame need.
    """
    return {path: _measure(engine, path, drivers, when, options, reporter, clock) for path in drivers.paths()}


def _measure(
    engine: Engine,
    path: Path,
    drivers: Drivers,
    when: CropWhen,
    options: CropOptions,
    reporter: Reporter,
    clock: Clock | None,
) -> Motion:
    if path.suffix == ".safetensors":
        motion = Motion.load(path)
        motion.require_checkpoint(engine.checkpoint.fingerprint, str(path))
        return motion
    source = open_frames(path)
    fps = float(source.info.fps) if source.info.kind == "video" else None
    stop = None
    if clock is not None and drivers.reference >= 0:
        stop = max(clock.driver_frames(fps or clock.fps), drivers.reference + 1)
    clip = open_portraits(source, when, options, engine.size, reporter, "driver", stop)
    with reporter.stage("measure the driver", len(clip)) as count:
        return engine.measure(_counted(clip.chunks(READ_CHUNK), count), fps)


def _counted(chunks: Iterable[Tensor], count: Callable[[int], None]) -> Iterator[Tensor]:
    for frames in chunks:
        yield frames
        count(len(frames))
