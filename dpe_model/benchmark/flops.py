"""What a pass costs, counted on the plain network without computing anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..network import DPENetwork, NetworkConfig


@dataclass(frozen=True)
class PassCost:
    """Floating point operations (two for each multiply-add) of one picture through encoder and generator.

    They are those of the published network's layers as they stand: shortcuts in how a layer is computed do not count.
    """

    encoder: int
    generator: int

    def of(self, encoder: int, generator: int) -> int:
        """Operations of so many passes."""
        return encoder * self.encoder + generator * self.generator


def pass_cost(config: NetworkConfig) -> PassCost:
    """Count the operations of one picture through a network of this size."""
    with torch.device("meta"):
        network = DPENetwork(config).requires_grad_(False)
        images, code = torch.empty(1, 3, config.size, config.size), torch.empty(1, config.style_dim)
        encoding = network.encode(images)
        return PassCost(
            _count(lambda: network.encode(images)),
            _count(lambda: network.generator("pose")(code, encoding.features)),
        )


def _count(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
