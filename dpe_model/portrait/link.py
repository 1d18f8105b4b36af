"""Whose face is whose: the faces found in the frames of a clip, linked into people.

First pass, frame by frame: faces are assigned to the people in view all at once, by where each person is heading and
what they look like, so that people may cross. Whoever is not seen for a while, and everybody at a cut, is let go.
Second pass: pieces that look alike and never show at the same time are put together, the most alike first, so that a
person who leaves and comes back, or is back after a cut, stays the same person.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .appearance import difference, differences
from .face import Face
from .groups import Groups

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
    long = [piece for piece in pieces if len(piece.sightings) >= least]
    people = [[piece] for piece in pieces if len(piece.sightings) < least]
    groups = Groups(*_compared(long))
    while (pair := groups.closest()) is not None:
        groups.join(*pair)
    for members in groups.members:
        if members:
            people.append(sorted((long[k] for k in members), key=lambda piece: piece.first_frame))
    return people


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
    from scipy.optimize import linear_sum_assignment  # half a second, which jobs on portraits need not wait for

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


def _compared(pieces: list[Piece]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `Groups` takes: how far apart the pieces are (1 is too far), what each pair counts, which must not meet."""
    known = np.array([piece.looks is not None for piece in pieces], dtype=bool)
    counts = np.array([len(piece.sightings) for piece in pieces], dtype=np.float32)
    shot = np.array([piece.shot for piece in pieces])
    apart = _looks_apart(pieces, known)
    never = np.zeros(apart.shape, dtype=bool)
    together: list[float] = []
    guess = np.zeros(apart.shape, dtype=bool)
    for a, b in _pairs_of_a_shot(shot):
        one, other = pieces[a], pieces[b]
        met, clear = _met(one, other)
        first, second = (one, other) if one.first_frame < other.first_frame else (other, one)
        looks = bool(known[a] and known[b])
        never[a, b] = never[b, a] = met > 0 or not _reachable(first, second, looks)
        guess[a, b] = guess[b, a] = not looks
        if clear >= CONFIRMED and looks:
            together.append(float(apart[a, b]))
    limit = min(SAME_LOOK, APART * min(together)) if together else SAME_LOOK
    bound = np.where(shot[:, None] == shot[None], limit, min(limit, SAME_LOOK_OTHER_SHOT))
    share = np.minimum(counts[:, None], counts[None])
    both = known[:, None] & known[None]
    weight = np.where(both, share, np.where(guess, 1e-3, 0.0)).astype(np.float32)
    # Where looks are unknown, being within reach is halfway good.
    far = np.where(both, apart / np.maximum(bound, 1e-6), 0.5)
    return (far * weight).astype(np.float32), weight, never


def _looks_apart(pieces: list[Piece], known: np.ndarray) -> np.ndarray:
    """Differences of the mean looks, less what so few sightings differ by chance: [n, n]."""
    size = next((len(piece.looks) for piece in pieces if piece.looks is not None), 1)
    looks = np.stack([np.zeros(size) if p.looks is None else p.looks for p in pieces] or [np.zeros(size)])
    chance = LOOK_NOISE / 2.0 / np.array([max(piece.looked, 1) for piece in pieces] or [1])
    squared = differences(looks, looks) ** 2 - chance[:, None] - chance[None]
    return np.sqrt(np.maximum(squared, 0.0))[: len(pieces), : len(pieces)]


def _pairs_of_a_shot(shot: np.ndarray) -> Iterator[tuple[int, int]]:
    for number in np.unique(shot):
        here = np.flatnonzero(shot == number).tolist()
        for k, a in enumerate(here):
            for b in here[k + 1 :]:
                yield a, b


def _met(one: Piece, other: Piece) -> tuple[int, int]:
    """In how many frames two pieces are seen together, and in how many of these apart from each other."""
    if one.first_frame > other.last_frame or other.first_frame > one.last_frame:
        return 0, 0
    frames = [n for n in one.sightings if n in other.sightings]
    return len(frames), sum(overlap(one.sightings[n], other.sightings[n]) < 0.05 for n in frames)


def _reachable(first: Piece, second: Piece, looks: bool) -> bool:
    """Whether a person can get from the end of one piece to the beginning of another in the same shot."""
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
