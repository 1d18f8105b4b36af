"""Smoothing of motions: less noise, no lag, true ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dpe_model.errors import MotionError
from dpe_model.motion import Motion
from dpe_model.motion_filters import SMOOTH_METHODS, bridge, smooth_motion

SLOW = torch.sin(2 * math.pi * torch.arange(200) / 100)[:, None]


def noisy(seed: int = 0) -> Motion:
    noise = 0.1 * torch.randn(200, 1, generator=torch.Generator().manual_seed(seed))
    return Motion(SLOW + noise, "a", 25.0)


def error(motion: Motion) -> float:
    return float((motion.alpha - SLOW).pow(2).mean().sqrt())


@pytest.mark.parametrize("method", SMOOTH_METHODS)
def test_noise_goes_and_the_movement_stays(method):
    before = noisy()
    after = smooth_motion(before, method, 2.0)
    assert error(after) < 0.7 * error(before)
    assert (len(after), after.fps, after.checkpoint) == (200, 25.0, "a")


@pytest.mark.parametrize("method", SMOOTH_METHODS)
def test_there_is_no_lag(method):
    after = smooth_motion(noisy(), method, 3.0).alpha[:, 0]
    shifted = [float((after[20 + d : 180 + d] * SLOW[20:180, 0]).sum()) for d in range(-4, 5)]
    assert abs(max(range(9), key=shifted.__getitem__) - 4) <= 1


@pytest.mark.parametrize("method", SMOOTH_METHODS)
def test_backwards_is_the_same(method):
    before = noisy()
    back = Motion(before.alpha.flip(0), "a", 25.0)
    assert torch.allclose(smooth_motion(before, method).alpha, smooth_motion(back, method).alpha.flip(0), atol=1e-5)


@pytest.mark.parametrize("method", ["gaussian", "savgol"])
def test_a_steady_drift_is_kept_up_to_both_ends(method):
    ramp = Motion(torch.arange(30, dtype=torch.float32)[:, None], "a")
    assert torch.allclose(smooth_motion(ramp, method, 2.0).alpha, ramp.alpha, atol=0.05)


def test_the_median_takes_out_an_outlier_whole():
    alpha = torch.zeros(30, 2)
    alpha[12, 1] = 9.0
    assert smooth_motion(Motion(alpha, "a"), "median", 1.0).alpha.abs().max() == 0


def test_one_euro_lets_a_jump_through_where_the_gaussian_blurs_it():
    step = Motion((torch.arange(80) >= 40).float()[:, None], "a")
    blur = {m: float((smooth_motion(step, m, 3.0).alpha - step.alpha).abs().sum()) for m in ("one_euro", "gaussian")}
    assert blur["one_euro"] < blur["gaussian"]


@pytest.mark.parametrize("method", SMOOTH_METHODS)
@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_short_motions(method, frames):
    before = Motion(torch.randn(frames, 3, generator=torch.Generator().manual_seed(1)), "a", 25.0)
    after = smooth_motion(before, method, 4.0)
    assert after.alpha.shape == before.alpha.shape
    if frames == 1:
        assert torch.equal(after.alpha, before.alpha)


@pytest.mark.parametrize("method", SMOOTH_METHODS)
def test_what_stands_still_stays(method):
    still = Motion(torch.full((20, 3), 0.7), "a")
    assert torch.allclose(smooth_motion(still, method).alpha, still.alpha, atol=1e-6)


def test_strength_zero_changes_nothing():
    assert torch.equal(smooth_motion(noisy(), "savgol", 0.0).alpha, noisy().alpha)


def test_seconds_are_frames_over_the_rate():
    by_frames, by_seconds = smooth_motion(noisy(), strength=5.0), smooth_motion(noisy(), strength=0.2, unit="seconds")
    assert torch.equal(by_frames.alpha, by_seconds.alpha)


def test_uneven_times_are_kept():
    times = torch.tensor([0.0, 0.1, 0.15, 0.4])
    before = Motion(torch.randn(4, 2), "a", 10.0, times)
    assert torch.equal(smooth_motion(before).times, before.times)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "fourier"}, "fourier"),
        ({"unit": "minutes"}, "minutes"),
        ({"strength": -1.0}, "0 or more"),
        ({"strength": float("nan")}, "0 or more"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(MotionError, match=message):
        smooth_motion(noisy(), **arguments)


def test_seconds_need_a_rate():
    with pytest.raises(MotionError, match="rate is unknown"):
        smooth_motion(Motion(torch.zeros(4, 2), "a"), unit="seconds")


@pytest.mark.parametrize("method", SMOOTH_METHODS)
def test_a_little_strength_smooths_a_little(method):
    noise = Motion(torch.randn(300, 4, generator=torch.Generator().manual_seed(2)), "a")

    def taken(strength):
        return float((smooth_motion(noise, method, strength).alpha - noise.alpha).std())

    shares = [taken(strength) for strength in (0.01, 0.05, 0.2, 0.5, 1.0, 3.0)]
    assert shares[0] < 0.05
    assert all(a <= b + 1e-6 for a, b in zip(shares, shares[1:], strict=False))


def test_frames_without_a_face_are_bridged_within_their_shot():
    alpha = torch.tensor([9.0, 1.0, 50.0, 50.0, 4.0, 50.0, 7.0, 50.0, 50.0, 50.0])[:, None].repeat(1, 2)
    known = np.array([False, True, False, False, True, False, True, False, False, False])
    motion = Motion(alpha, "a", 25.0, torch.arange(10, dtype=torch.float64) / 24)
    bridged = bridge(motion, known, [slice(0, 6), slice(6, 8), slice(8, 10)])
    assert bridged.alpha[:, 1].tolist() == [1.0, 1.0, 2.0, 3.0, 4.0, 4.0, 7.0, 7.0, 7.0, 7.0]
    assert torch.equal(bridged.times, motion.times)
    assert (bridged.fps, bridged.checkpoint) == (25.0, "a")
    assert bridge(motion, np.ones(10, dtype=bool), [slice(0, 10)]) is motion
    assert bridge(motion, np.zeros(10, dtype=bool), [slice(0, 10)]) is motion
    with pytest.raises(MotionError, match="10 frames"):
        bridge(motion, known[:5], [slice(0, 10)])
