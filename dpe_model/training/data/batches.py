"""What a step learns from: pictures, and what is known of them, in units that are about standard deviations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..landmarks import BROWS, EYES, JAW, MOUTH, NOSE

POSE_OFFSET = (0.0, 0.0, 0.0, 0.22, 0.0, 0.15)
POSE_UNIT = (16.0, 9.0, 6.0, 0.03, 0.27, 0.18)
"""Yaw, pitch, roll in degrees, the face's `framing`: what counts as zero, and about one standard deviation."""

SHAPE_UNIT = {JAW: 0.3, BROWS: 0.2, NOSE: 0.1, EYES: 0.1, MOUTH: 0.5}
GAZE_UNIT = (10.0, 6.0)
"""The same of a landmark's displacement by the expression, cm, by part (were they measured alike, lids would hardly
count beside a mouth), and of gaze yaw and pitch, degrees."""

LANDMARK_UNIT = 0.06
"""The same of landmarks' places in a picture, in half pictures."""

POSE_DIM, EXPRESSION_DIM, LANDMARK_DIM = 6, 68 * 3 + 2, 68 * 2
"""Numbers that tell a pose, an expression (68 landmarks' displacements, gaze), and where the landmarks are."""

B = TypeVar("B", bound="TensorBatch")


@dataclass(frozen=True)
class TensorBatch:
    """A batch whose fields are tensors [N, ...] or None."""

    def _map(self: B, change: Any) -> B:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return type(self)(**{k: None if v is None else change(v) for k, v in values.items()})

    def to(self: B, device: torch.device, channels_last: bool = False) -> B:
        """The same on a device."""

        def move(t: Tensor) -> Tensor:
            last = channels_last and t.ndim == 4
            return t.to(device, memory_format=torch.channels_last) if last else t.to(device)

        return self._map(move)

    def chunk(self: B, parts: int) -> list[B]:
        """Every `parts`-th sample from 0, from 1, ...: the order that keeps the discriminator's groups together."""
        return [self._map(lambda t, i=i: t[i::parts]) for i in range(parts)]

    @classmethod
    def stack(cls: type[B], batches: Sequence[B]) -> B:
        """Batches one after the other."""
        joined: dict[str, Tensor | None] = {}
        for f in dataclasses.fields(cls):
            values = [getattr(b, f.name) for b in batches]
            joined[f.name] = None if any(v is None for v in values) else torch.cat(values)
        return cls(**joined)


@dataclass(frozen=True)
class PairBatch(TensorBatch):
    """Two frames of one clip: `a` and `b` [N, 3, S, S] in -1..1."""

    a: Tensor
    b: Tensor

    def __len__(self) -> int:
        return len(self.a)


@dataclass(frozen=True)
class SupervisedBatch(TensorBatch):
    """Rendered heads with the truth of every edit. A(p1, e1) is person A at pose p1 with expression e1.

    Pictures are [N, 3, S, S] in -1..1. Flows give, for each pixel of a target, where that surface point lies in
    `source`: x and y in -1..1 between the picture's edges, as `grid_sample` with align_corners=False reads them.

    Attributes:
        source: A(p1, e1).
        driver: D(p2, e2), D being A or somebody else.
        pose_target: A(p2, e1).
        exp_target: A(p1, e2).
        both_target: A(p2, e2).
        source_pose, driver_pose: [N, 6] yaw, pitch, roll and `framing`, in about standard deviations.
        source_expression, driver_expression: [N, K] what the expression does to the mean head's landmarks, and gaze,
            likewise.
        pose_flow, exp_flow, both_flow: [N, 2, s, s], s up to S.
        pose_visible, exp_visible, both_visible: [N, 1, s, s], share of the pixel seen in `source`.
        landmarks: [N, 5, L] places of the landmarks in source, driver, pose, expression and both target, in
            `LANDMARK_UNIT`.
        own: [N] bool, what is to be driven by its own source instead; None: nothing.
    """

    source: Tensor
    driver: Tensor
    pose_target: Tensor
    exp_target: Tensor
    both_target: Tensor
    source_pose: Tensor
    driver_pose: Tensor
    source_expression: Tensor
    driver_expression: Tensor
    pose_flow: Tensor | None = None
    exp_flow: Tensor | None = None
    both_flow: Tensor | None = None
    pose_visible: Tensor | None = None
    exp_visible: Tensor | None = None
    both_visible: Tensor | None = None
    landmarks: Tensor | None = None
    own: Tensor | None = None

    def pictures(self) -> Tensor:
        """All five pictures, one kind after the other: [5 N, 3, S, S]."""
        return torch.cat((self.source, self.driver, self.pose_target, self.exp_target, self.both_target))

    def truths(self) -> Tensor:
        """What is known of `pictures`: pose, expression, landmarks, [5 N, P + K + L]. Needs landmarks."""
        assert self.landmarks is not None
        pose = torch.cat([(self.source_pose, self.driver_pose)[i] for i in (0, 1, 1, 0, 1)])
        expression = torch.cat([(self.source_expression, self.driver_expression)[i] for i in (0, 1, 0, 1, 1)])
        return torch.cat((pose, expression, self.landmarks.transpose(0, 1).flatten(0, 1)), 1)

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class TwinBatch(TensorBatch):
    """Rendered heads, and each of them with the head model's own eyes.

    Attributes:
        picture, plain: [N, 3, S, S] in -1..1.
        pose, expression: [N, 6], [N, K] as in `SupervisedBatch`. landmarks: [N, L] in `picture`, in `LANDMARK_UNIT`.
    """

    picture: Tensor
    plain: Tensor
    pose: Tensor
    expression: Tensor
    landmarks: Tensor

    def truths(self) -> Tensor:
        """What is known of `picture`: pose, expression, landmarks, [N, P + K + L]."""
        return torch.cat((self.pose, self.expression, self.landmarks), 1)

    def __len__(self) -> int:
        return len(self.picture)


Batch = PairBatch | SupervisedBatch | TwinBatch


def pose_units(pose: Tensor) -> Tensor:
    """Yaw, pitch, roll in degrees and framing, [N, 6] -> about standard deviations."""
    return (pose.float() - torch.tensor(POSE_OFFSET)) / torch.tensor(POSE_UNIT)


def expression_units(shape: Tensor, gaze: Tensor) -> Tensor:
    """Landmark displacements [N, 68, 3] cm and gaze [N, 2] degrees -> [N, 206] about standard deviations."""
    units = torch.tensor([unit for part, unit in SHAPE_UNIT.items() for _ in part])
    return torch.cat(((shape.float() / units[:, None]).flatten(1), gaze.float() / torch.tensor(GAZE_UNIT)), 1)


def shrink_flow(flow: Tensor, visible: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Positions [N, 2, s, s] averaged over the visible part of larger pixels, and the visible share, at `size` px.

    Positions are absolute, so their mean belongs to the larger pixel's centre. Smaller maps stay as they are.
    """
    factor = flow.shape[-1] // size
    if factor <= 1:
        return flow, visible
    share = F.avg_pool2d(visible, factor)
    position = F.avg_pool2d(flow * visible, factor) / share.clamp_min(1e-6)
    return torch.where(share > 0, position, F.avg_pool2d(flow, factor)), share
