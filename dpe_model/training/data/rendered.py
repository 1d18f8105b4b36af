"""Samples of rendered heads: from shards, or rendered on the fly."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from ...frames import to_network
from ..framing import framing
from .batches import LANDMARK_UNIT, SupervisedBatch, TwinBatch, expression_units, pose_units, shrink_flow
from .colour import recolour


class RenderReader:
    """Rendered heads, drawn on the fly: an endless supply, at the price of a few renders a sample."""

    def __init__(self, path: str, render_size: int = 128, same_person: float = 0.4, jitter: float = 0.0) -> None:
        from ..synthetic.sampling import Studio

        self.studio = Studio.load(path)
        self.jitter = jitter
        self.render_size, self.same_person = render_size, same_person

    def sample(self, rng: np.random.Generator, size: int) -> SupervisedBatch:
        """One tuple, rendered at 128 px or more and reduced to `size`."""
        made = self.studio.sample_tuple(
            rng, same_person=bool(rng.random() < self.same_person), size=max(size, self.render_size)
        )
        names = ("pose", "exp", "both")
        images = torch.from_numpy(made.images())
        flows = torch.from_numpy(np.stack([made.flows[f"{n}_target"] for n in names]))
        visible = torch.from_numpy(np.stack([made.visible[f"{n}_target"] for n in names]))
        turn = np.stack([p.pose_vector()[:3] for p in (made.source_params, made.driver_params)])
        gaze = np.stack([p.expression_vector()[-2:] for p in (made.source_params, made.driver_params)])
        shape = torch.from_numpy(np.stack((made.source_shape, made.driver_shape)))
        expression = expression_units(shape, torch.from_numpy(gaze))
        marks = torch.from_numpy(made.landmarks)
        batch = supervised_from(images, torch.from_numpy(turn), expression, flows, visible, marks, size)
        return recoloured(batch, rng, self.jitter)


class TwinReader:
    """Rendered heads with their twins, drawn on the fly.

    Args:
        path: the head model. render_size: pixels a side they are rendered at, at least.
    """

    def __init__(self, path: str, render_size: int = 128) -> None:
        from ..synthetic.sampling import Studio

        self.studio, self.render_size = Studio.load(path), render_size

    def sample(self, rng: np.random.Generator, size: int) -> TwinBatch:
        """One pair at `size` px."""
        made = self.studio.sample_twins(rng, max(size, self.render_size))
        picture, plain = to_network(torch.from_numpy(np.stack((made.picture, made.plain))), size)[:, None]
        turn = torch.from_numpy(made.params.pose_vector()[:3])
        framed = torch.from_numpy(framing(made.landmarks))
        gaze = torch.from_numpy(made.params.expression_vector()[-2:])
        return TwinBatch(
            picture,
            plain,
            pose_units(torch.cat((turn, framed))[None]),
            expression_units(torch.from_numpy(made.shape)[None], gaze[None]),
            torch.from_numpy(made.landmarks).flatten()[None] / LANDMARK_UNIT,
        )


class ShardReader:
    """Rendered heads from a folder of shards, drawn with replacement from those that exist when the run starts."""

    def __init__(self, path: str, jitter: float = 0.0) -> None:
        from ..synthetic.shards import ShardDataset

        self.shards, self.jitter = ShardDataset(path), jitter

    def sample(self, rng: np.random.Generator, size: int) -> SupervisedBatch:
        """One tuple at `size` px."""
        made = self.shards[int(rng.integers(len(self.shards)))]
        turn = torch.stack((made["source_pose"], made["driver_pose"]))[:, :3]
        shape = torch.stack((made["source_shape"], made["driver_shape"]))
        gaze = torch.stack((made["source_expression"], made["driver_expression"]))[:, -2:]
        expression = expression_units(shape, gaze)
        maps = made["flows"], made["visible"], made["landmarks"]
        return recoloured(supervised_from(made["images"], turn, expression, *maps, size), rng, self.jitter)


def supervised_from(
    images: Tensor,
    turn: Tensor,
    expression: Tensor,
    flows: Tensor | None,
    visible: Tensor | None,
    landmarks: Tensor,
    size: int,
) -> SupervisedBatch:
    """A sample (batch of one) from what a renderer gives.

    Args:
        images: uint8 [5, S, S, 3]: source, driver, pose, expression and both target.
        turn: yaw, pitch, roll [2, 3] of source and driver, degrees.
        expression: [2, K], see `expression_units`.
        flows: [3, s, s, 2] of the three targets, or None.
        visible: [3, s, s] in 0..1, or None.
        landmarks: [5, 68, 2] in -1..1.
        size: pixels a side wanted; S is a multiple.
    """
    pictures = to_network(images, size)[:, None]
    framed = torch.from_numpy(framing(landmarks[:2].float().numpy()))
    poses, expressions = pose_units(torch.cat((turn.float(), framed), 1))[:, None], expression[:, None]
    maps: list[Tensor | None] = [None] * 6
    if flows is not None and visible is not None:
        small, share = shrink_flow(flows.float().permute(0, 3, 1, 2), visible.float()[:, None], size)
        maps = [*small[:, None], *share[:, None]]
    marks = landmarks.float().flatten(1)[None] / LANDMARK_UNIT
    return dataclasses.replace(SupervisedBatch(*pictures, *poses, *expressions, *maps), landmarks=marks)


def recoloured(batch: SupervisedBatch, rng: np.random.Generator, strength: float) -> SupervisedBatch:
    """The sample with brightness, contrast and colour changed at random: the driver's its own way, the others alike."""
    if not strength:
        return batch
    own, other = rng.uniform(-strength, strength, size=(2, 3))
    names = ("source", "pose_target", "exp_target", "both_target")
    changed = {name: recolour(getattr(batch, name), own) for name in names}
    return dataclasses.replace(batch, driver=recolour(batch.driver, other), **changed)
