"""CropPortrait: from full frames to portraits of one person."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_api.latest import io

from ..dpe_model.frames import check_frames
from ..dpe_model.portrait import (
    DETECTORS,
    Face,
    FaceDetector,
    crop_frames,
    frame_portraits,
    load_detector,
    track_faces,
)
from ..dpe_model.portrait.crop import FRAMINGS, NO_FACE, SCALE, ranges
from ..dpe_model.portrait.track import SELECT, Track
from . import host
from .sockets import CATEGORY, DPECrop

DETECT_CHUNK = 8


def _detector(name: str) -> FaceDetector:
    device = host.memory.get_torch_device()
    if name == "insightface":
        return load_detector(name, device, root=Path(folder_paths.models_dir) / "insightface")
    return load_detector(name, device)


def _detect(frames: torch.Tensor, detector: FaceDetector) -> list[list[Face]]:
    progress = host.Progress(len(frames))
    found: list[list[Face]] = []
    for start in range(0, len(frames), DETECT_CHUNK):
        host.check_interrupt()
        chunk = frames[start : start + DETECT_CHUNK]
        found += detector.detect(chunk)
        progress.add(len(chunk))
    return found


class CropPortrait(io.ComfyNode):
    """Full frames to square portraits of one person, framed as the network expects."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DPE_CropPortrait",
            display_name="DPE Crop Portrait",
            category=CATEGORY,
            description=(
                "Finds a person in full frames and cuts out square portraits, framed as the model expects. The crop "
                "output remembers where they came from, for DPE Paste Back. Portraits that fill their frame already "
                "need no crop."
            ),
            inputs=[
                io.Image.Input("image", tooltip="Full frames of a clip, or one picture."),
                io.Combo.Input(
                    "framing",
                    options=list(FRAMINGS),
                    default="follow",
                    tooltip=(
                        "static: one crop for the whole clip, for a head that stays about where it is. follow: the "
                        "crop moves with the head, smoothed over the whole clip without lag."
                    ),
                ),
                io.Float.Input(
                    "scale",
                    default=SCALE,
                    min=0.5,
                    max=10.0,
                    step=0.01,
                    tooltip=(
                        "Side of the crop in sides of the face box. The default frames the head as the model was "
                        "trained; source and driver should show heads of about the same size."
                    ),
                ),
                io.Int.Input(
                    "size",
                    default=256,
                    min=64,
                    max=2048,
                    step=8,
                    tooltip="Side of the portraits in pixels. The released model works at 256.",
                ),
                io.Combo.Input(
                    "person",
                    options=list(SELECT),
                    default="largest",
                    tooltip="Who, where several people are in the picture: judged over the whole clip.",
                ),
                io.Int.Input(
                    "person_index",
                    default=0,
                    min=0,
                    max=99,
                    step=1,
                    tooltip="For person = index: 0 is the one seen longest and largest, 1 the next.",
                ),
                io.Combo.Input(
                    "no_face",
                    options=list(NO_FACE),
                    default="hold",
                    tooltip=(
                        "Frames where the face is not found. hold: keep the framing of the frames around; pass: leave "
                        "the frame as it is when pasting back; stop: stop with the frame numbers. No frame is lost."
                    ),
                ),
                io.Combo.Input(
                    "detector",
                    options=list(DETECTORS),
                    default="mtcnn",
                    tooltip=(
                        "mtcnn is built in. insightface needs that package and its models in models/insightface, "
                        "which are for non-commercial use."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(display_name="portrait", tooltip="Square portraits, one a frame."),
                DPECrop.Output(display_name="crop", tooltip="Where each portrait lies in its frame."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        framing: str,
        scale: float,
        size: int,
        person: str,
        person_index: int,
        no_face: str,
        detector: str,
    ) -> io.NodeOutput:
        """Detect, follow one person, lay out the crops, cut them."""
        frames = check_frames(image, "image")
        height, width = frames.shape[1:3]
        track = track_faces(_detect(frames, _detector(detector)), (height, width), person, person_index)
        crop = frame_portraits(track, scale, framing, size, no_face)
        return io.NodeOutput(crop_frames(frames, crop), crop, ui=host.note(_found(track, no_face)))


def _found(track: Track, no_face: str) -> str:
    """Such as "Face found in 248 of 250 frames; 2 held: 17 and 40"."""
    missing = np.flatnonzero(~track.found)
    if not len(missing):
        return f"Face found in all {len(track)} frames" if len(track) > 1 else "Face found"
    fate = "held" if no_face == "hold" else "passed through"
    return f"Face found in {len(track) - len(missing)} of {len(track)} frames; {len(missing)} {fate}: {ranges(missing)}"
