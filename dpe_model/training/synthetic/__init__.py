"""Rendered heads with known pose and expression: the supervision that the published losses lack.

For people A and D the true pictures A(p2, e1), A(p1, e2) and A(p2, e2) exist here, and so does the position of every
visible surface point in each pair of them. Needs the package numba and an ICT-FaceKit export (see
`geometry.ICTFaceKit`); neither comes with this package.
"""

from __future__ import annotations

from .geometry import HeadModelError, HeadTemplate, ICTFaceKit
from .renderer import HeadParams, Render, correspondence, develop, render
from .sampling import IMAGE_NAMES, TARGET_NAMES, HeadTuple, Studio

__all__ = [
    "IMAGE_NAMES",
    "TARGET_NAMES",
    "HeadModelError",
    "HeadParams",
    "HeadTemplate",
    "HeadTuple",
    "ICTFaceKit",
    "Render",
    "Studio",
    "correspondence",
    "develop",
    "render",
]
