"""Picture layouts, and what is refused."""

import pytest
import torch

from dpe_model.errors import FrameError
from dpe_model.frames import check_frames, from_network, to_network, to_uint8

from .tiny import clip


def test_uint8_and_float_say_the_same():
    frames = clip(3)
    assert torch.allclose(to_network(frames, 16), to_network(frames.float() / 255, 16), atol=1e-6)
    expected = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
    assert torch.allclose(to_network(frames, 16), expected, atol=1e-6)


def test_round_trip_is_exact():
    frames = clip(3)
    assert torch.equal(to_uint8(from_network(to_network(frames, 16))), frames)


def test_outputs_are_clamped():
    images = torch.full((1, 3, 4, 4), 7.0)
    assert float(from_network(images).max()) == 1.0
    assert float(from_network(-images).min()) == 0.0


def test_grey_and_alpha():
    grey = clip(2)[..., :1]
    assert torch.equal(check_frames(grey), grey.expand(-1, -1, -1, 3))
    rgba = torch.cat([clip(2), clip(2, seed=1)[..., :1]], -1)
    assert torch.equal(check_frames(rgba), rgba[..., :3])
    assert check_frames(clip(1)[0]).shape == (1, 16, 16, 3)


def test_resizing_is_antialiased():
    stripes = torch.zeros(1, 64, 64, 3)
    stripes[:, :, ::2] = 1.0
    assert float((to_network(stripes, 16)[..., 1:-1] - 0.0).abs().max()) < 0.05


def test_other_sizes_are_resized():
    assert to_network(clip(1, size=40), 16).shape == (1, 3, 16, 16)
    assert to_network(torch.rand(1, 16, 16, 3), 256).shape == (1, 3, 256, 256)


@pytest.mark.parametrize(
    ("frames", "match"),
    [
        (torch.zeros(0, 16, 16, 3), "empty"),
        (torch.zeros(1, 1, 1, 3), "1x1"),
        (torch.zeros(2, 16, 16, 5), "shape"),
        (torch.zeros(16, 16), "shape"),
        (torch.zeros(1, 16, 16, 3, dtype=torch.int64), "int64"),
    ],
)
def test_refused(frames, match):
    with pytest.raises(FrameError, match=match):
        check_frames(frames)


def test_only_square_pictures_enter_the_network():
    with pytest.raises(FrameError, match="4000x3000"):
        to_network(torch.zeros(1, 3000, 4000, 3, dtype=torch.uint8), 16)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_frames_are_named(value):
    frames = torch.rand(4, 16, 16, 3)
    frames[2, 3, 3, 1] = value
    with pytest.raises(FrameError, match="NaN or infinity at frame 102[.]"):
        to_network(frames, 16, start=100)
