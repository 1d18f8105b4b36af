"""Many clips with one model: each finished once, failures noted and passed over, shared among processes.

A finished clip leaves a record beside its output that says with which settings and from which files it was made. A
later run with the same settings passes it over; anything else (no record, other settings, a changed source, a missing
output) makes it again. Outputs themselves appear only when complete (see `FrameWriter`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist

from ..engine import Engine
from ..errors import BatchError, DPEError
from ..files import write_text
from ..video.access import existing
from .edit_video import EditVideoJob, edit_video
from .report import Reporter, Silent

logger = logging.getLogger(__name__)

RECORD = ".done.json"
"""What a record's name adds to its output's."""
REPORT = "report.json"
FAILURES = (DPEError, ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
"""What may go wrong with one clip without stopping the others."""
PATIENCE = timedelta(days=30)
"""How long a process waits for the others to finish."""

Status = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one clip.

    Attributes:
        source, output: its files.
        status: "done", "skipped" (done before) or "failed".
        frames: frames written; 0 where it failed.
        seconds: how long it took.
        error: why it failed.
    """

    source: str
    output: str
    status: Status
    frames: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Share:
    """Which part of the clips is this process's: number `rank` of `count`.

    Attributes:
        rank, count: this process and how many there are, over all machines.
        local: this process on its machine, which is its GPU's number.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @classmethod
    def of_launcher(cls) -> Share:
        """As `torchrun` says in the environment; one process for all, where it did not start this one.

        Raises:
            BatchError: the environment holds something else than numbers.
        """
        try:
            rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
            return cls(rank, count, int(os.environ.get("LOCAL_RANK", 0)))
        except ValueError as error:
            raise BatchError(
                f"RANK, WORLD_SIZE, LOCAL_RANK: expected numbers, as torchrun sets them ({error})."
            ) from error

    def device(self, wanted: str) -> str:
        """The device of this process: one GPU each, where GPUs are wanted and there."""
        if self.count > 1 and wanted in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{self.local % torch.cuda.device_count()}"
        return wanted


def run_batch(
    jobs: Sequence[EditVideoJob],
    engine: Callable[[], Engine],
    report: Path,
    share: Share | None = None,
    reporter: Reporter | None = None,
) -> list[Outcome]:
    """Edit clips one after the other; a failing one is noted and the next begun.

    Args:
        jobs: the clips. Their models are not opened; `engine` is used for all.
        engine: opens the model; called once, when the first clip needs it.
        report: where the first process writes what became of all clips, as JSON.
        share: which of them are this process's.
        reporter: shows progress.

    Returns:
        What became of the clips of all processes, in the order of `jobs`.
    """
    share, reporter = share or Share(), reporter or Silent()
    mine = range(share.rank, len(jobs), share.count)
    ready = cache(engine)
    if share.count > 1:
        dist.init_process_group("gloo", rank=share.rank, world_size=share.count, timeout=PATIENCE)
    try:
        outcomes: dict[int, Outcome] = {}
        for place in mine:
            logger.info("%d of %d: %s", place + 1, len(jobs), jobs[place].source)
            outcomes[place] = _run(jobs[place], ready, reporter)
        every = _gathered(outcomes, share)
    finally:
        if share.count > 1:
            dist.destroy_process_group()
    if share.rank == 0:
        _write_json(report, summary(every))
    return every


def summary(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """What a report holds."""
    counts = {status: sum(o.status == status for o in outcomes) for status in ("done", "skipped", "failed")}
    return {**counts, "clips": [asdict(outcome) for outcome in outcomes]}


def settings_of(job: EditVideoJob, model: str) -> str:
    """Fingerprint of all that decides how a clip's output looks: model, settings, and files by size and date.

    Args:
        job: the clip.
        model: all that tells the model in use from another.

    Raises:
        VideoError: a file is missing.
    """
    parts = [model, *(_plain(value) for value in (job.source, job.drivers, job.options)), job.output.suffix]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _model_of(engine: Engine) -> str:
    """Motion space, roles and precision, and the file, since a fingerprint knows nothing of the generators."""
    checkpoint = engine.checkpoint
    file = None if checkpoint.path is None else _file_state(checkpoint.path)
    return json.dumps([checkpoint.fingerprint, asdict(checkpoint.roles), str(engine.network.compute_dtype), file])


def _run(job: EditVideoJob, engine: Callable[[], Engine], reporter: Reporter) -> Outcome:
    begun = time.monotonic()
    names = (str(job.source), str(job.output))
    record = job.output.with_name(job.output.name + RECORD)
    opened = engine()  # a model that cannot be opened is no clip's fault
    try:
        settings = settings_of(job, _model_of(opened))
        before = _read_record(record)
        if before.get("settings") == settings and job.output.exists():
            return Outcome(*names, "skipped", int(str(before.get("frames", 0))))
        record.unlink(missing_ok=True)  # before the output changes, so that a record never names another output
        frames = edit_video(job, reporter, opened)
        _write_json(record, {"settings": settings, "source": names[0], "frames": frames})
    except FAILURES as error:
        text = " ".join(str(error).split()) or type(error).__name__
        logger.error("%s failed: %s", job.source, text)
        logger.debug("%s", job.source, exc_info=error)
        return Outcome(*names, "failed", 0, time.monotonic() - begun, text)
    return Outcome(*names, "done", frames, time.monotonic() - begun)


def _read_record(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def _gathered(outcomes: dict[int, Outcome], share: Share) -> list[Outcome]:
    """The outcomes of all processes; every one waits for the last, since a launcher stops all when one gives up."""
    parts: list[dict[int, Outcome]] = [outcomes]
    if share.count > 1:
        parts = [{} for _ in range(share.count)]
        dist.all_gather_object(parts, outcomes)
    every = {place: outcome for part in parts for place, outcome in part.items()}
    return [every[place] for place in sorted(every)]


def _file_state(path: Path) -> list[object]:
    """Name, size and date; of a folder, those of its files."""
    path = existing(path).resolve()  # however it was written, and from wherever
    if path.is_dir():
        return [str(path), [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in sorted(path.iterdir())]]
    state = path.stat()
    return [str(path), state.st_size, state.st_mtime_ns]


def _plain(value: object) -> object:
    """Values and frozen dataclasses of values as JSON takes them; of a file, its state.

    Empty mappings are left out: records from before there were any go on holding.
    """
    if isinstance(value, Path):
        return _file_state(value)
    if is_dataclass(value):
        named = {field.name: getattr(value, field.name) for field in fields(value)}
        return {name: _plain(each) for name, each in named.items() if each != {}}
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
