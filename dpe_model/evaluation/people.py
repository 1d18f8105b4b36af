"""Held-out rendered people, with the true picture of every edit and the true numbers of every face."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import EvaluationError
from ..training.landmarks import BROWS, LEFT_EYE, RIGHT_EYE

if TYPE_CHECKING:
    from ..training.synthetic import HeadParams, Studio
    from ..training.synthetic.appearance import Scene

Array = npt.NDArray[np.float32]

HELD_OUT = 0x6576616C
"""First word of every seed used here ("eval"). Training's seeds begin with a run's own small seed, so no person drawn
here was ever drawn there, unless somebody trains with this very seed."""
PEOPLE, ROLE_PEOPLE, CHECKS = 0, 1, 2
"""Second word: the people of the tables, those that branch roles are measured on, the checks of a fit."""

POSE_NUMBERS = ("yaw", "pitch", "roll")
EXPRESSION_NUMBERS = ("mouth", "eyes", "smile", "brows")
NUMBERS = (*POSE_NUMBERS, *EXPRESSION_NUMBERS)
"""What is known of a face: degrees; lip gap / mouth width; lid gap / eye width, mean of both eyes; mouth width /
distance of the eyes; height of the brows over the eyes / distance of the eyes. Measured on the mesh before it turns."""

MOUTH_CORNERS, LIPS = (48, 54), (62, 66)
"""Landmarks by number."""


@dataclass(frozen=True)
class Cases:
    """Pictures of one person driven by several, with the truth.

    Attributes:
        source: person A at (p1, e1); driver: D at (p2, e2); expression: A at (p1, e2); pose: A at (p2, e1);
            both: A at (p2, e2). All uint8 [N, S, S, 3]. The drivers of the first half are A, those of the second half
            other people before other backgrounds.
        scene: A and where A is. params: what made (p1, e1) and (p2, e2) of each case.
    """

    source: Tensor
    driver: Tensor
    expression: Tensor
    pose: Tensor
    both: Tensor
    scene: Scene
    params: tuple[tuple[HeadParams, HeadParams], ...]

    def __len__(self) -> int:
        return len(self.source)

    @property
    def same_person(self) -> npt.NDArray[np.bool_]:
        """[N], whether the driver is the source's own person."""
        return np.arange(len(self)) < len(self) // 2


def open_studio(head: Path) -> Studio:
    """The head model.

    Raises:
        EvaluationError: numba or OpenCV is not installed.
        HeadModelError: the file cannot be used.
    """
    try:
        from ..training.synthetic import Studio
    except ImportError as error:
        raise EvaluationError(
            f"rendered heads need the packages numba and opencv-python-headless, of which one is missing ({error})."
        ) from error
    return Studio.load(head)


def draw_cases(studio: Studio, seed: int, identity: int, tuples: int, size: int) -> Cases:
    """One held-out person in `tuples` pairs of poses and expressions, each driven by themselves and by somebody else.

    Somebody else's face is framed like the person's own would be, as in training. No sensor noise and no JPEG in any
    picture, so that what should stay is known exactly; blur and tone are drawn.
    """
    from ..training.synthetic.renderer import framed_like, landmarks

    rng = np.random.default_rng([HELD_OUT, PEOPLE, seed, identity])
    scene = studio.sample_scene(rng)
    picture = painter(scene, size)
    pictures: dict[str, list[Tensor]] = {n: [] for n in ("source", "expression", "pose", "both", "other")}
    pairs: list[tuple[HeadParams, HeadParams]] = []
    for _ in range(tuples):
        first, second = studio.sample_params(rng), studio.sample_params(rng)
        pictures["source"].append(picture(first))
        pictures["expression"].append(picture(first.with_expression_of(second)))
        pictures["pose"].append(picture(first.with_pose_of(second)))
        pictures["both"].append(picture(second))
        other = studio.sample_scene(rng)
        pictures["other"].append(painter(other, size)(framed_like(other, second, landmarks(scene, second))))
        pairs.append((first, second))
    stacks = {name: torch.stack(made) for name, made in pictures.items()}
    twice = {n: torch.cat([stacks[n], stacks[n]]) for n in ("source", "expression", "pose", "both")}
    driver = torch.cat([stacks["both"], stacks["other"]])
    return Cases(**twice, driver=driver, scene=scene, params=(*pairs, *pairs))


def painter(scene: Scene, size: int) -> Callable[[HeadParams], Tensor]:
    """Renders a scene at given poses and expressions: uint8 [size, size, 3]."""
    from ..training.synthetic import develop, render
    from ..training.synthetic.appearance import make_background

    background = make_background(scene.background_seed, size)

    def paint(params: HeadParams) -> Tensor:
        return torch.from_numpy(develop(render(scene, params, size, 2, background).linear, scene.post, degrade=False))

    return paint


def face_numbers(scene: Scene, params: HeadParams) -> Array:
    """The true `NUMBERS` [7] of a rendered face."""
    person = scene.person
    weights = np.zeros(len(person.template.expression_names), np.float32)
    weights[: len(params.expression)] = params.expression
    marks = person.deform(weights, params.gaze_yaw, params.gaze_pitch)[person.template.landmarks].astype(np.float64)
    eyes = [marks[list(eye)] for eye in (RIGHT_EYE, LEFT_EYE)]
    apart = _distance(eyes[0].mean(0), eyes[1].mean(0))
    width = _distance(*marks[list(MOUTH_CORNERS)])
    lids = [(_distance(e[1], e[5]) + _distance(e[2], e[4])) / (2 * _distance(e[0], e[3])) for e in eyes]
    brows = marks[list(BROWS), 1].mean() - np.concatenate(eyes)[:, 1].mean()
    values = [
        params.yaw,
        params.pitch,
        params.roll,
        _distance(*marks[list(LIPS)]) / width,
        sum(lids) / 2,
        width / apart,
        brows / apart,
    ]
    return np.array(values, np.float32)


def _distance(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    return float(np.linalg.norm(first - second)) + 1e-6
