"""Edits of a real clip: three results to look at, and their curves against source and driver."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..checkpoint import Role
from ..engine import Engine
from ..errors import EvaluationError
from ..jobs import CropOptions, DriveJob, Drivers, Reporter, Silent, VideoEncoding, drive
from ..jobs.portraits import CropWhen, open_portraits
from ..video import FrameWriter, open_frames, probe
from .curves import (
    CURVES,
    POSE_CURVES,
    Curves,
    check_judge,
    compare_curves,
    fresh_curves,
    load_curves,
    on_clock,
    run_judge,
)
from .rendered import EDITS
from .sheets import contact_sheet

logger = logging.getLogger(__name__)

SOURCE, DRIVER = "source", "driver"
CLIPS = (SOURCE, DRIVER, *EDITS)
"""Names of the clips in the output folder, all .mp4."""
SHEET_ROWS, SHEET_CELL = 8, 192
PORTRAIT_CRF, RESULT_CRF = 8, 12
READ_CHUNK = 16


@dataclass(frozen=True)
class ClipOptions:
    """A real clip to edit.

    Attributes:
        source, driving: videos, or folders of frames; the source may be a picture.
        output: folder for the clips.
        crop, crop_options: as in `DriveJob`.
        judge: command of a judge (see `curves`), None to take what curves there are.
        reuse: take the clips that an earlier evaluation left in `output`.
    """

    source: Path
    driving: Path
    output: Path
    crop: CropWhen = "auto"
    crop_options: CropOptions = field(default_factory=CropOptions)
    judge: tuple[str, ...] | None = None
    reuse: bool = False

    @property
    def paths(self) -> dict[str, Path]:
        """The clips in `output` by name."""
        return {name: self.output / f"{name}.mp4" for name in CLIPS}

    def check(self) -> None:
        """Refuse clips and a judge that cannot be used, before any work is done.

        Raises:
            DPEError: a clip cannot be opened or is not there, or there is no such judge.
        """
        if self.reuse:
            missing = [p.name for p in self.paths.values() if not p.is_file()]
            if missing:
                raise EvaluationError(f"--reuse: {self.output} lacks {', '.join(missing)}. Evaluate without it first.")
        else:
            for path in (self.source, self.driving):
                probe(path)
        if self.judge is not None:
            check_judge(self.judge)


def evaluate_clips(options: ClipOptions, engine: Engine, reporter: Reporter | None = None) -> dict[str, Any]:
    """Edit, judge, compare.

    Returns:
        `clips`: the files by name; `frames`; and where there are curves, `curves` by edit and curve: `should` (`follow`
        the driver or `stay` the source's) and the comparisons with `driver` and `source` (see `compare_curves`).

    Raises:
        DPEError: a clip cannot be used, or the judge failed.
    """
    options.check()
    paths = options.paths
    if not options.reuse:
        write_clips(options, engine, paths, reporter or Silent())
    report: dict[str, Any] = {"clips": {n: p.name for n, p in paths.items()}, "frames": len(open_frames(paths["both"]))}
    if options.judge is not None:
        run_judge(options.judge, list(paths.values()))
    stale = [p.name for p in paths.values() if not fresh_curves(p)]
    if stale:
        logger.warning("No curves of %s: name a judge, or write them and repeat with --reuse.", ", ".join(stale))
        return report
    return {**report, "curves": compare_clips(paths)}


def write_clips(options: ClipOptions, engine: Engine, paths: dict[str, Path], reporter: Reporter) -> None:
    """The portraits of source and driver, and the three results."""
    options.output.mkdir(parents=True, exist_ok=True)
    crop, encoding = options.crop_options.beside(engine.device), VideoEncoding(crf=RESULT_CRF)
    people = {SOURCE: crop, DRIVER: crop.of_driver()}
    for name, path in ((SOURCE, options.source), (DRIVER, options.driving)):
        clip = open_portraits(open_frames(path), options.crop, people[name], engine.size, reporter, name)
        fps = clip.source.info.fps
        with (
            FrameWriter(paths[name], fps, sources=[path], crf=PORTRAIT_CRF) as writer,
            reporter.stage(f"cut the {name}", len(clip)) as count,
        ):
            for frames in clip.chunks(READ_CHUNK):
                writer.write(frames)
                count(len(frames))
    for name, roles in EDITS.items():
        edits = _drivers(paths[DRIVER], roles)
        job = DriveJob(paths[SOURCE], edits, paths[name], crop="none", sound=False, encoding=encoding)
        drive(job, reporter, engine)


def _drivers(driving: Path, roles: Sequence[Role]) -> Drivers:
    expression, pose = (driving if role in roles else None for role in ("expression", "pose"))
    return Drivers(expression, pose, length="trim")


def compare_clips(paths: dict[str, Path]) -> dict[str, Any]:
    """Curves of the results against those of source and driver, on the results' clock."""
    raw = {name: load_curves(path) for name, path in paths.items()}
    report: dict[str, Any] = {}
    for edit, roles in EDITS.items():
        fps, frames = float(probe(paths[edit]).fps), len(raw[edit]["yaw"])
        others = {name: _as_result(raw[name], paths[name], fps, frames) for name in (DRIVER, SOURCE)}
        report[edit] = {}
        for curve in CURVES:
            role: Role = "pose" if curve in POSE_CURVES else "expression"
            report[edit][curve] = {
                "should": "follow" if role in roles else "stay",
                **{name: compare_curves(raw[edit][curve], other[curve]) for name, other in others.items()},
            }
    return report


def _as_result(curves: Curves, path: Path, fps: float, frames: int) -> Curves:
    own = float(probe(path).fps) if len(curves["yaw"]) > 1 else fps
    return on_clock(curves, own, fps, frames)


def clip_sheet(output: Path) -> Image.Image:
    """Frames of source, driver and the three results at the same moments."""
    paths = {name: output / f"{name}.mp4" for name in CLIPS}
    frames = len(open_frames(paths["both"]))
    fps = float(probe(paths["both"]).fps)
    rows = min(SHEET_ROWS, frames)
    moments = [round((i + 0.5) * frames / rows - 0.5) for i in range(rows)]
    labels = {"expression": "expression edit", "pose": "pose edit"}
    columns = []
    for name, path in paths.items():
        own = float(probe(path).fps)
        columns.append((labels.get(name, name), pick_frames(path, [round(m * own / fps) for m in moments])))
    return contact_sheet(columns, [str(m) for m in moments], SHEET_CELL)


def pick_frames(path: Path, numbers: Sequence[int]) -> Tensor:
    """Some frames of a clip by ascending number, [len(numbers), H, W, 3]; beyond its end the last one."""
    source = open_frames(path)
    wanted = [min(n, len(source) - 1) for n in numbers]
    picked: dict[int, Tensor] = {}
    start = 0
    for frames in source.chunks(READ_CHUNK, stop=max(wanted) + 1):
        picked |= {n: frames[n - start] for n in wanted if start <= n < start + len(frames)}
        start += len(frames)
    return torch.stack([picked[n] for n in wanted])
