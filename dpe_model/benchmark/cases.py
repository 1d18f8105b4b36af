"""The jobs that are timed: on frames in memory, through the engine and through the plain network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..checkpoint import Role
from ..devices import exact_float32
from ..engine import Engine
from ..frames import from_network, to_network
from ..motion import Edit, EditPlan
from ..network import DPENetwork
from .flops import PassCost
from .machine import PeakMemory, synchronize

Job = Literal["still", "one", "both"]
JOBS: dict[Job, str] = {
    "still": "still image, one branch",
    "one": "video, one branch",
    "both": "video, both branches",
}
ROLES: dict[Job, tuple[Role, ...]] = {
    "still": ("expression",),
    "one": ("expression",),
    "both": ("expression", "pose"),
}


@dataclass(frozen=True)
class Material:
    """What the jobs work on: source and driver, [N, S, S, 3] uint8, of equal length."""

    source: Tensor
    driver: Tensor

    def cut(self, job: Job, frames: int) -> tuple[Tensor, Tensor]:
        """Source and driver of a job of so many frames; a short clip is repeated."""
        index = torch.arange(frames)
        source = self.source[:1] if job == "still" else self.source[index % len(self.source)]
        return source, self.driver[index % len(self.driver)]


@dataclass(frozen=True)
class Timing:
    """How a job went.

    Attributes:
        frames: rendered.
        seconds: from the frames in memory to the last result, the model being loaded.
        first: seconds until the first frames were there.
        encoder, generator: pictures that went through.
        peak_memory: bytes, if known.
    """

    frames: int
    seconds: float
    first: float
    encoder: int
    generator: int
    peak_memory: int | None

    def entry(self, cost: PassCost) -> dict[str, float | int | None]:
        """The numbers as the report gives them."""
        return {
            "frames": self.frames,
            "seconds": round(self.seconds, 4),
            "fps": round(self.frames / self.seconds, 4),
            "gflops": round(cost.of(self.encoder, self.generator) / self.seconds / 1e9, 2),
            "first frame seconds": round(self.first, 4),
            "encoder passes": self.encoder,
            "generator passes": self.generator,
            "peak memory bytes": self.peak_memory,
        }


def run_engine(engine: Engine, job: Job, material: Material, frames: int) -> Timing:
    """Measure the driver, encode and render the source: what a job does between decoding and encoding the clips."""
    source, driving = material.cut(job, frames)
    engine.passes.encoder = engine.passes.generator = 0

    def run() -> Iterator[Tensor]:
        plan = EditPlan.make((Edit(engine.measure([driving])),), frames, "trim")
        steps = [(role, plan) for role in ROLES[job]]
        yield from engine.render_still(source, steps) if job == "still" else engine.render_stream([source], steps)

    done, seconds, first, memory = _time(run(), engine.device)
    return Timing(done, seconds, first, engine.passes.encoder, engine.passes.generator, memory)


class PlainRun:
    """The reference: float32, one picture at a time, nothing kept, nothing multiplied in beforehand.

    What the published scripts do: source and driver are encoded for every frame, a still one too, and the basis of
    motion is decomposed again. (Their convolutions take weights modulated for each picture, which this does not copy.)

    Args:
        network: in its training form.
        device: where it runs.
        branches: the branch of each role.
    """

    def __init__(self, network: DPENetwork, device: torch.device, branches: dict[Role, str]) -> None:
        self.network = network.to(device).eval()
        self.device = device
        self.branches = branches

    def run(self, job: Job, material: Material, frames: int) -> Timing:
        """Time a job of so many frames."""
        source, driving = material.cut(job, frames)
        passes = len(ROLES[job])
        done, seconds, first, memory = _time(self._frames(job, source, driving), self.device)
        return Timing(done, seconds, first, (passes + 1) * frames, passes * frames, memory)

    @torch.no_grad()
    def _frames(self, job: Job, source: Tensor, driving: Tensor) -> Iterator[Tensor]:
        network, size = self.network, self.network.config.size
        for i in range(len(driving)):
            images = to_network(source[i % len(source)], size, self.device)
            with exact_float32(self.device):
                alpha = network.motion(network.encode(to_network(driving[i], size, self.device)).w)
                for role in ROLES[job]:
                    branch: Literal["pose", "exp"] = "pose" if self.branches[role] == "pose" else "exp"
                    images = network.render(network.encode(images), alpha, branch)
            yield from_network(images).cpu()


def _time(chunks: Iterator[Tensor], device: torch.device) -> tuple[int, float, float, int | None]:
    """Frames, seconds, seconds to the first, peak memory."""
    memory = PeakMemory(device)
    synchronize(device)
    start = time.perf_counter()
    done, first = 0, 0.0
    for frames in chunks:
        done += len(frames)
        first = first or time.perf_counter() - start
    synchronize(device)
    return done, time.perf_counter() - start, first, memory.read()
