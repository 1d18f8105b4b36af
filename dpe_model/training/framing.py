"""Where a face lies in a picture and how large it is, measured so that anybody's can be told from the picture alone.

How a camera frames a head depends on camera and person, which no picture tells apart from where the head is. So a
driver who is another person is framed like the person to be driven: their face lies where the result's face will.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .landmarks import NOSE

Array = npt.NDArray[np.float32]

STEADY = (*NOSE, 36, 39, 42, 45)
"""Those landmarks that expressions hardly move: the nose and the corners of the eyes."""


def framing(landmarks: Array) -> Array:
    """Spread and centre of the steady landmarks.

    Args:
        landmarks: places [..., 68, 2], -1..1 between the picture's edges, x first.

    Returns:
        [..., 3]: root mean square distance from the centre; the centre's x and y; in the same units.
    """
    steady = landmarks[..., STEADY, :]
    centre = steady.mean(-2)
    spread = np.sqrt(np.square(steady - centre[..., None, :]).sum(-1).mean(-1))
    return np.concatenate((spread[..., None], centre), -1).astype(np.float32)
