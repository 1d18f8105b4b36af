"""Resampling pictures under an affine map: sub-pixel positions, no aliasing, only the part that is needed.

Coordinates have pixel centres at +0.5.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

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
    part, matrix = _cut(picture, matrix, size, margin=CUBIC_REACH * math.ceil(max(shrink, 1.0)))
    pixels = _to_planes(part)
    block = int(shrink // 2)
    if block > 1:
        pixels, matrix = _averaged(pixels, matrix, block, edge)
        shrink /= block
    if shrink > 1.01:
        pixels = _blurred(pixels, ANTIALIAS * math.sqrt(shrink**2 - 1.0), edge)
    out = F.grid_sample(
        pixels,
        _grid(invert(matrix), size, (pixels.shape[2], pixels.shape[3])),
        mode="bicubic" if picture.ndim == 3 else "bilinear",
        padding_mode="border" if edge == "replicate" else "zeros",
        align_corners=False,
    )
    if picture.dtype == np.uint8:
        return _from_planes(out.round_().clamp_(0, 255), picture.ndim).astype(np.uint8)
    low, high = float(part.min()), float(part.max())
    return _from_planes(out.clamp_(low if edge == "replicate" else min(0.0, low), high), picture.ndim)


def _to_planes(picture: np.ndarray) -> Tensor:
    """[H, W, 3] or [H, W] -> [1, C, H, W] float32."""
    planes = torch.from_numpy(np.ascontiguousarray(picture)).float()
    return planes[None, None] if planes.ndim == 2 else planes.permute(2, 0, 1)[None].contiguous()


def _from_planes(planes: Tensor, ndim: int) -> np.ndarray:
    """[1, C, H, W] -> [H, W, C], or [H, W] for `ndim` 2."""
    return planes[0, 0].numpy() if ndim == 2 else planes[0].permute(1, 2, 0).contiguous().numpy()


def _grid(to_source: np.ndarray, size: tuple[int, int], source: tuple[int, int]) -> Tensor:
    """Sampling grid [1, h, w, 2] in -1..1 over a source of `source` (height, width), pixel centres at +0.5."""
    scale = 2.0 / np.array([source[1], source[0]], dtype=np.float64)
    linear, offset = to_source[:, :2] * scale[:, None], to_source[:, 2] * scale - 1.0
    x, y = np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5
    grid = x[None, :, None] * linear[:, 0] + y[:, None, None] * linear[:, 1] + offset
    return torch.from_numpy(grid.astype(np.float32))[None]


def _blurred(pixels: Tensor, sigma: float, edge: str) -> Tensor:
    """Gaussian blur of [1, C, H, W]."""
    reach = max(1, math.ceil(3.5 * sigma))
    at = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(pixels.shape[1], 1, 1, -1)
    pixels = _padded(pixels, reach, reach, reach, reach, edge)
    pixels = F.conv2d(pixels, kernel, groups=pixels.shape[1])
    return F.conv2d(pixels, kernel.transpose(2, 3), groups=pixels.shape[1])


def _padded(pixels: Tensor, left: int, right: int, top: int, bottom: int, edge: str) -> Tensor:
    if edge == "replicate":
        return F.pad(pixels, (left, right, top, bottom), mode="replicate")
    return F.pad(pixels, (left, right, top, bottom))


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


def _averaged(pixels: Tensor, matrix: np.ndarray, block: int, edge: str) -> tuple[Tensor, np.ndarray]:
    """[1, C, H, W] averaged over blocks of block x block pixels, and the map from it."""
    height, width = pixels.shape[2:]
    pixels = F.avg_pool2d(_padded(pixels, 0, -width % block, 0, -height % block, edge), block)
    out = matrix.copy()
    out[:, :2] *= block
    return pixels, out
