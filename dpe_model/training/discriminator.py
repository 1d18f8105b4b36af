"""The discriminator: StyleGAN2's residual discriminator with minibatch standard deviation (Karras et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..network.encoder import ResBlock
from ..network.layers import SLOPE, SQRT2, ConvLayer, EqualLinear

STDDEV_GROUP = 4
"""Samples that share one standard deviation, as published."""


def stddev_group(batch: int) -> int:
    """How many samples of a batch share a standard deviation: the largest divisor of `batch` up to 4."""
    return max(g for g in range(1, STDDEV_GROUP + 1) if batch % g == 0)


def minibatch_stddev(x: Tensor) -> Tensor:
    """Mean standard deviation over groups of samples, as one more map: x [N, C, H, W] -> [N, 1, H, W] float32.

    Sample i belongs to group i mod (N / group size). Processes that take every `world`-th sample of a joint batch
    therefore form the joint batch's own groups, as long as each holds a multiple of the group size.
    """
    n, c, h, w = x.shape
    group = stddev_group(n)
    grouped = x.float().reshape(group, n // group, c, h, w)
    # The variance's gradient is infinite at zero spread without the 1e-8.
    spread = torch.sqrt(grouped.var(0, unbiased=False) + 1e-8).mean((1, 2, 3))
    return spread.repeat(group)[:, None, None, None].expand(n, 1, h, w)


class Discriminator(nn.Module):
    """Pictures [N, 3, S, S] in -1..1 -> logits [N, 1], high for real ones; names as published.

    Args:
        size: side of the pictures in pixels, a power of two from 8.
        channels: feature channels by resolution, for 4, 8, ... size.
    """

    def __init__(self, size: int, channels: Mapping[int, int]) -> None:
        super().__init__()
        if size < 8 or size & (size - 1):
            raise ValueError(f"size: expected a power of two of at least 8, got {size}.")
        sizes = [2**i for i in range(int(math.log2(size)), 1, -1)]
        missing = [r for r in sizes if r not in channels]
        if missing:
            raise ValueError(f"channels: no width given for {missing} px.")
        widths = [channels[r] for r in sizes]
        self.size = size
        blocks = [ResBlock(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        self.convs = nn.Sequential(ConvLayer(3, widths[0], 1), *blocks)
        self.final_conv = ConvLayer(widths[-1] + 1, widths[-1], 3)
        self.final_linear = nn.Sequential(EqualLinear(widths[-1] * 16, widths[-1]), EqualLinear(widths[-1], 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, 1] of pictures [N, 3, S, S]."""
        x = self.convs(images.to(self.final_conv.conv.weight.dtype))
        x = self.final_conv(torch.cat((x, minibatch_stddev(x).to(x.dtype)), 1))
        hidden = F.leaky_relu(self.final_linear[0](x.flatten(1).float()), SLOPE) * SQRT2
        return self.final_linear[1](hidden).float()
