"""Leak: how much a pose edit changes the expression, and the reverse.

Faces are read off the pictures by `face_fit.py`. Its own error stands beside every figure: of true pictures of known
parameters, bent and softened as results are.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoint import ROLES, Role
from ..errors import EvaluationError
from ..frames import to_unit
from ..jobs.report import Reporter, Silent
from .face_fit import SHARES, FaceFit, Reading, moved
from .people import CHECKS, EXPRESSION_NUMBERS, HELD_OUT, NUMBERS, POSE_NUMBERS, Array, painter
from .rendered import Edited

if TYPE_CHECKING:
    from ..training.synthetic import HeadParams
    from ..training.synthetic.appearance import Scene

FIT_SIZE, PARTS_SIZE = 128, 256
"""Pictures are compared at these sides at most, px: heads, and their parts. Lids are lost in fewer pixels."""
SEEN = 0.6
"""A part of which less lies inside the picture is not counted as read. The mean leaks depend on it."""
PARTS_OF = {
    "mouth": ("mouth",),
    "smile": ("mouth",),
    "eyes": ("right eye", "left eye"),
    "brows": ("right brow", "left brow"),
}
"""The parts each number of the expression is about."""
CHECK_SEED = 0
CHECK_POSE = (3.0, 2.0, 2.0, 0.012, 0.006, 0.006)
"""How far from the way the head of a checked picture is, one standard deviation."""
BEND, BENDS = 0.0125, 4
"""Standard deviation of the flow that bends a checked picture, in sides, at the nodes of a grid of so many cells a
side: about as far off as the flow of a small network is."""


@dataclass(frozen=True)
class Measured:
    """Changes of `people.NUMBERS` from the source as they were read off pictures.

    Attributes:
        change: [N, 7]. inside: how much of the part that a number is about lies inside the picture, [N, 7] in 0..1.
    """

    change: Array
    inside: Array

    @property
    def read(self) -> npt.NDArray[np.bool_]:
        """Which of them count as read, [N, 7] bool."""
        return self.inside >= SEEN


@dataclass(frozen=True)
class Changes:
    """Changes of `people.NUMBERS` from the source, each [N, 7].

    Attributes:
        asked: to the driver. by: measured on the model's edit of a role.
        known, found: of bent and softened true pictures somewhere on the way: the truth, and what the fit read.
    """

    asked: Array
    by: Mapping[Role, Measured]
    known: Array
    found: Measured


def measure_changes(people: Sequence[Edited], reporter: Reporter | None = None, workers: int = 1) -> Changes:
    """Fit every expression edit and pose edit of these people (some seconds a picture).

    Args:
        people: with their edits.
        reporter: told of each person.
        workers: processes; started by spawning, so with more than one call this under `if __name__ == "__main__"`.

    Raises:
        EvaluationError: a process was ended from outside.
    """
    tasks = [_Task.of(one, number) for number, one in enumerate(people)]
    rows: list[_Row] = []
    with (reporter or Silent()).stage("measure leaks", sum(len(one.params) for one in tasks)) as count:
        for some in _measured_by(tasks, min(workers, len(tasks))):
            rows += some
            count(len(some))
    return Changes(
        np.stack([row.asked for row in rows]),
        {role: _stacked([row.by[role] for row in rows]) for role in ROLES},
        np.stack([row.known for row in rows]),
        _stacked([row.found for row in rows]),
    )


@dataclass(frozen=True)
class _Row:
    """One case of `Changes`, every array [7]."""

    asked: Array
    by: Mapping[Role, Measured]
    known: Array
    found: Measured


def _stacked(measured: Sequence[Measured]) -> Measured:
    return Measured(np.stack([m.change for m in measured]), np.stack([m.inside for m in measured]))


@dataclass(frozen=True)
class _Task:
    """What is measured of one person, the pictures as arrays: tensors would travel to workers by shared memory, of
    which containers have little."""

    number: int
    scene: Scene
    params: Sequence[tuple[HeadParams, HeadParams]]
    pictures: Mapping[Role, npt.NDArray[np.uint8]]

    @classmethod
    def of(cls, one: Edited, number: int) -> _Task:
        return cls(number, one.cases.scene, one.cases.params, {role: one.results[role].numpy() for role in ROLES})


def _measured_by(tasks: Sequence[_Task], workers: int) -> Iterator[list[_Row]]:
    """The changes of each person, in order."""
    if workers <= 1:
        yield from map(_person_changes, tasks)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker) as pool:
        try:
            yield from pool.map(_person_changes, tasks)
        except BrokenProcessPool as error:
            raise EvaluationError(
                "a process that measured leaks was ended from outside, as when memory runs out. Try fewer (--workers)."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)


def _person_changes(task: _Task) -> list[_Row]:
    rng = np.random.default_rng([HELD_OUT, CHECKS, CHECK_SEED, task.number])
    size = next(iter(task.pictures.values())).shape[1]
    sizes = min(size, FIT_SIZE), min(size, PARTS_SIZE)
    picture = painter(task.scene, size)
    fits: dict[tuple[HeadParams, HeadParams], FaceFit] = {}
    rows = []
    for i, (first, second) in enumerate(task.params):
        # Both drivers of a case share the renders of the grid.
        fit = fits.setdefault((first, second), FaceFit(task.scene, first, second, *sizes))
        start = fit.numbers(fit.between(0.0, 0.0))
        way = fit.between(*rng.uniform(-0.2, 1.2, 1 + len(SHARES)).tolist())
        known = moved(way, np.append(rng.normal(0.0, CHECK_POSE), [0.0] * len(SHARES)))
        checked = blurred(bent(picture(fit.params(known)), rng))
        edits = {role: torch.from_numpy(pictures[i]) for role, pictures in task.pictures.items()}
        rows.append(
            _Row(
                asked=fit.numbers(fit.between(1.0, 1.0)) - start,
                by={role: _measured(fit, fit.measure(edit), start) for role, edit in edits.items()},
                known=fit.numbers(known) - start,
                found=_measured(fit, fit.measure(checked), start),
            )
        )
    return rows


def _measured(fit: FaceFit, reading: Reading, start: Array) -> Measured:
    """What was read off one picture, [7]; the head's own angles are always inside it."""
    inside = [np.mean([reading.seen[p] for p in PARTS_OF[name]]) if name in PARTS_OF else 1.0 for name in NUMBERS]
    return Measured(fit.numbers(reading.face) - start, np.array(inside))


def bent(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """A picture [S, S, 3], its pixels fetched along a smooth random flow: float [S, S, 3]."""
    size = picture.shape[0]
    nodes = torch.from_numpy(rng.normal(0.0, 2.0 * BEND, (1, 2, BENDS + 1, BENDS + 1)).astype(np.float32))
    flow = F.interpolate(nodes, (size, size), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    places = F.affine_grid(torch.eye(2, 3)[None], [1, 1, size, size], align_corners=False)
    x = to_unit(picture).permute(2, 0, 1)[None]
    x = F.grid_sample(x, places + flow, mode="bilinear", padding_mode="border", align_corners=False)
    return x[0].permute(1, 2, 0)


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
        `leak` (see there), and `accuracy` by number on bent and softened true pictures: `r2`; `error`, the mean
        absolute error as a share of the mean change asked for: no leak below that says anything; and `strays`, the
        share of the asked change that is read where nothing of it is there: of the edits' only what is above that is
        theirs. (What a picture does not tell is read as something between source and driver.)
    """
    return {
        "leak": leak(changes.by, changes.asked),
        "accuracy": {name: _accuracy(changes, i) for i, name in enumerate(NUMBERS)},
    }


def leak(changes: Mapping[Role, Measured], asked: Array) -> dict[str, dict[str, float | None]]:
    """What each edit changes of each number.

    Args:
        changes: by role, from source to result, N cases.
        asked: true change from source to driver [N, 7].

    Returns:
        By number: `leak`, the mean absolute change by the edit that should leave it alone, divided by the mean
        absolute change by the edit that should change it, with the same drivers; `typical`, the same of medians, which
        a few pictures that the fit misreads do not move; `all`, the leak over all cases, also those in which the part
        lies outside a picture and its number is a guess; `follows` and `strays`, the slopes (least squares, through 0)
        of the change over the asked one: of the edit that should change it (1 is perfect), and of the other (0 is
        perfect); `cases`, how many were read in both edits, on which the first two ratios rest. A number that nobody
        asked to change gives None. `expression` and `pose` have the mean leaks of mouth and eyes, and of the head's
        angles.
    """
    report: dict[str, dict[str, float | None]] = {}
    for i, name in enumerate(NUMBERS):
        right: Role = "pose" if name in POSE_NUMBERS else "expression"
        wrong: Role = "expression" if right == "pose" else "pose"
        wanted, unwanted, goal = changes[right].change[:, i], changes[wrong].change[:, i], asked[:, i]
        seen = {role: changes[role].read[:, i] for role in (right, wrong)}
        both = seen[right] & seen[wrong]
        report[name] = {
            "leak": _ratio(_mean_abs(unwanted[both]), _mean_abs(wanted[both])),
            "typical": _ratio(_median_abs(unwanted[both]), _median_abs(wanted[both])),
            "all": _ratio(_mean_abs(unwanted), _mean_abs(wanted)),
            "follows": _slope(wanted[seen[right]], goal[seen[right]]),
            "strays": _slope(unwanted[seen[wrong]], goal[seen[wrong]]),
            "cases": int(both.sum()),
        }
    groups = {"expression": EXPRESSION_NUMBERS[:2], "pose": POSE_NUMBERS}
    for group, names in groups.items():
        found = [value for n in names if (value := report[n]["leak"]) is not None]
        report[group] = {"leak": round(sum(found) / len(found), 4) if found else None}
    return report


def _slope(changes: Array, goal: Array) -> float | None:
    """Least squares through 0."""
    return _ratio(float((changes * goal).sum()), float((goal * goal).sum()))


def _mean_abs(values: Array) -> float:
    return float(np.abs(values).mean()) if len(values) else 0.0


def _median_abs(values: Array) -> float:
    return float(np.median(np.abs(values))) if len(values) else 0.0


def _accuracy(changes: Changes, number: int) -> dict[str, float | None]:
    read = changes.found.read[:, number]
    asked, known, found = (
        values[read, number].astype(np.float64) for values in (changes.asked, changes.known, changes.found.change)
    )
    if not len(found):
        return dict.fromkeys(("r2", "error", "strays"))
    off = found - known
    scale = float(np.abs(changes.asked[:, number]).mean())
    rest = _ratio(float((off**2).sum()), float(((known - known.mean()) ** 2).sum()))
    return {
        "r2": None if rest is None else round(1.0 - rest, 4),
        "error": _ratio(float(np.abs(off).mean()), scale),
        "strays": _pull(found, known, asked),
    }


def _pull(found: Array, known: Array, asked: Array) -> float | None:
    """The part of `asked` in the least squares of `found` over `known` and `asked`; None where these are one."""
    shares, _, rank, _ = np.linalg.lstsq(np.stack([known, asked], 1), found, rcond=1e-6)
    return round(float(shares[1]), 4) + 0.0 if rank == 2 else None


def _ratio(part: float, whole: float) -> float | None:
    """A quotient for a report, None over nothing."""
    return None if abs(whole) < 1e-9 else round(part / whole, 4)
