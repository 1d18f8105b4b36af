"""The network alone: pictures a second through encoder and generator, from and to the device's memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..devices import exact_float32
from ..engine import Engine
from ..frames import to_network
from .cases import Material
from .flops import PassCost
from .machine import Peak, synchronize

PASSES = ("encoder", "generator", "video")
ROUNDS = 3
SECONDS = 1.0
"""How long each pass is repeated; the fastest of `ROUNDS` such lots counts."""


@dataclass(frozen=True)
class PassRates:
    """Pictures a second.

    Attributes:
        encoder: pictures to codes and features.
        generator: codes and features to pictures of one branch.
        video: frames of a video edit of one branch: source and driver encoded, the motion edited, the result rendered.
        pictures: at a time.
    """

    encoder: float
    generator: float
    video: float
    pictures: int

    def entry(self, cost: PassCost, peak: Peak) -> dict[str, float | int]:
        """The numbers as the report gives them; the share of the peak is the generator's."""
        gflops = self.generator * cost.generator / 1e9
        return {
            "encoder": round(self.encoder, 2),
            "generator": round(self.generator, 2),
            "video": round(self.video, 2),
            "pictures": self.pictures,
            "gflops": round(gflops, 2),
            "share of convolution peak": round(gflops / peak.convolution, 3),
        }


@torch.no_grad()
def time_passes(engine: Engine, material: Material) -> PassRates:
    """Time the network of an engine on as many pictures at a time as the engine takes."""
    network, count = engine.network, engine.chunk
    frames = material.cut("one", count)
    source, driving = (to_network(clip, engine.size, engine.device) for clip in frames)
    branch = engine.checkpoint.roles.branch("expression")
    encoding = network.encode(source)
    alpha = network.motion(network.encode(driving, with_features=False).w)

    def edit_video() -> None:
        driver = network.motion(network.encode(driving, with_features=False).w)
        network.render(network.encode(source), driver, branch)

    with exact_float32(engine.device):
        return PassRates(
            encoder=count / _seconds(lambda: network.encode(source), engine.device),
            generator=count / _seconds(lambda: network.render(encoding, alpha, branch), engine.device),
            video=count / _seconds(edit_video, engine.device),
            pictures=count,
        )


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Seconds one run takes among many: a GPU is waited for at the end of a lot, and not after each."""
    run()
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    repeats = max(1, int(SECONDS / ROUNDS / (time.perf_counter() - start)))
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        synchronize(device)
        best = min(best, (time.perf_counter() - start) / repeats)
    return best
