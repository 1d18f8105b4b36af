"""Reading a part of a picture, on pictures that are a few numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from dpe_model.errors import EvaluationError  # noqa: E402
from dpe_model.evaluation.face_fit import POSE_DIM, FaceFit  # noqa: E402
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


def test_a_blendshape_of_no_side_is_refused():
    with pytest.raises(EvaluationError, match="'browInnerUp'.*ICT-FaceKit"):
        part_of("browInnerUp")


class DrawnEyes(FaceFit):
    """Two bright slits as high as lids are open, in each a dark iris where it looks: no head is rendered."""

    PLACES = {"right eye": 18, "left eye": 46}

    def picture(self, face):
        shares = dict(zip((*PARTS, "gaze"), face[POSE_DIM:], strict=True))
        rows, columns = torch.meshgrid(torch.arange(64.0) - 32, torch.arange(64.0), indexing="ij")
        shade = torch.full((64, 64), 0.5)
        for part, centre in self.PLACES.items():
            x = columns - centre
            slit = torch.sigmoid(4 * (2 + 3 * shares[part] - rows.abs())) * torch.sigmoid(2 * (9 - x.abs()))
            iris = torch.sigmoid(2 * (3.5 - (x - 8 * (shares["gaze"] - 0.5)).abs()))
            shade = shade + slit * (0.45 - 0.9 * iris)
        return (shade.clamp(0, 1) * 255).to(torch.uint8)[..., None].expand(-1, -1, 3)

    def _windows(self, pose, reach):
        eyes = {part: Window(x - 12, 22, x + 12, 42, 1.0) for part, x in self.PLACES.items()}
        return {part: eyes.get(part, Window(0, 0, 0, 0, 0.0)) for part in PARTS}


@pytest.mark.parametrize("shares", [(0.2, 0.8, 0.1), (0.9, 0.4, 0.9), (0.5, 0.0, 0.5)])
def test_the_lids_of_each_eye_are_read_wherever_both_look(shares):
    right, left, gaze = shares
    fit = DrawnEyes(None, None, None, 64, 64)
    face = fit._read_parts(fit.picture((*[0.0] * POSE_DIM, 0.0, right, left, 0.0, 0.0, gaze)), (0.0,) * POSE_DIM).face
    found = dict(zip((*PARTS, "gaze"), face[POSE_DIM:], strict=True))
    assert (found["right eye"], found["left eye"], found["gaze"]) == pytest.approx(shares, abs=0.1)
    assert found["mouth"] == 0.0
