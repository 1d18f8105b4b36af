"""A motion's numbers as curves in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .errors import MotionError
from .motion import Motion

MIN_WIDTH, MIN_HEIGHT = 256, 128
FINE = 2
"""Everything is drawn this many times larger, then shrunk: smooth lines."""
MANY = 2000
"""Curves of more frames than this are drawn without rounded joints, which nobody sees and which take long."""

_PAPER, _BAND, _FAINT, _GREY, _INK = (255, 255, 255), (247, 247, 249), (222, 222, 222), (130, 130, 130), (40, 40, 40)
_COLOURS = ((31, 99, 176), (217, 95, 14))
"""Of the motion and of the one it is compared with."""


@dataclass(frozen=True)
class _Curves:
    """One motion ready to draw: values [N, M], times [N]."""

    name: str
    values: np.ndarray
    times: np.ndarray


def strongest(motion: Motion, count: int) -> list[int]:
    """The `count` components that vary most over the clip, in their own order; all of them for 0."""
    variance = motion.alpha.double().var(0, unbiased=False)
    if not 0 < count < len(variance):
        return list(range(len(variance)))
    return sorted(variance.argsort(descending=True, stable=True)[:count].tolist())


def plot_motion(
    motion: Motion,
    other: Motion | None = None,
    components: int = 6,
    size: tuple[int, int] = (1024, 768),
    names: tuple[str, str] = ("motion", "compare"),
) -> Tensor:
    """Curves of a motion's components, one below the other over a common axis of time.

    Time is in seconds where the rate is known, else in frames.

    Args:
        motion: what to show.
        other: a second motion of the same checkpoint, drawn into the same fields.
        components: how many of the numbers, those that vary most in `motion`; 0 shows all.
        size: width and height of the picture, px; at least 256x128.
        names: what the legend calls the two.

    Returns:
        [1, height, width, 3] float32 in 0..1.

    Raises:
        MotionError: motions of different checkpoints, a picture too small, a negative number of components.
    """
    width, height = size
    if width < MIN_WIDTH or height < MIN_HEIGHT or components < 0:
        raise MotionError(
            f"plot: expected at least {MIN_WIDTH}x{MIN_HEIGHT} px and 0 or more components, got {width}x{height} and "
            f"{components}."
        )
    if other is not None:
        other.require_checkpoint(motion.checkpoint, names[1])
    seconds = motion.fps is not None and (other is None or other.fps is not None)
    curves = [_curves(m, n, seconds) for m, n in zip((motion, other), names, strict=True) if m is not None]
    picture = _Plot(width, height, curves, strongest(motion, components), "s" if seconds else "frames").draw()
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255.0)[None]


def _curves(motion: Motion, name: str, seconds: bool) -> _Curves:
    times = np.arange(len(motion), dtype=np.float64)
    if seconds and motion.times is not None:
        times = motion.times.numpy()
    elif seconds:
        times = times / (motion.fps or 1.0)
    return _Curves(name, motion.alpha.numpy().astype(np.float64), times)


class _Plot:
    """Lays out one picture: a field a component, the axis of time below, the legend above."""

    def __init__(self, width: int, height: int, curves: Sequence[_Curves], shown: Sequence[int], unit: str) -> None:
        self.size = (width, height)
        self.curves, self.shown, self.unit = curves, shown, unit
        text = max(10, min(15, height // 48))
        lane = (height - 4.5 * text) / len(shown)
        self.text = min(text, max(7, int(lane / 1.15)))
        self.font = ImageFont.load_default(self.text * FINE)
        self.left, self.right = int(6.2 * self.text), width - self.text
        self.top, self.bottom = int(1.9 * self.text), height - int(2.5 * self.text)
        self.span = max(float(curve.times[-1]) for curve in curves)
        self.picture = Image.new("RGB", (width * FINE, height * FINE), _PAPER)
        self.draw_on = ImageDraw.Draw(self.picture)

    def draw(self) -> Image.Image:
        ticks = _ticks(0.0, self.span, max(2, (self.right - self.left) // (7 * self.text)))
        for place in range(len(self.shown)):
            self._field(place, ticks)
        self._time_axis(ticks)
        self._legend()
        return self.picture.resize(self.size, Image.Resampling.LANCZOS)

    def _field(self, place: int, ticks: Sequence[float]) -> None:
        top, bottom = self._edges(place)
        component = self.shown[place]
        if place % 2 == 0:
            self._box((self.left, top, self.right, bottom), _BAND)
        for tick in ticks:
            self._line([(self._x(tick), top), (self._x(tick), bottom)], _FAINT)
        values = [curve.values[:, component] for curve in self.curves]
        low, high = min(v.min() for v in values), max(v.max() for v in values)
        margin = max(0.08 * (high - low), 1e-6 * max(abs(low), abs(high)), 1e-9)

        def y(value: np.ndarray) -> np.ndarray:
            return bottom - (value - low + margin) / (high - low + 2 * margin) * (bottom - top)

        for curve, colour in zip(self.curves, _COLOURS, strict=False):
            heights = y(curve.values[:, component])
            self._curve([(self._x(t), float(h)) for t, h in zip(curve.times, heights, strict=True)], colour)
        middle = (top + bottom) / 2
        self._write((self.text * 0.5, middle), f"{component}", "lm", _INK)
        if bottom - top > 2.4 * self.text:
            self._write((self.left - 4, top + 1), _number(high), "ra", _GREY)
            self._write((self.left - 4, bottom - 1), _number(low), "rd", _GREY)
        elif bottom - top > 1.1 * self.text:
            self._write((self.left - 4, middle), f"\N{PLUS-MINUS SIGN}{_number((high - low) / 2)}", "rm", _GREY)
        self._line([(self.left, top), (self.left, bottom)], _INK)

    def _curve(self, points: list[tuple[float, float]], colour: tuple[int, int, int]) -> None:
        if len(points) > 1:
            self._line(points, colour, 1.6)
            return
        (x, y) = points[0]
        self._box((x - 2.5, y - 2.5, x + 2.5, y + 2.5), colour)

    def _time_axis(self, ticks: Sequence[float]) -> None:
        self._line([(self.left, self.bottom), (self.right, self.bottom)], _INK)
        for tick in ticks:
            x = self._x(tick)
            self._line([(x, self.bottom), (x, self.bottom + 4)], _INK)
            self._write((x, self.bottom + 6), f"{_number(tick)} {self.unit}", "ma", _INK)

    def _legend(self) -> None:
        x, y = float(self.left), self.text
        self._write((self.text * 0.5, y), "no.", "lm", _GREY)
        for curve, colour in zip(self.curves, _COLOURS, strict=False):
            count = len(curve.times)
            label = f"{curve.name}: {count} frame{'' if count == 1 else 's'}"
            self._line([(x, y), (x + 2 * self.text, y)], colour, 2.5)
            self._write((x + 2.5 * self.text, y), label, "lm", _INK)
            x += 4.5 * self.text + self.font.getlength(label) / FINE

    def _edges(self, place: int) -> tuple[float, float]:
        each = (self.bottom - self.top) / len(self.shown)
        return self.top + place * each, self.top + (place + 1) * each

    def _x(self, time: float) -> float:
        if self.span == 0.0:
            return (self.left + self.right) / 2
        return self.left + float(time) / self.span * (self.right - self.left)

    def _line(self, points: Sequence[tuple[float, float]], colour: tuple[int, int, int], width: float = 1.0) -> None:
        scaled = [(float(x) * FINE, float(y) * FINE) for x, y in points]
        joint = "curve" if 2 < len(scaled) <= MANY else None
        self.draw_on.line(scaled, fill=colour, width=max(1, round(width * FINE)), joint=joint)

    def _box(self, edges: tuple[float, float, float, float], colour: tuple[int, int, int]) -> None:
        self.draw_on.rectangle([float(v) * FINE for v in edges], fill=colour)

    def _write(self, at: tuple[float, float], text: str, anchor: str, colour: tuple[int, int, int]) -> None:
        self.draw_on.text((float(at[0]) * FINE, float(at[1]) * FINE), text, colour, self.font, anchor)


def _ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round numbers from low to high: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    step = 10.0 ** floor(log10((high - low) / most))
    step = next(step * k for k in (1, 2, 5, 10, 20, 50) if (high - low) / (step * k) <= most)
    return [k * step for k in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    """Three digits at most, without a trailing zero."""
    return f"{value:.3g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.0e}"
