"""Motion as numbers, and edits of it. No network here: numbers in, numbers out.

The motion of a frame is `alpha`, twenty numbers (reference: section 3.2 of the paper; `w -> alpha` is affine). An edit
replaces the source's alpha by one made from a driver's. Strength has one meaning everywhere:

    alpha = (1 - strength) * alpha_source + strength * target

with target = alpha_driver (absolute) or alpha_source + alpha_driver - alpha_driver[reference] (relative). Branch codes
are affine in alpha, so interpolating alpha is interpolating codes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import MotionError
from .files import write_safetensors

LengthPolicy = Literal["trim", "hold", "loop", "ping_pong"]
"""What happens where source and driver differ in length: `trim` to the shorter; else the source's length is kept (a
still takes the longest driver's) and a shorter driver holds its last frame, starts again, or runs back and forth."""

LENGTH_POLICIES: tuple[LengthPolicy, ...] = ("trim", "hold", "loop", "ping_pong")

EditMode = Literal["absolute", "relative"]
EDIT_MODES: tuple[EditMode, ...] = ("absolute", "relative")

FORMAT = "dpe-motion"


@dataclass(frozen=True)
class Motion:
    """How somebody moves, over N frames.

    Attributes:
        alpha: [N, M] float32 on the CPU; M = 20 for the published network.
        checkpoint: fingerprint of the checkpoint that measured it.
        fps: frames per second, where known.
    """

    alpha: Tensor
    checkpoint: str
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.alpha.ndim != 2 or 0 in self.alpha.shape:
            raise MotionError(f"motion: expected alpha [frames, numbers], at least one frame; got {self.alpha.shape}.")
        if not bool(torch.isfinite(self.alpha).all()):
            frames = (~torch.isfinite(self.alpha)).any(1).nonzero().flatten()[:5].tolist()
            raise MotionError(f"motion: expected finite numbers, found NaN or infinity at frames {frames}.")
        object.__setattr__(self, "alpha", self.alpha.detach().to("cpu", torch.float32))

    def __len__(self) -> int:
        return self.alpha.shape[0]

    def save(self, path: str | Path) -> None:
        """Write the motion as safetensors; the file appears whole or not at all.

        Raises:
            MotionError: the place cannot be written.
        """
        path = Path(path)
        metadata = {"format": FORMAT, "checkpoint": self.checkpoint, "fps": json.dumps(self.fps)}
        try:
            write_safetensors(path, {"alpha": self.alpha.contiguous()}, metadata)
        except (OSError, SafetensorError) as error:
            raise MotionError(f"{path}: the motion cannot be written ({error}). Choose another place.") from error

    @classmethod
    def load(cls, path: str | Path) -> Motion:
        """Read a motion file.

        Raises:
            MotionError: the file is missing, damaged, or not a motion.
        """
        try:
            with safe_open(Path(path), framework="pt") as file:
                metadata = dict(file.metadata() or {})
                if metadata.get("format") != FORMAT or "alpha" not in file.keys():  # noqa: SIM118
                    raise MotionError(f"{path}: expected a motion saved by this pack, found another safetensors file.")
                fps = json.loads(metadata.get("fps", "null"))
                return cls(file.get_tensor("alpha"), metadata.get("checkpoint", ""), fps)
        except (SafetensorError, OSError, ValueError) as error:
            raise MotionError(f"{path}: the motion cannot be read ({error}).") from error

    def resampled(self, fps: float) -> Motion:
        """This motion on another clock, linearly interpolated; unchanged where its own rate is unknown or the same."""
        if self.fps is None or abs(self.fps - fps) < 1e-6 * fps:
            return self
        count = max(1, round(len(self) * fps / self.fps))
        at = torch.arange(count, dtype=torch.float64) * (self.fps / fps)
        at = at.clamp(max=len(self) - 1)
        low = at.floor().long()
        high = (low + 1).clamp(max=len(self) - 1)
        weight = (at - low).to(torch.float32)[:, None]
        return Motion(torch.lerp(self.alpha[low], self.alpha[high], weight), self.checkpoint, fps)

    def require_checkpoint(self, fingerprint: str, what: str = "motion") -> None:
        """Refuse a motion measured by another checkpoint, whose numbers mean something else.

        Raises:
            MotionError: the fingerprints differ.
        """
        if self.checkpoint != fingerprint:
            raise MotionError(
                f"{what}: measured with another checkpoint ({self.checkpoint or 'unknown'}) than the one in use "
                f"({fingerprint}). Encode the driver again with the checkpoint in use."
            )


@dataclass(frozen=True)
class Edit:
    """One change of motion: towards a driver, by a strength.

    Attributes:
        driver: whose motion.
        strength: 0 = the source's own movement, 1 = the driver's, between = interpolation, above 1 = exaggeration.
        mode: `absolute` takes the driver's motion as it is, `relative` adds its change since the reference frame.
        reference: the driver's frame that counts as its rest, for `relative`; negative counts from the end.
    """

    driver: Motion
    strength: float = 1.0
    mode: EditMode = "absolute"
    reference: int = 0

    def __post_init__(self) -> None:
        if self.mode not in EDIT_MODES:
            raise MotionError(f"mode: expected one of {', '.join(EDIT_MODES)}, got {self.mode!r}.")
        if not -len(self.driver) <= self.reference < len(self.driver):
            raise MotionError(
                f"reference frame: expected 0..{len(self.driver) - 1} (the driver has {len(self.driver)} frames), got "
                f"{self.reference}."
            )

    def apply(self, source: Tensor, frames: Tensor) -> Tensor:
        """Edited motion [n, M] of n source frames.

        Args:
            source: the source's own alpha [n, M], any device.
            frames: the driver's frame for each of them, [n] int64.
        """
        driver = self.driver.alpha.to(source.device)
        target = driver[frames.to(source.device)]
        if self.mode == "relative":
            target = source + (target - driver[self.reference])
        return (1.0 - self.strength) * source + self.strength * target


def driver_frames(count: int, length: int, policy: LengthPolicy) -> Tensor:
    """Which of a driver's `count` frames drives each of `length` output frames: [length] int64.

    Raises:
        MotionError: an unknown policy.
    """
    steps = torch.arange(length)
    if policy in ("trim", "hold"):
        return steps.clamp(max=count - 1)
    if policy == "loop":
        return steps % count
    if policy == "ping_pong":
        period = max(2 * (count - 1), 1)
        phase = steps % period
        return torch.minimum(phase, period - phase) if count > 1 else torch.zeros_like(steps)
    raise MotionError(f"length policy: expected one of {', '.join(LENGTH_POLICIES)}, got {policy!r}.")


def output_length(source: int, drivers: Sequence[int], policy: LengthPolicy) -> int:
    """Frames of the result of driving `source` frames (1 = a still, repeated) by drivers of these lengths."""
    if not drivers:
        return source
    if policy == "trim":
        return min(drivers) if source == 1 else min(source, *drivers)
    return max(drivers) if source == 1 else source


@dataclass(frozen=True)
class EditPlan:
    """Edits laid out in time: for every output frame, the frame of each driver.

    Several edits apply one after the other, each to the result of the one before.
    """

    length: int
    edits: tuple[Edit, ...]
    frames: tuple[Tensor, ...]

    @classmethod
    def make(cls, edits: Sequence[Edit], length: int, policy: LengthPolicy) -> EditPlan:
        """Lay out edits over `length` output frames."""
        return cls(length, tuple(edits), tuple(driver_frames(len(e.driver), length, policy) for e in edits))

    def apply(self, source: Tensor, start: int) -> Tensor:
        """Edited alpha [n, M] for the output frames from `start` on, given the source's own alpha [n, M]."""
        for edit, frames in zip(self.edits, self.frames, strict=True):
            source = edit.apply(source, frames[start : start + len(source)])
        return source
