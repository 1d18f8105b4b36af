"""What a run needs to go on exactly where it stopped: one safetensors file for tensors, one JSON file for the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import CheckpointError
from ..files import write_safetensors, write_text
from .config import TrainConfig
from .optimisers import state_entries

SCALARS = "resume.json"


def optimiser_tensors(optimiser: Optimizer, prefix: str) -> dict[str, Tensor]:
    """State of an optimiser by name `<prefix>.<parameter number>.<entry>`."""
    found: dict[str, Tensor] = {}
    for number, entries in optimiser.state_dict()["state"].items():
        for key, value in entries.items():
            found[f"{prefix}.{number}.{key}"] = torch.as_tensor(value)
    return found


def restore_optimiser(optimiser: Optimizer, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Put back what `optimiser_tensors` took; learning rates stay as configured.

    Raises:
        CheckpointError: it was another kind of optimiser, or had other parameters.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix + "."):
            _, number, key = name.rsplit(".", 2)
            state.setdefault(int(number), {})[key] = value
    known = dict(enumerate(state_entries(optimiser)))
    for place, entries in state.items():
        shape, kept = known.get(place, (None, None))
        shapes = {v.shape for k, v in entries.items() if k != "step"}
        if kept != entries.keys() or shapes != {shape}:
            raise CheckpointError(
                f"resume: the saved {prefix} does not fit the configuration: expected {sorted(kept or ())} of shape "
                f"{shape} for parameter {place}, found {sorted(entries)} of {sorted(shapes)}. Resume with the "
                "optimiser.kind, and the stages' phase and branch, that the run was started with."
            )
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def check_resumed(config: TrainConfig, began: Mapping[str, Any], stage: int) -> None:
    """See that what the optimisers' state depends on is as it was.

    Args:
        config: what to go on with.
        began: the plain values that the run was configured with.
        stage: index of the stage it was in.

    Raises:
        CheckpointError: the message names the setting.
    """
    if stage >= len(config.stages):
        raise CheckpointError(f"resume: the run was in stage {stage + 1}; the configuration has no such stage.")
    now, then = config.stages[stage], began["stages"][stage]
    settings = {
        "optimiser.kind": (began["optimiser"].get("kind", "adam"), config.optimiser.kind),
        f"stages.{stage}.phase": (then.get("phase", "edit"), now.phase),
        f"stages.{stage}.branch": (then.get("branch", ""), now.branch),
    }
    for name, (was, wanted) in settings.items():
        if was != wanted:
            raise CheckpointError(
                f"resume: {name}: expected {was!r}, which the saved optimiser state belongs to, got {wanted!r}. Resume "
                "with the old setting, or start a new run from the last checkpoint (warm_start)."
            )


def module_tensors(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """State of a module by name `<prefix>.<name>`."""
    return {f"{prefix}.{k}": v for k, v in module.state_dict().items()}


def restore_module(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Put back what `module_tensors` took.

    Raises:
        CheckpointError: names or shapes are not this module's.
    """
    state = {k.removeprefix(prefix + "."): v for k, v in tensors.items() if k.startswith(prefix + ".")}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"resume: the saved {prefix} does not fit the configuration ({error}). Resume with the configuration the "
            "run was started with."
        ) from error


def save_state(folder: Path, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
    """Write a resume state; an interruption leaves the state before it."""
    step = int(scalars["step"])
    name = f"resume-{step:08d}.safetensors"
    kept = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    write_safetensors(folder / name, kept)
    # The JSON names the tensors' file, so replacing it switches from the old state to the new one at once.
    write_text(folder / SCALARS, json.dumps({**scalars, "tensors": name}, indent=1))
    for old in (*folder.glob("resume-*.safetensors*"), *folder.glob(".resume*.partial")):
        # What a process that was killed had begun goes as well.
        if old.name != name:
            old.unlink(missing_ok=True)


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_state` wrote.

    Raises:
        CheckpointError: nothing there, or damaged.
    """
    index = folder / SCALARS
    if not index.is_file():
        raise CheckpointError(f"{folder}: expected a run to resume ({SCALARS}), found none. Check --resume.")
    try:
        scalars = json.loads(index.read_text(encoding="utf-8"))
        return load_file(folder / str(scalars["tensors"])), scalars
    except (ValueError, KeyError, OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: the resume state cannot be read ({error}). Start from a checkpoint."
        ) from error
