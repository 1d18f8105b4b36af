"""The benchmark: precisions, jobs and the reference, as one report."""

from __future__ import annotations

import gc
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..bundled import DRIVING_CLIP, SOURCE_CLIP
from ..checkpoint import ROLES, Role, load_checkpoint
from ..engine import Engine, Precision
from ..errors import OptionError
from ..jobs import ModelOptions, Reporter, Silent
from ..memory import return_free_memory
from ..video import read_frames
from .cases import JOBS, Job, Material, PlainRun, Timing, run_engine
from .flops import PassCost, pass_cost
from .machine import describe, measure_peak
from .passes import PASSES, time_passes
from .stages import STAGES, time_stages

MATERIAL = 32
"""Frames of the bundled clips that are used."""
SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is measured.

    Attributes:
        model: a model file; None is the bundled one.
        device: see `ModelOptions`.
        precisions: each is measured.
        jobs: which.
        frames: lengths of the long runs; each job is also run for a single frame.
        reference: frames of the plain run, 0 for none. It works frame by frame, so a few tell its speed.
        stages: also take the times of the stages of a full-frame edit.
        compiled: see `ModelOptions`.
    """

    model: Path | None = None
    device: str = "auto"
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    jobs: tuple[Job, ...] = tuple(JOBS)
    frames: tuple[int, ...] = (32,)
    reference: int = 3
    stages: bool = True
    compiled: bool = False

    def __post_init__(self) -> None:
        if not self.frames or min(self.frames) < 1 or self.reference < 0:
            given = ", ".join(map(str, self.frames))
            raise OptionError(f"frames: expected at least 1 (reference: 0), got {given} ({self.reference}).")


@dataclass
class _Run:
    """One benchmark's progress."""

    options: BenchmarkOptions
    reporter: Reporter
    report: dict[str, Any] = field(default_factory=dict)

    def measure(self, precision: Precision) -> None:
        """All jobs in one precision."""
        options = self.options
        engine = ModelOptions(options.model, precision, options.device, options.compiled).engine()
        name = SHORT[engine.network.compute_dtype]
        cost = pass_cost(engine.checkpoint.config)
        self._describe(engine, cost)
        material = _material()
        with self.reporter.stage(f"{name}: peak of the machine", None):
            return_free_memory()  # in the pieces that loading left, convolutions take half as long again
            peak = measure_peak(engine.network.compute_dtype, engine.device)
        self.report["peak gflops"][name] = {k: round(v, 1) for k, v in asdict(peak).items()}
        with self.reporter.stage(f"{name}: passes on the device", None):
            self.report["passes"][name] = time_passes(engine, material).entry(cost, peak)
        self._warm(engine, material)
        for job in options.jobs:
            for frames in dict.fromkeys((1, *options.frames)):
                with self.reporter.stage(f"{name}: {JOBS[job]}", frames) as count:
                    timing = run_engine(engine, job, material, frames)
                    count(frames)
                entry = timing.entry(cost)
                share = float(entry["gflops"] or 0.0) / peak.convolution
                self.report["runs"].append(
                    {"job": job, "precision": name, **entry, "share of convolution peak": round(share, 3)}
                )
        if options.stages:
            with self.reporter.stage(f"{name}: stages of a full-frame edit", None):
                self.report["stage milliseconds"][name] = time_stages(engine, min(options.frames))

    def _warm(self, engine: Engine, material: Material) -> None:
        """A first run is not like the others: memory is found, kernels are chosen; or compiled, for each shape."""
        many = min(max(self.options.frames), engine.chunk)
        if not self.options.compiled:
            run_engine(engine, "one", material, many)
            return
        for job in self.options.jobs:
            for frames in (1, many):
                run_engine(engine, job, material, frames)

    def compare(self) -> None:
        """The plain run, and how much faster every other is."""
        options = self.options
        opened = ModelOptions(options.model, "fp32", options.device).engine()
        checkpoint = load_checkpoint(_path(opened), training=True)
        branches: dict[Role, str] = {role: checkpoint.roles.branch(role) for role in ROLES}
        plain = PlainRun(checkpoint.network.requires_grad_(False), opened.device, branches)
        cost, material = pass_cost(checkpoint.config), _material()
        plain.run("one", material, 1)  # warm
        for job in options.jobs:
            with self.reporter.stage(f"reference: {JOBS[job]}", options.reference) as count:
                timing: Timing = plain.run(job, material, options.reference)
                count(options.reference)
            entry = timing.entry(cost)
            self.report["reference"].append({"job": job, **entry})
            for run in self.report["runs"]:
                if run["job"] == job and run["frames"] in options.frames:
                    run["times the reference"] = round(run["fps"] * timing.seconds / timing.frames, 2)

    def _describe(self, engine: Engine, cost: PassCost) -> None:
        checkpoint = engine.checkpoint
        self.report.setdefault("machine", describe(engine.device))
        self.report.setdefault("model", {"name": checkpoint.name, "size": checkpoint.config.size})
        self.report.setdefault("gflop a picture", {k: round(v / 1e9, 3) for k, v in asdict(cost).items()})


def run_benchmark(options: BenchmarkOptions, reporter: Reporter | None = None) -> dict[str, Any]:
    """Measure; the report is ready for JSON and `table`.

    Raises:
        DPEError: the model cannot be used, or there is no such device.
    """
    run = _Run(options, reporter or Silent())
    run.report |= {"peak gflops": {}, "passes": {}, "runs": [], "reference": [], "stage milliseconds": {}}
    for precision in dict.fromkeys(options.precisions):
        run.measure(precision)
        gc.collect()
    if options.reference:
        run.compare()
    return run.report


def table(report: dict[str, Any]) -> str:
    """The report for reading."""
    machine = ", ".join(f"{k} {v}" for k, v in report["machine"].items())
    model = report["model"]
    lines = [
        f"{model['name']}, {model['size']} px; GFLOP a picture: "
        + ", ".join(f"{k} {v:g}" for k, v in report["gflop a picture"].items()),
        machine,
        "peak GFLOP/s: "
        + "; ".join(
            f"{p} convolution {v['convolution']:.0f}, matmul {v['matmul']:.0f}"
            for p, v in report["peak gflops"].items()
        ),
        "",
        _row("job", "precision", "frames", "fps", "GFLOP/s", "of peak", "first frame", "memory", "x plain"),
    ]
    for run in report["runs"]:
        lines.append(_result(run, run["precision"], f"{run['share of convolution peak']:.0%}"))
    lines += [_result(run, "plain fp32", "") for run in report["reference"]]
    lines += ["", "pictures a second through the network alone, from and to the device's memory:"]
    lines.append(_row("", *PASSES, "at a time", "of peak"))
    for precision, passes in report["passes"].items():
        rates = (f"{passes[name]:.1f}" for name in PASSES)
        lines.append(_row(precision, *rates, str(passes["pictures"]), f"{passes['share of convolution peak']:.0%}"))
    if report["stage milliseconds"]:
        lines += ["", "ms a frame of a full-frame edit, one stage after the other:"]
        lines.append(_row("", *STAGES))
        for precision, stages in report["stage milliseconds"].items():
            lines.append(_row(precision, *(f"{stages[s]:.1f}" for s in STAGES)))
    return "\n".join(lines)


def _result(run: dict[str, Any], precision: str, share: str) -> str:
    memory = run["peak memory bytes"]
    ratio = run.get("times the reference")
    return _row(
        JOBS[run["job"]],
        precision,
        str(run["frames"]),
        f"{run['fps']:.2f}",
        f"{run['gflops']:.0f}",
        share,
        f"{run['first frame seconds']:.2f} s",
        "" if memory is None else f"{memory / 2**20:.0f} MB",
        "" if ratio is None else f"{ratio:.1f}",
    )


def _row(first: str, *cells: str) -> str:
    return f"{first:<26}" + "".join(f"{c:>13}" for c in cells)


def _material() -> Material:
    return Material(read_frames(SOURCE_CLIP, MATERIAL), read_frames(DRIVING_CLIP, MATERIAL))


def _path(engine: Engine) -> Path:
    path = engine.checkpoint.path
    assert path is not None
    return path
