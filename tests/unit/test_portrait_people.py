"""Detection and tracking on scenes whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dpe_model.errors import FrameError, NoFaceError
from dpe_model.portrait import Face, People, Sightings, TrackBuilder, frame_portraits, load_detector
from dpe_model.portrait.appearance import describe, difference
from dpe_model.portrait.mtcnn import UNSURE, MTCNNDetector

from .scenes import Actor, at, during, frame, line, scene


@pytest.fixture(scope="module")
def detector() -> MTCNNDetector:
    return MTCNNDetector(min_face=0.15, unsure=True)


def seen(detector: MTCNNDetector, frames: Tensor, chunk: int = 8) -> Sightings:
    builder = TrackBuilder(detector)
    for start in range(0, len(frames), chunk):
        builder.add(frames[start : start + chunk])
    return builder.sightings()


def xs(people: People, person: int) -> np.ndarray:
    """Where a person is, px; NaN where not found."""
    return np.array([np.nan if f is None else f.centre[0] for f in people.tracks[person].faces])


def test_people_who_cross_keep_their_number(detector: MTCNNDetector) -> None:
    man, woman = line((60, 120, 110), (260, 120, 110), 40), line((260, 125, 120), (60, 125, 120), 40)
    people = seen(detector, scene(40, [Actor("man", man), Actor("woman", woman)])).people()
    assert len(people) == 2
    # The woman is in front, seen throughout; the man is hidden in the middle and found again. Both turn their heads.
    assert np.nanmax(np.abs(xs(people, 0) - [woman(n)[0] for n in range(40)])) < 45
    assert np.nanmax(np.abs(xs(people, 1) - [man(n)[0] for n in range(40)])) < 45
    assert np.isfinite(xs(people, 1)[[0, 39]]).all()


def test_people_who_swap_sides_out_of_view_keep_their_number(detector: MTCNNDetector) -> None:
    left, right = at(90, 120, 120), at(230, 120, 120)
    actors = [
        Actor("man", during(left, (0, 15))),
        Actor("woman", during(right, (0, 15))),
        Actor("woman", during(left, (25, 40))),
        Actor("man", during(right, (25, 40))),
    ]
    people = seen(detector, scene(40, actors)).people()
    assert len(people) == 2
    for person in range(2):
        path = xs(people, person)
        assert abs(np.nanmedian(path[:15]) - np.nanmedian(path[25:])) > 100
        assert people.tracks[person].found[[0, 39]].all()


def test_who_leaves_and_returns_is_the_same_and_frames_are_kept(detector: MTCNNDetector) -> None:
    away = line((80, 120, 120), (-80, 120, 120), 15)
    back = line((-80, 120, 120), (120, 120, 120), 15)
    actor = Actor("woman", lambda n: away(n) if n < 15 else None if n < 50 else back(n - 50))
    sightings = seen(detector, scene(65, [actor, Actor("man", at(250, 120, 110))]))
    people = sightings.people()
    assert len(people) == 2
    assert people.tracks[0].found.all()
    track = people.tracks[1]
    assert track.found[0]
    assert track.found[64]
    assert not track.found[20:50].any()
    assert len(frame_portraits(track, framing="follow")) == 65


def test_after_a_cut_people_are_recognised_and_nothing_is_smoothed_across(detector: MTCNNDetector) -> None:
    both = scene(12, [Actor("man", at(90, 120, 120)), Actor("woman", at(230, 120, 120))], seed=1)
    close = scene(12, [Actor("woman", at(110, 130, 170))], seed=2)
    sightings = seen(detector, torch.cat([both, close, both]))
    assert np.flatnonzero(sightings.cuts).tolist() == [12, 24]
    people = sightings.people()
    assert len(people) == 2
    woman = people.choose("largest")
    assert woman.found.all()
    man = people.tracks[1]
    assert man.found.tolist() == [True] * 12 + [False] * 12 + [True] * 12
    crop = frame_portraits(woman, framing="follow")
    middles = np.array(
        [m @ [face.centre[0], face.centre[1], 1.0] for m, face in zip(crop.matrix, woman.seen, strict=True)]
    )
    # The head turns within a shot, but the jump of 120 px at the cut leaves no trace.
    assert np.abs(middles - [0.5, 0.53]).max() < 0.1
    # The middle shot never shows the man: nothing is edited there, even under "hold".
    held = frame_portraits(man, framing="follow", no_face="hold")
    assert held.edited.tolist() == [True] * 12 + [False] * 12 + [True] * 12
    assert held.faceless is not None
    assert held.faceless.tolist() == (~held.edited).tolist()


def test_two_people_in_dialogue_are_not_one(detector: MTCNNDetector) -> None:
    one = scene(8, [Actor("man", at(130, 120, 140))], seed=1)
    other = scene(8, [Actor("woman", at(200, 120, 140))], seed=2)
    people = seen(detector, torch.cat([one, other, one, other])).people()
    assert [int(track.found.sum()) for track in people.tracks] == [16, 16]
    assert sorted(tuple(np.flatnonzero(track.found)[:1]) for track in people.tracks) == [(0,), (8,)]


def test_absent_at_the_start(detector: MTCNNDetector) -> None:
    track = seen(detector, scene(20, [Actor("man", during(at(160, 120, 100), (8, 20)))])).people().choose()
    assert track.found.tolist() == [False] * 8 + [True] * 12
    crop = frame_portraits(track, framing="follow")
    assert len(crop) == 20
    assert np.isfinite(crop.matrix).all()


def test_a_static_head_gives_a_still_crop_at_1080p(detector: MTCNNDetector) -> None:
    still = frame(0, [Actor("man", at(960, 540, 560), still=True)], (1080, 1920)).astype(np.int16)
    rng, builder = np.random.default_rng(0), TrackBuilder(detector)
    for _ in range(10):
        grain = rng.integers(-8, 9, still.shape, dtype=np.int16)
        builder.add(torch.from_numpy(np.clip(still + grain, 0, 255).astype(np.uint8)))
    track = builder.sightings().people().choose()
    assert track.found.all()
    boxes = np.array([face.box for face in track.seen])
    assert np.abs(np.diff(boxes, 2, axis=0)).max() > 0.3
    for framing in ("static", "follow"):
        corner = frame_portraits(track, framing=framing).inverse(1)[:, :, 2]
        assert np.abs(np.diff(corner, 2, axis=0)).max() < 0.3


def test_a_moving_head_is_followed_without_lag(detector: MTCNNDetector) -> None:
    # Two seconds to and fro.
    path = [160 + 60 * np.sin(2 * np.pi * n / 50) for n in range(60)]
    track = seen(detector, scene(60, [Actor("man", lambda n: (path[n], 120, 120), still=True)])).people().choose()
    crop = frame_portraits(track, framing="follow")
    middle = (crop.inverse(1) @ [0.5, 0.53, 1.0])[:, 0]
    offset = np.median(middle - path)
    assert np.abs(middle - path - offset).max() < 8
    # Its swing is that of the head, neither behind nor before.
    best = min(range(-4, 5), key=lambda lag: np.abs(np.roll(middle, -lag)[8:52] - path[8:52] - offset).mean())
    assert best == 0


@pytest.mark.parametrize("size", [(201, 333), (240, 320)])
def test_odd_sizes_grey_frames_and_single_pictures(detector: MTCNNDetector, size: tuple[int, int]) -> None:
    colour = scene(1, [Actor("man", at(150, 105, 120)), Actor("woman", at(270, 90, 80))], size)
    grey = colour.float().mean(-1, keepdim=True) / 255.0
    for frames in (colour, grey):
        people = seen(detector, frames).people()
        assert len(people) == 2
        assert [round(xs(people, k)[0] / 30) for k in range(2)] == [5, 9]
        assert len(frame_portraits(people.choose(), framing="follow")) == 1


def test_looks_tell_two_people_apart(detector: MTCNNDetector) -> None:
    frames = scene(30, [Actor("man", at(90, 120, 120)), Actor("woman", at(230, 120, 120))])
    (left, right), (left_later, right_later) = (
        sorted(detector.detect(frames[n : n + 1])[0], key=lambda face: face.centre[0]) for n in (0, 25)
    )
    man, woman, man_later, woman_later = (
        describe(frames[n], face) for n, face in ((0, left), (0, right), (25, left_later), (25, right_later))
    )
    assert max(difference(man, man_later), difference(woman, woman_later)) < 0.35
    assert min(difference(man, woman), difference(man_later, woman_later), difference(man, woman_later)) > 0.4
    assert man.nbytes <= 512


def test_looks_at_the_border_and_beyond_it() -> None:
    frame = torch.full((40, 60, 3), 100, dtype=torch.uint8)
    inside = describe(frame, Face((10, 10, 30, 30), np.zeros((5, 2)), 0.9))
    for box in ((-10, -10, 8, 8), (-500, -500, -400, -400), (50, 30, 50, 30)):
        assert np.isfinite(describe(frame, Face(box, np.zeros((5, 2)), 0.9))).all()
    assert difference(inside, inside) < 1e-3


def test_faces_the_detector_is_not_sure_of_continue_people_but_begin_none() -> None:
    def face(x: float, sure: bool) -> Face:
        return Face((x - 40, 60, x + 40, 140), np.full((5, 2), x), 0.95 if sure else 0.7, sure)

    class Stub:
        def __init__(self, faces: list[list[Face]]) -> None:
            self.faces = iter(faces)

        def detect(self, frames: Tensor) -> list[list[Face]]:
            return [next(self.faces) for _ in frames]

    turned = [[face(100, n not in (8, 9, 10)), face(250, False)] for n in range(20)]
    builder = TrackBuilder(Stub(turned))
    builder.add(scene(20, []))
    people = builder.sightings().people()
    assert len(people) == 1
    assert people.tracks[0].found.all()
    assert {round(f.centre[0]) for f in people.tracks[0].seen} == {100}


def test_unsure_faces_are_marked_and_only_given_when_asked_for() -> None:
    frames = scene(1, [Actor("woman", at(160, 120, 120))])
    strict = (0.7, 0.8, 0.9999)
    assert load_detector(thresholds=strict).detect(frames) == [[]]
    (faces,) = load_detector(thresholds=strict, unsure=True).detect(frames)
    assert [face.sure for face in faces] == [False]
    assert faces[0].score >= UNSURE


def test_the_frames_of_one_clip_have_one_size(detector: MTCNNDetector) -> None:
    builder = TrackBuilder(detector)
    with pytest.raises(FrameError, match="at least one"):
        builder.sightings()
    builder.add(torch.zeros(2, 32, 48, 3, dtype=torch.uint8))
    with pytest.raises(FrameError, match="expected 48x32 as before, got 32x48"):
        builder.add(torch.zeros(2, 48, 32, 3, dtype=torch.uint8))
    assert len(builder) == 2


def test_pictures_of_different_people_are_each_framed_for_themselves(detector: MTCNNDetector) -> None:
    """No clip: who is largest in a picture has nothing to do with who is in the one before."""
    places = [(80.0, 120.0, 120.0), (230.0, 130.0, 150.0), (160.0, 110.0, 130.0)]
    who = ("man", "woman", "man")
    pictures = [scene(1, [Actor(who[k], at(*place))], seed=k) for k, place in enumerate(places)]
    pictures.insert(1, scene(1, [Actor("man", at(80, 120, 110)), Actor("woman", at(240, 120, 150))], seed=7))
    sightings = seen(detector, torch.cat([*pictures, torch.zeros_like(pictures[0])]))
    people = sightings.of_each_frame()
    crop = frame_portraits(people.choose(), framing="follow")
    assert crop.edited.tolist() == [True, True, True, True, False]
    assert [part.stop - part.start for part in crop.parts()] == [1] * 5
    centres = (crop.inverse(1) @ [0.5, 0.53, 1.0])[:4, 0]
    assert np.abs(centres - [80, 240, 230, 160]).max() < 20
    nobody = Sightings(((), ()), (240, 320), np.zeros(2, dtype=bool))
    with pytest.raises(NoFaceError, match="any of the 2 frames"):
        nobody.of_each_frame()
