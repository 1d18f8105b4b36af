"""Smoothing a motion over time without lag: every filter looks at both sides of a frame.

SciPy is imported where it is used: its signal processing alone takes two seconds to load, and few jobs smooth a motion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import torch

from .errors import MotionError
from .gaps import filled, nearest
from .motion import Motion

SmoothMethod = Literal["gaussian", "savgol", "one_euro", "median"]
SMOOTH_METHODS: tuple[SmoothMethod, ...] = ("gaussian", "savgol", "one_euro", "median")
Unit = Literal["frames", "seconds"]
UNITS: tuple[Unit, ...] = ("frames", "seconds")

GAUSSIAN_CUTOFF = 0.1325
"""Frequency, times the standard deviation, at which a Gaussian halves the power: sqrt(ln 2) / (2 pi)."""
SPEED_COEFFICIENT = 0.5
"""beta of the One Euro filter, in cycles a standard deviation of the component: a swing of that size within a frame is
let through whole."""
SMALLEST_PARABOLA = 35.0 / 17.0 / (2.0 * np.pi**0.5)
"""Standard deviation, frames, of the Gaussian that leaves as much of white noise as a parabola over five frames."""
SMALLEST_MEDIAN = 1.0 / 3.0**0.5
"""The same for the median of three, by the variance of its window."""
SPEED_CUTOFF = 0.15
"""Cut-off, in cycles a frame, of the One Euro filter's own low-pass over the speed."""


def smooth_motion(
    motion: Motion, method: SmoothMethod = "gaussian", strength: float = 2.0, unit: Unit = "frames"
) -> Motion:
    """A motion with its tremble taken out; as many frames, at the same times, of the same checkpoint.

    The strength means the same in all methods: that of a Gaussian of this standard deviation. Both ends stay where the
    movement leads to.

    - "gaussian": weighted mean.
    - "savgol": a parabola fitted to the frames around (Savitzky and Golay, 1964); keeps peaks high. Its window has the
      Gaussian's cut-off frequency by Schafer's formula (What is a Savitzky-Golay filter?, 2011).
    - "one_euro": smooths what rests and lets through what moves fast (Casiez, Roussel, Vogel: 1 Euro Filter, 2012); run
      forwards and backwards, so that nothing lags.
    - "median": removes single outliers, keeps edges.

    Args:
        motion: what to smooth.
        method: how.
        strength: standard deviation, in `unit`; 0 changes nothing.
        unit: "frames" or "seconds".

    Raises:
        MotionError: an unknown method or unit, a negative strength, or seconds where the motion's rate is unknown.
    """
    if method not in SMOOTH_METHODS:
        raise MotionError(f"method: expected one of {', '.join(SMOOTH_METHODS)}, got {method!r}.")
    if unit not in UNITS:
        raise MotionError(f"unit: expected one of {', '.join(UNITS)}, got {unit!r}.")
    if not 0.0 <= strength < float("inf"):
        raise MotionError(f"strength: expected 0 or more {unit}, got {strength}.")
    if unit == "seconds" and motion.fps is None:
        raise MotionError(
            "unit: the motion's frame rate is unknown, so seconds mean nothing. Give fps where it is encoded, or "
            "choose frames."
        )
    sigma = strength * (motion.fps or 1.0) if unit == "seconds" else strength
    if sigma == 0.0 or len(motion) == 1:
        return motion
    values = _FILTERS[method](motion.alpha.numpy().astype(np.float64), sigma)
    return Motion(torch.from_numpy(values.astype(np.float32)), motion.checkpoint, motion.fps, motion.times)


def bridge(motion: Motion, known: np.ndarray, parts: Iterable[slice]) -> Motion:
    """A motion whose frames without a face lie on the straight line between those around them.

    What was measured on a picture without a face says nothing of anybody's, and would be seen as a start.

    Args:
        motion: N frames.
        known: [N] bool, the frames that show the face.
        parts: the runs of frames between which nothing is mixed. In one that never shows the face, and before the first
            and after the last frame that does, the nearest such frame's numbers stand.

    Returns:
        The motion itself where all frames or none are known.
    """
    if len(known) != len(motion):
        raise MotionError(f"known: expected one for each of {len(motion)} frames, got {len(known)}.")
    if known.all() or not known.any():
        return motion
    values = motion.alpha.numpy()
    out = values[nearest(known)]
    for part in parts:
        here = known[part]
        if here.any():
            out[part] = filled(values[part][here], here)
    return Motion(torch.from_numpy(out), motion.checkpoint, motion.fps, motion.times)


def _gaussian(values: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    reach = min(int(np.ceil(4 * sigma)), len(values) - 1)
    padded = np.pad(values, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    return gaussian_filter1d(padded, sigma, axis=0, mode="nearest")[reach : reach + len(values)]


def _savgol(values: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.signal import savgol_filter

    # Schafer: cut-off in half the sampling rate = (order + 1) / (3.2 half - 4.6), here with order 2.
    wanted = round((3.0 / (2.0 * GAUSSIAN_CUTOFF / sigma) + 4.6) / 3.2)
    half = min(max(2, wanted), (len(values) - 1) // 2)
    if half < 1:
        return values
    filtered = savgol_filter(values, 2 * half + 1, min(2, 2 * half), axis=0, mode="interp")
    return _partly(values, filtered, sigma, SMALLEST_PARABOLA)


def _median(values: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import median_filter

    # A box of this half-width has the Gaussian's variance.
    half = max(1, round(np.sqrt(3.0) * sigma))
    return _partly(values, median_filter(values, (2 * half + 1, 1), mode="nearest"), sigma, SMALLEST_MEDIAN)


def _partly(values: np.ndarray, filtered: np.ndarray, sigma: float, smallest: float) -> np.ndarray:
    """Under the strength of the smallest window only part of what that takes out, so that 0 is nothing."""
    share = min(sigma / smallest, 1.0) ** 2
    return values + share * (filtered - values)


def _one_euro(values: np.ndarray, sigma: float) -> np.ndarray:
    # Two first-order passes halve the power at 0.644 of the cut-off of one.
    cutoff = GAUSSIAN_CUTOFF / sigma / 0.644
    spread = values.std(0)
    scaled = values / np.where(spread > 0.0, spread, 1.0)
    # First forwards or first backwards differs a little; their mean treats both directions alike.
    forth = _one_euro_pass(_one_euro_pass(scaled, cutoff)[::-1], cutoff)[::-1]
    back = _one_euro_pass(_one_euro_pass(scaled[::-1], cutoff)[::-1], cutoff)
    return (forth + back) / 2.0 * np.where(spread > 0.0, spread, 1.0)


def _one_euro_pass(values: np.ndarray, cutoff: float) -> np.ndarray:
    """One run over [N, M]; time is counted in frames."""
    out = np.empty_like(values)
    out[0], speed = values[0], np.zeros(values.shape[1])
    for i in range(1, len(values)):
        speed += _weight(SPEED_CUTOFF) * (values[i] - values[i - 1] - speed)
        out[i] = out[i - 1] + _weight(cutoff + SPEED_COEFFICIENT * np.abs(speed)) * (values[i] - out[i - 1])
    return out


def _weight(cutoff: np.ndarray | float) -> np.ndarray | float:
    """Weight of the new value in a first-order low-pass with this cut-off in cycles a frame."""
    return 1.0 / (1.0 + 1.0 / (2.0 * np.pi * cutoff))


_FILTERS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "gaussian": _gaussian,
    "savgol": _savgol,
    "one_euro": _one_euro,
    "median": _median,
}
