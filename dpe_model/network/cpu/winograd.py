"""Winograd's minimal filtering F(4x4, 3x3) for 3x3 convolutions: 36 products where the plain way takes 144.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015. For an output tile Y of 4x4 pixels and its
input tile d of 6x6, Y = A^T [ (G g G^T) * (B^T d B) ] A, where the products in brackets, summed over the input
channels, are 36 matrix products. B^T and A^T are applied to rows and columns at once, as one matrix product each.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import SLOPE
from .products import Matrices, multiply

CHANNELS = 128
"""Input channels from which on it is faster than the plain way, whose memory traffic is less."""
SIZE = 16
"""Maps smaller than this have too few tiles to be worth four times the weights."""
TILE = 4
REACH = TILE + 2
VALUES = 2**14
"""Tiles times channels worked on at a time by each thread: more do not fit the cache, fewer waste the weights."""
MOST_THREADS = 16
"""Threads beyond which chunks grow no more; there are 36 matrix products to share."""
POINTS = (0.0, 0.625, -0.625, 1.5, -1.5)
"""Where the polynomials are multiplied, beside infinity. With the usual 0, 1, -1, 2, -2 the rounding error is more than
twice as large; with these it is that of one sum over all channels in a row. All entries of B^T and A^T are exact."""


def transform_weight(weight: Tensor) -> Tensor:
    """Kernels [out, in, 3, 3] as G g G^T: [36, in, out] float32."""
    g = _filter_matrix()
    out, channels = weight.shape[:2]
    return torch.einsum("ia,jb,ocab->ijco", g, g, weight.double()).reshape(REACH**2, channels, out).float()


def tiles_at_a_time(channels: int) -> int:
    """How many tiles are worked on at a time, about."""
    return VALUES * min(torch.get_num_threads(), MOST_THREADS) // channels


def convolve3x3(x: Tensor, transformed: Matrices, bias: Tensor | None = None, activate: bool = False) -> Tensor:
    """3x3 convolution with padding 1 [+ bias] [+ leaky ReLU].

    Picture by picture, so that no sum's rounding depends on how many there are.

    Args:
        x: [N, in, H, W] channels-last, H and W multiples of 4.
        transformed: what `transform_weight` gives.
        bias: [out].
        activate: whether the leaky ReLU follows.

    Returns:
        [N, out, H, W] channels-last.
    """
    n, channels, h, w = x.shape
    rows, columns = h // TILE, w // TILE
    y = x.new_empty((n, rows, TILE, columns, TILE, transformed.out))
    some_rows = max(1, min(rows, tiles_at_a_time(channels) // columns))
    padded = x.new_zeros((TILE * some_rows + 2, w + 2, channels))
    for maps, out in zip(x.permute(0, 2, 3, 1), y, strict=True):
        for top in range(0, rows, some_rows):
            part = out[top : top + some_rows]
            tiles = _overlapping_tiles(maps, top, len(part), padded)
            part.copy_(_convolve_tiles(tiles, transformed, bias, activate))
    return y.view(n, h, w, -1).permute(0, 3, 1, 2)


def _overlapping_tiles(maps: Tensor, top: int, rows: int, padded: Tensor) -> Tensor:
    """Some rows of tiles, each tile with a pixel around it, zero beyond the maps' edge.

    Args:
        maps: [H, W, in].
        top: first row of tiles.
        rows: how many.
        padded: room for them, [4 rows + 2 or more, W + 2, in], its first and last column zero.

    Returns:
        [6, 6, rows, W / 4, in], a view of `padded`.
    """
    h, w, channels = maps.shape
    above, below = TILE * top - 1, TILE * (top + rows) + 1
    first, last = max(above, 0), min(below, h)
    padded[first - above : last - above, 1:-1] = maps[first:last]
    if above < 0:
        padded[0] = 0.0
    if below > h:
        padded[h - above] = 0.0
    row, pixel, channel = padded.stride()
    return padded.as_strided((REACH, REACH, rows, w // TILE, channels), (row, pixel, TILE * row, TILE * pixel, channel))


def _convolve_tiles(tiles: Tensor, transformed: Matrices, bias: Tensor | None, activate: bool) -> Tensor:
    """Input tiles [6, 6, rows, columns, in] -> output tiles [rows, 4, columns, 4, out]."""
    rows, columns, channels = tiles.shape[2:]
    count, out = rows * columns, transformed.out
    to_products, from_products = _tile_matrices()
    factors = multiply(to_products, tiles.reshape(REACH**2, count * channels))
    products = transformed.multiply(factors.view(REACH**2, count, channels))
    pixels = multiply(from_products, products.view(REACH**2, count * out))
    if bias is not None:
        pixels.view(-1, out).add_(bias)
    if activate:
        F.leaky_relu_(pixels, SLOPE)
    return pixels.view(TILE, TILE, rows, columns, out).permute(2, 0, 3, 1, 4)


@functools.cache
def _tile_matrices() -> tuple[Tensor, Tensor]:
    """What takes a tile's pixels, row by row, to the factors of the products [36, 36], and those back [16, 36]."""
    to_products = _zeros(REACH, REACH)  # B^T: the coefficients of Lagrange's numerators
    for i in range(REACH - 1):
        numerator = _polynomial(POINTS[:i] + POINTS[i + 1 :])
        to_products[i, : len(numerator)] = numerator
    to_products[-1] = _polynomial(POINTS)
    from_products = _zeros(TILE, REACH)  # A^T: powers of the points
    from_products[:, :-1] = _powers(TILE).T
    from_products[-1, -1] = 1.0
    return torch.kron(to_products, to_products).float(), torch.kron(from_products, from_products).float()


def _filter_matrix() -> Tensor:
    """G [6, 3] float64: powers of the points over Lagrange's denominators."""
    g = _zeros(REACH, 3)
    powers = _powers(3)
    for i, point in enumerate(POINTS):
        g[i] = powers[i] / math.prod(point - other for other in POINTS[:i] + POINTS[i + 1 :])
    g[-1, -1] = 1.0
    return g


def _powers(count: int) -> Tensor:
    """The points' powers 0 to `count` - 1: [5, count]."""
    points = torch.tensor(POINTS, dtype=torch.float64, device="cpu")
    return torch.vander(points, count, increasing=True)


def _polynomial(roots: tuple[float, ...]) -> Tensor:
    """Coefficients of the product of (x - root), the constant one first: [number of roots + 1]."""
    coefficients = _zeros(1) + 1.0
    for root in roots:
        coefficients = F.pad(coefficients, (1, 0)) - root * F.pad(coefficients, (0, 1))
    return coefficients


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64, device="cpu")  # whatever the default device is
