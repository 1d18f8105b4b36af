"""The paper's graph, from clip to full frame, on a few frames of the bundled clips."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .comfy import ComfyError, ComfyInterrupted, ComfyServer, Prompt, note_lines
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
    sides = "source", "driver"
    prompt |= {f"{side} few": _length(graph[f"{side} few"], 200) for side in sides}
    # Loaded beforehand, however long that takes: what the interruption meets is then the pack's work.
    loaded = {name: prompt[name] for side in sides for name in (f"{side} video", f"{side} parts", f"{side} few")}
    for side in sides:
        loaded[f"{side} one"] = _length(graph[f"{side} few"], 1)
        loaded[f"{side} one"]["inputs"]["image"] = [f"{side} few", 0]
        loaded[f"{side} shown"] = graph["original"] | {
            "inputs": {"images": [f"{side} one", 0], "filename_prefix": "one"}
        }
    comfy.queue(loaded)
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


def test_a_graph_that_names_an_earlier_bundled_model_still_runs(comfy: ComfyServer, graph: Prompt):
    old = _with(graph["model"], model="bundled: rendered-heads-128.safetensors")
    prompt = _part(graph, *SOURCE, saved={"class_type": "PreviewImage", "inputs": {"images": ["same", 0]}})
    same = {"class_type": "DPE_RenderExpression", "inputs": {"model": ["model", 0], "latent": ["source code", 0]}}
    assert len(frames(comfy, comfy.queue(prompt | {"model": old, "same": same}), "saved")) == FRAMES


def _part(graph: Prompt, *names: str, **more: dict[str, Any]) -> Prompt:
    return {name: graph[name] for name in names} | more


def _with(node: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    return node | {"inputs": node["inputs"] | inputs}


SOURCE = ("model", "source video", "source parts", "source few", "source crop", "source code")
DRIVER = ("driver video", "driver parts", "driver few", "driver crop", "driver code")


def test_a_saved_motion_drives_like_its_clip(comfy: ComfyServer, graph: Prompt):
    saved = comfy.queue(
        _part(
            graph,
            "model",
            *DRIVER,
            keep={"class_type": "DPE_SaveMotion", "inputs": {"motion": ["driver code", 1], "filename_prefix": "dpe/m"}},
        )  # fmt: skip
    )
    assert "3 frames" in note_lines(saved["keep"])[0]
    (file,) = (comfy.base / "output" / "dpe").glob("m_*.safetensors")
    info = comfy.object_info()["DPE_LoadMotion"]["input"]["required"]["file"]
    name = f"dpe/{file.name} [output]"
    assert name in info[1]["options"]
    load = {"class_type": "DPE_LoadMotion", "inputs": {"file": name}}
    clip = _with(graph["edit"], pose=["driver code", 1], expression=["driver code", 1])
    from_file = _with(graph["edit"], pose=["motion", 0], expression=["motion", 0])
    first = comfy.queue(_part(graph, *SOURCE, *DRIVER, "expression", "saved expression", edit=clip))
    second = comfy.queue(_part(graph, *SOURCE, "expression", "saved expression", edit=from_file, motion=load))
    assert np.array_equal(frames(comfy, first, "saved expression"), frames(comfy, second, "saved expression"))


def test_strength_zero_is_the_unedited_person(comfy: ComfyServer, graph: Prompt):
    names = (*SOURCE, *DRIVER, "expression", "saved expression")
    zero = comfy.queue(_part(graph, *names, edit=_with(graph["edit"], expression_strength=0.0)))
    none = comfy.queue(
        _part(graph, *SOURCE, "saved expression", expression=_with(graph["expression"], latent=["source code", 0]))
    )
    assert np.array_equal(frames(comfy, zero, "saved expression"), frames(comfy, none, "saved expression"))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_runs(comfy: ComfyServer, graph: Prompt, precision: str):
    names = (*SOURCE, *DRIVER, "edit", "expression", "saved expression")
    full = frames(comfy, comfy.queue(_part(graph, *names)), "saved expression")
    half = comfy.queue(_part(graph, *names) | {"model": _with(graph["model"], precision=precision)})
    error = np.abs(frames(comfy, half, "saved expression").astype(float) - full)
    assert 0 < error.mean() < 8


def test_an_edit_that_is_not_shown_is_named(comfy: ComfyServer, graph: Prompt):
    def notes(*drivers: str) -> list[list[str]]:
        inputs = {name: value for name, value in graph["edit"]["inputs"].items() if name not in ("expression", "pose")}
        edit = graph["edit"] | {"inputs": inputs | {name: ["driver code", 1] for name in drivers}}
        names = (*SOURCE, *DRIVER, "expression", "pose", "saved expression", "saved pose")
        outputs = comfy.queue(_part(graph, *names) | {"edit": edit})
        return [outputs[name]["dpe_note"] for name in ("expression", "pose")]

    assert notes("pose") == [["The pose edit is not shown here: DPE Render Pose shows it"], []]
    assert notes("expression") == [[], ["The expression edit is not shown here: DPE Render Expression shows it"]]
    assert notes() == [[], []]
    both = [text for (text,) in notes("expression", "pose")]
    assert both[0].startswith("Only the expression edit is shown here. For the pose too, use DPE Portrait Editor")
    assert both[1].startswith("Only the pose edit is shown here. For the expression too, use DPE Portrait Editor")


def test_motions_in_linked_folders_are_offered(comfy: ComfyServer, tmp_path: Path):
    """And those of a folder that is gone are not."""

    def offered() -> list[str]:
        return comfy.object_info()["DPE_LoadMotion"]["input"]["required"]["file"][1]["options"]

    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "far.motion.safetensors").touch()
    link, name = comfy.base / "output" / "elsewhere", "elsewhere/far.motion.safetensors [output]"
    assert name not in offered()
    link.symlink_to(tmp_path / "disk", target_is_directory=True)
    try:
        assert name in offered()
        shutil.rmtree(tmp_path / "disk")
        assert name not in offered()
    finally:
        link.unlink()


def test_everything_but_the_mask_stays(comfy: ComfyServer, graph: Prompt):
    wide = _with(graph["source video"], file="dpe_full_frame.mp4")
    pasted = comfy.queue({**graph, "source video": wide})
    before, after = frames(comfy, pasted, "original"), frames(comfy, pasted, "saved paste")
    assert before.shape == after.shape
    changed = (before != after).any(-1)
    assert changed.any()
    assert not changed[:, :, :100].any()
    assert not changed[:, :, -100:].any()


def test_one_picture_goes_with_every_portrait(comfy: ComfyServer, graph: Prompt):
    """A photo that a clip animates: as if it had been repeated before it was cropped."""
    photo = graph | {"source few": _length(graph["source few"], 1)}
    again = {"class_type": "RepeatImageBatch", "inputs": {"image": ["source few", 0], "amount": FRAMES}}
    many = _with(graph["source crop"], image=["again", 0])
    paste = _with(graph["paste"], image=["again", 0], crop=["many crop", 1])
    first = frames(comfy, comfy.queue(photo), "saved paste")
    second = frames(comfy, comfy.queue(photo | {"again": again, "many crop": many, "paste": paste}), "saved paste")
    assert len(first) == FRAMES
    assert np.abs(first.astype(int) - second).max() <= 1
    assert not np.array_equal(first[0], first[1])


def test_transparency_stays(comfy: ComfyServer, graph: Prompt):
    """Of a picture with an alpha channel, which goes with every portrait."""
    prompt = graph | {
        "source few": _length(graph["source few"], 1),
        "clear": {"class_type": "SolidMask", "inputs": {"value": 0.25, "width": 64, "height": 64}},
        "rgba": {"class_type": "JoinImageWithAlpha", "inputs": {"image": ["source few", 0], "alpha": ["clear", 0]}},
        "parted": {"class_type": "SplitImageWithAlpha", "inputs": {"image": ["paste", 0]}},
        "grey": {"class_type": "MaskToImage", "inputs": {"mask": ["parted", 1]}},
        "saved grey": {"class_type": "SaveImage", "inputs": {"images": ["grey", 0], "filename_prefix": "dpe/alpha"}},
        "saved paste": _with(graph["saved paste"], images=["parted", 0]),
    }
    plain = frames(comfy, comfy.queue(prompt), "saved paste")
    outputs = comfy.queue(prompt | {"paste": _with(graph["paste"], image=["rgba", 0])})
    assert np.array_equal(frames(comfy, outputs, "saved paste"), plain)
    alpha = frames(comfy, outputs, "saved grey")
    assert len(alpha) == FRAMES
    assert np.abs(alpha.astype(int) - 64).max() <= 1


def test_masks_and_frames_of_another_size_fit_by_their_shape(comfy: ComfyServer, graph: Prompt):
    wide = graph | {"source video": _with(graph["source video"], file="dpe_full_frame.mp4")}

    def mask(width: int, height: int) -> dict[str, Any]:
        return {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": width, "height": height}}

    masked = wide | {"paste": _with(graph["paste"], mask=["mask", 0])}
    whole, half = (
        frames(comfy, comfy.queue(masked | {"mask": mask(*size)}), "saved paste") for size in ((640, 480), (320, 240))
    )
    assert np.abs(whole.astype(int) - half).max() <= 1
    with pytest.raises(ComfyError, match="of the shape of 640x480"):
        comfy.queue(masked | {"mask": mask(320, 200)})

    shown = {
        "placed": {"class_type": "MaskToImage", "inputs": {"mask": ["paste", 1]}},
        "saved placed": {"class_type": "SaveImage", "inputs": {"images": ["placed", 0], "filename_prefix": "dpe/at"}},
    }
    inputs = {"image": ["source few", 0], "upscale_method": "lanczos", "scale_by": 2.0}
    large = {"large": {"class_type": "ImageScaleBy", "inputs": inputs}}
    paste = _with(graph["paste"], image=["large", 0])
    before = frames(comfy, comfy.queue(wide | shown), "saved placed").astype(float)
    outputs = comfy.queue(wide | shown | large | {"paste": paste})
    after = frames(comfy, outputs, "saved placed").astype(float)
    assert frames(comfy, outputs, "saved paste").shape == (FRAMES, 960, 1280, 3)
    after = after.reshape(FRAMES, 480, 2, 640, 2, 3).mean((2, 4))
    assert np.abs(after - before).max() < 4  # of 255
    stretched = {"width": 640, "height": 640, "upscale_method": "bilinear", "crop": "disabled"}
    large = {"large": {"class_type": "ImageScale", "inputs": {"image": ["source few", 0], **stretched}}}
    with pytest.raises(ComfyError, match="Do not cut, pad or stretch"):
        comfy.queue(wide | large | {"paste": paste})


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [(640, 480, "expected square pictures"), (1, 1, "at least 16 px"), (4000, 3000, "DPE Crop Portrait")],
)
def test_pictures_that_are_no_portraits(comfy: ComfyServer, graph: Prompt, width: int, height: int, message: str):
    flat = {"class_type": "EmptyImage", "inputs": {"width": width, "height": height, "batch_size": 1, "color": 0}}
    code = _with(graph["source code"], image=["source few", 0])
    prompt = _part(graph, "model", "expression", "saved expression") | {"source few": flat, "source code": code}
    prompt["expression"] = _with(graph["expression"], latent=["source code", 0])
    with pytest.raises(ComfyError, match=message):
        comfy.queue(prompt)


def test_no_face_is_said(comfy: ComfyServer, graph: Prompt):
    flat = {"class_type": "EmptyImage", "inputs": {"width": 320, "height": 240, "batch_size": 2, "color": 8421504}}
    shown = {"class_type": "SaveImage", "inputs": {"images": ["source crop", 0], "filename_prefix": "x"}}
    with pytest.raises(ComfyError, match="No face was found in any of the 2 frames"):
        comfy.queue({"source few": flat, "source crop": graph["source crop"], "shown": shown})


def test_frames_without_a_face_drive_nobody_and_each_picture_may_show_somebody_else(comfy: ComfyServer, graph: Prompt):
    flat = {"class_type": "EmptyImage", "inputs": {"width": 256, "height": 256, "batch_size": 1, "color": 8421504}}
    both = {"class_type": "ImageBatch", "inputs": {"image1": ["driver few", 0], "image2": ["flat", 0]}}
    kept = {"class_type": "DPE_SaveMotion", "inputs": {"motion": ["driver code", 1], "filename_prefix": "dpe/gap"}}
    prompt = _part(graph, "model", *DRIVER) | {
        "flat": flat,
        "both": both,
        "driver crop": _with(graph["driver crop"], image=["both", 0]),
        "driver code": _with(graph["driver code"], crop=["driver crop", 1]),
        "kept": kept,
    }
    outputs = comfy.queue(prompt)
    missed = f"Face found in {FRAMES} of {FRAMES + 1} frames; 1 passed through untouched: {FRAMES}"
    assert note_lines(outputs["driver crop"]) == [missed]
    assert note_lines(outputs["driver code"]) == [f"No face at frames {FRAMES}: there the motion is interpolated"]
    people = _part(graph, "source video", "source parts", "source few") | {
        "both": both | {"inputs": {"image1": ["driver few", 0], "image2": ["source few", 0]}},
        "driver crop": _with(prompt["driver crop"], person="each"),
    }
    each = comfy.queue(prompt | people)
    assert note_lines(each["driver crop"]) == [f"Face found in all {2 * FRAMES} frames"]


def test_lengths_that_do_not_meet_are_explained(comfy: ComfyServer, graph: Prompt):
    short = _length(graph["driver few"], 2)
    prompt = graph | {"driver few": short, "edit": _with(graph["edit"], length="trim")}
    with pytest.raises(ComfyError, match="3 frames, 2 portraits"):
        comfy.queue(prompt)
    held = graph | {"driver few": short, "edit": _with(graph["edit"], length="hold")}
    assert len(frames(comfy, comfy.queue(held), "saved paste")) == FRAMES


def test_a_driver_of_another_rate_plays_at_its_own_speed(comfy: ComfyServer, graph: Prompt):
    """A still at 30 frames a second by a driver at 15: each of its frames is shown twice as long."""
    names = (*SOURCE, *DRIVER, "expression", "saved expression")
    still = _part(graph, *names) | {
        "source few": _length(graph["source few"], 1),
        "source code": _with(graph["source code"], fps=30.0),
        "driver code": _with(graph["driver code"], fps=15.0),
    }
    by_frames = comfy.queue(still | {"edit": _with(graph["edit"], length="hold")})
    by_seconds = comfy.queue(still | {"edit": _with(graph["edit"], length="hold", timing="seconds")})
    short, long = (frames(comfy, outputs, "saved expression") for outputs in (by_frames, by_seconds))
    assert (len(short), len(long)) == (FRAMES, 2 * FRAMES)
    assert all(np.abs(short[n].astype(int) - long[2 * n]).max() <= 1 for n in range(FRAMES))
    assert not np.array_equal(long[0], long[1])
    clip = _part(graph, *names) | {"source code": still["source code"], "driver code": still["driver code"]}
    told = comfy.queue(clip | {"edit": _with(graph["edit"], length="hold")})
    assert any("Set timing to seconds" in line for line in note_lines(told["edit"]))
    unknown = clip | {"driver code": graph["driver code"]}
    told = comfy.queue(unknown | {"edit": _with(graph["edit"], length="hold", timing="seconds")})
    assert any("The expression driver has no frame rate" in line for line in note_lines(told["edit"]))


def test_crop_portrait_shows_and_chooses_people(comfy: ComfyServer, graph: Prompt):
    """The overlay, a mask, boxes and a match, as other nodes give them."""
    wide = _with(graph["source video"], file="dpe_full_frame.mp4")
    names = ("source parts", "source few", "driver video", "driver parts", "driver few", "driver crop")
    base = _part(graph, *names) | {"source video": wide}
    shown = {"class_type": "SaveImage", "inputs": {"images": ["source crop", 2], "filename_prefix": "dpe/overlay"}}
    mask = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 48}}
    crop = _with(graph["source crop"], person="mask", mask=["mask", 0], match=["driver crop", 0], overlay_all=True)
    outputs = comfy.queue({**base, "mask": mask, "source crop": crop, "shown": shown})
    assert frames(comfy, outputs, "shown").shape == (FRAMES, 480, 640, 3)
    assert any("matches the heads" in line for line in note_lines(outputs["source crop"]))
    one = comfy.queue({**base, "source crop": graph["source crop"], "shown": shown})
    assert frames(comfy, one, "shown").shape == (1, 480, 640, 3)
    empty = mask | {"inputs": mask["inputs"] | {"value": 0.0}}
    with pytest.raises(ComfyError, match="no face lies under the mask"):
        comfy.queue({**base, "mask": empty, "source crop": crop, "shown": shown})


def test_paste_back_explains_what_it_misses_and_sees_a_pose_edit(comfy: ComfyServer, graph: Prompt):
    """The bundled driver turns the head, which no mask hides; and the parsing weights are not there."""
    outputs = comfy.queue(graph)
    assert "the neck may no longer fit" in note_lines(outputs["paste"])[0]
    expression = graph | {"paste": _with(graph["paste"], portrait=["expression", 0])}
    # Said nonetheless: what the front end shows of an earlier run has to go.
    assert comfy.queue(expression)["paste"] == {"dpe_note": []}
    with pytest.raises(ComfyError, match=r"79999_iter\.pth.*face_parsing"):
        comfy.queue(graph | {"paste": _with(graph["paste"], mask_shape="parsing")})


def test_paste_back_takes_every_option(comfy: ComfyServer, graph: Prompt):
    plain = frames(comfy, comfy.queue(graph), "saved paste")
    for choice in ({"colour_match": "histogram"}, {"detail": 0.0, "mask_smoothing": 0.0}, {"mask_shape": "crop"}):
        other = frames(comfy, comfy.queue(graph | {"paste": _with(graph["paste"], **choice)}), "saved paste")
        assert other.shape == plain.shape
        assert not np.array_equal(other, plain)
