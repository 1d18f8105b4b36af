"""What a run starts from: the weights of another model, and what is known of which branch edits what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import BranchRoles, load_checkpoint
from ..errors import CheckpointError
from ..network import Branch, DPENetwork
from .config import ConfigError, TrainConfig
from .growth import grow
from .losses import read_state_dict


@dataclass(frozen=True)
class WarmStart:
    """A network made from a file.

    Attributes:
        network: in its training form.
        roles: which branch edits what; None of LIA's model, which has no branches.
        stated: whether the file says so itself. Else the roles are the released model's.
    """

    network: DPENetwork
    roles: BranchRoles | None = None
    stated: bool = False


@dataclass(frozen=True)
class RunRoles:
    """Which branch a run takes for which.

    Attributes:
        pose: the branch that supervised losses teach the pose, by its checkpoint name.
        known: whether a start file states it, or rendered heads teach it. Else checkpoints state no roles.
    """

    pose: Branch
    known: bool

    @property
    def exp(self) -> Branch:
        """The branch that supervised losses teach the expression."""
        return "exp" if self.pose == "pose" else "pose"

    @property
    def stated(self) -> BranchRoles | None:
        """What a checkpoint says."""
        return BranchRoles(expression=self.exp, pose=self.pose) if self.known else None


def choose_roles(config: TrainConfig, start: WarmStart | None) -> RunRoles:
    """The roles of a run that begins: those of its start file, or as configured, `pose` being pose by default.

    Raises:
        ConfigError: the configuration contradicts what the start file states.
    """
    roles = None if start is None else start.roles
    stated = start is not None and start.stated
    if stated and roles is not None and config.pose_branch not in ("", roles.pose):
        raise ConfigError(
            f"pose_branch: expected {roles.pose!r}, as {config.warm_start} states its roles, got "
            f"{config.pose_branch!r}. Leave pose_branch out; where the file is wrong, first rewrite it with "
            "`convert --expression-branch`."
        )
    pose = config.pose_branch or ("pose" if roles is None else roles.pose)
    return RunRoles(pose, stated or _teaches_roles(config))


def kept_roles(config: TrainConfig, scalars: Mapping[str, Any]) -> RunRoles:
    """The roles of a run that goes on: those it began with.

    Args:
        config: what to go on with.
        scalars: of the run's resume state.

    Raises:
        ConfigError: the configuration contradicts them.
    """
    # Runs saved before roles were recorded have only `pose_branch` in their configuration.
    saved = scalars.get("roles") or {"pose": scalars["config"]["pose_branch"], "known": False}
    if config.pose_branch not in ("", saved["pose"]):
        raise ConfigError(
            f"pose_branch: expected {saved['pose']!r}, with which the run began, got {config.pose_branch!r}. Leave "
            "pose_branch out, or start a new run."
        )
    return RunRoles(saved["pose"], saved["known"] or _teaches_roles(config))


def _teaches_roles(config: TrainConfig) -> bool:
    return any(s.rendered and s.share > 0 for s in config.sources)


def warm_start(network: DPENetwork, path: str | Path, sharp: bool = False) -> WarmStart:
    """Start from a file: a DPE checkpoint (grown where it is for smaller pictures, see `grow`), or LIA's `vox.pt`.

    From LIA come the encoder, the motion stack (`enc.fc` -> `mlp`) and the directions; the generators stay fresh.

    Raises:
        CheckpointError: neither of the two, or of other sizes.
    """
    state = read_state_dict(Path(path))
    gen = {k.removeprefix("gen."): v for k, v in state.items() if k.startswith("gen.")} or state
    if "dec.direction.weight" not in gen:
        loaded = load_checkpoint(path, training=True)
        return WarmStart(grow(loaded.network, network.config, sharp), loaded.roles, "roles" in loaded.metadata)
    renamed = {"dec.direction.weight": "dir.weight"}
    wanted = network.state_dict()
    taken: dict[str, Tensor] = {}
    for name, value in gen.items():
        ours = renamed.get(name) or ("mlp." + name.removeprefix("enc.fc.") if name.startswith("enc.fc.") else name)
        if ours.startswith(("enc.net_app.", "mlp.", "dir.")):
            taken[ours] = value.float()
    missing = [k for k in wanted if k.startswith(("enc.net_app.", "mlp.", "dir.")) and k not in taken]
    wrong = [k for k, v in taken.items() if k not in wanted or wanted[k].shape != v.shape]
    if missing or wrong:
        raise CheckpointError(
            f"{path}: expected LIA weights for this network; missing {missing[:2]}, misshapen or unknown {wrong[:2]}. "
            "LIA's vox.pt fits the published widths at 256 px."
        )
    network.load_state_dict({**wanted, **taken})
    return WarmStart(network)
