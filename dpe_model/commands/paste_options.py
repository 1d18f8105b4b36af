"""Options of pasting back, and the values they become."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..portrait import PasteOptions
from ..portrait.paste import COLOUR_MATCH, MASKS

DEFAULTS = PasteOptions()


def add_paste_options(parser: argparse.ArgumentParser) -> None:
    """--mask, --feather, --grow, --colour-match, --detail, --mask-smoothing, --parsing-weights."""
    group = parser.add_argument_group("pasting back")
    group.add_argument(
        "--mask",
        choices=MASKS,
        help="what is replaced: the face, the whole crop, or the face as a parsing network sees it (default: face, or "
        "parsing where its weights are named)",
    )
    group.add_argument(
        "--parsing-weights",
        type=Path,
        metavar="PATH",
        help="the published face-parsing weights, 79999_iter.pth, for --mask parsing",
    )
    _add_number(group, "--feather", "soft edge of the mask, in sides of the crop")
    _add_number(group, "--grow", "size of the face's mask, above 1 larger")
    _add_number(group, "--mask-smoothing", "how steady the mask is over time, in frames")
    group.add_argument(
        "--colour-match",
        choices=COLOUR_MATCH,
        default=DEFAULTS.colour_match,
        help="give the edit the colours the frame has under the mask (default: none)",
    )
    _add_number(group, "--detail", "fine detail carried over from the frame where the edit moved nothing, 0 to 1")


def paste_options(arguments: argparse.Namespace) -> PasteOptions:
    """What `add_paste_options` asked for.

    Raises:
        OptionError: a number out of range, or --mask parsing without its weights.
    """
    implied = DEFAULTS.mask if arguments.parsing_weights is None else "parsing"
    return PasteOptions(
        mask=arguments.mask or implied,
        feather=arguments.feather,
        grow=arguments.grow,
        colour_match=arguments.colour_match,
        detail=arguments.detail,
        parsing_weights=arguments.parsing_weights,
        mask_smoothing=arguments.mask_smoothing,
    )


def _add_number(group: argparse._ArgumentGroup, name: str, text: str) -> None:
    default = getattr(DEFAULTS, name[2:].replace("-", "_"))
    group.add_argument(name, type=float, default=default, help=f"{text} (default: {default:g})")
