"""PasteBack: edited portraits back into their full frames."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from ..dpe_model.errors import FrameError
from ..dpe_model.frames import check_finite, check_frames
from ..dpe_model.portrait import Crop, PasteOptions, Paster
from ..dpe_model.portrait.parsing import FILE, PAGE, ParsingError
from ..dpe_model.portrait.paste import check_mask
from . import host, inputs
from .inputs import PASTE_DEFAULTS
from .sockets import CATEGORY, DPECrop

PASTE_CHUNK = 4
NECK = "The edit moves the outline of the head, as a pose edit does: the neck may no longer fit."
PARSING_FOLDER = "face_parsing"
PARSING_EXTENSIONS = {".pth", ".pt", ".safetensors"}


def register_parsing_folder() -> None:
    """Make `models/face_parsing` a model folder; other packs' and an extra_model_paths.yaml's entries stay."""
    folder_paths.add_model_folder_path(PARSING_FOLDER, str(Path(folder_paths.models_dir) / PARSING_FOLDER))
    paths, extensions = folder_paths.folder_names_and_paths[PARSING_FOLDER]
    folder_paths.folder_names_and_paths[PARSING_FOLDER] = (paths, set(extensions) | PARSING_EXTENSIONS)


def parsing_weights() -> Path:
    """The face-parsing weights: the published file, or the same under another ending or in a subfolder.

    Raises:
        ParsingError: there are none; says which file belongs where.
    """
    for name in folder_paths.get_filename_list(PARSING_FOLDER):
        path = Path(name)
        if path.stem == Path(FILE).stem and path.suffix in PARSING_EXTENSIONS:
            return Path(folder_paths.get_full_path(PARSING_FOLDER, name))
    folders = ", ".join(folder_paths.get_folder_paths(PARSING_FOLDER))
    raise ParsingError(
        f"mask_shape: parsing needs the file {FILE}, and there is none in {folders}. Get it from {PAGE} (see its "
        "README), put it there and run again; or choose face or crop."
    )


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
                io.Image.Input(
                    "image",
                    tooltip="The full frames that went into DPE Crop Portrait, as they were or enlarged since.",
                ),
                io.Image.Input(
                    "portrait",
                    tooltip=(
                        "The edited portraits, one a frame, or any number of them for a single picture; any square "
                        "size, so restored ones fit too."
                    ),
                ),
                DPECrop.Input("crop", tooltip="From DPE Crop Portrait."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "Your own mask instead of the automatic one: white where the edit shows. Either in the "
                        "portrait's square or of the full frame's shape; one for all frames or one a frame."
                    ),
                ),
                inputs.mask_shape(),
                *inputs.mask_edge(),
                inputs.detail(optional=True),
                inputs.mask_smoothing(optional=True),
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
        detail: float = PASTE_DEFAULTS.detail,
        mask_smoothing: float = PASTE_DEFAULTS.mask_smoothing,
    ) -> io.NodeOutput:
        """Blend chunk by chunk into one copy of the frames; a single picture goes with each of the portraits."""
        automatic = mask_shape if mask is None else PASTE_DEFAULTS.mask
        options = PasteOptions(
            mask=automatic,
            feather=feather,
            grow=grow,
            colour_match=colour_match,
            detail=detail,
            parsing_weights=parsing_weights() if automatic == "parsing" else None,
            mask_smoothing=mask_smoothing,
        )
        frames, edited = check_frames(image, "image"), check_frames(portrait, "portrait")
        crop = _fitted(crop, frames, edited)
        check_finite(edited, "portrait")
        own = None if mask is None else _checked_mask(mask, crop)
        given = image if image.ndim == 4 else image[None]
        paster = Paster(options, crop, host.memory.get_torch_device())
        shape = (len(crop), *frames.shape[1:3])
        results = torch.empty((*shape, max(given.shape[-1], 3)), dtype=frames.dtype, device="cpu")
        results[..., 3:] = given[..., 3:]
        placed = torch.empty(shape)
        progress = host.Progress(len(crop))
        for start in range(0, len(crop), PASTE_CHUNK):
            host.check_interrupt()
            part = slice(start, start + PASTE_CHUNK)
            chunk = frames[part] if len(frames) > 1 else frames.expand(len(edited[part]), -1, -1, -1)
            masks = own if own is None or len(own) == 1 else own[part]
            pasted, placed[part] = paster.paste(chunk, edited[part], start, masks)
            results[part, ..., :3] = pasted
            progress.add(len(pasted), pasted)
        return io.NodeOutput(results, placed, ui=host.note(*_remarks(paster)))


def _remarks(paster: Paster) -> list[str]:
    if not paster.outline_moved:
        return []
    return [NECK]


def _fitted(crop: Crop, frames: torch.Tensor, edited: torch.Tensor) -> Crop:
    """The crop of each portrait, in frames of the size they have now.

    Raises:
        FrameError: numbers that do not go together, or frames of another shape.
    """
    if len(frames) == len(crop) == 1 < len(edited):
        crop = crop.repeated(len(edited))
    elif not len(frames) == len(edited) == len(crop):
        raise FrameError(
            f"Expected as many frames as portraits and crops, or one picture and its crop, got {len(frames)} frames, "
            f"{len(edited)} portraits, {len(crop)} crops. Connect the frames that went into DPE Crop Portrait; "
            "where the driver is shorter than the source, set length in DPE Edit Latent to hold, loop or ping_pong."
        )
    height, width = frames.shape[1:3]
    return crop.resized(height, width)


def _checked_mask(mask: torch.Tensor, crop: Crop) -> torch.Tensor:
    """The mask as [N, h, w], N = 1 or the crop's frames.

    Raises:
        FrameError: it does not fit, or is black all over.
    """
    planes = check_mask(mask, crop)
    if not bool((planes > 0).any()):
        raise FrameError(
            "mask: the mask is empty, so nothing would change. Load Image gives an empty mask for pictures without "
            "transparency; leave the input open for the automatic mask."
        )
    return planes
