"""Frame rates, time stamps, and putting one clip on another's clock. Times are exact fractions of a second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import numpy as np

from ..errors import VideoError

NTSC_TOLERANCE = 5e-4
"""How far, relatively, a decimal rate may be from n * 1000 / 1001 to be read as it (23.98, 29.97, 59.94)."""


FINEST = 100_000
"""Largest denominator of a rate that was meant as it stands; beyond, it is a decimal number made a fraction."""


def as_fps(value: Fraction | float | str) -> Fraction:
    """A frame rate in frames per second as an exact fraction; 29.97 is read as 30000/1001, "24000/1001" as written.

    Raises:
        VideoError: not a finite positive number.
    """
    try:
        exact = Fraction(value)
    except (ValueError, OverflowError, ZeroDivisionError, TypeError) as error:
        raise VideoError(f"Expected a frame rate such as 25, 29.97 or 30000/1001, got {value!r}.") from error
    if exact <= 0:
        raise VideoError(f"Expected a frame rate above 0 frames per second, got {value!r}.")
    if exact.denominator == 1 or (isinstance(value, Fraction) and exact.denominator <= FINEST):
        return exact
    if isinstance(value, str) and "/" in value:
        return exact
    ntsc = Fraction(math.ceil(exact) * 1000, 1001)
    if abs(exact - ntsc) < NTSC_TOLERANCE * ntsc:
        return ntsc
    return exact.limit_denominator(FINEST // 10)


def frame_times(count: int, fps: Fraction | float) -> list[Fraction]:
    """Times of `count` frames at a constant rate, the first at 0, in seconds."""
    rate = as_fps(fps)
    return [i / rate for i in range(count)]


def resample_indices(
    frames_in: int | Sequence[Fraction],
    fps_in: Fraction | float,
    fps_out: Fraction | float | None = None,
    pts_out: Sequence[Fraction] | None = None,
    beyond: Literal["cut", "hold"] = "cut",
) -> np.ndarray:
    """Which frame of a clip to take at each tick of another clock: a 25 fps driver for a 30 fps source.

    The frame nearest in time is taken, the earlier one of two that are equally near. Both clocks start at their
    first frame.

    Args:
        frames_in: how many frames the clip has at `fps_in`, or its time stamps in seconds, increasing.
        fps_in: its rate in frames per second; with time stamps it only says how long the last frame lasts.
        fps_out: rate of the other clock, for as long as the clip lasts.
        pts_out: time stamps of the other clock in seconds instead, increasing.
        beyond: ticks after the clip's end are left out ("cut") or take its last frame ("hold").

    Returns:
        int64 [M], not decreasing, values 0..N-1.

    Raises:
        VideoError: no frames, decreasing time stamps, or not exactly one of `fps_out` and `pts_out`.
    """
    if (fps_out is None) == (pts_out is None):
        raise VideoError("Expected the other clock either as fps_out or as pts_out, got both or neither.")
    source = _from_zero(frame_times(frames_in, fps_in) if isinstance(frames_in, int) else frames_in, "frames_in")
    end = source[-1] + 1 / as_fps(fps_in)
    if pts_out is not None:
        ticks = _from_zero(pts_out, "pts_out")
    else:
        rate = as_fps(fps_out if fps_out is not None else fps_in)
        ticks = frame_times(max(1, math.ceil(end * rate)), rate)
    if beyond == "cut":
        ticks = [t for t in ticks if t < end]
    indices = np.zeros(len(ticks), dtype=np.int64)
    at = 0
    for i, tick in enumerate(ticks):
        while at + 1 < len(source) and source[at + 1] - tick < tick - source[at]:
            at += 1
        indices[i] = at
    return indices


def _from_zero(times: Sequence[Fraction], name: str) -> list[Fraction]:
    if len(times) == 0:
        raise VideoError(f"{name}: expected at least one frame, got none.")
    exact = [Fraction(t) for t in times]
    for i in range(1, len(exact)):
        if exact[i] < exact[i - 1]:
            raise VideoError(
                f"{name}: expected increasing time stamps, got {float(exact[i]):.6f} s after "
                f"{float(exact[i - 1]):.6f} s at frame {i}."
            )
    return [t - exact[0] for t in exact]
