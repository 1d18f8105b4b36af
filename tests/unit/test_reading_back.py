"""Nothing is read back from a GPU while chunks are begun. The meta device stands in for it: it refuses to be read."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from dpe_model.checkpoint import BranchRoles, Checkpoint
from dpe_model.devices import Download
from dpe_model.engine import Engine
from dpe_model.errors import FrameError
from dpe_model.motion import Edit, EditPlan, Motion

from .tiny import CONFIG, clip, tiny_network

META = torch.device("meta")


class Stream:
    """A stand-in for a CUDA stream."""

    device = META

    def wait_stream(self, other):
        pass

    def record_event(self):
        return None


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def engine(request, monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "compute")
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(Download, "_begin", staticmethod(lambda tensor, stream: tensor))
    checkpoint = Checkpoint(tiny_network().fold(request.param), BranchRoles(), "tiny", "tiny.safetensors")
    engine = Engine(checkpoint, META, chunk=2)
    engine._stream = Stream()
    return engine


def plans(mode="absolute"):
    driver = Motion(torch.randn(5, CONFIG.motion_dim), "tiny", 25.0)
    edits = (Edit(driver, 1.2, mode), Edit(driver, 0.5, mode, reference=1))
    return (
        EditPlan.make(edits, 4, "hold"),
        EditPlan.on_clock(edits, torch.arange(4, dtype=torch.float64) / 30.0, "hold"),
    )


@pytest.mark.parametrize("frames", [clip(4), clip(4) / 255.0], ids=["uint8", "float"])
@pytest.mark.parametrize("mode", ["absolute", "relative"])
def test_a_video_is_rendered_without_reading_back(engine, frames, mode):
    steps = list(zip(("expression", "pose"), plans(mode), strict=True))
    begun = list(engine._begin_stream([frames], steps))
    assert [part.arrival._tensors[0].shape for part in begun] == [(2, 16, 16, 3)] * 2
    assert all(part.arrival._tensors[0].device == META for part in begun)


def test_a_still_is_rendered_without_reading_back(engine):
    still = engine._encode(engine._images(clip(1)), with_features=True)
    begun = list(engine._begin_kept(still, clip(1), [("pose", plans()[0])]))
    assert [len(part.arrival._tensors[0]) for part in begun] == [2, 2]


def test_a_driver_is_measured_without_reading_back(engine):
    images = engine._images(clip(2))
    begun = engine._begun_motion(engine._encode(images, with_features=False), images)
    assert begun.arrival._tensors[0].shape == (2, CONFIG.motion_dim)


def test_bad_frames_are_found_before_they_travel(engine):
    frames = clip(3) / 255.0
    frames[1, 2, 2, 0] = float("nan")
    with pytest.raises(FrameError, match=r"at frame 1\."):
        engine._images(frames)
