"""Inputs that several nodes have: name, range and tooltip told once.

Graphs saved with the first versions have some as widgets of one node and as optional inputs of another: `optional`.
"""

from __future__ import annotations

from comfy_api.latest import io

from ..dpe_model.motion import EDIT_MODES
from ..dpe_model.portrait import DETECTORS, PasteOptions
from ..dpe_model.portrait.crop import FRAMINGS, NO_FACE, SCALE, SCALES
from ..dpe_model.portrait.parsing import FILE
from ..dpe_model.portrait.paste import COLOUR_MATCH, MASKS
from ..dpe_model.portrait.track import SELECT

STRENGTH_TOOLTIP = "0 = the source's own, 1 = the driver's, between = a mixture, above 1 = exaggerated."
PASTE_DEFAULTS = PasteOptions()
EACH = "each"
"""Choice of person for pictures that have nothing to do with one another."""


def strength(name: str = "strength") -> io.Input:
    """How far an edit goes."""
    return io.Float.Input(name, default=1.0, min=-2.0, max=4.0, step=0.01, tooltip=STRENGTH_TOOLTIP)


def mode() -> io.Input:
    """What of the driver's motion is taken over."""
    return io.Combo.Input(
        "mode",
        options=list(EDIT_MODES),
        default="absolute",
        tooltip=(
            "absolute: the driver's motion as it is. relative: the driver's change since its reference frame is added "
            "to the source's own movement; keeps the source's rest expression and framing."
        ),
    )


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


def framing() -> io.Input:
    """Whether the crop moves."""
    return io.Combo.Input(
        "framing",
        options=list(FRAMINGS),
        default="follow",
        tooltip=(
            "static: one crop for each shot, for a head that stays about where it is. follow: the crop moves with the "
            "head, smoothed over the whole clip without lag. A cut begins anew."
        ),
    )


def scale() -> io.Input:
    """How much of the frame the crop takes in."""
    return io.Float.Input(
        "scale",
        default=SCALE,
        min=SCALES[0],
        max=SCALES[1],
        step=0.01,
        tooltip=(
            "Side of the crop in sides of the face box. The default frames the head as the model was trained; source "
            "and driver should show heads of about the same size."
        ),
    )


def no_face() -> io.Input:
    """What becomes of frames without a face."""
    return io.Combo.Input(
        "no_face",
        options=list(NO_FACE),
        default="auto",
        tooltip=(
            "Frames where the face is not found. hold: keep the framing of the frames around; pass: leave the frame as "
            "it is when pasting back; auto: hold up to 25 frames in a row, pass longer absences; stop: stop with the "
            "frame numbers. No frame is lost."
        ),
    )


def detector() -> io.Input:
    """What finds the faces."""
    return io.Combo.Input(
        "detector",
        options=list(DETECTORS),
        default="mtcnn",
        tooltip=(
            "mtcnn is built in. insightface needs that package and its models in models/insightface, which are for "
            "non-commercial use."
        ),
    )


def person(each: bool = False) -> io.Input:
    """Which of several people; `each` offers everybody's own picture, too."""
    more = " each: the largest face of every picture, for a batch of pictures that is no clip." if each else ""
    return io.Combo.Input(
        "person",
        options=[*SELECT, EACH] if each else list(SELECT),
        default="largest",
        tooltip=(
            "Who, where several people are in the picture: judged over the whole clip. position: whose face first "
            f"comes to position_x, position_y. mask: whose face lies under the mask.{more}"
        ),
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


def mask_shape() -> io.Input:
    """What is pasted."""
    return io.Combo.Input(
        "mask_shape",
        options=list(MASKS),
        default=PASTE_DEFAULTS.mask,
        tooltip=(
            "face: from forehead to chin, by the face's landmarks. crop: the whole portrait. parsing: the face as a "
            f"parsing network sees it, hair and neck left out; needs {FILE} in models/face_parsing."
        ),
    )


def detail(optional: bool = False) -> io.Input:
    """How sharp what is pasted stays."""
    return io.Float.Input(
        "detail",
        default=PASTE_DEFAULTS.detail,
        min=0.0,
        max=1.0,
        step=0.05,
        optional=optional,
        tooltip=(
            "How much of the frame's fine detail stays where the edit moved nothing, so that a 256 px edit does not "
            "look soft in a large frame. 0: the portrait as it is."
        ),
    )


def mask_edge() -> list[io.Input]:
    """Form and colours of what is pasted: feather, grow, colour_match."""
    return [
        io.Float.Input(
            "feather",
            default=PASTE_DEFAULTS.feather,
            min=0.0,
            max=0.5,
            step=0.01,
            tooltip="Width of the soft edge, in sides of the portrait.",
        ),
        io.Float.Input(
            "grow",
            default=PASTE_DEFAULTS.grow,
            min=0.1,
            max=4.0,
            step=0.01,
            tooltip="Size of the face mask: above 1 larger, below 1 smaller.",
        ),
        io.Combo.Input(
            "colour_match",
            options=list(COLOUR_MATCH),
            default=PASTE_DEFAULTS.colour_match,
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
