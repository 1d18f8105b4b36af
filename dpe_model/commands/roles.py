"""roles: which branch of a model edits what."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from ..bundled import DRIVING_CLIP, SOURCE_CLIP
from ..checkpoint import ROLES, BranchRoles
from ..evaluation.editor import EngineEditor
from ..evaluation.roles import RoleEvidence, measure_roles_on_clips, measure_roles_on_head
from ..jobs.portraits import PortraitClip, open_portraits
from ..portrait import load_detector
from ..video import open_frames
from . import options
from .info import say

NAME = "roles"
HELP = "Measure which branch of a model moves the head; on rendered heads with --head, else on clips."

FRAMES = 40
READ_CHUNK = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--head", type=Path, metavar="PATH", help="ICT-FaceKit export (.npz): the surer way")
    parser.add_argument("--source", type=Path, default=SOURCE_CLIP, metavar="PATH", help="default: a bundled clip")
    parser.add_argument("--driving", type=Path, default=DRIVING_CLIP, metavar="PATH", help="somebody who turns the "
                        "head and speaks or grimaces; default: a bundled clip")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="say it as JSON")
    options.add_crop_when(parser, "--crop", "cut out faces first; auto: where frames are not square (default)")
    options.add_crop_options(parser)
    options.add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    engine = options.model_options(arguments).engine()
    stated, bars = engine.checkpoint.roles, options.reporter(arguments)
    if arguments.head is not None:
        evidence = measure_roles_on_head(EngineEditor(engine), stated, arguments.head, bars)
    else:
        crop = options.crop_options(arguments).beside(engine.device)
        source, driving = (
            some_frames(open_portraits(open_frames(path), arguments.crop, who, engine.size, bars, name), count)
            for name, path, who, count in (
                ("source", arguments.source, crop, 1),
                ("driver", arguments.driving, crop.of_driver(), FRAMES),
            )
        )
        detector = load_detector(arguments.detector, engine.device)
        evidence = measure_roles_on_clips(EngineEditor(engine), stated, source, driving, detector, bars)
    if arguments.json:
        say(json.dumps({**evidence.as_numbers(), "stated": {r: stated.branch(r) for r in ROLES}}))
        return 0
    say(describe(evidence, stated))
    return 0


def some_frames(clip: PortraitClip, count: int) -> Tensor:
    """`count` portraits evenly spread over a clip, the first among them: uint8 [<=count, S, S, 3]."""
    step = max(1, -(-len(clip) // count))
    picked, start = [], 0
    for frames in clip.chunks(READ_CHUNK):
        picked.append(frames[-start % step :: step])
        start += len(frames)
    return torch.cat(picked)[:count]


def describe(evidence: RoleEvidence, stated: BranchRoles) -> str:
    """The evidence in words."""
    lines = [f"measured on {evidence.method}:"]
    for branch, found in evidence.details.items():
        lines.append(f"  branch {branch!r}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
    roles = evidence.suggested
    said = f"expression: branch {stated.expression!r}; pose: branch {stated.pose!r}"
    if roles is None:
        lines.append(f"  score {evidence.score:+.2f}: too weak to tell. The file's assignment stands: {said}")
    elif roles == stated:
        lines.append(f"  score {evidence.score:+.2f}: as the file has it. {said}")
    else:
        lines.append(
            f"  score {evidence.score:+.2f}: the other way round than the file has it ({said}). Write it down with: "
            f"convert --expression-branch {roles.expression}"
        )
    return "\n".join(lines)
