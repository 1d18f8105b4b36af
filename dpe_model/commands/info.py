"""info: what is in a model, motion or clip."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..checkpoint import CheckpointFile, read_checkpoint
from ..motion import FORMAT as MOTION_FORMAT
from ..motion import Motion
from ..video import open_frames

NAME = "info"
HELP = "Say what is in a model file, a motion file or a clip."

MODEL_ENDINGS = (".pt", ".pth", ".safetensors", ".ckpt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files or folders")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    for path in arguments.paths:
        say(describe(path))
    return 0


def describe(path: Path) -> str:
    """One file in words."""
    if path.suffix.lower() not in MODEL_ENDINGS:
        return describe_clip(path)
    if _is_motion(path):
        motion = Motion.load(path)
        rate = "unknown rate" if motion.fps is None else f"{motion.fps:g} fps"
        return f"{path}: motion, {len(motion)} frames, {rate}, checkpoint {motion.checkpoint}"
    return describe_checkpoint(read_checkpoint(path))


def describe_checkpoint(file: CheckpointFile) -> str:
    """A model file in words."""
    config, roles = file.config, file.roles
    widths = ", ".join(f"{r}: {c}" for r, c in config.channels.items())
    lines = [
        f"{file.path}: DPE model, {config.size} px, {file.parameters / 1e6:.1f} M parameters, {file.dtype}",
        f"  style {config.style_dim}, motion {config.motion_dim}, channels {widths}",
        f"  expression: branch {roles.expression!r}; pose: branch {roles.pose!r} "
        + ("(stated in the file)" if file.roles_stated else "(not stated; taken to be as in the released model)"),
        f"  fingerprint {file.fingerprint}",
    ]
    lines += [f"  {k}: {v}" for k, v in sorted(file.metadata.items()) if k not in ("roles", "format")]
    return "\n".join(lines)


def describe_clip(path: Path) -> str:
    """A clip in words."""
    source = open_frames(path)
    info = source.info
    sound = "with sound" if info.has_audio else "no sound"
    return f"{path}: {info.kind}, {info.width}x{info.height}, {len(source)} frames, {float(info.fps):g} fps, {sound}"


def say(text: str) -> None:
    """Write a line of result to standard output, whatever characters it can show."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    sys.stdout.write(text + "\n")


def _is_motion(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == MOTION_FORMAT
    except (SafetensorError, OSError):
        return False
