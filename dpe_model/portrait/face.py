"""What a face is, and what a detector of faces does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from ..errors import DPEError

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the frame (pixel centres at +0.5)."""


class DetectorError(DPEError):
    """A face detector cannot be used: unknown, its package or its model files missing."""


@dataclass(frozen=True, eq=False)
class Face:
    """One face in one frame, in pixels of the frame (pixel centres at +0.5).

    Attributes:
        box: x0, y0, x1, y1; may reach beyond the frame.
        landmarks: [5, 2] float64: the viewer's left eye, right eye, nose tip, left and right mouth corner.
        score: probability that this is a face, 0..1.
        sure: False where the detector alone would not call it a face: it may continue a person, not begin one.
        look: what the person looks like here (see `appearance.describe`); None if unknown.
    """

    box: Box
    landmarks: np.ndarray
    score: float
    sure: bool = True
    look: np.ndarray | None = None

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box, px."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def side(self) -> float:
        """Side of the square with the box's area, px."""
        return float(np.sqrt(max(self.box[2] - self.box[0], 0.0) * max(self.box[3] - self.box[1], 0.0)))


class FaceDetector(Protocol):
    """Anything that finds faces."""

    def detect(self, frames: Tensor) -> list[list[Face]]:
        """The faces of each of the frames [N, H, W, 3], best score first."""
        ...
