"""drive: a portrait driven by others."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ..bundled import DRIVING_CLIP, SOURCE_CLIP
from ..jobs import DriveJob, drive
from . import options

NAME = "drive"
HELP = "Drive expression and/or pose of a portrait by another, or set them; without arguments, on the bundled clips."

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--source", type=Path, default=SOURCE_CLIP, metavar="PATH", help="who is edited: a video, a "
                        "picture or a folder of frames; default: a bundled clip")  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("dpe.mp4"), metavar="PATH", help="its ending says what is "
                        "written: .mp4/.mov/.mkv/.webm, .png/.jpg, none: a folder (default: dpe.mp4)")  # fmt: skip
    options.add_driver_options(parser, "expression")
    options.add_crop_when(parser, "--crop", "cut out faces first; auto: where frames are not square (default)")
    options.add_picture_fps(parser)
    parser.add_argument("--no-sound", action="store_true", help="leave the sound out")
    options.add_crop_options(parser)
    options.add_encoding_options(parser)
    options.add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    job = DriveJob(
        source=arguments.source,
        drivers=options.drivers(arguments, DRIVING_CLIP),
        output=arguments.output,
        model=options.model_options(arguments),
        crop=arguments.crop,
        crop_options=options.crop_options(arguments),
        picture_fps=arguments.fps,
        sound=not arguments.no_sound,
        encoding=options.encoding(arguments),
    )
    frames = drive(job, options.reporter(arguments))
    logger.info("%s: %d frames", arguments.output, frames)
    return 0
