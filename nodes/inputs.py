"""Inputs that several nodes have: name, range and tooltip told once.

Graphs saved with the first versions have some as widgets of one node and as optional inputs of another: `optional`.
"""

from __future__ import annotations

from comfy_api.latest import io

from ..dpe_model.portrait import PasteOptions
from ..dpe_model.portrait.paste import COLOUR_MATCH

STRENGTH_TOOLTIP = "0 = the source's own, 1 = the driver's, between = a mixture, above 1 = exaggerated."
PASTE_DEFAULTS = PasteOptions()


def strength(name: str = "strength") -> io.Input:
    """How far an edit goes."""
    return io.Float.Input(name, default=1.0, min=-2.0, max=4.0, step=0.01, tooltip=STRENGTH_TOOLTIP)


def reference_frame() -> io.Input:
    """The driver's rest."""
    return io.Int.Input(
        "reference_frame",
        default=0,
        min=-100000,
        max=100000,
        step=1,
        tooltip="The driver's neutral frame: relative mode adds the change since it. -1 is the last frame.",
    )


def person_index() -> io.Input:
    """Which of several people, by number."""
    return io.Int.Input(
        "person_index",
        default=0,
        min=0,
        max=99,
        step=1,
        tooltip="For person = index: 0 is the one seen longest and largest, 1 the next.",
    )


def position(optional: bool = False) -> list[io.Input]:
    """Which of several people, by where in the frame: x and y."""
    return [
        io.Float.Input(
            f"position_{axis}",
            default=0.5,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=optional,
            tooltip=f"For person = position: from the {first} (0) to the {last} (1) of the frame.",
        )
        for axis, first, last in (("x", "left", "right"), ("y", "top", "bottom"))
    ]


def person_mask() -> io.Input:
    """Which of several people, by a mask."""
    return io.Mask.Input(
        "mask",
        optional=True,
        tooltip="For person = mask: white over the person's face, of the full frame; one, or one a frame.",
    )


def mask_edge() -> list[io.Input]:
    """Form and colours of what is pasted: feather, grow, colour_match."""
    return [
        io.Float.Input(
            "feather",
            default=0.15,
            min=0.0,
            max=0.5,
            step=0.01,
            tooltip="Width of the soft edge, in sides of the portrait.",
        ),
        io.Float.Input(
            "grow",
            default=1.0,
            min=0.1,
            max=4.0,
            step=0.01,
            tooltip="Size of the face mask: above 1 larger, below 1 smaller.",
        ),
        io.Combo.Input(
            "colour_match",
            options=list(COLOUR_MATCH),
            default="none",
            tooltip=(
                "Give the edit the colours that the frame has under the mask. mean_std: by mean and spread. "
                "histogram: tone by tone, stronger."
            ),
        ),
    ]


def mask_smoothing(optional: bool = False) -> io.Input:
    """How steady a mask is."""
    return io.Float.Input(
        "mask_smoothing",
        default=PASTE_DEFAULTS.mask_smoothing,
        min=0.0,
        max=50.0,
        step=0.5,
        optional=optional,
        tooltip="How steady the mask is over time, in frames. Higher if its edge trembles.",
    )
