"""Which branch of a checkpoint moves the head: measured, since names and training losses do not say.

With a head model, one motion that is pose alone and one that is expression alone drive each branch; the branch that
answers more to the first, in proportion, is the pose branch. Without it, each branch is driven by a clip of somebody
who does both, and the branch whose eyes and nose travel more moves the head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import ROLES, BranchRoles, Role
from ..errors import EvaluationError
from ..frames import to_unit
from ..jobs.report import Reporter, Silent
from ..network import BRANCHES, Branch
from .editor import Editor
from .people import HELD_OUT, ROLE_PEOPLE, open_studio, painter

if TYPE_CHECKING:
    from ..portrait import FaceDetector
    from ..training.synthetic import Studio

DECIDED = math.log(1.25)
"""Least difference, as a log ratio, that counts as an answer."""
PEOPLE, TUPLES = 4, 3
MIN_SEEN = 0.5
NOTHING = 1e-4


@dataclass(frozen=True)
class RoleEvidence:
    """What was measured and what it suggests.

    Attributes:
        method: `rendered` or `clips`.
        score: log ratio; positive = branch `exp` moves the head, negative = branch `pose` does.
        details: the measured figures by branch.
    """

    method: str
    score: float
    details: Mapping[str, Mapping[str, float]]

    @property
    def suggested(self) -> BranchRoles | None:
        """The assignment, None where the evidence is too weak."""
        if abs(self.score) < DECIDED:
            return None
        return BranchRoles(expression="pose", pose="exp") if self.score > 0 else BranchRoles("exp", "pose")

    def as_numbers(self) -> dict[str, Any]:
        """For a report."""
        roles = self.suggested
        return {
            "method": self.method,
            "score": round(self.score, 4),
            "suggested": None if roles is None else {role: roles.branch(role) for role in ROLES},
            "details": {b: {k: round(v, 5) for k, v in found.items()} for b, found in self.details.items()},
        }


def measure_roles_on_head(
    editor: Editor, stated: BranchRoles, head: Path, reporter: Reporter | None = None
) -> RoleEvidence:
    """Drive rendered people by pose alone and by expression alone.

    Args:
        editor: edits by role. stated: which branch it takes for which role.
        head: an ICT-FaceKit export.
    """
    studio = open_studio(head)
    sums: dict[str, dict[str, float]] = {b: {} for b in BRANCHES}
    with (reporter or Silent()).stage("measure roles", PEOPLE) as count:
        for person in range(PEOPLE):
            pictures = _draw(studio, person, editor.size)
            for branch in BRANCHES:
                for name, value in _answers(editor, _role(stated, branch), pictures).items():
                    sums[branch][name] = sums[branch].get(name, 0.0) + value / PEOPLE
            count(1)
    return RoleEvidence("rendered", _leaning(sums["exp"]) - _leaning(sums["pose"]), sums)


def _draw(studio: Studio, person: int, size: int) -> dict[str, Tensor]:
    """Source, and drivers that differ from it in pose alone and in expression alone: uint8 [TUPLES, S, S, 3]."""
    rng = np.random.default_rng([HELD_OUT, ROLE_PEOPLE, 0, person])
    paint = painter(studio.sample_scene(rng), size)
    rows: dict[str, list[Tensor]] = {"source": [], "pose": [], "expression": []}
    for _ in range(TUPLES):
        first, second = studio.sample_params(rng), studio.sample_params(rng)
        rows["source"].append(paint(first))
        rows["pose"].append(paint(first.with_pose_of(second)))
        rows["expression"].append(paint(first.with_expression_of(second)))
    return {name: torch.stack(made) for name, made in rows.items()}


def _answers(editor: Editor, role: Role, pictures: Mapping[str, Tensor]) -> dict[str, float]:
    """How much a branch's picture changes by each motion (mean absolute, 0..1), and how much nearer to the driver's it
    comes (share of the distance; here the driver is the true result of the right branch)."""
    source = pictures["source"]
    still = to_unit(editor.edit(source, source, role, strength=0.0))
    answers: dict[str, float] = {}
    for motion in ("pose", "expression"):
        driver = to_unit(pictures[motion])
        made = to_unit(editor.edit(source, pictures[motion], role))
        answers[f"change by {motion}"] = float((made - still).abs().mean())
        distance = float((to_unit(source) - driver).abs().mean())
        answers[f"nearer by {motion}"] = 1.0 - float((made - driver).abs().mean()) / max(distance, NOTHING)
    return answers


def _leaning(answers: Mapping[str, float]) -> float:
    return math.log((answers["change by pose"] + NOTHING) / (answers["change by expression"] + NOTHING))


def _role(stated: BranchRoles, branch: Branch) -> Role:
    return "expression" if stated.expression == branch else "pose"


def measure_roles_on_clips(
    editor: Editor,
    stated: BranchRoles,
    source: Tensor,
    driving: Tensor,
    detector: FaceDetector,
    reporter: Reporter | None = None,
) -> RoleEvidence:
    """Drive one portrait by somebody who moves the head, and follow eyes and nose.

    Args:
        editor: edits by role. stated: which branch it takes for which role.
        source: a portrait uint8 [1, S, S, 3]. driving: portraits [N, S, S, 3], N at least 2.
        detector: finds the landmarks.

    Raises:
        EvaluationError: a driver of fewer than 2 frames.
    """
    if len(driving) < 2:
        raise EvaluationError(f"driver: expected at least 2 frames that move, got {len(driving)}.")
    details: dict[str, dict[str, float]] = {}
    with (reporter or Silent()).stage("measure roles", len(BRANCHES) * len(driving)) as count:
        for branch in BRANCHES:
            made = editor.edit(source.expand(len(driving), -1, -1, -1), driving, _role(stated, branch))
            details[branch] = head_travel(made, detector)
            count(len(driving))
    if min(found["face seen"] for found in details.values()) < MIN_SEEN:
        return RoleEvidence("clips", 0.0, details)
    travels = {branch: found["head travel"] + NOTHING for branch, found in details.items()}
    return RoleEvidence("clips", math.log(travels["exp"] / travels["pose"]), details)


def head_travel(frames: Tensor, detector: FaceDetector) -> dict[str, float]:
    """How far eyes and nose stray from their mean place (root mean square, in eye distances), and in which share of the
    frames [N, S, S, 3] a face was found."""
    found = [faces[0].landmarks[:3] for faces in detector.detect(frames) if faces]
    seen = len(found) / len(frames)
    if len(found) < 2:
        return {"head travel": 0.0, "face seen": seen}
    return {"head travel": _travel(found), "face seen": seen}


def _travel(landmarks: Sequence[np.ndarray]) -> float:
    points = np.stack(landmarks).astype(np.float64)
    apart = np.median(np.linalg.norm(points[:, 0] - points[:, 1], axis=1))
    off = points - np.median(points, axis=0)
    return float(np.sqrt((off**2).sum(-1).mean()) / max(apart, 1.0))
