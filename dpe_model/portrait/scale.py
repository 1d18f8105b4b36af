"""How large a head is in its portrait, and the crop that makes two people's heads equally large."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..errors import FrameError
from ..frames import check_frames
from .face import Face, FaceDetector
from .sightings import TrackBuilder
from .track import Track

logger = logging.getLogger(__name__)

MATCHED = (1.2, 3.5)
"""Least and greatest side of a matched crop, in sides of the face box: beyond lies no portrait the model knows."""
LOOKED_AT = 16
"""Frames of a clip of portraits that tell how large the heads are in it."""


def head_size(landmarks: np.ndarray) -> float:
    """Size of a head by its landmarks [5, 2], in their unit.

    The greater of the distances between the eyes and from eyes to mouth: in a frontal face they are about the same, a
    turn to the side shortens the one, a nod the other.
    """
    eyes = np.linalg.norm(landmarks[1] - landmarks[0])
    mouth = np.linalg.norm(landmarks[3:].mean(0) - landmarks[:2].mean(0))
    return float(max(eyes, mouth))


def head_proportion(faces: Sequence[Face], side: float) -> float:
    """Median size of the heads in square portraits of side `side` px, in that side."""
    if not faces:
        raise ValueError("faces: expected at least one.")
    return float(np.median([head_size(face.landmarks) for face in faces])) / side


def measure_proportion(frames: Tensor, detector: FaceDetector, name: str = "match") -> float:
    """How large the head is in square portraits, in their side; from up to `LOOKED_AT` of them.

    Args:
        frames: [N, S, S, 3] uint8 or floating point.
        detector: what finds the faces.
        name: how a message calls the portraits.

    Raises:
        FrameError: frames that are not square.
        NoFaceError: no face in any of them.
    """
    frames = check_frames(frames, name)
    height, width = frames.shape[1:3]
    if height != width:
        raise FrameError(
            f"{name}: expected square portraits, whose heads are to be matched, got {width}x{height}. Cut them out "
            "first."
        )
    builder = TrackBuilder(detector)
    for n in spread(len(frames)):
        builder.add(frames[n : n + 1])
    return head_proportion(builder.sightings().people().choose().seen, float(width))


def spread(frames: int, count: int = LOOKED_AT) -> list[int]:
    """Up to `count` frame numbers evenly over a clip."""
    return sorted({int(n) for n in np.linspace(0, frames - 1, min(count, frames))})


def matching_scale(track: Track, proportion: float) -> float:
    """The side of the crop, in sides of the face box, that shows the person's head in that proportion of the crop."""
    ratio = np.median([head_size(face.landmarks) / max(face.side, 1e-6) for face in track.seen])
    scale = float(ratio) / proportion
    low, high = MATCHED
    if not low <= scale <= high:
        logger.warning("The matching scale would be %.2f; %.2f is taken.", scale, min(max(scale, low), high))
    return min(max(scale, low), high)
