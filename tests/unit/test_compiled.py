"""Compiled passes: the same pictures, few compilations, and the plain network where compiling fails."""

from __future__ import annotations

import logging

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from dpe_model.checkpoint import BranchRoles, Checkpoint
from dpe_model.engine import compile_on_gpu
from dpe_model.jobs import ModelOptions
from dpe_model.network import DPENetwork
from dpe_model.network.compiled import CompiledPasses
from dpe_model.network.config import BRANCHES

from .tiny import CONFIG, tiny_network


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def network() -> DPENetwork:
    return tiny_network().fold()


def passes(network, compiler) -> CompiledPasses:
    return CompiledPasses(network.enc, {b: network.generator(b) for b in BRANCHES}, compiler)


@torch.no_grad()
def check_same(network, compiled, count):
    images = torch.rand(count, 3, 16, 16) * 2 - 1
    plain, found = network.enc(images), compiled.encode(images, True)
    assert torch.equal(plain.w, found.w) and torch.equal(compiled.encode(images, False).w, plain.w)
    assert all(torch.equal(a, b) for a, b in zip(plain.features, found.features, strict=True))
    z = plain.w + torch.randn_like(plain.w)
    for branch in BRANCHES:
        rendered = compiled.render(z, found.features, branch)
        assert torch.equal(rendered, network.generator(branch)(z, plain.features))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pass_is_one_graph_for_any_number_of_pictures(dtype):
    network, counter = tiny_network().fold(dtype), CompileCounter()
    compiled = passes(network, lambda f: torch.compile(f, fullgraph=True, backend=counter))
    for count in (4, 7, 2, 5):
        check_same(network, compiled, count)
    # Codes, encoding, and the generators, which differ in their weights alone: some PyTorch compiles each of the two.
    assert counter.frame_count in (3, 4)


def test_one_picture_and_a_still_for_many(network):
    compiled = passes(network, lambda f: torch.compile(f, fullgraph=True, backend="eager"))
    check_same(network, compiled, 1)
    with torch.no_grad():
        still = network.enc(torch.rand(1, 3, 16, 16))
        z, features = torch.randn(5, CONFIG.style_dim), tuple(f.expand(5, -1, -1, -1) for f in still.features)
        assert torch.equal(compiled.render(z, features, "exp"), network.generator("exp")(z, features))


def test_where_compiling_fails_the_plain_network_goes_on(network, caplog):
    tried = []

    def no_compiler(graph, inputs):
        tried.append(1)
        raise RuntimeError("Cannot find a working triton installation")

    compiled = passes(network, lambda f: torch.compile(f, fullgraph=True, backend=no_compiler))
    with caplog.at_level(logging.WARNING):
        check_same(network, compiled, 3)
        check_same(network, compiled, 3)
    assert len(tried) == 4 and len(caplog.records) == 4  # each pass once
    assert "triton" in caplog.text and "going on without" in caplog.text


def test_too_little_memory_is_for_the_engine_to_mend(network):
    def full(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    compiled = passes(network, lambda f: full)
    for _ in range(2):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            compiled.encode(torch.zeros(2, 3, 16, 16), True)


def test_cpus_and_gradients_take_their_own_way(network):
    called = []

    def compiler(function):
        called.append(function)
        return function

    network.compile_passes(compiler)
    with torch.no_grad():
        encoding = network.encode(torch.zeros(2, 3, 16, 16))
        network.render(encoding, network.motion(encoding.w), "pose")
    network.encode(torch.zeros(2, 3, 16, 16))
    assert not called


def test_only_cuda_is_compiled_for(caplog):
    checkpoint = Checkpoint(tiny_network().fold(), BranchRoles(), "tiny", "tiny.safetensors")
    with caplog.at_level(logging.INFO):
        compile_on_gpu(checkpoint, torch.device("cpu"))
    assert checkpoint.network._compiled is None and "CUDA GPUs only; cpu" in caplog.text
    compile_on_gpu(checkpoint, torch.device("cuda"))
    assert checkpoint.network._compiled is not None


def test_the_choice_reaches_the_model(caplog):
    with caplog.at_level(logging.INFO):
        ModelOptions(device="cpu", compiled=True).engine()
    assert "goes on without it" in caplog.text


@pytest.mark.parametrize("error", [AssertionError("expected size"), ImportError("no triton"), KeyError("device")])
@pytest.mark.parametrize("when", ["made", "called"])
def test_a_compiler_may_fail_in_any_way(network, caplog, error, when):
    def fail(*args):
        raise error

    def compiler(function):
        return fail(function) if when == "made" else fail

    compiled = passes(network, compiler)
    with caplog.at_level(logging.WARNING):
        check_same(network, compiled, 2)
    assert len(caplog.records) == 4
