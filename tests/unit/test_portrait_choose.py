from __future__ import annotations

import numpy as np
import pytest
import torch

from dpe_model.errors import NoFaceError
from dpe_model.portrait import Face
from dpe_model.portrait.track import find_people

SIZE = (480, 640)


def face(x: float, y: float = 200.0, side: float = 80.0) -> Face:
    half = side / 2
    return Face((x - half, y - half, x + half, y + half), np.full((5, 2), x), 0.99)


def pair(n: int = 20) -> list[list[Face]]:
    """A large one on the left, a smaller one on the right."""
    return [[face(200, side=100), face(450)] for _ in range(n)]


def chosen(detections: list[list[Face]], select: str, **more: object) -> float:
    return find_people(detections, SIZE).choose(select, **more).seen[0].centre[0]  # type: ignore[arg-type]


def test_by_position() -> None:
    assert chosen(pair(), "position", position=(450 / 640, 200 / 480)) == 450
    assert chosen(pair(), "position", position=(0.31, 0.4)) == 200
    # On nobody: the nearest.
    assert chosen(pair(), "position", position=(0.95, 0.9)) == 450
    with pytest.raises(ValueError, match=r"position.*0\.\.1.*1\.5"):
        find_people(pair(), SIZE).choose("position", position=(1.5, 0.0))


def test_the_first_at_the_position_is_meant_not_who_comes_later() -> None:
    crossing = [[face(100 + 20 * n, 150), face(480 - 20 * n, 320)] for n in range(20)]
    track = find_people(crossing, SIZE).choose("position", position=(100 / 640, 150 / 480))
    assert [f.centre[0] for f in track.seen] == [100 + 20 * n for n in range(20)]


@pytest.mark.parametrize("shape", [SIZE, (48, 64), (1, 480, 640), (1, 1, 48, 64)])
def test_by_mask_of_any_size(shape: tuple[int, ...]) -> None:
    mask = torch.zeros(shape)
    mask[..., int(shape[-1] * 0.6) :] = 1.0
    assert chosen(pair(), "mask", mask=mask) == 450
    assert chosen(pair(), "mask", mask=1.0 - mask) == 200


def test_by_masks_that_move() -> None:
    crossing = [[face(100 + 20 * n, 150), face(480 - 20 * n, 320)] for n in range(20)]
    masks = torch.zeros(20, 48, 64)
    for n in range(20):
        masks[n, 28:36, max(0, 44 - 2 * n) : 52 - 2 * n] = 1.0
    assert [f.centre[0] for f in find_people(crossing, SIZE).choose("mask", mask=masks).seen] == [
        480 - 20 * n for n in range(20)
    ]


def test_a_part_under_the_mask_is_enough_where_nobody_lies_under_all_of_it() -> None:
    mask = torch.zeros(480, 640)
    mask[190:210, 440:460] = 1.0
    assert chosen(pair(), "mask", mask=mask) == 450


def test_masks_that_choose_nobody_are_explained() -> None:
    with pytest.raises(NoFaceError, match="no face lies under the mask"):
        find_people(pair(), SIZE).choose("mask", mask=torch.zeros(64, 64))
    with pytest.raises(ValueError, match="got none"):
        find_people(pair(), SIZE).choose("mask")
    with pytest.raises(ValueError, match=r"\[20, H, W\].*\[3, 4, 4\]"):
        find_people(pair(), SIZE).choose("mask", mask=torch.ones(3, 4, 4))


def test_a_passer_by_at_the_position_is_not_meant() -> None:
    frames = pair(40)
    frames[3] = [*frames[3], face(600, 400)]
    assert chosen(frames, "position", position=(600 / 640, 400 / 480)) == 450
