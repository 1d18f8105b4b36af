"""Curves as a picture: the right numbers at the right places, in the right colours."""

from __future__ import annotations

import pytest
import torch

from dpe_model.errors import MotionError
from dpe_model.motion import Motion
from dpe_model.motion_plot import plot_motion, strongest

BLUE, ORANGE = torch.tensor([31, 99, 176]) / 255, torch.tensor([217, 95, 14]) / 255


def motion(frames: int = 50, checkpoint: str = "a", fps: float | None = 25.0) -> Motion:
    alpha = torch.randn(frames, 20, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 2.0, 20)
    return Motion(alpha, checkpoint, fps)


def drawn(picture: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """Where a picture shows a colour: [H, W]."""
    return (picture[0] - colour).abs().amax(-1) < 0.08


def test_the_strongest_are_those_that_vary_most_in_their_own_order():
    assert strongest(motion(), 3) == [17, 18, 19]
    assert strongest(motion(), 0) == list(range(20))
    assert strongest(motion(), 64) == list(range(20))


def test_a_picture_of_the_asked_size_with_curves():
    picture = plot_motion(motion(), None, 6, (640, 480))
    assert picture.shape == (1, 480, 640, 3)
    assert 0.0 <= float(picture.min()) <= float(picture.max()) <= 1.0
    assert drawn(picture, BLUE).sum() > 500
    assert not drawn(picture, ORANGE).any()


def test_a_rising_line_rises():
    rising = Motion(torch.arange(40, dtype=torch.float32)[:, None], "a", 25.0)
    rows, columns = drawn(plot_motion(rising, None, 1, (400, 300)), BLUE)[30:].nonzero().T
    left, right = rows[columns < 120].float().mean(), rows[columns > 300].float().mean()
    assert left > right + 100


def test_a_second_motion_is_drawn_beside():
    other = Motion(motion().alpha * 0.5, "a", 25.0)
    picture = plot_motion(motion(), other, 4, (640, 480))
    assert drawn(picture, BLUE).sum() > 300
    assert drawn(picture, ORANGE).sum() > 300


def test_time_is_shared_so_that_a_shorter_clip_ends_earlier():
    short = Motion(motion(25).alpha, "a", 25.0)
    picture = drawn(plot_motion(motion(50), short, 2, (640, 480)), ORANGE)[40:]
    assert picture[:, :330].any()
    assert not picture[:, 420:].any()


@pytest.mark.parametrize("components", [0, 1, 20])
@pytest.mark.parametrize("size", [(256, 128), (1024, 768)])
def test_any_number_and_size(components, size):
    picture = plot_motion(motion(), None, components, size)
    assert picture.shape == (1, size[1], size[0], 3)
    assert drawn(picture, BLUE).any()


@pytest.mark.parametrize("fps", [25.0, None])
def test_one_frame_is_a_dot(fps):
    picture = plot_motion(motion(1, fps=fps), None, 3, (400, 300))
    assert 20 < drawn(picture, BLUE)[25:].sum() < 300


def test_uneven_times_move_the_points():
    alpha = torch.tensor([[0.0], [1.0], [0.0]])
    late = Motion(alpha, "a", 3.0, torch.tensor([0.0, 0.8, 1.0]))
    rows, columns = drawn(plot_motion(late, None, 1, (400, 300)), BLUE)[30:].nonzero().T
    assert columns[rows < 25].float().mean() > 250


def test_bad_settings():
    with pytest.raises(MotionError, match="another checkpoint"):
        plot_motion(motion(), motion(checkpoint="b"))
    with pytest.raises(MotionError, match="256x128"):
        plot_motion(motion(), size=(100, 100))
    with pytest.raises(MotionError, match="components"):
        plot_motion(motion(), components=-1)
