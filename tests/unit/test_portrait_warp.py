from __future__ import annotations

import numpy as np
import pytest
import torch

from dpe_model.portrait.warp import invert, resample


def waves(height: int, width: int, matrix: np.ndarray, period: float) -> np.ndarray:
    """[h, w, 3] of a smooth function of the plane, looked at through `matrix` (plane to pixels)."""
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    back = invert(matrix)
    u, v = (back[k, 0] * x + back[k, 1] * y + back[k, 2] for k in (0, 1))
    channels = [np.sin(2 * np.pi * u / period), np.cos(2 * np.pi * v / period), np.sin(2 * np.pi * (u + v) / period)]
    return (0.5 + 0.4 * np.stack(channels, -1)).astype(np.float32)


IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def scaled(scale: float, x: float, y: float, angle: float = 0.0) -> np.ndarray:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, x], [s, c, y]])


@pytest.mark.parametrize("scale", [0.31, 0.83, 1.0, 1.7, 2.9])
@pytest.mark.parametrize("angle", [0.0, 0.2])
def test_every_pixel_comes_from_where_the_map_says(scale: float, angle: float) -> None:
    """A wave drawn at the new place and the wave moved there are the same: no shift of any part of a pixel."""
    matrix = scaled(scale, -31.37, -24.71, angle)
    period = 21.0 / min(scale, 1.0)
    source = torch.from_numpy(waves(160, 200, IDENTITY, period))
    height, width = int(60 * scale), int(90 * scale)
    matrix[:, 2] *= scale
    want = torch.from_numpy(waves(height, width, matrix, period))
    got = resample(source, matrix, (height, width))
    # The turned map's filter is the softer one; a shift of 0.1 px would be an error of 0.012.
    assert (got - want)[4:-4, 4:-4].abs().mean() < (0.002 if angle == 0.0 else 0.012)
    shift = (got - want)[4:-4, 4:-4].mean().abs()
    assert shift < 0.001


@pytest.mark.parametrize("angle", [0.0, 0.1])
def test_what_is_too_fine_vanishes_when_shrunk(angle: float) -> None:
    source = torch.from_numpy(waves(256, 256, IDENTITY, 2.7))
    got = resample(source, scaled(0.25, 0.0, 0.0, angle), (40, 40))[8:-8, 8:-8]
    assert (got - 0.5).abs().max() < 0.03


def test_identity_is_exact_and_borders_are_as_asked() -> None:
    source = torch.rand(20, 30, 3)
    assert torch.allclose(resample(source, IDENTITY, (20, 30)), source, atol=1e-6)
    ones = torch.ones(20, 30)
    moved = resample(ones, scaled(1.0, 5.0, 0.0), (20, 30), edge="zero")
    assert moved[:, :4].max() == 0.0
    assert moved[:, 6:].min() == 1.0
    assert resample(ones, scaled(1.0, 5.0, 0.0), (20, 30)).min() == 1.0


def test_a_result_wholly_outside_the_source() -> None:
    assert resample(torch.ones(20, 30), scaled(1.0, 500.0, 0.0), (20, 30), edge="zero").max() == 0.0
    assert resample(torch.ones(20, 30, 3), scaled(1.0, 500.0, 0.0), (20, 30)).min() == 1.0


def test_no_value_leaves_the_range_of_the_source() -> None:
    source = torch.zeros(40, 40, 3)
    source[10:30, 10:30] = 1.0
    got = resample(source, scaled(3.3, 0.2, 0.1), (130, 130))
    assert got.min() == 0.0
    assert got.max() == 1.0
