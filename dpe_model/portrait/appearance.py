"""What tells people apart without another network: the colours of hair, face and clothes, and the face's edges.

It is meant for one clip, where a person keeps hair, clothes and light: nothing here recognises people elsewhere.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

from ..frames import to_uint8
from .face import Face

REGION = (-0.35, -0.55, 1.35, 2.0)
"""What is looked at around the face box, in its width and height: hair above, the chest below."""
GRID = (48, 32)
"""Rows and columns the region is shrunk to."""
BANDS = ((0.08, 0.22, 0.28, 0.72), (0.24, 0.58, 0.3, 0.7), (0.76, 1.0, 0.2, 0.8))
"""Hair, face and chest as (top, bottom, left, right) fractions of the region."""
WEIGHTS = (0.2, 0.5, 0.3)
"""Of the three in the squared difference: behind hair and chest the background may show."""
BINS = 8
CHANNEL_RANGE = np.array([[0.0, 1.0], [-0.25, 0.45], [-0.3, 0.3]])
"""Of brightness and the two opponent colours, red - green and yellow - blue."""
CELLS, ORIENTATIONS = 4, 8
EDGE_WEIGHT = 0.25
"""Of the squared difference of edges beside that of colours: edges change with pose and expression."""


def describe(frame: Tensor, face: Face) -> np.ndarray:
    """What the person looks like: a vector [D] float16 of unit-free numbers; compare with `difference`.

    Args:
        frame: [H, W, 3] uint8 or floating point.
        face: a face in it.
    """
    region = _region(frame, face)
    colours = [np.sqrt(weight) * _histogram(_band(region, band)) for band, weight in zip(BANDS, WEIGHTS, strict=True)]
    return np.concatenate([*colours, np.sqrt(EDGE_WEIGHT) * _edges(_band(region, BANDS[1]))]).astype(np.float16)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """How differently two descriptions look: 0 the same, about 1 nothing in common."""
    return float(differences(a[None], b[None])[0, 0])


def differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`difference` between each of [N, D] and each of [M, D]: [N, M]."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2.0 * a @ b.T
    return np.sqrt(np.maximum(squared, 0.0) / (2.0 * (1.0 + EDGE_WEIGHT)))


def _region(frame: Tensor, face: Face) -> np.ndarray:
    """The surroundings of the face shrunk to `GRID`: [h, w, 3] float32 0..1, the frame's border repeated beyond it."""
    x0, y0, x1, y1 = face.box
    width, height = max(x1 - x0, 1.0), max(y1 - y0, 1.0)
    left, right = (x0 + REGION[k] * width for k in (0, 2))
    top, bottom = (y0 + REGION[k] * height for k in (1, 3))
    rows, columns = frame.shape[:2]
    near = (max(int(left), 0), max(int(top), 0), min(int(right) + 1, columns), min(int(bottom) + 1, rows))
    if near[2] <= near[0] or near[3] <= near[1]:
        return np.zeros((*GRID, 3), dtype=np.float32)
    # No more pixels are converted than shrinking needs.
    step = max(1, int(width / 64))
    part = to_uint8(frame[near[1] : near[3] : step, near[0] : near[2] : step]).cpu().numpy()
    y = _sampled(top, bottom, GRID[0], near[1], step, part.shape[0])
    x = _sampled(left, right, GRID[1], near[0], step, part.shape[1])
    small = Image.fromarray(np.ascontiguousarray(part)).resize(
        (max(1, round(part.shape[1] / _per_cell(x))), max(1, round(part.shape[0] / _per_cell(y)))), Image.Resampling.BOX
    )
    shrunk = np.asarray(small, dtype=np.float32) / 255.0
    rows_at = np.clip((y / part.shape[0] * shrunk.shape[0]).astype(int), 0, shrunk.shape[0] - 1)
    columns_at = np.clip((x / part.shape[1] * shrunk.shape[1]).astype(int), 0, shrunk.shape[1] - 1)
    return shrunk[rows_at][:, columns_at]


def _sampled(low: float, high: float, count: int, origin: int, step: int, length: int) -> np.ndarray:
    """Centres of `count` cells over low..high in the pixels of a part that begins at `origin`, kept inside it."""
    at = (low + (np.arange(count) + 0.5) * (high - low) / count - origin) / step
    return np.clip(at, 0.0, length - 1e-6)


def _per_cell(at: np.ndarray) -> float:
    """Pixels between neighbouring cells, at least one."""
    return max(1.0, float(np.max(np.diff(at))))


def _band(region: np.ndarray, band: tuple[float, float, float, float]) -> np.ndarray:
    rows, columns = region.shape[:2]
    top, bottom, left, right = band
    return region[round(top * rows) : round(bottom * rows), round(left * columns) : round(right * columns)]


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """Square roots of soft histograms of brightness and opponent colours, [3 * BINS] of unit length."""
    r, g, b = (pixels[..., c].ravel() for c in range(3))
    parts = []
    for values, (low, high) in zip(((r + g + b) / 3, r - g, (r + g) / 2 - b), CHANNEL_RANGE, strict=True):
        at = np.clip((values - low) / (high - low) * BINS - 0.5, 0.0, BINS - 1.0)
        first = np.minimum(at.astype(int), BINS - 2)
        share = at - first
        parts.append(np.bincount(first, 1.0 - share, BINS) + np.bincount(first + 1, share, BINS))
    return np.sqrt(np.concatenate(parts) / (3.0 * len(r)))


def _edges(pixels: np.ndarray) -> np.ndarray:
    """Histograms of gradient orientation over a grid of cells, [CELLS * CELLS * ORIENTATIONS] of unit length."""
    grey = pixels.mean(-1)
    dy, dx = np.gradient(grey)
    strength = np.hypot(dx, dy)
    turn = ((np.arctan2(dy, dx) / np.pi) % 1.0 * ORIENTATIONS).astype(int) % ORIENTATIONS
    row = np.arange(grey.shape[0])[:, None] * CELLS // grey.shape[0]
    column = np.arange(grey.shape[1])[None] * CELLS // grey.shape[1]
    cell = (row * CELLS + column) * ORIENTATIONS + turn
    out = np.sqrt(np.bincount(cell.ravel(), strength.ravel(), CELLS * CELLS * ORIENTATIONS))
    return out / max(float(np.linalg.norm(out)), 1e-6)
