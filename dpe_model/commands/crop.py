"""crop: one person's portraits out of a full-frame clip."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ..devices import chosen_device
from ..jobs import crop_clip
from . import options

NAME = "crop"
HELP = "Cut one person's square portraits out of a full-frame clip, framed as the model expects."

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--source", type=Path, required=True, metavar="PATH", help="a video, picture or folder")
    parser.add_argument("--output", type=Path, required=True, metavar="PATH", help="the portraits")
    parser.add_argument("--size", type=int, default=256, help="side of the portraits, px (default: 256)")
    parser.add_argument(
        "--overlay", type=Path, metavar="PATH", help="also show who was found under which number, and what is cut out"
    )
    options.add_picture_fps(parser)
    options.add_crop_options(parser)
    options.add_encoding_options(parser)
    options.add_device_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    frames = crop_clip(
        arguments.source,
        arguments.output,
        options.crop_options(arguments).beside(chosen_device(arguments.device)),
        arguments.size,
        options.reporter(arguments),
        arguments.overlay,
        options.encoding(arguments),
        arguments.fps,
    )
    logger.info("%s: %d frames", arguments.output, frames)
    return 0
