"""A run's process among others: where it computes, what it agrees on with them, and who may stop it."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..devices import chosen_device
from .data import Share

PATIENCE = 5.0
"""Seconds after a request to stop in which another SIGTERM only says the same once more: launchers send it to a process
and to its group, or hand it on."""


class Interruption:
    """Turns SIGINT and SIGTERM into a request to stop after the step in hand.

    A SIGINT after that ends the process the usual way, and so does a SIGTERM when `PATIENCE` is over.
    """

    def __init__(self) -> None:
        self.requested = False
        self._asked = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            # Handlers can only be set in the main thread; elsewhere the host decides.
            with contextlib.suppress(ValueError):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._asked = True, now
        elif number == signal.SIGINT or now - self._asked > PATIENCE:
            self.__exit__()
            signal.raise_signal(number)


def pick_device(name: str) -> torch.device:
    """As `chosen_device`, but `auto` and `cuda` mean this process's GPU where `torchrun` started it."""
    local = os.environ.get("LOCAL_RANK")
    return chosen_device(name, None if local is None else int(local))


@contextlib.contextmanager
def process_group(device: str) -> Iterator[Share]:
    """Join the processes that `torchrun` started, if it did; yields this one's share."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield Share()
        return
    chosen = pick_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Share(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def synchronised(module: nn.Module, share: Share) -> nn.Module:
    """A module whose gradients are the mean over all processes; the module itself where there is one."""
    if share.world == 1:
        return module
    # Buffers never change. What says so has another name since PyTorch 2.13, which warns of the old one.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    still: dict[str, Any] = {name: False}
    return DistributedDataParallel(module, find_unused_parameters=True, **still)


def agreed(share: Share, device: torch.device, *flags: bool) -> list[bool]:
    """Each flag, set on all processes where one has it set."""
    if share.world == 1:
        return list(flags)
    joint = torch.tensor([float(f) for f in flags], device=device)
    dist.all_reduce(joint, op=dist.ReduceOp.MAX)
    return [bool(f) for f in joint]
