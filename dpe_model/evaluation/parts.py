"""Which of several renders a part of a picture shows, whatever lies around it and wherever exactly it is.

A network's results are bent by a pixel here and there, and their outline may be wrong. A fit of the whole picture takes
that for an expression; so around each part the renders are laid over the picture wherever they fit best within a few
pixels, and compared by normalised cross-correlation (Lewis, "Fast Normalized Cross-Correlation", 1995), which leaves
brightness and contrast out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from ..errors import EvaluationError
from ..training.landmarks import BROWS, LEFT_EYE, MOUTH, RIGHT_EYE
from .people import Array

PARTS: dict[str, Sequence[int]] = {
    "mouth": MOUTH,
    "right eye": RIGHT_EYE,
    "left eye": LEFT_EYE,
    "right brow": BROWS[:5],
    "left brow": BROWS[5:],
}
"""Landmarks of each part, which is looked at through a window around them. Right and left are the person's own."""
SIDES = {"_R": "right", "_L": "left"}
"""How the names of blendshapes of one side end."""

REACH = 1 / 32
"""How far a part may lie beside its place, in sides of the picture."""
MARGIN = 0.35
"""Around a window's landmarks, in its longer sides."""
SMALLEST = (3, 4)
"""Rows and columns of a window, px, below which it shows nothing."""


def part_of(blendshape: str) -> str:
    """Which of `PARTS` a blendshape of ICT-FaceKit moves, by its name; what is neither eye nor brow is the mouth's.

    Raises:
        EvaluationError: a blendshape of eyes or brows is of no side.
    """
    kind = next((kind for kind in ("eye", "brow") if blendshape.startswith(kind)), None)
    if kind is None:
        return "mouth"
    if (side := SIDES.get(blendshape[-2:])) is None:
        raise EvaluationError(
            f"expected names of blendshapes of eyes and brows to end in {' or '.join(SIDES)}, got {blendshape!r}. "
            "Export the head from ICT-FaceKit, which has one for each side."
        )
    return f"{side} {kind}"


@dataclass(frozen=True)
class Window:
    """What of a window lies far enough inside the picture to be moved about: px, ends excluded.

    Attributes:
        seen: its share of the whole window, 0..1.
    """

    left: int
    top: int
    right: int
    bottom: int
    seen: float

    @classmethod
    def around(cls, marks: Array, size: int, reach: int) -> Window:
        """The window of landmarks [K, 2] (-1..1 between a picture's edges, x first) in a picture of `size` px."""
        low, high = ((end + 1.0) / 2.0 * size for end in (marks.min(0), marks.max(0)))
        pad = MARGIN * float((high - low).max())
        left, top = (int(v) for v in np.floor(low - pad))
        right, bottom = (int(v) + 1 for v in np.ceil(high + pad))
        inside = (max(left, reach), max(top, reach), min(right, size - reach), min(bottom, size - reach))
        area = max(0, inside[2] - inside[0]) * max(0, inside[3] - inside[1])
        return cls(*inside, area / ((right - left) * (bottom - top)))

    @property
    def empty(self) -> bool:
        """Whether too little is left of it."""
        return self.bottom - self.top < SMALLEST[0] or self.right - self.left < SMALLEST[1]


def reach_of(size: int) -> int:
    """`REACH` in a picture of `size` px."""
    return max(1, round(REACH * size))


def unexplained(picture: Tensor, renders: Tensor, window: Window, reach: int) -> Array:
    """How much of what a window shows each render leaves unexplained, at the best of its places.

    Args:
        picture: [C, S, S]. renders: [K, C, S, S]. reach: px that the picture may lie beside the renders.

    Returns:
        [K], the squares left, summed over the window.
    """
    rows, columns = slice(window.top, window.bottom), slice(window.left, window.right)
    shown = _centred(renders[..., rows, columns])
    around = picture[:, window.top - reach : window.bottom + reach, window.left - reach : window.right + reach]
    height, width = shown.shape[2:]
    # Every half pixel: a parabola between whole ones would favour renders that are a little higher or wider.
    finer = F.interpolate(around[None], [2 * n - 1 for n in around.shape[1:]], mode="bicubic", align_corners=True)
    patches = _centred(F.unfold(finer, (height, width), dilation=2)[0].T.reshape(-1, *shown.shape[1:]))
    energy, own = patches.square().sum((1, 2, 3)), shown.square().sum((1, 2, 3))
    shared = shown.flatten(1) @ patches.flatten(1).T
    left = 1.0 - shared / (own[:, None] * energy).clamp(min=1e-12).sqrt()
    fields = left.view(len(shown), 4 * reach + 1, 4 * reach + 1).double().numpy()
    return float(energy.mean()) * np.array([_lowest(field) for field in fields], np.float32)


def _centred(x: Tensor) -> Tensor:
    """Pictures [N, C, H, W] without their channels' means."""
    return x - x.mean((2, 3), keepdim=True)


def _lowest(field: npt.NDArray[np.float64]) -> float:
    """The lowest value of a field [Y, X], between its points too: by a parabola through three each way."""
    y, x = np.unravel_index(int(field.argmin()), field.shape)
    value = float(field[y, x])
    for line, i in ((field[:, x], y), (field[y, :], x)):
        value -= _dip(line, int(i))[1]
    return max(value, 0.0)


def _dip(values: npt.NDArray[np.floating], i: int) -> tuple[float, float]:
    """Where a parabola through the lowest value and its neighbours is lowest: steps from there; and how much lower."""
    if not 0 < i < len(values) - 1:
        return 0.0, 0.0
    before, here, after = (float(v) for v in values[i - 1 : i + 2])
    bend = before + after - 2.0 * here
    if bend < 1e-12 * max(abs(here), 1e-12):
        return 0.0, 0.0
    return 0.5 * (before - after) / bend, (before - after) ** 2 / (8.0 * bend)


def best_share(left: Array, shares: Array) -> float:
    """The share at which least is left unexplained; `left` [K] at evenly spaced `shares` [K]."""
    i = int(left.argmin())
    return float(shares[i] + _dip(left, i)[0] * (shares[1] - shares[0]))
