"""Motion as numbers, and edits of it. No network here: numbers in, numbers out.

The motion of a frame is `alpha`, twenty numbers (reference: section 3.2 of the paper; `w -> alpha` is affine). An edit
replaces the source's alpha by one made from a driver's. Strength has one meaning everywhere:

    alpha = (1 - strength) * alpha_source + strength * target

with target = alpha_driver (absolute) or alpha_source + alpha_driver - alpha_driver[reference] (relative). Branch codes
are affine in alpha, so interpolating alpha is interpolating codes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
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

Timing = Literal["frames", "seconds"]
"""How a driver's frames meet the source's: one by one, or by the time at which they are shown."""

TIMINGS: tuple[Timing, ...] = ("frames", "seconds")

FORMAT = "dpe-motion"

SNAP = 1e-6
"""How near, in frames, a place between two frames must be to one to be that frame."""


@dataclass(frozen=True)
class Motion:
    """How somebody moves, over N frames.

    Attributes:
        alpha: [N, M] float32 on the CPU; M = 20 for the published network.
        checkpoint: fingerprint of the checkpoint that measured it.
        fps: frames per second, where known; the average where `times` are given.
        times: [N] float64 on the CPU: each frame's time in seconds, increasing, the first at 0, for clips whose rate
            varies; None where frame i lies at i / fps.
    """

    alpha: Tensor
    checkpoint: str
    fps: float | None = None
    times: Tensor | None = None

    def __post_init__(self) -> None:
        if self.alpha.ndim != 2 or 0 in self.alpha.shape:
            raise MotionError(f"motion: expected alpha [frames, numbers], at least one frame; got {self.alpha.shape}.")
        if not self.alpha.is_floating_point():
            raise MotionError(f"motion: expected alpha in floating point, got {self.alpha.dtype}.")
        object.__setattr__(self, "alpha", self.alpha.detach().to("cpu", torch.float32))
        if not bool(torch.isfinite(self.alpha).all()):
            frames = (~torch.isfinite(self.alpha)).any(1).nonzero().flatten()[:5].tolist()
            raise MotionError(f"motion: expected finite numbers, found NaN or infinity at frames {frames}.")
        if self.fps is not None and not (isinstance(self.fps, (int, float)) and 0.0 < self.fps < math.inf):
            raise MotionError(f"motion: expected fps above 0 frames a second, or none, got {self.fps!r}.")
        if self.times is None:
            return
        times = self.times.detach().to("cpu", torch.float64)
        rising = times.shape == (len(self),) and float(times[0]) == 0.0 and bool((times.diff() > 0).all())
        if self.fps is None or not rising or not math.isfinite(float(times[-1])):
            raise MotionError(
                f"motion: expected fps and {len(self)} increasing times from 0 on, got fps {self.fps} and times "
                f"{list(times.shape)}."
            )
        object.__setattr__(self, "times", times)

    def __len__(self) -> int:
        return self.alpha.shape[0]

    @property
    def numbers(self) -> int:
        """Numbers a frame, M."""
        return self.alpha.shape[1]

    def settled(self) -> Motion:
        """The motion with its numbers known: measured now, should that have been put off."""
        return self

    def save(self, path: str | Path) -> None:
        """Write the motion as safetensors; the file appears whole or not at all.

        Raises:
            MotionError: the place cannot be written.
        """
        path = Path(path)
        metadata = {"format": FORMAT, "checkpoint": self.checkpoint, "fps": json.dumps(self.fps)}
        try:
            tensors = {"alpha": self.alpha.contiguous()}
            if self.times is not None:
                tensors["times"] = self.times.contiguous()
            write_safetensors(path, tensors, metadata)
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
                times = file.get_tensor("times") if "times" in file.keys() else None  # noqa: SIM118
                alpha = file.get_tensor("alpha")
        except (SafetensorError, OSError, ValueError) as error:
            raise MotionError(f"{path}: the motion cannot be read ({error}).") from error
        try:
            return cls(alpha, metadata.get("checkpoint", ""), fps, times)
        except MotionError as error:
            raise MotionError(f"{path}: {error} Encode the clip again.") from error

    @property
    def duration(self) -> float:
        """Seconds it lasts, the last frame as long as an average one; frames, where the rate is unknown."""
        if self.times is not None and self.fps is not None:
            return float(self.times[-1]) + 1.0 / self.fps
        return len(self) / (self.fps or 1.0)

    @property
    def seconds(self) -> Tensor:
        """When its frames are shown: [N] float64 seconds from the first on; numbers, where no rate is known."""
        if self.times is not None:
            return self.times
        return torch.arange(len(self), dtype=torch.float64) / (self.fps or 1.0)

    def positions(self, seconds: Tensor) -> Tensor:
        """Which of its frames is seen at each time: [n] float64, between two frames where the time is, 0..N-1.

        Args:
            seconds: [n] float64, seconds from the first frame on; frames, where the rate is unknown.
        """
        seconds = seconds.to(torch.float64)
        if self.times is None:
            at = seconds * (self.fps or 1.0)
        else:
            low = (torch.searchsorted(self.times, seconds.contiguous(), right=True) - 1).clamp(0, max(len(self) - 2, 0))
            step = self.times[(low + 1).clamp(max=len(self) - 1)] - self.times[low]
            at = low + ((seconds - self.times[low]) / step.clamp(min=1e-9)).clamp(max=1.0)
        nearest = at.round()
        # Times are not exact in binary: what is meant to be a frame is that frame, bit for bit.
        return torch.where((at - nearest).abs() < SNAP, nearest, at).clamp(0, len(self) - 1)

    def at(self, frames: Tensor) -> Tensor:
        """Alpha [n, M] at frames, int64, or float64 for places between two frames, linearly interpolated."""
        if not frames.is_floating_point():
            return self.alpha[frames]
        low = frames.floor().long().clamp(0, len(self) - 1)
        high = (low + 1).clamp(max=len(self) - 1)
        return torch.lerp(self.alpha[low], self.alpha[high], (frames - low).to(torch.float32)[:, None])

    def require_checkpoint(self, fingerprint: str, what: str = "motion", numbers: int | None = None) -> None:
        """Refuse a motion measured by another checkpoint, whose numbers mean something else, or that has not as many.

        Raises:
            MotionError: the fingerprints differ, or there are not `numbers` a frame, where that is given.
        """
        if self.checkpoint != fingerprint:
            raise MotionError(
                f"{what}: measured with another checkpoint ({self.checkpoint or 'unknown'}) than the one in use "
                f"({fingerprint}). Encode it again with the checkpoint in use."
            )
        if numbers not in (None, self.numbers):
            raise MotionError(f"{what}: expected {numbers} numbers a frame, got {self.numbers}. Encode it again.")


def check_strength(strength: float) -> None:
    """Refuse a strength that is no number.

    Raises:
        MotionError: NaN or infinity.
    """
    if not math.isfinite(strength):
        raise MotionError(f"strength: expected a number such as 1.0, got {strength}.")


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
        check_strength(self.strength)
        frames = len(self.driver)
        if self.mode == "relative" and not -frames <= self.reference < frames:
            raise MotionError(
                f"reference frame: expected {-frames}..{frames - 1} (the driver has {frames} frames; negative ones "
                f"count from its end), got {self.reference}."
            )

    def apply(self, source: Tensor, frames: Tensor) -> Tensor:
        """Edited motion [n, M] of n source frames.

        Args:
            source: the source's own alpha [n, M], any device.
            frames: the driver's frame for each of them, [n] int64, or float64 for places between two frames.
        """
        target = self.driver.at(frames)
        if self.mode == "relative":
            target = target - self.driver.alpha[self.reference]
        target = _beside(target, source)
        if self.mode == "relative":
            target = source + target
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


def driver_positions(driver: Motion, seconds: Tensor, policy: LengthPolicy) -> Tensor:
    """Which of a driver's frames drives at each time of another clock; as `driver_frames`, by time instead of number.

    Both clocks start at 0 with their first frames.

    Args:
        driver: the motion. Where its rate is unknown, its frames are taken one by one.
        seconds: [n] float64, increasing from 0.
        policy: what happens past the driver's end.

    Returns:
        [n] float64 in 0..len(driver)-1.

    Raises:
        MotionError: an unknown policy.
    """
    if driver.fps is None:
        return driver_frames(len(driver), len(seconds), policy).to(torch.float64)
    if policy == "loop":
        # Snapped in frames too, so that the first frame comes again when it is due, not one later.
        turns = torch.floor(seconds / driver.duration + SNAP / len(driver))
        return driver.positions((seconds - turns * driver.duration).clamp(min=0.0))
    if policy == "ping_pong":
        last = driver.duration - 1.0 / driver.fps
        if len(driver) == 1:
            return torch.zeros_like(seconds)
        phase = seconds % (2.0 * last)
        return driver.positions(torch.minimum(phase, 2.0 * last - phase))
    if policy in ("trim", "hold"):
        return driver.positions(seconds)
    raise MotionError(f"length policy: expected one of {', '.join(LENGTH_POLICIES)}, got {policy!r}.")


def reached(driver: Motion, seconds: Tensor) -> int:
    """How many of these times [n], increasing from 0, lie before the driver's end; at least 1."""
    if driver.fps is None:
        return min(len(driver), len(seconds))
    return max(1, int((seconds < driver.duration - SNAP / driver.fps).sum()))


def output_length(source: int, drivers: Sequence[int], policy: LengthPolicy) -> int:
    """Frames of the result of driving `source` frames (1 = a still, repeated) by drivers of these lengths."""
    if not drivers:
        return source
    if policy == "trim":
        return min(drivers) if source == 1 else min(source, *drivers)
    return max(drivers) if source == 1 else source


def still_clock(edits: Iterable[Edit], fps: float, policy: LengthPolicy) -> Tensor:
    """When the frames of a driven still are shown: [n] float64 seconds at a constant rate, as long as its drivers."""
    lengths = [len(e.driver) if e.driver.fps is None else max(1, round(e.driver.duration * fps)) for e in edits]
    return torch.arange(output_length(1, lengths, policy), dtype=torch.float64) / fps


def kept_length(seconds: Tensor, edits: Iterable[Edit], policy: LengthPolicy) -> int:
    """How many of a moving source's frames, shown at these times [n], the result has: all of them, or under "trim"
    those that the drivers reach."""
    if policy != "trim":
        return len(seconds)
    return min((reached(edit.driver, seconds) for edit in edits), default=len(seconds))


@dataclass(frozen=True)
class EditPlan:
    """Edits laid out in time: for every output frame, the frame of each driver (or a place between two).

    Several edits apply one after the other, each to the result of the one before; `shift` [M], the same for all frames,
    is added to the last.
    """

    length: int
    edits: tuple[Edit, ...]
    frames: tuple[Tensor, ...]
    shift: Tensor | None = None

    @classmethod
    def make(cls, edits: Sequence[Edit], length: int, policy: LengthPolicy, shift: Tensor | None = None) -> EditPlan:
        """Lay out edits over `length` output frames."""
        frames = tuple(driver_frames(len(e.driver), length, policy) for e in edits)
        return cls(length, tuple(edits), frames, shift)

    @classmethod
    def on_clock(
        cls, edits: Sequence[Edit], seconds: Tensor, policy: LengthPolicy, shift: Tensor | None = None
    ) -> EditPlan:
        """Lay out edits over output frames shown at these times [n], in seconds, increasing from 0."""
        places = tuple(driver_positions(e.driver, seconds, policy) for e in edits)
        return cls(len(seconds), tuple(edits), places, shift)

    def apply(self, source: Tensor, start: int) -> Tensor:
        """Edited alpha [n, M] for the output frames from `start` on, given the source's own alpha [n, M]."""
        for edit, frames in zip(self.edits, self.frames, strict=True):
            source = edit.apply(source, frames[start : start + len(source)])
        return source if self.shift is None else source + _beside(self.shift, source)


def _beside(numbers: Tensor, source: Tensor) -> Tensor:
    """Numbers on the device of the source's."""
    # CUDA is not waited for. On others a copy that goes on by itself may find the memory freed.
    return numbers.to(source.device, non_blocking=source.device.type == "cuda")
