"""Which of several people is meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import NoFaceError, OptionError
from ..frames import mask_planes
from .face import Face

SELECT = ("largest", "left", "right", "index", "position", "mask")
MIN_PRESENCE = 0.2
"""A person counts as present when seen in at least this fraction of the frames of the one seen most."""
COVERED = 0.5
"""Part of a face box under the mask from which the face lies under it."""

Faces = Sequence[Face | None]


def choose(
    people: Sequence[Faces],
    frame_size: tuple[int, int],
    select: str,
    index: int = 0,
    position: tuple[float, float] = (0.5, 0.5),
    mask: Tensor | None = None,
) -> int:
    """The number of one of the people, who come largest first and have one entry a frame; see `People.choose`."""
    check_selection(select, len(people[0]), position, mask)
    if select == "index":
        if not 0 <= index < len(people):
            raise NoFaceError(
                f"Person {index} was asked for, found {len(people)} (0 to {len(people) - 1}, the largest first)."
            )
        return index
    present = _present(people)
    if select == "left":
        return min(present, key=lambda k: _middle(people[k]))
    if select == "right":
        return max(present, key=lambda k: _middle(people[k]))
    if select == "position":
        return _at(people, present, _pixel(position, frame_size))
    if select == "mask":
        return _under(people, present, _checked(mask, len(people[0])), frame_size)
    return 0


def check_selection(select: str, frames: int, position: tuple[float, float], mask: Tensor | None) -> None:
    """Refuse what cannot choose among anybody, before a clip of so many frames is looked through.

    Raises:
        OptionError: an unknown way to choose, a place outside the frame, or no fitting mask where one is needed.
    """
    if select not in SELECT:
        raise OptionError(f"select: expected one of {', '.join(SELECT)}, got {select!r}.")
    if select == "position":
        _pixel(position, (1, 1))
    if select == "mask":
        _checked(mask, frames)


def _present(people: Sequence[Faces]) -> list[int]:
    counts = [sum(face is not None for face in faces) for faces in people]
    return [k for k, count in enumerate(counts) if count >= MIN_PRESENCE * max(counts)]


def _middle(faces: Faces) -> float:
    """Median horizontal position, px."""
    return float(np.median([face.centre[0] for face in faces if face is not None]))


def _pixel(position: tuple[float, float], frame_size: tuple[int, int]) -> tuple[float, float]:
    x, y = position
    if not (0.0 <= x <= 1.0 and 0.0 <= y <= 1.0):
        raise OptionError(f"position: expected x and y in 0..1 of the frame, got {x}, {y}.")
    return x * frame_size[1], y * frame_size[0]


def _at(people: Sequence[Faces], present: list[int], point: tuple[float, float]) -> int:
    """Whose face first comes to the point, else who is nearest to it in the median, in sides of the face."""
    first = _first(people, present, lambda face, _: _away(face, point) == 0.0)
    if first is not None:
        return first
    return min(present, key=lambda k: float(np.median([_away(face, point) for face in people[k] if face is not None])))


def _away(face: Face, point: tuple[float, float]) -> float:
    """Distance of the point from the box, in its sides; 0 inside."""
    x = max(face.box[0] - point[0], 0.0, point[0] - face.box[2])
    y = max(face.box[1] - point[1], 0.0, point[1] - face.box[3])
    return float(np.hypot(x, y)) / max(face.side, 1e-6)


def _first(people: Sequence[Faces], present: list[int], meant: Callable[[Face, int], bool]) -> int | None:
    """Of the first frame in which somebody is meant, the one with the largest face."""
    for n in range(len(people[0])):
        here = [(face.side, k) for k in present if (face := people[k][n]) is not None and meant(face, n)]
        if here:
            return max(here)[1]
    return None


def _checked(mask: Tensor | None, frames: int) -> Tensor:
    """The mask as [1 or frames, H, W]."""
    if mask is None:
        raise OptionError("mask: expected a mask of the person, got none. Give one, or choose the person another way.")
    planes = mask_planes(mask)
    if planes.ndim != 3 or len(planes) not in (1, frames) or not planes.numel():
        raise OptionError(f"mask: expected [1, H, W] or [{frames}, H, W], one a frame, got {list(mask.shape)}.")
    return planes


def _under(people: Sequence[Faces], present: list[int], mask: Tensor, frame_size: tuple[int, int]) -> int:
    """Who lies under the mask: under a single one whoever comes there first, else who does so most of the time."""

    def covered(face: Face, n: int) -> float:
        return _coverage(mask[n if len(mask) > 1 else 0], face, frame_size)

    if len(mask) == 1:
        first = _first(people, present, lambda face, n: covered(face, n) >= COVERED)
        if first is not None:
            return first
    amount = [sum(covered(face, n) for n, face in enumerate(faces) if face is not None) for faces in people]
    best = int(np.argmax(amount))
    if amount[best] <= 0.0:
        raise NoFaceError(
            "mask: no face lies under the mask. It must be white over the face, in a picture of the whole frame; an "
            "empty mask (as Load Image gives for pictures without transparency) chooses nobody."
        )
    return best


def _coverage(mask: Tensor, face: Face, frame_size: tuple[int, int]) -> float:
    """Part of the face box that is under the mask [H, W], 0..1."""
    high, wide = mask.shape
    x0, x1 = (int(np.clip(v / frame_size[1] * wide, 0, wide)) for v in (face.box[0], face.box[2]))
    y0, y1 = (int(np.clip(v / frame_size[0] * high, 0, high)) for v in (face.box[1], face.box[3]))
    part = mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return float((part > 0.5).to(torch.float32).mean()) if part.numel() else 0.0
