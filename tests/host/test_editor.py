"""A face set by hand, in a real host: what the sliders change, what stays, and what is not done twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .comfy import ComfyError, ComfyServer, Prompt, note_lines
from .pictures import read_pictures

pytestmark = pytest.mark.host

SLIDERS = ("yaw", "pitch", "roll", "mouth_open", "smile", "pucker", "lip_raise", "blink", "brows")


def graph(**settings: float) -> Prompt:
    """The example portrait with a face set by hand."""
    node: dict[str, Any] = {"model": ["model", 0], "latent": ["code", 0], **dict.fromkeys(SLIDERS, 0.0), **settings}
    return {
        "model": {
            "class_type": "DPE_LoadDPEModel",
            "inputs": {
                "model": "bundled: rendered-heads-256.safetensors",
                "precision": "fp32",
                "roles": "from the file",
            },
        },
        "picture": {"class_type": "LoadImage", "inputs": {"image": "dpe_source.png"}},
        "code": {"class_type": "DPE_EncodeMotion", "inputs": {"model": ["model", 0], "image": ["picture", 0]}},
        "editor": {"class_type": "DPE_PortraitEditor", "inputs": node},
        "original": {"class_type": "SaveImage", "inputs": {"images": ["picture", 0], "filename_prefix": "dpe/before"}},
        "saved": {"class_type": "SaveImage", "inputs": {"images": ["editor", 0], "filename_prefix": "dpe/editor"}},
    }


def pictures(comfy: ComfyServer, outputs: dict[str, Any], node: str = "saved") -> np.ndarray:
    return np.concatenate([read_pictures(file) for file in comfy.files({node: outputs[node]})]).astype(float)


@pytest.fixture(scope="module")
def untouched(comfy: ComfyServer) -> dict[str, Any]:
    return comfy.queue(graph())


def test_without_a_setting_the_portrait_is_as_it_came(comfy: ComfyServer, untouched: dict[str, Any]):
    assert np.array_equal(pictures(comfy, untouched), pictures(comfy, untouched, "original"))
    assert note_lines(untouched["editor"]) == ["No slider is moved: the portraits are as they came"]


def test_the_node_shows_what_it_made(comfy: ComfyServer):
    outputs = comfy.queue(graph(smile=0.8))
    assert np.array_equal(pictures(comfy, outputs, "editor"), pictures(comfy, outputs))
    assert outputs["editor"]["dpe_note"] == []


@pytest.mark.parametrize("name", SLIDERS)
def test_every_slider_moves_the_face(comfy: ComfyServer, untouched: dict[str, Any], name: str):
    """An expression edit leaves the frame's edge alone; a pose edit moves the head's outline."""
    pose = name in SLIDERS[:3]
    before, after = pictures(comfy, untouched), pictures(comfy, comfy.queue(graph(**{name: 8.0 if pose else 0.9})))
    change = np.abs(after - before).mean((0, 3))
    assert change[96:224, 64:192].mean() > 1.5
    edge = np.concatenate([change[:, :24], change[:, -24:]], 1).mean()
    assert edge < (6.0 if pose else 1.5)


def test_settings_come_on_top_of_a_driver(comfy: ComfyServer):
    """Both edits of a driver in one go, and the sliders after them."""
    edit = {
        "class_type": "DPE_EditLatent",
        "inputs": {
            "latent": ["code", 0],
            "expression": ["other", 1],
            "pose": ["other", 1],
            "expression_strength": 1.0,
            "pose_strength": 1.0,
            "mode": "absolute",
            "reference_frame": 0,
            "length": "hold",
        },
    }
    more = {
        "video": {"class_type": "LoadVideo", "inputs": {"file": "dpe_driving.mp4"}},
        "parts": {"class_type": "GetVideoComponents", "inputs": {"video": ["video", 0]}},
        "few": {"class_type": "ImageFromBatch", "inputs": {"image": ["parts", 0], "batch_index": 20, "length": 2}},
        "other": {"class_type": "DPE_EncodeMotion", "inputs": {"model": ["model", 0], "image": ["few", 0]}},
        "edit": edit,
    }

    def driven(**settings: float) -> np.ndarray:
        prompt = graph(**settings) | more
        prompt["editor"]["inputs"]["latent"] = ["edit", 0]
        return pictures(comfy, comfy.queue(prompt))

    alone, smiling = driven(), driven(smile=0.8)
    assert len(alone) == len(smiling) == 2
    assert np.abs(alone[0] - alone[1]).mean() > 0.3
    assert np.abs(alone - smiling).mean() > 0.3


def test_what_is_passed_on_renders_the_same(comfy: ComfyServer):
    """One editor after another is their sum, and a render node shows the edits that they leave pending."""
    prompt = graph(smile=0.5)
    prompt["second"] = prompt["editor"] | {"inputs": prompt["editor"]["inputs"] | {"latent": ["editor", 1]}}
    prompt["render"] = {
        "class_type": "DPE_RenderExpression",
        "inputs": {"model": ["model", 0], "latent": ["second", 1]},
    }
    prompt["saved render"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["render", 0], "filename_prefix": "dpe/r"},
    }
    outputs = comfy.queue(prompt)
    expected = pictures(comfy, comfy.queue(graph(smile=1.0)))
    assert np.array_equal(pictures(comfy, outputs, "second"), expected)
    assert np.array_equal(pictures(comfy, outputs, "saved render"), expected)


def test_a_moved_slider_encodes_nothing_again(comfy: ComfyServer):
    comfy.queue(graph(smile=0.31))
    job = comfy.submit(graph(smile=0.32))
    comfy.wait(job)
    events = dict(comfy.get(f"/history/{job}")[job]["status"]["messages"])
    assert set(events["execution_cached"]["nodes"]) >= {"model", "picture", "code"}


def test_a_setting_out_of_range_is_refused(comfy: ComfyServer):
    prompt = graph(smile=7.0)
    del prompt["original"]  # which would run without the others
    with pytest.raises(ComfyError, match=r"7\.0 bigger than max of 1\.5: smile"):
        comfy.queue(prompt)
