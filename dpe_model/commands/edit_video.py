"""edit-video: a person edited inside a full-frame video."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ..bundled import DRIVING_CLIP
from ..jobs import EditVideoJob, edit_video
from ..jobs.edit_video import MASKS
from ..portrait.paste import COLOUR_MATCH
from . import options

NAME = "edit-video"
HELP = "Edit a person inside a full-frame video: crop, drive, paste back; sound, rate and length are kept."

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--source", type=Path, required=True, metavar="PATH", help="the full-frame video")
    parser.add_argument("--output", type=Path, required=True, metavar="PATH", help="the edited video")
    options.add_driver_options(parser, "exp", ("hold", "loop", "ping_pong"))
    options.add_crop_when(parser, "--driver-crop", "cut out the driver's face first; auto: where it is not square")
    options.add_crop_options(parser)
    group = parser.add_argument_group("pasting back")
    group.add_argument("--mask", choices=MASKS, default="face", help="what is replaced (default: face)")
    group.add_argument("--feather", type=float, default=0.15, help="soft edge, in sides of the crop (default: 0.15)")
    group.add_argument("--colour-match", choices=COLOUR_MATCH, default="none", help="match the frame's colours")
    options.add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    job = EditVideoJob(
        source=arguments.source,
        drivers=options.drivers(arguments, DRIVING_CLIP),
        output=arguments.output,
        model=options.model_options(arguments),
        crop_options=options.crop_options(arguments),
        driver_crop=arguments.driver_crop,
        mask=arguments.mask,
        feather=arguments.feather,
        colour_match=arguments.colour_match,
    )
    if job.drivers.pose is not None:
        logger.warning("After a pose edit the neck may no longer fit the body; look at the seams.")
    frames = edit_video(job, options.ProgressBars())
    logger.info("%s: %d frames", arguments.output, frames)
    return 0
