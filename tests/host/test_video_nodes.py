"""Whole videos through one node, and motions smoothed and drawn, on a few frames of the bundled clips."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from .comfy import ComfyError, ComfyInterrupted, ComfyServer, Prompt, note_lines
from .pictures import read_pictures

pytestmark = pytest.mark.host

ASSETS = Path(__file__).resolve().parents[2] / "dpe_model" / "assets"
FRAMES = 4


def read(path: Path, limit: int | None = None) -> np.ndarray:
    """The frames of a video, RGB [N, H, W, 3]."""
    with av.open(str(path)) as container:
        pictures = [f.to_ndarray(format="rgb24") for f, _ in zip(container.decode(video=0), range(limit or 10**6))]  # noqa: B905
    return np.stack(pictures)


def write(path: Path, pictures: np.ndarray, rate: int = 25, sound: bool = False) -> Path:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate, options={"crf": "8"})
        video.height, video.width = pictures.shape[1:3]
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=44100) if sound else None
        for picture in pictures:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None:
            tone = np.sin(np.arange(44100 * len(pictures) // rate) / 10).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, 0
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


@pytest.fixture(scope="module")
def clips(comfy: ComfyServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Short clips in the host's input folder: name -> frames."""
    folder = tmp_path_factory.mktemp("clips")
    wide, driver = read(ASSETS / "full_frame.mp4", FRAMES), read(ASSETS / "driving.mp4", 7)
    comfy.upload(write(folder / "wide.mp4", wide, sound=True))
    comfy.upload(write(folder / "driver.mp4", driver, rate=30))
    faceless = np.full_like(driver[:1], 128)
    comfy.upload(write(folder / "gap.mp4", np.concatenate([driver[:2], faceless, driver[3:]]), rate=30))
    comfy.upload(write(folder / "long.mp4", np.concatenate([wide] * 60)))
    return {"wide": wide, "driver": driver}


@pytest.fixture(scope="module")
def node(comfy: ComfyServer):
    known = comfy.object_info()

    def make(kind: str, **inputs: Any) -> dict[str, Any]:
        required = known[kind]["input"].get("required", {})
        defaults = {name: spec[1]["default"] for name, spec in required.items() if "default" in (spec[1:] or [{}])[0]}
        return {"class_type": kind, "inputs": defaults | inputs}

    return make


@pytest.fixture
def graph(clips, node) -> Prompt:
    return {
        "model": node("DPE_LoadDPEModel"),
        "video": node("LoadVideo", file="wide.mp4"),
        "driver": node("LoadVideo", file="driver.mp4"),
        "drive": node("DPE_DriveVideo", model=["model", 0], video=["video", 0], driver_video=["driver", 0]),
        "save": node("SaveVideo", video=["drive", 0], filename_prefix="dpe/driven"),
    }


def changed(graph: Prompt, **inputs: Any) -> Prompt:
    drive = {**graph["drive"]["inputs"], **inputs}
    drive = {name: value for name, value in drive.items() if value is not None}
    return {**graph, "drive": {"class_type": "DPE_DriveVideo", "inputs": drive}}


def saved(comfy: ComfyServer, outputs: dict[str, Any]) -> Path:
    (file,) = comfy.files({"save": outputs["save"]})
    return file


def has_sound(path: Path) -> bool:
    with av.open(str(path)) as container:
        return bool(container.streams.audio)


def test_a_video_is_edited_and_keeps_all_else(comfy: ComfyServer, graph: Prompt, clips: dict[str, np.ndarray]):
    outputs = comfy.queue(graph)
    file = saved(comfy, outputs)
    after = read(file).astype(int)
    before = clips["wide"].astype(int)
    assert after.shape == before.shape
    assert has_sound(file)
    notes = note_lines(outputs["drive"])
    assert notes[:2] == [f"{FRAMES} frames, sound kept", f"Face found in all {FRAMES} frames"]
    assert notes[2].startswith("driver_video is square, so taken for portraits.")
    error = np.abs(after - before).mean(-1)
    assert error[:, :, :100].mean() < 3
    assert error[:, 120:320, 220:420].max() > 3 * error[:, :, :100].max()
    assert not [p for p in (comfy.base / "temp").glob("dpe_*") if p.is_dir()], "something is left in the temp folder"


def test_pictures_and_sound_in_memory_are_edited_too(comfy: ComfyServer, graph: Prompt, node):
    parts = {
        "parts": node("GetVideoComponents", video=["video", 0]),
        "made": node("CreateVideo", images=["parts", 0], audio=["parts", 1], fps=25.0),
    }
    file = saved(comfy, comfy.queue({**changed(graph, video=["made", 0]), **parts}))
    assert len(read(file)) == FRAMES
    assert has_sound(file)


def test_an_odd_size_becomes_even_and_is_said(comfy: ComfyServer, graph: Prompt, node):
    parts = {
        "parts": node("GetVideoComponents", video=["video", 0]),
        "odd": node("ImageCrop", image=["parts", 0], width=639, height=479, x=0, y=0),
        "made": node("CreateVideo", images=["odd", 0], fps=25.0),
    }
    outputs = comfy.queue({**changed(graph, video=["made", 0]), **parts})
    assert read(saved(comfy, outputs)).shape[1:3] == (480, 640)
    assert any(line.startswith("video: 639x479 became 640x480") for line in note_lines(outputs["drive"]))


def test_frames_of_the_driver_without_a_face_are_named(comfy: ComfyServer, graph: Prompt, node):
    gap = {"driver": node("LoadVideo", file="gap.mp4")}
    outputs = comfy.queue({**changed(graph, driver_crop="face"), **gap})
    said = "driver_video: no face at frames 2: there the motion is interpolated"
    assert said in note_lines(outputs["drive"])
    assert len(read(saved(comfy, outputs))) == FRAMES


def test_the_portrait_alone_by_a_motion(comfy: ComfyServer, graph: Prompt, node):
    code = {
        "parts": node("GetVideoComponents", video=["driver", 0]),
        "code": node("DPE_EncodeMotion", model=["model", 0], image=["parts", 0], fps=["parts", 2]),
    }
    prompt = {**graph, **code}
    driven = changed(prompt, driver_video=None, driver_motion=["code", 1], edit="pose", result="portrait")
    file = saved(comfy, comfy.queue(driven))
    pictures = read(file)
    assert pictures.shape[0] == FRAMES
    assert pictures.shape[1] == pictures.shape[2] <= 256
    assert pictures.std() > 2


def test_the_person_under_a_mask_framed_as_the_driver_is(comfy: ComfyServer, graph: Prompt, node):
    mask = {"mask": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 48}}}
    portrait = changed(graph, result="portrait")
    chosen = changed(portrait, person="mask", mask=["mask", 0], match_driver=True)
    plain, matched = (read(saved(comfy, comfy.queue(g))) for g in (portrait, chosen | mask))
    assert matched.shape == plain.shape
    assert np.abs(matched.astype(int) - plain).mean() > 1, "the crop should have another scale"
    idle = comfy.queue(changed(portrait, mask=["mask", 0], match_driver=True, driver_crop="face") | mask)
    assert "The mask is not used" in note_lines(idle["drive"])[2]
    assert "match_driver changes nothing" in note_lines(idle["drive"])[3]
    empty = {"mask": {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 64, "height": 48}}}
    with pytest.raises(ComfyError, match="no face lies under the mask"):
        comfy.queue(chosen | empty)


def test_a_face_set_by_hand_goes_through_a_video(comfy: ComfyServer, graph: Prompt, node):
    """Tried on a picture, then set in a whole video: without a driver, and on top of one."""
    still = {
        "picture": node("LoadImage", image="dpe_source.png"),
        "code": node("DPE_EncodeMotion", model=["model", 0], image=["picture", 0]),
        "editor": node("DPE_PortraitEditor", model=["model", 0], latent=["code", 0], mouth_open=0.8),
    }
    by_hand = changed(graph, driver_video=None, settings=["editor", 2], result="portrait") | still
    alone = read(saved(comfy, comfy.queue(by_hand))).astype(int)
    assert len(alone) == FRAMES
    driven = changed(graph, settings=["editor", 2], result="portrait") | still
    both = read(saved(comfy, comfy.queue(driven))).astype(int)
    plain = read(saved(comfy, comfy.queue(changed(graph, result="portrait")))).astype(int)

    def dark(pictures: np.ndarray) -> float:
        """Share of the lower face: mouths that the bundled model opens are black inside."""
        return float((pictures[:, 170:215, 95:155].max(-1) < 60).mean())

    assert dark(alone) > 0.08 > 0.02 > dark(plain)
    assert np.abs(both - plain).mean() > 1
    assert np.abs(both - alone).mean() > 1
    rest = {**still, "editor": node("DPE_PortraitEditor", model=["model", 0], latent=["code", 0])}
    with pytest.raises(ComfyError, match="with a slider that is not 0"):
        comfy.queue(by_hand | rest)


def test_it_is_said_where_nobody_or_two_drive(comfy: ComfyServer, graph: Prompt, node):
    with pytest.raises(ComfyError, match="connect driver_video or driver_motion"):
        comfy.queue(changed(graph, driver_video=None))
    code = {
        "parts": node("GetVideoComponents", video=["driver", 0]),
        "code": node("DPE_EncodeMotion", model=["model", 0], image=["parts", 0]),
    }
    with pytest.raises(ComfyError, match="Two drivers for one edit"):
        comfy.queue({**changed(graph, driver_motion=["code", 1]), **code})


def test_an_interrupt_leaves_no_file(comfy: ComfyServer, graph: Prompt, node):
    long = {**graph, "video": node("LoadVideo", file="long.mp4")}
    job = comfy.submit(long)
    timer = threading.Timer(6.0, comfy.interrupt)
    timer.start()
    begun = time.monotonic()
    with pytest.raises(ComfyInterrupted, match="DPE_DriveVideo"):
        comfy.wait(job, timeout=90)
    timer.join()
    assert time.monotonic() - begun < 30
    assert not [p for p in (comfy.base / "temp").glob("dpe_*") if p.is_dir()]


def test_a_motion_smoothed_and_drawn(comfy: ComfyServer, clips, node):
    prompt = {
        "model": node("DPE_LoadDPEModel"),
        "driver": node("LoadVideo", file="driver.mp4"),
        "parts": node("GetVideoComponents", video=["driver", 0]),
        "code": node("DPE_EncodeMotion", model=["model", 0], image=["parts", 0], fps=["parts", 2]),
        "smooth": node("DPE_SmoothMotion", motion=["code", 1], strength=0.05, unit="seconds"),
        "plot": node("DPE_PlotMotion", motion=["code", 1], compare=["smooth", 0], width=640, height=480),
        "same": node("DPE_PlotMotion", motion=["code", 1], compare=["code", 1], width=640, height=480),
        "save": node("SaveImage", images=["plot", 0]),
        "save same": node("SaveImage", images=["same", 0]),
    }
    outputs = comfy.queue(prompt)
    shown, same = (read_pictures(comfy.files({n: outputs[n]})[0]) for n in ("save", "save same"))
    assert shown.shape == (1, 480, 640, 3)
    assert shown.std() > 10
    assert not np.array_equal(shown, same)
    prompt["code"]["inputs"].pop("fps")
    with pytest.raises(ComfyError, match="frame rate is unknown"):
        comfy.queue(prompt)


def test_a_long_driver_is_measured_where_it_is_looked_at(comfy: ComfyServer, clips, node):
    """Too long for its features to be kept, it is measured under the node that renders, with the same result."""
    prompt = {
        "model": node("DPE_LoadDPEModel"),
        "driver": node("LoadVideo", file="driver.mp4"),
        "parts": node("GetVideoComponents", video=["driver", 0]),
        "again": node("RepeatImageBatch", image=["parts", 0], amount=200 // FRAMES),
        "still": node("ImageFromBatch", image=["parts", 0], batch_index=0, length=1),
        "person": node("DPE_EncodeMotion", model=["model", 0], image=["still", 0]),
    }

    def driven(images: str) -> np.ndarray:
        graph = prompt | {
            "code": node("DPE_EncodeMotion", model=["model", 0], image=[images, 0]),
            "edit": node("DPE_EditLatent", latent=["person", 0], expression=["code", 1]),
            "render": node("DPE_RenderExpression", model=["model", 0], latent=["edit", 0]),
            "few": node("ImageFromBatch", image=["render", 0], batch_index=0, length=FRAMES),
            "save": node("SaveImage", images=["few", 0]),
        }
        return np.concatenate([read_pictures(file) for file in comfy.files({"save": comfy.queue(graph)["save"]})])

    assert np.array_equal(driven("again"), driven("parts"))
