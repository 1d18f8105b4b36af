"""The harness itself, with stock nodes and a throw-away pack: a failure here is not the pack's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from .comfy import ComfyError, ComfyInterrupted, ComfyServer
from .pictures import read_pictures

pytestmark = pytest.mark.host

PROBE = """
import time

from comfy.utils import ProgressBar
from comfy_api.latest import ComfyExtension, io

WEB_DIRECTORY = "./js"


class Probe(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [io.Image.Input("image"), io.Combo.Input("act", options=["fail", "sleep"])]
        return io.Schema(node_id="TEST_Probe", inputs=inputs, outputs=[io.Image.Output()])

    @classmethod
    def execute(cls, image, act):
        if act == "fail":
            raise ValueError("the probe fails on purpose")
        bar = ProgressBar(600)
        for _ in range(600):
            time.sleep(0.05)
            bar.update(1)
        return io.NodeOutput(image)


class Extension(ComfyExtension):
    async def get_node_list(self):
        return [Probe]


async def comfy_entrypoint():
    return Extension()
"""


@pytest.fixture(scope="module")
def server(comfy_host: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    pack = tmp_path_factory.mktemp("pack")
    files = {
        "__init__.py": PROBE,
        "js/probe.js": "export {};",
        "js/docs/TEST_Probe.md": "# Probe",
        "locales/en/nodeDefs.json": '{"TEST_Probe": {"display_name": "Probe"}}',
        "workflows/probe.json": '{"nodes": [], "links": []}',
    }
    for name, text in files.items():
        (pack / name).parent.mkdir(parents=True, exist_ok=True)
        (pack / name).write_text(text)
    clip = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(clip)
    with ComfyServer(*comfy_host, packs={"Probe": pack}, inputs={"clip.mp4": clip}) as server:
        yield server


def write_clip(path: Path) -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=Fraction(25))
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for shift in range(5):
            picture = np.repeat(np.tile(np.roll(ramp, shift), (64, 1))[..., None], 3, axis=2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def empty_image(act: str = "") -> dict:
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 16, "batch_size": 2, "color": 0xFF0000}}
    }
    image = ["1", 0]
    if act:
        prompt["2"] = {"class_type": "TEST_Probe", "inputs": {"image": image, "act": act}}
        image = ["2", 0]
    prompt["3"] = {"class_type": "SaveImage", "inputs": {"images": image, "filename_prefix": "sub/red"}}
    return prompt


def test_a_picture_comes_back(server: ComfyServer):
    outputs = server.queue(empty_image())
    files = server.files(outputs)
    assert [file.parent.name for file in files] == ["sub", "sub"]
    assert np.array_equal(read_pictures(files[0])[0], np.full((16, 32, 3), (255, 0, 0)))


def test_a_video_goes_through(server: ComfyServer):
    prompt = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}},
        "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
        "3": {"class_type": "CreateVideo", "inputs": {"images": ["2", 0], "fps": ["2", 2]}},
        "4": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["3", 0], "filename_prefix": "clip", "format": "auto", "codec": "auto"},
        },
    }
    (file,) = server.files(server.queue(prompt))
    frames = read_pictures(file)
    assert frames.shape == (5, 64, 64, 3)
    assert frames.std() > 50


def test_an_upload_can_be_loaded(server: ComfyServer, tmp_path: Path):
    source = server.files(server.queue(empty_image()))[0]
    upload = tmp_path / "mine.png"
    upload.write_bytes(source.read_bytes())
    name = server.upload(upload)
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    (preview,) = server.files(server.queue(prompt))
    assert read_pictures(preview).shape == (1, 16, 32, 3)


def test_a_node_that_fails_is_named_with_its_message(server: ComfyServer):
    with pytest.raises(ComfyError, match=r"node 2 \(TEST_Probe\): ValueError: the probe fails on purpose"):
        server.queue(empty_image("fail"))


def test_a_prompt_that_is_not_valid_is_refused_with_the_reason(server: ComfyServer):
    prompt = empty_image()
    prompt["1"]["inputs"]["width"] = -1
    del prompt["3"]["inputs"]["filename_prefix"]
    with pytest.raises(ComfyError) as caught:
        server.submit(prompt)
    assert "filename_prefix" in str(caught.value)
    assert "smaller than min" in str(caught.value)


def test_an_interrupt_stops_a_running_prompt(server: ComfyServer):
    job = server.submit(empty_image("sleep"))
    deadline = time.monotonic() + 10
    while not server.running() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    began = time.monotonic()
    server.interrupt()
    with pytest.raises(ComfyInterrupted, match="TEST_Probe"):
        server.wait(job, timeout=30)
    assert time.monotonic() - began < 5


def test_a_start_that_fails_shows_the_log(comfy_host: tuple[Path, str], tmp_path: Path):
    (tmp_path / "main.py").write_text("raise SystemExit('no such luck')")
    with pytest.raises(ComfyError, match="no such luck"), ComfyServer(tmp_path, comfy_host[1]):
        pass


@pytest.mark.parametrize(
    ("path", "start"),
    [
        ("/extensions/Probe/probe.js", b"export"),
        ("/extensions/Probe/docs/TEST_Probe.md", b"# Probe"),
        ("/api/workflow_templates/Probe/probe.json", b'{"nodes"'),
        ("/i18n", b'{"en"'),
    ],
)
def test_a_linked_pack_is_served(server: ComfyServer, path: str, start: bytes):
    status, _, body = server.open(path)
    assert status == 200
    assert body.startswith(start)
