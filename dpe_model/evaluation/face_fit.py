"""Pose and expression read off a picture of a known person by rendering them.

Analysis through synthesis (Blanz and Vetter, "A morphable model for the synthesis of 3D faces", SIGGRAPH 1999): the
very person is rendered at other poses, and between the source's and the driver's expression, until the render fits the
picture. So nothing has to be learnt and nobody's looks can mislead it.

The whole picture says how the head is held: freely, for were it held to the way from source to driver, a head that an
edit turned a little too far would be taken for another expression. What each part of the face does is then looked at
around that part alone (`parts.py`): movement along the way from source to driver, of the mouth (all blendshapes of jaw,
mouth, cheeks, nose), of each eye's lids, of each brow, and of the gaze. An eye that looks elsewhere than it should is
the strongest contrast there is around it, so that lids cannot be read before the gaze is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..frames import to_unit
from .parts import PARTS, Window, best_share, part_of, reach_of, unexplained
from .people import Array, face_numbers, painter

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..training.synthetic import HeadParams
    from ..training.synthetic.appearance import Scene

POSE_DIM = 6
SOFT, PARTS_SOFT = 1 / 50, 1 / 200
"""Sigma of the blur before pictures are compared, in sides: results of a network are softer than renders. Parts are
too small for more than a quarter of what the head stands."""
STARTS = (0.0, 0.33, 0.67, 1.0)
SHARES = (*PARTS, "gaze")
"""What goes its own way from source to driver."""
STEPS = (1.0, 1.0, 1.0, 0.005, 0.0025, 0.0025, 0.2, 0.2, 0.2)
"""Differences for derivatives: yaw, pitch, roll in degrees, scale, shifts in picture widths, shares of the way."""
TOGETHER = (("mouth",), ("right eye", "left eye", "gaze"), ("right brow", "left brow"))
"""Shares that are one while the head is looked for."""
TURNS = 10
SHRINK = (1.0, 0.4, 0.15)
LONGEST = 8.0
"""Longest stride of a turn, in `STEPS`."""
GAIN = 1e-4
"""The fit ends when a turn gains less than this part of the error."""
DAMPING = 1e-6
LOW, HIGH, BETWEEN = -0.75, 1.75, 0.125
"""Shares of the way that are looked for, and how far apart a part is rendered."""
GAZES = np.linspace(-0.5, 1.5, 9, dtype=np.float32)
LIDS = np.linspace(LOW, HIGH, 11, dtype=np.float32)
"""Shares at which eyes are rendered while the gaze is looked for."""
STARTING_WAYS = tuple((lids, gaze) for lids in (-0.25, 0.25, 0.75, 1.25) for gaze in (0.0, 1.0))
"""Where that begins."""
ROUNDS = 1
"""How often gaze and lids are looked for in turn."""
EYES = ("right eye", "left eye")

Face = tuple[float, ...]
"""Pose [6] as `HeadParams.pose_vector`, then shares [6] of the way from source to driver, in the order of `SHARES`."""

Way = tuple[float, float]
"""One share for all of `PARTS`, and that of the gaze."""


@dataclass(frozen=True)
class Reading:
    """A face read off a picture, and by name of `PARTS` how much of it lies inside the picture, 0..1."""

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

    def between(self, head: float, *shares: float) -> Face:
        """The face whose head is at a share of the way from source to driver, and its `SHARES`; one stands for all."""
        a, b = self.first.pose_vector(), self.second.pose_vector()
        return (*(float(v) for v in a + head * (b - a)), *(shares * len(SHARES) if len(shares) == 1 else shares))

    def params(self, face: Face) -> HeadParams:
        """What to render for a face."""
        from ..training.synthetic.renderer import POSE_NAMES

        pose, shares = face[:POSE_DIM], dict(zip(SHARES, face[POSE_DIM:], strict=True))
        a, b = self.first, self.second
        each = [shares[part_of(name)] for name in self._names]
        mixed = tuple(x + s * (y - x) for x, y, s in zip(_weights(a, each), _weights(b, each), each, strict=True))
        gaze = {n: getattr(a, n) + shares["gaze"] * (getattr(b, n) - getattr(a, n)) for n in ("gaze_yaw", "gaze_pitch")}
        return replace(a, expression=mixed, **dict(zip(POSE_NAMES, pose, strict=True)), **gaze)

    def picture(self, face: Face) -> Tensor:
        """The render of a face, as large as its parts are compared: uint8 [S, S, 3]."""
        return self._paint_parts(self.params(face))

    def numbers(self, face: Face) -> Array:
        """`people.NUMBERS` [7] of a face."""
        return face_numbers(self.scene, self.params(face))

    def measure(self, picture: Tensor) -> Reading:
        """The face in a picture [S, S, 3] of any square size."""
        return self._read_parts(picture, self._fit(picture)[:POSE_DIM])

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
        faces = [self.between(head, face) for head in STARTS for face in (0.0, 1.0)]
        return {face: self._soft(face) for face in faces}

    def _newton(self, face: Face, goal: Tensor) -> Array:
        here = self._soft(face)
        sides = [self._soft(moved(face, shift)) for shift in STRIDES]
        jacobian = torch.stack([(side - here).flatten() for side in sides], 1).double()
        normal = jacobian.T @ jacobian / len(jacobian) + DAMPING * torch.eye(len(STEPS), dtype=torch.float64)
        step = torch.linalg.solve(normal, jacobian.T @ (goal - here).flatten().double() / len(jacobian))
        return np.asarray(step.clamp(-LONGEST, LONGEST).numpy() @ STRIDES, np.float32)

    def _soft(self, face: Face) -> Tensor:
        return soften(self._paint(self.params(face)), self.size, SOFT)

    # The parts, at the head's pose.

    def _read_parts(self, picture: Tensor, pose: Face) -> Reading:
        size = self.parts_size
        reach, goal = reach_of(size), soften(picture, size, PARTS_SOFT)
        windows = self._windows(pose, reach)
        shares = np.arange(LOW, HIGH + BETWEEN / 2, BETWEEN, dtype=np.float32)

        def left(ways: Sequence[Way], parts: Iterable[str]) -> dict[str, Array]:
            """What renders leave unexplained of each part that is seen: [ways]."""
            faces = [self.picture((*pose, *[share] * len(PARTS), gaze)) for share, gaze in ways]
            renders = torch.stack([soften(face, size, PARTS_SOFT) for face in faces])
            seen = [part for part in parts if not windows[part].empty]
            return {part: unexplained(goal, renders, windows[part], reach) for part in seen}

        eyes = [part for part in EYES if not windows[part].empty]
        gaze = _find_gaze(lambda ways: np.sum(list(left(ways, eyes).values()), 0)) if eyes else 0.0
        each = left([(float(share), gaze) for share in shares], PARTS)
        found = [best_share(each[part], shares) if part in each else 0.0 for part in PARTS]
        return Reading((*pose, *found, gaze), {part: window.seen for part, window in windows.items()})

    def _windows(self, pose: Face, reach: int) -> dict[str, Window]:
        """Around a part's landmarks as they lie in the source's and in the driver's expression."""
        from ..training.synthetic.renderer import landmarks

        ends = [landmarks(self.scene, self.params((*pose, *[share] * len(SHARES)))) for share in (0.0, 1.0)]
        return {
            part: Window.around(np.concatenate([m[list(marks)] for m in ends]), self.parts_size, reach)
            for part, marks in PARTS.items()
        }


def _find_gaze(left: Callable[[Sequence[Way]], Array]) -> float:
    """The share of the gaze, looked for in turn with that of the lids, which here is one for both eyes.

    Args:
        left: what each of some ways leaves unexplained of the eyes.
    """
    lids, gaze = STARTING_WAYS[int(left(STARTING_WAYS).argmin())]
    for _ in range(ROUNDS):
        gaze = best_share(left([(lids, float(g)) for g in GAZES]), GAZES)
        lids = best_share(left([(float(s), gaze) for s in LIDS]), LIDS)
    return best_share(left([(lids, float(g)) for g in GAZES]), GAZES)


def moved(face: Face, step: npt.NDArray[np.floating[Any]]) -> Face:
    """A face a step [12] further, its shares kept within what is looked for."""
    values = [float(x + d) for x, d in zip(face, step, strict=True)]
    return (*values[:POSE_DIM], *(float(np.clip(share, LOW, HIGH)) for share in values[POSE_DIM:]))


def _strides() -> Array:
    """`STEPS` as steps of a face: [9, 12]."""
    strides = np.zeros((len(STEPS), POSE_DIM + len(SHARES)), np.float32)
    strides[:POSE_DIM, :POSE_DIM] = np.diag(STEPS[:POSE_DIM])
    for row, shares, step in zip(strides[POSE_DIM:], TOGETHER, STEPS[POSE_DIM:], strict=True):
        row[[POSE_DIM + SHARES.index(share) for share in shares]] = step
    return strides


STRIDES = _strides()


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


def _weights(params: HeadParams, like: Sequence[float]) -> tuple[float, ...]:
    """Blendshape weights, filled up with zeros."""
    return (*params.expression, *([0.0] * (len(like) - len(params.expression))))
