"""Memory, transfers and float32 by device; GPUs are played by stand-ins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dpe_model import devices
from dpe_model.devices import (
    Download,
    best_chunk,
    chosen_device,
    exact_float32,
    is_out_of_memory,
    picture_bytes,
    upload,
)
from dpe_model.engine import Engine, Services
from dpe_model.errors import DPEError
from dpe_model.network import NetworkConfig

from .tiny import CONFIG, clip, tiny_checkpoint

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FULL = NetworkConfig()


def test_working_memory_of_the_published_network():
    assert picture_bytes(FULL, torch.float32) == 2 * picture_bytes(FULL, torch.bfloat16)
    assert 150 * 2**20 < picture_bytes(FULL, torch.float32) < 250 * 2**20


@pytest.mark.parametrize(
    ("free", "chunk"), [(None, 16), (80 * 2**30, 16), (4 * 2**30, 14), (2**30, 3), (100 * 2**20, 1), (0, 1)]
)
def test_the_chunk_fits_the_free_memory(free, chunk):
    assert best_chunk(FULL, torch.float32, CUDA, free) == chunk


def test_smaller_pictures_more_at_a_time():
    assert best_chunk(FULL, torch.float32, CPU, None) == 4
    assert best_chunk(NetworkConfig.published(128), torch.float32, CPU, None) == 16
    assert best_chunk(CONFIG, torch.float32, CPU, None) == 16


def test_the_engine_asks_its_surroundings():
    asked = []

    def free(device):
        asked.append(device)
        return 5 * picture_bytes(CONFIG, torch.float32)

    engine = Engine(tiny_checkpoint(), services=Services(free_bytes=free))
    assert (engine.chunk, asked) == (3, [CPU])
    assert len(engine.encode(clip(7)).motion) == 7


def test_memory_of_the_cpu_is_not_asked_for():
    assert devices.available_bytes(CPU) is None


def test_free_memory_includes_what_pytorch_holds_unused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    assert devices.available_bytes(CUDA) == 1200


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("x"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: ...)"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_errors_that_mean_too_little_memory(error, expected):
    assert is_out_of_memory(error) is expected


def test_other_errors_are_not_retried(monkeypatch):
    engine = Engine(tiny_checkpoint(), chunk=4)
    calls = []

    def broken(images, with_features=True):
        calls.append(1)
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(engine.network, "encode", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        engine.encode(clip(4))
    assert len(calls) == 1


def test_float32_is_exact_inside_only():
    before = torch.backends.cudnn.allow_tf32
    with exact_float32(CUDA):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
    with pytest.raises(KeyError), exact_float32(CUDA):
        raise KeyError
    assert torch.backends.cudnn.allow_tf32 == before
    with exact_float32(CPU):
        assert torch.backends.cudnn.allow_tf32 == before


def test_upload_to_the_cpu_copies_nothing():
    frames = clip(2)
    assert upload(frames, CPU).data_ptr() == frames.data_ptr()


class Event:
    def __init__(self):
        self.waited = False

    def synchronize(self):
        self.waited = True


class Stream:
    """A stand-in for a CUDA stream."""

    device = CUDA

    def __init__(self):
        self.events, self.behind = [], []

    def wait_stream(self, other):
        self.behind.append(other)

    def record_event(self):
        self.events.append(Event())
        return self.events[-1]


@pytest.fixture
def stream(monkeypatch):
    from contextlib import nullcontext

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "compute")
    monkeypatch.setattr(torch.cuda, "stream", lambda s: nullcontext())
    monkeypatch.setattr(Download, "_begin", staticmethod(lambda tensor, stream: tensor.clone()))
    return Stream()


def test_a_download_waits_for_the_computation_and_is_waited_for(stream):
    values = torch.arange(4.0)
    download = Download((values,), stream)
    assert stream.behind == ["compute"]
    assert not stream.events[0].waited
    (arrived,) = download.wait()
    assert stream.events[0].waited
    assert torch.equal(arrived, values)


def test_one_chunk_is_computed_while_the_last_one_is_used(stream):
    engine = Engine(tiny_checkpoint(), chunk=2, feature_budget=0)
    latent = engine.encode(clip(6))
    expected = torch.cat(list(engine.render(latent, "pose")))
    engine._stream = stream
    parts = []
    for part in engine.render(latent, "pose"):
        parts.append(part)
        begun, done = len(stream.events), sum(e.waited for e in stream.events)
        assert done == len(parts)
        assert begun == min(len(parts) + 1, 3)
    assert torch.equal(torch.cat(parts), expected)


def test_expanded_frames_are_pinned_too(monkeypatch):
    """A tensor whose elements share memory cannot be pinned as it is: PyTorch copies into one of the same strides."""
    pinned = []

    def pin(tensor):
        pinned.append(tensor.stride())
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, non_blocking=False: tensor)
    grey = torch.rand(2, 16, 16, 1)
    assert torch.equal(upload(grey.expand(-1, -1, -1, 3), CUDA), grey.repeat(1, 1, 1, 3))
    assert len(pinned) == 1


def test_tf32_stays_off_until_the_last_who_needs_that_is_done():
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = True
    try:
        first, second = exact_float32(CUDA), exact_float32(CUDA)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not any(switch.allow_tf32 for switch in switches)
        second.__exit__(None, None, None)
        assert all(switch.allow_tf32 for switch in switches)
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


FLOAT32_STATE = """
import torch

def state():
    backends, found = torch.backends, []
    for read in (lambda: backends.cudnn.conv.fp32_precision, lambda: backends.cuda.matmul.fp32_precision,
                 lambda: backends.fp32_precision, torch.get_float32_matmul_precision):
        try:
            found.append(read())
        except RuntimeError:  # the older interface after the newer one was used
            found.append("?")
    return found
"""


@pytest.mark.parametrize(
    "asked", ["torch.backends.fp32_precision = 'tf32'", "torch.set_float32_matmul_precision('medium')"]
)
def test_tf32_that_was_asked_for_in_other_ways_is_off_inside_and_back_afterwards(asked):
    """In a process of its own: the settings are the whole process's, and the two interfaces do not mix."""
    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("this PyTorch has one interface only")
    lines = [FLOAT32_STATE, asked, "from dpe_model.devices import exact_float32", "before = state()",
             "with exact_float32(torch.device('cuda')):", "    inside = state()[:2]",
             "assert before[:2] == ['tf32', 'tf32'], before", "assert 'tf32' not in inside, inside",
             "assert state() == before, (before, state())"]  # fmt: skip
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("name", "words"),
    [("gpu", "expected auto, cpu"), ("cuda:9", "finds 0 GPUs"), ("", "'"), ("xpu", "has none here"), ("meta", "none")],
)
def test_a_device_that_is_not_there(monkeypatch, name, words):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DPEError, match=words):
        chosen_device(name)
