"""Choosing a face detector by name."""

from __future__ import annotations

from typing import Any

import torch

from ..devices import warping_device
from .face import DetectorError, FaceDetector

DETECTORS = ("mtcnn", "insightface")


def load_detector(name: str = "mtcnn", device: torch.device | str = "cpu", **options: Any) -> FaceDetector:
    """A face detector by name.

    Args:
        name: "mtcnn" (built in) or "insightface" (needs that package and its models).
        device: where its networks run.
        options: see `mtcnn.MTCNNDetector` and `insight.InsightFaceDetector`.

    Raises:
        DetectorError: an unknown name, or a package or model files that are missing.
    """
    if name == "mtcnn":
        from .mtcnn import MTCNNDetector

        return MTCNNDetector(warping_device(device), **options)
    if name == "insightface":
        from .insight import InsightFaceDetector

        return InsightFaceDetector(device, **options)
    raise DetectorError(f"Face detector: expected one of {', '.join(DETECTORS)}, got {name!r}.")
