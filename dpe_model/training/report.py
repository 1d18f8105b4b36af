"""What a run writes for people: metrics as lines of JSON and to TensorBoard, and sheets of pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..frames import from_network, to_uint8

logger = logging.getLogger(__name__)

CAPTION = 14
"""Height of a sheet's captions in pixels."""


class MetricsWriter:
    """Writes `metrics.jsonl`, `sheets/*.png` and, where the package is installed and wanted, TensorBoard events."""

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ModuleNotFoundError:
                logger.info("TensorBoard is not installed; metrics go to metrics.jsonl only.")
            else:
                self.board = SummaryWriter(str(folder / "tensorboard"))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of a step."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **{k: round(v, 6) for k, v in values.items()}}) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def sheet(self, step: int, columns: Mapping[str, Tensor], name: str = "sheet") -> Path:
        """A picture sheet: one column for each name, one row a sample; returns its path."""
        grid = sheet(columns)
        path = self.folder / "sheets" / f"{name}-{step:07d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(grid).save(path)
        if self.board is not None:
            self.board.add_image(name, grid, step, dataformats="HWC")
        return path

    def close(self) -> None:
        """Finish the event file."""
        if self.board is not None:
            self.board.close()


def sheet(columns: Mapping[str, Tensor], rows: int = 8) -> np.ndarray:
    """Pictures [N, 3, S, S] in -1..1 by caption -> one picture uint8 [H, W, 3]."""
    strips: list[np.ndarray] = []
    for name, images in columns.items():
        frames = to_uint8(from_network(images[:rows].detach().float())).cpu().numpy()
        strips.append(np.concatenate([caption(name, frames.shape[2]), *frames], 0))
    return np.concatenate(strips, 1)


def caption(text: str, width: int) -> np.ndarray:
    """A line of text, uint8 [CAPTION, width, 3]."""
    image = Image.new("RGB", (width, CAPTION), "white")
    ImageDraw.Draw(image).text((2, 1), text, fill="black")
    return np.asarray(image)


def mean_terms(history: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Averages of named scalars over some steps; a term that only some steps have is averaged over those."""
    names = {n for terms in history for n in terms}
    return {n: float(torch.stack([t[n].float() for t in history if n in t]).mean()) for n in sorted(names)}
