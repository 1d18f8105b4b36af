"""Frame rates as exact fractions, and one clip on another's clock."""

from __future__ import annotations

from fractions import Fraction

import pytest

from dpe_model.errors import VideoError
from dpe_model.video import as_fps, frame_times, resample_indices


@pytest.mark.parametrize(
    ("given", "exact"),
    [
        (25, Fraction(25)),
        (25.0, Fraction(25)),
        ("30", Fraction(30)),
        (29.97, Fraction(30000, 1001)),
        ("23.976", Fraction(24000, 1001)),
        (23.98, Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)),
        ("30000/1001", Fraction(30000, 1001)),
        (12.5, Fraction(25, 2)),
        (Fraction(2997, 100), Fraction(2997, 100)),
        (Fraction(29.97), Fraction(30000, 1001)),
        (Fraction(30000 / 1001), Fraction(30000, 1001)),
    ],
)
def test_rates_are_read_exactly(given: Fraction | float | str, exact: Fraction) -> None:
    assert as_fps(given) == exact


@pytest.mark.parametrize("bad", [0, -25, float("nan"), float("inf"), "fast", "1/0"])
def test_bad_rates_are_named(bad: float | str) -> None:
    with pytest.raises(VideoError, match="frame rate"):
        as_fps(bad)


def test_the_same_clock_takes_every_frame_once() -> None:
    assert resample_indices(7, 25, fps_out=25).tolist() == list(range(7))


def test_a_slower_clip_repeats_frames_and_keeps_its_length() -> None:
    indices = resample_indices(25, 25, fps_out=30)
    assert len(indices) == 30
    nearest = [min(range(25), key=lambda k, i=i: abs(Fraction(k, 25) - Fraction(i, 30))) for i in range(30)]
    assert indices.tolist() == nearest


def test_a_faster_clip_drops_frames() -> None:
    assert resample_indices(8, 50, fps_out=25).tolist() == [0, 2, 4, 6]


def test_uneven_time_stamps_take_the_nearest_frame() -> None:
    pts = [Fraction(t, 100) + 7 for t in (0, 10, 15, 40)]
    ticks = [Fraction(t, 100) for t in (0, 4, 6, 13, 27, 28, 41)]
    assert resample_indices(pts, 25, pts_out=ticks).tolist() == [0, 0, 1, 2, 2, 3, 3]


def test_past_the_end_is_cut_or_held() -> None:
    ticks = frame_times(6, 25)
    assert resample_indices(3, 25, pts_out=ticks).tolist() == [0, 1, 2]
    assert resample_indices(3, 25, pts_out=ticks, beyond="hold").tolist() == [0, 1, 2, 2, 2, 2]


def test_clocks_that_make_no_sense_are_named() -> None:
    with pytest.raises(VideoError, match="both or neither"):
        resample_indices(3, 25)
    with pytest.raises(VideoError, match="at least one frame"):
        resample_indices(0, 25, fps_out=25)
    with pytest.raises(VideoError, match="increasing"):
        resample_indices([Fraction(1), Fraction(0)], 25, fps_out=25)
