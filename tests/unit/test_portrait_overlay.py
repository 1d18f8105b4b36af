from __future__ import annotations

import numpy as np
import torch
from PIL import ImageFont

from dpe_model.portrait import Face, draw_overlay, frame_portraits, telling_frame
from dpe_model.portrait.overlay import CHOSEN, HELD, OTHERS, SQUARE
from dpe_model.portrait.track import find_people


def face(x: float, y: float, side: float) -> Face:
    half = side / 2
    return Face((x - half, y - half, x + half, y + half), np.full((5, 2), x), 0.99)


def shows(picture: torch.Tensor, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((picture.numpy() == colour).all(-1))


def test_boxes_squares_and_marks() -> None:
    detections = [[face(60, 60, 40)] if n == 3 else [face(60, 60, 40), face(200, 80, 50)] for n in range(12)]
    people = find_people(detections, (160, 320))
    track = people.choose("right")
    crop = frame_portraits(track, scale=2.0)
    frames = torch.zeros(12, 160, 320, 3)
    pictures = draw_overlay(frames[2:5], people, track.person, crop, start=2)
    assert pictures.shape == (3, 160, 320, 3)
    assert pictures.dtype == torch.uint8
    rows, columns = shows(pictures[0], CHOSEN).T
    assert (rows.min(), rows.max()) == (55, 105)
    assert (columns.min(), columns.max()) == (175, 225)
    assert len(shows(pictures[0], OTHERS))
    assert len(shows(pictures[0], SQUARE))
    assert not len(shows(pictures[0], HELD))
    # Frame 3 lacks the chosen one.
    assert len(shows(pictures[1], HELD))
    assert not len(shows(pictures[1], CHOSEN))
    assert len(shows(pictures[2], CHOSEN))


def test_held_and_untouched_read_differently() -> None:
    people = find_people([[face(60, 60, 40)], []], (120, 120))
    frames = torch.zeros(2, 120, 120, 3, dtype=torch.uint8)
    hold, leave = (
        draw_overlay(frames, people, 0, frame_portraits(people.choose(), no_face=policy))[1]
        for policy in ("hold", "pass")
    )
    assert not torch.equal(hold, leave)


def test_large_frames_become_small_ones_and_frames_are_not_changed() -> None:
    people = find_people([[face(1800, 900, 400)]], (1080, 1920))
    frames = torch.full((1, 1080, 1920, 3), 0.5)
    picture = draw_overlay(frames, people, 0, frame_portraits(people.choose()))
    assert picture.shape == (1, 360, 640, 3)
    assert shows(picture[0], CHOSEN)[:, 1].min() > 500
    assert bool((frames == 0.5).all())


def test_small_ones_have_sides_that_a_video_encoder_takes() -> None:
    people = find_people([[face(900, 400, 300)]], (800, 1920))
    picture = draw_overlay(torch.zeros(1, 800, 1920, 3), people, 0, frame_portraits(people.choose()))
    assert picture.shape == (1, 266, 640, 3)


def test_the_telling_frame_shows_most_people() -> None:
    detections = [[face(60, 60, 40)], [face(60, 60, 40), face(200, 80, 50)], [face(60, 60, 40), face(200, 80, 50)]]
    assert telling_frame(find_people(detections, (160, 320))) == 1


def test_an_old_pillow_has_one_font_size(monkeypatch) -> None:  # noqa: ANN001
    font = ImageFont.load_default()

    def old(*size: int) -> object:
        if size:
            raise TypeError("load_default() takes 0 positional arguments")
        return font

    monkeypatch.setattr(ImageFont, "load_default", old)
    people = find_people([[face(60, 60, 40)]], (120, 120))
    picture = draw_overlay(torch.zeros(1, 120, 120, 3), people, 0, frame_portraits(people.choose()))
    assert len(shows(picture[0], CHOSEN))
