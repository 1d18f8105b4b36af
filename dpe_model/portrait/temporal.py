"""Steadying what is measured frame by frame, from past frames only, so that clips can be worked on as they come."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from .warp import resample

CUT = 0.15
"""Mean difference of two successive small pictures, in 0..1, from which they show different scenes."""


Running = TypeVar("Running", bound="RunningMean")


class RunningMean:
    """An exponentially weighted mean; the first value counts in full.

    Args:
        frames: how far back it reaches, frames; 0 follows every value at once.
    """

    def __init__(self, frames: float) -> None:
        self.keep = math.exp(-1.0 / frames) if frames > 0.0 else 0.0
        self.value: Tensor | None = None

    def update(self, new: Tensor) -> Tensor:
        """The mean up to this value."""
        self.value = new if self.value is None else self.keep * self.value + (1.0 - self.keep) * new
        return self.value

    def at(self, measure: Callable[[], Tensor], held: bool) -> Tensor:
        """The mean at a frame, up to what is measured there; on a `held` one, which counts for nothing, as it was.

        Before there is any mean a held frame has only itself to go by.
        """
        if not held:
            return self.update(measure())
        return measure() if self.value is None else self.value

    def reset(self) -> None:
        """Forget, as at a cut."""
        self.value = None

    def on(self: Running, device: torch.device) -> Running:
        """A copy that goes on from here on a device."""
        other = copy.copy(self)
        other.value = None if self.value is None else self.value.to(device)
        return other


class RunningPeak(RunningMean):
    """Rises with a value at once and falls back slowly."""

    def update(self, new: Tensor) -> Tensor:
        """The peak that has not yet faded."""
        if self.value is not None:
            new = torch.maximum(new, self.keep * self.value + (1.0 - self.keep) * new)
        self.value = new
        return new


class RunningMap(RunningMean):
    """A mean of maps of a face [s, s] that moves along with its landmarks, so that it does not lag behind the head."""

    def __init__(self, frames: float) -> None:
        super().__init__(frames)
        self._landmarks: np.ndarray | None = None

    def follow(self, new: Tensor, landmarks: np.ndarray | None) -> Tensor:
        """The mean up to this map; `landmarks` [5, 2] are the face's, in the map's unit square."""
        if self.value is not None and landmarks is not None and self._landmarks is not None:
            step = similarity(self._landmarks, landmarks)
            step[:, 2] *= len(new)
            self.value = resample(self.value, step, (len(new), len(new)))
        self._landmarks = landmarks
        return self.update(new)


class SceneWatch:
    """Tells a cut from the small pictures of successive frames."""

    def __init__(self) -> None:
        self._last: Tensor | None = None

    def is_cut(self, picture: Tensor) -> bool:
        """Whether this picture [s, s, 3], 0..1, shows another scene than the one before it."""
        last, self._last = self._last, picture
        return last is not None and float((picture - last).abs().mean()) > CUT

    def on(self, device: torch.device) -> SceneWatch:
        """A copy that goes on from here on a device."""
        other = SceneWatch()
        other._last = None if self._last is None else self._last.to(device)
        return other


def similarity(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The rotation, scale and shift [2, 3] that takes points [n, 2] closest to others, by least squares."""
    a, b = (points[:, 0] + 1j * points[:, 1] for points in (before, after))
    x, y = a - a.mean(), b - b.mean()
    turn = np.vdot(x, y) / max(np.vdot(x, x).real, 1e-12)
    if abs(turn) < 1e-3:
        turn = np.complex128(1.0)
    shift = b.mean() - turn * a.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
