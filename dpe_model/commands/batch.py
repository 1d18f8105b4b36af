"""batch: many full-frame videos edited with one model, as a manifest lists them."""

from __future__ import annotations

import argparse
import csv
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from ..errors import BatchError, DPEError, OptionError
from ..jobs import Silent
from ..jobs.batch import REPORT, Outcome, Share, run_batch
from ..jobs.edit_video import EditVideoJob
from ..video.writer import CONTAINERS
from . import edit_video, options

NAME = "batch"
HELP = "Edit many videos with one model: a manifest lists them, finished ones are passed over, failures do not stop it."

logger = logging.getLogger(__name__)

FILES = ("source", "output")
"""Keys of a manifest's line that name the clip's own files; all others are options of edit-video."""
ALTERNATIVES = (
    ("person", "person_index", "person_at", "person_mask"),
    ("scale", "match"),
)
"""Options that say the same thing in several ways: a line that has one of them has done with the command line's."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "--manifest",
        type=Path,
        required=True,
        metavar="PATH",
        help="JSON lines (.jsonl) or .csv: one clip a line, source, output (default: the source's name) and any option "
        "of edit-video for this clip alone; output is relative to --output-dir, all other paths to the manifest",
    )
    parser.add_argument(
        "--output-dir", type=Path, required=True, metavar="PATH", help="the edited videos and the report"
    )
    parser.add_argument(
        "--ending", choices=tuple(CONTAINERS), default=".mp4", help="of outputs not named (default: .mp4)"
    )
    edit_video.add_edit_options(parser)
    options.add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 1 if any clip failed."""
    share = Share.of_launcher()
    jobs = read_manifest(arguments)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    model = options.model_options(arguments)
    model = replace(model, device=share.device(model.device))
    reporter = options.reporter(arguments) if share.rank == 0 else Silent()
    outcomes = run_batch(jobs, model.engine, arguments.output_dir / REPORT, share, reporter)
    if share.rank == 0:
        _say(outcomes, arguments.output_dir / REPORT)
    return int(any(outcome.status == "failed" for outcome in outcomes))


def read_manifest(arguments: argparse.Namespace) -> list[EditVideoJob]:
    """The clips that a manifest lists, with the command line's options where a line has none of its own.

    Raises:
        BatchError: the manifest cannot be read, a line has an unknown key or a value that cannot be, or writes over
            what another writes or reads; names the line.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    edit_video.add_edit_options(parser)
    jobs: list[EditVideoJob] = []
    taken: dict[Path, str] = {}
    for where, line in _lines(arguments.manifest):
        try:
            job = _job(parser, arguments, line)
        except DPEError as error:
            raise BatchError(f"{where}: {error}") from error
        place = job.output.resolve()
        if place in taken:
            raise BatchError(f"{where}: writes {job.output.name} as {taken[place]} does. Give it an output.")
        taken[place] = where
        jobs.append(job)
    if not jobs:
        raise BatchError(f"{arguments.manifest}: expected at least one clip, found none.")
    _check_inputs_stay(jobs, taken)
    return jobs


def _check_inputs_stay(jobs: Sequence[EditVideoJob], written: Mapping[Path, str]) -> None:
    """Refuse outputs, by their resolved paths with the lines that write them, that are any clip's source or driver.

    Raises:
        BatchError: names the line.
    """
    needed = (path for job in jobs for path in (job.source, *job.drivers.paths(), *job.options.paths()))
    for path in dict.fromkeys(needed):
        place = path.expanduser().resolve()
        if place in written:
            raise BatchError(
                f"{written[place]}: would write over {path}, from which a clip is made. Name another output."
            )


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are exceptions."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(message)


def _job(parser: argparse.ArgumentParser, defaults: argparse.Namespace, line: Mapping[str, object]) -> EditVideoJob:
    folder = defaults.manifest.parent
    given = {_key(key): value for key, value in line.items() if value is not None and value != ""}
    actions = {action.dest: action for action in parser._actions}
    unknown = sorted(set(given) - set(actions) - set(FILES))
    if unknown:
        raise OptionError(f"unknown {', '.join(unknown)}; expected source, output or an option of edit-video.")
    if "source" not in given:
        raise OptionError("expected a source, found none.")
    asked = [word for key, value in given.items() if key not in FILES for word in _asked(actions[key], value, folder)]
    source = _beside(folder, given["source"])
    output = defaults.output_dir / str(given.get("output", source.stem + defaults.ending))
    if output.suffix.lower() not in CONTAINERS:
        raise OptionError(f"output {output.name}: expected a name ending in {', '.join(CONTAINERS)}.")
    return edit_video.job(parser.parse_args(asked, _apart_from(defaults, given)), source, output)


def _key(name: str) -> str:
    """A key of a line as options are called in code."""
    return name.strip().replace("-", "_")


def _apart_from(defaults: argparse.Namespace, given: Mapping[str, object]) -> argparse.Namespace:
    """A copy of the command line's values without those that a line's own take the place of."""
    rest = copy(defaults)
    for names in ALTERNATIVES:
        if any(name in given for name in names):
            _forget(rest, names)
    roles = options.EDITS.get(str(given.get("edit", rest.edit)), ())
    drivers = [name for name in ("driving", *roles) if name in given or getattr(rest, name) is not None]
    if len(drivers) > len(roles):  # --driving would have nothing to drive
        taken = roles if "driving" in given else ("driving",)
        _forget(rest, [name for name in taken if name not in given])
    return rest


def _forget(values: argparse.Namespace, names: Iterable[str]) -> None:
    for name in names:
        setattr(values, name, None)


def _asked(action: argparse.Action, value: object, folder: Path) -> list[str]:
    """A line's value as it would stand on the command line."""
    name = action.option_strings[-1]
    if action.nargs == 0:
        return [name] if str(value).lower() in ("true", "yes", "on", "1") else []
    if isinstance(value, dict):
        value = [f"{key}={each}" for key, each in value.items()]
    if action.nargs is not None and isinstance(value, str):
        value = value.split()
    values = value if isinstance(value, list) else [value]
    words = [str(_beside(folder, v)) if action.type is Path else str(v) for v in values]
    return [f"{name}={','.join(words)}"] if action.nargs is None else [name, *words]


def _beside(folder: Path, path: object) -> Path:
    """A path of the manifest's, which is relative to its folder."""
    return folder / Path(str(path)).expanduser()


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Place and content of each clip's line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                reader = csv.DictReader(file, strict=True, skipinitialspace=True)
                _check_once(reader.fieldnames or (), f"{path}, line 1")
                for line in reader:
                    if None in line:
                        raise BatchError(f"{path}, line {reader.line_num}: more values than the first line names.")
                    yield f"{path}, line {reader.line_num}", line
                return
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield f"{path}, line {number}", _object(text, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BatchError(f"{path}: the manifest cannot be read ({error}).") from error


def _check_once(names: Sequence[str], where: str) -> None:
    """Refuse a key that is there twice, of which only one could count.

    Raises:
        BatchError: names it.
    """
    keys = [_key(name) for name in names]
    twice = sorted({key for key in keys if key and keys.count(key) > 1})
    if twice:
        raise BatchError(f"{where}: {', '.join(twice)} is there twice. Leave one out.")


def _object(text: str, where: str) -> Mapping[str, object]:
    def pairs(found: list[tuple[str, object]]) -> dict[str, object]:
        _check_once([name for name, _ in found], where)
        return dict(found)

    try:
        found = json.loads(text, object_pairs_hook=pairs)
    except ValueError as error:
        raise BatchError(f'{where}: expected a JSON object such as {{"source": "clip.mp4"}} ({error}).') from error
    if not isinstance(found, dict):
        raise BatchError(f"{where}: expected a JSON object, got {type(found).__name__}.")
    return found


def _say(outcomes: list[Outcome], report: Path) -> None:
    for outcome in outcomes:
        if outcome.status == "failed":
            logger.error("failed: %s: %s", outcome.source, outcome.error)
    counts = [f"{sum(o.status == status for o in outcomes)} {status}" for status in ("done", "skipped", "failed")]
    logger.info("%s; %s", ", ".join(counts), report)
