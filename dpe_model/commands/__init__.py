"""The command line: one file a command.

A command is a module with `NAME`, `HELP`, `add_arguments(parser)` and `run(arguments) -> int`. An error is one line on
standard error and a non-zero exit status; `--debug` shows where it came from.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import NoReturn

from .. import __version__
from ..errors import DPEError

COMMANDS = (
    "drive",
    "edit_video",
    "batch",
    "crop",
    "encode",
    "convert",
    "info",
    "train",
    "evaluate",
    "roles",
    "benchmark",
)

INTERRUPTED = 130
"""Exit status of a command stopped from the keyboard or by a signal."""

STOPPING = ("SIGTERM", "SIGHUP", "SIGBREAK")
"""Signals that ask a program to end, where the system has them: closing its window, a scheduler's stop."""

MINDS_SIGNALS = frozenset({"train"})
"""Commands that do something else on those signals themselves."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run one command, report errors. Returns the exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=_level(arguments), format="%(message)s")
    logging.getLogger("libav").setLevel(logging.ERROR)
    try:
        with nullcontext() if arguments.minds_signals else _stopping_as_from_the_keyboard():
            return int(arguments.run(arguments))
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except (DPEError, OSError, MemoryError) as error:
        if arguments.debug:
            raise
        return _fail(" ".join(str(error).split()) or type(error).__name__, 1)
    except RuntimeError as error:
        from ..devices import is_out_of_memory

        if arguments.debug or not is_out_of_memory(error):
            raise
        advice = "Close what else uses it, choose --precision bf16 or fp16, or --device cpu."
        return _fail(f"out of memory with one picture at a time ({str(error).splitlines()[0]}). {advice}", 1)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m dpe_model",
        description="Edit the pose and the expression of people in video, each without touching the other.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f".{name}", __package__)
        command = commands.add_parser(module.NAME, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.add_argument("--quiet", action="store_true", help="show warnings and errors alone, and no progress")
        command.add_argument("--debug", action="store_true", help="show where an error came from")
        command.set_defaults(run=module.run, minds_signals=name in MINDS_SIGNALS)
    return parser


@contextmanager
def _stopping_as_from_the_keyboard() -> Iterator[None]:
    """Makes signals that would end the program at once interrupt it instead, so that written frames stay playable."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in STOPPING if hasattr(signal, name)):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup, for one, has it ignored
                before[number] = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _level(arguments: argparse.Namespace) -> int:
    if arguments.debug:
        return logging.DEBUG
    return logging.WARNING if arguments.quiet else logging.INFO


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return status
