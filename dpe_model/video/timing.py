"""Frame rates as exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

from ..errors import VideoError

NTSC_TOLERANCE = 5e-4
"""How far, relatively, a decimal rate may be from n * 1000 / 1001 to be read as it (23.98, 29.97, 59.94)."""


FINEST = 100_000
"""Largest denominator of a rate that was meant as it stands; beyond, it is a decimal number made a fraction."""


def as_fps(value: Fraction | float | str) -> Fraction:
    """A frame rate in frames per second as an exact fraction; 29.97 is read as 30000/1001, "24000/1001" as written.

    Raises:
        VideoError: not a finite positive number.
    """
    try:
        exact = Fraction(value)
    except (ValueError, OverflowError, ZeroDivisionError, TypeError) as error:
        raise VideoError(f"Expected a frame rate such as 25, 29.97 or 30000/1001, got {value!r}.") from error
    if exact <= 0:
        raise VideoError(f"Expected a frame rate above 0 frames per second, got {value!r}.")
    if exact.denominator == 1 or (isinstance(value, Fraction) and exact.denominator <= FINEST):
        return exact
    if isinstance(value, str) and "/" in value:
        return exact
    ntsc = Fraction(math.ceil(exact) * 1000, 1001)
    if abs(exact - ntsc) < NTSC_TOLERANCE * ntsc:
        return ntsc
    return exact.limit_denominator(FINEST // 10)
