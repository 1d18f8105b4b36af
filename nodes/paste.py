"""PasteBack: edited portraits back into their full frames."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from ..dpe_model.errors import FrameError
from ..dpe_model.frames import check_frames
from ..dpe_model.portrait import Crop, PasteOptions, Paster
from ..dpe_model.portrait.parsing import FILE, PAGE, ParsingError
from ..dpe_model.portrait.paste import MASKS
from . import host, inputs
from .inputs import PASTE_DEFAULTS
from .sockets import CATEGORY, DPECrop

PASTE_CHUNK = 4
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
                    tooltip=(
                        "face: from forehead to chin, by the face's landmarks. crop: the whole portrait. parsing: the "
                        f"face as a parsing network sees it, hair and neck left out; needs {FILE} in "
                        "models/face_parsing."
                    ),
                ),
                *inputs.mask_edge(),
                io.Float.Input(
                    "detail",
                    default=PASTE_DEFAULTS.detail,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip=(
                        "How much of the frame's fine detail stays where the edit moved nothing, so that a 256 px edit "
                        "does not look soft in a large frame. 0: the portrait as it is."
                    ),
                ),
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
        """Blend chunk by chunk into one copy of the frames."""
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
        _check_lengths(frames, edited, crop)
        if mask is not None:
            _check_mask(mask, len(crop))
        paster = Paster(options, crop, host.memory.get_torch_device())
        results = torch.empty_like(frames, device="cpu", memory_format=torch.contiguous_format)
        placed = torch.empty(frames.shape[:3])
        progress = host.Progress(len(frames))
        for start in range(0, len(frames), PASTE_CHUNK):
            host.check_interrupt()
            part = slice(start, start + PASTE_CHUNK)
            own = mask if mask is None or len(mask) == 1 else mask[part]
            results[part], placed[part] = paster.paste(frames[part], edited[part], start, own)
            progress.add(len(frames[part]), results[part])
        return io.NodeOutput(results, placed, ui=host.note(*_remarks(paster)))


def _remarks(paster: Paster) -> list[str]:
    if not paster.outline_moved:
        return []
    return ["The edit moves the outline of the head, as a pose edit does: the neck may no longer fit."]


def _check_lengths(frames: torch.Tensor, edited: torch.Tensor, crop: Crop) -> None:
    if not len(frames) == len(edited) == len(crop):
        raise FrameError(
            f"Expected as many frames as portraits and crops, got {len(frames)} frames, {len(edited)} portraits, "
            f"{len(crop)} crops. A single picture that is driven by a clip has to be repeated before DPE Crop "
            "Portrait, as often as the clip has frames; where the driver is shorter than the source, set length in "
            "DPE Edit Latent to hold, loop or ping_pong."
        )


def _check_mask(mask: torch.Tensor, frames: int) -> None:
    if mask.ndim != 3 or len(mask) not in (1, frames):
        raise FrameError(f"mask: expected 1 or {frames} masks, got {list(mask.shape)}.")
    if not bool((mask > 0).any()):
        raise FrameError(
            "mask: the mask is empty, so nothing would change. Load Image gives an empty mask for pictures without "
            "transparency; leave the input open for the automatic mask."
        )
