"""Paths over a whole clip, whose future is known: filled in where nothing was found, smoothed without lag.

Nothing is mixed across a cut, nor across a long absence after which the person is elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..gaps import filled
from .track import Track

LONG_GAP = 25
"""Frames without a face up to which the path leads from the last sighting to the next; over more the last one holds,
where the person comes back elsewhere."""
ELSEWHERE = 0.5
"""How far away elsewhere is, in sides of the face box."""
OUTLIERS = 5
"""Frames of the median filter that removes a detector's slips."""


def segments(track: Track, absences: bool = True) -> Iterator[tuple[slice, np.ndarray]]:
    """The parts of a clip between which nothing is mixed: frames, and which of them have a face of the person.

    Args:
        track: one person through the clip.
        absences: long ones part the clip too, not only cuts.
    """
    found, shots = track.found, track.shots
    begin = np.zeros(len(track), dtype=bool)
    begin[0] = True
    begin[1:] |= shots[1:] != shots[:-1]
    at = np.flatnonzero(found)
    for before, after in zip(at[:-1], at[1:], strict=True):
        if (
            absences
            and after - before > LONG_GAP
            and shots[before] == shots[after]
            and _elsewhere(track, before, after)
        ):
            begin[after] = True
    edges = [*np.flatnonzero(begin), len(track)]
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        yield slice(start, stop), found[start:stop]


def _elsewhere(track: Track, before: int, after: int) -> bool:
    a, b = track.faces[before], track.faces[after]
    assert a is not None
    assert b is not None
    side = max(min(a.side, b.side), 1e-6)
    moved = np.hypot(a.centre[0] - b.centre[0], a.centre[1] - b.centre[1]) / side
    return bool(moved > ELSEWHERE or max(a.side, b.side) / side > 1.0 + ELSEWHERE)


def without_outliers(values: np.ndarray) -> np.ndarray:
    """Values [N, ...] one a frame, each the median of those around it."""
    from scipy.ndimage import median_filter  # half a second, which jobs on portraits need not wait for

    return median_filter(values, (OUTLIERS, *[1] * (values.ndim - 1)), mode="nearest")


def smooth(values: np.ndarray, sigma: float, found: np.ndarray) -> np.ndarray:
    """Smooth along the first axis by local linear regression with Gaussian weights.

    There is no lag, and a steady drift comes through unchanged up to both ends of the clip. Frames where nothing was
    found (filled in by interpolation) hardly count.

    Args:
        values: [N, ...] one value a frame.
        sigma: standard deviation of the weights, frames; 0 changes nothing.
        found: [N] bool.
    """
    if sigma == 0.0 or len(values) < 2:
        return values
    reach = int(np.ceil(4 * sigma))
    offset = np.arange(-reach, reach + 1, dtype=np.float64)
    weight = np.exp(-0.5 * (offset / sigma) ** 2)
    trust = np.where(found, 1.0, 1e-3)
    # Moments of the weights and of the weighted values about each frame.
    moments = [_correlate(trust, weight * offset**k) for k in range(3)]
    columns = values.reshape(len(values), -1)
    out = np.empty_like(columns)
    for c in range(columns.shape[1]):
        first = _correlate(trust * columns[:, c], weight)
        second = _correlate(trust * columns[:, c], weight * offset)
        determinant = moments[0] * moments[2] - moments[1] ** 2
        line = (moments[2] * first - moments[1] * second) / np.maximum(determinant, 1e-300)
        out[:, c] = np.where(determinant > 1e-9 * moments[0] ** 2, line, first / moments[0])
    return out.reshape(values.shape)


def follow(values: np.ndarray, sigma: float, found: np.ndarray) -> np.ndarray:
    """`smooth`, and what it left over smoothed once more and added: swings of some seconds keep their full width.

    (Twicing, after Tukey: with the kernel k it amounts to 2k - k * k.)
    """
    once = smooth(values, sigma, found)
    return once + smooth(values - once, sigma, found)


def short_gaps(found: np.ndarray, shots: np.ndarray) -> np.ndarray:
    """Which frames lie among at most `LONG_GAP` in a row, within a shot, where nothing was found: [N] bool."""
    short = np.zeros_like(found)
    edges = np.flatnonzero((found[1:] != found[:-1]) | (shots[1:] != shots[:-1])) + 1
    for run in np.split(np.arange(len(found)), edges):
        short[run] = not found[run[0]] and len(run) <= LONG_GAP
    return short


def holding(values: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Smoothed values [N, ...] that stand still where there was nothing to smooth: a line drawn on leads astray.

    Before the first frame where something was found and after the last they keep that frame's value; in gaps of more
    than `LONG_GAP` they go straight from the one side's to the other's.
    """
    at = np.flatnonzero(found)
    if not len(at):
        return values
    inside = np.zeros_like(found)
    inside[at[0] : at[-1] + 1] = True
    alone = ~found & ~(inside & short_gaps(found, np.zeros(len(found), dtype=np.int64)))
    out = values.copy()
    out[alone] = filled(values[found], found)[alone]
    return out


def _correlate(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Sum over u of kernel[u] * values[t + u], nothing beyond the ends; `kernel` is centred."""
    reach = len(kernel) // 2
    padded = np.pad(values, reach)
    return np.correlate(padded, kernel, mode="valid")
