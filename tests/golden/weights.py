"""Weights drawn from each tensor's name and a seed, so that the published layout is checked without a 276 MB file."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"


def manifest(name: str) -> dict[str, list[int]]:
    return json.loads((DATA / f"{name}_manifest.json").read_text())


def draw(name: str, shape: list[int], seed: int) -> Tensor:
    generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    values = generator.standard_normal(tuple(shape), dtype=np.float32)
    if name.endswith("modulation.bias"):
        values = 1.0 + 0.1 * values
    elif name.endswith(("bias", "noise.weight")):
        values = 0.1 * values
    return torch.from_numpy(values)


def state_dict(names: dict[str, list[int]], seed: int = 0) -> dict[str, Tensor]:
    """Every tensor of a manifest except the fixed blur kernels."""
    return {n: draw(n, s, seed) for n, s in names.items() if not n.endswith(".kernel")}
