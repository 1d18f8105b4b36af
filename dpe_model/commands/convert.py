"""convert: a model file to safetensors."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..checkpoint import BranchRoles, convert_checkpoint
from ..errors import OptionError
from ..video.access import check_not_replaced
from .info import describe_checkpoint, say

NAME = "convert"
HELP = "Rewrite a model file (dpe.pt) as .safetensors, in half or full precision, with its branches' roles."

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--source", type=Path, required=True, metavar="PATH", help="dpe.pt or another model file")
    parser.add_argument("--output", type=Path, required=True, metavar="PATH", help="a .safetensors file")
    parser.add_argument("--precision", choices=tuple(DTYPES), default="fp16", help="of the file (default: fp16)")
    parser.add_argument("--expression-branch", choices=("pose", "exp"), help="the branch that edits expression, by its "
                        "name in the file; default: what the file says, else pose, as released")  # fmt: skip
    parser.add_argument("--average-with", type=Path, metavar="PATH", help="write the mean of the weights and those of "
                        "this model, of the same training")  # fmt: skip
    parser.add_argument("--title", help="a title to store in the file")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if arguments.output.suffix != ".safetensors":
        raise OptionError(f"{arguments.output}: expected a name ending in .safetensors.")
    check_not_replaced([arguments.output], [p for p in (arguments.source, arguments.average_with) if p is not None])
    branch = arguments.expression_branch
    roles = None if branch is None else BranchRoles(branch, "exp" if branch == "pose" else "pose")
    metadata = {"title": arguments.title} if arguments.title else {}
    dtype, other = DTYPES[arguments.precision], arguments.average_with
    file = convert_checkpoint(arguments.source, arguments.output, dtype, roles, metadata, other)
    say(describe_checkpoint(file))
    return 0
