"""The conversion that the other host tests rest on: needs no host."""

from __future__ import annotations

from typing import Any

import pytest

from .workflow import WorkflowError, to_api, widget_slots


def info(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    groups = {"required": required, "optional": optional or {}}
    return {"input": groups, "input_order": {group: list(inputs) for group, inputs in groups.items()}}


NODES = {
    "Source": info({"seed": ["INT", {"default": 3}], "file": ["COMBO", {"options": ["a"], "image_upload": True}]}),
    "Filter": info(
        {"image": ["IMAGE"], "mode": [["soft", "hard"]]},
        {
            "amount": ["FLOAT", {"default": 0.5}],
            "forced": ["INT", {"forceInput": True}],
            "name": ["STRING", {"default": "n"}],
        },
    ),
    "Sink": info({"image": ["IMAGE", {}]}),
}


def node(
    number: int, kind: str, values: Any = None, links: dict[str, int | None] | None = None, mode: int = 0
) -> dict[str, Any]:
    inputs = [
        {"name": name, "type": "IMAGE" if name == "image" else "INT", "link": link}
        for name, link in (links or {}).items()
    ]
    return {"id": number, "type": kind, "mode": mode, "inputs": inputs, "widgets_values": values}


def graph(middle: dict[str, Any], *extra: dict[str, Any]) -> dict[str, Any]:
    """Source -> middle -> Sink."""
    nodes = [node(1, "Source", [9, "fixed", "a", "image"]), middle, node(3, "Sink", None, {"image": 11}), *extra]
    return {"nodes": nodes, "links": [[10, 1, 0, 2, 0, "IMAGE"], [11, 2, 0, 3, 0, "IMAGE"], [12, 4, 0, 2, 1, "INT"]]}


def test_slots_follow_the_front_end():
    assert list(widget_slots(NODES["Source"])) == ["seed", None, "file", None]
    assert list(widget_slots(NODES["Filter"])) == ["mode", "amount", "name"]


def test_values_and_links():
    prompt = to_api(graph(node(2, "Filter", ["hard", 0.25, "x"], {"image": 10})), NODES)
    assert prompt["1"] == {"class_type": "Source", "inputs": {"seed": 9, "file": "a"}}
    assert prompt["2"]["inputs"] == {"mode": "hard", "amount": 0.25, "name": "x", "image": ["1", 0]}
    assert prompt["3"]["inputs"] == {"image": ["2", 0]}


def test_an_appended_widget_takes_its_default():
    assert to_api(graph(node(2, "Filter", ["hard"], {"image": 10})), NODES)["2"]["inputs"]["amount"] == 0.5


def test_values_saved_by_name():
    prompt = to_api(graph(node(2, "Filter", {"mode": "soft", "other": 1}, {"image": 10})), NODES)
    assert prompt["2"]["inputs"] == {"mode": "soft", "image": ["1", 0]}


def test_list_values_are_wrapped():
    assert to_api(graph(node(2, "Filter", [["a", 1]], {"image": 10})), NODES)["2"]["inputs"]["mode"] == {
        "__value__": ["a", 1]
    }


@pytest.mark.parametrize(
    "middle", [node(2, "Reroute", None, {"image": 10}), node(2, "Filter", ["hard"], {"image": 10}, mode=4)]
)
def test_reroutes_and_bypassed_nodes_vanish(middle: dict[str, Any]):
    prompt = to_api(graph(middle), NODES)
    assert set(prompt) == {"1", "3"}
    assert prompt["3"]["inputs"] == {"image": ["1", 0]}


def test_muted_nodes_leave_a_gap():
    prompt = to_api(graph(node(2, "Filter", ["hard"], {"image": 10}, mode=2)), NODES)
    assert set(prompt) == {"1", "3"}
    assert prompt["3"]["inputs"] == {}


def test_primitives_become_values_and_notes_vanish():
    extras = node(4, "PrimitiveNode", [7, "fixed"]), node(5, "MarkdownNote", ["text"])
    prompt = to_api(graph(node(2, "Filter", ["hard"], {"image": 10, "forced": 12}), *extras), NODES)
    assert set(prompt) == {"1", "2", "3"}
    assert prompt["2"]["inputs"]["forced"] == 7


def test_errors_name_the_culprit():
    with pytest.raises(WorkflowError, match="Mystery"):
        to_api(graph(node(2, "Mystery")), NODES)
    with pytest.raises(WorkflowError, match="link 99"):
        to_api(graph(node(2, "Filter", [], {"image": 99})), NODES)
    with pytest.raises(WorkflowError, match="node 4"):
        to_api(graph(node(2, "Filter", [], {"image": 10, "forced": 12})), NODES)
    with pytest.raises(WorkflowError, match="subgraphs"):
        to_api({"nodes": [], "links": [], "definitions": {"subgraphs": [{}]}}, NODES)
