"""Pose and expression read off a picture of a known person by rendering them.

Analysis through synthesis (Blanz and Vetter, "A morphable model for the synthesis of 3D faces", SIGGRAPH 1999): the
very person is rendered at other poses, and between the source's and the driver's expression, until the render fits the
picture. So nothing has to be learnt and nobody's looks can mislead it.

The whole picture says how the head is held: freely, for were it held to the way from source to driver, a head that an
edit turned a little too far would be taken for another expression. What each part of the face does is then looked at
around that part alone (`parts.py`): movement along the way from source to driver, of the mouth (all blendshapes of jaw,
mouth, cheeks, nose), of the eyes (lids, gaze) and of the brows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..frames import to_unit
from .parts import PARTS, Window, best_share, reach_of, unexplained
from .people import Array, face_numbers, painter

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..training.synthetic import HeadParams
    from ..training.synthetic.appearance import Scene

SOFT, PARTS_SOFT = 1 / 50, 1 / 200
"""Sigma of the blur before pictures are compared, in sides: results of a network are softer than renders. Parts are
too small for more than a quarter of what the head stands."""
STARTS = (0.0, 0.33, 0.67, 1.0)
STEPS = (1.0, 1.0, 1.0, 0.005, 0.0025, 0.0025, 0.2, 0.2, 0.2)
"""Differences for derivatives: yaw, pitch, roll in degrees, scale, shifts in picture widths, shares of the way."""
TURNS = 10
SHRINK = (1.0, 0.4, 0.15)
LONGEST = 8.0
"""Longest stride of a turn, in `STEPS`."""
GAIN = 1e-4
"""The fit ends when a turn gains less than this part of the error."""
DAMPING = 1e-6
LOW, HIGH, BETWEEN = -0.75, 1.75, 0.125
"""Shares of the way that are looked for, and how far apart a part is rendered."""
BLENDSHAPES = {"eyes": "eye", "brows": "brow"}
"""How the names of a part's blendshapes begin; the others are the mouth's."""

Face = tuple[float, ...]
"""Pose [6] as `HeadParams.pose_vector`, then shares [3] of the way from source to driver, in the order of `PARTS`."""


@dataclass(frozen=True)
class Reading:
    """A face read off a picture, and by part how much of it lies inside the picture, 0..1."""

    face: Face
    seen: dict[str, float]


@dataclass(frozen=True)
class FaceFit:
    """Reads pose, and expression on the way from source to driver, off pictures of one person.

    Attributes:
        scene: the person. first, second: parameters of source and driver.
        size, parts_size: sides at which pictures are compared, for the head and for its parts.
    """

    scene: Scene
    first: HeadParams
    second: HeadParams
    size: int
    parts_size: int

    def between(self, head: float, mouth: float, eyes: float, brows: float) -> Face:
        """The face at these shares of the way from source to driver."""
        a, b = self.first.pose_vector(), self.second.pose_vector()
        return (*(float(v) for v in a + head * (b - a)), mouth, eyes, brows)

    def params(self, face: Face) -> HeadParams:
        """What to render for a face."""
        from ..training.synthetic.renderer import POSE_NAMES

        pose, shares = face[:-3], dict(zip(PARTS, face[-3:], strict=True))
        a, b = self.first, self.second
        each = [shares[_part_of(name)] for name in self._names]
        mixed = tuple(x + s * (y - x) for x, y, s in zip(_weights(a, each), _weights(b, each), each, strict=True))
        gaze = {n: getattr(a, n) + shares["eyes"] * (getattr(b, n) - getattr(a, n)) for n in ("gaze_yaw", "gaze_pitch")}
        return replace(a, expression=mixed, **dict(zip(POSE_NAMES, pose, strict=True)), **gaze)

    def picture(self, face: Face) -> Tensor:
        """The render of a face, as large as its parts are compared: uint8 [S, S, 3]."""
        return self._paint_parts(self.params(face))

    def numbers(self, face: Face) -> Array:
        """`people.NUMBERS` [7] of a face."""
        return face_numbers(self.scene, self.params(face))

    def measure(self, picture: Tensor) -> Reading:
        """The face in a picture [S, S, 3] of any square size."""
        return self._read_parts(picture, self._fit(picture)[:-3])

    # The head: the best of a grid, then Gauss-Newton with differences for derivatives.

    def _fit(self, picture: Tensor) -> Face:
        goal = soften(picture, self.size, SOFT)
        error, best = min((_error(render, goal), face) for face, render in self._grid.items())
        for _ in range(TURNS):
            before, step = error, self._newton(best, goal)
            for shrink in SHRINK:
                tried = moved(best, shrink * step)
                if (found := _error(self._soft(tried), goal)) < error:
                    best, error = tried, found
                    break
            if error > (1.0 - GAIN) * before:
                break
        return best

    @cached_property
    def _paint(self) -> Callable[[HeadParams], Tensor]:
        return painter(self.scene, self.size)

    @cached_property
    def _paint_parts(self) -> Callable[[HeadParams], Tensor]:
        return painter(self.scene, self.parts_size)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return self.scene.person.template.expression_names

    @cached_property
    def _grid(self) -> dict[Face, Tensor]:
        faces = [self.between(head, *[face] * len(PARTS)) for head in STARTS for face in (0.0, 1.0)]
        return {face: self._soft(face) for face in faces}

    def _newton(self, face: Face, goal: Tensor) -> Array:
        here = self._soft(face)
        sides = [self._soft(moved(face, shift)) for shift in np.diag(STEPS)]
        jacobian = torch.stack([(side - here).flatten() for side in sides], 1).double()
        normal = jacobian.T @ jacobian / len(jacobian) + DAMPING * torch.eye(len(STEPS), dtype=torch.float64)
        step = torch.linalg.solve(normal, jacobian.T @ (goal - here).flatten().double() / len(jacobian))
        return np.asarray(step.clamp(-LONGEST, LONGEST).numpy() * STEPS, np.float32)

    def _soft(self, face: Face) -> Tensor:
        return soften(self._paint(self.params(face)), self.size, SOFT)

    # The parts, at the head's pose.

    def _read_parts(self, picture: Tensor, pose: Face) -> Reading:
        size = self.parts_size
        reach, goal = reach_of(size), soften(picture, size, PARTS_SOFT)
        shares = np.arange(LOW, HIGH + BETWEEN / 2, BETWEEN, dtype=np.float32)
        faces = [self.picture((*pose, *[float(s)] * len(PARTS))) for s in shares]
        renders = torch.stack([soften(face, size, PARTS_SOFT) for face in faces])
        found, seen = [], {}
        for part, windows in self._windows(pose, reach).items():
            left = [unexplained(goal, renders, window, reach) for window in windows if not window.empty]
            found.append(best_share(np.sum(left, 0), shares) if left else 0.0)
            seen[part] = sum(window.seen for window in windows) / len(windows)
        return Reading((*pose, *found), seen)

    def _windows(self, pose: Face, reach: int) -> dict[str, list[Window]]:
        """Around a part's landmarks as they lie in the source's and in the driver's expression."""
        from ..training.synthetic.renderer import landmarks

        ends = [landmarks(self.scene, self.params((*pose, *[share] * len(PARTS)))) for share in (0.0, 1.0)]
        return {
            part: [
                Window.around(np.concatenate([m[list(marks)] for m in ends]), self.parts_size, reach)
                for marks in groups
            ]
            for part, groups in PARTS.items()
        }


def moved(face: Face, step: npt.NDArray[np.floating[Any]]) -> Face:
    """A face a step [9] further, its shares kept within what is looked for."""
    values = [float(x + d) for x, d in zip(face, step, strict=True)]
    return (*values[:-3], *(float(np.clip(share, LOW, HIGH)) for share in values[-3:]))


def soften(picture: Tensor, size: int, sigma: float) -> Tensor:
    """A picture [S, S, 3] as it is compared: [3, size, size] float32, blurred by `sigma` sides."""
    x = to_unit(picture).permute(2, 0, 1)[None]
    if x.shape[-1] != size:
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
    pixels = size * sigma
    radius = max(1, round(2.5 * pixels))
    offset = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(offset**2) / (2 * pixels**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    x = F.conv2d(F.pad(x, (radius,) * 4, mode="replicate"), kernel, groups=3)
    return F.conv2d(x, kernel.transpose(2, 3), groups=3)[0]


def _error(found: Tensor, goal: Tensor) -> float:
    return float((found - goal).square().mean())


def _part_of(blendshape: str) -> str:
    return next((part for part, start in BLENDSHAPES.items() if blendshape.startswith(start)), "mouth")


def _weights(params: HeadParams, like: Sequence[float]) -> tuple[float, ...]:
    """Blendshape weights, filled up with zeros."""
    return (*params.expression, *([0.0] * (len(like) - len(params.expression))))
