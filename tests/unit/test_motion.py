"""Motions, edits, and how lengths are fitted."""

import pytest
import torch
from safetensors.torch import save_file

from dpe_model.errors import MotionError
from dpe_model.latent import Latent
from dpe_model.motion import Edit, EditPlan, Motion, driver_frames, driver_positions, output_length, reached

from .tiny import clip


def motion(frames, seed=0, checkpoint="a", fps=None):
    return Motion(torch.randn(frames, 3, generator=torch.Generator().manual_seed(seed)), checkpoint, fps)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("trim", [0, 1, 2, 2, 2, 2, 2]),
        ("hold", [0, 1, 2, 2, 2, 2, 2]),
        ("loop", [0, 1, 2, 0, 1, 2, 0]),
        ("ping_pong", [0, 1, 2, 1, 0, 1, 2]),
    ],
)
def test_short_drivers(policy, expected):
    assert driver_frames(3, 7, policy).tolist() == expected


@pytest.mark.parametrize("policy", ["hold", "loop", "ping_pong"])
def test_a_driver_of_one_frame(policy):
    assert driver_frames(1, 4, policy).tolist() == [0, 0, 0, 0]


def test_unknown_policy():
    with pytest.raises(MotionError, match="bounce"):
        driver_frames(3, 4, "bounce")


@pytest.mark.parametrize(
    ("source", "drivers", "policy", "expected"),
    [
        (10, [4], "trim", 4),
        (4, [10], "trim", 4),
        (10, [4], "hold", 10),
        (4, [10], "loop", 4),
        (1, [7], "trim", 7),
        (1, [7, 3], "trim", 3),
        (1, [7, 3], "hold", 7),
        (1, [1], "hold", 1),
        (5, [], "trim", 5),
    ],
)
def test_length_of_the_result(source, drivers, policy, expected):
    assert output_length(source, drivers, policy) == expected


def test_strength_zero_is_the_source_exactly():
    source, driver = motion(5).alpha, motion(5, seed=1)
    for mode in ("absolute", "relative"):
        assert torch.equal(Edit(driver, 0.0, mode).apply(source, torch.arange(5)), source)


def test_strength_one_is_the_driver_exactly():
    source, driver = motion(5).alpha, motion(5, seed=1)
    assert torch.equal(Edit(driver, 1.0).apply(source, torch.arange(5)), driver.alpha)


@pytest.mark.parametrize("strength", [0.3, 1.7])
def test_strength_interpolates_and_exaggerates(strength):
    source, driver = motion(5).alpha, motion(5, seed=1)
    found = Edit(driver, strength).apply(source, torch.arange(5))
    assert torch.allclose(found - source, strength * (driver.alpha - source), atol=1e-6)


def test_relative_adds_the_change_since_the_reference_frame():
    source, driver = motion(5).alpha, motion(5, seed=1)
    found = Edit(driver, 1.0, "relative", reference=2).apply(source, torch.arange(5))
    assert torch.allclose(found, source + driver.alpha - driver.alpha[2], atol=1e-6)
    assert torch.allclose(found[2], source[2], atol=1e-6)
    last = Edit(driver, 1.0, "relative", reference=-1).apply(source, torch.arange(5))
    assert torch.allclose(last[4], source[4], atol=1e-6)


def test_reference_outside_the_driver():
    for reference in (5, -6):
        with pytest.raises(MotionError, match=r"-5\.\.4.*got " + str(reference)):
            Edit(motion(5), 1.0, "relative", reference)
    assert Edit(motion(5), reference=5).reference == 5  # without a meaning in absolute mode


def test_edits_apply_one_after_the_other_and_by_position():
    source = motion(6).alpha
    first, second = Edit(motion(6, 1), 0.5), Edit(motion(2, 2), 0.5)
    plan = EditPlan.make([first, second], 6, "loop")
    by_hand = 0.5 * (0.5 * source + 0.5 * first.driver.alpha) + 0.5 * second.driver.alpha[[0, 1, 0, 1, 0, 1]]
    assert torch.allclose(plan.apply(source, 0), by_hand, atol=1e-6)
    assert torch.allclose(plan.apply(source[3:5], 3), by_hand[3:5], atol=1e-6)


def test_saved_and_loaded_unchanged(tmp_path):
    before = motion(9, fps=29.97)
    before.save(tmp_path / "new" / "m.safetensors")
    after = Motion.load(tmp_path / "new" / "m.safetensors")
    assert torch.equal(after.alpha, before.alpha)
    assert (after.checkpoint, after.fps) == ("a", 29.97)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["m.safetensors"]


def test_other_files_are_no_motions(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"no")
    with pytest.raises(MotionError, match="m.safetensors"):
        Motion.load(tmp_path / "m.safetensors")
    with pytest.raises(MotionError, match="none.safetensors"):
        Motion.load(tmp_path / "none.safetensors")


def test_an_unwritable_place_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(MotionError, match="cannot be written"):
        motion(2).save(tmp_path / "file" / "m.safetensors")


@pytest.mark.parametrize(
    "alpha",
    [
        torch.zeros(0, 3),
        torch.zeros(3),
        torch.tensor([[1.0, float("nan")]]),
        torch.zeros(2, 3, dtype=torch.complex64),
        torch.zeros(2, 3, dtype=torch.int64),
    ],
)
def test_refuses_what_is_no_motion(alpha):
    with pytest.raises(MotionError):
        Motion(alpha, "a")


def test_motions_of_different_checkpoints_do_not_mix():
    latent = Latent(clip(2), motion(2))
    with pytest.raises(MotionError, match="another checkpoint"):
        latent.with_edit("pose", Edit(motion(2, checkpoint="b")))


def test_a_file_whose_numbers_are_none_is_named(tmp_path):
    path = tmp_path / "odd.safetensors"
    save_file({"alpha": torch.zeros(2, 3, dtype=torch.int64)}, path, {"format": "dpe-motion", "fps": "null"})
    with pytest.raises(MotionError, match=r"odd\.safetensors: .*floating point.* Encode the clip again"):
        Motion.load(path)


def test_numbers_of_narrow_kinds_are_widened():
    kept = Motion(torch.tensor([[0.5, 2.0]]).to(torch.float8_e4m3fn), "a")
    assert torch.equal(kept.alpha, torch.tensor([[0.5, 2.0]]))


def test_a_driver_of_other_numbers_is_refused():
    other = Motion(torch.zeros(2, 7), "a")
    with pytest.raises(MotionError, match="expected 3 numbers a frame, got 7"):
        Latent(clip(2), motion(2)).with_edit("pose", Edit(other))


def test_latents_collect_edits():
    latent = Latent(clip(2), motion(2), policy="loop")
    edited = latent.with_edit("pose", Edit(motion(5))).with_edit("expression", Edit(motion(7)))
    assert (latent.edits("pose"), len(edited.pose), len(edited.expression)) == ((), 1, 1)
    assert edited.length == 2
    assert edited.with_policy("trim").length == 2
    assert Latent(clip(1), motion(1), policy="hold").with_edit("pose", Edit(motion(5))).length == 5


UNEVEN = torch.tensor([0.0, 0.1, 0.15, 0.4], dtype=torch.float64)


def ramp(frames, fps=25.0, times=None):
    return Motion(torch.arange(frames, dtype=torch.float32)[:, None], "a", fps, times)


def test_times_of_an_uneven_clip_are_saved_and_loaded(tmp_path):
    before = ramp(4, 10.0, UNEVEN)
    before.save(tmp_path / "m.safetensors")
    assert torch.equal(Motion.load(tmp_path / "m.safetensors").times, UNEVEN)
    ramp(4).save(tmp_path / "n.safetensors")
    assert Motion.load(tmp_path / "n.safetensors").times is None


@pytest.mark.parametrize(
    ("fps", "times"), [(None, UNEVEN), (10.0, UNEVEN[:3]), (10.0, UNEVEN + 1.0), (10.0, UNEVEN.flip(0))]
)
def test_times_that_make_no_sense_are_refused(fps, times):
    with pytest.raises(MotionError, match="increasing times"):
        ramp(4, fps, times)


def test_an_uneven_clip_is_seen_at_its_own_times():
    seconds = torch.tensor([0.0, 0.05, 0.1, 0.125, 0.15, 0.275, 0.4, 9.0], dtype=torch.float64)
    expected = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0], dtype=torch.float64)
    assert torch.allclose(ramp(4, 10.0, UNEVEN).positions(seconds), expected)


@pytest.mark.parametrize("fps", [25.0, 30000 / 1001, 24000 / 1001, 59.94])
def test_on_its_own_clock_every_frame_is_itself_bit_for_bit(fps):
    seconds = torch.tensor([float(i / fps) for i in range(20000)], dtype=torch.float64)
    assert torch.equal(ramp(20000, fps).positions(seconds), torch.arange(20000, dtype=torch.float64))


@pytest.mark.parametrize("policy", ["hold", "loop", "ping_pong"])
def test_by_time_as_by_number_where_the_rates_are_the_same(policy):
    seconds = torch.arange(300, dtype=torch.float64) / 29.97
    assert torch.equal(
        driver_positions(ramp(7, 29.97), seconds, policy), driver_frames(7, 300, policy).to(torch.float64)
    )


def test_a_driver_starts_again_after_its_duration_not_after_a_number_of_frames():
    seconds = torch.arange(0, 24, dtype=torch.float64) / 30
    places = driver_positions(ramp(10, 25.0), seconds, "loop")  # 0.4 s, 12 frames of the source
    assert torch.allclose(places[12:], places[:12])
    assert torch.equal(places[[0, 6, 12, 18]], torch.tensor([0.0, 5.0, 0.0, 5.0], dtype=torch.float64))


def test_a_driver_without_a_rate_goes_frame_by_frame():
    seconds = torch.tensor([0.0, 0.5, 0.7, 2.0], dtype=torch.float64)
    assert driver_positions(ramp(3, None), seconds, "hold").tolist() == [0, 1, 2, 2]


def test_a_driver_of_one_frame_by_time():
    for policy in ("trim", "hold", "loop", "ping_pong"):
        assert driver_positions(ramp(1), torch.arange(4).double(), policy).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("driver", "expected"), [(ramp(4), 5), (ramp(10), 12), (ramp(4, None), 4), (ramp(99), 30)])
def test_how_far_a_driver_reaches(driver, expected):
    assert reached(driver, torch.arange(30, dtype=torch.float64) / 30) == expected


def test_the_reference_is_a_frame_of_the_driver_whatever_the_source_s_clock():
    driver = ramp(10, 50.0)
    plan = EditPlan.on_clock([Edit(driver, 1.0, "relative", 3)], torch.arange(4, dtype=torch.float64) / 25, "hold")
    assert plan.apply(torch.zeros(4, 1), 0)[:, 0].tolist() == [-3.0, -1.0, 1.0, 3.0]


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_that_is_no_number(strength):
    with pytest.raises(MotionError, match="strength"):
        Edit(motion(5), strength)


@pytest.mark.parametrize("fps", [0.0, -25.0, float("nan"), float("inf"), "25"])
def test_a_rate_that_is_none(fps):
    with pytest.raises(MotionError, match="fps"):
        Motion(torch.zeros(3, 20), "x", fps)


def test_times_that_do_not_rise():
    for times in ([0.0, float("nan"), 2.0], [0.0, 1.0, float("inf")], [0.0, 1.0, 1.0], [0.5, 1.0, 2.0]):
        with pytest.raises(MotionError, match="increasing times"):
            Motion(torch.zeros(3, 20), "x", 25.0, torch.tensor(times, dtype=torch.float64))


def timed(own: Motion, *drivers: Motion, policy="hold") -> Latent:
    latent = Latent(clip(len(own)), own).with_policy(policy, "seconds")
    for driver in drivers:
        latent = latent.with_edit("pose", Edit(driver))
    return latent


def test_by_seconds_a_driver_of_another_rate_plays_at_its_own_speed():
    latent = timed(ramp(6, 30.0), ramp(9, 15.0))
    (frames,) = latent.plan("pose").frames
    assert frames.tolist() == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 2.5])
    assert latent.length == 6
    by_frames = latent.with_policy("hold")
    assert by_frames.plan("pose").frames[0].tolist() == [0, 1, 2, 3, 4, 5]


def test_by_seconds_trim_ends_with_the_driver():
    assert timed(ramp(60, 30.0), ramp(10, 15.0), policy="trim").length == 20
    assert timed(ramp(60, 30.0), ramp(10, 15.0), ramp(3, 10.0), policy="trim").length == 9
    assert timed(ramp(60, 30.0), policy="trim").length == 60


def test_by_seconds_a_still_takes_its_own_rate_or_the_first_driver_s():
    drivers = ramp(12, 24.0), ramp(30, 30.0)
    assert timed(ramp(1, 10.0), *drivers).length == 10
    latent = timed(ramp(1, None), *drivers)
    assert latent.length == 24
    assert latent.plan("pose").frames[1][:3].tolist() == pytest.approx([0.0, 1.25, 2.5])


def test_by_seconds_what_has_no_rate_goes_frame_by_frame():
    assert timed(ramp(6, None), ramp(9, 15.0)).clock is None
    (frames,) = timed(ramp(4, 30.0), ramp(9, None)).plan("pose").frames
    assert frames.tolist() == [0, 1, 2, 3]
    assert timed(ramp(1, None), ramp(9, None)).length == 9


def test_by_seconds_an_uneven_source_keeps_its_times():
    (frames,) = timed(ramp(4, 10.0, UNEVEN), ramp(20, 20.0)).plan("pose").frames
    assert frames.tolist() == pytest.approx([0.0, 2.0, 3.0, 8.0])
