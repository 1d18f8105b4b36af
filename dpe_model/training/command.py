"""`python -m dpe_model train`: train a network from a configuration file."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from .config import ConfigError, TrainConfig, apply_override, config_from, load_values
from .state import load_state

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--config", type=Path, help="configuration, .toml or .json; with --resume the run's own by default"
    )
    parser.add_argument(
        "--resume", type=Path, help="folder of a run to go on with, and to write to unless `out` says another"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit status. Several processes: start it with `torchrun -m dpe_model train ...`.

    Raises:
        ConfigError, DataError, CheckpointError: what was named cannot be used; the message says what to mend.
        DivergedError: the run came to numbers that are not finite.
    """
    # Imported here, so that the command line as a whole starts fast.
    from .processes import process_group
    from .trainer import Trainer

    config = _configuration(args)
    with process_group(config.device) as share:
        outcome = Trainer(config, args.resume, share).run(quiet=args.quiet)
    logger.info("Stopped at step %d of %d (%s). Output: %s", outcome.step, config.steps, outcome.reason, config.out)
    return 0


def _configuration(args: argparse.Namespace) -> TrainConfig:
    """What to do. A run that goes on does so in the folder it is in, wherever that has moved to, unless told where."""
    if args.config is not None:
        values = load_values(args.config, args.overrides)
        if args.resume is not None:
            values.setdefault("out", str(args.resume))
        return config_from(values)
    if args.resume is None:
        raise ConfigError("expected --config FILE, or --resume DIR of an earlier run.")
    _, scalars = load_state(args.resume)
    values = {**scalars["config"], "out": str(args.resume)}
    for text in args.overrides:
        apply_override(values, text)
    return config_from(values)
