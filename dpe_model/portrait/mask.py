"""Soft masks in the crop's own square: 1 where the edited picture shows, exactly 0 before the crop's border."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import NoFaceError, OptionError
from .crop import Crop
from .detail import ramp
from .warp import gaussian_blur

BORDER = 0.02
"""Width of the rim of every mask that is exactly 0, in sides of the crop."""
BORDER_FEATHER = 0.06
"""Width over which a face mask that reaches the rim falls off to it."""

# A face in eye-to-mouth distances: x to the viewer's right, y down from the eye line, z towards the viewer. The
# outline's points lie well behind the features, which is what makes a turned face narrow on its far side.
FEATURES = np.array([[-0.5, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.58, 0.45], [-0.42, 1.0, 0.05], [0.42, 1.0, 0.05]])
"""Eyes, nose tip and mouth corners, as a `Face` has them."""
_SIDE = np.array(
    [
        [0.45, -1.0, -0.3],
        [0.78, -0.65, -0.45],
        [0.92, -0.1, -0.55],
        [0.94, 0.45, -0.6],
        [0.87, 1.05, -0.5],
        [0.66, 1.6, -0.25],
        [0.32, 1.96, -0.05],
    ]
)
OUTLINE = np.concatenate(
    [
        _SIDE,
        _SIDE * (-1.0, 1.0, 1.0),
        [[0.0, -1.1, -0.2], [0.0, 2.05, 0.0], [0.0, -0.35, 0.1], [0.0, 0.58, 0.45], [0.0, 1.05, 0.2], [0.0, 1.8, 0.1]],
    ]
)
"""Forehead to chin along both sides, then the profile."""
JAW = np.clip((OUTLINE[:, 1] - 1.0) / 0.8, 0.0, 1.0)
"""How far each point of the outline goes down with the chin."""
FLATNESS = 0.5
"""How strongly a face is taken to be frontal where its five landmarks leave that open."""
INSIDE = 0.25
"""Share of the soft edge that lies inside the outline."""
DIRECTIONS = 48
"""Tangents that make up the outline's smooth convex shape."""
CHIN_AT, JAW_REACH, JAW_STEP, JAW_WIDTH = 1.85, 0.6, 0.05, 0.4
"""Where a chin that went down is looked for: from where it is at rest, how far down, in which steps, how far to either
side."""
JAW_CHANGE = 0.03
"""Change of a row from which it begins to count as moved by the jaw; twice as much counts in full."""
PARSED_LOW, PARSED_HIGH = 0.08, 0.55
"""Blurred certainty of a face at which its mask begins and is full."""
GROWTH = 0.2
"""How much farther a parsed mask reaches for each 1 it is to grow, in sides of the crop."""
SHAPE_SIZE = 128
"""Side of the square in which shapes are drawn that are softer than its pixels, px."""


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


def face_mask(
    crop: Crop,
    size: int | None = None,
    grow: float = 1.0,
    feather: float = 0.12,
    jaw: np.ndarray | float = 0.0,
) -> Tensor:
    """The face from forehead to chin: the soft outline of a head turned as the five landmarks say.

    Args:
        crop: with landmarks.
        size: side of the masks, px; the crop's own if None.
        grow: makes the shape larger (above 1) or smaller about its centre.
        feather: width of the soft edge, a quarter of it inside the outline, in sides of the crop.
        jaw: how much lower than at rest the chin may be, one for all or [N], in eye-to-mouth distances.

    Returns:
        [N, size, size] float32 in 0..1, exactly 0 in a rim along the crop's border.

    Raises:
        NoFaceError: the crop carries no landmarks.
    """
    _check_fractions(feather=feather)
    if not 0.1 <= grow <= 4.0:
        raise OptionError(f"grow: expected 0.1..4, got {grow}.")
    if crop.landmarks is None:
        raise NoFaceError("A face mask needs landmarks, and this crop has none. Use the feathered crop instead.")
    size = crop.size if size is None else size
    rim = feather_mask(size, BORDER_FEATHER)[0].numpy()
    jaws = np.broadcast_to(jaw, len(crop))
    masks = [
        _outline_mask(points, size, grow, feather, float(opened)) * rim
        for points, opened in zip(crop.landmarks, jaws, strict=True)
    ]
    return torch.from_numpy(np.stack(masks).astype(np.float32))


def head_pose(landmarks: np.ndarray) -> np.ndarray:
    """The scaled orthographic view under which the features of a head come closest to the landmarks.

    An affine view is fitted by least squares, leaning towards the frontal one, and made a rotation and a scale (the
    nearest by singular values).

    Args:
        landmarks: [5, 2] in any unit.

    Returns:
        [2, 4]: from a head's coordinates (x, y, z, 1) to the picture's.
    """
    middle = FEATURES.mean(0)
    model, seen = FEATURES - middle, landmarks - landmarks.mean(0)
    moments = model.T @ model
    moments[2, 2] *= 1.0 + FLATNESS
    view = np.linalg.solve(moments, model.T @ seen).T
    u, scales, v = np.linalg.svd(view, full_matrices=False)
    view = max(float(scales.mean()), 1e-3) * (u @ v)
    return np.concatenate([view, (landmarks.mean(0) - view @ middle)[:, None]], 1)


def jaw_drop(change: Tensor, landmarks: np.ndarray) -> float:
    """How much lower than at rest an edit puts the chin, told from what it changed below the face.

    Args:
        change: [s, s] from `change_map`.
        landmarks: [5, 2] of the face before the edit, in the unit square.

    Returns:
        Eye-to-mouth distances, 0..`JAW_REACH`.
    """
    pose = head_pose(landmarks)
    down = CHIN_AT + JAW_STEP * (np.arange(round(JAW_REACH / JAW_STEP)) + 0.5)
    across = np.linspace(-JAW_WIDTH, JAW_WIDTH, 9)
    x, y = np.meshgrid(across, down)
    places = np.stack([x, y, np.zeros_like(x), np.ones_like(x)], -1) @ pose.T
    grid = torch.from_numpy((2.0 * places - 1.0).astype(np.float32))[None].to(change.device)
    rows = F.grid_sample(change[None, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    moved = _smoothstep(rows[0, 0].mean(1).cpu().numpy() / JAW_CHANGE - 1.0)
    return float(moved.sum() * JAW_STEP)


def parsed_mask(face: Tensor, feather: float, grow: float) -> Tensor:
    """A soft mask from a parsing network's view of the face.

    Args:
        face: [s, s] how surely each place is face, 0..1.
        feather: width of the soft edge, in sides of the crop.
        grow: 1 keeps to the face; above, the mask reaches farther out, below less far, by `GROWTH` sides for each 1.

    Returns:
        [s, s] in 0..1, exactly 0 in a rim along the crop's border.
    """
    size = len(face)
    reach = round(abs(grow - 1.0) * GROWTH * size)
    if reach:
        planes = face[None, None] if grow > 1.0 else -face[None, None]
        planes = F.max_pool2d(planes, 2 * reach + 1, 1, reach)
        face = planes[0, 0] if grow > 1.0 else -planes[0, 0]
    # A step blurred by sigma rises from LOW to HIGH of its height within 1.5 sigma.
    blurred = gaussian_blur(face, max(feather * size / 1.5, 0.7))
    rim = feather_mask(size, BORDER_FEATHER)[0].to(face.device)
    return ramp(blurred, PARSED_LOW, PARSED_HIGH) * rim


def _outline_mask(landmarks: np.ndarray, size: int, grow: float, feather: float, jaw: float) -> np.ndarray:
    """One face's soft shape [size, size] from its landmarks [5, 2] in the unit square."""
    pose = head_pose(landmarks)
    outline = OUTLINE.copy()
    outline[:, 1] += jaw * JAW
    points = outline @ pose[:, :3].T + pose[:, 3]
    centre = (points.min(0) + points.max(0)) / 2
    points = centre + grow * (points - centre)
    angle = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    normals = np.stack([np.cos(angle), np.sin(angle)], 1)
    reach = (points @ normals.T).max(0)
    at = ((np.arange(size) + 0.5) / size).astype(np.float32)
    beyond = np.full((size, size), -np.inf, np.float32)
    for normal, limit in zip(normals.astype(np.float32), reach.astype(np.float32), strict=True):
        np.maximum(beyond, (at * normal[0] - limit)[None, :] + (at * normal[1])[:, None], out=beyond)
    return _smoothstep(1.0 - INSIDE - beyond / max(feather, 1e-6))


def _smoothstep(t: np.ndarray) -> np.ndarray:
    """0 up to 0, 1 from 1 on, with zero slope at both."""
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _check_fractions(**values: float) -> None:
    for name, value in values.items():
        if not 0.0 <= value <= 0.5:
            raise OptionError(f"{name}: expected 0..0.5 (in sides of the crop), got {value}.")
