from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpe_model.portrait.colour import colour_statistics, lab_to_rgb, matched, rgb_to_lab


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [  # published values of the sRGB primaries (D65)
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
    ],
)
def test_known_colours(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    assert torch.allclose(
        rgb_to_lab(torch.tensor(rgb, dtype=torch.float32)), torch.tensor(lab, dtype=torch.float32), atol=0.02
    )


def test_round_trip() -> None:
    rgb = torch.rand(20, 20, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=1e-4)


def picture(seed: int = 0) -> Tensor:
    """Skin-like: light and shade of one colour, which varies a little."""
    generator = torch.Generator().manual_seed(seed)
    shade = 0.3 + 0.6 * torch.rand(48, 48, 1, generator=generator)
    return shade * (torch.tensor([1.0, 0.8, 0.7]) + 0.05 * torch.rand(48, 48, 3, generator=generator))


@pytest.mark.parametrize("method", ["mean_std", "histogram"])
def test_equal_statistics_change_nothing(method: str) -> None:
    x = picture()
    statistics = colour_statistics(x, x, torch.ones(48, 48), method)
    assert torch.allclose(matched(x, statistics, method), x, atol=1e-4)


@pytest.mark.parametrize("method", ["mean_std", "histogram"])
def test_a_cast_is_undone_as_the_weight_says(method: str) -> None:
    """Half of the picture does not count; there the two have nothing in common."""
    old = picture()
    new = old * torch.tensor([0.85, 0.95, 1.05])
    new[24:] = 0.0
    weight = torch.zeros(48, 48)
    weight[:24] = 1.0
    better = matched(new, colour_statistics(new, old, weight, method), method)
    assert (better - old)[:24].abs().mean() < 0.25 * (new - old)[:24].abs().mean()


def test_histogram_follows_what_moments_cannot() -> None:
    """A curve bends the tones; only the distribution knows."""
    old = picture()
    new = old**1.8
    weight = torch.ones(48, 48)
    errors = {
        m: (matched(new, colour_statistics(new, old, weight, m), m) - old).abs().mean().item()
        for m in ("mean_std", "histogram")
    }
    assert errors["histogram"] < 0.5 * errors["mean_std"]


@pytest.mark.parametrize("method", ["mean_std", "histogram"])
def test_flat_pictures_stay_in_range(method: str) -> None:
    flat, lively = torch.full((48, 48, 3), 0.5), picture()
    for new, old in ((flat, lively), (lively, flat)):
        out = matched(new, colour_statistics(new, old, torch.zeros(48, 48), method), method)
        assert torch.isfinite(out).all()
        out = matched(new, colour_statistics(new, old, torch.ones(48, 48), method), method)
        assert out.min() >= 0.0
        assert out.max() <= 1.0
        assert out.reshape(-1, 3).std(0).max() < 2.5 * new.reshape(-1, 3).std(0).max() + 1e-3
