from __future__ import annotations

import numpy as np
import pytest
import torch

from dpe_model.errors import FrameError, NoFaceError
from dpe_model.portrait import (
    Face,
    Track,
    TrackBuilder,
    crop_frames,
    frame_portraits,
    matching_scale,
    measure_proportion,
)
from dpe_model.portrait.mtcnn import MTCNNDetector
from dpe_model.portrait.scale import MATCHED, head_size, spread

from .scenes import Actor, at, portraits, scene

FRONT = np.array([[-20.0, 0.0], [20.0, 0.0], [0.0, 22.0], [-15.0, 40.0], [15.0, 40.0]])


def track(size: float = 1.0) -> Track:
    face = Face((0.0, 0.0, 100 * size, 100 * size), FRONT * size + 50 * size, 0.99)
    return Track((face, None, face), (200, 200))


def test_the_size_of_a_head_bears_a_turn_or_a_nod() -> None:
    assert head_size(FRONT) == 40.0
    assert head_size(FRONT * [0.5, 1.0]) == 40.0
    assert head_size(FRONT * [1.0, 0.5]) == 40.0
    assert head_size(FRONT * 3.0 + 17.0) == pytest.approx(120.0)


def test_the_scale_makes_heads_equally_large() -> None:
    # Head of 40 in a box of 100: at 0.2 of the crop, the crop is 200.
    assert matching_scale(track(), 0.2) == pytest.approx(2.0)
    assert matching_scale(track(7.0), 0.2) == pytest.approx(2.0)


def test_absurd_scales_are_kept_in_range(caplog: pytest.LogCaptureFixture) -> None:
    assert matching_scale(track(), 0.9) == MATCHED[0]
    assert matching_scale(track(), 0.01) == MATCHED[1]
    assert "matching scale would be 40" in caplog.text


def test_frames_are_spread_over_the_clip() -> None:
    assert spread(1) == [0]
    assert spread(3) == [0, 1, 2]
    assert spread(301, 4) == [0, 100, 200, 300]


@pytest.mark.parametrize("driver", ["man", "woman"])
def test_a_crop_matches_the_portraits_of_another(driver: str) -> None:
    detector = MTCNNDetector(min_face=0.2)
    wanted = measure_proportion(torch.from_numpy(portraits(driver)[::10]), detector)
    frames = scene(4, [Actor("man", at(160, 120, 110))])
    builder = TrackBuilder(detector)
    builder.add(frames)
    person = builder.sightings().people().choose()
    crop = frame_portraits(person, matching_scale(person, wanted))
    assert measure_proportion(crop_frames(frames, crop), detector) == pytest.approx(wanted, rel=0.06)


def test_what_cannot_be_matched_is_explained() -> None:
    with pytest.raises(FrameError, match="match: expected square portraits.*got 64x48"):
        measure_proportion(torch.zeros(1, 48, 64, 3), MTCNNDetector())
    with pytest.raises(NoFaceError):
        measure_proportion(torch.zeros(2, 48, 48, 3), MTCNNDetector())
