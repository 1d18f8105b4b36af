"""The benchmark on a network of no size: what is counted and said, not how fast it is."""

from __future__ import annotations

import json

import pytest
import torch

from dpe_model.benchmark import BenchmarkOptions, run_benchmark, table
from dpe_model.benchmark import machine as machine_module
from dpe_model.benchmark.cases import JOBS, Material, PlainRun, run_engine
from dpe_model.benchmark.flops import PassCost, pass_cost
from dpe_model.benchmark.machine import PeakMemory
from dpe_model.benchmark.stages import STAGES
from dpe_model.checkpoint import BranchRoles, load_checkpoint, save_checkpoint
from dpe_model.commands import main
from dpe_model.engine import Engine
from dpe_model.network import NetworkConfig

from .tiny import CONFIG, clip, tiny_checkpoint, tiny_network

PASSES = {"still": (6, 5), "one": (10, 5), "both": (15, 10)}  # of five frames


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(path, tiny_network(), BranchRoles())
    return path


@pytest.fixture
def small_peaks(monkeypatch):
    monkeypatch.setattr(machine_module, "CONVOLUTIONS", ((8, 16),))
    monkeypatch.setattr(machine_module, "MATRIX", 32)
    monkeypatch.setattr(machine_module, "SECONDS", 0.01)


def material():
    return Material(clip(4), clip(3, seed=1))


def test_cost_of_the_published_network():
    cost = pass_cost(NetworkConfig())
    assert cost.encoder == pytest.approx(31.2e9, rel=0.01)
    assert cost.generator == pytest.approx(30.1e9, rel=0.01)
    assert cost.of(2, 1) == pytest.approx(92.5e9, rel=0.01)


def test_cost_by_hand():
    assert PassCost(3, 5).of(2, 4) == 26
    smaller = pass_cost(CONFIG)
    assert 0 < smaller.encoder < smaller.of(1, 1) < 2e6


@pytest.mark.parametrize("job", JOBS)
def test_nothing_is_computed_twice(job):
    timing = run_engine(Engine(tiny_checkpoint(), chunk=2), job, material(), 5)
    assert timing.frames == 5
    assert (timing.encoder, timing.generator) == PASSES[job]
    assert 0 < timing.first <= timing.seconds


@pytest.mark.parametrize("job", JOBS)
def test_the_plain_run_makes_the_same_pictures_the_long_way(job, model):
    checkpoint = load_checkpoint(model, training=True)
    branches = {"expression": "pose", "pose": "exp"}
    plain = PlainRun(checkpoint.network, torch.device("cpu"), branches)
    source, driving = material().cut(job, 5)
    expected = torch.cat(list(plain._frames(job, source, driving)))
    engine = Engine(load_checkpoint(model))
    rendered = []

    def keeping(render):
        def kept(*arguments):
            for frames in render(*arguments):
                rendered.append(frames)
                yield frames

        return kept

    engine.render_still, engine.render_stream = keeping(engine.render_still), keeping(engine.render_stream)
    run_engine(engine, job, material(), 5)
    assert torch.allclose(torch.cat(rendered), expected, atol=2e-4)
    timing = plain.run(job, material(), 5)
    assert (timing.encoder, timing.generator) == {"still": (10, 5), "one": (10, 5), "both": (15, 10)}[job]


def test_the_report(model, small_peaks):
    options = BenchmarkOptions(model, "cpu", ("fp32", "bf16", "fp32"), frames=(5,), reference=2, stages=False)
    report = run_benchmark(options)
    assert [(r["job"], r["precision"], r["frames"]) for r in report["runs"]] == [
        (job, precision, frames) for precision in ("fp32", "bf16") for job in JOBS for frames in (1, 5)
    ]
    cost = pass_cost(CONFIG)
    for run in report["runs"]:
        assert run["fps"] == pytest.approx(run["frames"] / run["seconds"], rel=0.05)
        flops = cost.of(run["encoder passes"], run["generator passes"])
        assert run["gflops"] == pytest.approx(flops / run["seconds"] / 1e9, rel=0.05, abs=0.01)
        assert ("times the reference" in run) == (run["frames"] == 5)
    for run in report["runs"][1::2]:
        reference = next(r for r in report["reference"] if r["job"] == run["job"])
        assert run["times the reference"] == pytest.approx(run["fps"] / reference["fps"], rel=0.05, abs=0.02)
    assert set(report["peak gflops"]) == {"fp32", "bf16"}
    text = table(json.loads(json.dumps(report)))
    for words in ("tiny.safetensors", "video, both branches", "plain fp32", "bf16"):
        assert words in text


def test_the_command(model, small_peaks, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dpe_model.benchmark.report.time_stages", lambda engine, n: dict.fromkeys(STAGES, 1.5))
    before = torch.get_num_threads()
    arguments = ["--model", str(model), "--device", "cpu", "--precision", "fp32", "--threads", "1"]
    arguments += ["--frames", "2", "3"]
    output = tmp_path / "deep" / "report.json"
    assert main(["benchmark", *arguments, "--jobs", "still", "--no-reference", "--output", str(output)]) == 0
    report = json.loads(output.read_text())
    assert report["machine"]["threads"] == 1
    assert report["reference"] == []
    assert [r["frames"] for r in report["runs"]] == [1, 2, 3]
    assert "encode video" in capsys.readouterr().out
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("wrong", [["--threads", "0"], ["--frames", "0"], ["--model", "none.safetensors"]])
def test_bad_input_is_one_line(wrong, capsys):
    assert main(["benchmark", "--device", "cpu", *wrong]) == 1
    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]) == 1


def test_stages_of_a_full_frame_edit(monkeypatch):
    """Also where the engine given keeps no encodings, each picture is encoded once and rendered once."""
    from dpe_model.benchmark.stages import time_stages

    encoded, rendered = [], []
    encode, generate = Engine._encode, Engine._generate
    monkeypatch.setattr(Engine, "_encode", lambda self, x, *a, **k: encoded.append(len(x)) or encode(self, x, *a, **k))
    monkeypatch.setattr(Engine, "_generate", lambda self, e, x, *a: rendered.append(len(x)) or generate(self, e, x, *a))
    found = time_stages(Engine(tiny_checkpoint(), chunk=2, feature_budget=0), 3)
    assert found["frames"] == 3
    assert (sum(encoded), sum(rendered)) == (6, 3)
    assert set(found) == {"frames", *STAGES}
    assert all(found[s] > 0 for s in STAGES)


def test_peak_memory_sees_what_is_gone_again():
    memory = PeakMemory(torch.device("cpu"))
    before = memory.read()
    if before is None:
        pytest.skip("this system does not tell")
    torch.ones(64 * 2**18)  # 64 MB
    after = memory.read()
    assert after is not None and after >= before
