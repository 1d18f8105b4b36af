"""What one pass over a clip leaves behind: faces with what they look like, and cuts. No frame is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ..errors import FrameError
from ..frames import check_finite, check_frames
from .appearance import describe
from .cuts import find_cuts, thumbnails
from .face import Face, FaceDetector
from .track import People, Track, find_people


@dataclass(frozen=True, eq=False)
class Sightings:
    """All that tracking needs to know of a clip.

    Attributes:
        faces: the faces found in each frame.
        frame_size: height and width of the frames, px.
        cuts: [N] bool, which frames begin a new shot.
    """

    faces: tuple[tuple[Face, ...], ...]
    frame_size: tuple[int, int]
    cuts: np.ndarray

    def __len__(self) -> int:
        return len(self.faces)

    def people(self) -> People:
        """Everybody in the clip, the largest first.

        Raises:
            NoFaceError: no face in any frame.
        """
        return find_people(self.faces, self.frame_size, self.cuts)

    def of_each_frame(self) -> People:
        """The largest face of every frame as one person, each frame a shot of its own: of pictures that are no clip.

        Raises:
            NoFaceError: no face in any frame.
        """
        sure = [[face for face in faces if face.sure] for faces in self.faces]
        if not any(sure):
            return find_people(sure, self.frame_size)  # which says so
        largest = tuple(max(faces, key=lambda face: face.side, default=None) for faces in sure)
        return People((Track(largest, self.frame_size, np.arange(len(self)) > 0),))


class TrackBuilder:
    """Takes a clip chunk by chunk and keeps a few hundred bytes a frame.

    Args:
        detector: what finds the faces.
    """

    def __init__(self, detector: FaceDetector) -> None:
        self._detector = detector
        self._faces: list[tuple[Face, ...]] = []
        self._thumbs: list[np.ndarray] = []
        self._size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self._faces)

    def add(self, frames: Tensor, faces: Sequence[Sequence[Face]] | None = None) -> None:
        """Look at the next frames.

        Args:
            frames: [n, H, W, 3] uint8 or floating point.
            faces: those in the frames where they are known; the detector finds them if None.

        Raises:
            FrameError: frames of another size than those before, that are no frames, or with NaN or infinite values.
        """
        frames = check_frames(frames)
        size = (int(frames.shape[1]), int(frames.shape[2]))
        if self._size not in (None, size):
            assert self._size is not None
            raise FrameError(
                f"frames: expected {self._size[1]}x{self._size[0]} as before, got {size[1]}x{size[0]}. The frames of "
                "one clip have one size."
            )
        check_finite(frames, start=len(self))
        self._size = size
        self._thumbs.append(thumbnails(frames))
        found = self._detector.detect(frames) if faces is None else faces
        for frame, here in zip(frames, found, strict=True):
            self._faces.append(
                tuple(face if face.look is not None else replace(face, look=describe(frame, face)) for face in here)
            )

    def sightings(self) -> Sightings:
        """What was seen so far.

        Raises:
            FrameError: no frame was added.
        """
        if self._size is None:
            raise FrameError("frames: expected at least one, got none.")
        return Sightings(tuple(self._faces), self._size, find_cuts(np.concatenate(self._thumbs)))
