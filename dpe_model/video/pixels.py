"""Decoded frames to RGB and back, with the matrix and range that the stream is tagged with; upright turning.

PyAV's own defaults are not enough. `to_ndarray(format="rgb24")` of PyAV 14.2 converts everything as BT.601 limited
range, which moves saturated BT.709 colours by up to 41 of 255 levels (18.1 follows the tags), all versions encode as
BT.601, and none turns pictures upright. Naming source and target explicitly gives the same result in every version.
The matrix named for the RGB side has no meaning, but it must differ from the other: PyAV 14 skips the setup otherwise.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import ColorRange, Colorspace

SWS_BILINEAR, SWS_FULL_CHROMA_OUT, SWS_FULL_CHROMA_IN, SWS_ACCURATE = 0x2, 0x2000, 0x4000, 0x40000
"""Flags of swscale; the accurate ones bring the mean error of a conversion from 1.1 to 0.4 levels."""

SMPTE240M, BT2020 = 7, 9
"""Colour spaces that PyAV 14 has no name for; numbers as in swscale."""

_MATRIX_BY_TAG: dict[int, int] = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: SMPTE240M,
    9: BT2020,
    10: BT2020,
}
"""AVColorSpace (ITU-T H.273 matrix coefficients) -> swscale's matrix."""

HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
"""AVColorTransferCharacteristic of the two HDR curves."""


@dataclass(frozen=True)
class Colour:
    """What the numbers of a stream's pictures mean: code points of ITU-T H.273, as FFmpeg's.

    Attributes:
        matrix: from RGB to luma and chroma; one that conversions here know.
        full_range: whether values use 0..255 instead of 16..235.
        primaries: which red, green and blue.
        transfer: the curve from light to numbers.
    """

    matrix: int = 1
    full_range: bool = False
    primaries: int = 1
    transfer: int = 1

    @property
    def range(self) -> ColorRange:
        """As swscale and the encoder take it."""
        return ColorRange.JPEG if self.full_range else ColorRange.MPEG


BT709 = Colour()
"""What is written where nothing else is asked for."""
RGB = 0
"""The matrix of pictures that are stored as red, green and blue: none."""


@dataclass(frozen=True)
class Orientation:
    """How stored pictures are brought upright: transposed first, then flipped."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def rotation(self) -> int:
        """Degrees clockwise, 0, 90, 180 or 270; of a mirrored picture, the turn after mirroring it left to right."""
        if self.transpose:
            return 90 if self.flip_x else 270
        return 180 if self.flip_y else 0

    @property
    def mirrored(self) -> bool:
        """Whether the picture is a mirror image besides being turned."""
        return (self.flip_x == self.flip_y) if self.transpose else (self.flip_x != self.flip_y)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """The picture [H, W, 3] upright, a view."""
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """How the container wants the frame shown, from its display matrix (ISO/IEC 14496-12, 8.3.2).

    The matrix maps a stored point (p, q) to (a p + c q, b p + d q). Turns that are no multiple of 90 degrees are
    rounded to the nearest.
    """
    side_data: Any = frame.side_data  # iterating it gives values in some versions and keys in others
    for data in (side_data[i] for i in range(len(side_data))):
        if data.type == SideDataType.DISPLAYMATRIX:
            a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
            if abs(b) > abs(a):
                return Orientation(True, c < 0, b < 0)
            return Orientation(False, a < 0, d < 0)
    return Orientation()


def colour_of(frame: av.VideoFrame, primaries: int, transfer: int) -> Colour:
    """What a stream's first frame and its codec say of colours; BT.709 for a matrix that is not told or not known."""
    full = _is_full(frame)
    if int(frame.colorspace) not in _MATRIX_BY_TAG or frame.format.is_rgb:
        return Colour(full_range=full and not frame.format.is_rgb)
    return Colour(int(frame.colorspace), full, primaries, transfer)


def to_rgb(frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
    """A decoded frame as RGB uint8 [height, width, 3]; converted with its own matrix and range, not yet turned.

    Untagged pictures are taken as BT.709 from 720 lines or 1280 columns on and as BT.601 below, limited range.
    """
    if frame.format.is_rgb or frame.format.name.startswith("pal"):
        return frame.reformat(width, height, format="rgb24").to_ndarray()
    matrix = _MATRIX_BY_TAG.get(int(frame.colorspace))
    if matrix is None:
        matrix = Colorspace.ITU709 if frame.width >= 1280 or frame.height >= 720 else Colorspace.ITU601
    full = _is_full(frame)
    rgb = frame.reformat(
        width,
        height,
        format="rgb24",
        src_colorspace=matrix,
        dst_colorspace=_other(matrix),
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=SWS_BILINEAR | SWS_ACCURATE | SWS_FULL_CHROMA_OUT,
    )
    return rgb.to_ndarray()


def from_rgb(picture: np.ndarray, pix_fmt: str, colour: Colour = BT709) -> av.VideoFrame:
    """RGB uint8 [H, W, 3] as a frame in `pix_fmt`, converted with and tagged by the colour's matrix and range."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    if colour.matrix == RGB:
        frame = frame.reformat(format=pix_fmt)
    else:
        matrix = _MATRIX_BY_TAG[colour.matrix]
        frame = frame.reformat(
            format=pix_fmt,
            src_colorspace=_other(matrix),
            dst_colorspace=matrix,
            src_color_range=ColorRange.JPEG,
            dst_color_range=colour.range,
            interpolation=SWS_BILINEAR | SWS_ACCURATE | SWS_FULL_CHROMA_IN,
        )
    frame.colorspace = colour.matrix
    frame.color_range = colour.range
    return frame


def _is_full(frame: av.VideoFrame) -> bool:
    return int(frame.color_range) == ColorRange.JPEG or frame.format.name.startswith("yuvj")


def _other(matrix: int) -> Colorspace:
    return Colorspace.ITU601 if matrix == Colorspace.ITU709 else Colorspace.ITU709
