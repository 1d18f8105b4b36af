"""Face boxes that somebody else found: read in their common shapes, and made faces of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import FrameError, OptionError
from ..frames import check_frames
from .face import Box, Face, FaceDetector

LAYOUTS = ("xywh", "xyxy")
"""How four numbers mean a box: corner and size, or two corners."""
MARGIN = 0.6
"""What is searched around a given box, in its longer side."""
INSIDE = 0.4
"""Part of the smaller box that a found face and a given box must share."""
FEATURES = np.array([[0.3, 0.38], [0.71, 0.38], [0.5, 0.58], [0.33, 0.75], [0.67, 0.75]])
"""Where the landmarks lie in the face box of a face seen from the front."""


def read_boxes(boxes: Any, frames: int, layout: str = "xywh") -> list[list[Box]]:
    """Boxes from other nodes or programs as x0, y0, x1, y1, a list a frame.

    A box is four numbers in pixels of the frame, or a mapping with x, y, width and height. Taken are one box for all
    frames; a list of one box a frame; a list of a list of boxes a frame; the same as arrays or tensors. None, an empty
    list or a box without area stands for a frame without a face.

    Args:
        boxes: see above.
        frames: how many frames there are.
        layout: how four numbers are meant, "xywh" or "xyxy".

    Raises:
        FrameError: another shape or number of boxes.
        OptionError: an unknown layout.
    """
    if layout not in LAYOUTS:
        raise OptionError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}.")
    value = _plain(boxes)
    if _is_box(value):
        return [_several(value, layout)] * frames
    if not isinstance(value, list) or not value:
        raise _unreadable(boxes, frames)
    if frames == 1 and all(_is_box(box) for box in value):
        return [_several(value, layout)]
    if len(value) not in (1, frames):
        raise _unreadable(boxes, frames)
    every = [_several(here, layout) for here in value]
    return every if len(every) == frames else every * frames


def _plain(value: Any) -> Any:
    """Tensors, arrays and tuples as lists."""
    if isinstance(value, Tensor):
        return value.detach().cpu().tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _is_box(value: Any) -> bool:
    if isinstance(value, Mapping):
        return True
    return isinstance(value, list) and len(value) in (4, 5) and all(_is_number(item) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _several(here: Any, layout: str) -> list[Box]:
    """The boxes of one frame."""
    if here is None:
        return []
    if _is_box(here):
        here = [here]
    if not isinstance(here, list) or not all(_is_box(box) for box in here):
        raise FrameError(f"boxes: expected a list of boxes for each frame, got {_short(here)}.")
    return [box for value in here if (box := _box(value, layout)) is not None]


def _box(value: Any, layout: str) -> Box | None:
    """One box; None where it has no area."""
    if isinstance(value, Mapping):
        missing = [key for key in ("x", "y", "width", "height") if not _is_number(value.get(key))]
        if missing:
            raise FrameError(
                f"boxes: expected numbers x, y, width and height, got {_short(dict(value))} (no {', '.join(missing)})."
            )
        numbers, layout = [float(value[key]) for key in ("x", "y", "width", "height")], "xywh"
    else:
        # Some detectors put the score fifth.
        numbers = [float(item) for item in value[:4]]
    if not np.isfinite(numbers).all():
        raise FrameError(f"boxes: expected finite numbers, got {_short(numbers)}.")
    x, y, third, fourth = numbers
    x1, y1 = (x + third, y + fourth) if layout == "xywh" else (third, fourth)
    if (third, fourth) == (0.0, 0.0):
        return None
    if x1 <= x or y1 <= y:
        raise FrameError(
            f"boxes: {_short(numbers)} has no area when read as {layout}. Choose the other of {', '.join(LAYOUTS)}."
        )
    if max(abs(v) for v in numbers) <= 1.0:
        raise FrameError(f"boxes: expected pixels of the frame, got fractions: {_short(numbers)}.")
    return x, y, x1, y1


def _unreadable(boxes: Any, frames: int) -> FrameError:
    return FrameError(
        f"boxes: expected one box, one a frame or a list of boxes a frame, for {frames} frames; got {_short(boxes)}. A "
        "box is four numbers in pixels, or x, y, width and height by name."
    )


def _short(value: Any) -> str:
    count = f"{len(value)} entries, " if isinstance(value, Sequence) and not isinstance(value, str) else ""
    text = repr(value)
    return count + (text if len(text) <= 80 else text[:77] + "...")


class BoxedFaces:
    """A `FaceDetector` that knows the boxes already and only looks inside them for the face.

    The frames of a clip go through it once, in order. Where no face is found inside, the given box stands for it, put
    right as those before needed.

    Args:
        boxes: the boxes of each frame, see `read_boxes`.
        detector: looks inside; None takes the boxes as they are.
    """

    def __init__(self, boxes: Sequence[Sequence[Box]], detector: FaceDetector | None) -> None:
        self._boxes = boxes
        self._detector = detector
        self._next = 0
        self._shifts: list[np.ndarray] = []

    def detect(self, frames: Tensor) -> list[list[Face]]:
        """The faces of the next frames [N, H, W, 3]."""
        frames = check_frames(frames)
        here = self._boxes[self._next : self._next + len(frames)]
        if len(here) != len(frames):
            raise FrameError(f"boxes: expected those of every frame, got {len(self._boxes)} for more frames.")
        self._next += len(frames)
        return [[self._face(frame, box) for box in boxes] for frame, boxes in zip(frames, here, strict=True)]

    def _face(self, frame: Tensor, box: Box) -> Face:
        corner, size = np.array(box[:2]), np.array(box[2:]) - box[:2]
        found = None if self._detector is None else self._inside(frame, box)
        if found is not None:
            self._shifts.append((np.array(found.box).reshape(2, 2) - corner) / size)
            del self._shifts[:-50]
            return found
        if self._shifts:
            low, high = np.median(self._shifts, axis=0) * size + corner
            corner, size = low, high - low
        end = corner + size
        return Face((corner[0], corner[1], end[0], end[1]), corner + FEATURES * size, 1.0)

    def _inside(self, frame: Tensor, box: Box) -> Face | None:
        """The face that shares most with the box."""
        assert self._detector is not None
        margin = MARGIN * max(box[2] - box[0], box[3] - box[1])
        high, wide = frame.shape[:2]
        left, right = (int(np.clip(v, 0, wide)) for v in (box[0] - margin, box[2] + margin))
        top, bottom = (int(np.clip(v, 0, high)) for v in (box[1] - margin, box[3] + margin))
        if min(right - left, bottom - top) < 16:
            return None
        (faces,) = self._detector.detect(frame[None, top:bottom, left:right])
        moved = [_moved(face, left, top) for face in faces]
        shared = [_shared(face.box, box) for face in moved]
        best = int(np.argmax(shared)) if shared else -1
        return moved[best] if shared and shared[best] >= INSIDE else None


def _moved(face: Face, x: float, y: float) -> Face:
    x0, y0, x1, y1 = face.box
    return Face((x0 + x, y0 + y, x1 + x, y1 + y), face.landmarks + np.array([x, y]), face.score)


def _shared(a: Box, b: Box) -> float:
    """Common area over that of the smaller box."""
    common = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    return common / max(min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])), 1e-9)
