"""Winograd's minimal filtering F(2x2, 3x3) for 3x3 convolutions: 16 products where the plain way takes 36.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015. For an output tile Y of 2x2 pixels and its
input tile d of 4x4, Y = A^T [ (G g G^T) * (B^T d B) ] A, where the products in brackets, summed over the input
channels, are 16 matrix products. In float32 its rounding error is that of a plain convolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS = 256
"""Input channels from which on it is faster than the plain way, whose memory traffic is less."""
TILES = 128
"""Tiles worked on at a time by each thread: their transforms fit the second-level cache."""
MOST_THREADS = 16
"""Threads beyond which chunks grow no more; there are 16 matrix products to share."""


def transform_weight(weight: Tensor) -> Tensor:
    """Kernels [out, in, 3, 3] as G g G^T: [16, in, out] float32."""
    g = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    out, channels = weight.shape[:2]
    return torch.einsum("ia,jb,ocab->ijco", g, g, weight.double()).reshape(16, channels, out).float()


def convolve3x3(x: Tensor, transformed: Tensor, bias: Tensor | None = None) -> Tensor:
    """3x3 convolution with padding 1.

    Args:
        x: [N, in, H, W] channels-last, H and W even.
        transformed: from `transform_weight`.
        bias: [out].

    Returns:
        [N, out, H, W] channels-last.
    """
    n, _, h, w = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    y = x.new_empty((n, h, w, transformed.shape[2]))
    tiles = TILES * min(torch.get_num_threads(), MOST_THREADS)
    rows = max(1, min(h // 2, tiles // (w // 2)))
    pictures = max(1, tiles // (rows * (w // 2)))
    for first in range(0, n, pictures):
        group = slice(first, first + pictures)
        for start in range(0, h, 2 * rows):
            stop = min(start + 2 * rows, h)
            _tiles(padded[group, start : stop + 2], transformed, bias, y[group, start:stop])
    return y.permute(0, 3, 1, 2)


def _tiles(x: Tensor, transformed: Tensor, bias: Tensor | None, y: Tensor) -> None:
    """Padded rows [n, 2t + 2, W + 2, in] to output rows `y` [n, 2t, W, out]."""
    n, h, w, channels = y.shape
    t, s = h // 2, w // 2
    half = x.new_empty((4, n, t, w + 2, x.shape[3]))
    for i, part in enumerate(half):
        _input_transform(x[:, 0::2], x[:, 1::2], 1, i, part)
    tiles = x.new_empty((4, 4, n, t, s, x.shape[3]))
    for j in range(4):
        _input_transform(half[..., 0::2, :], half[..., 1::2, :], 3, j, tiles[:, j])
    products = torch.bmm(tiles.view(16, n * t * s, -1), transformed)
    if bias is not None:
        products[5] += bias  # of all 16, the one that enters each of the four outputs once, with the sign +
    m = products.view(4, 4, n, t, s, channels)
    for a in range(2):
        column = m[0] + m[1] if a == 0 else m[1] - m[2]
        column = column.add_(m[2]) if a == 0 else column.sub_(m[3])
        for b in range(2):
            out = y[:, a::2, b::2]
            if b == 0:
                torch.add(column[0], column[1], out=out)
                out += column[2]
            else:
                torch.sub(column[1], column[2], out=out)
                out -= column[3]


def _input_transform(even: Tensor, odd: Tensor, dim: int, i: int, out: Tensor) -> None:
    """Row `i` of B^T d along `dim`, d = (even[k], odd[k], even[k + 1], odd[k + 1])."""
    count = even.shape[dim] - 1
    d0, d1 = even.narrow(dim, 0, count), odd.narrow(dim, 0, count)
    d2, d3 = even.narrow(dim, 1, count), odd.narrow(dim, 1, count)
    if i == 0:
        torch.sub(d0, d2, out=out)
    elif i == 1:
        torch.add(d1, d2, out=out)
    elif i == 2:
        torch.sub(d2, d1, out=out)
    else:
        torch.sub(d1, d3, out=out)
