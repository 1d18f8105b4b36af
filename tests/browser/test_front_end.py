"""The pack in ComfyUI's real front end: every shipped workflow as a person would open and run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from host.comfy import ComfyServer
from host.workflow import to_api

if TYPE_CHECKING:
    from .frontend import FrontEnd

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
PACK = "ComfyUI-DPE"
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
class TestTemplate:
    """Each shipped workflow."""

    def test_opens_from_the_templates_browser_and_runs(self, editor: FrontEnd, path: Path):
        editor.open_template(PACK, path.stem, picture=f"templates-{path.stem}")
        assert sorted(editor.node_types()) == sorted(node["type"] for node in json.loads(path.read_text())["nodes"])
        assert editor.missing() == []
        editor.screenshot(f"{path.stem}-opened")
        entry = editor.run()
        editor.screenshot(f"{path.stem}-run")
        assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
        assert editor.complaints() == []
        assert editor.errors == []

    def test_is_queued_as_the_host_tests_queue_it(self, editor: FrontEnd, comfy: ComfyServer, path: Path):
        workflow = json.loads(path.read_text())
        editor.load(workflow)
        assert _known(editor.prompt(), comfy) == to_api(workflow, comfy.object_info())


def _known(prompt: dict[str, Any], comfy: ComfyServer) -> dict[str, Any]:
    """A prompt without what the editor adds for itself (the preview of a loaded video) and the host ignores."""
    info = comfy.object_info()
    kept: dict[str, Any] = {}
    for key, node in prompt.items():
        groups = info[node["class_type"]]["input"]
        names = {name for group in ("required", "optional") for name in groups.get(group, {})}
        kept[key] = {**node, "inputs": {name: value for name, value in node["inputs"].items() if name in names}}
    return kept


def test_every_node_can_be_placed_and_shows_its_help(editor: FrontEnd, comfy: ComfyServer):
    own = {k: v for k, v in comfy.object_info().items() if v["python_module"] == f"custom_nodes.{PACK}"}
    for name, info in own.items():
        title, inputs = editor.place(name)
        assert title == info["display_name"]
        expected = {key for group in ("required", "optional") for key in info["input"].get(group, {})}
        assert expected <= set(inputs), name
        assert editor.help(name).strip(), name
    editor.fit()
    editor.screenshot("all-nodes")
    assert editor.errors == []
