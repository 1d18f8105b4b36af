"""PasteBack: edited portraits back into their full frames."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..dpe_model.errors import FrameError
from ..dpe_model.frames import check_frames
from ..dpe_model.portrait import Crop, crop_frames, face_mask, feather_mask, paste_back
from ..dpe_model.portrait.paste import COLOUR_MATCH
from . import host
from .sockets import CATEGORY, DPECrop

MASKS = ("face", "crop")
PASTE_CHUNK = 4


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
