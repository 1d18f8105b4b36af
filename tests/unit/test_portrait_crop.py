from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dpe_model.errors import FrameError, NoFaceError
from dpe_model.portrait import Crop, Face, Track, crop_frames, frame_portraits
from dpe_model.portrait.crop import ranges, smooth
from dpe_model.portrait.warp import warp

LANDMARKS = np.array([[-0.2, -0.12], [0.2, -0.12], [0.0, 0.08], [-0.15, 0.28], [0.15, 0.28]])


def face(x: float, y: float, side: float) -> Face:
    half = side / 2
    return Face((x - half, y - half, x + half, y + half), np.array([x, y]) + LANDMARKS * side, 0.99)


def track_of(*places: tuple[float, float, float] | None, size: tuple[int, int] = (200, 300)) -> Track:
    return Track(tuple(None if place is None else face(*place) for place in places), size)


def ramp(height: int, width: int, n: int = 1) -> Tensor:
    """Frames [n, H, W, 3] float32 whose red is x / 1000 and green y / 1000 at the pixel's centre."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x / 1000, y / 1000, torch.zeros_like(x)], -1)[None].repeat(n, 1, 1, 1)


def whole(matrix: np.ndarray) -> np.ndarray:
    return np.concatenate([matrix, np.tile([[[0.0, 0.0, 1.0]]], (len(matrix), 1, 1))], 1)


@pytest.mark.parametrize("size", [None, 256, 512])
def test_inverse_is_exact_even_with_rotation(size: int | None) -> None:
    rng = np.random.default_rng(0)
    angle, zoom = rng.uniform(-3, 3, 50), rng.uniform(1e-3, 1e-1, 50)
    linear = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], 1).reshape(-1, 2, 2)
    matrix = np.concatenate([linear * zoom[:, None, None], rng.uniform(-2, 2, (50, 2, 1))], 2)
    crop = Crop(matrix, (2160, 3840), 256, None, np.ones(50, dtype=bool))
    product = whole(crop.pixel_matrix(size)) @ whole(crop.inverse(size))
    assert np.abs(product - np.eye(3)).max() < 1e-9


def test_static_is_one_whole_pixel_crop_unmoved_by_an_outlier() -> None:
    places = [(150.3, 100.2, 60.0)] * 9 + [(250.0, 20.0, 110.0)]
    crop = frame_portraits(track_of(*places), scale=2.0)
    assert len(crop) == 10
    assert np.ptp(crop.matrix, axis=0).max() == 0.0
    assert crop.sides[0] == pytest.approx(120.0)
    corner = crop.inverse(1)[0, :, 2]
    assert corner == pytest.approx(np.round(corner))
    # The face lies in the crop where the anchor says.
    assert crop.matrix[0] @ [150.3, 100.2, 1.0] == pytest.approx([0.5, 0.53], abs=0.01)


def test_follow_keeps_a_moving_face_in_place_without_lag() -> None:
    places = [(80 + 2.0 * n, 60 + 1.0 * n, 50 * 1.005**n) for n in range(60)]
    crop = frame_portraits(track_of(*places), framing="follow", smoothing=6.0)
    centres = np.array([m @ [x, y, 1.0] for m, (x, y, _) in zip(crop.matrix, places, strict=True)])
    assert np.abs(centres - [0.5, 0.53]).max() < 0.005
    assert crop.sides / [side for *_, side in places] == pytest.approx(1.85, rel=0.005)


def test_follow_removes_jitter_and_outliers() -> None:
    rng = np.random.default_rng(1)
    places = [(150 + rng.normal(0, 2), 100 + rng.normal(0, 2), 60 * np.exp(rng.normal(0, 0.03))) for _ in range(100)]
    places[40] = (250.0, 100.0, 100.0)
    crop = frame_portraits(track_of(*places), framing="follow")
    corner = crop.inverse(1)[:, :, 2]
    assert np.diff(corner, 2, axis=0).std() < 0.05
    assert np.abs(corner[40] - corner[50]).max() < 4


def test_smooth_keeps_lines_to_the_ends_and_fills_in_gaps() -> None:
    line = np.arange(50.0)
    assert smooth(line, 5.0, np.ones(50, dtype=bool)) == pytest.approx(line, abs=1e-6)
    found = np.ones(50, dtype=bool)
    found[20:40] = False
    assert smooth(line, 3.0, found) == pytest.approx(line, abs=1e-6)
    assert smooth(line[:1], 3.0, found[:1]) == pytest.approx(line[:1])
    lone = np.zeros(50, dtype=bool)
    lone[7] = True
    assert np.isfinite(smooth(np.full(50, 3.0), 3.0, lone)).all()


def test_landmarks_are_in_the_unit_square() -> None:
    crop = frame_portraits(track_of(*[(150.0, 100.0, 60.0)] * 3), scale=2.0)
    assert crop.landmarks is not None
    assert crop.landmarks[1] == pytest.approx(LANDMARKS / 2.0 + [0.5, 0.53], abs=0.01)


def test_hold_frames_the_gap_between_its_neighbours() -> None:
    track = track_of((100.0, 90.0, 50.0), None, None, (130.0, 90.0, 50.0))
    crop = frame_portraits(track, framing="follow", smoothing=0.0)
    assert crop.edited.all()
    assert crop.matrix[1] @ [110.0, 90.0, 1.0] == pytest.approx([0.5, 0.53], abs=0.12)
    ends = frame_portraits(track_of(None, (100.0, 90.0, 50.0), None))
    assert np.ptp(ends.matrix, axis=0).max() == 0.0
    assert np.isfinite(ends.landmarks).all()


def test_a_long_absence_holds_the_last_framing_until_the_return_elsewhere() -> None:
    here, there = (60.0, 90.0, 50.0), (240.0, 90.0, 50.0)
    crop = frame_portraits(track_of(*[here] * 10, *[None] * 30, *[there] * 10), framing="follow")
    assert crop.faceless is not None
    assert crop.faceless.tolist() == [False] * 10 + [True] * 30 + [False] * 10
    x = (crop.inverse(1) @ [0.5, 0.53, 1.0])[:, 0]
    assert x[:40] == pytest.approx(60.0, abs=0.01)
    assert x[40:] == pytest.approx(240.0, abs=0.01)
    # One place again: no reason for a step.
    back = frame_portraits(track_of(*[here] * 10, *[None] * 30, *[(64.0, 90.0, 50.0)] * 10), framing="follow")
    assert np.abs(np.diff((back.inverse(1) @ [0.5, 0.53, 1.0])[:, 0])).max() < 1.0


def test_a_crop_stands_still_where_the_face_is_lost() -> None:
    """It neither runs on with the movement nor comes back from there."""
    moving = [(150.0 + 12 * n, 300.0, 150.0) for n in range(60)]
    crop = frame_portraits(track_of(*moving, *[None] * 40, size=(600, 1200)), framing="follow")
    x = (crop.inverse(1) @ [0.5, 0.53, 1.0])[:, 0]
    assert np.ptp(x[59:]) == 0.0
    assert x[59] == pytest.approx(moving[-1][0], abs=15.0)
    growing = [(600.0, 300.0, 100.0 * 1.02**n) for n in range(40)]
    sides = frame_portraits(track_of(*growing, *[None] * 40, size=(600, 1200)), framing="follow").sides
    assert np.ptp(sides[39:]) < 1e-9
    # Not even before a return far away.
    late = frame_portraits(track_of(*moving, *[None] * 40, *[(100.0, 300.0, 150.0)] * 10), framing="follow")
    assert np.ptp((late.inverse(1) @ [0.5, 0.53, 1.0])[59:100, 0]) == 0.0


def test_auto_holds_what_a_detector_may_have_missed_and_passes_absences() -> None:
    place = (150.0, 90.0, 50.0)
    lengths = [50, -10, 50, -100, 50, -25, 5, -26]
    track = track_of(*[place if n > 0 else None for n in lengths for _ in range(abs(n))])
    crop = frame_portraits(track, no_face="auto")
    assert [bool(part.all()) for part in np.split(crop.edited, np.cumsum(np.abs(lengths))[:-1])] == [
        True, True, True, False, True, True, True, False
    ]  # fmt: skip
    assert frame_portraits(track, no_face="hold").edited.all()
    # A shot without the person has nothing to hold, however short.
    cuts = np.zeros(30, dtype=bool)
    cuts[[10, 20]] = True
    shots = dataclasses.replace(track_of(*[place] * 10, *[None] * 10, *[place] * 10), cuts=cuts)
    assert frame_portraits(shots, no_face="auto").edited.tolist() == [True] * 10 + [False] * 10 + [True] * 10


@pytest.mark.parametrize("framing", ["static", "follow"])
def test_each_shot_is_framed_on_its_own(framing: str, caplog: pytest.LogCaptureFixture) -> None:
    places = [(60.0, 90.0, 50.0)] * 6 + [None] * 4 + [None, (240.0, 80.0, 30.0), (240.0, 80.0, 30.0), None]
    cuts = np.zeros(14, dtype=bool)
    cuts[[6, 10]] = True
    track = dataclasses.replace(track_of(*places), cuts=cuts)
    crop = frame_portraits(track, framing=framing, no_face="hold")
    x = (crop.inverse(1) @ [0.5, 0.53, 1.0])[:, 0]
    assert x[:6] == pytest.approx(60.0, abs=1.0)
    assert x[10:] == pytest.approx(240.0, abs=1.0)
    # The shot without the person has nothing to hold.
    assert crop.edited.tolist() == [True] * 6 + [False] * 4 + [True] * 4
    assert "No face in 4 of 14 frames (6-9): passed through untouched." in caplog.text
    assert frame_portraits(track, no_face="pass").edited.tolist() == track.found.tolist()
    assert crop[8:12].faceless.tolist() == [True, True, True, False]  # type: ignore[union-attr]
    assert list(crop.parts()) == [slice(0, 6), slice(6, 10), slice(10, 14)]
    assert list(crop[4:12].parts()) == [slice(0, 2), slice(2, 6), slice(6, 8)]


def test_slow_swings_are_followed_at_their_full_width() -> None:
    places = [(150 + 40 * np.sin(2 * np.pi * n / 60), 100.0, 60.0) for n in range(120)]
    crop = frame_portraits(track_of(*places), framing="follow")
    x = (crop.inverse(1) @ [0.5, 0.53, 1.0])[:, 0]
    assert np.abs(x - [place[0] for place in places]).max() < 3.0


def test_pass_flags_the_frames_without_a_face() -> None:
    track = track_of((100.0, 90.0, 50.0), None, (100.0, 90.0, 50.0))
    assert frame_portraits(track, no_face="pass").edited.tolist() == [True, False, True]


def test_stop_names_the_frames_compactly() -> None:
    place = (100.0, 90.0, 50.0)
    with pytest.raises(NoFaceError, match=r"3 of 6 frames \(1-2 and 4\)"):
        frame_portraits(track_of(place, None, None, place, None, place), no_face="stop")
    assert len(frame_portraits(track_of(place), no_face="stop")) == 1


@pytest.mark.parametrize("policy", ["auto", "hold", "pass", "stop"])
def test_no_face_at_all_is_always_an_error(policy: str) -> None:
    with pytest.raises(NoFaceError, match="any of the 2 frames"):
        frame_portraits(track_of(None, None), no_face=policy)


def test_ranges_reads_well() -> None:
    assert ranges(np.array([5])) == "5"
    assert ranges(np.array([0, 1, 2, 7, 9, 10])) == "0-2, 7 and 9-10"
    assert ranges(np.arange(0, 40, 2)).endswith("14 and 12 more runs")


def test_unknown_choices_are_refused() -> None:
    track = track_of((100.0, 90.0, 50.0))
    for wrong in ({"framing": "zoom"}, {"no_face": "skip"}, {"scale": 0.0}, {"size": 4}, {"smoothing": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            frame_portraits(track, **wrong)


@pytest.mark.parametrize("size", [256, 512])
@pytest.mark.parametrize("framing", ["static", "follow"])
def test_crop_shows_the_frame_where_the_matrix_says(size: int, framing: str) -> None:
    crop = frame_portraits(track_of((150.4, 101.3, 50.0)), framing=framing, size=size)
    picture = crop_frames(ramp(200, 300), crop)
    assert picture.shape == (1, size, size, 3)
    inner = slice(size // 8, -size // 8)
    at = (np.arange(size) + 0.5)[inner]
    x = crop.inverse()[0, 0, 0] * at + crop.inverse()[0, 0, 2]
    y = crop.inverse()[0, 1, 1] * at + crop.inverse()[0, 1, 2]
    shown = picture[0, inner, inner].numpy() * 1000
    # Half a 1/32 px, to which OpenCV rounds positions, and what its cubic kernel makes of a ramp.
    assert np.abs(shown[..., 0] - x[None]).max() < 0.06
    assert np.abs(shown[..., 1] - y[:, None]).max() < 0.06


def test_crop_of_its_own_size_is_a_copy() -> None:
    frames = (torch.rand(1, 200, 300, 3, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    crop = frame_portraits(track_of((150.0, 100.0, 50.0)), scale=2.0)
    corner = crop.inverse(1)[0, :, 2].round().astype(int)
    expected = frames[:, corner[1] : corner[1] + 100, corner[0] : corner[0] + 100]
    assert torch.equal(crop_frames(frames, crop, 100), expected)


def test_beyond_the_frame_its_border_is_repeated() -> None:
    crop = frame_portraits(track_of((5.0, 195.0, 100.0)), scale=2.0)
    picture = crop_frames(ramp(200, 300), crop, 200)[0].numpy()
    assert picture[0, 0, 0] == pytest.approx(0.0005, abs=1e-4)
    assert picture[-1, -1, 1] == pytest.approx(0.1995, abs=1e-4)
    nowhere = dataclasses.replace(crop, matrix=crop.matrix + np.array([[0.0, 0.0, 50.0], [0.0, 0.0, 0.0]]))
    assert np.isfinite(crop_frames(ramp(200, 300), nowhere, 64).numpy()).all()


@pytest.mark.parametrize(
    ("size", "dtype"),
    [((16, 16), torch.uint8), ((3000, 4000), torch.uint8), ((64, 48), torch.float16), ((64, 48), torch.bfloat16)],
)
def test_sizes_and_dtypes(size: tuple[int, int], dtype: torch.dtype) -> None:
    height, width = size
    value = 77 if dtype == torch.uint8 else 0.25
    frames = torch.full((2, height, width, 3), value, dtype=dtype)
    crop = frame_portraits(track_of(*[(width / 2, height / 2, min(size) / 2)] * 2, size=size))
    picture = crop_frames(frames, crop, 128)
    assert picture.dtype == dtype
    assert torch.equal(picture, torch.full((2, 128, 128, 3), value, dtype=dtype))


def test_grey_and_rgba_become_rgb() -> None:
    crop = frame_portraits(track_of((30.0, 30.0, 20.0), size=(64, 64)))
    grey = crop_frames(torch.full((1, 64, 64, 1), 0.5), crop, 64)
    assert torch.equal(grey, torch.full((1, 64, 64, 3), 0.5))
    assert crop_frames(torch.zeros(1, 64, 64, 4), crop, 64).shape == (1, 64, 64, 3)


def test_shrinking_does_not_alias() -> None:
    # One-pixel stripes turn grey, at every shrink and phase.
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    for shrink in (1.9, 3.3, 6.7):
        matrix = np.array([[1 / shrink, 0.0, -7.3], [0.0, 1 / shrink, -3.1]])
        picture = warp(stripes, matrix, (40, 40)).astype(float)
        assert np.abs(picture - 127.5).max() < 25, shrink


def test_chunks() -> None:
    crop = frame_portraits(track_of(*[(100.0 + n, 90.0, 50.0) for n in range(6)]), framing="follow")
    frames = ramp(200, 300, 6)
    parts = torch.cat([crop_frames(frames[:4], crop[:4]), crop_frames(frames[4:], crop[4:])])
    assert torch.equal(parts, crop_frames(frames, crop))
    assert crop[4:].landmarks.shape == (2, 5, 2)


def test_the_crop_of_a_picture_repeated_is_that_of_the_repeated_picture() -> None:
    once = frame_portraits(track_of((100.0, 90.0, 50.0)))
    repeated, clip = once.repeated(5), frame_portraits(track_of(*[(100.0, 90.0, 50.0)] * 5))
    for field in dataclasses.fields(Crop):
        given, expected = getattr(repeated, field.name), getattr(clip, field.name)
        assert np.allclose(given, expected, rtol=0.0, atol=1e-9), field.name
    assert len(list(repeated.parts())) == 1
    bare = dataclasses.replace(once, landmarks=None, faceless=None, part=None).repeated(2)
    assert len(bare) == 2 and bare.landmarks is bare.faceless is bare.part is None
    for crop, count in ((clip, 2), (once, 0)):
        with pytest.raises(ValueError, match="expected one crop and a count of at least 1"):
            crop.repeated(count)


@pytest.mark.parametrize("factor", [2.0, 4.0, 1.37, 0.5])
def test_a_crop_fits_frames_of_another_size(factor: float) -> None:
    """The same place in the picture, whichever way its sides were rounded."""
    crop = frame_portraits(track_of((150.4, 101.3, 60.0)), framing="follow")
    size = (round(200 * factor), math.floor(300 * factor))
    other = crop.resized(*size)
    assert other.frame_size == size
    assert other.sides == pytest.approx(crop.sides * factor, rel=0.002)
    centre = np.array([150.4, 101.3])
    scaled = centre * np.array([size[1] / 300, size[0] / 200])
    assert other.matrix[0] @ [*scaled, 1.0] == pytest.approx(crop.matrix[0] @ [*centre, 1.0], abs=0.002)
    frames = F.interpolate(ramp(200, 300).permute(0, 3, 1, 2), size, mode="bilinear", antialias=True)
    shown = crop_frames(frames.permute(0, 2, 3, 1), other, 64)
    assert (shown - crop_frames(ramp(200, 300), crop, 64)).abs().max() < 0.0005  # half a pixel
    assert crop.resized(200, 300) is crop


@pytest.mark.parametrize("size", [(300, 200), (400, 500), (200, 302), (198, 300), (256, 256)])
def test_a_crop_does_not_fit_frames_of_another_shape(size: tuple[int, int]) -> None:
    crop = frame_portraits(track_of((150.0, 100.0, 60.0)))
    with pytest.raises(FrameError, match=f"expected 300x200.*got {size[1]}x{size[0]}.*Do not cut"):
        crop.resized(*size)


def test_frames_of_another_number_or_size_are_refused() -> None:
    crop = frame_portraits(track_of(*[(100.0, 90.0, 50.0)] * 3))
    with pytest.raises(FrameError, match="expected 3.*got 2"):
        crop_frames(ramp(200, 300, 2), crop)
    with pytest.raises(FrameError, match="expected 300x200.*got 200x300"):
        crop_frames(ramp(300, 200, 3), crop)


def test_a_crop_checks_its_shapes() -> None:
    matrix = np.array([[[0.01, 0.0, 0.0], [0.0, 0.01, 0.0]]])
    with pytest.raises(ValueError, match="landmarks"):
        Crop(matrix, (64, 64), 256, np.zeros((2, 5, 2)), np.ones(1, dtype=bool))
    with pytest.raises(ValueError, match="inverted"):
        Crop(matrix * 0.0, (64, 64), 256, None, np.ones(1, dtype=bool))
    with pytest.raises(ValueError, match="edited"):
        Crop(matrix, (64, 64), 256, None, np.ones(2, dtype=bool))
    with pytest.raises(ValueError, match="faceless"):
        Crop(matrix, (64, 64), 256, None, np.ones(1, dtype=bool), np.ones(2, dtype=bool))
