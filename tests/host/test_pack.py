"""The pack in a real host: what it announces, serves, and whether every shipped workflow runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .comfy import ComfyServer
from .pictures import read_pictures
from .workflow import VIRTUAL, to_api, widget_slots

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]
PACK = "ComfyUI-DPE"
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".mp4", ".webm", ".mkv", ".mov"}

# Frozen once released: saved workflows name them.
NODES = {
    "DPE_LoadDPEModel",
    "DPE_CropPortrait",
    "DPE_EncodeMotion",
    "DPE_EditLatent",
    "DPE_RenderExpression",
    "DPE_RenderPose",
    "DPE_PasteBack",
    "DPE_SaveMotion",
    "DPE_LoadMotion",
    "DPE_SmoothMotion",
    "DPE_PlotMotion",
    "DPE_DriveVideo",
    "DPE_PortraitEditor",
}

# The six that are the paper's modules.
MODULES = {
    f"DPE_{m}" for m in ("LoadDPEModel", "EncodeMotion", "EditLatent", "RenderPose", "RenderExpression", "PasteBack")
}


@pytest.fixture(scope="session")
def known(comfy: ComfyServer) -> dict[str, dict[str, Any]]:
    return comfy.object_info()


@pytest.fixture(scope="session")
def own(known: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    nodes = {name: info for name, info in known.items() if info["python_module"] == f"custom_nodes.{PACK}"}
    assert nodes, "the host registered no node of this pack"
    return nodes


def inputs_of(info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Input id -> its options."""
    groups = (info["input"].get(group, {}) for group in ("required", "optional"))
    return {name: (spec[1] if len(spec) > 1 else {}) for group in groups for name, spec in group.items()}


def test_the_pack_loads_without_complaint(comfy: ComfyServer, own: dict[str, Any]):
    start = comfy.logs.split("Starting server")[0]
    own_lines = (line for line in start.splitlines() if PACK in line)
    assert not [line for line in own_lines if re.search("fail|error|cannot|skip", line, re.IGNORECASE)]
    assert "Traceback" not in start


def test_nodes_carry_the_frozen_ids(own: dict[str, Any]):
    written = {
        name
        for file in (ROOT / "nodes").glob("*.py")
        for name in re.findall(r'"(DPE_[A-Z]\w+[a-z]\w*)"', file.read_text())
    }
    assert set(own) == written & NODES
    assert set(own) >= MODULES


def test_nodes_explain_themselves(own: dict[str, Any]):
    for name, info in own.items():
        assert info["category"].split("/")[0] == "DPE", name
        assert info["description"], name
        assert info["display_name"] not in (None, "", name)
        silent = [key for key, options in inputs_of(info).items() if not options.get("tooltip")]
        assert not silent, f"{name}: inputs without a tooltip: {silent}"
        assert not set(info["output_name"]) & set(info["output"]), f"{name}: outputs named by their type"


def test_numbers_have_bounds(own: dict[str, Any]):
    """The front end clamps a number without bounds to 0..2048."""
    for name, info in own.items():
        for group in ("required", "optional"):
            for key, spec in info["input"].get(group, {}).items():
                if spec[0] in ("INT", "FLOAT") and not spec[1].get("forceInput"):
                    missing = {"min", "max", "step", "default"} - set(spec[1])
                    assert not missing, f"{name}.{key} lacks {sorted(missing)}"
                    assert spec[1]["min"] <= spec[1]["default"] <= spec[1]["max"], f"{name}.{key}"


def test_each_node_has_a_help_page(comfy: ComfyServer, own: dict[str, Any]):
    for name in own:
        status, _, body = comfy.open(f"/extensions/{PACK}/docs/{name}.md")
        assert status == 200, name
        assert len(body) > 200, name


def test_the_front_end_extension_is_served(comfy: ComfyServer):
    scripts = [path for path in comfy.get("/extensions") if path.startswith(f"/extensions/{PACK}/")]
    assert {path.rsplit("/", 1)[1] for path in scripts} == {file.name for file in (ROOT / "js").glob("**/*.js")}
    for path in scripts:
        status, kind, _ = comfy.open(path)
        assert status == 200
        assert kind.endswith("/javascript")  # a browser refuses a module of any other type


def test_translations_fit_the_nodes(comfy: ComfyServer, own: dict[str, Any]):
    served = comfy.get("/i18n")
    languages = {folder.name for folder in (ROOT / "locales").iterdir() if folder.is_dir()}
    assert languages <= set(served)
    for language in languages:
        words = served[language].get("nodeDefs", {})
        assert set(words) == set(own), language
        for name, entry in words.items():
            assert set(entry["inputs"]) == set(inputs_of(own[name])), f"{language}: {name}"
            assert set(entry["outputs"]) == {str(i) for i in range(len(own[name]["output"]))}, f"{language}: {name}"
            # The front end compiles these strings: braces, at signs and bars are syntax there.
            assert not re.search(r"[{}@|]", json.dumps(list(_strings(entry)))), f"{language}: {name}"


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    return [value]


def test_templates_are_announced(comfy: ComfyServer):
    assert sorted(comfy.get("/api/workflow_templates").get(PACK, [])) == [path.stem for path in WORKFLOWS]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
class TestWorkflow:
    """Each shipped workflow."""

    def test_is_served_with_its_picture(self, comfy: ComfyServer, path: Path):
        assert comfy.get(f"/api/workflow_templates/{PACK}/{path.name}") == json.loads(path.read_text())
        status, kind, body = comfy.open(f"/api/workflow_templates/{PACK}/{path.stem}.jpg")
        assert (status, kind) == (200, "image/jpeg")
        assert body[:2] == b"\xff\xd8"
        assert len(body) < 500_000

    def test_fits_the_nodes(self, path: Path, known: dict[str, Any]):
        workflow = json.loads(path.read_text())
        for node in workflow["nodes"]:
            if node["type"] in VIRTUAL:
                continue
            assert node["type"] in known, f"{node['type']} is unknown to a stock host with this pack"
            if node["type"] in NODES and node.get("widgets_values") is not None:
                assert len(node["widgets_values"]) == len(list(widget_slots(known[node["type"]]))), node["type"]
            names = [output["name"] for output in node.get("outputs", [])]
            assert names == known[node["type"]]["output_name"][: len(names)], node["type"]

    def test_clips_bring_their_rate_along(self, path: Path):
        """So that a driver of another rate is noticed."""
        workflow = json.loads(path.read_text())
        nodes = {node["id"]: node for node in workflow["nodes"]}
        origins = {link[0]: nodes[link[1]] for link in workflow["links"]}

        def inputs(node: dict[str, Any]) -> dict[str, dict[str, Any]]:
            return {entry["name"]: origins[entry["link"]] for entry in node["inputs"] if entry["link"] is not None}

        for node in nodes.values():
            if node["type"] == "DPE_EncodeMotion":
                pictures = inputs(node)["image"]
                if pictures["type"] == "DPE_CropPortrait":
                    pictures = inputs(pictures)["image"]
                assert "fps" in inputs(node) or pictures["type"] == "LoadImage", node["title"]

    def test_runs(self, comfy: ComfyServer, path: Path, known: dict[str, Any]):
        files = comfy.files(comfy.queue(to_api(json.loads(path.read_text()), known)))
        pictures = [file for file in files if file.suffix.lower() in PICTURE_ENDINGS]
        assert pictures, "the workflow shows no picture"
        for file in pictures:
            assert read_pictures(file).std() > 2, f"{file.name} is one flat colour"
