"""Resampling pictures under an affine map: sub-pixel positions, no aliasing, only the part that is needed.

Coordinates have pixel centres at +0.5. Upright maps (no rotation) are resampled by rows and columns with a windowed
sinc, turned ones pixel by pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LOBES = 3
"""Of the windowed sinc (Lanczos): the filter reaches this many pixels to either side."""
UPRIGHT = 1e-9
"""Largest cross term, relative to the scale, of a map that counts as free of rotation."""
TILE = 64
"""Results along a row or column that are summed in one small matrix product."""
CUBIC_REACH = 3
"""Source pixels beyond a sampled position that cubic interpolation may read, and one for rounding."""
ANTIALIAS = 0.45
"""Blur before shrinking under a turned map, in pixels of the result. On a zone plate 0.4 to 0.5 comes closest to a
Lanczos filter: less lets through aliases, more takes detail."""


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
    """Resample `picture` under `matrix`; see `resample`.

    Args:
        picture: [H, W, 3] colour or [H, W] mask, uint8 or float32.
        matrix: [2, 3] from pixels of the picture to pixels of the result.
        size: height and width of the result.
        edge: beyond the picture "replicate" its border pixels, or "zero".

    Returns:
        [h, w, 3] or [h, w] of the same dtype.
    """
    out = resample(torch.from_numpy(np.ascontiguousarray(picture)), matrix, size, edge)
    if picture.dtype == np.uint8:
        return out.round_().clamp_(0, 255).to(torch.uint8).numpy()
    return out.numpy()


def resample(
    picture: Tensor,
    matrix: np.ndarray,
    size: tuple[int, int],
    edge: str = "replicate",
    device: torch.device | None = None,
) -> Tensor:
    """Resample `picture` under `matrix`.

    Interpolation is by Lanczos' windowed sinc for colour (stretched where the map shrinks, so that nothing aliases) and
    linear for masks; values stay within the range of the source.

    Args:
        picture: [H, W, 3] colour or [H, W] mask, uint8 or floating point, on any device.
        matrix: [2, 3] from pixels of the picture to pixels of the result.
        size: height and width of the result.
        edge: beyond the picture "replicate" its border pixels, or "zero".
        device: where to compute, by default where the picture is; only what is needed of that travels.

    Returns:
        [h, w, 3] or [h, w] float32 on that device, in the picture's units.
    """
    device = device or picture.device
    linear = matrix[:, :2]
    if max(abs(linear[0, 1]), abs(linear[1, 0])) > UPRIGHT * abs(linear[0, 0]) or min(linear[0, 0], linear[1, 1]) <= 0:
        return _turned(picture, matrix, size, edge, device)
    kernel, lobes = (lanczos, LOBES) if picture.ndim == 3 else (triangle, 1)
    margin = lobes * math.ceil(max(1.0, 1.0 / min(linear[0, 0], linear[1, 1]))) + 1
    part, matrix = _cut(picture, matrix, size, margin)
    part = part.to(device).float()
    columns, rows = (_axis(matrix[k, k], matrix[k, 2], size[1 - k], kernel, lobes) for k in (0, 1))
    height, width = part.shape[:2]
    down = _along(rows, part.reshape(height, -1), edge)
    planes = down.reshape(size[0], width, -1).permute(2, 0, 1)
    out = _along(columns, planes.reshape(-1, width).T, edge).T.reshape(-1, size[0], size[1])
    low, high = float(part.min()), float(part.max())
    out = out.clamp_(low if edge == "replicate" else min(0.0, low), high)
    return out[0].contiguous() if picture.ndim == 2 else out.permute(1, 2, 0).contiguous()


def lanczos(x: np.ndarray) -> np.ndarray:
    """sinc(x) sinc(x / LOBES) within LOBES of 0 (Lanczos 1938; Duchon 1979), not normalised."""
    return np.where(np.abs(x) < LOBES, np.sinc(x) * np.sinc(x / LOBES), 0.0)


def triangle(x: np.ndarray) -> np.ndarray:
    """Linear interpolation's weight at distance x."""
    return np.maximum(1.0 - np.abs(x), 0.0)


def gaussian_blur(picture: Tensor, sigma: float) -> Tensor:
    """Blur [H, W, C] or [H, W] with a Gaussian of `sigma` px; the border is continued."""
    picture = picture.float()
    height, width = picture.shape[:2]
    reach = math.ceil(3.5 * sigma)
    rows, columns = (
        _axis(1.0, 0.0, length, lambda x: np.exp(-0.5 * (x / sigma) ** 2), reach) for length in (height, width)
    )
    down = _along(rows, picture.reshape(height, -1), "replicate")
    across = down.reshape(height, width, -1).transpose(0, 1).reshape(width, -1)
    out = _along(columns, across, "replicate").reshape(width, height, -1).transpose(0, 1)
    return out[..., 0].contiguous() if picture.ndim == 2 else out.contiguous()


def _axis(
    scale: float, offset: float, length: int, kernel: Callable[[np.ndarray], np.ndarray], lobes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which source pixels make up each result along one axis: first pixel [length], weights [length, taps].

    `scale` and `offset` map source to result. Pixels may lie outside the source.
    """
    stretch = max(1.0, 1.0 / scale)
    centre = (np.arange(length) + 0.5 - offset) / scale
    taps = math.ceil(2 * lobes * stretch) + 1
    first = np.ceil(centre - lobes * stretch - 0.5).astype(np.int64)
    weights = kernel((first[:, None] + np.arange(taps) + 0.5 - centre[:, None]) / stretch)
    return first, weights / weights.sum(1, keepdims=True)


def _along(axis: tuple[np.ndarray, np.ndarray], source: Tensor, edge: str) -> Tensor:
    """Sum the rows of `source` [n, k] as `axis` says: [length, k].

    Neighbouring results share most of their sources, so each tile of results is one product with a small matrix.
    """
    first, weights = axis
    length, taps = weights.shape
    n = source.shape[0]
    at = first[:, None] + np.arange(taps)
    if edge == "zero":
        weights = np.where((at >= 0) & (at < n), weights, 0.0)
    at = at.clip(0, n - 1)
    out = source.new_empty(length, source.shape[1])
    tile = max(8, round(TILE * length / max(length, first[-1] - first[0] + 1)))
    for start in range(0, length, tile):
        stop = min(start + tile, length)
        low, high = int(at[start].min()), int(at[stop - 1].max()) + 1
        matrix = np.zeros((stop - start, high - low))
        np.add.at(matrix, (np.arange(stop - start)[:, None], at[start:stop] - low), weights[start:stop])
        small = torch.from_numpy(matrix.astype(np.float32)).to(source.device)
        torch.matmul(small, source[low:high], out=out[start:stop])
    return out


def _turned(picture: Tensor, matrix: np.ndarray, size: tuple[int, int], edge: str, device: torch.device) -> Tensor:
    """`resample` under any map.

    Where it shrinks, the picture is first averaged over whole blocks and then blurred with a Gaussian of sigma
    `ANTIALIAS` * sqrt(shrink^2 - 1) px, which grows from nothing as the map goes from enlarging to shrinking.
    """
    shrink = 1.0 / math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))
    part, matrix = _cut(picture, matrix, size, margin=CUBIC_REACH * math.ceil(max(shrink, 1.0)))
    part = part.to(device)
    pixels = part.float()[None, None] if part.ndim == 2 else part.float().permute(2, 0, 1)[None].contiguous()
    low, high = float(pixels.min()), float(pixels.max())
    block = int(shrink // 2)
    if block > 1:
        pixels, matrix = _averaged(pixels, matrix, block, edge)
        shrink /= block
    if shrink > 1.01:
        pixels = _blurred(pixels, ANTIALIAS * math.sqrt(shrink**2 - 1.0), edge)
    out = F.grid_sample(
        pixels,
        _grid(invert(matrix), size, (pixels.shape[2], pixels.shape[3])).to(pixels.device),
        mode="bicubic" if picture.ndim == 3 else "bilinear",
        padding_mode="border" if edge == "replicate" else "zeros",
        align_corners=False,
    ).clamp_(low if edge == "replicate" else min(0.0, low), high)
    return out[0, 0] if picture.ndim == 2 else out[0].permute(1, 2, 0).contiguous()


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
    at = torch.arange(-reach, reach + 1, dtype=torch.float32, device=pixels.device)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(pixels.shape[1], 1, 1, -1)
    pixels = _padded(pixels, reach, reach, reach, reach, edge)
    pixels = F.conv2d(pixels, kernel, groups=pixels.shape[1])
    return F.conv2d(pixels, kernel.transpose(2, 3), groups=pixels.shape[1])


def _padded(pixels: Tensor, left: int, right: int, top: int, bottom: int, edge: str) -> Tensor:
    if edge == "replicate":
        return F.pad(pixels, (left, right, top, bottom), mode="replicate")
    return F.pad(pixels, (left, right, top, bottom))


def _cut(picture: Tensor, matrix: np.ndarray, size: tuple[int, int], margin: int) -> tuple[Tensor, np.ndarray]:
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
