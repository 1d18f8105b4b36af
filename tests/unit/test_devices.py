"""Memory, transfers and float32 by device; GPUs are played by stand-ins."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dpe_model import devices
from dpe_model.devices import (
    Download,
    best_chunk,
    best_dtype,
    chosen_device,
    exact_float32,
    is_out_of_memory,
    picture_bytes,
    upload,
)
from dpe_model.engine import Engine, Services, resolve_precision
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


@pytest.mark.parametrize(("device", "number"), [(CUDA, 1), (torch.device("cuda", 0), 0)])
def test_free_memory_includes_what_pytorch_holds_unused(monkeypatch, device, number):
    """Asked by number: versions before 2.5 refuse a device that has none."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: {number: (1000, 5000)}[index])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda index: {number: 300}[index])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda index: {number: 100}[index])
    assert devices.available_bytes(device) == 1200


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
        (RuntimeError("FIND was unable to find an engine to execute this computation"), True),
        (RuntimeError("Could not allocate tensor with 9 bytes. There is not enough GPU video memory available!"), True),
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


@pytest.fixture
def unlocked(monkeypatch):
    """A system that grants no locked memory, as containers may."""

    def refuse(*sizes, pin_memory=False, **options):
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later")
        return empty(*sizes, **options)

    empty = torch.empty
    devices._say_unlocked.cache_clear()
    monkeypatch.setattr(torch, "empty", refuse)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: refuse(pin_memory=True))


def test_without_locked_memory_frames_travel_by_an_ordinary_copy(monkeypatch, unlocked, caplog):
    waited = []

    def to(tensor, device, non_blocking=False):
        waited.append(not non_blocking)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "to", to)
    frames = clip(2)
    with caplog.at_level(logging.INFO):
        assert torch.equal(upload(frames, CUDA), frames)
        assert torch.equal(upload(frames, CUDA), frames)
    assert waited == [True, True]
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "CUDA error: out of memory" in caplog.text and "kernel errors" not in caplog.text


def test_without_locked_memory_results_come_back_by_an_ordinary_copy(monkeypatch, unlocked):
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "compute")
    monkeypatch.setattr(torch.cuda, "stream", lambda s: nullcontext())
    values, stream = torch.arange(4.0), Stream()
    download = Download((values,), stream)
    assert torch.equal(download.wait()[0], values)
    assert stream.behind == ["compute"] and stream.events[0].waited


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


def in_processes_of_their_own(cases):
    """Run scripts, each where no setting was touched: the settings are the whole process's."""
    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("this PyTorch has one interface only")
    root, alone = Path(__file__).parents[2], {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        (case, subprocess.Popen([sys.executable, "-c", script], cwd=root, env=alone, stderr=subprocess.PIPE, text=True))
        for case, script in cases.items()
    ]
    said = {case: process.communicate()[1] for case, process in running}
    assert {case: said[case] for case, process in running if process.returncode} == {}


def test_tf32_that_was_asked_for_in_other_ways_is_off_inside_and_back_afterwards():
    """The two interfaces do not mix."""
    asked = "torch.backends.fp32_precision = 'tf32'", "torch.set_float32_matmul_precision('medium')"
    in_processes_of_their_own({case: tf32_script(case) for case in asked})


def tf32_script(asked):
    lines = [FLOAT32_STATE, asked, "from dpe_model.devices import exact_float32", "before = state()",
             "with exact_float32(torch.device('cuda')):", "    inside = state()[:2]",
             "assert before[:2] == ['tf32', 'tf32'], before", "assert 'tf32' not in inside, inside",
             "assert state() == before, (before, state())"]  # fmt: skip
    return "\n".join(lines)


def test_what_follows_a_backend_s_precision_goes_on_following_it():
    """What the older interface says also stays readable, unless it was not to begin with."""
    cases = [
        ("", "torch.backends"),
        ("", "torch.backends.cudnn"),
        ("torch.backends.fp32_precision = 'tf32'", "torch.backends"),
        ("torch.backends.cudnn.fp32_precision = 'tf32'", "torch.backends.cudnn"),
    ]
    in_processes_of_their_own({case: following_script(*case) for case in cases})


def following_script(before, backend):
    lines = [FLOAT32_STATE, before, "from dpe_model.devices import exact_float32", "start = state()",
             "products = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul",
             "products = products[: 1 if 'cudnn' in " + repr(backend) + " else 2]",
             "with exact_float32(torch.device('cuda')):", "    assert products[0].fp32_precision == 'ieee'",
             "assert state() == start, (start, state())",
             "for value in ('ieee', 'tf32', 'none'):", f"    {backend}.fp32_precision = value",
             "    found = [each.fp32_precision for each in products]",
             "    assert found == [torch.backends.cudnn.fp32_precision] * len(products), (value, found)"]  # fmt: skip
    return "\n".join(lines)


class Number:
    """What a GPU holds; it cannot be added to where there is no code for the GPU."""

    def __init__(self, computes):
        self.computes = computes

    def __add__(self, other):
        if not self.computes:
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")
        return self

    def cpu(self):
        return torch.zeros(1)


@pytest.fixture(params=[True, False], ids=["works", "no code"])
def computes(request, monkeypatch):
    """A GPU whose memory can be had in any case."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for make in ("empty", "ones"):
        monkeypatch.setattr(torch, make, lambda *size, device: Number(request.param))
    return request.param


def test_auto_takes_a_gpu_that_computes(computes, caplog):
    assert chosen_device("auto") == (CUDA if computes else CPU)
    assert ("no kernel image is available for execution on the device)" in caplog.text) is not computes
    assert len(caplog.records) == (0 if computes else 1)


def test_a_named_gpu_that_does_not_compute_is_refused(computes):
    if computes:
        assert chosen_device("cuda:0") == torch.device("cuda", 0)
        return
    with pytest.raises(DPEError, match="cuda:0 was asked for, but PyTorch cannot compute there .*no kernel image"):
        chosen_device("cuda:0")


def test_auto_without_a_gpu(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == CPU
    assert not caplog.records


def card(monkeypatch, name="", capability=(0, 0), architecture=None):
    """Have PyTorch find a GPU: NVIDIA's, or AMD's by its architecture."""
    monkeypatch.setattr(torch.version, "hip", None if architecture is None else "6.2")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    properties = SimpleNamespace(gcnArchName=architecture)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


@pytest.mark.parametrize(
    ("name", "capability", "dtype"),
    [
        ("NVIDIA H200", (9, 0), torch.bfloat16),
        ("NVIDIA GeForce RTX 3060", (8, 6), torch.bfloat16),
        ("NVIDIA RTX A2000", (8, 6), torch.bfloat16),
        ("Tesla T4", (7, 5), torch.float16),
        ("NVIDIA GeForce RTX 2080 Ti", (7, 5), torch.float16),
        ("Quadro RTX 5000", (7, 5), torch.float16),
        ("Tesla V100-SXM2-16GB", (7, 0), torch.float16),
        ("NVIDIA GeForce GTX 1660 SUPER", (7, 5), torch.float32),
        ("NVIDIA GeForce GTX 1650", (7, 5), torch.float32),
        ("NVIDIA GeForce MX450", (7, 5), torch.float32),
        ("NVIDIA T1000 8GB", (7, 5), torch.float32),
        ("NVIDIA CMP 30HX", (7, 5), torch.float32),
        ("NVIDIA GeForce GTX 1080 Ti", (6, 1), torch.float32),
        ("Tesla P100-PCIE-16GB", (6, 0), torch.float32),
    ],
)
def test_precision_of_nvidias_cards(monkeypatch, name, capability, dtype):
    card(monkeypatch, name, capability)
    assert best_dtype(CUDA) == dtype


@pytest.mark.parametrize(
    ("architecture", "capability", "dtype"),
    [
        ("gfx803", (8, 0), torch.float16),
        ("gfx906:sramecc+:xnack-", (9, 0), torch.float16),
        ("gfx908:sramecc+:xnack-", (9, 0), torch.bfloat16),
        ("gfx90a:sramecc+:xnack-", (9, 0), torch.bfloat16),
        ("gfx942", (9, 4), torch.bfloat16),
        ("gfx1012", (10, 1), torch.float16),
        ("gfx1030", (10, 3), torch.float16),
        ("gfx1100", (11, 0), torch.bfloat16),
        ("gfx1201", (12, 0), torch.bfloat16),
    ],
)
def test_precision_of_amds_cards(monkeypatch, architecture, capability, dtype):
    card(monkeypatch, "AMD Radeon", capability, architecture)
    assert best_dtype(CUDA) == dtype


@pytest.mark.parametrize("kind", ["cpu", "mps", "xpu"])
def test_other_devices_compute_in_float32(kind):
    assert best_dtype(torch.device(kind)) == torch.float32


@pytest.mark.parametrize(
    ("name", "capability", "dtype"),
    [
        ("NVIDIA GeForce RTX 2080", (7, 5), torch.float16),
        ("NVIDIA GeForce GTX 1650", (7, 5), torch.float32),
        ("NVIDIA GeForce RTX 3060", (8, 6), torch.bfloat16),
    ],
)
def test_bf16_that_a_card_has_not_is_replaced_and_said(monkeypatch, caplog, name, capability, dtype):
    card(monkeypatch, name, capability)
    assert resolve_precision("bf16", "cuda") == dtype
    replaced = dtype != torch.bfloat16
    assert [record.getMessage() for record in caplog.records] == (
        [f"bf16: this GPU has none; {str(dtype).removeprefix('torch.')} is used. Choose auto."] if replaced else []
    )
    assert resolve_precision("fp16", "cuda") == torch.float16
    assert resolve_precision("auto", "cuda") == dtype
    assert len(caplog.records) == replaced


@pytest.mark.parametrize(
    ("name", "words"),
    [("gpu", "expected auto, cpu"), ("cuda:9", "finds 0 GPUs"), ("", "'"), ("xpu", "has none here"), ("meta", "none")],
)
def test_a_device_that_is_not_there(monkeypatch, name, words):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DPEError, match=words):
        chosen_device(name)
