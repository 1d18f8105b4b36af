"""What the nodes say, without a host: stand-ins take the place of ComfyUI's modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
HOST = (
    "folder_paths",
    "comfy",
    "comfy.model_management",
    "comfy.model_patcher",
    "comfy.utils",
    "comfy_api",
    "comfy_api.latest",
)
PACK = "dpe_pack_alone"


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[ModuleType]:
    """The pack's nodes, imported as a host does: under a name that is none of ours."""
    before = dict(sys.modules)
    sys.modules.update({name: MagicMock() for name in HOST})
    sys.modules["comfy_api.latest"].io.ComfyNode = object
    sys.modules["comfy_api.latest"].ComfyExtension = object
    sys.modules["folder_paths"].folder_names_and_paths = dict.fromkeys(("dpe", "face_parsing"), ([], set()))
    sys.modules["folder_paths"].models_dir = str(tmp_path / "models")
    for kind in ("input", "output"):
        getattr(sys.modules["folder_paths"], f"get_{kind}_directory").return_value = str(tmp_path / kind)
    try:
        spec = importlib.util.spec_from_file_location(
            PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        sys.modules[PACK] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[PACK])
        yield sys.modules[f"{PACK}.nodes"]
    finally:
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] in (PACK, *HOST):
                del sys.modules[name]
        sys.modules.update({name: before[name] for name in HOST if name in before})


def test_a_note_is_one_text_or_none(nodes: ModuleType) -> None:
    """The queue's history counts what is in the list."""
    assert nodes.host.note("one", "two") == {"dpe_note": ["one\ntwo"]}
    assert nodes.host.note() == {"dpe_note": []}


def test_numbers_of_things_agree_with_their_names(nodes: ModuleType) -> None:
    assert [nodes.host.counted(n, "frame") for n in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]


def test_roles_that_do_not_exist_are_named(nodes: ModuleType) -> None:
    with pytest.raises(Exception, match="roles: expected one of from the file.*got 'swapped'") as error:
        nodes.load.LoadDPEModel.execute("dpe.pt", roles="swapped")
    assert type(error.value).__name__ == "CheckpointError"


def test_motions_of_both_folders_are_offered(nodes: ModuleType, tmp_path: Path) -> None:
    assert nodes.motion.motion_files() == []
    for name in ("input/a.safetensors", "output/dpe/b.motion.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert nodes.motion.motion_files() == ["a.safetensors", "dpe/b.motion.safetensors [output]"]


def test_the_folder_for_models_is_made(nodes: ModuleType, tmp_path: Path) -> None:
    assert (tmp_path / "models" / "dpe").is_dir()


def test_another_scale_looks_for_no_face_again(nodes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    class Detector:
        def detect(self, frames: torch.Tensor) -> list[list[object]]:
            looked.append(len(frames))
            marks = np.array([[25, 20], [39, 20], [32, 27], [26, 34], [38, 34]], dtype=float)
            return [[sys.modules[f"{PACK}.dpe_model.portrait.face"].Face((20, 12, 44, 40), marks, 1.0)] for _ in frames]

    monkeypatch.setattr(nodes.portrait, "_detector", lambda name, **options: Detector())
    image = torch.rand(3, 48, 64, 3)

    def crop(pictures: torch.Tensor, scale: float, detector: str = "mtcnn") -> torch.Tensor:
        given = ("static", scale, 64, "largest", 0, "auto", detector)
        nodes.portrait.CropPortrait.execute(pictures, *given)
        return nodes.portrait.io.NodeOutput.call_args.args[0]

    wide, close = crop(image, 2.0), crop(image, 1.0)
    assert looked == [3]
    assert wide.shape == close.shape == (3, 64, 64, 3)
    assert not torch.equal(wide, close)
    crop(image, 1.0, "insightface")
    crop(image.clone(), 1.0)
    assert looked == [3, 3, 3]


def test_a_match_out_of_reach_is_not_called_one(nodes: ModuleType) -> None:
    low, high = nodes.portrait.MATCHED
    assert nodes.portrait._matched(2.0) == "Scale 2.00 matches the heads"
    assert "too small to be matched: scale 3.50" in nodes.portrait._matched(high)
    assert "too large to be matched: scale 1.20" in nodes.portrait._matched(low)


def test_drivers_that_may_be_misunderstood_are_named(nodes: ModuleType) -> None:
    def notes(width: int, crop: str, fps: float | None, frames: int = 2) -> list[str]:
        clip = nodes.video.VideoInfo(Path("a.mp4"), width, 64, Fraction(25), None, False, 0, "video")
        motion = nodes.video.Motion(torch.zeros(frames, 20), "model", fps)
        return [note.split()[0] for note in nodes.video._driver_notes(clip, crop, motion)]

    assert notes(64, "auto", 25.0) == ["driver_video"]
    assert notes(80, "auto", 25.0) == notes(64, "face", 25.0) == notes(64, "none", 25.0) == []
    assert notes(80, "auto", None) == ["driver_motion"]
    assert notes(80, "auto", None, frames=1) == []
