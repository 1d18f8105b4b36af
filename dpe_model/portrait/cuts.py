"""Where one shot ends and the next begins, from tiny copies of the frames."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..frames import to_unit

THUMB = (9, 16)
"""Rows and columns of the copies that are compared."""
FINE = 8
"""Samples a copy's pixel is the mean of, along each axis."""
LEAST = 0.055
"""Least mean difference (0..1) of two copies that may be a cut. Between neighbouring frames of one shot it is under
0.02 but for the fastest pans. Of pictures darker than `BRIGHT` in proportion less."""
BRIGHT, DARK = 0.4, 0.05
"""Mean level (0..1) from which on `LEAST` holds, and the one under which it falls no more, where noise would count."""
PEAK = 2.5
"""A cut differs this many times as much as the steps near it, but for one, which may be a cut too; in a pan or a fast
movement the steps are alike, even where every second frame is a repeated one."""
NEAR = 3
"""How many steps before and after count as near."""


def thumbnails(frames: Tensor) -> np.ndarray:
    """Tiny copies of frames [N, H, W, 3]: [N, 9, 16, 3] uint8."""
    height, width = frames.shape[1:3]
    rows, columns = (
        ((torch.arange(n * FINE) + 0.5) * (side / (n * FINE))).long().clamp_(max=side - 1)
        for n, side in zip(THUMB, (height, width), strict=True)
    )
    small = to_unit(frames[:, rows][:, :, columns].cpu()).permute(0, 3, 1, 2)
    small = F.avg_pool2d(small, FINE).clamp_(0.0, 1.0)
    return (small * 255.0).round_().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def find_cuts(thumbs: np.ndarray) -> np.ndarray:
    """Which frames begin a new shot: [N] bool, the first frame of a clip not among them.

    A cut is one step between frames that stands out from those around it. A flash is none: after it all is as before.

    Args:
        thumbs: [N, h, w, 3] uint8, see `thumbnails`.
    """
    cuts = np.zeros(len(thumbs), dtype=bool)
    small = thumbs.astype(np.float32) / 255.0
    steps = [_unlike(small[n - 1], small[n]) for n in range(1, len(small))]
    for n in range(1, len(small)):
        if steps[n - 1] <= _least(small[n - 1], small[n]):
            continue
        around = [steps[k - 1] for k in range(n - NEAR, n + NEAR + 1) if k != n and 0 < k < len(small)]
        # In a flash, what comes after is what was before.
        flash = any(
            _unlike(small[n - 1], small[k]) < 0.5 * steps[n - 1] for k in range(n + 1, min(n + NEAR, len(small)))
        ) or any(_unlike(small[n], small[k]) < 0.5 * steps[n - 1] for k in range(max(n - NEAR, 0), n - 1))
        cuts[n] = not flash and steps[n - 1] > PEAK * (sorted(around)[-2] if len(around) > 1 else 0.0)
    return cuts


def _least(a: np.ndarray, b: np.ndarray) -> float:
    """Least difference of two copies that may be a cut: as dark as they are, all that differs in them is dark too."""
    level = (float(a.mean()) + float(b.mean())) / 2
    return LEAST * min(max(level, DARK), BRIGHT) / BRIGHT


def _unlike(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference of two copies, 0..1; a change of brightness alone counts half."""
    apart = b - a
    return float((np.abs(apart).mean() + np.abs(apart - apart.mean((0, 1))).mean()) / 2)
