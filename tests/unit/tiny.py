"""Networks small enough for tests of seconds."""

from __future__ import annotations

import numpy as np
import torch

from dpe_model.checkpoint import BranchRoles, Checkpoint
from dpe_model.network import DPENetwork, NetworkConfig
from dpe_model.portrait import Face

CONFIG = NetworkConfig(size=16, style_dim=8, motion_dim=3, channels={4: 8, 8: 8, 16: 4})


def tiny_network(seed: int = 0, config: NetworkConfig = CONFIG) -> DPENetwork:
    torch.manual_seed(seed)
    network = DPENetwork(config)
    with torch.no_grad():
        for parameter in network.parameters():  # biases start at zero: make them count too
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def tiny_checkpoint(seed: int = 0, fingerprint: str = "tiny") -> Checkpoint:
    return Checkpoint(tiny_network(seed).fold(), BranchRoles(), fingerprint, "tiny.safetensors")


def clip(frames: int, size: int = 16, seed: int = 0) -> torch.Tensor:
    """Frames [N, size, size, 3] uint8, each one different."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, size, size, 3), generator=generator, dtype=torch.uint8)


class Faces:
    """A detector that sees faces at fixed places of every frame, given as x and y in 0..1; in the middle by default."""

    def __init__(self, *places: tuple[float, float], radius: float = 1 / 6) -> None:
        self.places, self.radius = places or ((0.5, 0.5),), radius

    def detect(self, frames: torch.Tensor) -> list[list[Face]]:
        """The faces of frames [N, H, W, 3]; the radius is in heights of the frame."""
        height, width = frames.shape[1:3]
        return [[_face(x * width, y * height, self.radius * height) for x, y in self.places] for _ in frames]


def _face(x: float, y: float, r: float) -> Face:
    marks = [[x - r / 2, y - r / 2], [x + r / 2, y - r / 2], [x, y], [x - r / 3, y + r / 2], [x + r / 3, y + r / 2]]
    return Face((x - r, y - r, x + r, y + r), np.array(marks), 0.99)
