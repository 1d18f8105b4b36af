"""The browser harness itself, with stock nodes in a throw-away template: a failure here is not the pack's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from host.comfy import ComfyServer
from host.workflow import to_api

pytestmark = pytest.mark.browser


def stock_workflow() -> dict[str, Any]:
    """EmptyImage -> PreviewImage as the editor saves it."""
    source = {"id": 1, "type": "EmptyImage", "pos": [100, 200], "size": [270, 130], "inputs": []}
    source |= {"outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}], "widgets_values": [64, 48, 1, 0x336699]}
    preview = {"id": 2, "type": "PreviewImage", "pos": [450, 200], "size": [270, 270], "outputs": []}
    preview |= {"inputs": [{"name": "images", "type": "IMAGE", "link": 1}]}
    for order, node in enumerate((source, preview)):
        node |= {"flags": {}, "order": order, "mode": 0, "properties": {}}
    links = [[1, 1, 0, 2, 0, "IMAGE"]]
    return {
        "last_node_id": 2,
        "last_link_id": 1,
        "nodes": [source, preview],
        "links": links,
        "groups": [],
        "version": 0.4,
    }


@pytest.fixture(scope="module")
def server(comfy_host: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    pack = tmp_path_factory.mktemp("pack")
    (pack / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    (pack / "workflows").mkdir()
    (pack / "workflows/blue.json").write_text(json.dumps(stock_workflow()))
    thumbnail = av.VideoFrame.from_ndarray(np.full((64, 64, 3), (51, 102, 153), np.uint8), format="rgb24")
    thumbnail.to_image().save(pack / "workflows/blue.jpg")
    with ComfyServer(*comfy_host, packs={"Stock": pack}) as server:
        yield server


def test_a_template_is_opened_run_and_shown(server: ComfyServer, open_front_end):
    editor = open_front_end(server)
    editor.open_template("Stock", "blue", picture="stock-templates")
    assert editor.node_types() == ["EmptyImage", "PreviewImage"]
    assert editor.missing() == []
    entry = editor.run()
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
    assert editor.complaints() == []
    assert editor.errors == []
    assert editor.page.evaluate("app.graph.nodes[1].imgs.length") == 1
    assert editor.screenshot("stock-run").stat().st_size > 10_000


def test_our_conversion_agrees_with_the_editor(server: ComfyServer, open_front_end):
    editor = open_front_end(server)
    editor.load(stock_workflow())
    theirs = {k: {"class_type": v["class_type"], "inputs": v["inputs"]} for k, v in editor.prompt().items()}
    assert theirs == to_api(stock_workflow(), server.object_info())


def test_a_missing_node_is_noticed(server: ComfyServer, open_front_end):
    editor = open_front_end(server)
    workflow = stock_workflow()
    workflow["nodes"][0]["type"] = "NoSuchNode"
    editor.load(workflow)
    assert editor.missing() == ["NoSuchNode"]
    assert "NoSuchNode" in " ".join(editor.complaints())


def test_a_failing_node_is_noticed(server: ComfyServer, open_front_end):
    editor = open_front_end(server)
    workflow = stock_workflow()
    workflow["nodes"][0]["widgets_values"] = [64, 48, -5, 0]
    editor.load(workflow)
    editor.press_run()
    editor.page.locator(".p-dialog").wait_for()
    assert "smaller than min" in " ".join(editor.complaints())
