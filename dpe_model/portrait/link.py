"""Whose face is whose: the faces found in the frames of a clip, linked into people.

First pass, frame by frame: faces are assigned to the people in view all at once, by where each person is heading and
what they look like, so that people may cross. Whoever is not seen for a while, and everybody at a cut, is let go.
Second pass: pieces that look alike and never show at the same time are put together, the most alike first, so that a
person who leaves and comes back, or is back after a cut, stays the same person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from .appearance import difference
from .face import Face

MAX_STEP = 1.0
"""Farthest a face may be from where it is expected in the next frame, in sides of its box; farther is somebody else."""
STEP_PER_MISS = 0.25
"""What each frame in which the face was not found adds to `MAX_STEP`."""
MAX_REACH = 4.0
"""Farthest a face may be from where it was last seen, where looks are unknown, in sides of its box."""
MAX_ZOOM = 2.0
"""Most a face's side may grow or shrink between two sightings."""
COAST = 12
"""Frames a person not found is still expected where they were heading."""
HEADING = 8
"""Frames a movement is expected to go on."""
NEAR = 0.3
"""Overlap with the expected box from which a face continues a person however it looks."""
UNSURE_OVERLAP = 0.4
"""Overlap with the expected box from which a face the detector is not sure of continues a person."""
CONFIRMED = 3
"""Sightings the detector was sure of that make a person whom unsure ones may continue."""
LOOK_WEIGHT = 4.0
"""Of looks beside distance in box sides, in the cost of a link."""
LOOK_AT_ONCE = 0.36
"""Most that one sighting may differ from the person: for one person it is under 0.31, for two over 0.4."""
SAME_LOOK = 0.22
"""Most that two pieces of one person may differ, averaged over each: for one it is under 0.14, for two over 0.25."""
SAME_LOOK_OTHER_SHOT = 0.19
"""The same across a cut, where nothing else speaks for it."""
APART = 0.6
"""People in view together set the measure: pieces must differ less than this part of what those differ."""
LOOK_NOISE = 0.022
"""Squared difference of two single sightings of one person."""
SLOW_RETURN = 25
"""Frames after which a person may come back anywhere."""
MANY = 400
"""Pieces above which those of one or two frames stay on their own."""
FORBIDDEN = 1e6


@dataclass(eq=False)
class Piece:
    """Sightings of one person without a doubt between them: frame number -> face, in order."""

    shot: int
    sightings: dict[int, Face] = field(default_factory=dict)
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))
    recent: np.ndarray | None = None
    looks: np.ndarray | None = None
    looked: int = 0

    @property
    def first_frame(self) -> int:
        """Of the first sighting."""
        return next(iter(self.sightings))

    @property
    def last_frame(self) -> int:
        """Of the last sighting."""
        return next(reversed(self.sightings))

    @property
    def last(self) -> Face:
        """The last sighting."""
        return self.sightings[self.last_frame]

    @property
    def confirmed(self) -> bool:
        """Whether the detector was sure often enough."""
        sure = 0
        for face in self.sightings.values():
            sure += face.sure
            if sure >= CONFIRMED:
                return True
        return False

    def expected(self, frame: int) -> np.ndarray:
        """Centre of the face in that frame, px."""
        return np.array(self.last.centre) + self.velocity * min(frame - self.last_frame, HEADING)

    def add(self, frame: int, face: Face, alone: bool) -> None:
        """The next sighting; one in somebody's way says nothing about looks."""
        if self.sightings:
            step = (np.array(face.centre) - self.last.centre) / (frame - self.last_frame)
            self.velocity = step if len(self.sightings) == 1 else 0.5 * self.velocity + 0.5 * step
        self.sightings[frame] = face
        if face.look is None or not (alone or self.looks is None):
            return
        look = face.look.astype(np.float32)
        self.recent = look if self.recent is None else 0.9 * self.recent + 0.1 * look
        self.looks = look if self.looks is None else self.looks + (look - self.looks) / (self.looked + 1)
        self.looked += 1


def associate(detections: Sequence[Sequence[Face]], cuts: np.ndarray | None = None) -> list[dict[int, Face]]:
    """The people of a clip, each as frame number -> face, in no particular order.

    Args:
        detections: the faces found in each frame.
        cuts: [N] bool, which frames begin a new shot; none if None.
    """
    if cuts is None:
        cuts = np.zeros(len(detections), dtype=bool)
    return [_sightings(pieces) for pieces in merge(link(detections, cuts))]


def link(detections: Sequence[Sequence[Face]], cuts: np.ndarray) -> list[Piece]:
    """First pass: faces of successive frames linked into pieces."""
    done: list[Piece] = []
    open_: list[Piece] = []
    shot = 0
    for n, faces in enumerate(detections):
        if cuts[n]:
            shot += 1
            done, open_ = done + open_, []
        done += [piece for piece in open_ if n - piece.last_frame > COAST]
        open_ = [piece for piece in open_ if n - piece.last_frame <= COAST]
        sure = [face for face in faces if face.sure]
        taken = _assign(open_, n, sure)
        for face, piece in zip(sure, taken, strict=True):
            if piece is None:
                piece = Piece(shot)
                open_.append(piece)
            piece.add(n, face, _alone(face, faces))
        rest = [piece for piece in open_ if piece.last_frame < n and piece.confirmed]
        unsure = [face for face in faces if not face.sure]
        for face, piece in zip(unsure, _assign(rest, n, unsure, UNSURE_OVERLAP), strict=True):
            if piece is not None:
                piece.add(n, face, _alone(face, faces))
    return done + open_


def merge(pieces: list[Piece]) -> list[list[Piece]]:
    """Second pass: the pieces of each person, in order."""
    least = CONFIRMED if len(pieces) > MANY else 1
    people = [[piece] for piece in pieces]
    limit = SAME_LOOK if (apart := _least_apart(pieces)) is None else min(SAME_LOOK, APART * apart)
    cost = np.full((len(people), len(people)), FORBIDDEN)
    for a in range(len(people)):
        for b in range(a + 1, len(people)):
            if min(len(pieces[a].sightings), len(pieces[b].sightings)) >= least:
                cost[a, b] = _difference(people[a], people[b], limit)
    while cost.size and cost.min() < FORBIDDEN:
        a, b = (int(v) for v in np.unravel_index(cost.argmin(), cost.shape))
        people[a] = sorted(people[a] + people[b], key=lambda piece: piece.first_frame)
        people[b] = []
        cost[b, :] = cost[:, b] = FORBIDDEN
        for other in range(len(people)):
            if other != a and people[other]:
                low, high = min(a, other), max(a, other)
                if cost[low, high] < FORBIDDEN:
                    cost[low, high] = _difference(people[a], people[other], limit)
    return [person for person in people if person]


def overlap(a: Face, b: Face) -> float:
    """Intersection over union of two boxes, 0..1."""
    return _overlap(np.array(a.box), np.array(b.box))


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    common = float(np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0.0)))
    both = float(np.prod(np.maximum(a[2:] - a[:2], 0.0)) + np.prod(np.maximum(b[2:] - b[:2], 0.0)))
    return common / max(both - common, 1e-9)


def _alone(face: Face, faces: Sequence[Face]) -> bool:
    return all(other is face or overlap(face, other) < 0.05 for other in faces)


def _assign(pieces: list[Piece], frame: int, faces: Sequence[Face], least_overlap: float = 0.0) -> list[Piece | None]:
    """The piece each face continues, all chosen together at the least cost."""
    taken: list[Piece | None] = [None] * len(faces)
    if not pieces or not faces:
        return taken
    cost = np.array([[_cost(piece, frame, face, least_overlap) for face in faces] for piece in pieces])
    for p, f in zip(*linear_sum_assignment(cost), strict=True):
        if cost[p, f] < FORBIDDEN:
            taken[f] = pieces[p]
    return taken


def _cost(piece: Piece, frame: int, face: Face, least_overlap: float) -> float:
    """How badly `face` continues the piece; `FORBIDDEN` where it cannot."""
    last, late = piece.last, frame - piece.last_frame
    side = max(min(last.side, face.side), 1e-6)
    expected = piece.expected(frame)
    # One step may also be the end of a movement.
    distance = min(_distance(face, expected), _distance(face, np.array(last.centre))) / side
    zoom = max(last.side, face.side) / side
    if distance > MAX_STEP + STEP_PER_MISS * (late - 1) or zoom > MAX_ZOOM:
        return FORBIDDEN
    half = np.array([last.box[2] - last.box[0], last.box[3] - last.box[1]]) / 2
    common = _overlap(np.concatenate([expected - half, expected + half]), np.array(face.box))
    common = max(common, overlap(last, face)) if late == 1 else common
    if common < least_overlap:
        return FORBIDDEN
    look = 0.0
    if piece.recent is not None and face.look is not None:
        look = difference(piece.recent, face.look)
        if look > LOOK_AT_ONCE and (late > 2 or common < NEAR):
            return FORBIDDEN
    return _distance(face, expected) / side + float(np.log2(zoom)) + 1.0 - common + LOOK_WEIGHT * look


def _distance(face: Face, point: np.ndarray) -> float:
    return float(np.hypot(face.centre[0] - point[0], face.centre[1] - point[1]))


def _least_apart(pieces: list[Piece]) -> float | None:
    """How much the two most alike people who are in view together differ; None where nobody is."""
    found: list[float] = []
    for k, a in enumerate(pieces):
        for b in pieces[k + 1 :]:
            if a.looks is None or b.looks is None or a.shot != b.shot:
                continue
            together = [n for n in a.sightings if n in b.sightings]
            apart = [n for n in together if overlap(a.sightings[n], b.sightings[n]) < 0.05]
            if len(apart) >= CONFIRMED:
                found.append(_look_difference(a, b))
    return min(found) if found else None


def _look_difference(a: Piece, b: Piece) -> float:
    """Of the mean looks, less what so few sightings differ by chance."""
    assert a.looks is not None
    assert b.looks is not None
    chance = LOOK_NOISE * (1.0 / a.looked + 1.0 / b.looked) / 2
    return float(np.sqrt(max(difference(a.looks, b.looks) ** 2 - chance, 0.0)))


def _difference(one: list[Piece], other: list[Piece], limit: float) -> float:
    """How much two people look apart on average, `FORBIDDEN` where they cannot be one."""
    total, weight, known = 0.0, 0.0, False
    for a in one:
        for b in other:
            first, second = (a, b) if a.first_frame < b.first_frame else (b, a)
            if second.first_frame <= first.last_frame:
                if any(n in second.sightings for n in first.sightings):
                    return FORBIDDEN
                continue
            looks = first.looks is not None and second.looks is not None
            if not _reachable(first, second, looks):
                return FORBIDDEN
            if looks:
                share = min(len(a.sightings), len(b.sightings))
                bound = limit if first.shot == second.shot else min(limit, SAME_LOOK_OTHER_SHOT)
                total += share * _look_difference(a, b) / bound
                weight += share
            known = known or (not looks and first.shot == second.shot)
    if weight:
        return total / weight if total < weight else FORBIDDEN
    return 0.5 if known else FORBIDDEN


def _reachable(first: Piece, second: Piece, looks: bool) -> bool:
    """Whether a person can get from the end of one piece to the beginning of another."""
    if first.shot != second.shot:
        return True
    late = second.first_frame - first.last_frame
    if looks and late > SLOW_RETURN:
        return True
    face = second.sightings[second.first_frame]
    side = max(min(face.side, first.last.side), 1e-6)
    distance = min(_distance(face, np.array(first.last.centre)), _distance(face, first.expected(second.first_frame)))
    reach = MAX_STEP + STEP_PER_MISS * (late - 1)
    return distance / side <= (reach if looks else min(reach, MAX_REACH)) and max(
        face.side, first.last.side
    ) <= MAX_ZOOM * side * (2.0 if looks else 1.0)


def _sightings(pieces: list[Piece]) -> dict[int, Face]:
    every = [item for piece in pieces for item in piece.sightings.items()]
    return dict(sorted(every, key=lambda item: item[0]))
