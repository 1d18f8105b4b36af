"""Contact sheets: pictures side by side under labels, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..errors import FrameError
from ..frames import to_uint8
from .rendered import Edited

LABEL_HEIGHT, ROW_LABEL_WIDTH, GAP = 18, 26, 2
MAX_ROWS = 12
MIN_CELL = 128

Columns = Sequence[tuple[str, Tensor]]


def contact_sheet(columns: Columns, rows: Sequence[str], cell: int | None = None) -> Image.Image:
    """One picture of labelled columns.

    Args:
        columns: label and frames [R, S, S, 3] of each.
        rows: R short labels.
        cell: side of each picture on the sheet, px; the first column's own if None.

    Raises:
        FrameError: a column without a picture for every row.
    """
    for label, frames in columns:
        if len(frames) != len(rows):
            raise FrameError(f"contact sheet, column {label!r}: expected {len(rows)} pictures, got {len(frames)}.")
    cell = cell or columns[0][1].shape[1]
    width = ROW_LABEL_WIDTH + len(columns) * (cell + GAP)
    sheet = Image.new("RGB", (width, LABEL_HEIGHT + len(rows) * (cell + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(rows):
        draw.text((2, LABEL_HEIGHT + row * (cell + GAP) + cell // 2), label, fill="black")
    for column, (label, frames) in enumerate(columns):
        left = ROW_LABEL_WIDTH + column * (cell + GAP)
        draw.text((left + 2, 3), label, fill="black")
        for row, picture in enumerate(to_uint8(frames).numpy()):
            image = Image.fromarray(np.ascontiguousarray(picture))
            if image.width != cell:
                image = image.resize((cell, cell), Image.Resampling.BICUBIC)
            sheet.paste(image, (left, LABEL_HEIGHT + row * (cell + GAP)))
    return sheet


def rendered_sheet(people: Sequence[Edited], same: bool) -> Image.Image:
    """The first case of each of the first people, with drivers of their own or of another person."""
    shown = people[:MAX_ROWS]
    at = [0 if same else len(one.cases) // 2 for one in shown]

    def column(name: str) -> Tensor:
        return torch.stack([getattr(one.cases, name)[i] for one, i in zip(shown, at, strict=True)])

    columns = [("source", column("source")), ("driver", column("driver"))]
    for edit, label in (("expression", "expression edit"), ("pose", "pose edit"), ("both", "both")):
        made = torch.stack([one.results[edit][i] for one, i in zip(shown, at, strict=True)])
        columns += [(label, made), ("true", column(edit))]
    cell = max(MIN_CELL, columns[0][1].shape[1])
    return contact_sheet(columns, [str(i + 1) for i in range(len(shown))], cell)


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
