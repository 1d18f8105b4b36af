"""What the nodes say, without a host: stand-ins take the place of ComfyUI's modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pytest

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
