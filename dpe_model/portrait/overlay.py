"""A picture that shows who was found, under which number, and what is cut out."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..frames import to_uint8
from .crop import Crop
from .track import People

LONGEST = 640
"""Longest side of the pictures, px: small enough to keep one a frame of a clip."""
CHOSEN, OTHERS, SQUARE, HELD = (80, 255, 120), (255, 255, 255), (255, 210, 0), (255, 110, 60)


def draw_overlay(
    frames: Tensor, people: People, chosen: int, crop: Crop, start: int = 0, longest: int = LONGEST
) -> Tensor:
    """Numbered boxes around everybody, the chosen one's green, and the square that is cut out.

    Frames in which the chosen person was not found say "held", or "untouched" where nothing is edited.

    Args:
        frames: [n, H, W, 3] uint8 or floating point: a chunk of the clip.
        people: everybody in the clip.
        chosen: the number of the person who is cut out.
        crop: their crops, of the whole clip.
        start: which frame of the clip the chunk begins with.
        longest: longest side of the pictures; smaller frames stay as they are.

    Returns:
        [n, h, w, 3] uint8.
    """
    pictures = [_drawn(frame, people, chosen, crop, start + n, longest) for n, frame in enumerate(frames)]
    return torch.from_numpy(np.stack(pictures))


def telling_frame(people: People) -> int:
    """The first frame of those that show the most people."""
    return int(np.argmax(np.sum([track.found for track in people.tracks], axis=0)))


def _even(pixels: float) -> int:
    """The nearest even number: video encoders take no other side."""
    return max(2, 2 * round(pixels / 2))


def _drawn(frame: Tensor, people: People, chosen: int, crop: Crop, n: int, longest: int) -> np.ndarray:
    height, width = frame.shape[:2]
    zoom = min(1.0, longest / max(height, width))
    step = max(1, int(1.0 / (2.0 * zoom)))
    picture = Image.fromarray(np.ascontiguousarray(to_uint8(frame[::step, ::step]).cpu().numpy()))
    if zoom < 1.0:
        picture = picture.resize((_even(width * zoom), _even(height * zoom)), Image.Resampling.BOX)
    draw = ImageDraw.Draw(picture)
    font = _font(max(10, min(picture.size) // 22))
    corners = crop.inverse(1)[n] @ np.array([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    points = [(float(x) * zoom, float(y) * zoom) for x, y in corners.T]
    found = people.tracks[chosen].faces[n] is not None
    draw.line([*points, points[0]], fill=SQUARE if found else HELD, width=2)
    if not found:
        _label(draw, points[0], "held" if crop.edited[n] else "untouched", HELD, font)
    for track in sorted(people.tracks, key=lambda track: track.person == chosen):
        face = track.faces[n]
        if face is not None:
            box = [v * zoom for v in face.box]
            mine = track.person == chosen
            draw.rectangle(box, outline=CHOSEN if mine else OTHERS, width=3 if mine else 1)
            _label(draw, (box[0], box[1]), str(track.person), CHOSEN if mine else OTHERS, font)
    return np.asarray(picture)


def _label(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    colour: tuple[int, int, int],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    """Dark text on a plate, inside the picture, at the upper left corner of what it names."""
    _, _, wide, high = draw.textbbox((0, 0), text, font=font)
    width, height = draw.im.size
    x = min(max(corner[0], 0.0), width - wide - 6.0)
    y = min(max(corner[1], 0.0), height - high - 4.0)
    draw.rectangle((x, y, x + wide + 5, y + high + 3), fill=colour)
    draw.text((x + 3, y + 1), text, fill=(0, 0, 0), font=font)


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)
    except TypeError:
        # Pillow before 10.1 has one size only.
        return ImageFont.load_default()
