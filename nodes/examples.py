"""The bundled clips, put where the example workflows look for them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import folder_paths

from ..dpe_model.bundled import DRIVING_CLIP, FULL_FRAME_CLIP, PHOTO, SOURCE_CLIP, SOURCE_STILL

logger = logging.getLogger("ComfyUI-DPE")

EXAMPLES = {
    "dpe_source.mp4": SOURCE_CLIP,
    "dpe_driving.mp4": DRIVING_CLIP,
    "dpe_full_frame.mp4": FULL_FRAME_CLIP,
    "dpe_source.png": SOURCE_STILL,
    "dpe_photo.jpg": PHOTO,
}
"""Name in the host's input folder -> bundled file."""


def install_examples() -> None:
    """Copy what is missing into the host's input folder (half a megabyte), so that the templates run unchanged."""
    folder = Path(folder_paths.get_input_directory())
    for name, file in EXAMPLES.items():
        target = folder / name
        if target.exists() or not file.is_file():
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        except OSError as error:
            logger.warning("%s: the example clip could not be put there (%s).", target, error)
