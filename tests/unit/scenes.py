"""Small scenes with known truth: the bundled heads pasted at places that move, over a plain background."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dpe_model.bundled import DRIVING_CLIP, SOURCE_CLIP
from dpe_model.video import read_frames

Place = tuple[float, float, float]
"""x and y of the middle of the head, and the side of the square portrait, px."""
MIDDLE = (0.5, 0.5)
RADII = (0.37, 0.5)
"""What is pasted: an ellipse about the middle of the portrait, in its sides."""
CLOTHES = {"man": (24, 34, 66), "woman": (140, 30, 28)}


@dataclass(frozen=True)
class Actor:
    """Somebody in a scene.

    Attributes:
        who: "man" or "woman", as in the bundled clips.
        place: where in frame n; None while out of the scene.
        still: shows the first frame of the clip all the time.
    """

    who: str
    place: Callable[[int], Place | None]
    still: bool = False


@cache
def portraits(who: str) -> np.ndarray:
    """[75, 256, 256, 3] uint8."""
    return read_frames({"man": SOURCE_CLIP, "woman": DRIVING_CLIP}[who]).numpy()


@cache
def _alpha() -> np.ndarray:
    y, x = np.mgrid[0:256, 0:256] / 256.0 + 0.5 / 256.0
    away = np.hypot((x - MIDDLE[0]) / RADII[0], (y - MIDDLE[1]) / RADII[1])
    return (np.clip((1.0 - away) / 0.1, 0.0, 1.0) * 255).astype(np.uint8)


@cache
def background(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Soft blotches of subdued colours, [H, W, 3] uint8."""
    rng = np.random.default_rng(seed)
    coarse = (rng.integers(50, 190, (5, 7, 1)) + rng.integers(-20, 21, (5, 7, 3))).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def frame(n: int, actors: Sequence[Actor], size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Frame n of a scene, [H, W, 3] uint8; later actors stand in front."""
    out = background(size, seed)
    for actor in actors:
        place = actor.place(n)
        if place is not None:
            out = _dressed(out, CLOTHES[actor.who], place)
            out = _pasted(out, portraits(actor.who)[0 if actor.still else n % 75], place)
    return out


def scene(
    length: int, actors: Sequence[Actor], size: tuple[int, int] = (240, 320), seed: int = 0, noise: float = 0.0
) -> Tensor:
    """Frames [length, H, W, 3] uint8; `noise` is the standard deviation of grain."""
    frames = np.stack([frame(n, actors, size, seed) for n in range(length)])
    if noise:
        grain = np.random.default_rng(seed + 1).normal(0.0, noise, frames.shape)
        frames = np.clip(frames + grain, 0, 255).astype(np.uint8)
    return torch.from_numpy(frames)


def line(start: Place, end: Place, length: int) -> Callable[[int], Place]:
    """From start to end in `length` frames."""
    return lambda n: tuple(a + (b - a) * n / (length - 1) for a, b in zip(start, end, strict=True))  # type: ignore[return-value]


def at(*place: float) -> Callable[[int], Place]:
    """Always there."""
    return lambda n: place  # type: ignore[return-value]


def during(place: Callable[[int], Place | None], *spans: tuple[int, int]) -> Callable[[int], Place | None]:
    """There only in frames start <= n < stop of one of the spans."""
    return lambda n: place(n) if any(a <= n < b for a, b in spans) else None


def _dressed(picture: np.ndarray, colour: tuple[int, int, int], place: Place) -> np.ndarray:
    """Shoulders under the head."""
    x, y, side = place
    out = Image.fromarray(picture)
    box = (x - 0.75 * side, y + 0.33 * side, x + 0.75 * side, y + 2.0 * side)
    ImageDraw.Draw(out).ellipse(box, fill=colour)
    return np.asarray(out)


def _pasted(picture: np.ndarray, portrait: np.ndarray, place: Place) -> np.ndarray:
    x, y, side = place
    scale = 256.0 / side
    left, top = x - MIDDLE[0] * side, y - MIDDLE[1] * side
    size = (picture.shape[1], picture.shape[0])
    back = (scale, 0.0, -left * scale, 0.0, scale, -top * scale)
    head = Image.fromarray(portrait).transform(size, Image.Transform.AFFINE, back, Image.Resampling.BICUBIC)
    alpha = Image.fromarray(_alpha()).transform(size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)
    return np.asarray(Image.composite(head, Image.fromarray(picture), alpha))
