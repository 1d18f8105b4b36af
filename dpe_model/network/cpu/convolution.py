"""Convolutions of channels-last maps with everything that follows them in the same pass."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import SLOPE, linear_by_row
from .products import multiply

logger = logging.getLogger(__name__)

Pair = tuple[int, int]

WIDE = 512
"""From so many input channels on, float32 sums run channel block by channel block (the contiguous order): as fast as
channels-last there, and with a fifth of its rounding error, since that one keeps a single sum over thousands of terms.
"""
ROWS = 1024
"""Pixels whose products with all nine taps are held at a time, in transposed convolutions by matrix product."""


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: Pair = (0, 0),
    activate: bool = False,
    groups: int = 1,
) -> Tensor:
    """Convolution [+ bias] [+ leaky ReLU]: x [N, in, H, W] channels-last -> [N, out, H', W'] channels-last."""
    if x.dtype == torch.float32 and weight.shape[1] >= WIDE:
        x = planar(x)
    if fuses(x.dtype):
        name, scalars = ("leaky_relu", [SLOPE]) if activate else ("none", [])
        run = torch.ops.mkldnn._convolution_pointwise
        y = run(x, weight, bias, padding, (stride, stride), (1, 1), groups, name, scalars, "")
    else:
        y = _plain(x, weight, bias, stride, padding, activate, groups)
    return y.contiguous(memory_format=torch.channels_last)


def planar(x: Tensor) -> Tensor:
    """Maps [N, C, H, W], channels-last, in contiguous order: as `contiguous()`, but several times faster.

    PyTorch has a fast way for the transposition of matrices only.
    """
    if x.is_contiguous():
        return x
    n, c, h, w = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
    y = x.new_empty((n, c, h * w))
    for i in range(n):
        y[i].copy_(pixels[i].t())
    return y.view(n, c, h, w)


def contract(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution with a kernel of the maps' own size: x [N, in, k, k], weight [out, in, k, k] -> [N, out]."""
    if weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous():
        x, weight = x.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
    return linear_by_row(x.flatten(1), weight.flatten(1))


def convolve_onto(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """`total` [N, out, H, W] += the convolution of `x` [N, in, H, W] with a 1x1 kernel; returns `total`."""
    if fuses(x.dtype):
        run = torch.ops.mkldnn._convolution_pointwise_.binary
        return run(total, x, weight, None, (0, 0), (1, 1), (1, 1), 1, "add", 1.0, None, [], None)
    return total.add_(F.conv2d(x, weight))


def _plain(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: Pair, activate: bool, groups: int
) -> Tensor:
    y = F.conv2d(x, weight, bias, stride, padding, groups=groups)
    return F.leaky_relu_(y, SLOPE) if activate else y


@functools.cache
def fuses(dtype: torch.dtype) -> bool:
    """Whether this build's oneDNN convolves, activates and adds in one pass, and rightly so: tried once on a small map.

    The operators are those the PyTorch compiler emits for CPUs; nothing promises them, so nothing depends on them.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    last = torch.channels_last
    x = torch.linspace(-1, 1, 2 * 4 * 6 * 6).view(2, 4, 6, 6).to(dtype).contiguous(memory_format=last)
    weight = torch.linspace(1, -1, 3 * 4 * 3 * 3).view(3, 4, 3, 3).to(dtype)
    bias = torch.linspace(-1, 1, 3).to(dtype)
    ops = torch.ops.mkldnn
    try:
        found = ops._convolution_pointwise(
            x, weight, bias, (1, 1), (1, 1), (1, 1), 1, "leaky_relu", [SLOPE], ""
        )  # fmt: skip
        point = weight[:, :, :1, :1].contiguous()
        total = found.clone(memory_format=last)
        added = ops._convolution_pointwise_.binary(
            total, x, point, None, (0, 0), (1, 1), (1, 1), 1, "add", 1.0, None, [], None
        )
        expected = _plain(x.float(), weight.float(), bias.float(), 1, (1, 1), True, 1)
        expected_sum = expected + F.conv2d(x.float(), point.float())
    except (RuntimeError, AttributeError, TypeError, NotImplementedError) as error:
        logger.debug("No fused convolutions in %s (%s).", dtype, error)
        return False
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    return all(
        torch.allclose(a.float(), b, atol=tolerance, rtol=tolerance)
        for a, b in ((found, expected), (added, expected_sum), (total, expected_sum))
    )


def phases(weight: Tensor) -> tuple[Tensor, ...]:
    """A 3x3 kernel [out, in, 3, 3] of a transposed convolution with stride 2 as the kernels of its four phases.

    In one dimension output 2k is x[k - 1] w[2] + x[k] w[0], output 2k + 1 is x[k] w[1]. The order is even-even,
    even-odd, odd-even, odd-odd rows-columns; kernels [out, in, 2 or 1, 2 or 1].
    """
    rows = (weight[:, :, [2, 0]], weight[:, :, [1]])
    even, odd = ([r[..., [2, 0]].contiguous(), r[..., [1]].contiguous()] for r in rows)
    return even[0], even[1], odd[0], odd[1]


def convolve_up(x: Tensor, kernels: Sequence[Tensor]) -> Tensor:
    """Transposed convolution with stride 2, by phases: x [N, in, H, W] -> [N, out, 2H + 1, 2W + 1] channels-last."""
    n, _, h, w = x.shape
    y = x.new_empty((n, 2 * h + 1, 2 * w + 1, kernels[0].shape[0])).permute(0, 3, 1, 2)
    for i, kernel in enumerate(kernels):
        row, column = divmod(i, 2)
        y[:, :, row::2, column::2] = convolve(x, kernel, padding=(1 - row, 1 - column))
    return y


def convolve_up_by_product(x: Tensor, matrix: Tensor) -> Tensor:
    """As `convolve_up`, all taps of a pixel at once: the 3x3 kernel as a matrix [in, 9 out], by taps, then channels.

    Where channels are many the adding up costs less than four convolutions lose.
    """
    n, channels, h, w = x.shape
    out = matrix.shape[1] // 9
    y = x.new_zeros((n, 2 * h + 1, 2 * w + 1, out))
    pictures = max(1, ROWS // (h * w))
    for pixels, total in zip(x.permute(0, 2, 3, 1).split(pictures), y.split(pictures), strict=True):
        products = multiply(pixels.reshape(-1, channels), matrix).view(-1, h, w, 3, 3, out)
        for row in range(3):
            for column in range(3):
                total[:, row : row + 2 * h : 2, column : column + 2 * w : 2] += products[:, :, :, row, column]
    return y.permute(0, 3, 1, 2)
