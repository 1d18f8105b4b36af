"""benchmark: how fast a model runs here."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..engine import PRECISIONS
from ..errors import OptionError
from ..files import check_writable
from .info import say
from .options import COMPILE_HELP, add_device_option, reporter

NAME = "benchmark"
HELP = "Time the jobs on this machine, against its own peak and against a plain frame-by-frame run of the same weights."
DESCRIPTION = """
Every job is run for one frame and for --frames of the bundled clips, in every precision: frames and GFLOP a second,
the share of the fastest convolution the machine was seen to do, time to the first frame, peak memory. Passes are the
network alone, on pictures that are on the device already and stay there. Operations are
those of plain convolutions; float32 on a CPU needs fewer, so its share can pass 100 %. The plain run is float32, one
picture at a time, and encodes everything again for every frame. Close other programs first.
"""

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.description = f"{HELP} {' '.join(DESCRIPTION.split())}"
    parser.add_argument("--model", type=Path, metavar="PATH", help="a model file; default: the bundled one")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32", "bf16"], metavar="P",
                        help="one or more of auto, fp32, bf16, fp16 (default: fp32 bf16)")  # fmt: skip
    add_device_option(parser)
    parser.add_argument("--compile", action="store_true", help=COMPILE_HELP)
    parser.add_argument("--jobs", nargs="+", choices=("still", "one", "both"), default=["still", "one", "both"],
                        metavar="JOB", help="still (image, one branch), one (video, one branch), both (video, both "
                        "branches); default: all")  # fmt: skip
    parser.add_argument("--frames", type=int, nargs="+", default=[32], metavar="N",
                        help="lengths of the long runs (default: 32)")  # fmt: skip
    parser.add_argument("--threads", type=int, help="of the CPU (default: PyTorch's choice)")
    parser.add_argument("--reference", action=argparse.BooleanOptionalAction, default=True,
                        help="also time the plain run (default: yes)")  # fmt: skip
    parser.add_argument("--reference-frames", type=int, default=3, metavar="N", help="its frames (default: 3)")
    parser.add_argument("--stages", action=argparse.BooleanOptionalAction, default=True,
                        help="also time the stages of a full-frame edit (default: yes)")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="PATH", help="also write the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ..benchmark import BenchmarkOptions, run_benchmark, table

    options = BenchmarkOptions(
        model=arguments.model,
        device=arguments.device,
        precisions=tuple(arguments.precision),
        jobs=tuple(arguments.jobs),
        frames=tuple(arguments.frames),
        reference=arguments.reference_frames if arguments.reference else 0,
        stages=arguments.stages,
        compiled=arguments.compile,
    )
    if arguments.output is not None:
        check_writable(arguments.output)
    with threads(arguments.threads):
        report = run_benchmark(options, reporter(arguments))
    say(table(report))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", "utf-8")
        logger.info("%s: the report", arguments.output)
    return 0


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with so many threads of the CPU meanwhile.

    Raises:
        OptionError: less than one.
    """
    before = torch.get_num_threads()
    if count is not None:
        if count < 1:
            raise OptionError(f"threads: expected at least 1, got {count}.")
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
