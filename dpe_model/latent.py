"""What travels between encoding, editing and rendering: source frames, their motion, and pending edits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from .checkpoint import Role
from .errors import MotionError
from .motion import Edit, EditPlan, LengthPolicy, Motion, Timing, kept_length, output_length, still_clock
from .network import Encoding


@dataclass(frozen=True)
class Latent:
    """Encoded source frames with the edits still to be rendered.

    It refers to the frames instead of holding their features: those take 32 MB a frame at 256 px. Only what fits a
    budget (a still, say) is kept.

    Attributes:
        frames: the source, [N, S, S, 3]; N = 1 is a still, repeated as long as its drivers go.
        motion: the source's own movement, N frames; maybe measured only when it is looked at (`DeferredMotion`).
        encoding: the frames' encoding where it was small enough to keep.
        expression, pose: edits by role, applied in order.
        policy: how drivers of other lengths are fitted.
        timing: whether drivers' frames go one by one, or by time, as far as rates are known (see `clock`).
        shifts: by role, what is added to every frame's motion after all edits: [M].
    """

    frames: Tensor
    motion: Motion
    encoding: Encoding | None = None
    expression: tuple[Edit, ...] = field(default=())
    pose: tuple[Edit, ...] = field(default=())
    policy: LengthPolicy = "trim"
    timing: Timing = "frames"
    shifts: Mapping[Role, Tensor] = field(default_factory=dict)

    @property
    def checkpoint(self) -> str:
        """Fingerprint of the checkpoint that encoded the frames."""
        return self.motion.checkpoint

    def edits(self, role: Role) -> tuple[Edit, ...]:
        """Pending edits of a role."""
        return self.expression if role == "expression" else self.pose

    def changes(self, role: Role) -> bool:
        """Whether anything of a role is to be changed."""
        return bool(self.edits(role)) or role in self.shifts

    def settle(self, role: Role) -> None:
        """Measure drivers of a role's edits that are still to be measured."""
        for edit in self.edits(role):
            edit.driver.settled()

    def with_policy(self, policy: LengthPolicy, timing: Timing = "frames") -> Latent:
        """This latent with another length policy and timing, which hold for all of its edits."""
        return replace(self, policy=policy, timing=timing)

    def with_edit(self, role: Role, edit: Edit) -> Latent:
        """This latent with one more edit.

        Raises:
            MotionError: the driver was measured with another checkpoint.
        """
        edit.driver.require_checkpoint(self.checkpoint, f"{role} driver", self.motion.numbers)
        edits = (*self.edits(role), edit)
        return replace(self, expression=edits) if role == "expression" else replace(self, pose=edits)

    def with_shift(self, role: Role, shift: Tensor) -> Latent:
        """This latent with its motion moved by `shift` [M] in every frame, after all edits; shifts add up.

        Raises:
            MotionError: not as many numbers as the motion has.
        """
        if shift.shape != (self.motion.numbers,):
            raise MotionError(f"{role}: expected a shift of {self.motion.numbers} numbers, got {list(shift.shape)}.")
        known = self.shifts.get(role)
        return replace(self, shifts={**self.shifts, role: shift if known is None else known + shift})

    @property
    def clock(self) -> Tensor | None:
        """When the result's frames are shown, [n] float64 seconds from 0; None where frames are counted instead.

        That is so with the timing "frames", and where the rate is not known: the source's, or of a still without one
        that of every driver. Drivers of unknown rate go frame by frame in any case.
        """
        if self.timing == "frames":
            return None
        edits, own = (*self.expression, *self.pose), self.motion
        if len(own) > 1:
            return None if own.fps is None else own.seconds[: kept_length(own.seconds, edits, self.policy)]
        rates = [fps for fps in (own.fps, *(edit.driver.fps for edit in edits)) if fps is not None]
        return still_clock(edits, rates[0], self.policy) if rates and edits else None

    @property
    def length(self) -> int:
        """Frames of the result."""
        clock = self.clock
        if clock is not None:
            return len(clock)
        drivers = [len(e.driver) for e in (*self.expression, *self.pose)]
        return output_length(len(self.motion), drivers, self.policy)

    def plan(self, role: Role) -> EditPlan:
        """The role's edits laid out over the result's frames."""
        clock = self.clock
        if clock is not None:
            return EditPlan.on_clock(self.edits(role), clock, self.policy, self.shifts.get(role))
        return EditPlan.make(self.edits(role), self.length, self.policy, self.shifts.get(role))
