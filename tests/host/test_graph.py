"""The paper's graph, from clip to full frame, on a few frames of the bundled clips."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from .comfy import ComfyError, ComfyInterrupted, ComfyServer, Prompt
from .pictures import read_pictures

pytestmark = pytest.mark.host

FRAMES = 3


@pytest.fixture(scope="module")
def known(comfy: ComfyServer) -> dict[str, dict[str, Any]]:
    return comfy.object_info()


@pytest.fixture(scope="module")
def graph(known: dict[str, dict[str, Any]]) -> Prompt:
    """Source and driver cropped, encoded, edited, rendered, pasted back; every widget at its default."""

    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        specs = known[kind]["input"]
        required = specs.get("required", {})
        defaults = {name: spec[1]["default"] for name, spec in required.items() if "default" in (spec[1:] or [{}])[0]}
        return {"class_type": kind, "inputs": defaults | inputs}

    def clip(prefix: str, file: str) -> Prompt:
        return {
            f"{prefix}video": node("LoadVideo", file=file),
            f"{prefix}parts": node("GetVideoComponents", video=[f"{prefix}video", 0]),
            f"{prefix}few": node("ImageFromBatch", image=[f"{prefix}parts", 0], batch_index=0, length=FRAMES),
            f"{prefix}crop": node("DPE_CropPortrait", image=[f"{prefix}few", 0]),
            f"{prefix}code": node("DPE_EncodeMotion", model=["model", 0], image=[f"{prefix}crop", 0]),
        }

    return {
        "model": node("DPE_LoadDPEModel"),
        **clip("source ", "dpe_source.mp4"),
        **clip("driver ", "dpe_driving.mp4"),
        "edit": node(
            "DPE_EditLatent", latent=["source code", 0], expression=["driver code", 1], pose=["driver code", 1]
        ),
        "expression": node("DPE_RenderExpression", model=["model", 0], latent=["edit", 0]),
        "pose": node("DPE_RenderPose", model=["model", 0], latent=["edit", 0]),
        "paste": node("DPE_PasteBack", image=["source few", 0], portrait=["pose", 0], crop=["source crop", 1]),
        "original": node("SaveImage", images=["source few", 0]),
        "saved expression": node("SaveImage", images=["expression", 0]),
        "saved pose": node("SaveImage", images=["pose", 0]),
        "saved paste": node("SaveImage", images=["paste", 0]),
    }


def frames(comfy: ComfyServer, outputs: dict[str, Any], node: str) -> np.ndarray:
    return np.concatenate([read_pictures(file) for file in comfy.files({node: outputs[node]})])


def test_the_paper_s_graph_runs(comfy: ComfyServer, graph: Prompt):
    outputs = comfy.queue(graph)
    shown = {
        name: frames(comfy, outputs, name) for name in ("original", "saved expression", "saved pose", "saved paste")
    }
    assert all(len(pictures) == FRAMES for pictures in shown.values())
    assert shown["saved paste"].shape == shown["original"].shape
    assert all(pictures.std() > 2 for pictures in shown.values())
    assert not np.array_equal(shown["saved expression"], shown["saved pose"])


def test_running_again_is_free(comfy: ComfyServer, graph: Prompt):
    """Nothing but what changed is executed: fingerprints are stable."""
    job = comfy.submit(graph)
    comfy.wait(job)
    again = comfy.submit(graph)
    comfy.wait(again)
    events = dict(comfy.get(f"/history/{again}")[again]["status"]["messages"])
    assert set(events["execution_cached"]["nodes"]) >= set(graph) - {"original"}


def test_an_interrupt_is_obeyed_at_once(comfy: ComfyServer, graph: Prompt):
    prompt = graph | {"edit": graph["edit"] | {"inputs": graph["edit"]["inputs"] | {"expression_strength": 1.37}}}
    prompt |= {f"{side} few": _length(graph[f"{side} few"], 200) for side in ("source", "driver")}
    job = comfy.submit(prompt)
    timer = threading.Timer(4.0, comfy.interrupt)
    timer.start()
    with pytest.raises(ComfyInterrupted, match="DPE_"):
        comfy.wait(job, timeout=60)
    timer.join()
    assert comfy.queue({k: graph[k] for k in ("source video", "source parts", "source few", "original")})


def _length(node: dict[str, Any], length: int) -> dict[str, Any]:
    return node | {"inputs": node["inputs"] | {"length": length}}


def test_a_missing_model_is_named(comfy: ComfyServer, graph: Prompt):
    prompt = graph | {
        "model": {"class_type": "DPE_LoadDPEModel", "inputs": graph["model"]["inputs"] | {"model": "no.pt"}}
    }
    with pytest.raises(ComfyError, match=r"no\.pt"):
        comfy.queue(prompt)
