"""Following one person through a clip: which of the faces found in each frame is theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import NoFaceError
from .face import Face

SELECT = ("largest", "left", "right", "index")

MAX_STEP = 1.0
"""Farthest a face may move from one frame to the next, in sides of its box; farther is another person or a cut."""
STEP_PER_MISS = 0.25
"""What each frame in which the face was not found adds to `MAX_STEP`."""
MAX_REACH = 4.0
"""Farthest a face may be from where it was last seen, however long ago, in sides of its box."""
MAX_ZOOM = 2.0
"""Most a face's side may grow or shrink between two sightings."""
MIN_PRESENCE = 0.2
"""A person counts as present when seen in at least this fraction of the frames of the one seen most."""


@dataclass(frozen=True)
class Track:
    """One person through a clip.

    Attributes:
        faces: one entry a frame; None where the person was not found.
        frame_size: height and width of the frames, px.
    """

    faces: tuple[Face | None, ...]
    frame_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.faces)

    @property
    def found(self) -> np.ndarray:
        """[N] bool: whether the person was found."""
        return np.array([face is not None for face in self.faces], dtype=bool)


@dataclass
class _Person:
    """The sightings of one person so far: frame number -> face."""

    sightings: dict[int, Face] = field(default_factory=dict)

    @property
    def last(self) -> tuple[int, Face]:
        frame = next(reversed(self.sightings))
        return frame, self.sightings[frame]

    @property
    def weight(self) -> float:
        """How long and how large the person is seen: the sides of their boxes, summed over the clip."""
        return sum(face.side for face in self.sightings.values())

    @property
    def middle(self) -> float:
        """Median horizontal position, px."""
        return float(np.median([face.centre[0] for face in self.sightings.values()]))


def track_faces(
    detections: Sequence[Sequence[Face]], frame_size: tuple[int, int], select: str = "largest", index: int = 0
) -> Track:
    """Follow one person through the detections of a clip.

    The choice looks at the whole clip: the person seen longest and largest, not whoever leads in the first frame.

    Args:
        detections: the faces found in each frame.
        frame_size: height and width of the frames, px.
        select: "largest", "left" or "right" (the outermost of those seen for a good part of the clip), or "index".
        index: which person, counted from the largest, where `select` is "index".

    Raises:
        NoFaceError: no face in any frame, or fewer people than `index` asks for.
        ValueError: an unknown `select`.
    """
    if select not in SELECT:
        raise ValueError(f"select: expected one of {', '.join(SELECT)}, got {select!r}.")
    people = sorted(associate(detections), key=lambda person: -person.weight)
    if not people:
        raise NoFaceError(
            f"No face was found in any of the {len(detections)} frames. Choose frames that show a face of at least "
            "some 40 px, lower the detector's min_face or thresholds, or give already cropped portraits."
        )
    person = _choose(people, select, index)
    return Track(tuple(person.sightings.get(n) for n in range(len(detections))), frame_size)


def associate(detections: Sequence[Sequence[Face]]) -> list[_Person]:
    """Link the faces of successive frames into people, the best-fitting pairs first."""
    people: list[_Person] = []
    for n, faces in enumerate(detections):
        pairs = [
            (cost, p, f)
            for p, person in enumerate(people)
            for f, face in enumerate(faces)
            if (cost := _cost(person, n, face)) is not None
        ]
        linked: dict[int, int] = {}
        for _, p, f in sorted(pairs):
            if f not in linked and p not in linked.values():
                linked[f] = p
        for f, face in enumerate(faces):
            if f in linked:
                people[linked[f]].sightings[n] = face
            else:
                people.append(_Person({n: face}))
    return people


def overlap(a: Face, b: Face) -> float:
    """Intersection over union of two boxes, 0..1."""
    width = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    height = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    common = max(width, 0.0) * max(height, 0.0)
    return common / max(a.side**2 + b.side**2 - common, 1e-9)


def _cost(person: _Person, frame: int, face: Face) -> float | None:
    """How badly `face` continues `person`, or None where it cannot be theirs."""
    last_frame, last = person.last
    side = max(min(last.side, face.side), 1e-6)
    distance = float(np.hypot(face.centre[0] - last.centre[0], face.centre[1] - last.centre[1])) / side
    zoom = max(last.side, face.side) / side
    reach = min(MAX_STEP + STEP_PER_MISS * (frame - last_frame - 1), MAX_REACH)
    if distance > reach or zoom > MAX_ZOOM:
        return None
    return distance + float(np.log2(zoom)) + 1.0 - overlap(last, face)


def _choose(people: list[_Person], select: str, index: int) -> _Person:
    """One of the people, who come largest first."""
    if select == "index":
        if not 0 <= index < len(people):
            raise NoFaceError(
                f"Person {index} was asked for, found {len(people)} (0 to {len(people) - 1}, the largest first)."
            )
        return people[index]
    longest = max(len(person.sightings) for person in people)
    present = [person for person in people if len(person.sightings) >= MIN_PRESENCE * longest]
    if select == "left":
        return min(present, key=lambda person: person.middle)
    if select == "right":
        return max(present, key=lambda person: person.middle)
    return people[0]
