"""Networks small enough for tests of seconds."""

from __future__ import annotations

import torch

from dpe_model.checkpoint import BranchRoles, Checkpoint
from dpe_model.network import DPENetwork, NetworkConfig

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
