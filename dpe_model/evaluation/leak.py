"""Leak: how much a pose edit changes the expression, and the reverse.

A face's parameters are read off a picture by analysis through synthesis (Blanz and Vetter, "A morphable model for the
synthesis of 3D faces", SIGGRAPH 1999): the very person is rendered at other poses, and between the source's and the
driver's expression, until the render fits the picture. So nothing has to be learnt and nobody's looks can mislead it;
its own error, on softened true pictures of known parameters, stands beside every figure.

The head's pose is free. Were it held to the way from source to driver, a head that an edit turned a little too far
would be taken for another expression. Of the face it can see movement along that way: of the mouth (all blendshapes of
jaw, mouth, cheeks, nose) and of the eyes (lids, brows, gaze), each on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoint import ROLES, Role
from ..frames import to_unit
from ..jobs.report import Reporter, Silent
from .heads import CHECKS, EXPRESSION_NUMBERS, HELD_OUT, NUMBERS, POSE_NUMBERS, Array, face_numbers, painter
from .rendered import Edited

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..training.synthetic import HeadParams
    from ..training.synthetic.appearance import Scene

FIT_SIZE = 128
"""Pictures are compared at this side at most, px."""
SOFT = 1 / 50
"""Sigma of the blur before pictures are compared, in sides: results of a network are softer than renders."""
STARTS = (0.0, 0.33, 0.67, 1.0)
STEPS = (1.0, 1.0, 1.0, 0.005, 0.0025, 0.0025, 0.2, 0.2)
"""Differences for derivatives: yaw, pitch, roll in degrees, scale, shifts in picture widths, shares of the way."""
TURNS = 10
SHRINK = (1.0, 0.4, 0.15)
LONGEST = 8.0
"""Longest stride of a turn, in `STEPS`."""
GAIN = 1e-4
"""The fit ends when a turn gains less than this part of the error."""
DAMPING = 1e-6
LOW, HIGH = -0.75, 1.75
CHECK_SEED = 0
CHECK_POSE = (3.0, 2.0, 2.0, 0.012, 0.006, 0.006)
"""How far from the way the head of a checked picture is, one standard deviation."""

Face = tuple[float, ...]
"""Pose [6] as `HeadParams.pose_vector`, then the shares of the way from source to driver: mouth, eyes."""


@dataclass(frozen=True)
class FaceFit:
    """Reads pose, and expression on the way from source to driver, off pictures of one person.

    Attributes:
        scene: the person. first, second: parameters of source and driver. size: side of the pictures, px.
    """

    scene: Scene
    first: HeadParams
    second: HeadParams
    size: int

    @cached_property
    def _paint(self) -> Callable[[HeadParams], Tensor]:
        return painter(self.scene, self.size)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return self.scene.person.template.expression_names

    def between(self, head: float, mouth: float, eyes: float) -> Face:
        """The face at these shares of the way from source to driver."""
        a, b = self.first.pose_vector(), self.second.pose_vector()
        return (*(float(v) for v in a + head * (b - a)), mouth, eyes)

    def params(self, face: Face) -> HeadParams:
        """What to render for a face."""
        from ..training.synthetic.renderer import POSE_NAMES

        *pose, mouth, eyes = face
        a, b = self.first, self.second
        shares = [eyes if name.startswith(("eye", "brow")) else mouth for name in self._names]
        mixed = tuple(
            x + share * (y - x) for x, y, share in zip(_weights(a, shares), _weights(b, shares), shares, strict=True)
        )
        gaze = {n: getattr(a, n) + eyes * (getattr(b, n) - getattr(a, n)) for n in ("gaze_yaw", "gaze_pitch")}
        return replace(a, expression=mixed, **dict(zip(POSE_NAMES, pose, strict=True)), **gaze)

    def picture(self, face: Face) -> Tensor:
        """The render of a face: uint8 [S, S, 3]."""
        return self._paint(self.params(face))

    def numbers(self, face: Face) -> Array:
        """`heads.NUMBERS` [7] of a face."""
        return face_numbers(self.scene, self.params(face))

    def measure(self, picture: Tensor) -> Face:
        """The face in a picture [S, S, 3] of any square size.

        The best of a grid, then Gauss-Newton with differences for derivatives.
        """
        goal = soften(picture, self.size)
        error, best = min((_error(render, goal), face) for face, render in self._grid.items())
        for _ in range(TURNS):
            before, step = error, self._newton(best, goal)
            for shrink in SHRINK:
                tried = _moved(best, shrink * step)
                if (found := _error(self._soft(tried), goal)) < error:
                    best, error = tried, found
                    break
            if error > (1.0 - GAIN) * before:
                break
        return best

    @cached_property
    def _grid(self) -> dict[Face, Tensor]:
        faces = [self.between(head, face, face) for head in STARTS for face in (0.0, 1.0)]
        return {face: self._soft(face) for face in faces}

    def _newton(self, face: Face, goal: Tensor) -> Array:
        here = self._soft(face)
        sides = [self._soft(_moved(face, shift)) for shift in np.diag(STEPS)]
        jacobian = torch.stack([(side - here).flatten() for side in sides], 1).double()
        normal = jacobian.T @ jacobian / len(jacobian) + DAMPING * torch.eye(len(STEPS), dtype=torch.float64)
        step = torch.linalg.solve(normal, jacobian.T @ (goal - here).flatten().double() / len(jacobian))
        return np.asarray(step.clamp(-LONGEST, LONGEST).numpy() * STEPS, np.float32)

    def _soft(self, face: Face) -> Tensor:
        return soften(self.picture(face), self.size)


def _error(found: Tensor, goal: Tensor) -> float:
    return float((found - goal).square().mean())


def soften(picture: Tensor, size: int) -> Tensor:
    """A picture [S, S, 3] as it is compared: [3, size, size] float32, blurred."""
    x = to_unit(picture).permute(2, 0, 1)[None]
    if x.shape[-1] != size:
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
    sigma = size * SOFT
    radius = max(1, round(2.5 * sigma))
    offset = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(offset**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    x = F.conv2d(F.pad(x, (radius,) * 4, mode="replicate"), kernel, groups=3)
    return F.conv2d(x, kernel.transpose(2, 3), groups=3)[0]


@dataclass(frozen=True)
class Changes:
    """Changes of `heads.NUMBERS` from the source, each [N, 7].

    Attributes:
        asked: to the driver. by: measured on the model's edit of a role.
        known, found: of softened true pictures somewhere on the way: the truth, and what the fit read.
    """

    asked: Array
    by: Mapping[Role, Array]
    known: Array
    found: Array


def measure_changes(people: Sequence[Edited], reporter: Reporter | None = None) -> Changes:
    """Fit every expression edit and pose edit of these people (a second or two a picture)."""
    total = sum(len(one.cases) for one in people)
    rows: list[dict[str, Array]] = []
    with (reporter or Silent()).stage("measure leaks", total) as count:
        for number, one in enumerate(people):
            for row in _person_changes(one, number):
                rows.append(row)
                count(1)
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return Changes(stacked["asked"], {r: stacked[r] for r in ROLES}, stacked["known"], stacked["found"])


def _person_changes(one: Edited, number: int) -> list[dict[str, Array]]:
    rng = np.random.default_rng([HELD_OUT, CHECKS, CHECK_SEED, number])
    size = one.cases.source.shape[1]
    picture = painter(one.cases.scene, size)
    fits: dict[tuple[HeadParams, HeadParams], FaceFit] = {}
    rows = []
    for i, (first, second) in enumerate(one.cases.params):
        # Both drivers of a case share the renders of the grid.
        fit = fits.setdefault((first, second), FaceFit(one.cases.scene, first, second, min(size, FIT_SIZE)))
        start = fit.numbers(fit.between(0.0, 0.0, 0.0))
        row: dict[str, Array] = {role: fit.numbers(fit.measure(one.results[role][i])) - start for role in ROLES}
        known = _moved(fit.between(*rng.uniform(-0.2, 1.2, 3)), np.append(rng.normal(0.0, CHECK_POSE), (0.0, 0.0)))
        row |= {
            "asked": fit.numbers(fit.between(1.0, 1.0, 1.0)) - start,
            "known": fit.numbers(known) - start,
            "found": fit.numbers(fit.measure(blurred(picture(fit.params(known))))) - start,
        }
        rows.append(row)
    return rows


def blurred(picture: Tensor) -> Tensor:
    """A picture [S, S, 3] as soft as a network's results: halved in size and enlarged."""
    size = picture.shape[0]
    x = to_unit(picture).permute(2, 0, 1)[None]
    x = F.interpolate(x, (size // 2, size // 2), mode="bilinear", antialias=True)
    x = F.interpolate(x, (size, size), mode="bilinear", align_corners=False)
    return x[0].permute(1, 2, 0)


def leak_report(changes: Changes) -> dict[str, Any]:
    """Leak of the model's edits, with the accuracy of the measurement.

    Returns:
        `leak` (see there), and `accuracy` by number on softened true pictures: `r2`, and `error`, the mean absolute
        error as a share of the mean change asked for: no leak below that says anything.
    """
    scale = np.abs(changes.asked).mean(0)
    return {
        "leak": leak(changes.by, changes.asked),
        "accuracy": {
            name: _accuracy(changes.found[:, i], changes.known[:, i], float(scale[i])) for i, name in enumerate(NUMBERS)
        },
    }


def leak(changes: Mapping[Role, Array], asked: Array) -> dict[str, dict[str, float | None]]:
    """What each edit changes of each number.

    Args:
        changes: by role, measured change of each number from source to result [N, 7].
        asked: true change from source to driver [N, 7].

    Returns:
        By number: `leak`, the mean absolute change by the edit that should leave it alone, divided by the mean
        absolute change by the edit that should change it, with the same drivers; `typical`, the same of medians, which
        a few pictures that the fit misreads do not move; `follows` and `strays`, the slopes (least squares, through 0)
        of the change over the asked one: of the edit that should change it (1 is perfect), and of the other (0 is
        perfect). A number that nobody asked to change gives None. `expression` and `pose` have the mean leaks of mouth
        and eyes, and of the head's angles.
    """
    report: dict[str, dict[str, float | None]] = {}
    for i, name in enumerate(NUMBERS):
        right: Role = "pose" if name in POSE_NUMBERS else "expression"
        wrong: Role = "expression" if right == "pose" else "pose"
        wanted, unwanted, goal = changes[right][:, i], changes[wrong][:, i], asked[:, i]
        energy = float((goal * goal).sum())
        report[name] = {
            "leak": _ratio(float(np.abs(unwanted).mean()), float(np.abs(wanted).mean())),
            "typical": _ratio(float(np.median(np.abs(unwanted))), float(np.median(np.abs(wanted)))),
            "follows": _ratio(float((wanted * goal).sum()), energy),
            "strays": _ratio(float((unwanted * goal).sum()), energy),
        }
    groups = {"expression": EXPRESSION_NUMBERS[:2], "pose": POSE_NUMBERS}
    for group, names in groups.items():
        found = [value for n in names if (value := report[n]["leak"]) is not None]
        report[group] = {"leak": round(sum(found) / len(found), 4) if found else None}
    return report


def _weights(params: HeadParams, like: Sequence[float]) -> tuple[float, ...]:
    """Blendshape weights, filled up with zeros."""
    return (*params.expression, *([0.0] * (len(like) - len(params.expression))))


def _moved(face: Face, step: npt.NDArray[np.floating[Any]]) -> Face:
    *pose, mouth, eyes = (float(x + d) for x, d in zip(face, step, strict=True))
    return (*pose, *(float(np.clip(share, LOW, HIGH)) for share in (mouth, eyes)))


def _accuracy(found: Array, known: Array, scale: float) -> dict[str, float | None]:
    off = found.astype(np.float64) - known
    rest = _ratio(float((off**2).sum()), float(((known - known.mean()) ** 2).sum()))
    return {"r2": None if rest is None else round(1.0 - rest, 4), "error": _ratio(float(np.abs(off).mean()), scale)}


def _ratio(part: float, whole: float) -> float | None:
    """A quotient for a report, None over nothing."""
    return None if abs(whole) < 1e-9 else round(part / whole, 4)
