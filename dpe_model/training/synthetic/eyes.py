"""Eyes: balls that lids slide over, and how differently they lie in people's faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .geometry import EYE, LASH, SKIN, Array, HeadTemplate, Indices, segment_distance, smooth_step

Rng = np.random.Generator

LID_REACH = 1.3
"""What lies within this many radii of an eyeball's centre may touch it."""
LID_THICKNESS = 0.04
"""Least distance in cm between a lid and its eyeball."""
PROFILE_STEPS = 12
BLINK, SQUINT = "eyeBlink", "eyeSquint"


@dataclass(frozen=True)
class Eyes:
    """What makes one person's eyes unlike another's, whatever their expression; as constructed, the head model's own.

    Attributes:
        hood: how far the brow's ridge hangs down; ridge: how far it stands out; brow_drop: how much lower than the
            ridge its hair grows; all in cm.
        blink, squint: weights of these expressions in the face at rest.
        dim: factor on the eyeball's display colour; tint: share of the skin's colour in its white.
        shade: how dark the upper lid's shadow on the ball is; sparkle: strength of reflections; lash: how far lashes
            stand out from the skin; all 0..1.
        socket: how much darker the skin round the eyes is, below 0 lighter. lid: how much lighter lids are than skin.
    """

    hood: float = 0.0
    ridge: float = 0.0
    brow_drop: float = 0.0
    blink: float = 0.0
    squint: float = 0.0
    dim: float = 1.0
    tint: float = 0.0
    shade: float = 0.0
    sparkle: float = 1.0
    lash: float = 1.0
    socket: float = 0.0
    lid: float = 0.0

    @classmethod
    def sample(cls, rng: Rng) -> Eyes:
        """From wide bright eyes to narrow ones deep in the shadow of the brows."""
        deep = rng.random() < 0.7
        depth = rng.uniform(0.3, 1.0) if deep else 0.0
        return cls(
            hood=depth * rng.uniform(0.2, 1.5),
            ridge=depth * rng.uniform(0.0, 0.8),
            brow_drop=float(np.clip(rng.normal(0.15, 0.25), -0.3, 0.5)) + depth * rng.uniform(0.0, 0.8),
            blink=rng.uniform(0.0, 0.25) if rng.random() < 0.4 else 0.0,
            squint=rng.uniform(0.0, 0.4) if rng.random() < 0.4 else 0.0,
            dim=rng.uniform(0.5, 1.0),
            tint=rng.uniform(0.0, 0.6),
            shade=rng.uniform(0.0, 0.9),
            sparkle=rng.uniform(0.0, 1.0),
            lash=rng.uniform(0.05, 1.0),
            socket=rng.uniform(-0.1, 0.3) + 0.35 * depth * rng.random(),
            lid=rng.uniform(0.05, 0.5) if rng.random() < 0.5 else 0.0,
        )

    def displacement(self, template: HeadTemplate) -> Array:
        """How the brows' ridge moves the vertices of the mean head, [V, 3] in cm; eyeballs stay."""
        points = template.neutral
        marks = points[template.landmarks]
        moved = np.zeros_like(points)
        for brow, eye in ((marks[17:22], marks[36:42]), (marks[22:27], marks[42:48])):
            distance, _ = segment_distance(points, brow)
            rim, _ = segment_distance(points, eye)
            share = np.exp(-0.5 * (distance / 1.0) ** 2) * smooth_step(rim, 0.1, 1.0)
            moved = np.maximum(moved, share[:, None])
        moved = moved * np.array([0.0, -self.hood, self.ridge], np.float32)
        moved[template.vertex_region == EYE] = 0.0
        return moved.astype(np.float32)

    def at_rest(self, template: HeadTemplate, weights: Array) -> Array:
        """Weights of the blendshapes [E] with what this person's face at rest adds; shut is shut for everyone."""
        result = weights.copy()
        for name, rest in ((BLINK, self.blink), (SQUINT, self.squint)):
            for side in ("_L", "_R"):
                if rest and name + side in template.expression_names:
                    index = template.expression_index(name + side)
                    result[index] = rest + (1.0 - rest) * weights[index]
        return result


@dataclass(frozen=True)
class Eyeball:
    """One eye of a person: what turns, and what slides over it.

    Attributes:
        vertices [B]: the ball's, about its `centre` [3]. lids [L]: those of skin and lashes that may touch it.
        radii [P]: the ball's radius in cm by the angle from its axis, equal steps from 0 to pi.
    """

    vertices: Indices
    centre: Array
    lids: Indices
    radii: Array

    @classmethod
    def of(cls, template: HeadTemplate, vertices: Indices, centre: Array, base: Array) -> Eyeball:
        """A person's eyeball.

        Args:
            template: the shared model. vertices [B], centre [3]: the ball in the mean head. base [V, 3]: the person.
        """
        own = centre + (base[vertices] - template.neutral[vertices]).mean(0)
        from_centre = template.neutral - centre
        reach = LID_REACH * np.linalg.norm(from_centre[vertices], axis=1).mean()
        near = (np.linalg.norm(from_centre, axis=1) < reach) & (from_centre[:, 2] > 0)
        lids = np.nonzero(near & np.isin(template.vertex_region, (SKIN, LASH)))[0]
        return cls(vertices, own.astype(np.float32), lids.astype(np.int32), _radii(base[vertices] - own))

    def move(self, head: Array, turn: Array) -> None:
        """Turn the ball by `turn` [3, 3] in `head` [V, 3], and lay the lids on it where they would cut into it."""
        head[self.vertices] = (head[self.vertices] - self.centre) @ turn.T + self.centre
        lids = head[self.lids] - self.centre
        distance = np.linalg.norm(lids, axis=1)
        angle = np.arccos(np.clip(lids @ turn[:, 2] / distance, -1.0, 1.0))
        least = np.interp(angle, np.linspace(0.0, np.pi, len(self.radii)), self.radii) + LID_THICKNESS
        head[self.lids] = self.centre + lids * np.maximum(1.0, least / distance)[:, None]


def _radii(points: Array) -> Array:
    """Largest radius of a ball's front [B, 3] about the origin by the angle from +z, [P]; 0 where it has no points."""
    distance = np.linalg.norm(points, axis=1)
    angle = np.arccos(np.clip(points[:, 2] / distance, -1.0, 1.0))
    step = np.round(angle / np.pi * (PROFILE_STEPS - 1)).astype(int)
    radii = np.zeros(PROFILE_STEPS, np.float32)
    np.maximum.at(radii, step, distance)
    return radii
