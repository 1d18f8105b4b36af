"""`train`: train a network from a configuration file."""

from __future__ import annotations

from ..training.command import add_arguments, run

NAME = "train"
HELP = "Train a network from a configuration file, or go on with an earlier run."

__all__ = ["HELP", "NAME", "add_arguments", "run"]
