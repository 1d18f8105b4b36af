"""Warping and up-sampling without convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..generator import identity_grid
from ..generator import warp as sample_grid


def upsample(x: Tensor) -> Tensor:
    """Blur up-sampling [N, C, H, W] -> [N, C, 2H, 2W], zeros beyond the edge.

    With the kernel (1, 3, 3, 1) each new pixel is 3/4 of the nearer and 1/4 of the farther neighbour.
    """
    return _double(_double(x, 3), 2)


def _double(x: Tensor, dim: int) -> Tensor:
    size = x.shape[dim]
    padded = F.pad(x, (1, 1) if dim == 3 else (0, 0, 1, 1))
    y = x.new_empty([2 * s if d == dim else s for d, s in enumerate(x.shape)])
    pixels = padded.narrow(dim, 1, size)
    for i in range(2):
        new = y[..., i::2] if dim == 3 else y[:, :, i::2]
        torch.lerp(pixels, padded.narrow(dim, 2 * i, size), 0.25, out=new)
    return y


def warp(features: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Fetch features along a flow and weight them by its mask.

    Args:
        features: [N, C, H, W] channels-last, or [1, C, H, W] for all.
        maps: flow head output [N, 3, H, W] float32, before tanh and sigmoid.

    Returns:
        The fetched features times the mask [N, C, H, W], channels-last, and 1 - mask [N, 1, H, W] in their dtype.
    """
    n, _, height, width = maps.shape
    mask = torch.sigmoid(maps[:, 2])
    grid = torch.tanh(maps[:, :2]) + identity_grid(width, maps.device).permute(0, 3, 1, 2)
    left, right, by_left, by_right = _neighbours(grid[:, 0], width)
    top, bottom, by_top, by_bottom = _neighbours(grid[:, 1], height)
    by_top, by_bottom = by_top * mask, by_bottom * mask
    top, bottom = top * width, bottom * width
    if len(features) > 1:
        picture = torch.arange(n, dtype=top.dtype).view(n, 1, 1) * (height * width)
        top, bottom = top + picture, bottom + picture
    channels = features.shape[1]
    index = torch.stack((top + left, top + right, bottom + left, bottom + right), -1)
    weights = torch.stack((by_top * by_left, by_top * by_right, by_bottom * by_left, by_bottom * by_right), -1)
    fetched = F.embedding_bag(
        index.view(-1, 4),
        features.permute(0, 2, 3, 1).reshape(-1, channels),
        per_sample_weights=weights.view(-1, 4).to(features.dtype),
        mode="sum",
    )
    keep = (1.0 - mask)[:, None].to(features.dtype)
    return fetched.view(n, height, width, channels).permute(0, 3, 1, 2), keep


def warp_colours(colours: Tensor, maps: Tensor) -> Tensor:
    """As `warp`, for a few channels in planes [N or 1, C, H, W] float32, where sampling plane by plane is faster.

    Returns:
        The fetched colours times the mask [N, C, H, W].
    """
    fetched, mask = sample_grid(colours.expand(len(maps), -1, -1, -1), maps)
    return fetched * mask


def _neighbours(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two pixels beside a position in -1..1 (align_corners=False), and their weights, zero beyond the edge.

    Returns:
        Two indices (int32, within the edge) and two weights (float32), each of the position's shape.
    """
    at = ((position + 1.0) * size - 1.0) * 0.5
    first = at.floor()
    far = at - first
    near = (1.0 - far) * ((first >= 0) & (first < size))
    far *= (first >= -1) & (first < size - 1)
    # Clamped as integers, where even a NaN has become some number; before the addition, which then cannot overflow.
    index = first.to(torch.int32).clamp_(-1, size - 1)
    return index.clamp_min(0), (index + 1).clamp_max_(size - 1), near, far
