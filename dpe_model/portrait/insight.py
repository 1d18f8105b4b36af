"""The optional detector of the InsightFace package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..frames import check_frames, to_uint8
from .face import DetectorError, Face

UNSURE = 0.35
"""Least score of a face that may continue a person who was surely seen before."""


class InsightFaceDetector:
    """A `FaceDetector` on the detection model of an InsightFace model pack.

    The package's code is MIT; **its pretrained models are licensed for non-commercial research only**. Nothing is
    downloaded here: the model pack must already lie in the model root.

    Args:
        device: "cpu" or a CUDA device (then onnxruntime-gpu is needed).
        root: the model root; `<root>/models/<pack>/*.onnx` is read, as InsightFace lays it out.
        pack: name of the model pack.
        size: side of the square the detector works on, px, a multiple of 32.
        threshold: least score of a face.
        unsure: also return what scores less, down to `UNSURE`, marked as not sure: a tracker knows what to make of it.

    Raises:
        DetectorError: the package or the model files are missing.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        root: str | Path = "~/.insightface",
        pack: str = "buffalo_l",
        size: int = 640,
        threshold: float = 0.5,
        unsure: bool = False,
    ) -> None:
        folder = Path(root).expanduser() / "models" / pack
        files = sorted(folder.glob("det_*.onnx"))
        if not files:
            raise DetectorError(
                f"InsightFace: expected a detection model {folder / 'det_*.onnx'} (det_10g.onnx in buffalo_l), found "
                f"none. Download the model pack {pack!r} from the InsightFace project (its models are licensed for "
                "non-commercial research only) and unpack it there, or choose the detector 'mtcnn'."
            )
        try:
            from insightface.model_zoo import get_model
        except ImportError as error:
            raise DetectorError(
                "InsightFace: the package is not installed. Run `pip install insightface onnxruntime` in this Python, "
                "or choose the detector 'mtcnn', which needs no extra package."
            ) from error
        target = torch.device(device)
        cuda = target.type == "cuda"
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"] if cuda else ["CPUExecutionProvider"]
        self.threshold = threshold
        least = min(UNSURE, threshold) if unsure else threshold
        self._model = get_model(str(files[0]), providers=providers)
        self._model.prepare(ctx_id=(target.index or 0) if cuda else -1, input_size=(size, size), det_thresh=least)

    def detect(self, frames: Tensor) -> list[list[Face]]:
        """The faces of each of the frames [N, H, W, 3] (uint8 0..255 or floating point 0..1), best score first."""
        frames = check_frames(frames)
        return [self._detect_one(to_uint8(frames[n]).cpu().numpy()) for n in range(len(frames))]

    def _detect_one(self, picture: np.ndarray) -> list[Face]:
        """Faces of one RGB picture [H, W, 3] uint8."""
        # Its model zoo takes BGR, as OpenCV reads pictures; boxes are [K, 5] with the score last.
        boxes, landmarks = self._model.detect(np.ascontiguousarray(picture[..., ::-1]))
        faces = []
        for k in np.argsort(-np.asarray(boxes).reshape(-1, 5)[:, 4], kind="stable"):
            x0, y0, x1, y1, score = (float(v) for v in boxes[k])
            faces.append(Face((x0, y0, x1, y1), landmarks[k].astype(np.float64), score, score >= self.threshold))
        return faces
