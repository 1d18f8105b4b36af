"""Soft masks in the crop's own square: 1 where the edited picture shows, exactly 0 before the crop's border."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import NoFaceError
from .crop import Crop

BORDER = 0.02
"""Width of the rim of every mask that is exactly 0, in sides of the crop."""
BORDER_FEATHER = 0.06
"""Width over which a face mask that reaches the rim falls off to it."""

# Proportions of a head in eye-to-mouth distances (the eye line halves the head, the mouth lies 0.6 of the way from the
# eyes to the chin), with room for a jaw that drops.
CENTRE_BELOW_EYES = 0.45
HALF_HEIGHT = 1.5
HALF_WIDTH = 1.25
EXPONENT = 2.5
"""Of the superellipse: 2 is an ellipse, larger is boxier."""


def feather_mask(size: int, feather: float = 0.15, border: float = BORDER) -> Tensor:
    """The whole crop, softly faded out towards its border.

    Args:
        size: side of the mask, px.
        feather: width of the fall-off, in sides of the crop.
        border: width of the rim that is exactly 0, in sides of the crop.

    Returns:
        [1, size, size] float32 in 0..1.
    """
    _check_fractions(feather=feather, border=border)
    at = (np.arange(size) + 0.5) / size
    inside = np.minimum(at, 1.0 - at) - max(border, 1.0 / size)
    ramp = _smoothstep(inside / max(feather, 1e-6))
    return torch.from_numpy((ramp[:, None] * ramp[None]).astype(np.float32))[None]


def face_mask(crop: Crop, size: int | None = None, grow: float = 1.0, feather: float = 0.12) -> Tensor:
    """The face from forehead to chin: a soft superellipse placed by the five landmarks.

    Args:
        crop: with landmarks.
        size: side of the masks, px; the crop's own if None.
        grow: makes the shape larger (above 1) or smaller about its centre.
        feather: width of the fall-off outside the shape, in sides of the crop.

    Returns:
        [N, size, size] float32 in 0..1, exactly 0 in a rim along the crop's border.

    Raises:
        NoFaceError: the crop carries no landmarks.
    """
    _check_fractions(feather=feather)
    if not 0.1 <= grow <= 4.0:
        raise ValueError(f"grow: expected 0.1..4, got {grow}.")
    if crop.landmarks is None:
        raise NoFaceError("A face mask needs landmarks, and this crop has none. Use the feathered crop instead.")
    size = crop.size if size is None else size
    rim = feather_mask(size, BORDER_FEATHER)[0].numpy()
    at = ((np.arange(size) + 0.5) / size).astype(np.float32)
    masks = np.stack([_superellipse(points, at, grow, feather) * rim for points in crop.landmarks])
    return torch.from_numpy(masks.astype(np.float32))


def _superellipse(landmarks: np.ndarray, at: np.ndarray, grow: float, feather: float) -> np.ndarray:
    """One face's soft shape [S, S] from its landmarks [5, 2] (unit square); `at` [S] are the pixel centres."""
    eyes, mouth = landmarks[:2].mean(0), landmarks[3:].mean(0)
    down = mouth - eyes
    length = float(np.hypot(*down))
    apart = float(np.hypot(*(landmarks[1] - landmarks[0])))
    # Seen from the side the eyes come close, seen from above or below the mouth does: trust the larger.
    unit = max(length, apart, 1e-3)
    down = down / max(length, 1e-6) if length > 1e-6 else np.array([0.0, 1.0])
    centre = eyes + CENTRE_BELOW_EYES * unit * down
    half = np.array([HALF_WIDTH, HALF_HEIGHT]) * unit * grow
    x, y = at[None, :] - centre[0], at[:, None] - centre[1]
    across, along = np.abs(x * down[1] - y * down[0]) / half[0], np.abs(x * down[0] + y * down[1]) / half[1]
    radius = (across**EXPONENT + along**EXPONENT) ** (1.0 / EXPONENT)
    return _smoothstep(1.0 - (radius - 1.0) * half.mean() / max(feather, 1e-6))


def _smoothstep(t: np.ndarray) -> np.ndarray:
    """0 up to 0, 1 from 1 on, with zero slope at both."""
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _check_fractions(**values: float) -> None:
    for name, value in values.items():
        if not 0.0 <= value <= 0.5:
            raise ValueError(f"{name}: expected 0..0.5 (in sides of the crop), got {value}.")
