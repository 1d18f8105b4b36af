"""Turn a workflow as the front end saves it into the prompt that the server takes, as the front end does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .comfy import Prompt

Workflow = Mapping[str, Any]
NodeInfo = Mapping[str, Any]

WIDGET_TYPES = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"})
SEED_NAMES = frozenset({"seed", "noise_seed"})
UPLOADS = ("image_upload", "video_upload", "animated_image_upload")
NOTES = frozenset({"Note", "MarkdownNote"})
VIRTUAL = NOTES | {"Reroute", "PrimitiveNode"}
MUTED, BYPASSED = 2, 4


class WorkflowError(ValueError):
    """The workflow is not one that the front end could queue."""


def widget_slots(info: NodeInfo) -> Iterator[str | None]:
    """The node's widgets in the order of `widgets_values`: input names, None for a slot that is no input.

    The front end lays required inputs before optional ones; a seed is followed by its control_after_generate, and the
    required inputs by the upload button.
    """
    upload = False
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, ()):
            kind, options = _spec(info, group, name)
            if not _is_widget(kind, options):
                continue
            yield name
            if kind == "INT" and options.get("control_after_generate", name in SEED_NAMES):
                yield None
            upload = upload or (group == "required" and any(options.get(flag) for flag in UPLOADS))
        if group == "required" and upload:
            yield None


def to_api(workflow: Workflow, object_info: Mapping[str, NodeInfo]) -> Prompt:
    """API-format prompt of a UI-format workflow. WorkflowError for what the front end would refuse or show red."""
    if workflow.get("definitions", {}).get("subgraphs"):
        raise WorkflowError("subgraphs are not supported here")
    graph = _Graph(workflow)
    unknown = sorted({n["type"] for n in graph.nodes.values()} - VIRTUAL - set(object_info))
    if unknown:
        raise WorkflowError(f"node types the host does not know: {', '.join(unknown)}")
    prompt: Prompt = {}
    for node in graph.nodes.values():
        if node["type"] in VIRTUAL or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        inputs = _widget_values(node, object_info[node["type"]])
        for name, value in graph.linked(node):
            inputs[name] = value
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def _spec(info: NodeInfo, group: str, name: str) -> tuple[Any, Mapping[str, Any]]:
    kind, *rest = info["input"][group][name]
    return kind, (rest[0] if rest else {})


def _is_widget(kind: Any, options: Mapping[str, Any]) -> bool:
    if options.get("forceInput"):
        return False
    return isinstance(kind, list) or options.get("widgetType", kind) in WIDGET_TYPES


def _widget_values(node: Mapping[str, Any], info: NodeInfo) -> dict[str, Any]:
    saved = node.get("widgets_values") or []
    if isinstance(saved, dict):
        return {name: saved[name] for name in widget_slots(info) if name in saved}
    values = _defaults(info)
    for name, value in zip(widget_slots(info), saved, strict=False):
        if name is not None:
            values[name] = {"__value__": value} if isinstance(value, list) else value
    return values


def _defaults(info: NodeInfo) -> dict[str, Any]:
    """What a fresh widget shows where the workflow was saved before the input was appended."""
    values: dict[str, Any] = {}
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, ()):
            kind, options = _spec(info, group, name)
            if not _is_widget(kind, options):
                continue
            choices = kind if isinstance(kind, list) else options.get("options", [])
            blank = (
                {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}.get(kind) if isinstance(kind, str) else None
            )
            values[name] = options.get("default", choices[0] if choices else blank)
    return values


class _Graph:
    """Links of a workflow, followed through nodes that exist in the front end only."""

    def __init__(self, workflow: Workflow):
        self.nodes = {node["id"]: node for node in workflow["nodes"]}
        self.links: dict[int, tuple[int, int]] = {}
        for link in workflow["links"]:
            if isinstance(link, dict):
                self.links[link["id"]] = (link["origin_id"], link["origin_slot"])
            else:
                self.links[link[0]] = (link[1], link[2])

    def linked(self, node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Input name and value: a `[node id, slot]` reference, or the value of a primitive."""
        for slot in node.get("inputs", ()):
            if slot.get("link") is not None:
                yield from ((slot["name"], value) for value in self._resolve(slot["link"], slot["type"]))

    def _resolve(self, link: int, kind: str) -> Iterator[Any]:
        """The link's source: one value, or nothing where it leads to a muted node or into the void."""
        if link not in self.links:
            raise WorkflowError(f"link {link} is used by a node but is not in the list of links")
        origin_id, origin_slot = self.links[link]
        if origin_id not in self.nodes:
            raise WorkflowError(f"link {link} comes from node {origin_id}, which does not exist")
        origin = self.nodes[origin_id]
        mode = origin.get("mode", 0)
        if mode == MUTED:
            return
        if origin["type"] == "PrimitiveNode":
            yield origin["widgets_values"][0]
        elif origin["type"] == "Reroute":
            yield from self._behind(origin, origin["inputs"][:1], kind)
        elif mode == BYPASSED:
            yield from self._behind(origin, _bypass(origin, origin_slot, kind), kind)
        else:
            yield [str(origin_id), origin_slot]

    def _behind(self, node: Mapping[str, Any], slots: list[Mapping[str, Any]], kind: str) -> Iterator[Any]:
        for slot in slots:
            if slot.get("link") is not None:
                yield from self._resolve(slot["link"], kind)


def _bypass(node: Mapping[str, Any], output: int, kind: str) -> list[Mapping[str, Any]]:
    """The input that stands in for an output of a bypassed node: at the same place, else the first of its type."""
    inputs = node.get("inputs", [])
    if output < len(inputs) and inputs[output]["type"] == kind:
        return [inputs[output]]
    return [slot for slot in inputs if slot["type"] == kind][:1]
