"""The machine: what it is, the most it computes, the memory a piece of work takes."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from ..devices import exact_float32

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_CPU = Path("/proc/cpuinfo")

CONVOLUTIONS = ((256, 64), (128, 128))
"""Channels and side of the 3x3 convolutions that the peak is taken from: the network's own, where they run best."""
MATRIX = 1024
SECONDS = 0.5
"""How long each is repeated: its fastest run counts, and a busy moment is not taken for the machine's limit."""


@dataclass(frozen=True)
class Peak:
    """The most the machine was seen to compute in one precision, GFLOP/s."""

    convolution: float
    matmul: float


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def measure_peak(dtype: torch.dtype, device: torch.device) -> Peak:
    """Time 3x3 convolutions and a matrix product."""
    # One picture at a time on a CPU, as the network takes maps this large there: more do not fit its caches, and how
    # fast they go depends on where in memory they happen to lie.
    pictures, factor = (16, 4) if device.type == "cuda" else (1, 1)
    best = 0.0
    for channels, side in CONVOLUTIONS:
        shape = (pictures, channels, side, side)
        x = torch.randn(shape, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
        weight = weight.contiguous(memory_format=torch.channels_last)
        flops = 2 * 9 * channels * x.numel()
        with exact_float32(device):
            best = max(best, _rate(partial(F.conv2d, x, weight, padding=1), flops, device))
    n = MATRIX * factor
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    with exact_float32(device):
        return Peak(best, _rate(lambda: a @ b, 2 * n**3, device))


def _rate(run: Callable[[], object], flops: int, device: torch.device) -> float:
    run()
    synchronize(device)
    best, end = float("inf"), time.perf_counter() + SECONDS
    while (start := time.perf_counter()) < end:
        run()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return flops / best / 1e9


class PeakMemory:
    """The most memory in use since this was made, in bytes: the GPU's, or the process's resident set."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with contextlib.suppress(OSError):
            _RESET.write_text("5")  # Linux: the high-water mark starts again from what is resident now

    def read(self) -> int | None:
        """Bytes; None where the system does not say. Where it cannot start again, the process's peak so far."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        try:
            line = next(s for s in _STATUS.read_text().splitlines() if s.startswith("VmHWM"))
        except (OSError, StopIteration):
            return None
        return int(line.split()[1]) * 1024


def describe(device: torch.device) -> dict[str, object]:
    """Processor, threads, versions, and how busy the machine was before."""
    found: dict[str, object] = {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    if hasattr(os, "getloadavg"):
        found["load"] = round(os.getloadavg()[0], 2)
    return found


def _processor() -> str:
    try:
        lines = _CPU.read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((s.split(":", 1)[1].strip() for s in lines if s.startswith("model name")), platform.processor())
