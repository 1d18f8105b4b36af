"""Leak: how much a pose edit changes the expression, and the reverse.

A face's parameters are read off a picture by analysis through synthesis (Blanz and Vetter, "A morphable model for the
synthesis of 3D faces", SIGGRAPH 1999): the very person is rendered between the source's parameters and the driver's
until the render fits the picture. So nothing has to be learnt and nobody's looks can mislead it; its own error, on
softened true pictures of known parameters, stands beside every figure.

What it can see is movement along the way from source to driver: of the head, of the mouth (all blendshapes of jaw,
mouth, cheeks, nose) and of the eyes (lids, brows, gaze), each on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
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
STEP, TURNS, LIMIT = 0.15, 6, 0.5
DAMPING = 1e-6
LOW, HIGH = -0.75, 1.75
CHECK_SEED = 0

Way = tuple[float, float, float]
"""Shares of the way from source to driver: head, mouth, eyes."""


@dataclass(frozen=True)
class FaceFit:
    """Reads the way from source to driver off pictures of one person.

    Attributes:
        scene: the person. first, second: parameters of source and driver. size: side of the pictures, px.
    """

    scene: Scene
    first: HeadParams
    second: HeadParams
    size: int
    _kept: dict[Way, Tensor] = field(default_factory=dict)

    @cached_property
    def _paint(self) -> Callable[[HeadParams], Tensor]:
        return painter(self.scene, self.size)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return self.scene.person.template.expression_names

    def params(self, way: Way) -> HeadParams:
        """Parameters some way from source to driver."""
        from ..training.synthetic.renderer import POSE_NAMES

        head, mouth, eyes = way
        a, b = self.first, self.second
        shares = [eyes if name.startswith(("eye", "brow")) else mouth for name in self._names]
        mixed = tuple(
            x + share * (y - x) for x, y, share in zip(_weights(a, shares), _weights(b, shares), shares, strict=True)
        )
        moved = {n: getattr(a, n) + head * (getattr(b, n) - getattr(a, n)) for n in POSE_NAMES}
        gaze = {n: getattr(a, n) + eyes * (getattr(b, n) - getattr(a, n)) for n in ("gaze_yaw", "gaze_pitch")}
        return replace(a, expression=mixed, **moved, **gaze)

    def picture(self, way: Way) -> Tensor:
        """The render some way from source to driver: uint8 [S, S, 3]."""
        return self._paint(self.params(way))

    def numbers(self, way: Way) -> Array:
        """`heads.NUMBERS` [7] some way from source to driver."""
        return face_numbers(self.scene, self.params(way))

    def measure(self, picture: Tensor) -> Way:
        """How far on the way a picture [S, S, 3] of any square size lies.

        The best of a grid, then Gauss-Newton with differences for derivatives.
        """
        goal = soften(picture, self.size)
        grid: list[Way] = [(head, face, face) for head in STARTS for face in (0.0, 1.0)]
        best = min(grid, key=lambda way: self._error(way, goal))
        error = self._error(best, goal)
        for _ in range(TURNS):
            step = self._newton(best, goal)
            for shrink in (1.0, 0.4):
                tried = _moved(best, shrink * step)
                if (found := self._error(tried, goal)) < error:
                    best, error = tried, found
                    break
            else:
                break
        return best

    def _newton(self, way: Way, goal: Tensor) -> Array:
        here = self._soft(way)
        columns = []
        for i in range(3):
            shift = np.zeros(3, np.float32)
            shift[i] = STEP
            columns.append((self._soft(_moved(way, shift)) - here).flatten() / STEP)
        jacobian = torch.stack(columns, 1).double()
        normal = jacobian.T @ jacobian / len(jacobian) + DAMPING * torch.eye(3, dtype=torch.float64)
        step = torch.linalg.solve(normal, jacobian.T @ (goal - here).flatten().double() / len(jacobian))
        return np.asarray(step.clamp(-LIMIT, LIMIT).numpy(), np.float32)

    def _error(self, way: Way, goal: Tensor) -> float:
        return float((self._soft(way) - goal).square().mean())

    def _soft(self, way: Way) -> Tensor:
        if way not in self._kept:
            self._kept[way] = soften(self.picture(way), self.size)
        return self._kept[way]


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
    """Fit every expression edit and pose edit of these people (about a second a picture)."""
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
    size = min(one.cases.source.shape[1], FIT_SIZE)
    fits: dict[tuple[HeadParams, HeadParams], FaceFit] = {}
    rows = []
    for i, (first, second) in enumerate(one.cases.params):
        # Both drivers of a case share the renders.
        fit = fits.setdefault((first, second), FaceFit(one.cases.scene, first, second, size))
        start = fit.numbers((0.0, 0.0, 0.0))
        row: dict[str, Array] = {role: fit.numbers(fit.measure(one.results[role][i])) - start for role in ROLES}
        head, mouth, eyes = (float(v) for v in rng.uniform(-0.2, 1.2, 3))
        known = (head, mouth, eyes)
        row |= {
            "asked": fit.numbers((1.0, 1.0, 1.0)) - start,
            "known": fit.numbers(known) - start,
            "found": fit.numbers(fit.measure(blurred(fit.picture(known)))) - start,
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
        absolute change by the edit that should change it, with the same drivers; `follows` and `strays`, the slopes
        (least squares, through 0) of the change over the asked one: of the edit that should change it (1 is perfect),
        and of the other (0 is perfect). A number that nobody asked to change gives None. `expression` and `pose` have
        the mean leaks of mouth and eyes, and of the head's angles.
    """
    report: dict[str, dict[str, float | None]] = {}
    for i, name in enumerate(NUMBERS):
        right: Role = "pose" if name in POSE_NUMBERS else "expression"
        wrong: Role = "expression" if right == "pose" else "pose"
        wanted, unwanted, goal = changes[right][:, i], changes[wrong][:, i], asked[:, i]
        energy = float((goal * goal).sum())
        report[name] = {
            "leak": _ratio(float(np.abs(unwanted).mean()), float(np.abs(wanted).mean())),
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


def _moved(way: Way, step: Array) -> Way:
    head, mouth, eyes = (round(float(np.clip(x + d, LOW, HIGH)), 6) for x, d in zip(way, step, strict=True))
    return head, mouth, eyes


def _accuracy(found: Array, known: Array, scale: float) -> dict[str, float | None]:
    off = found.astype(np.float64) - known
    rest = _ratio(float((off**2).sum()), float(((known - known.mean()) ** 2).sum()))
    return {"r2": None if rest is None else round(1.0 - rest, 4), "error": _ratio(float(np.abs(off).mean()), scale)}


def _ratio(part: float, whole: float) -> float | None:
    """A quotient for a report, None over nothing."""
    return None if abs(whole) < 1e-9 else round(part / whole, 4)
