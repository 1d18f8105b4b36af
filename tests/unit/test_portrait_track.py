from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dpe_model.errors import NoFaceError
from dpe_model.portrait import Face
from dpe_model.portrait.groups import Groups
from dpe_model.portrait.track import find_people

SIZE = (480, 640)


def face(x: float, y: float = 200.0, side: float = 80.0) -> Face:
    half = side / 2
    return Face((x - half, y - half, x + half, y + half), np.full((5, 2), x), 0.99)


def xs(track) -> list[float | None]:  # noqa: ANN001
    return [None if f is None else f.centre[0] for f in track.faces]


def test_follows_one_person_past_another_in_any_order() -> None:
    a = [face(100 + 10 * n, side=90) for n in range(20)]
    b = [face(500 - 10 * n, y=330, side=70) for n in range(20)]
    mixed = [[a[n], b[n]] if n % 2 else [b[n], a[n]] for n in range(20)]
    assert xs(find_people(mixed, SIZE).choose()) == [100 + 10 * n for n in range(20)]
    assert xs(find_people(mixed, SIZE).choose("index", 1)) == [500 - 10 * n for n in range(20)]


def test_left_and_right_ignore_a_fleeting_false_face() -> None:
    frames = [[face(200), face(450)] for _ in range(20)]
    frames[3] = [*frames[3], face(30, y=400), face(620, y=60)]
    assert set(xs(find_people(frames, SIZE).choose("left"))) == {200}
    assert set(xs(find_people(frames, SIZE).choose("right"))) == {450}


def test_the_choice_looks_at_the_whole_clip() -> None:
    # A larger face that passes through the first frames loses against the one that stays.
    frames = [[face(450)] + ([face(150, side=150)] if n < 3 else []) for n in range(20)]
    assert set(xs(find_people(frames, SIZE).choose("largest"))) == {450}


def test_gaps_are_none_and_the_person_is_found_again() -> None:
    frames = [[face(200)], [], [], [face(215)], [face(215), face(500)]]
    track = find_people(frames, SIZE).choose()
    assert xs(track) == [200, None, None, 215, 215]
    assert track.found.tolist() == [True, False, False, True, True]
    assert len(track) == 5
    assert track.frame_size == SIZE


def test_a_jump_or_a_sudden_change_of_size_is_another_person() -> None:
    far = find_people([[face(100)], [face(100)], [face(600)]], SIZE).choose()
    assert xs(far) == [100, 100, None]
    grown = find_people([[face(300)], [face(300)], [face(300, side=30)]], SIZE).choose()
    assert xs(grown) == [300, 300, None]


def test_no_face_anywhere_and_a_missing_person_are_named() -> None:
    with pytest.raises(NoFaceError, match="any of the 3 frames"):
        find_people([[], [], []], SIZE).choose()
    with pytest.raises(NoFaceError, match="Person 2 was asked for, found 1"):
        find_people([[face(100)]], SIZE).choose("index", 2)
    with pytest.raises(ValueError, match="select"):
        find_people([[face(100)]], SIZE).choose("middle")


def test_groups_join_the_nearest_and_keep_apart_who_must_not_meet() -> None:
    at = np.array([0.0, 0.1, 0.5, 5.0, 5.2])
    apart = np.abs(at[:, None] - at[None])
    never = np.zeros((5, 5), dtype=bool)
    never[0, 2] = never[2, 0] = True
    groups = Groups(apart.copy(), np.ones((5, 5)), never)
    while (pair := groups.closest()) is not None:
        groups.join(*pair)
    # 2 is near 1, but 1 belongs to 0, which 2 must not meet.
    assert sorted(sorted(group) for group in groups.members if group) == [[0, 1], [2], [3, 4]]
    assert Groups(np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((0, 0), dtype=bool)).closest() is None


def test_looks_decide_where_places_do_not() -> None:
    rng = np.random.default_rng(0)
    looks = [v / np.linalg.norm(v) * 1.1 for v in np.abs(rng.normal(size=(2, 200)))]

    def seen(x: float, who: int) -> Face:
        return dataclasses.replace(face(x), look=looks[who].astype(np.float16))

    # Both leave; then each is back where the other was.
    frames = [[seen(150, 0), seen(450, 1)]] * 12 + [[]] * 40 + [[seen(150, 1), seen(450, 0)]] * 12
    people = find_people(frames, SIZE)
    assert len(people) == 2
    assert {tuple(sorted({f.centre[0] for f in track.seen})) for track in people.tracks} == {(150, 450)}
    assert all(track.faces[0].centre != track.faces[-1].centre for track in people.tracks)  # type: ignore[union-attr]


def test_a_slip_of_the_detector_is_nobody() -> None:
    frames = [[face(200)] for _ in range(20)]
    frames[5] = [face(200), face(500)]
    assert len(find_people(frames, SIZE)) == 1
    assert len(find_people([[face(200), face(500)]], SIZE)) == 2
