"""Square crops that frame a face as the network's training pictures do, and the exact way back."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import FrameError, NoFaceError, OptionError
from ..frames import MIN_SIDE, check_frames
from ..gaps import filled, nearest
from .face import Face
from .smooth import follow, holding, segments, short_gaps, smooth, without_outliers
from .track import Track
from .warp import invert, warp

logger = logging.getLogger(__name__)

FRAMINGS = ("static", "follow")
NO_FACE = ("auto", "hold", "pass", "stop")

SCALE = 1.85
"""Side of the crop in sides of the face box. With it and `ANCHOR` the eyes lie as they do in the authors' 256 px
portraits: 0.22 of the side apart, 0.46 of it below the top."""
MAX_SIDE = 8192
"""Largest side of portraits, px: more than any restorer makes, and little enough for a few to fit into memory."""
SCALES = (0.5, 10.0)
"""The least and the most it can be."""
ANCHOR = (0.5, 0.53)
"""Where the centre of the face box lies in the crop, (x, y) in its side."""
LANDMARK_SIGMA = 1.5
"""Smoothing of the landmarks a crop carries, frames (they place masks, which must not tremble)."""
MAX_RANGES = 8
"""Runs of frames an error names before it says how many more there are."""


@dataclass(frozen=True, eq=False)
class Crop:
    """Where the square crop lies in each frame of a clip.

    Attributes:
        matrix: [N, 2, 3] float64 similarity transforms: full-frame pixel coordinates (pixel centres at +0.5) to the
            unit square of the crop, 0..1.
        frame_size: height and width of the full frames, px.
        size: side of the crops, px, where none other is asked for.
        landmarks: [N, 5, 2] float64 in the unit square (order as in `Face`), lightly smoothed; None if unknown.
        edited: [N] bool: whether the frame is to be edited. False where there is no face under `no_face="pass"`, for
            long under "auto", and in shots that never show the person.
        faceless: [N] bool: whether the face was not found, and the frame is framed as those around it; None if unknown.
        part: [N] int: which part of the clip each frame belongs to, between which nothing is mixed (shots, and what
            lies before and after a long absence); None if all are one.
    """

    matrix: np.ndarray
    frame_size: tuple[int, int]
    size: int
    landmarks: np.ndarray | None
    edited: np.ndarray
    faceless: np.ndarray | None = None
    part: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.matrix)
        if self.matrix.shape != (n, 2, 3) or self.edited.shape != (n,):
            raise ValueError(
                f"Crop: expected matrix [N, 2, 3] and edited [N], got {self.matrix.shape}, {self.edited.shape}."
            )
        for name in ("faceless", "part"):
            given = getattr(self, name)
            if given is not None and given.shape != (n,):
                raise ValueError(f"Crop: expected {name} [{n}], got {given.shape}.")
        if self.landmarks is not None and self.landmarks.shape != (n, 5, 2):
            raise ValueError(f"Crop: expected landmarks [{n}, 5, 2], got {self.landmarks.shape}.")
        if not np.isfinite(self.matrix).all() or (n and np.abs(np.linalg.det(self.matrix[:, :, :2])).min() == 0.0):
            raise ValueError("Crop: expected finite matrices that can be inverted.")

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, frames: slice) -> Crop:
        """The crops of some frames, as for a chunk of a clip."""

        def taken(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[frames]

        return replace(
            self,
            matrix=self.matrix[frames],
            edited=self.edited[frames],
            landmarks=taken(self.landmarks),
            faceless=taken(self.faceless),
            part=taken(self.part),
        )

    def repeated(self, count: int) -> Crop:
        """The crop of one picture as that of a clip that shows nothing else, `count` frames long.

        Raises:
            ValueError: there is not exactly one crop, or a count below 1.
        """
        if len(self) != 1 or count < 1:
            raise ValueError(f"repeated: expected one crop and a count of at least 1, got {len(self)} and {count}.")

        def again(values: np.ndarray) -> np.ndarray:
            return np.repeat(values, count, axis=0)

        return replace(
            self,
            matrix=again(self.matrix),
            edited=again(self.edited),
            landmarks=None if self.landmarks is None else again(self.landmarks),
            faceless=None if self.faceless is None else again(self.faceless),
            part=None if self.part is None else again(self.part),
        )

    def resized(self, height: int, width: int) -> Crop:
        """The same crops in full frames that were enlarged or shrunk as a whole to `width` x `height` px.

        Raises:
            FrameError: the frames' shape differs by more than rounding to whole pixels.
        """
        if (height, width) == tuple(self.frame_size):
            return self
        if not same_shape((height, width), self.frame_size):
            raise FrameError(
                f"frames: expected {self.frame_size[1]}x{self.frame_size[0]}, the size the crop was made for, or these "
                f"frames enlarged or shrunk as a whole, got {width}x{height}. Do not cut, pad or stretch the full "
                "frames between crop and paste."
            )
        scale = math.sqrt(height * width / (self.frame_size[0] * self.frame_size[1]))
        matrix = self.matrix.copy()
        # Both sizes count pixels from the same corner, with centres at +0.5: where that corner lies does not change.
        matrix[:, :, :2] /= scale
        return replace(self, matrix=matrix, frame_size=(height, width))

    def parts(self) -> Iterator[slice]:
        """The runs of frames between which nothing is mixed, in order; together all frames."""
        edges = [0] if len(self) else []
        if self.part is not None:
            edges += [int(n) for n in np.flatnonzero(np.diff(self.part)) + 1]
        for start, stop in zip(edges, [*edges[1:], len(self)], strict=True):
            yield slice(start, stop)

    def pixel_matrix(self, size: int | None = None) -> np.ndarray:
        """[N, 2, 3]: full-frame pixels to pixels of a crop of side `size` (centres at +0.5 in both)."""
        return self.matrix * float(self.size if size is None else size)

    def inverse(self, size: int | None = None) -> np.ndarray:
        """[N, 2, 3]: pixels of a crop of side `size` to full-frame pixels, the inverse of `pixel_matrix` by algebra."""
        return invert(self.pixel_matrix(size))

    @property
    def faceless_frames(self) -> np.ndarray:
        """[K]: numbers of the frames that are known to show no face."""
        return np.array([], dtype=int) if self.faceless is None else np.flatnonzero(self.faceless)

    @property
    def sides(self) -> np.ndarray:
        """[N]: side of the crop in each frame, full-frame px."""
        return 1.0 / np.sqrt(np.abs(np.linalg.det(self.matrix[:, :, :2])))


def check_framing(scale: float, framing: str, no_face: str, size: int = MIN_SIDE) -> None:
    """Refuse what `frame_portraits` cannot use, before anybody looks for faces.

    Raises:
        OptionError: an unknown framing or policy, or a number out of range.
    """
    _check_choice("framing", framing, FRAMINGS)
    _check_choice("no_face", no_face, NO_FACE)
    low, high = SCALES
    if not low <= scale <= high:
        raise OptionError(f"scale: expected {low:g} to {high:g} sides of the face box, got {scale:g}.")
    if not MIN_SIDE <= size <= MAX_SIDE:
        raise OptionError(f"size: expected portraits of {MIN_SIDE} to {MAX_SIDE} px a side, got {size}.")


def frame_portraits(
    track: Track,
    scale: float = SCALE,
    framing: str = "static",
    size: int = 256,
    no_face: str = "auto",
    smoothing: float = 6.0,
    anchor: tuple[float, float] = ANCHOR,
) -> Crop:
    """Lay a square crop around the tracked face of each frame.

    Args:
        track: one person through the clip.
        scale: side of the crop in sides of the face box (the square of the box's area).
        framing: "static": one crop for the whole shot, at whole pixels, from the median face; "follow": centre and
            side follow the face, smoothed over the whole shot without lag.
        size: side of the crops, px.
        no_face: what to do with frames without a face. "hold": frame them as the frames around them in their shot;
            "pass": the same, flagged so that `Paster` leaves them untouched; "auto": up to 25 in a row, which a
            detector may have missed, are held, longer absences passed; "stop": raise. Shots that never show the person
            have no framing to hold: there "hold" is "pass".
        smoothing: standard deviation of the smoothing under "follow", frames; the side is smoothed twice as much.
        anchor: where the centre of the face box lies in the crop, (x, y) in its side.

    Raises:
        NoFaceError: a face in no frame at all, or under "stop" a frame without one.
        OptionError: an unknown framing or policy, or a number out of range.
    """
    check_framing(scale, framing, no_face, size)
    if not smoothing >= 0.0:
        raise OptionError(f"smoothing: expected at least 0 frames, got {smoothing:g}.")
    found = track.found
    corner, side = np.zeros((len(track), 2)), np.zeros(len(track))
    marks, seen = np.zeros((len(track), 5, 2)), np.zeros_like(found)
    number = np.zeros(len(track), dtype=np.int64)
    for k, (part, here) in enumerate(segments(track, absences=framing == "follow")):
        number[part] = k
        if not here.any():
            continue
        faces = [face for face in track.faces[part] if face is not None]
        seen[part] = True
        side[part], corner[part] = _framed(faces, here, scale, framing, smoothing, anchor)
        points = filled(np.array([face.landmarks for face in faces]).reshape(len(faces), 10), here)
        marks[part] = holding(smooth(points, LANDMARK_SIGMA, here), here).reshape(-1, 5, 2)
    edited = _edited(found, seen, track.shots, no_face)
    _check_found(found, edited, no_face)
    framed = nearest(seen)
    corner, side, marks = corner[framed], side[framed], marks[framed]
    return Crop(
        matrix=_box_matrix(corner, side),
        frame_size=track.frame_size,
        size=size,
        landmarks=(marks - corner[:, None]) / side[:, None, None],
        edited=edited,
        faceless=~found,
        part=number,
    )


def _framed(
    faces: list[Face],
    found: np.ndarray,
    scale: float,
    framing: str,
    smoothing: float,
    anchor: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Side [n] and upper left corner [n, 2] of the crops of one segment, px; `faces` are those of the found frames."""
    centre = filled(np.array([face.centre for face in faces]), found)
    side = scale * filled(np.array([face.side for face in faces]), found)
    if framing == "static":
        side = np.full_like(side, max(1.0, np.round(np.median(side[found]))))
        corner = np.round(np.median(centre[found], axis=0) - np.array(anchor) * side[0])
        return side, np.broadcast_to(corner, centre.shape)
    logs = smooth(without_outliers(np.log(np.maximum(side, 1.0))), 2 * smoothing, found)
    side = np.exp(holding(logs, found))
    centre = holding(follow(without_outliers(centre), smoothing, found), found)
    return side, centre - np.array(anchor) * side[:, None]


def crop_frames(frames: Tensor, crop: Crop, size: int | None = None) -> Tensor:
    """Cut the crops out of the full frames.

    Beyond the frame its border pixels are repeated. Where the crop is shrunk it is low-pass filtered first.

    Args:
        frames: [N, H, W, 3] uint8 or floating point, the frames `crop` belongs to.
        crop: one crop a frame.
        size: side of the crops, px; the crop's own if None.

    Returns:
        [N, size, size, 3] of the frames' dtype, on the CPU.

    Raises:
        FrameError: frames that do not fit the crop in number or size.
    """
    frames = check_frames(frames)
    check_fit(frames, crop)
    size = crop.size if size is None else size
    held = torch.uint8 if frames.dtype == torch.uint8 else torch.float32
    out = torch.empty(len(frames), size, size, 3, dtype=held)
    pictures = out.numpy()
    for n, matrix in enumerate(crop.pixel_matrix(size)):
        pictures[n] = warp(as_array(frames[n]), matrix, (size, size))
    return out.to(frames.dtype)


def check_fit(frames: Tensor, crop: Crop) -> None:
    """Raise a FrameError unless `crop` belongs to these frames [N, H, W, 3]."""
    if len(frames) != len(crop):
        raise FrameError(
            f"frames: expected {len(crop)}, one for each crop, got {len(frames)}. Take the crop that was made from "
            "these frames (of a chunk: crop[start:stop])."
        )
    if tuple(frames.shape[1:3]) != tuple(crop.frame_size):
        height, width = crop.frame_size
        raise FrameError(
            f"frames: expected {width}x{height}, the size the crop was made for, got "
            f"{frames.shape[2]}x{frames.shape[1]}. Do not resize the full frames between crop and paste."
        )


def same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (height, width), px, are of one shape, but for rounding to whole pixels.

    Where the longer sides are brought to one length, the shorter ones differ by less than a pixel of `one`.
    """
    return abs(one[0] * other[1] - one[1] * other[0]) < max(other)


def as_array(picture: Tensor) -> np.ndarray:
    """A picture as OpenCV takes it: uint8 or float32, on the CPU."""
    return np.ascontiguousarray((picture if picture.dtype == torch.uint8 else picture.float()).cpu().numpy())


def ranges(frames: np.ndarray) -> str:
    """Frame numbers as compact text: "0-3, 17 and 40-41"."""
    runs = np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1)
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    if len(texts) > MAX_RANGES:
        texts = [*texts[:MAX_RANGES], f"{len(texts) - MAX_RANGES} more runs"]
    return texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + " and " + texts[-1]


def _box_matrix(corner: np.ndarray, side: np.ndarray) -> np.ndarray:
    """[N, 2, 3] maps from pixels to the unit square, of upright squares at `corner` [N, 2] with `side` [N]."""
    matrix = np.zeros((len(side), 2, 3))
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1.0 / side
    matrix[:, :, 2] = -corner / side[:, None]
    return matrix


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise OptionError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}.")


def _edited(found: np.ndarray, seen: np.ndarray, shots: np.ndarray, no_face: str) -> np.ndarray:
    """[N] bool: the frames to be edited; `seen` are those of shots in which the person is found at all."""
    if no_face == "pass":
        return found
    return found | (seen & short_gaps(found, shots)) if no_face == "auto" else seen


def _check_found(found: np.ndarray, edited: np.ndarray, no_face: str) -> None:
    if not found.any():
        raise NoFaceError(
            f"No face was found in any of the {len(found)} frames. Choose frames that show the face, or give already "
            "cropped portraits."
        )
    if found.all():
        return
    if no_face == "stop":
        missing = np.flatnonzero(~found)
        raise NoFaceError(
            f"No face was found in {len(missing)} of {len(found)} frames ({ranges(missing)}). Cut these frames out, or "
            "choose what to do with them: 'auto' and 'hold' frame them as the frames around them, 'pass' leaves them "
            "untouched."
        )
    for fate, which in fates(found, edited):
        logger.warning("No face in %d of %d frames (%s): %s.", len(which), len(found), ranges(which), fate)


def fates(found: np.ndarray, edited: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """What becomes of frames without a face, in a word, with their numbers; those that befall none are left out.

    Args:
        found, edited: [N] bool, where the face was found and which frames are edited.
    """
    split = ("held", np.flatnonzero(~found & edited)), ("passed through untouched", np.flatnonzero(~found & ~edited))
    return [(fate, frames) for fate, frames in split if len(frames)]
