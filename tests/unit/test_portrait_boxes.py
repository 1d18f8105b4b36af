from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dpe_model.errors import FrameError
from dpe_model.portrait import BoxedFaces, Face, TrackBuilder, frame_portraits, read_boxes
from dpe_model.portrait.boxes import FEATURES
from dpe_model.portrait.mtcnn import MTCNNDetector

from .scenes import Actor, at, scene

A, B = (10.0, 20.0, 40.0, 60.0), (100.0, 20.0, 130.0, 60.0)
NAMED = {"x": 10, "y": 20, "width": 30, "height": 40}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ((10, 20, 30, 40), [[A]] * 3),
        (NAMED, [[A]] * 3),
        ([(10, 20, 30, 40)], [[A]] * 3),
        ([[NAMED]], [[A]] * 3),
        ([(10, 20, 30, 40), (100, 20, 30, 40), (10, 20, 30, 40)], [[A], [B], [A]]),
        ([[(10, 20, 30, 40), (100, 20, 30, 40)], [], None], [[A, B], [], []]),
        ([(10, 20, 30, 40), (0, 0, 0, 0), NAMED], [[A], [], [A]]),
        (torch.tensor([[10, 20, 30, 40]] * 3), [[A]] * 3),
        (np.array([[[10, 20, 30, 40, 0.9], [100, 20, 30, 40, 0.8]]] * 3), [[A, B]] * 3),
    ],
)
def test_common_shapes(given: Any, read: Any) -> None:
    assert read_boxes(given, 3) == read


def test_two_corners_and_one_picture() -> None:
    assert read_boxes([(10, 20, 40, 60)], 2, "xyxy") == [[A]] * 2
    assert read_boxes([(10, 20, 30, 40), (100, 20, 30, 40)], 1) == [[A, B]]
    # Names say themselves what is meant.
    assert read_boxes(NAMED, 1, "xyxy") == [[A]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([(10, 20, 30, 40)] * 2, "for 3 frames; got 2 entries"),
        ("a box", "expected one box"),
        ([], "expected one box"),
        (None, "expected one box"),
        ({"left": 3}, "expected numbers x, y, width and height"),
        ([[1, 2, 3], [1, 2, 3], [1, 2, 3]], "list of boxes for each frame"),
        ((10, 20, -30, 40), "no area when read as xywh"),
        ((0.1, 0.2, 0.3, 0.4), "pixels of the frame, got fractions"),
        ((float("nan"), 20, 30, 40), "finite"),
    ],
)
def test_what_is_no_box_is_explained(given: Any, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        read_boxes(given, 3)


def test_wrong_layouts_are_refused() -> None:
    with pytest.raises(FrameError, match="Choose the other"):
        read_boxes((100, 200, 30, 40), 1, "xyxy")
    with pytest.raises(ValueError, match="layout"):
        read_boxes((10, 20, 30, 40), 1, "cxcywh")


def test_the_face_inside_is_refined_and_the_person_followed() -> None:
    frames = scene(6, [Actor("man", at(90, 120, 120)), Actor("woman", at(230, 120, 120))])
    # A loose box around the woman's head, as another detector may draw it.
    boxes = read_boxes((180, 60, 100, 120), 6)
    detector = MTCNNDetector(min_face=0.2)
    builder = TrackBuilder(BoxedFaces(boxes, detector))
    for start in (0, 4):
        builder.add(frames[start : start + 4])
    people = builder.sightings().people()
    assert len(people) == 1
    for n, face in enumerate(people.tracks[0].seen):
        truth = max(detector.detect(frames[n : n + 1])[0], key=lambda face: face.centre[0])
        assert np.abs(np.subtract(face.box, truth.box)).max() < 6
        assert np.abs(face.landmarks - truth.landmarks).max() < 4


def test_boxes_without_a_face_inside_stand_for_themselves() -> None:
    frames = torch.full((3, 64, 96, 3), 90, dtype=torch.uint8)
    builder = TrackBuilder(BoxedFaces(read_boxes([(20, 10, 30, 40), [], (22, 10, 30, 40)], 3), MTCNNDetector()))
    builder.add(frames)
    track = builder.sightings().people().choose()
    assert track.found.tolist() == [True, False, True]
    assert track.seen[0].box == (20, 10, 50, 50)
    assert track.seen[0].landmarks == pytest.approx(FEATURES * [30, 40] + [20, 10])
    assert len(frame_portraits(track)) == 3


def test_a_box_is_put_right_as_those_before_needed() -> None:
    class Once:
        """Finds a face a fifth smaller than the box, in the first frame only."""

        calls = 0

        def detect(self, frames: torch.Tensor) -> list[list[Face]]:
            self.calls += 1
            if self.calls > 1:
                return [[]]
            # The region begins 0.6 * 40 px before the box: at (6, 6).
            return [[Face((28, 28, 60, 60), np.zeros((5, 2)), 0.9)]]

    finder = BoxedFaces([[(30, 30, 70, 70)], [(40, 30, 80, 70)]], Once())
    faces = finder.detect(torch.zeros(2, 120, 120, 3, dtype=torch.uint8))
    assert faces[0][0].box == (34, 34, 66, 66)
    assert faces[1][0].box == pytest.approx((44, 34, 76, 66))
    with pytest.raises(FrameError, match="every frame"):
        finder.detect(torch.zeros(1, 120, 120, 3, dtype=torch.uint8))
