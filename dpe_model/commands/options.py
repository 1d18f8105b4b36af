"""Options that several commands share, and how they become the jobs' values."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from tqdm import tqdm

from ..controls import CONTROLS, check_settings, set_roles
from ..engine import PRECISIONS
from ..errors import MotionError, OptionError, VideoError
from ..jobs import CropOptions, Drivers, ModelOptions, Reporter, Silent, VideoEncoding
from ..jobs.portraits import CROP_WHEN, first_portraits
from ..motion import EDIT_MODES, LENGTH_POLICIES
from ..portrait import DETECTORS
from ..portrait.crop import FRAMINGS, NO_FACE, SCALE
from ..portrait.track import SELECT
from ..video import PICTURE_FPS, as_fps

logger = logging.getLogger(__name__)

AUTO = "auto"
EDITS = {"expression": ("expression",), "exp": ("expression",), "pose": ("pose",), "both": ("expression", "pose")}
"""What `--edit` means; `exp` as the published scripts say it."""
COMPILE_HELP = "on a CUDA GPU: torch.compile the network, which takes a minute or more before the first frame"


class ProgressBars(Silent):
    """A `Reporter` that draws one bar a stage on standard error; warnings go to the log."""

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """A bar for one stage."""
        with tqdm(total=total, desc=name, unit="frame") as bar:
            yield lambda count: void(bar.update(count))


def void(_: object) -> None:
    """Nothing."""


def reporter(arguments: argparse.Namespace) -> Reporter:
    """What shows a job's progress: bars, or nothing under --quiet."""
    return Silent() if arguments.quiet else ProgressBars()


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--model, --precision, --device, --compile."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", type=Path, metavar="PATH", help="dpe.pt or a .safetensors file; default: the bundled")
    group.add_argument("--precision", choices=PRECISIONS, default="auto", help="of the convolutions (default: auto)")
    add_device_option(group)
    group.add_argument("--compile", action="store_true", help=COMPILE_HELP)


def add_device_option(parser: argparse._ActionsContainer) -> None:
    """--device."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")


def model_options(arguments: argparse.Namespace) -> ModelOptions:
    """What `add_model_options` asked for."""
    return ModelOptions(arguments.model, arguments.precision, arguments.device, arguments.compile)


def add_driver_options(parser: argparse.ArgumentParser, edit: str, lengths: tuple[str, ...] = LENGTH_POLICIES) -> None:
    """--driving, --edit and how the edit is made; `edit` is the default of --edit."""
    group = parser.add_argument_group("edit")
    what = "a video, a picture, a folder of frames, or a motion file"
    group.add_argument("--driving", type=Path, metavar="PATH", help=f"who drives: {what}")
    group.add_argument("--edit", choices=tuple(EDITS), default=edit, help=f"what --driving drives (default: {edit})")
    group.add_argument("--expression", type=Path, metavar="PATH", help="another driver, for the expression alone")
    group.add_argument("--pose", type=Path, metavar="PATH", help="another driver, for the pose alone")
    group.add_argument("--strength", type=float, default=1.0, help="0 the source's own, 1 the driver's (default: 1)")
    group.add_argument("--pose-strength", type=float, help="the same for the pose alone")
    group.add_argument(
        "--mode", choices=EDIT_MODES, default="absolute", help="take the driver's motion, or its changes"
    )
    group.add_argument("--reference", type=int, default=0, metavar="FRAME", help="the driver's rest, for relative mode")
    group.add_argument("--length", choices=lengths, default="hold", help="where lengths differ (default: hold)")
    group.add_argument(
        "--set",
        type=_settings,
        default={},
        metavar="NAME=VALUE,...",
        help="a face set by hand, after the drivers or without one, such as smile=0.6,yaw=10: "
        f"{', '.join(control.name for control in CONTROLS)}; degrees, or 1 = fully",
    )


def drivers(arguments: argparse.Namespace, default: Path | None = None) -> Drivers:
    """What `add_driver_options` asked for; `default` drives where nobody was named."""
    driving = arguments.driving
    nobody = driving is None and arguments.expression is None and arguments.pose is None
    if nobody and not set_roles(arguments.set):
        driving = default
        if driving is None:
            raise MotionError("expected a driver: --driving, --expression or --pose; or a face set by hand: --set.")
    roles = EDITS[arguments.edit] if driving is not None else ()
    if roles and all(getattr(arguments, role) is not None for role in roles):
        raise MotionError(
            f"--driving: nothing is left for it to drive: --edit is {arguments.edit}, and --{roles[-1]} names another "
            "driver. Choose another --edit, or leave one of the two out."
        )
    return Drivers(
        expression=arguments.expression or (driving if "expression" in roles else None),
        pose=arguments.pose or (driving if "pose" in roles else None),
        expression_strength=arguments.strength,
        pose_strength=arguments.strength if arguments.pose_strength is None else arguments.pose_strength,
        mode=arguments.mode,
        reference=arguments.reference,
        length=arguments.length,
        settings=arguments.set,
    )


def _settings(text: str) -> dict[str, float]:
    """A face set by hand, from NAME=VALUE,..."""
    settings: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (side.strip() for side in part.partition("="))
        if name in settings:
            raise argparse.ArgumentTypeError(f"{name} is there twice")
        try:
            settings[name] = float(value)
            check_settings(settings)
        except OptionError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"expected NAME=VALUE such as smile=0.6, got {part!r}") from error
    return settings


def add_crop_options(parser: argparse.ArgumentParser) -> None:
    """How a person is found and framed."""
    group = parser.add_argument_group("framing")
    group.add_argument("--framing", choices=FRAMINGS, default="follow", help="one crop, or one that follows the head")
    group.add_argument(
        "--scale",
        type=_scale,
        metavar="NUMBER|auto",
        help=f"side of the crop in face boxes; auto: heads as large as in the other's portraits (default: {SCALE})",
    )
    group.add_argument(
        "--match",
        type=Path,
        metavar="PATH",
        help="portraits whose heads to match; implies --scale auto",
    )
    group.add_argument(
        "--person",
        choices=SELECT,
        help="who of the source, where there are several (default: largest); of a driver always the largest",
    )
    group.add_argument("--person-index", type=int, metavar="N", help="the Nth person; 0 is seen longest and largest")
    group.add_argument(
        "--person-at",
        type=_position,
        metavar="X,Y",
        help="whose face is there, in 0..1 of the frame",
    )
    group.add_argument(
        "--person-mask", type=Path, metavar="PICTURE", help="whose face lies under the white of a picture of the frame"
    )
    group.add_argument(
        "--no-face",
        choices=NO_FACE,
        default="auto",
        help="frames without a face: framed and edited like those around (hold), left as they are (pass), held up to "
        "25 in a row and else passed (auto, the default), or an error (stop)",
    )
    group.add_argument("--detector", choices=DETECTORS, default="mtcnn", help="default: mtcnn, which is built in")


def crop_options(arguments: argparse.Namespace) -> CropOptions:
    """What `add_crop_options` asked for."""
    if arguments.match is not None and arguments.scale not in (None, AUTO):
        raise OptionError(f"--match: the heads decide the scale; leave --scale {arguments.scale} out, or --match.")
    auto = arguments.scale == AUTO or arguments.match is not None
    return CropOptions(
        arguments.framing,
        SCALE if auto or arguments.scale is None else arguments.scale,
        _person(arguments),
        arguments.person_index or 0,
        arguments.no_face,
        arguments.detector,
        position=arguments.person_at or (0.5, 0.5),
        mask=arguments.person_mask,
        match=_match(arguments) if auto else None,
    )


def _scale(text: str) -> float | str:
    try:
        return AUTO if text == AUTO else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a number or auto, got {text!r}") from error


def _position(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected X,Y such as 0.5,0.3, got {text!r}") from error
    return x, y


def _person(arguments: argparse.Namespace) -> str:
    """Who is meant; a number, a point or a mask says so by itself."""
    given = {
        "index": arguments.person_index is not None,
        "position": arguments.person_at is not None,
        "mask": arguments.person_mask is not None,
    }
    named = [arguments.person] if arguments.person else [name for name, there in given.items() if there]
    if len(named) > 1 or any(there and named != [name] for name, there in given.items()):
        raise OptionError(
            "--person, --person-index, --person-at, --person-mask: expected one way to choose the person."
        )
    if named and named[0] != "index" and not given.get(named[0], True):
        option = "--person-at X,Y" if named[0] == "position" else "--person-mask PICTURE"
        raise OptionError(f"--person {named[0]}: expected {option} with it.")
    return named[0] if named else "largest"


def _match(arguments: argparse.Namespace) -> Path | None:
    """Whose heads to match: the portraits named, else whichever of source and drivers is taken as it is."""
    if arguments.match is not None:
        return arguments.match
    drivers = [getattr(arguments, name, None) for name in ("driving", "expression", "pose")]
    if not hasattr(arguments, "driving"):
        raise OptionError("--scale auto: expected --match PATH, the portraits whose heads to match.")
    paths = [path for path in drivers if path is not None]
    if hasattr(arguments, "crop"):
        match = first_portraits([arguments.source, *paths], arguments.crop)
    else:
        match = first_portraits(paths, arguments.driver_crop)
    if match is None:
        logger.info("--scale auto: nobody is a portrait already; all are cut out alike, at scale %s.", SCALE)
    return match


def add_encoding_options(parser: argparse.ArgumentParser) -> None:
    """How a video is encoded."""
    group = parser.add_argument_group("encoding")
    group.add_argument("--crf", type=int, metavar="N", help="quality, 0 the best (default: 18; .webm: 28)")
    group.add_argument("--codec", metavar="NAME", help="FFmpeg's encoder (default: libx264; .webm: libvpx-vp9)")
    group.add_argument(
        "--pix-fmt",
        default=VideoEncoding.pix_fmt,
        metavar="NAME",
        help=f"pixel format, e.g. yuv444p for the colour of every pixel (default: {VideoEncoding.pix_fmt})",
    )


def encoding(arguments: argparse.Namespace) -> VideoEncoding:
    """What `add_encoding_options` asked for."""
    return VideoEncoding(arguments.crf, arguments.codec, arguments.pix_fmt)


def add_picture_fps(parser: argparse.ArgumentParser) -> None:
    """--fps, of what has no rate of its own."""
    parser.add_argument(
        "--fps",
        type=_rate,
        default=PICTURE_FPS,
        metavar="RATE",
        help=f"frames a second of a source that is a folder of pictures, e.g. 24, 29.97 or 30000/1001 (default: "
        f"{PICTURE_FPS}); a driver that is one goes frame by frame",
    )


def _rate(text: str) -> Fraction:
    try:
        return as_fps(text)
    except VideoError as error:
        raise argparse.ArgumentTypeError(f"expected a rate such as 25, 29.97 or 30000/1001, got {text!r}") from error


def add_crop_when(parser: argparse.ArgumentParser, name: str, help_text: str) -> None:
    """Whether faces are cut out first."""
    parser.add_argument(name, choices=CROP_WHEN, default="auto", help=help_text)
