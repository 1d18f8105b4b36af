"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from host.comfy import ComfyServer

# Tests beside one another share the cores; where each took all of them, they would mostly wait for each other. Before
# torch is imported, and for the commands that tests start.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

ROOT = Path(__file__).resolve().parents[1]
PACK = "ComfyUI-DPE"

# Further files for the host's input folder: name -> bundled file. The pack itself puts its example clips there.
INPUTS: dict[str, str] = {}
# Name below the host's models folder -> bundled file.
MODELS: dict[str, str] = {}


def pytest_runtest_setup(item: pytest.Item) -> None:
    # Here and not in the fixture: skips from one place fold into one line of the report.
    if not os.environ.get("COMFYUI_PATH") and any(item.get_closest_marker(name) for name in ("host", "browser")):
        pytest.skip("COMFYUI_PATH names no ComfyUI checkout (see tests/host/README.md)")


@pytest.fixture(scope="session")
def comfy_host() -> tuple[Path, str]:
    """Checkout and interpreter of the host that the environment names."""
    return Path(os.environ["COMFYUI_PATH"]), os.environ.get("COMFYUI_PYTHON", sys.executable)


@pytest.fixture(scope="session")
def comfy(comfy_host: tuple[Path, str]) -> Iterator[ComfyServer]:
    """A running host that has this pack, the bundled clips as inputs and the bundled models."""
    if not (ROOT / "__init__.py").is_file():
        pytest.skip("the pack has no entry point yet")
    with ComfyServer(*comfy_host, packs={PACK: ROOT}, inputs=_bundled(INPUTS), models=_bundled(MODELS)) as server:
        yield server


def _bundled(files: dict[str, str]) -> dict[str, Path]:
    return {name: ROOT / file for name, file in files.items() if (ROOT / file).is_file()}
