"""A browser for the whole session, a tab for each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from host.comfy import ComfyServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from .frontend import FrontEnd

OpenFrontEnd = Callable[[ComfyServer], "FrontEnd"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    from .frontend import launch

    with sync_api.sync_playwright() as playwright:
        chromium = launch(playwright)
        yield chromium
        chromium.close()


@pytest.fixture
def open_front_end(browser: Browser, tmp_path: Path) -> Iterator[OpenFrontEnd]:
    """Opens the editor of a host; screenshots go to the folder DPE_SCREENSHOTS, else to the test's own."""
    from .frontend import front_end

    pictures = Path(os.environ.get("DPE_SCREENSHOTS") or tmp_path)
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(front_end(browser, server, pictures))


@pytest.fixture
def editor(open_front_end: OpenFrontEnd, comfy: ComfyServer) -> FrontEnd:
    """The editor of the host that has this pack."""
    return open_front_end(comfy)
