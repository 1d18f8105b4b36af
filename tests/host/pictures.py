"""Look into the files that a host wrote."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def read_pictures(path: Path, limit: int = 1000) -> np.ndarray:
    """RGB frames [N, H, W, 3] uint8 of a picture or a video."""
    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == limit:
                break
    return np.stack(frames)
