"""Time stamps of frames: the rate behind them, and one clock through all of a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from .timing import as_fps

STEP_BACK = Fraction(1, 2)
"""Seconds by which a clock must step back to have started again; less is a time stamp gone wrong."""

COARSE = Fraction(1, 1000)
"""Seconds of a tick from which on times are rounded noticeably: those of Matroska and WebM."""

TICKS_A_FRAME = 4
"""Frames must last this many ticks for their rounded times to tell a rate from none."""


@dataclass(frozen=True)
class Grid:
    """A constant rate whose times a file stores rounded to its ticks.

    Attributes:
        start: the first frame's time in seconds.
        fps: frames per second.
    """

    start: Fraction
    fps: Fraction

    def nearest(self, time: Fraction) -> Fraction:
        """The exact time that was rounded to this one, in seconds."""
        return self.start + round((time - self.start) * self.fps) / self.fps

    def holds(self, times: Sequence[Fraction], tick: Fraction) -> bool:
        """Whether all these times are exact ones rounded to ticks of so many seconds, each to its own."""
        exact = [self.nearest(time) for time in times]
        near = all(abs(time - rounded) <= tick for time, rounded in zip(exact, times, strict=True))
        return near and len(set(exact)) == len(exact)


def may_round(fps: Fraction, tick: Fraction) -> bool:
    """Whether times at this rate come out uneven when they are stored in ticks of so many seconds."""
    return tick >= COARSE and TICKS_A_FRAME * tick * fps <= 1 and (1 / fps / tick).denominator != 1


def find_grid(times: Sequence[Fraction], fps: Fraction, tick: Fraction) -> Grid | None:
    """The constant rate that times in seconds, stored in ticks, were rounded from; None where they are uneven.

    Args:
        times: increasing.
        fps: the rate that the file tells, itself rounded perhaps (59.9401 for 60000/1001).
        tick: seconds.
    """
    if not times:
        return None
    grids = (Grid(times[0], rate) for rate in dict.fromkeys((as_fps(float(fps)), fps)))
    return next((grid for grid in grids if grid.holds(times, tick)), None)


def rate_of(times: Iterable[Fraction]) -> Fraction | None:
    """Frames per second, on average, of frames at these times in seconds; None for fewer than two."""
    known = sorted(times)
    if len(known) < 2 or known[-1] == known[0]:
        return None
    rate = (len(known) - 1) / (known[-1] - known[0])
    return rate.limit_denominator(1000) or rate


class FrameClock:
    """Times that increase from frame to frame, whatever the file says; see `at`."""

    def __init__(self, fps: Fraction) -> None:
        self._step = 1 / fps
        self._shift = Fraction(0)
        self._last: Fraction | None = None

    def at(self, time: Fraction | None) -> Fraction:
        """The next frame's time in seconds, in the order shown.

        Where its own is missing or does not advance, one frame after the last. Where the file's clock starts again, as
        where recordings were joined end to end, so does this frame, and the others keep their distance to it.
        """
        if self._last is None:
            now = time if time is not None else Fraction(0)
        else:
            following = self._last + self._step
            now = following if time is None else time + self._shift
            if now < self._last - STEP_BACK:
                self._shift += following - now
            if now <= self._last:
                now = following
        self._last = now
        return now
