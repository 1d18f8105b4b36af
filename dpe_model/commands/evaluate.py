"""evaluate: how well a model edits."""

from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine import Engine
from ..errors import EvaluationError
from ..jobs import Reporter
from . import options

if TYPE_CHECKING:
    from ..evaluation.clips import ClipOptions

NAME = "evaluate"
HELP = "Measure a model: on held-out rendered heads against the truth, and on real clips by a judge's curves."
DESCRIPTION = """
Writes evaluation.json, evaluation.md and contact sheets. A judge is any program that takes videos as arguments and
writes, beside each video NAME, NAME.judge.npz with the arrays yaw, pitch, roll (degrees), mouth and eyes (openings):
one number a frame, NaN where no face was found.
"""

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.description = f"{HELP} {' '.join(DESCRIPTION.split())}"
    parser.add_argument("--output", type=Path, default=Path("evaluation"), metavar="DIR", help="default: evaluation")
    group = parser.add_argument_group("rendered heads")
    group.add_argument("--head", type=Path, metavar="PATH", help="ICT-FaceKit export (.npz); needs numba and OpenCV")
    group.add_argument("--identities", type=int, default=20, help="people, none of them in training (default: 20)")
    group.add_argument("--tuples-per-identity", type=int, default=3, metavar="N", help="pairs of pose and expression; "
                       "each is driven by the same and by another person (default: 3)")  # fmt: skip
    group.add_argument("--seed", type=int, default=0, help="draws other held-out people (default: 0)")
    group.add_argument("--no-leak", action="store_true", help="leave out the leaks, which take half a minute a case")
    group.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes that measure "
                       "leaks (default: one for each core)")  # fmt: skip
    group = parser.add_argument_group("real clips")
    group.add_argument("--source", type=Path, metavar="PATH", help="who is edited")
    group.add_argument("--driving", type=Path, metavar="PATH", help="who drives")
    group.add_argument("--judge", nargs="+", metavar="WORD", help="a judge's command, e.g. --judge python judge.py")
    group.add_argument("--reuse", action="store_true", help="take the clips (and curves) already in --output")
    options.add_crop_when(parser, "--crop", "cut out faces first; auto: where frames are not square (default)")
    options.add_crop_options(parser)
    options.add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if (arguments.source is None) != (arguments.driving is None):
        raise EvaluationError("expected --source and --driving together.")
    if arguments.head is None and arguments.source is None:
        raise EvaluationError("expected something to evaluate on: --head, or --source and --driving, or all of them.")
    if arguments.workers < 1:
        raise EvaluationError(f"--workers: expected at least 1, got {arguments.workers}.")
    clips = _clip_options(arguments) if arguments.source is not None else None
    if clips is not None:
        clips.check()
    arguments.output.mkdir(parents=True, exist_ok=True)
    engine = options.model_options(arguments).engine()
    checkpoint = engine.checkpoint
    report: dict[str, Any] = {
        "model": {
            "name": checkpoint.name,
            "size": checkpoint.config.size,
            "fingerprint": checkpoint.fingerprint,
            "expression branch": checkpoint.roles.expression,
            "pose branch": checkpoint.roles.pose,
        }
    }
    if arguments.head is not None:
        report |= _rendered(arguments, engine)
        _write(arguments.output, report)  # it took long, and the judge may yet fail
    if clips is not None:
        report["clips"] = _clips(clips, engine, options.reporter(arguments))
        _write(arguments.output, report)
    logger.info("%s: evaluation.json, evaluation.md and contact sheets", arguments.output)
    return 0


def _rendered(arguments: argparse.Namespace, engine: Engine) -> dict[str, Any]:
    from ..evaluation.editor import EngineEditor
    from ..evaluation.leak import leak_report, measure_changes
    from ..evaluation.rendered import RenderedOptions, edit_people, score_people
    from ..evaluation.sheets import rendered_sheet, save_sheet

    asked = RenderedOptions(arguments.head, arguments.identities, arguments.tuples_per_identity, arguments.seed)
    bars = options.reporter(arguments)
    people = edit_people(EngineEditor(engine), asked, bars)
    for name, same in (("sheet_same_person", True), ("sheet_other_person", False)):
        save_sheet(rendered_sheet(people, same), arguments.output / f"{name}.png")
    report: dict[str, Any] = {
        "rendered": {
            "identities": asked.identities,
            "tuples": asked.tuples,
            "seed": asked.seed,
            "scores": score_people(people),
        }
    }
    if not arguments.no_leak:
        report["leak"] = leak_report(measure_changes(people, bars, arguments.workers))
    return report


def _clip_options(arguments: argparse.Namespace) -> ClipOptions:
    from ..evaluation.clips import ClipOptions

    return ClipOptions(
        source=arguments.source,
        driving=arguments.driving,
        output=arguments.output,
        crop=arguments.crop,
        crop_options=options.crop_options(arguments),
        judge=None if arguments.judge is None else tuple(arguments.judge),
        reuse=arguments.reuse,
    )


def _clips(asked: ClipOptions, engine: Engine, reporter: Reporter) -> dict[str, Any]:
    from ..evaluation.clips import clip_sheet, evaluate_clips
    from ..evaluation.sheets import save_sheet

    report = evaluate_clips(asked, engine, reporter)
    save_sheet(clip_sheet(asked.output), asked.output / "sheet_clips.png")
    return {"source": asked.source.name, "driving": asked.driving.name, **report}


def _write(output: Path, report: dict[str, Any]) -> None:
    from ..evaluation.tables import markdown

    (output / "evaluation.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", "utf-8")
    (output / "evaluation.md").write_text(markdown(report), "utf-8")
