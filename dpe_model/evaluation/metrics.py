"""PSNR, SSIM and L1 of pictures, over the whole, over what should change and over what should stay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FrameError
from ..frames import check_frames, to_unit

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
PSNR_LIMIT = 60.0
"""dB given to pictures that are equal; rounding to 8 bits alone costs 59 dB."""
LUMA = (0.299, 0.587, 0.114)

CHANGE_THRESHOLD = 0.05
"""A pixel should change where some channel of truth and source differ by more (range 0..1)."""
CHANGE_DILATION = 1 / 40
"""How far the region that should change is widened, in picture sides."""

REGIONS = ("whole", "change", "stay")
METRICS = ("psnr", "ssim", "l1")


@dataclass(frozen=True)
class Score:
    """Likeness of one picture to the truth over one region.

    Attributes:
        psnr: dB, at most `PSNR_LIMIT`. ssim: -1..1, 1 is equal. l1: mean absolute difference, 0..1.
    """

    psnr: float
    ssim: float
    l1: float


def change_mask(truth: Tensor, source: Tensor) -> Tensor:
    """Where a picture should change: bool [N, S, S], dilated by `CHANGE_DILATION`.

    Args:
        truth, source: frames [N, S, S, 3] of one size.
    """
    difference = (to_unit(truth) - to_unit(source)).abs().amax(-1)
    changed = (difference > CHANGE_THRESHOLD).float()
    radius = round(truth.shape[1] * CHANGE_DILATION)
    return F.max_pool2d(changed[:, None], 2 * radius + 1, 1, radius)[:, 0] > 0


def ssim_map(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity at every place the window fits: [N, S - 10, S - 10] float64.

    Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity",
    IEEE Transactions on Image Processing 13(4), 2004, equation 13: luma, 11x11 Gaussian window of sigma 1.5, K1 = 0.01,
    K2 = 0.03, dynamic range 1.

    Args:
        first, second: frames [N, S, S, 3], S at least 11.
    """
    x, y = _luma(first), _luma(second)
    kernel = _window()
    mean_x, mean_y = _blur(x, kernel), _blur(y, kernel)
    var_x = _blur(x * x, kernel) - mean_x**2
    var_y = _blur(y * y, kernel) - mean_y**2
    covariance = _blur(x * y, kernel) - mean_x * mean_y
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (numerator / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)))[:, 0]


def compare(result: Tensor, truth: Tensor, mask: Tensor | None = None) -> list[dict[str, Score]]:
    """Scores of each picture by region.

    Args:
        result, truth: frames [N, S, S, 3] of one size.
        mask: bool [N, S, S], what should change; None scores the whole picture only.

    Returns:
        Per picture the scores by region; a region without pixels is left out.

    Raises:
        FrameError: pictures of different shapes, or smaller than 16 px.
    """
    result, truth = check_frames(result, "result"), check_frames(truth, "truth")
    if result.shape != truth.shape:
        raise FrameError(f"result and truth: expected one shape, got {list(result.shape)} and {list(truth.shape)}.")
    difference = to_unit(result).double() - to_unit(truth).double()
    squared, absolute = difference.square().mean(-1), difference.abs().mean(-1)
    similarity = ssim_map(result, truth)
    return [
        {
            region: Score(psnr(float(squared[i][where].mean())), float(similarity[i][inner].mean()), l1)
            for region, where, inner in _regions(None if mask is None else mask[i], squared[i])
            if not math.isnan(l1 := float(absolute[i][where].mean())) and bool(inner.any())
        }
        for i in range(len(result))
    ]


def psnr(mean_squared_error: float) -> float:
    """Peak signal-to-noise ratio in dB for values in 0..1, at most `PSNR_LIMIT`."""
    if mean_squared_error <= 10 ** (-PSNR_LIMIT / 10):
        return PSNR_LIMIT
    return -10.0 * math.log10(mean_squared_error)


def mean_scores(scores: list[dict[str, Score]]) -> dict[str, Score]:
    """Mean of each metric by region over the pictures that have the region."""
    result: dict[str, Score] = {}
    for region in REGIONS:
        found = [s[region] for s in scores if region in s]
        if found:
            means = (sum(getattr(s, name) for s in found) / len(found) for name in METRICS)
            result[region] = Score(*means)
    return result


def as_numbers(scores: Mapping[str, Score]) -> dict[str, dict[str, float]]:
    """Scores by region as plain numbers, rounded for a report."""
    return {region: {name: round(getattr(score, name), 5) for name in METRICS} for region, score in scores.items()}


def _regions(mask: Tensor | None, like: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """Name, pixels [S, S] and window centres [S - 10, S - 10] of each region."""
    edge = SSIM_WINDOW // 2
    regions = {"whole": torch.ones_like(like, dtype=torch.bool)}
    if mask is not None:
        regions |= {"change": mask, "stay": ~mask}
    return [(name, where, where[edge:-edge, edge:-edge]) for name, where in regions.items()]


def _luma(frames: Tensor) -> Tensor:
    return (to_unit(frames).double() @ torch.tensor(LUMA, dtype=torch.float64))[:, None]


def _window() -> Tensor:
    offset = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    weights = torch.exp(-(offset**2) / (2 * SSIM_SIGMA**2))
    return weights / weights.sum()


def _blur(x: Tensor, kernel: Tensor) -> Tensor:
    return F.conv2d(F.conv2d(x, kernel[None, None, :, None]), kernel[None, None, None, :])
