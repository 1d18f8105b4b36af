"""Following one person through a clip: who is in it, and which of the faces found in each frame is theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..errors import NoFaceError
from .choose import SELECT, choose
from .face import Face
from .link import associate

__all__ = ["SELECT", "People", "Track", "find_people"]

FLEETING = 3
"""Seen in fewer frames of a clip, it is no person: a detector's slip."""
CLIP = 10
"""Frames from which `FLEETING` applies."""


@dataclass(frozen=True, eq=False)
class Track:
    """One person through a clip.

    Attributes:
        faces: one entry a frame; None where the person was not found.
        frame_size: height and width of the frames, px.
        cuts: [N] bool, which frames begin a new shot; None where there are no cuts.
        person: the person's number, counted from the largest.
    """

    faces: tuple[Face | None, ...]
    frame_size: tuple[int, int]
    cuts: np.ndarray | None = None
    person: int = 0

    def __len__(self) -> int:
        return len(self.faces)

    @property
    def found(self) -> np.ndarray:
        """[N] bool: whether the person was found."""
        return np.array([face is not None for face in self.faces], dtype=bool)

    @property
    def shots(self) -> np.ndarray:
        """[N] int: the shot each frame belongs to."""
        return np.zeros(len(self), dtype=int) if self.cuts is None else np.cumsum(self.cuts)

    @property
    def seen(self) -> list[Face]:
        """The faces found."""
        return [face for face in self.faces if face is not None]


@dataclass(frozen=True, eq=False)
class People:
    """Everybody in a clip, who is seen longest and largest first."""

    tracks: tuple[Track, ...]

    def __len__(self) -> int:
        return len(self.tracks)

    def choose(
        self,
        select: str = "largest",
        index: int = 0,
        position: tuple[float, float] = (0.5, 0.5),
        mask: Tensor | None = None,
    ) -> Track:
        """One of them. The choice looks at the whole clip: not whoever leads in the first frame.

        Args:
            select: "largest", the one seen longest and largest; "left" or "right", the outermost of those seen for a
                good part of the clip; "index"; "position", whose face first comes to that point, else the nearest;
                "mask", whose face lies under it.
            index: which one, counted from the largest, where `select` is "index".
            position: x and y in 0..1 of the frame, where `select` is "position".
            mask: [H, W], [n, H, W] or [n, 1, H, W] of n = 1 or N full frames, any size, where `select` is "mask"; above
                0.5 counts.

        Raises:
            NoFaceError: fewer people than `index` asks for, or nobody under the mask.
            OptionError: an unknown `select`, a position beyond the frame, a mask of the wrong layout.
        """
        return self.tracks[choose([track.faces for track in self.tracks], self.size, select, index, position, mask)]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames, px."""
        return self.tracks[0].frame_size


def find_people(
    detections: Sequence[Sequence[Face]], frame_size: tuple[int, int], cuts: np.ndarray | None = None
) -> People:
    """Everybody in a clip, from the faces found in each frame (see `link`).

    Raises:
        NoFaceError: no face in any frame.
    """
    people = sorted(associate(detections, cuts), key=lambda person: -sum(face.side for face in person.values()))
    if not people:
        raise NoFaceError(
            f"No face was found in any of the {len(detections)} frames. Choose frames that show a face of at "
            "least some 4 % of their shorter side, crop the clip around the person, try another detector, or give "
            "portraits that are cropped already."
        )
    if len(detections) >= CLIP:
        people = [person for person in people if len(person) >= FLEETING] or people[:1]
    every = range(len(detections))
    return People(
        tuple(Track(tuple(person.get(n) for n in every), frame_size, cuts, k) for k, person in enumerate(people))
    )
