"""Single pictures and folders of them, read and written with Pillow."""

from __future__ import annotations

import io
import logging
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from ..errors import VideoError
from .notices import TRANSPARENCY, Notices

logger = logging.getLogger(__name__)

PICTURE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
_EXIF_ORIENTATION = 0x0112
_EXIF_TRANSPOSED = (5, 6, 7, 8)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""


def is_picture(path: Path) -> bool:
    """Whether the ending is a picture's."""
    return path.suffix.lower() in PICTURE_ENDINGS


def moves(path: Path) -> bool:
    """Whether a picture is an animation that is read as a video: an animated PNG."""
    if path.suffix.lower() != ".png":
        return False
    try:
        with Image.open(path) as picture:
            return bool(getattr(picture, "is_animated", False))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def list_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, hidden files left out, numbers in names in counting order (2 before 10).

    Raises:
        VideoError: the folder holds no picture.
    """
    pictures = [p for p in folder.iterdir() if is_picture(p) and not p.name.startswith(".") and p.is_file()]
    if not pictures:
        raise VideoError(
            f"{folder}: expected a folder of pictures ({', '.join(sorted(PICTURE_ENDINGS))}), found none in it."
        )
    return sorted(pictures, key=_natural)


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, upright, from the file's header.

    Raises:
        VideoError: not a picture.
    """
    with _opening(path) as picture:
        width, height = picture.size
        turned = _orientation(picture) in _EXIF_TRANSPOSED
    return (height, width) if turned else (width, height)


def read_picture(path: Path, notices: Notices | None = None) -> np.ndarray:
    """A picture as RGB uint8 [H, W, 3], upright, in sRGB.

    A colour profile is converted, 16-bit and float grey are scaled to 8 bit, an alpha channel is dropped, and of an
    animation the first picture counts.

    Args:
        path: the file.
        notices: takes warnings about what is left out.

    Raises:
        VideoError: not a picture, or truncated.
    """
    notices = notices or Notices(path)
    try:
        with _opening(path) as picture:
            picture.load()
            if picture.format == "WEBP" and getattr(picture, "is_animated", False):
                notices.warn("an animated picture, of which only the first one is used. Convert it to a video first")
            if not notices.said(TRANSPARENCY) and _shows_through(picture):
                notices.warn(TRANSPARENCY)
            turn = _TURNS.get(_orientation(picture))
            return np.array(_as_rgb(_in_srgb(picture if turn is None else picture.transpose(turn))))
    except (OSError, SyntaxError, ValueError) as error:
        raise VideoError(f"{path}: the picture cannot be read: {error}. The file may be truncated.") from error


def write_picture(path: Path, picture: np.ndarray) -> None:
    """RGB uint8 [H, W, 3] as PNG, or as JPEG of quality 95 with full chroma, by the path's ending."""
    options: dict[str, Any] = {"quality": 95, "subsampling": 0}
    if path.suffix.lower() == ".png":
        options = {"compress_level": 3}
    Image.fromarray(np.ascontiguousarray(picture)).save(path, **options)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [(1, 0, p) if i % 2 == 0 else (0, int(p), p) for i, p in enumerate(parts)]


def _opening(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoError(f"{path}: expected a picture, and it cannot be read as one: {error}.") from error


def _orientation(picture: Image.Image) -> int:
    """How the picture is turned, by its EXIF data; as it is where those are damaged."""
    try:
        return int(picture.getexif().get(_EXIF_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, OSError, struct.error):
        return 1


def _shows_through(picture: Image.Image) -> bool:
    """Whether a picture has transparent places; many carry an alpha channel that is opaque everywhere."""
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return False
    return bool((np.asarray(picture.convert("RGBA").getchannel("A")) < 255).any())


def _in_srgb(picture: Image.Image) -> Image.Image:
    """The picture by its colour profile; as it is without one, or where the profile cannot be used."""
    stored = picture.info.get("icc_profile")
    if not stored or picture.mode.startswith(("I", "F")):
        return picture
    plain = {"P": "RGB", "PA": "RGB", "RGBA": "RGB", "RGBa": "RGB", "LA": "L", "La": "L", "1": "L"}
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(stored))
        if "srgb" in ImageCms.getProfileDescription(profile).lower():
            return picture
        opaque = picture.convert(plain.get(picture.mode, picture.mode))
        converted = ImageCms.profileToProfile(opaque, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError) as error:
        logger.debug("the colour profile is left out: %s", error)
        return picture
    return picture if converted is None else converted


def _as_rgb(picture: Image.Image) -> Image.Image:
    """Pillow clips deep grey pictures instead of scaling them; the other modes it converts well."""
    if not picture.mode.startswith(("I", "F")):
        return picture.convert("RGB")
    values = np.asarray(picture).astype(np.float64)
    if picture.mode == "F":
        top = 1.0 if np.nanmax(values, initial=0.0) <= 1.0 else 255.0
        values = np.nan_to_num(values)
    else:
        top = 65535.0
    grey = (values * (255.0 / top)).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
