"""Reading a part of a picture, on pictures that are a few numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from dpe_model.evaluation.parts import PARTS, Window, best_share, part_of, reach_of, unexplained  # noqa: E402

SIZE, REACH = 64, 3
SHARES = np.arange(-0.25, 1.26, 0.125, dtype=np.float32)
CENTRE = Window.around(np.array([[-0.3, -0.2], [0.3, 0.2]], np.float32), SIZE, REACH)


def lips(gap: float, x: float = 0.0, y: float = 0.0, gain: float = 1.0, offset: float = 0.0) -> torch.Tensor:
    """A dark spot of a height in a bright field with texture, as soft as pictures are compared: [3, S, S]."""
    rows, columns = torch.meshgrid(torch.arange(float(SIZE)), torch.arange(float(SIZE)), indexing="ij")
    rows, columns = rows - SIZE / 2 - y, columns - SIZE / 2 - x
    spot = torch.exp(-((columns / 8) ** 2) - (rows / (4 + 5 * gap)) ** 2)
    return (offset + gain * (0.7 + 0.1 * torch.sin(columns / 4) - 0.5 * spot)).expand(3, -1, -1)


RENDERS = torch.stack([lips(float(share)) for share in SHARES])


def read(picture: torch.Tensor, window: Window = CENTRE) -> float:
    return best_share(unexplained(picture, RENDERS, window, REACH), SHARES)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (2.0, -1.0), (-1.5, 2.5)])
def test_a_part_is_read_wherever_it_lies_nearby(share, x, y):
    assert read(lips(share, x, y)) == pytest.approx(share, abs=0.05)


def test_brightness_and_contrast_are_not_looked_at():
    assert read(lips(0.7, gain=0.6, offset=0.2)) == pytest.approx(0.7, abs=0.05)


def test_what_lies_around_the_part_is_not_looked_at():
    picture = lips(0.25).clone()
    picture[:, :14] = 1.0
    picture[:, :, -10:] = 0.0
    assert read(picture) == pytest.approx(0.25, abs=0.05)


def test_a_part_beyond_reach_is_not_found():
    assert abs(read(lips(0.5, y=9.0)) - 0.5) > 0.1


def test_nothing_is_left_of_the_render_itself():
    left = unexplained(RENDERS[6], RENDERS, CENTRE, REACH)
    assert left[6] == pytest.approx(0.0, abs=1e-3)
    assert left[0] > 0.02 and left[-1] > 0.02


@pytest.mark.parametrize(
    ("left", "expected"), [([3.0, 1.0, 3.0], 1.0), ([2.0, 1.0, 4.0], 0.75), ([1.0, 2.0, 3.0], 0.0)]
)
def test_the_best_share_lies_between_those_that_were_tried(left, expected):
    assert best_share(np.array(left, np.float32), np.array([0.0, 1.0, 2.0], np.float32)) == pytest.approx(expected)


def test_windows():
    """A third of the longer side around the landmarks; what cannot be moved about inside the picture is not seen."""
    assert (CENTRE.left, CENTRE.right) == (15, 50) and (CENTRE.top, CENTRE.bottom) == (18, 47)
    assert CENTRE.seen == 1.0 and not CENTRE.empty
    half = Window.around(np.array([[-0.3, 0.9], [0.3, 1.3]], np.float32), SIZE, REACH)
    assert half.bottom == SIZE - REACH and 0.0 < half.seen < 0.6
    outside = Window.around(np.array([[-0.3, 1.9], [0.3, 2.3]], np.float32), SIZE, REACH)
    assert outside.seen == 0.0 and outside.empty


def test_reach_grows_with_the_picture():
    assert [reach_of(size) for size in (8, 48, 128, 256)] == [1, 2, 4, 8]


def test_every_blendshape_moves_a_part_of_its_side():
    names = {"browInnerUp_L": "left brow", "eyeBlink_R": "right eye", "jawOpen": "mouth", "mouthSmile_L": "mouth"}
    assert {name: part_of(name) for name in names} == names
    assert {*names.values()} <= PARTS.keys()
