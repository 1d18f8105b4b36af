"""Drive ComfyUI's real front end in Chromium."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from host.comfy import ComfyServer
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Playwright, Route

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
READY = "() => Boolean(window.app?.extensionManager && window.LiteGraph?.registered_node_types?.SaveImage)"
SIZE = {"width": 1600, "height": 1000}

MISSING = "app.graph.nodes.map(n => n.type).filter(type => !LiteGraph.registered_node_types[type])"
PLACE = """kind => {
    const node = LiteGraph.createNode(kind);
    const count = app.graph.nodes.length;
    node.pos = [100 + 450 * (count % 5), 100 + 450 * Math.floor(count / 5)];
    app.graph.add(node);
    return [node.title, [...(node.inputs ?? []), ...(node.widgets ?? [])].map(slot => slot.name)];
}"""
CENTRE = """kind => {
    app.canvas.deselectAll();
    app.canvas.ds.scale = 0.7;
    app.canvas.centerOnNode(app.graph.nodes.findLast(n => n.type === kind));
    app.canvas.setDirty(true, true);
}"""
SELECT = "kind => app.canvas.selectNodes([app.graph.nodes.findLast(n => n.type === kind)])"

DIALOG = ".p-dialog, [role=dialog]"
RUN = "[data-testid=queue-button] button, .queue-button-group button[data-variant=primary]"
"""What older and newer front ends call them."""
MOST_SCROLLS = 20
"""How often a list of cards is scrolled on in search of one."""


def launch(playwright: Playwright) -> Browser:
    """Headless Chromium: the one that CHROMIUM names, or the one on the PATH."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise FileNotFoundError("no Chromium: install it (Debian: chromium) or name its program by CHROMIUM")
    return playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))


class FrontEnd:
    """One tab with the graph editor of a running host, and what went wrong in it."""

    def __init__(self, page: Page, server: ComfyServer, pictures: Path):
        self.page = page
        self.server = server
        self.pictures = pictures
        self.errors: list[str] = []
        self._opened = False
        page.on("pageerror", self._note_error)
        page.on("console", self._note_message)

    def _note_error(self, error: Error) -> None:
        # The stock front end itself throws while it starts offline: then only a pack's own script counts.
        if self._opened or "/extensions/" in (error.stack or "").replace("/extensions/core/", ""):
            self.errors.append(error.stack or str(error))

    def _note_message(self, message: ConsoleMessage) -> None:
        source = message.location.get("url", "")
        # A help page by language is tried before the page without one: that 404 is the front end's way.
        if message.type == "error" and source.startswith(self.server.url + "/extensions/") and "/docs/" not in source:
            self.errors.append(f"{source}: {message.text}")

    def open(self) -> FrontEnd:
        """Load the editor and wait until its nodes are registered."""
        self.page.goto(self.server.url)
        self.page.wait_for_function(READY)
        self.page.locator(".side-tool-bar-container").first.wait_for()
        self._opened = True
        return self

    def screenshot(self, name: str) -> Path:
        """Save what the tab shows as name.png in the folder of pictures."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        path = self.pictures / f"{name}.png"
        self.page.screenshot(path=str(path))
        return path

    def open_template(self, pack: str, name: str, picture: str | None = None) -> None:
        """Load a template as a person does: Templates browser, the pack's section, the card.

        With a picture's name, also save a screenshot of the section before choosing.
        """
        self.page.keyboard.press("Escape")
        self.page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        any_card = '[data-testid^="template-workflow-"]'
        dialog = self.page.locator(DIALOG).filter(has=self.page.locator(any_card)).first
        dialog.wait_for()
        dialog.get_by_text(pack, exact=True).first.click()
        card = dialog.locator(f'[data-testid="template-workflow-{name}"]')
        # Cards below the edge are not made before somebody scrolls there.
        cards = dialog.locator(any_card)
        cards.first.wait_for()
        for _ in range(MOST_SCROLLS):
            if card.count():
                break
            cards.last.scroll_into_view_if_needed()
            self.page.mouse.wheel(0, 400)
            self.page.wait_for_timeout(250)
        card.wait_for()
        if picture is not None:
            self.page.wait_for_timeout(500)
            self.screenshot(picture)
        card.click()
        dialog.wait_for(state="hidden")
        self.fit()

    def load(self, workflow: dict[str, Any]) -> None:
        """Load a workflow through the editor's own function."""
        self.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
        self.fit()

    def fit(self) -> None:
        """Show the whole graph."""
        self.page.wait_for_timeout(300)
        self.page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.page.wait_for_timeout(700)

    def node_types(self) -> list[str]:
        """Types of the nodes on the canvas."""
        return self.page.evaluate("app.graph.nodes.map(n => n.type)")

    def missing(self) -> list[str]:
        """Types of the nodes that the editor draws red because nothing registered them."""
        return self.page.evaluate(MISSING)

    def place(self, kind: str) -> tuple[str, list[str]]:
        """Add a node to the canvas, beside those that are there: its title and the names of its sockets and widgets."""
        return tuple(self.page.evaluate(PLACE, kind))

    def help(self, kind: str) -> str:
        """Text of the help page of a node on the canvas, as the sidebar renders it; empty where there is none."""
        # In the middle first: the toolbox with the help button appears above the node, and would lie under the menu.
        self.page.evaluate(CENTRE, kind)
        self.page.wait_for_timeout(300)
        self.page.evaluate(SELECT, kind)
        page_url = f"/docs/{kind}.md"
        with self.page.expect_response(lambda response: response.url.endswith(page_url), timeout=10_000) as answer:
            self.page.locator('[data-testid="info-button"]').first.click()
        if not answer.value.ok:
            return ""
        text = self.page.locator(".node-help-content .markdown-content")
        text.wait_for()
        return text.inner_text()

    def prompt(self) -> dict[str, Any]:
        """The API-format prompt that the editor would queue, less its titles."""
        prompt = self.page.evaluate("async () => (await app.graphToPrompt()).output")
        for node in prompt.values():
            node.pop("_meta")
        return prompt

    def press_run(self) -> None:
        """Press the Run button."""
        self.page.locator(RUN).first.click()

    def run(self, timeout: float = 600.0) -> dict[str, Any]:
        """Press Run and wait for the end: the history entry. The test judges its status."""
        seen = len(self.server.get("/history"))
        self.press_run()
        deadline = time.monotonic() + timeout
        # Asked from here: the page's wait_for_function takes the promise of an async condition for a yes.
        while len(self.server.get("/history")) <= seen or self.server.running():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no result within {timeout:.0f} s; the editor shows {self.complaints()}")
            self.page.wait_for_timeout(200)
        self.page.wait_for_timeout(1000)  # the last pictures arrive after the history entry
        history = self.server.get("/history?max_items=1")
        return next(iter(history.values()))

    def complaints(self) -> list[str]:
        """Texts of the warnings, errors and dialogs now shown."""
        kinds = (".p-toast-message-warn", ".p-toast-message-error", ".p-dialog")
        return [text for kind in kinds for text in self.page.locator(f"{kind}:visible").all_inner_texts()]


@contextmanager
def front_end(browser: Browser, server: ComfyServer, pictures: Path) -> Iterator[FrontEnd]:
    """A fresh tab on the editor; requests to anywhere but the host are cut off."""

    def gate(route: Route) -> None:
        if route.request.url.startswith((server.url, "data:", "blob:")):
            route.continue_()
        else:
            route.abort()

    context = browser.new_context(viewport=SIZE)
    try:
        context.set_default_timeout(60_000)
        context.route("**/*", gate)
        yield FrontEnd(context.new_page(), server, pictures).open()
    finally:
        context.close()
