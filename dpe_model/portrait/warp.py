"""Resampling pictures under an affine map: sub-pixel positions, no aliasing, only the part that is needed.

Coordinates have pixel centres at +0.5; OpenCV puts them at whole numbers, which is converted here and nowhere else.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

CUBIC_REACH = 3
"""Source pixels beyond a sampled position that cubic interpolation may read, and one for rounding."""
ANTIALIAS = 0.45
"""Blur before shrinking, in pixels of the result. On a zone plate 0.4 to 0.5 comes closest to a Lanczos
filter: less lets through aliases, more takes detail."""


def invert(matrix: np.ndarray) -> np.ndarray:
    """The inverse of affine maps [..., 2, 3], by the formula for 2x2 matrices."""
    a, b, c, d = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 0], matrix[..., 1, 1]
    determinant = a * d - b * c
    linear = np.stack([np.stack([d, -b], -1), np.stack([-c, a], -1)], -2) / determinant[..., None, None]
    return np.concatenate([linear, -linear @ matrix[..., 2:]], -1)


def shifted(matrix: np.ndarray, before: tuple[float, float], after: tuple[float, float]) -> np.ndarray:
    """The map [2, 3] x -> matrix(x + before) + after, both (x, y)."""
    out = matrix.copy()
    out[:, 2] += matrix[:, :2] @ np.asarray(before) + np.asarray(after)
    return out


def corners(matrix: np.ndarray, width: float, height: float) -> tuple[float, float, float, float]:
    """The bounding box x0, y0, x1, y1 of a rectangle of that size at the origin, seen through the map [2, 3]."""
    points = np.array([[0.0, 0.0], [width, 0.0], [0.0, height], [width, height]]) @ matrix[:, :2].T + matrix[:, 2]
    (x0, y0), (x1, y1) = points.min(0), points.max(0)
    return float(x0), float(y0), float(x1), float(y1)


def warp(picture: np.ndarray, matrix: np.ndarray, size: tuple[int, int], edge: str = "replicate") -> np.ndarray:
    """Resample `picture` under `matrix`.

    Where the map shrinks, the picture is first averaged over whole blocks and then blurred with a Gaussian of
    sigma `ANTIALIAS` * sqrt(shrink^2 - 1) px, which grows from nothing as the map goes from enlarging to shrinking.
    Interpolation is cubic for colour and linear for masks; colours stay within the range of the source.

    Args:
        picture: [H, W, 3] colour or [H, W] mask, uint8 or float32.
        matrix: [2, 3] from pixels of the picture to pixels of the result.
        size: height and width of the result.
        edge: beyond the picture "replicate" its border pixels, or "zero".

    Returns:
        [h, w, 3] or [h, w] of the same dtype.
    """
    shrink = 1.0 / math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))
    border = cv2.BORDER_REPLICATE if edge == "replicate" else cv2.BORDER_CONSTANT
    picture, matrix = _cut(picture, matrix, size, margin=CUBIC_REACH * math.ceil(max(shrink, 1.0)))
    block = int(shrink // 2)
    if block > 1:
        picture, matrix = _averaged(picture, matrix, block, border)
        shrink /= block
    if shrink > 1.01:
        picture = cv2.GaussianBlur(picture, (0, 0), ANTIALIAS * math.sqrt(shrink**2 - 1.0), borderType=border)
    kernel = cv2.INTER_CUBIC if picture.ndim == 3 else cv2.INTER_LINEAR
    centred = shifted(matrix, (0.5, 0.5), (-0.5, -0.5))
    out = cv2.warpAffine(picture, centred, size[::-1], flags=kernel, borderMode=border)
    if picture.dtype != np.uint8:
        np.clip(out, picture.min() if edge == "replicate" else min(0.0, picture.min()), picture.max(), out=out)
    return out


def _cut(picture: np.ndarray, matrix: np.ndarray, size: tuple[int, int], margin: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of the picture the result needs, and the map from that part."""
    x0, y0, x1, y1 = corners(invert(matrix), size[1], size[0])
    height, width = picture.shape[:2]
    left, right = _span(x0 - margin, x1 + margin, width)
    top, bottom = _span(y0 - margin, y1 + margin, height)
    return picture[top:bottom, left:right], shifted(matrix, (left, top), (0.0, 0.0))


def _span(low: float, high: float, length: int) -> tuple[int, int]:
    """Whole pixels of 0..length that cover low..high, at least one: the nearest."""
    first = min(max(math.floor(low), 0), length - 1)
    return first, max(min(math.ceil(high), length), first + 1)


def _averaged(picture: np.ndarray, matrix: np.ndarray, block: int, border: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture averaged over blocks of block x block pixels, and the map from it."""
    height, width = picture.shape[:2]
    rows, columns = -(-height // block), -(-width // block)
    picture = cv2.copyMakeBorder(picture, 0, rows * block - height, 0, columns * block - width, border)
    picture = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)
    out = matrix.copy()
    out[:, :2] *= block
    return picture, out
