"""What an edit has moved, and carrying the frame's fine detail over where it has moved nothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .warp import gaussian_blur

LOW_SIZE = 128
"""Side of the small pictures that are compared, px."""
STILL_SHIFT, MOVED_SHIFT = 0.1, 0.4
"""Shift, in pixels of the small pictures, up to which a place counts as unmoved, and from which as moved."""
STILL_CHANGE, MOVED_CHANGE = 0.05, 0.12
"""The same of the colours' difference, 0..1, for what is no shift, such as teeth that appear."""
WINDOW = 7
"""Side of the neighbourhood whose shift is measured, px of the small pictures."""
FLAT = 6e-5
"""Mean squared slope per pixel below which a neighbourhood shows no shift."""
COARSE = 1.5
"""Blur before shifts are measured, px of the small pictures, so that fine lines gone soft do not look shifted."""
FINE = 2.0
"""What counts as fine detail: what a Gaussian blur of this many pixels of the portrait takes away."""
SOFTER, AS_SHARP = 0.75, 1.0
"""Strength of the frame's fine detail, in that of the edit's own, from which it begins to be carried over, and from
which it is in full: detail that a restorer has put in is not given up for a softer frame's."""
LUMA = (0.299, 0.587, 0.114)


def change_map(source: Tensor, edited: Tensor) -> Tensor:
    """How much an edit has changed the colour of each place.

    Compared at half the pictures' size, where a softer picture of the same face looks the same; a colour cast of the
    whole edit does not count. Each place takes the largest change of its neighbours, since what moved leaves one place
    and enters another.

    Args:
        source: [s, s, 3] the portrait before the edit, `LOW_SIZE` px, 0..1.
        edited: [s, s, 3] the same after it.

    Returns:
        [s / 2, s / 2], 0..1.
    """
    difference = F.avg_pool2d((edited - source).permute(2, 0, 1)[None], 2)[0]
    difference = difference - difference.flatten(1).median(1).values[:, None, None]
    change = F.max_pool2d(difference.abs().mean(0)[None, None], 3, 1, 1)
    return F.avg_pool2d(change, 3, 1, 1, count_include_pad=False)[0, 0]


def shift_map(source: Tensor, edited: Tensor) -> Tensor:
    """How far an edit has shifted what is seen at each place.

    Least squares over a neighbourhood (Lucas, Kanade: An Iterative Image Registration Technique, 1981; one step, which
    is enough to tell whether there is a shift). A blurred edge stays where it is, so softness is no shift.

    Args:
        source: [s, s, 3] the portrait before the edit, `LOW_SIZE` px, 0..1.
        edited: [s, s, 3] the same after it.

    Returns:
        [s / 2, s / 2] px of the pictures given, the largest of the neighbours'.
    """
    before, after = (gaussian_blur(picture @ picture.new_tensor(LUMA), COARSE) for picture in (source, edited))
    middle = F.pad(((before + after) / 2)[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    x, y = (middle[1:-1, 2:] - middle[1:-1, :-2]) / 2, (middle[2:, 1:-1] - middle[:-2, 1:-1]) / 2
    t = after - before
    t = t - t.median()
    products = torch.stack([x * x, x * y, y * y, x * t, y * t])[None]
    xx, xy, yy, xt, yt = F.avg_pool2d(products, WINDOW, 1, WINDOW // 2, count_include_pad=False)[0]
    xx, yy = xx + FLAT, yy + FLAT
    u, v = xy * yt - yy * xt, xy * xt - xx * yt
    shift = torch.sqrt(u * u + v * v) / (xx * yy - xy * xy)
    return F.max_pool2d(shift[None, None], 6, 2, 2)[0, 0]


def moved_map(source: Tensor, edited: Tensor, change: Tensor) -> Tensor:
    """Where an edit has moved or changed something: [s / 2, s / 2], 0 nowhere to 1.

    Args:
        source: [s, s, 3] the portrait before the edit, `LOW_SIZE` px, 0..1.
        edited: [s, s, 3] the same after it.
        change: [s / 2, s / 2] their `change_map`.
    """
    changed = ramp(change, STILL_CHANGE, MOVED_CHANGE)
    shifted = ramp(shift_map(source, edited), STILL_SHIFT, MOVED_SHIFT)
    return 1.0 - (1.0 - changed) * (1.0 - shifted)


def with_detail(new: Tensor, old: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """`new` with the fine detail of `old` in place of its own, where that is the sharper.

    Args:
        new: [h, w, 3] the edit.
        old: [h, w, 3] the frame.
        weight: [h, w] where and how strongly, 0..1.
        sigma: blur that takes all fine detail away, px.
    """
    luma = new.new_tensor(LUMA)
    both = torch.cat([old - new, (new @ luma)[..., None]], -1)
    fine = both - gaussian_blur(both, sigma)
    own = fine[..., 3]
    sharper = _relative_strength(fine[..., :3] @ luma + own, own, sigma)
    return new + (weight * ramp(sharper, SOFTER, AS_SHARP))[..., None] * fine[..., :3]


def _relative_strength(a: Tensor, b: Tensor, sigma: float) -> Tensor:
    """[h, w]: local deviation of detail `a` in that of detail `b`, over some sigmas."""
    reach = max(2, round(2 * sigma))
    height, width = a.shape
    squares = torch.stack([a * a, b * b])[None]
    squares = F.avg_pool2d(squares, reach, ceil_mode=True, count_include_pad=False)
    squares = F.avg_pool2d(squares, 3, 1, 1, count_include_pad=False) + 1e-6
    ratio = (squares[:, :1] / squares[:, 1:]).sqrt()
    return F.interpolate(ratio, (height, width), mode="bilinear", align_corners=False)[0, 0]


def ramp(values: Tensor, low: float, high: float) -> Tensor:
    """0 up to `low`, 1 from `high` on, smooth between."""
    t = ((values - low) / (high - low)).clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)
