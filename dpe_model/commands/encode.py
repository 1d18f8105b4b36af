"""encode: a driver's motion to a file."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ..errors import OptionError
from ..files import check_writable
from ..jobs import Drivers
from ..jobs.setup import measure_drivers
from ..video.access import check_not_replaced
from . import options

NAME = "encode"
HELP = "Measure the motion of a clip once and save it (20 numbers a frame), to drive others with."

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--source", type=Path, required=True, metavar="PATH", help="a video, picture or folder")
    parser.add_argument("--output", type=Path, required=True, metavar="PATH", help="a .safetensors file")
    options.add_crop_when(parser, "--crop", "cut out the face first; auto: where frames are not square (default)")
    options.add_crop_options(parser)
    options.add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if arguments.output.suffix != ".safetensors":
        raise OptionError(f"{arguments.output}: expected a name ending in .safetensors.")
    model = options.model_options(arguments)
    check_not_replaced([arguments.output], [arguments.source, *model.paths()])
    check_writable(arguments.output)
    engine = model.engine()
    motions = measure_drivers(
        engine,
        Drivers(expression=arguments.source),
        arguments.crop,
        options.crop_options(arguments),
        options.reporter(arguments),
    )
    motion = motions[arguments.source]
    motion.save(arguments.output)
    logger.info("%s: %d frames", arguments.output, len(motion))
    return 0
