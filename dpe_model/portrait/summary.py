"""What became of the frames of a clip whose person was looked for, in words."""

from __future__ import annotations

from .crop import Crop, fates, ranges
from .track import Track


def describe_faces(track: Track, crop: Crop) -> str:
    """Such as "Face found in 248 of 250 frames; 2 held: 17 and 40".

    Args:
        track: where the person was found.
        crop: the crop laid out from it.
    """
    if track.found.all():
        return f"Face found in all {len(track)} frames" if len(track) > 1 else "Face found"
    parts = [f"{len(which)} {fate}: {ranges(which)}" for fate, which in fates(track.found, crop.edited)]
    return "; ".join((f"Face found in {int(track.found.sum())} of {len(track)} frames", *parts))


def describe_person(person: int, people: int) -> list[str]:
    """A line on who of several people was chosen; none where there is only one."""
    return [f"Person {person} of {people} (0 to {people - 1})"] if people > 1 else []
