"""CropPortrait and PasteBack: from full frames to portraits, and edited portraits back into their frames."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_api.latest import io

from ..dpe_model.errors import FrameError
from ..dpe_model.frames import check_frames
from ..dpe_model.portrait import (
    DETECTORS,
    Crop,
    Face,
    FaceDetector,
    crop_frames,
    face_mask,
    feather_mask,
    frame_portraits,
    load_detector,
    paste_back,
    track_faces,
)
from ..dpe_model.portrait.crop import FRAMINGS, NO_FACE, SCALE, ranges
from ..dpe_model.portrait.paste import COLOUR_MATCH
from ..dpe_model.portrait.track import SELECT, Track
from . import host
from .sockets import CATEGORY, DPECrop

MASKS = ("face", "crop")
DETECT_CHUNK = 8
PASTE_CHUNK = 4


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


class PasteBack(io.ComfyNode):
    """Edited portraits back into the frames they were cut from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DPE_PasteBack",
            display_name="DPE Paste Back",
            category=CATEGORY,
            description=(
                "Puts edited portraits back into their full frames under a soft mask. All else stays "
                "as it was, bit for bit. Meant for expression edits: after a pose edit the neck no longer fits."
            ),
            inputs=[
                io.Image.Input("image", tooltip="The full frames that went into DPE Crop Portrait."),
                io.Image.Input(
                    "portrait", tooltip="The edited portraits, one a frame; any square size, so restored ones fit too."
                ),
                DPECrop.Input("crop", tooltip="From DPE Crop Portrait."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "Your own mask instead of the automatic one: white where the edit shows. Either in the "
                        "portrait's square or of the full frame's size; one for all frames or one a frame."
                    ),
                ),
                io.Combo.Input(
                    "mask_shape",
                    options=list(MASKS),
                    default="face",
                    tooltip="face: from forehead to chin, by the face's landmarks. crop: the whole portrait.",
                ),
                io.Float.Input(
                    "feather",
                    default=0.15,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    tooltip="Width of the soft edge, in sides of the portrait.",
                ),
                io.Float.Input(
                    "grow",
                    default=1.0,
                    min=0.1,
                    max=4.0,
                    step=0.01,
                    tooltip="Size of the face mask: above 1 larger, below 1 smaller.",
                ),
                io.Combo.Input(
                    "colour_match",
                    options=list(COLOUR_MATCH),
                    default="none",
                    tooltip="mean_std: give the edit the colours that the frame has under the mask.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The full frames with the edit."),
                io.Mask.Output(display_name="mask", tooltip="Where the edit shows, in full frames."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        portrait: torch.Tensor,
        crop: Crop,
        mask_shape: str,
        feather: float,
        grow: float,
        colour_match: str,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """Blend chunk by chunk into one copy of the frames."""
        frames, edited = check_frames(image, "image"), check_frames(portrait, "portrait")
        _check_lengths(frames, edited, crop)
        own = None if mask is None else _own_masks(mask, crop)
        results = torch.empty_like(frames, device="cpu", memory_format=torch.contiguous_format)
        placed = torch.empty(frames.shape[:3])
        progress = host.Progress(len(frames))
        for start in range(0, len(frames), PASTE_CHUNK):
            host.check_interrupt()
            part = slice(start, start + PASTE_CHUNK)
            masks = _masks(crop[part], mask_shape, feather, grow) if own is None else own[part if len(own) > 1 else ...]
            results[part], placed[part] = paste_back(frames[part], edited[part], crop[part], masks, colour_match)
            progress.add(len(frames[part]), results[part])
        return io.NodeOutput(results, placed)


def _masks(crop: Crop, shape: str, feather: float, grow: float) -> torch.Tensor:
    if shape not in MASKS:
        raise FrameError(f"mask_shape: expected one of {', '.join(MASKS)}, got {shape!r}.")
    if shape == "crop" or crop.landmarks is None:
        return feather_mask(crop.size, feather)
    return face_mask(crop, grow=grow, feather=feather)


def _check_lengths(frames: torch.Tensor, edited: torch.Tensor, crop: Crop) -> None:
    if not len(frames) == len(edited) == len(crop):
        raise FrameError(
            f"Expected as many frames as portraits and crops, got {len(frames)} frames, {len(edited)} portraits, "
            f"{len(crop)} crops. Where the driver is shorter than the source, set length in DPE Edit Latent to hold, "
            "loop or ping_pong."
        )


def _own_masks(mask: torch.Tensor, crop: Crop) -> torch.Tensor:
    """A user's masks [n, h, w] in the crop's square, [n, S, S], faded out at the crop's border."""
    if mask.ndim == 2:
        mask = mask[None]
    if len(mask) not in (1, len(crop)):
        raise FrameError(f"mask: expected 1 or {len(crop)} masks, got {len(mask)}.")
    if not bool((mask > 0).any()):
        raise FrameError(
            "mask: the mask is empty, so nothing would change. Load Image gives an empty mask for pictures without "
            "transparency; leave the input open for the automatic mask."
        )
    if tuple(mask.shape[1:]) == tuple(crop.frame_size):
        every = mask.expand(len(crop), -1, -1)
        parts = [
            crop_frames(every[n : n + 1, :, :, None].expand(-1, -1, -1, 3), crop[n : n + 1])[..., 0]
            for n in range(len(crop))
        ]
        mask = torch.cat(parts)
    if mask.shape[1] != mask.shape[2]:
        height, width = crop.frame_size
        raise FrameError(
            f"mask: expected a square mask (the portrait's) or {width}x{height} (the full frame's), got "
            f"{mask.shape[2]}x{mask.shape[1]}."
        )
    return mask * feather_mask(mask.shape[1], 0.05)
