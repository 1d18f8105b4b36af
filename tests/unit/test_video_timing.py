"""Frame rates as exact fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest

from dpe_model.errors import VideoError
from dpe_model.video import as_fps


@pytest.mark.parametrize(
    ("given", "exact"),
    [
        (25, Fraction(25)),
        (25.0, Fraction(25)),
        ("30", Fraction(30)),
        (29.97, Fraction(30000, 1001)),
        ("23.976", Fraction(24000, 1001)),
        (23.98, Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)),
        ("30000/1001", Fraction(30000, 1001)),
        (12.5, Fraction(25, 2)),
        (Fraction(2997, 100), Fraction(2997, 100)),
        (Fraction(29.97), Fraction(30000, 1001)),
        (Fraction(30000 / 1001), Fraction(30000, 1001)),
    ],
)
def test_rates_are_read_exactly(given: Fraction | float | str, exact: Fraction) -> None:
    assert as_fps(given) == exact


@pytest.mark.parametrize("bad", [0, -25, float("nan"), float("inf"), "fast", "1/0"])
def test_bad_rates_are_named(bad: float | str) -> None:
    with pytest.raises(VideoError, match="frame rate"):
        as_fps(bad)
