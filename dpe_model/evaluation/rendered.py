"""Edits of held-out rendered people against their true pictures, beside what costs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checkpoint import ROLES, Role
from ..errors import EvaluationError
from ..jobs.report import Reporter, Silent
from .editor import Editor
from .metrics import METRICS, REGIONS, Score, as_numbers, change_mask, compare, mean_scores
from .people import Cases, draw_cases, open_studio

if TYPE_CHECKING:
    from ..training.synthetic import Studio

EDITS: dict[str, tuple[Role, ...]] = {"expression": ("expression",), "pose": ("pose",), "both": ("expression", "pose")}
DRIVERS = ("same person", "other person")
MODEL = "model"
COPY_SOURCE, COPY_DRIVER = "copy source", "copy driver"
ALONE = {"expression": "expression alone", "pose": "pose alone"}


@dataclass(frozen=True)
class RenderedOptions:
    """What is drawn.

    Attributes:
        head: an ICT-FaceKit export (.npz).
        identities: people. tuples: pairs of pose and expression a person; each has two drivers.
        seed: draws other people than another seed, all of them held out.
    """

    head: Path
    identities: int = 20
    tuples: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.identities < 1 or self.tuples < 1 or self.seed < 0:
            raise EvaluationError(
                "expected at least one identity, one tuple an identity and a seed of 0 or more; got "
                f"{self.identities}, {self.tuples} and {self.seed}."
            )


@dataclass(frozen=True)
class Edited:
    """One person's cases and what the model made of them: uint8 [N, S, S, 3] by name of the edit."""

    cases: Cases
    results: Mapping[str, Tensor]
    selves: Mapping[str, Tensor]
    """By role, the source driven by itself (strength 0)."""


def edit_people(editor: Editor, options: RenderedOptions, reporter: Reporter | None = None) -> list[Edited]:
    """Draw the people and edit them.

    Raises:
        EvaluationError, HeadModelError: the rendered heads cannot be had.
    """
    studio = open_studio(options.head)
    with (reporter or Silent()).stage("edit rendered people", options.identities) as count:
        people = []
        for one in _people(studio, editor, options):
            people.append(one)
            count(1)
    return people


def _people(studio: Studio, editor: Editor, options: RenderedOptions) -> Iterator[Edited]:
    for identity in range(options.identities):
        yield edit_cases(editor, draw_cases(studio, options.seed, identity, options.tuples, editor.size))


def edit_cases(editor: Editor, cases: Cases) -> Edited:
    """All edits of one person."""
    results = {name: editor.edit(cases.source, cases.driver, *roles) for name, roles in EDITS.items()}
    selves: dict[str, Tensor] = {role: editor.edit(cases.source, cases.driver, role, strength=0.0) for role in ROLES}
    return Edited(cases, results, selves)


def score_people(people: list[Edited]) -> dict[str, Any]:
    """Mean scores, for drivers of the same and of another person apart.

    Returns:
        By driver, edit and method (`model`, the baselines) the scores by region; `self` has the self-reconstruction
        by role against the source; `changed` the share of the picture that should change; `margin` the model's lead
        over the best baseline of each metric and region (positive = the model is better).
    """
    return {
        driver: _score([_select(one, driver == DRIVERS[0]) for one in people], same=driver == DRIVERS[0])
        for driver in DRIVERS
    }


def _score(people: list[Edited], same: bool) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for edit in EDITS:
        scores: dict[str, list[dict[str, Score]]] = {}
        changed: list[float] = []
        for one in people:
            truth = getattr(one.cases, edit)
            mask = change_mask(truth, one.cases.source)
            changed += mask.float().mean((1, 2)).tolist()
            for method, pictures in _methods(one, edit, same).items():
                scores.setdefault(method, []).extend(compare(pictures, truth, mask))
        means = {method: mean_scores(found) for method, found in scores.items()}
        report[edit] = {
            "changed": round(sum(changed) / len(changed), 4),
            "methods": {method: as_numbers(found) for method, found in means.items()},
            "margin": margins(means),
        }
    report["self"] = {
        role: as_numbers(mean_scores([s for one in people for s in compare(one.selves[role], one.cases.source)]))
        for role in ROLES
    }
    return report


def _methods(one: Edited, edit: str, same: bool) -> dict[str, Tensor]:
    """The model's pictures and the baselines'."""
    methods = {MODEL: one.results[edit], COPY_SOURCE: one.cases.source}
    if not (same and edit == "both"):  # there the driver is the truth itself
        methods[COPY_DRIVER] = one.cases.driver
    if edit == "both":
        methods |= {title: one.results[name] for name, title in ALONE.items()}
    return methods


def margins(means: Mapping[str, Mapping[str, Score]]) -> dict[str, dict[str, float]]:
    """The model's lead over the best baseline, by region and metric; L1's sign is turned, so that more is better."""
    result: dict[str, dict[str, float]] = {}
    for region in REGIONS:
        if region not in means[MODEL]:
            continue
        result[region] = {}
        for metric in METRICS:
            sign = -1.0 if metric == "l1" else 1.0
            values = {m: sign * getattr(s[region], metric) for m, s in means.items() if region in s}
            best = max(value for method, value in values.items() if method != MODEL)
            result[region][metric] = round(values[MODEL] - best, 5)
    return result


def _select(one: Edited, same: bool) -> Edited:
    """The cases with drivers of the same person, or those with others."""
    where = torch.from_numpy(one.cases.same_person == same)
    cases = one.cases
    part = Cases(
        **{n: getattr(cases, n)[where] for n in ("source", "driver", "expression", "pose", "both")},
        scene=cases.scene,
        params=tuple(pair for pair, wanted in zip(cases.params, where, strict=True) if wanted),
    )
    return Edited(
        part,
        {name: pictures[where] for name, pictures in one.results.items()},
        {role: pictures[where] for role, pictures in one.selves.items()},
    )
