"""sRGB to CIE Lab and back (IEC 61966-2-1, CIE 1976, white point D65); giving one picture the colours of another."""

from __future__ import annotations

import torch
from torch import Tensor

_RGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
DELTA = 6.0 / 29.0
MAX_CONTRAST = 2.0
"""Most that matching may stretch or flatten a channel."""
QUANTILES = 17
"""Points at which distributions are compared, from the LEAST to the 1 - LEAST quantile."""
LEAST = 0.01
STEADY = 1.0
"""Spread of a channel, in Lab units, that is taken for granted, so that flat pictures are not stretched by chance."""


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """[..., 3] sRGB in 0..1 -> L in 0..100, a, b."""
    matrix = _matrix(rgb)
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp_min(0.0) + 0.055) / 1.055) ** 2.4)
    t = linear @ (matrix / matrix.sum(1, keepdim=True)).T
    f = torch.where(t > DELTA**3, t.clamp_min(1e-9) ** (1.0 / 3.0), t / (3 * DELTA**2) + 4.0 / 29.0)
    x, y, z = f.unbind(-1)
    return torch.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)], -1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of `rgb_to_lab`; colours that sRGB cannot show lie outside 0..1."""
    matrix = _matrix(lab)
    y = (lab[..., 0] + 16.0) / 116.0
    f = torch.stack([y + lab[..., 1] / 500.0, y, y - lab[..., 2] / 200.0], -1)
    t = torch.where(f > DELTA, f**3, 3 * DELTA**2 * (f - 4.0 / 29.0))
    linear = t @ torch.linalg.inv(matrix / matrix.sum(1, keepdim=True)).T
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp_min(1e-9) ** (1 / 2.4) - 0.055)


def colour_statistics(new: Tensor, old: Tensor, weight: Tensor, method: str) -> Tensor:
    """What `matched` needs to know of two pictures; may be averaged over frames.

    Args:
        new: [h, w, 3] RGB in 0..1.
        old: [h, w, 3] the same.
        weight: [h, w] what counts, 0..1.
        method: "mean_std" or "histogram".

    Returns:
        [2, K, 3] of `new` and `old` by channel of CIE Lab: mean and standard deviation, or `QUANTILES` quantiles.
    """
    share = (weight / weight.sum().clamp_min(1e-6)).reshape(-1)
    measure = _moments if method == "mean_std" else _quantiles
    return torch.stack([measure(rgb_to_lab(x.clamp(0.0, 1.0)).reshape(-1, 3), share) for x in (new, old)])


def matched(picture: Tensor, statistics: Tensor, method: str) -> Tensor:
    """`picture` with its colours changed as the statistics of "new" change to those of "old".

    "mean_std" after Reinhard, Ashikhmin, Gooch, Shirley: Color Transfer between Images (2001), there in another
    opponent space; "histogram" matches the distribution of each channel by its quantiles.

    Args:
        picture: [..., 3] RGB in 0..1.
        statistics: from `colour_statistics`.
        method: the one they were measured by.
    """
    lab = rgb_to_lab(picture.clamp(0.0, 1.0))
    new, old = statistics
    if method == "mean_std":
        gain = ((old[1] + STEADY) / (new[1] + STEADY)).clamp(1.0 / MAX_CONTRAST, MAX_CONTRAST)
        lab = (lab - new[0]) * gain + old[0]
    else:
        lab = torch.stack([_mapped(lab[..., c], new[:, c], old[:, c]) for c in range(3)], -1)
    return lab_to_rgb(lab).clamp(0.0, 1.0)


def _moments(lab: Tensor, share: Tensor) -> Tensor:
    """[2, 3]: weighted mean and standard deviation of [P, 3]."""
    mean = share @ lab
    return torch.stack([mean, (share @ (lab - mean) ** 2).sqrt()])


def _quantiles(lab: Tensor, share: Tensor) -> Tensor:
    """[QUANTILES, 3]: weighted quantiles of [P, 3]."""
    levels = torch.linspace(LEAST, 1.0 - LEAST, QUANTILES, device=lab.device)
    columns = []
    for values in lab.unbind(1):
        values, order = values.sort()
        mass = share[order]
        columns.append(_interpolated(levels, mass.cumsum(0) - mass / 2, values))
    return torch.stack(columns, 1)


def _mapped(values: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Values through the broken line from the quantiles `new` to `old`, of limited slope, going on straight outside."""
    step = (new.diff()).clamp_min(1e-3)
    rise = (old.diff() + STEADY / QUANTILES) / (step + STEADY / QUANTILES) * step
    rise = torch.minimum(torch.maximum(rise, step / MAX_CONTRAST), step * MAX_CONTRAST)
    knots = torch.cat([new[:1], new[:1] + step.cumsum(0)])
    heights = torch.cat([rise.new_zeros(1), rise.cumsum(0)])
    middle = len(old) // 2
    heights = heights - heights[middle] + old[middle]
    inner = _interpolated(values, knots, heights)
    return inner + (values - knots[-1]).clamp_min(0.0) + (values - knots[0]).clamp_max(0.0)


def _interpolated(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The broken line through (x, y), x ascending, constant outside."""
    right = torch.searchsorted(x.contiguous(), at.contiguous()).clamp(1, len(x) - 1)
    width = (x[right] - x[right - 1]).clamp_min(1e-9)
    t = ((at - x[right - 1]) / width).clamp(0.0, 1.0)
    return y[right - 1] + t * (y[right] - y[right - 1])


def _matrix(like: Tensor) -> Tensor:
    return torch.tensor(_RGB_TO_XYZ, dtype=like.dtype, device=like.device)
