"""How much a pasted clip flickers along its mask's edge."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor


def edge_band(mask: Tensor, level: float, width: float) -> Tensor:
    """[H, W] bool: pixels within `width` / 2 px of where the mask [H, W] crosses `level`."""
    on = mask.numpy() > level
    return torch.from_numpy(np.where(on, distance_transform_edt(on), distance_transform_edt(~on)) <= width / 2)


def edge_flicker(
    result: Tensor, source: Tensor, mask: Tensor, level: float = 0.0, width: float = 10.0
) -> tuple[float, float]:
    """Root mean square change from frame to frame in a band along the mask's edge, in 1/255.

    Args:
        result: [N, H, W, 3] uint8, pasted.
        source: [N, H, W, 3] uint8, before.
        mask: [N, H, W] 0..1.
        level: the mask's value that is its edge: 0 its outermost pixel, 0.5 the middle of the soft edge.
        width: of the band, px.

    Returns:
        The result's change less the source's own, and the change of what was added to the source, which the source's
        movement cannot hide.
    """
    sums = np.zeros(3)
    for n in range(len(result) - 1):
        band = edge_band(mask[n], level, width) | edge_band(mask[n + 1], level, width)
        after, before = (
            (result[n + 1][band].double() - result[n][band]),
            (source[n + 1][band].double() - source[n][band]),
        )
        sums += [float(step.pow(2).mean()) for step in (after, before, after - before)]
    own, source_own, added = np.sqrt(sums / (len(result) - 1))
    return float(own - source_own), float(added)
