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


def winding_workflow() -> dict[str, Any]:
    """Upload buttons, a seed, a reroute, a bypassed and a muted node, a primitive, a note, an input made a socket."""

    def slot(name: str, kind: str, link: int | None = None, widget: bool = False) -> dict[str, Any]:
        return {"name": name, "type": kind, "link": link} | ({"widget": {"name": name}} if widget else {})

    def node(number: int, kind: str, inputs: list, outputs: list, values: list, mode: int = 0) -> dict[str, Any]:
        place = {"pos": [300 * (number % 4), 300 * (number // 4)], "size": [270, 130], "order": number}
        sockets = {
            "inputs": inputs,
            "outputs": [{"name": name, "type": name, "links": links} for name, links in outputs],
        }
        rest = {"flags": {}, "mode": mode, "properties": {}, "widgets_values": values}
        return {"id": number, "type": kind} | place | sockets | rest

    nodes = [
        node(1, "LoadVideo", [], [("VIDEO", [1])], ["clip.mp4", "image"]),
        node(2, "GetVideoComponents", [slot("video", "VIDEO", 1)], [("IMAGE", [2]), ("AUDIO", []), ("FLOAT", [3])], []),
        node(3, "ImageInvert", [slot("image", "IMAGE", 2)], [("IMAGE", [4])], [], mode=4),
        node(4, "Reroute", [slot("", "*", 4)], [("IMAGE", [5])], []),
        node(
            5, "ImageBlur", [slot("image", "IMAGE", 5), slot("blur_radius", "INT", 6, True)], [("IMAGE", [7])], [3, 0.5]
        ),
        node(6, "PrimitiveNode", [], [("INT", [6])], [7, "fixed"]),
        node(7, "CreateVideo", [slot("images", "IMAGE", 7), slot("fps", "FLOAT", 3, True)], [("VIDEO", [8, 9])], [30]),
        node(8, "SaveVideo", [slot("video", "VIDEO", 8)], [], ["video/out", "auto", "auto"]),
        node(9, "SaveVideo", [slot("video", "VIDEO", 9)], [], ["video/out", "auto", "auto"], mode=2),
        node(10, "ImageAddNoise", [slot("image", "IMAGE", 10)], [("IMAGE", [11])], [5, "fixed", 0.25]),
        node(11, "LoadImage", [], [("IMAGE", [10]), ("MASK", [])], ["a.png", "image"]),
        node(12, "PreviewImage", [slot("images", "IMAGE", 11)], [], []),
        node(13, "Note", [], [], ["a note"]),
    ]
    ends = [(1, 0, 2, 0), (2, 0, 3, 0), (2, 2, 7, 1), (3, 0, 4, 0), (4, 0, 5, 0), (6, 0, 5, 1), (5, 0, 7, 0)]
    ends += [(7, 0, 8, 0), (7, 0, 9, 0), (11, 0, 10, 0), (10, 0, 12, 0)]
    kinds = ("VIDEO", "IMAGE", "FLOAT", "IMAGE", "IMAGE", "INT", "IMAGE", "VIDEO", "VIDEO", "IMAGE", "IMAGE")
    links = [[number, *end, kind] for number, (end, kind) in enumerate(zip(ends, kinds, strict=True), 1)]
    return {"last_node_id": 13, "last_link_id": 11, "nodes": nodes, "links": links, "groups": [], "version": 0.4}


@pytest.mark.parametrize("workflow", [stock_workflow(), winding_workflow()], ids=["plain", "winding"])
def test_our_conversion_agrees_with_the_editor(server: ComfyServer, open_front_end, workflow: dict[str, Any]):
    editor = open_front_end(server)
    editor.load(workflow)
    assert editor.prompt() == to_api(workflow, server.object_info())


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
