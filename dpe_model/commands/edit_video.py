"""edit-video: a person edited inside a full-frame video."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ..jobs import EditVideoJob, edit_video
from ..jobs.edit_video import RESULTS, EditOptions
from . import options, paste_options

NAME = "edit-video"
HELP = "Edit a person inside a full-frame video: crop, drive, paste back; sound, rate and length are kept."

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--source", type=Path, required=True, metavar="PATH", help="the full-frame video")
    parser.add_argument("--output", type=Path, required=True, metavar="PATH", help="the edited video")
    add_edit_options(parser)
    options.add_model_options(parser)


def add_edit_options(parser: argparse.ArgumentParser) -> None:
    """What is edited and how, apart from the files and the model."""
    options.add_driver_options(parser, "expression", ("hold", "loop", "ping_pong"))
    parser.add_argument("--result", choices=RESULTS, default="frame", help="the full frames, or the portrait alone")
    options.add_picture_fps(parser)
    options.add_crop_when(parser, "--driver-crop", "cut out the driver's face first; auto: where it is not square")
    options.add_crop_options(parser)
    paste_options.add_paste_options(parser)
    options.add_encoding_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    asked = job(arguments, arguments.source, arguments.output)
    if "pose" in asked.drivers.edited and arguments.result == "frame":
        logger.warning("Pasting suits expression edits; after a pose edit the neck may no longer fit the body.")
    frames = edit_video(asked, options.reporter(arguments))
    logger.info("%s: %d frames", arguments.output, frames)
    return 0


def job(arguments: argparse.Namespace, source: Path, output: Path) -> EditVideoJob:
    """What was asked for, as a job."""
    return EditVideoJob(
        source=source,
        drivers=options.drivers(arguments),
        output=output,
        model=options.model_options(arguments),
        options=EditOptions(
            crop=options.crop_options(arguments),
            driver_crop=arguments.driver_crop,
            paste=paste_options.paste_options(arguments),
            result=arguments.result,
            picture_fps=arguments.fps,
            encoding=options.encoding(arguments),
        ),
    )
