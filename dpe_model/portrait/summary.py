"""What became of the frames of a clip whose person was looked for, in words."""

from __future__ import annotations

import numpy as np

from .crop import Crop, ranges
from .track import Track


def describe_faces(track: Track, crop: Crop) -> str:
    """Such as "Face found in 248 of 250 frames; 2 held: 17 and 40".

    Args:
        track: where the person was found.
        crop: the crop laid out from it.
    """
    missing = ~track.found
    if not missing.any():
        return f"Face found in all {len(track)} frames" if len(track) > 1 else "Face found"
    parts = [f"Face found in {len(track) - int(missing.sum())} of {len(track)} frames"]
    for fate, which in (("held", missing & crop.found), ("passed through", missing & ~crop.found)):
        if which.any():
            parts.append(f"{int(which.sum())} {fate}: {ranges(np.flatnonzero(which))}")
    return "; ".join(parts)


def describe_person(person: int, people: int) -> list[str]:
    """A line on who of several people was chosen; none where there is only one."""
    return [f"Person {person} of {people} (0 to {people - 1})"] if people > 1 else []
