"""Motion that is measured when somebody looks at it, once, and not before."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field

import pytest
import torch

from dpe_model.deferred import DeferredMotion
from dpe_model.engine import Engine
from dpe_model.errors import FrameError, MotionError
from dpe_model.jobs.setup import Drivers
from dpe_model.motion import Edit, EditPlan, Motion
from dpe_model.motion_filters import smooth_motion
from dpe_model.network.encoder import encoding_bytes

from .tiny import clip, tiny_checkpoint

FRAMES, NUMBERS = 5, 3


@dataclass
class Measurement:
    """Gives the same numbers each time, and counts how often."""

    alpha: torch.Tensor = field(default_factory=lambda: torch.rand(FRAMES, NUMBERS))
    calls: int = 0

    def __call__(self) -> torch.Tensor:
        self.calls += 1
        return self.alpha


def deferred(measure) -> DeferredMotion:
    return DeferredMotion(measure, FRAMES, NUMBERS, "a", 25.0)


def test_what_is_known_beforehand_measures_nothing():
    measure = Measurement()
    motion = deferred(measure)
    assert (len(motion), motion.numbers, motion.checkpoint, motion.fps, motion.duration) == (5, 3, "a", 25.0, 0.2)
    motion.require_checkpoint("a")
    plan = EditPlan.make((Edit(motion, 0.5, "relative", -1),), 9, "loop")
    assert plan.length == 9
    assert "not measured" in repr((motion, plan))
    assert (measure.calls, motion.measured) == (0, False)


def test_it_is_measured_once_and_then_is_any_motion(tmp_path):
    measure = Measurement()
    motion = deferred(measure)
    assert torch.equal(motion.alpha, measure.alpha)
    motion.save(tmp_path / "m.safetensors")
    assert torch.equal(Motion.load(tmp_path / "m.safetensors").alpha, measure.alpha)
    assert smooth_motion(motion, "gaussian", 1.0).alpha.shape == (5, 3)
    assert motion.duration == pytest.approx(0.2)
    assert (measure.calls, motion.measured) == (1, True)
    assert "not measured" not in repr(motion)


def test_what_it_was_measured_from_is_let_go():
    measure = Measurement()
    alive = weakref.ref(measure)
    motion = deferred(measure)
    del measure
    gc.collect()
    assert alive() is not None
    assert motion.alpha.shape == (5, 3)
    gc.collect()
    assert alive() is None


def test_a_measurement_that_failed_is_tried_again():
    measure = Measurement()

    def interrupted() -> torch.Tensor:
        if measure() is not None and measure.calls == 1:
            raise KeyboardInterrupt
        return measure.alpha

    motion = deferred(interrupted)
    with pytest.raises(KeyboardInterrupt):
        _ = motion.alpha
    assert torch.equal(motion.alpha, measure.alpha)
    assert measure.calls == 2


@pytest.mark.parametrize(
    ("alpha", "message"),
    [(torch.rand(4, 3), r"expected alpha \[5, 3\], got \[4, 3\]"), (torch.full((5, 3), torch.nan), "finite")],
)
def test_numbers_that_cannot_be(alpha, message):
    with pytest.raises(MotionError, match=message):
        _ = deferred(Measurement(alpha)).alpha


def engine(frames_kept: int) -> Engine:
    checkpoint = tiny_checkpoint()
    budget = frames_kept * encoding_bytes(checkpoint.config, torch.float32)
    return Engine(checkpoint, chunk=4, feature_budget=budget)


def encoded(runner: Engine, frames: torch.Tensor):
    return runner.encode(frames, 25.0, lambda: runner.measure([frames]).alpha)


def test_the_size_of_an_encoding_is_known_beforehand():
    latent = engine(3).encode(clip(3))
    assert latent.encoding is not None
    held = sum(t.nbytes for t in (latent.encoding.w, *latent.encoding.features))
    assert held == 3 * encoding_bytes(tiny_checkpoint().config, torch.float32)
    assert engine(2).encode(clip(3)).encoding is None


def test_a_clip_driven_by_a_clip_passes_the_encoder_twice_a_frame():
    """Once as source, for its features, and once as driver: not a third time to learn what nobody asks for."""
    runner = engine(0)
    source, driver = encoded(runner, clip(10)), encoded(runner, clip(10, seed=1))
    assert runner.passes.encoder == 0
    latent = source.with_edit("expression", Edit(driver.motion))
    found = torch.cat(list(runner.render(latent, "expression")))
    assert (runner.passes.encoder, runner.passes.generator) == (20, 10)
    stronger = source.with_edit("expression", Edit(driver.motion, 1.5))
    list(runner.render(stronger, "expression"))
    assert (runner.passes.encoder, runner.passes.generator) == (30, 20), "the driver is not measured again"

    known = engine(10)
    at_once = known.encode(clip(10)).with_edit("expression", Edit(known.encode(clip(10, seed=1)).motion))
    assert torch.allclose(found, torch.cat(list(known.render(at_once, "expression"))), atol=2e-4)


def test_what_can_be_kept_is_encoded_at_once():
    runner = engine(10)
    latent = encoded(runner, clip(10))
    assert runner.passes.encoder == 10
    assert not isinstance(latent.motion, DeferredMotion)


def test_the_drivers_are_measured_before_anything_is_rendered():
    runner = engine(0)
    driver = encoded(runner, clip(3, seed=1)).motion
    runner.render(encoded(runner, clip(3)).with_edit("pose", Edit(driver)), "pose")
    assert driver.measured
    assert (runner.passes.encoder, runner.passes.generator) == (3, 0)


def test_frames_that_cannot_be_encoded_are_refused_at_once():
    with pytest.raises(FrameError, match="square"):
        encoded(engine(0), torch.rand(3, 16, 32, 3))


def test_a_video_s_driver_is_measured_before_the_work_begins():
    measure = Measurement()
    edits = Drivers(expression=deferred(measure)).edits({})
    assert measure.calls == 1
    assert not isinstance(edits["expression"].driver, DeferredMotion)


def test_broken_frames_are_told_from_a_broken_model_wherever_they_are_looked_at():
    runner, frames = engine(0), clip(3).float().clone()
    frames[1, 4, 4] = torch.nan
    driver = encoded(runner, frames).motion
    with pytest.raises(FrameError, match=r"NaN or infinity at frame 1\. Check what made these pictures"):
        runner.render(encoded(runner, clip(3)).with_edit("pose", Edit(driver)), "pose")
