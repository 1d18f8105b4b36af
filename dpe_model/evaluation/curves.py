"""Curves of a clip as a judge outside this package measures them.

A judge is any program that is called with videos as its arguments and writes, beside each video `NAME`, a NumPy archive
`NAME.judge.npz` with five arrays of one number a frame: `yaw`, `pitch`, `roll` in degrees (any signs and offsets, the
same for all clips), `mouth` (opening, e.g. lip gap / mouth width) and `eyes` (opening, e.g. lid gap / eye width). NaN
marks a frame without a face. Files that somebody wrote by other means serve as well.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import EvaluationError

logger = logging.getLogger(__name__)

CURVES = ("yaw", "pitch", "roll", "mouth", "eyes")
POSE_CURVES = CURVES[:3]
ENDING = ".judge.npz"
MIN_FRAMES = 3
STILL = 1e-6
"""Deviation below which a curve does not move and has no correlation."""

Curve = npt.NDArray[np.float64]
Curves = dict[str, Curve]


def curves_path(video: Path) -> Path:
    """Where a judge writes the curves of a video."""
    return video.with_name(video.name + ENDING)


def load_curves(video: Path) -> Curves:
    """Curves of a video, each [frames] float64.

    Raises:
        EvaluationError: there are none, or the file is not what a judge writes.
    """
    path = curves_path(video)
    try:
        with np.load(path, allow_pickle=False) as data:
            missing = [name for name in CURVES if name not in data]
            if missing:
                raise EvaluationError(
                    f"{path}: expected the fields {', '.join(CURVES)}; missing: {', '.join(missing)}."
                )
            curves = {name: np.asarray(data[name], np.float64) for name in CURVES}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise EvaluationError(f"{path}: expected the curves of {video.name}, could not read them ({error}).") from error
    shapes = {curve.shape for curve in curves.values()}
    if len(shapes) != 1 or len(shapes.pop()) != 1 or not len(curves["yaw"]):
        found = {name: curve.shape for name, curve in curves.items()}
        raise EvaluationError(f"{path}: expected five curves of one length, got {found}.")
    return curves


def fresh_curves(video: Path) -> bool:
    """Whether a video's curves are there and not older than the video."""
    path = curves_path(video)
    return path.is_file() and path.stat().st_mtime_ns >= video.stat().st_mtime_ns


def check_judge(command: Sequence[str]) -> None:
    """Refuse a judge whose program is not there.

    Raises:
        EvaluationError: the first word names no program.
    """
    if not command or shutil.which(command[0]) is None:
        raise EvaluationError(f"judge: {' '.join(command) or 'nothing'}: there is no such program. Check --judge.")


def run_judge(command: Sequence[str], videos: Sequence[Path]) -> None:
    """Call a judge with videos and wait for it; no shell is involved.

    Raises:
        EvaluationError: it cannot be started, fails, or leaves a video without curves.
    """
    logger.info("judge: %s", " ".join(command))
    try:
        done = subprocess.run(
            [*command, *(str(v) for v in videos)], capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise EvaluationError(f"judge: {command[0]} cannot be started ({error}). Check --judge.") from error
    if done.returncode:
        last = " | ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise EvaluationError(f"judge: {command[0]} failed with exit status {done.returncode}: {last}")
    left = [v.name for v in videos if not fresh_curves(v)]
    if left:
        raise EvaluationError(f"judge: expected a file *{ENDING} beside every video; none was written for {left}.")


def on_clock(curves: Mapping[str, Curve], fps: float, target_fps: float, frames: int) -> Curves:
    """Curves at another frame rate, linearly interpolated, for `frames` frames; the last value holds."""
    result = {}
    for name, curve in curves.items():
        at = np.arange(frames) * (fps / target_fps)
        result[name] = np.interp(at, np.arange(len(curve)), curve)
    return result


def compare_curves(result: Curve, reference: Curve) -> dict[str, float | int | None]:
    """How well a curve follows another, over the frames both have.

    Returns:
        `correlation` (None where one of them does not move), `error` (mean absolute difference), `movement_error` (the
        same after each curve's mean is taken off, for curves with an offset between people), `frames`.
    """
    length = min(len(result), len(reference))
    a, b = result[:length], reference[:length]
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) < MIN_FRAMES:
        return {"correlation": None, "error": None, "movement_error": None, "frames": len(a)}
    moving = min(a.std(), b.std()) > STILL
    return {
        "correlation": round(float(np.corrcoef(a, b)[0, 1]), 4) if moving else None,
        "error": round(float(np.abs(a - b).mean()), 4),
        "movement_error": round(float(np.abs((a - a.mean()) - (b - b.mean())).mean()), 4),
        "frames": len(a),
    }
