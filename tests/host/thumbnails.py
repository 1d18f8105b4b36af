"""The pictures beside the shipped workflows and in the README, made anew: `python -m host.thumbnails`, from `tests`.

With names of workflows only theirs are made. Every workflow is run in a ComfyUI (`COMFYUI_PATH`, `COMFYUI_PYTHON`); its
thumbnail shows what it loads and saves. The gallery needs no host. To be done whenever the bundled model changes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .comfy import ComfyServer
from .pictures import read_pictures
from .workflow import to_api

ROOT = Path(__file__).resolve().parents[2]
FOLDER, ASSETS = ROOT / "workflows", ROOT / "dpe_model/assets"
FRAME = 32
"""The frame shown: the driver's mouth is open, her head turned."""
HEIGHT, GAP, QUALITY = 240, 8, 88
GALLERY_FRAMES = (20, 66)
GALLERY_PART = (slice(70, 432), slice(170, 470))
"""Rows and columns of a full frame."""
GALLERY_ZOOM = 2
SETTINGS = ("smile=0.9", "mouth_open=0.5", "blink=1", "brows=0.9", "yaw=12", "pitch=-10", "roll=10")
COLUMNS, CAPTION = 4, 24


def main() -> None:
    """Make all of them, or those of the workflows that are named."""
    chosen = set(sys.argv[1:])
    host = Path(os.environ["COMFYUI_PATH"]), os.environ.get("COMFYUI_PYTHON", sys.executable)
    with ComfyServer(*host, packs={"ComfyUI-DPE": ROOT}) as server:
        info = server.object_info()
        for path in sorted(FOLDER.glob("*.json")):
            if chosen and path.stem not in chosen:
                continue
            workflow = json.loads(path.read_text("utf-8"))
            loaded = [n["widgets_values"][0] for n in workflow["nodes"] if n["type"] in ("LoadImage", "LoadVideo")]
            prompt = to_api(workflow, info)
            outputs = server.queue(prompt)
            (keeper,) = [str(n["id"]) for n in workflow["nodes"] if n["type"] in ("SaveImage", "SaveVideo")]
            (saved,) = server.files({keeper: outputs[keeper]})
            shown = [ASSETS / name.removeprefix("dpe_") for name in dict.fromkeys(loaded)]
            row([at(file, FRAME) for file in [*shown, saved]]).save(path.with_suffix(".jpg"), quality=QUALITY)
    if not chosen:
        gallery().save(FOLDER / "gallery_seams.jpg", quality=QUALITY)
        by_hand().save(FOLDER / "gallery_controls.jpg", quality=QUALITY)


def at(file: Path, number: int) -> Image.Image:
    """A frame of a clip, `HEIGHT` px high; of a picture, the picture."""
    frames = read_pictures(file)
    picture = Image.fromarray(frames[min(number, len(frames) - 1)])
    return picture.resize((round(picture.width * HEIGHT / picture.height), HEIGHT), Image.Resampling.LANCZOS)


def row(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one height side by side."""
    width = sum(p.width for p in pictures) + GAP * (len(pictures) - 1)
    out = Image.new("RGB", (width, pictures[0].height), "white")
    left = 0
    for picture in pictures:
        out.paste(picture, (left, 0))
        left += picture.width + GAP
    return out


def gallery() -> Image.Image:
    """Frames, the same with an exaggerated edit pasted back, and without the frame's own detail."""
    clip = ASSETS / "full_frame.mp4"
    with tempfile.TemporaryDirectory() as folder:
        clips = [read_pictures(clip)]
        for detail in ("1", "0"):
            output = Path(folder) / f"{detail}.mp4"
            command = [sys.executable, "-m", "dpe_model", "edit-video", "--source", clip, "--output", output]
            command += ["--driving", ASSETS / "driving.mp4", "--strength", "1.5", "--detail", detail]
            command += ["--crf", "4", "--quiet"]
            subprocess.run(command, cwd=ROOT, check=True)
            clips.append(read_pictures(output))
    rows = [row([zoomed(frames[number]) for frames in clips]) for number in GALLERY_FRAMES]
    out = Image.new("RGB", (rows[0].width, sum(r.height for r in rows) + GAP * (len(rows) - 1)), "white")
    for i, picture in enumerate(rows):
        out.paste(picture, (0, i * (picture.height + GAP)))
    return out


def by_hand() -> Image.Image:
    """The example portrait as it is and set by hand, the settings under each."""
    with tempfile.TemporaryDirectory() as folder:
        faces = [captioned(at(ASSETS / "source.png", 0), "as it is")]
        for settings in SETTINGS:
            output = Path(folder) / f"{settings}.png"
            command = [sys.executable, "-m", "dpe_model", "drive", "--source", ASSETS / "source.png", "--set", settings]
            subprocess.run([*command, "--output", output, "--quiet"], cwd=ROOT, check=True)
            faces.append(captioned(at(output, 0), settings))
    rows = [row(faces[start : start + COLUMNS]) for start in range(0, len(faces), COLUMNS)]
    out = Image.new("RGB", (rows[0].width, sum(r.height for r in rows) + GAP * (len(rows) - 1)), "white")
    for i, picture in enumerate(rows):
        out.paste(picture, (0, i * (picture.height + GAP)))
    return out


def captioned(picture: Image.Image, text: str) -> Image.Image:
    """A picture with a line of text below."""
    out = Image.new("RGB", (picture.width, picture.height + CAPTION), "white")
    out.paste(picture, (0, 0))
    ImageDraw.Draw(out).text(
        (picture.width / 2, picture.height + CAPTION / 2), text, "black", anchor="mm", font_size=15
    )
    return out


def zoomed(frame: np.ndarray) -> Image.Image:
    """The part of a full frame that the gallery shows."""
    part = Image.fromarray(np.ascontiguousarray(frame[GALLERY_PART]))
    return part.resize((part.width * GALLERY_ZOOM, part.height * GALLERY_ZOOM), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
