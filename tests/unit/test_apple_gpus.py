"""What Apple's GPUs lack is not asked of them. The meta device stands in for one, with a watch over its operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dpe_model import devices
from dpe_model.checkpoint import BranchRoles, Checkpoint
from dpe_model.devices import warping_device
from dpe_model.engine import Engine
from dpe_model.frames import to_network
from dpe_model.motion import Edit, EditPlan, Motion
from dpe_model.portrait import PasteOptions, Paster, load_detector
from dpe_model.portrait.parsing import CLASSES, BiSeNet, FaceParser

from .test_portrait_paste import crop_of
from .tiny import CONFIG, clip, tiny_network

META = torch.device("meta")
BILINEAR, ZEROS = 0, 0


class Lacking(TorchDispatchMode):
    """Refuses what PyTorch has not on Apple's GPUs, of tensors on the meta device; counts the other operators there."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor) and t.device == META]
        if tensors:
            name = func.overloadpacket.__name__
            self.seen[name] = self.seen.get(name, 0) + 1
            assert not any(t.dtype in (torch.float64, torch.complex128) for t in tensors), f"float64 in {name}"
            assert not name.startswith("_upsample"), f"{name}: without aliasing"
            assert not name.startswith("linalg"), name
            if name in ("conv2d", "grid_sampler_2d", "upsample_bilinear2d", "upsample_nearest2d", "avg_pool2d"):
                read = [t for t in args[:2] if isinstance(t, torch.Tensor)]
                assert all(t.is_contiguous() for t in read), f"{name}: order in memory"
            if name == "grid_sampler_2d":
                assert tuple(args[2:4]) == (BILINEAR, ZEROS), "sampling other than bilinear, with zeros beyond"
        return out


@pytest.fixture
def lacking(monkeypatch):
    monkeypatch.setattr(devices, "APPLE", ("mps", "meta"))
    with Lacking() as watch:
        yield watch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_encoding_and_rendering(lacking, monkeypatch, dtype):
    monkeypatch.setattr(devices.Download, "wait", lambda self: self._tensors)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: self)
    engine = Engine(Checkpoint(tiny_network().fold(dtype), BranchRoles(), "tiny", "tiny.safetensors"), META, chunk=2)
    frames = clip(4, 2 * CONFIG.size)  # which are made smaller first
    driver = Motion(torch.randn(5, CONFIG.motion_dim), "tiny", 25.0)
    plan = EditPlan.on_clock([Edit(driver, 1.2, "relative")], torch.arange(4, dtype=torch.float64) / 30.0, "hold")
    begun = list(engine._begin_stream([frames], [("expression", plan), ("pose", plan)]))
    assert [len(part.arrival._tensors[0]) for part in begun] == [2, 2]
    images = engine._images(frames)
    engine._begun_motion(engine._encode(images, with_features=False), images)
    # The watch did watch: both edits of two chunks warp at every level.
    assert lacking.seen["grid_sampler_2d"] == 2 * 2 * (len(CONFIG.channels) - 1)
    assert lacking.seen["convolution"] > 20


def test_frames_of_another_size_are_resized_before_they_travel(lacking):
    assert to_network(torch.rand(2, 48, 48, 3), 32, META).shape == (2, 3, 32, 32)
    with pytest.raises(AssertionError, match="without aliasing"):
        torch.nn.functional.interpolate(
            torch.rand(1, 3, 48, 48, device=META), (32, 32), mode="bilinear", antialias=True
        )


def test_frames_in_float64_travel_as_float32(lacking):
    assert to_network(torch.rand(2, 16, 16, 3, dtype=torch.float64), 16, META).dtype == torch.float32
    assert lacking.seen


def test_an_overflow_that_no_picture_shows_is_found_without_adding_it(monkeypatch):
    """Adding with the factor 0 does nothing there, where it would have made NaN of infinity; the CPU plays one."""
    generator = tiny_network().fold(torch.float16).generator("pose")
    rgb, maps = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    maps[0, 0, 2, 3], maps[0, 1, 4, 5], maps[0, 2, 6, 7] = float("inf"), -float("inf"), float("nan")
    monkeypatch.setattr(generator, "render_levels", lambda z, features: (rgb.clone(), [maps]))
    add = torch.Tensor.add_
    monkeypatch.setattr(torch.Tensor, "add_", lambda x, y, alpha=1.0: add(x, y, alpha=alpha) if alpha else x)
    monkeypatch.setattr(devices, "APPLE", ("cpu",))
    with torch.no_grad():
        found = generator(torch.zeros(1, CONFIG.style_dim), (torch.zeros(1, 8, 8, 8, dtype=torch.float16),))
    assert torch.equal(found.isnan(), ~maps.isfinite())
    assert torch.equal(found[maps.isfinite()], rgb[maps.isfinite()])


def test_detection_and_pasting_stay_on_the_cpu():
    assert warping_device("mps") == torch.device("cpu")
    assert warping_device("cuda:1") == torch.device("cuda:1")
    assert load_detector("mtcnn", "mps").device == torch.device("cpu")
    assert Paster(PasteOptions(), crop_of(), "mps").device == torch.device("cpu")


def test_parsing_runs_there(lacking, tmp_path):
    torch.save(BiSeNet(len(CLASSES)).state_dict(), tmp_path / "79999_iter.pth")
    parser = FaceParser(tmp_path / "79999_iter.pth", META)
    assert parser.face(torch.rand(1, 64, 64, 3)).device == META
    assert lacking.seen["conv2d"] > 20  # whole, in inference mode
