"""The sliders of DPE Portrait Editor, and the button that sets them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from host.comfy import ComfyServer

if TYPE_CHECKING:
    from .frontend import FrontEnd

pytestmark = pytest.mark.browser

BUILD = """() => {
    app.graph.clear();
    const [model, picture, code, editor] = ['DPE_LoadDPEModel', 'LoadImage', 'DPE_EncodeMotion', 'DPE_PortraitEditor']
        .map((kind, place) => {
            const node = LiteGraph.createNode(kind);
            node.pos = [60 + 380 * place, 100];
            app.graph.add(node);
            return node;
        });
    picture.widgets.find(w => w.name === 'image').value = 'dpe_source.png';
    model.connect(0, code, 0);
    picture.connect(0, code, 1);
    model.connect(0, editor, 0);
    code.connect(0, editor, 1);
}"""
WIDGETS = "app.graph.nodes.find(n => n.type === 'DPE_PortraitEditor').widgets"
SLIDERS = f"Object.fromEntries({WIDGETS}.filter(w => typeof w.value === 'number').map(w => [w.name, w.value]))"
SET = f"([name, value]) => {{ {WIDGETS}.find(w => w.name === name).value = value; }}"
PLACE = """(() => {
    const node = app.graph.nodes.find(n => n.type === 'DPE_PortraitEditor');
    const button = node.widgets.find(w => w.name === 'Reset');
    const at = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + node.size[0] / 2, node.pos[1] + button.y + 10]);
    const frame = app.canvas.canvas.getBoundingClientRect();
    return [frame.x + at[0], frame.y + at[1]];
})()"""
SLIDER = """name => {
    const node = app.graph.nodes.find(n => n.type === 'DPE_PortraitEditor');
    const slider = node.widgets.find(w => w.name === name);
    const at = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + 15, node.pos[1] + slider.y + 10]);
    const frame = app.canvas.canvas.getBoundingClientRect();
    return [frame.x + at[0], frame.y + at[1], (node.size[0] - 30) * app.canvas.ds.scale];
}"""
MENU = ".queue-button-group button[aria-haspopup], .queue-button-group .p-splitbutton-dropdown"
SHOWN = "app.graph.nodes.find(n => n.type === 'DPE_PortraitEditor').imgs.map(i => [i.naturalWidth, i.naturalHeight])"
WORKFLOW = "JSON.parse(JSON.stringify(app.graph.serialize()))"
SAVED = f"{WORKFLOW}.nodes.find(n => n.type === 'DPE_PortraitEditor').widgets_values"


@pytest.fixture
def graph(editor: FrontEnd) -> FrontEnd:
    """The editor with a portrait and its sliders."""
    editor.page.evaluate(BUILD)
    editor.fit()
    return editor


def settings(graph: FrontEnd) -> dict[str, float]:
    return graph.page.evaluate(SLIDERS)


def queued(graph: FrontEnd) -> dict[str, Any]:
    (inputs,) = [node["inputs"] for node in graph.prompt().values() if node["class_type"] == "DPE_PortraitEditor"]
    return inputs


def test_the_node_shows_the_face_as_set(graph: FrontEnd):
    graph.page.evaluate(SET, ["smile", 0.8])
    graph.page.evaluate(SET, ["yaw", 10])
    entry = graph.run()
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
    graph.fit()
    graph.screenshot("portrait-editor")
    assert graph.page.evaluate(SHOWN) == [[256, 256]]  # what it made, not the larger preview of a run under way
    assert graph.errors == []


def test_reset_sets_every_slider_to_zero(graph: FrontEnd):
    names = list(settings(graph))
    assert len(names) == 9
    for name in names:
        graph.page.evaluate(SET, [name, 0.5])
    assert set(settings(graph).values()) == {0.5}
    button = graph.page.get_by_role("button", name="Reset", exact=True)
    if button.count():  # nodes that are elements themselves
        button.click()
    else:
        graph.page.mouse.click(*graph.page.evaluate(PLACE))
    graph.page.wait_for_timeout(300)
    graph.screenshot("portrait-editor-reset")
    assert settings(graph) == dict.fromkeys(names, 0)
    assert graph.errors == []


def test_the_picture_follows_the_sliders(graph: FrontEnd, comfy: ComfyServer):
    """With Run (On Change), chosen in the menu beside Run."""
    graph.page.locator(MENU).first.click()
    graph.page.get_by_text("Run (On Change)").first.click()
    graph.run()
    seen = len(comfy.get("/history"))
    x, y, width = graph.page.evaluate(SLIDER, "smile")
    mouse = graph.page.mouse
    mouse.move(x + 0.5 * width, y)
    mouse.down()
    mouse.move(x + 0.8 * width, y, steps=4)
    mouse.up()
    graph.page.wait_for_timeout(500)
    assert settings(graph)["smile"] > 0.5
    for _ in range(100):
        if len(comfy.get("/history")) > seen and not comfy.running():
            break
        graph.page.wait_for_timeout(200)
    (entry,) = comfy.get("/history?max_items=1").values()
    assert len(comfy.get("/history")) > seen
    assert entry["prompt"][2][entry_of(entry)]["inputs"]["smile"] == settings(graph)["smile"]
    assert entry["status"]["status_str"] == "success"
    assert graph.errors == []


def entry_of(entry: dict[str, Any]) -> str:
    """The editor's number in a queued prompt."""
    (number,) = [key for key, node in entry["prompt"][2].items() if node["class_type"] == "DPE_PortraitEditor"]
    return number


def test_the_button_is_neither_saved_nor_queued(graph: FrontEnd):
    graph.page.evaluate(SET, ["brows", 0.5])
    names = list(settings(graph))
    assert graph.page.evaluate(SAVED) == [0.5 if name == "brows" else 0 for name in names]
    assert set(queued(graph)) == {"model", "latent", *names}
    saved = graph.page.evaluate(WORKFLOW)
    graph.load(saved)
    assert settings(graph)["brows"] == 0.5
    assert graph.page.evaluate(SAVED) == [0.5 if name == "brows" else 0 for name in names]
    assert graph.errors == []
