"""What a node has to say after it ran: shown on the node, kept out of everything that is saved or queued."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from host.comfy import ComfyServer

if TYPE_CHECKING:
    from .frontend import FrontEnd

pytestmark = pytest.mark.browser

FRAMES = 3
CHAIN = ("EmptyImage", "DPE_LoadDPEModel", "DPE_EncodeMotion", "DPE_EditLatent", "DPE_RenderPose", "DPE_SaveMotion")
# Place in CHAIN and number of the output -> place and number of the input.
LINKS = {
    (0, 0): [(2, 1)],
    (1, 0): [(2, 0), (4, 0)],
    (2, 0): [(3, 0)],
    (2, 1): [(3, 2), (5, 0)],
    (3, 0): [(4, 1)],
    (4, 0): [(6, 0)],
}
BUILD = """([chain, links]) => {
    app.graph.clear();
    const nodes = chain.map((kind, place) => {
        const node = LiteGraph.createNode(kind);
        node.pos = [60 + 420 * (place % 4), 100 + 380 * Math.floor(place / 4)];
        app.graph.add(node);
        return node;
    });
    for (const [from, output, to, input] of links) nodes[from].connect(output, nodes[to], input);
    nodes.forEach(node => node.setSize([Math.max(node.size[0], 280), node.size[1]]));
}"""
SET = """([kind, name, value]) => {
    app.graph.nodes.find(n => n.type === kind).widgets.find(w => w.name === name).value = value;
}"""
DRIVE = """([before, after]) => {
    const [code, edit] = ['DPE_EncodeMotion', 'DPE_EditLatent'].map(kind => app.graph.nodes.find(n => n.type === kind));
    edit.disconnectInput(edit.findInputSlot(before));
    code.connect(1, edit, edit.findInputSlot(after));
}"""
NOTES = """Object.fromEntries(app.graph.nodes
    .map(n => [n.type, (n.widgets ?? []).filter(w => w.name === 'dpe_note').map(w => w.value)])
    .filter(([, notes]) => notes.length))"""
SIZES = "Object.fromEntries(app.graph.nodes.map(n => [n.type, [...n.size]]))"
SAVED = "JSON.parse(JSON.stringify(app.graph.serialize()))"
VIEW = "[app.canvas.ds.scale, ...app.canvas.ds.offset]"
FITS = """app.graph.nodes.flatMap(n => (n.widgets ?? []).filter(w => w.name === 'dpe_note').map(w => {
    const note = w.element;
    const below = n.widgets.slice(n.widgets.indexOf(w) + 1);
    // Of a node with a preview the host reckons more than it gives: there each widget has to end inside.
    const room = below.length ? below.every(other => other.y + other.computedHeight <= n.size[1] + 1)
        : n.size[1] >= n.computeSize()[1];
    return room && w.y + w.computedHeight <= n.size[1] + 1
        && note.scrollHeight <= note.clientHeight + 1 && below.every(other => other.y >= w.y + w.computedHeight - 1
            && other.serialize === false);
}))"""

PREVIEWED = """app.graph.nodes.filter(n => n.type.startsWith('DPE_')
    && n.widgets?.some(w => w.name === '$$canvas-image-preview')).map(n => n.type)"""
UNDO = """async () => {
    const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker;
    tracker.checkState();
    app.graph.nodes[0].pos = [0, 0];
    tracker.checkState();
    await tracker.undo();
}"""
OTHER_TAB = """async () => {
    window.firstTab = app.extensionManager.workflow.activeWorkflow;
    await app.extensionManager.command.execute('Comfy.NewBlankWorkflow');
}"""
FIRST_TAB = """async () => {
    const other = app.extensionManager.workflow.activeWorkflow;
    const workflow = window.firstTab;
    await app.loadGraphData(JSON.parse(JSON.stringify(workflow.activeState)), true, true, workflow);
}"""


@pytest.fixture
def graph(editor: FrontEnd, comfy: ComfyServer) -> FrontEnd:
    """The editor with the nodes of CHAIN and a preview; nothing of it in the host's cache, so that every node runs."""
    comfy.open("/free", b'{"free_memory": true}')
    links = [[*start, *end] for start, ends in LINKS.items() for end in ends]
    editor.page.evaluate(BUILD, [[*CHAIN, "PreviewImage"], links])
    for name, value in (("width", 64), ("height", 64), ("batch_size", FRAMES)):
        editor.page.evaluate(SET, ["EmptyImage", name, value])
    editor.fit()
    return editor


def run(editor: FrontEnd) -> dict[str, list[str]]:
    entry = editor.run()
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
    return editor.page.evaluate(NOTES)


def note_sizes(editor: FrontEnd) -> dict[str, list[float]]:
    sizes, notes = editor.page.evaluate(SIZES), editor.page.evaluate(NOTES)
    return {kind: sizes[kind] for kind in notes}


def values(workflow: dict[str, Any]) -> dict[str, Any]:
    return {node["type"]: node.get("widgets_values") or [] for node in workflow["nodes"]}


def test_a_note_shows_on_the_node_and_is_not_saved(graph: FrontEnd):
    saved, prompt, sizes = graph.page.evaluate(SAVED), graph.prompt(), graph.page.evaluate(SIZES)
    notes = run(graph)
    graph.fit()
    graph.screenshot("notes")

    assert set(notes) == {"DPE_LoadDPEModel", "DPE_EditLatent", "DPE_SaveMotion"}
    assert all(len(texts) == 1 for texts in notes.values())
    assert " px, fp32" in notes["DPE_LoadDPEModel"][0]
    assert "models/dpe" in notes["DPE_LoadDPEModel"][0]
    assert notes["DPE_EditLatent"] == [f"{FRAMES} source frames, pose driver {FRAMES} -> {FRAMES} frames"]
    assert notes["DPE_SaveMotion"][0].endswith(f".motion.safetensors: {FRAMES} frames")
    shown = graph.page.locator(".dpe-note:visible").all_inner_texts()
    assert sorted(shown) == sorted(text for texts in notes.values() for text in texts)
    assert all(graph.page.evaluate(FITS))

    after = graph.page.evaluate(SAVED)
    assert values(after) == values(saved)
    assert [node.get("inputs") for node in after["nodes"]] == [node.get("inputs") for node in saved["nodes"]]
    assert graph.prompt() == prompt
    grown = graph.page.evaluate(SIZES)
    assert all(grown[kind][0] == sizes[kind][0] and grown[kind][1] > sizes[kind][1] for kind in notes)
    assert graph.errors == []


def test_the_canvas_is_moved_and_zoomed_from_above_a_note(graph: FrontEnd):
    run(graph)
    graph.fit()
    scale, *offset = graph.page.evaluate(VIEW)
    mouse = graph.page.mouse
    graph.page.locator(".dpe-note:visible").first.hover()
    mouse.down(button="middle")
    for _ in range(5):
        box = graph.page.locator(".dpe-note:visible").first.bounding_box()
        mouse.move(box["x"] + 20, box["y"] + 15)
    mouse.up(button="middle")
    moved = graph.page.evaluate(VIEW)
    assert moved[0] == scale and moved[1:] != offset
    graph.page.locator(".dpe-note:visible").first.hover()
    mouse.wheel(0, -100)
    graph.page.wait_for_timeout(300)
    assert graph.page.evaluate(VIEW)[0] != scale
    assert graph.errors == []


def test_the_wheel_above_a_note_acts_once(graph: FrontEnd):
    """A node that is itself an element passes on what reaches it from the note, so nothing may."""
    run(graph)
    graph.fit()
    note = graph.page.locator(".dpe-note:visible").first
    note.evaluate("""note => {
        window.wheels = 0;
        note.parentElement.addEventListener('wheel', () => window.wheels += 1);
    }""")
    scale = graph.page.evaluate(VIEW)[0]
    note.hover()
    graph.page.mouse.wheel(0, -100)
    graph.page.wait_for_timeout(300)
    assert graph.page.evaluate(VIEW)[0] != scale
    assert graph.page.evaluate("window.wheels") == 0
    assert graph.errors == []


def test_a_note_goes_when_there_is_nothing_left_to_say(graph: FrontEnd):
    graph.page.evaluate(DRIVE, ["pose", "expression"])
    assert run(graph)["DPE_RenderPose"] == ["The expression edit is not shown here: DPE Render Expression shows it"]
    graph.fit()
    graph.screenshot("note-and-preview")
    assert graph.page.evaluate(PREVIEWED) == ["DPE_RenderPose"]
    assert all(graph.page.evaluate(FITS))
    graph.page.evaluate(DRIVE, ["expression", "pose"])
    assert "DPE_RenderPose" not in run(graph)
    assert graph.errors == []


def test_running_again_replaces_the_note(graph: FrontEnd):
    graph.page.evaluate("app.graph.nodes.find(n => n.type === 'DPE_SaveMotion').setSize([300, 400])")
    first = run(graph)
    sizes = note_sizes(graph)
    assert sizes["DPE_SaveMotion"] == [300, 400]
    assert run(graph) == first  # all from the host's cache
    assert note_sizes(graph) == sizes
    graph.page.evaluate(SET, ["EmptyImage", "batch_size", 1])
    again = run(graph)
    assert again["DPE_EditLatent"] == ["1 source frame, pose driver 1 -> 1 frame"]
    assert graph.page.locator(".dpe-note:visible").count() == len(again)
    assert note_sizes(graph) == sizes
    assert graph.errors == []


def test_notes_stay_through_an_undo_and_another_tab(graph: FrontEnd):
    notes = run(graph)
    graph.page.evaluate(UNDO)
    assert graph.page.evaluate(NOTES) == notes
    graph.page.evaluate(OTHER_TAB)
    assert graph.page.evaluate(NOTES) == {}
    graph.page.evaluate(FIRST_TAB)
    assert graph.page.evaluate(NOTES) == notes
    assert graph.errors == []


def test_a_note_is_gone_after_loading_and_after_removing_the_node(graph: FrontEnd):
    run(graph)
    saved = graph.page.evaluate(SAVED)
    graph.page.evaluate("app.graph.remove(app.graph.nodes.find(n => n.type === 'DPE_SaveMotion'))")
    graph.fit()
    assert graph.page.locator(".dpe-note").count() == len(graph.page.evaluate(NOTES)) == 2
    graph.load(saved)
    assert graph.page.evaluate(NOTES) == {}
    assert graph.page.locator(".dpe-note").count() == 0
    assert values(graph.page.evaluate(SAVED)) == values(saved)
    assert graph.complaints() == []
    assert graph.errors == []
