"""What differs between devices: how many pictures fit, how tensors travel, how exact float32 is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .network import NetworkConfig

logger = logging.getLogger(__name__)

MOST_PICTURES = {"cpu": 4, "cuda": 16}
"""Pictures of 256 px at a time beyond which nothing is gained: the CPU's low-resolution layers then share their weights
(its large maps go one by one anyway), a GPU is busy."""
SHARE = 0.7
"""Part of the free memory that a chunk may take; the rest is for what is only estimated."""
MAPS = 12
"""Working memory of a picture in flight, in maps of the highest resolution."""


def picture_bytes(config: NetworkConfig, dtype: torch.dtype) -> int:
    """Working memory of one picture in flight, source features included: an estimate, in bytes."""
    return MAPS * config.channels[config.size] * config.size**2 * dtype.itemsize


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can be allocated on a GPU now; None where that is not known, or the operating system's business."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def best_chunk(config: NetworkConfig, dtype: torch.dtype, device: torch.device, free: int | None) -> int:
    """How many pictures to process at a time.

    Args:
        config, dtype: the network's.
        device: where it runs.
        free: bytes that can be allocated there, if known.
    """
    most = MOST_PICTURES.get(device.type, MOST_PICTURES["cuda"])
    most = min(max(most, most * 256**2 // config.size**2), 4 * most)
    if free is None:
        return most
    return max(1, min(most, int(free * SHARE) // picture_bytes(config, dtype)))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that the device's memory is exhausted. Only CUDA's has a type of its own."""
    text = str(error)
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Keep float32 convolutions on a GPU from being rounded to TF32, PyTorch's default; restored afterwards.

    Who asks for float32 there wants the exact result: the fast choice is half precision.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    try:
        before = cudnn.allow_tf32
        cudnn.allow_tf32 = False
    except RuntimeError as error:  # set by the newer of PyTorch's two interfaces, which does not go with this one
        logger.debug("TF32 is left as it is (%s).", error)
        yield
        return
    try:
        yield
    finally:
        cudnn.allow_tf32 = before


def upload(frames: Tensor, device: torch.device) -> Tensor:
    """Frames on the device; to a GPU without waiting for it."""
    if device.type != "cuda" or frames.device.type != "cpu":
        return frames.to(device)
    return frames.pin_memory().to(device, non_blocking=True)


class Download:
    """Tensors on their way to the CPU, on a stream of their own: the GPU goes on meanwhile."""

    def __init__(self, tensors: tuple[Tensor, ...], stream: torch.cuda.Stream | None = None) -> None:
        self._event: torch.cuda.Event | None = None
        if stream is None:
            self._tensors = tuple(t.cpu() for t in tensors)
            return
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.cuda.stream(stream):
            self._tensors = tuple(self._begin(t, stream) for t in tensors)
            self._event = stream.record_event()

    @staticmethod
    def _begin(tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
        arrived = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        tensor.record_stream(stream)  # its memory is not to be used again before it has left
        return arrived

    def wait(self) -> tuple[Tensor, ...]:
        """The tensors, once they have arrived; in ordinary memory, since locked pages are scarce."""
        if self._event is None:
            return self._tensors
        self._event.synchronize()
        return tuple(t.clone() for t in self._tensors)
