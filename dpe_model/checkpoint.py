"""Model files: opening them safely, recognising what is in them, saving them.

A checkpoint is recognised by its tensor names and configured by its shapes, so networks of any size load by the same
code. Two formats are read, told apart by content: the authors' PyTorch files (`dpe.pt`; also a whole training
checkpoint), through the restricted unpickler only, and safetensors, which is what this package writes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import CheckpointError
from .files import UNREADABLE, why_unreadable, write_safetensors
from .network import BRANCHES, Branch, DPENetwork, NetworkConfig

Role = Literal["expression", "pose"]
"""What a person wants to edit."""

ROLES: tuple[Role, Role] = ("expression", "pose")
FORMAT = "dpe"
RELEASE_PAGE = "https://github.com/OpenTalker/DPE"
StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class BranchRoles:
    """Which branch of a checkpoint edits what.

    The training losses are symmetric in the two branches, so this is a property of a checkpoint. The defaults are the
    released checkpoint's, whose names are swapped against their roles.
    """

    expression: Branch = "pose"
    pose: Branch = "exp"

    def __post_init__(self) -> None:
        if {self.expression, self.pose} != set(BRANCHES):
            raise CheckpointError(
                f"branch roles: expected the branches {list(BRANCHES)} in some order, got expression="
                f"{self.expression!r}, pose={self.pose!r}."
            )

    def branch(self, role: Role) -> Branch:
        """The branch that plays a role."""
        return self.expression if role == "expression" else self.pose


@dataclass(frozen=True)
class Checkpoint:
    """A network and what its file says of it.

    Attributes:
        network: the network, in inference form unless it was opened for training.
        roles: which branch edits what.
        fingerprint: identifies the motion space; motions of another fingerprint mean something else.
        name: the file's name, for messages.
        metadata: the file's free text entries (title, license, ...).
        path: the file, if the network came from one.
    """

    network: DPENetwork
    roles: BranchRoles
    fingerprint: str
    name: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None

    @property
    def config(self) -> NetworkConfig:
        """Sizes of the network."""
        return self.network.config

    def in_float32(self) -> DPENetwork:
        """The network in float32 inference form, read from the file once more.

        Raises:
            CheckpointError: there is no file, it cannot be read any more, or it is another model by now.
        """
        if self.path is None:
            raise CheckpointError(f"{self.name}: the float32 weights are needed, but this model came from no file.")
        again = load_checkpoint(self.path)
        if again.fingerprint != self.fingerprint:
            raise CheckpointError(f"{self.path}: the file is another model than when it was opened. Load it again.")
        return again.network


@dataclass(frozen=True)
class CheckpointFile:
    """The verified content of a model file before a network is made of it."""

    path: Path
    tensors: StateDict
    config: NetworkConfig
    roles: BranchRoles
    roles_stated: bool
    metadata: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """Identifies the motion space, 16 hexadecimal digits; the same in half and full precision."""
        digest = hashlib.sha256()
        for name in sorted(n for n in self.tensors if n == "dir.weight" or n.startswith("mlp.")):
            digest.update(self.tensors[name].to(torch.float16).numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def parameters(self) -> int:
        """Number of trained values."""
        return sum(t.numel() for n, t in self.tensors.items() if not n.endswith(".kernel"))

    @property
    def dtype(self) -> torch.dtype:
        """Precision the weights are stored in."""
        return self.tensors["dir.weight"].dtype


def load_checkpoint(path: str | Path, dtype: torch.dtype = torch.float32, training: bool = False) -> Checkpoint:
    """Open a model file.

    Args:
        path: `dpe.pt`, a training checkpoint of the authors' code, or `.safetensors`.
        dtype: precision of the convolutions in the inference form.
        training: keep the network in its training form (float32, constants not multiplied in).

    Raises:
        CheckpointError: the file is missing, truncated, of another model, has missing, extra or misshapen tensors, or
            holds NaN or infinite values.
    """
    file = read_checkpoint(path)
    with torch.device("meta"):
        network = DPENetwork(file.config)
    weights = {name: t.to(torch.float32, copy=True) for name, t in file.tensors.items()}
    network.load_state_dict(weights, strict=True, assign=True)
    for parameter in network.parameters():
        parameter.requires_grad_(training)
    if not training:
        network.fold(dtype)
    return Checkpoint(network, file.roles, file.fingerprint, file.path.name, file.metadata, file.path)


def read_checkpoint(path: str | Path) -> CheckpointFile:
    """Read and verify a model file without building a network. Errors as in `load_checkpoint`."""
    path = Path(path)
    tensors, metadata = _read_tensors(path)
    config = _infer_config(path, tensors)
    _verify(path, tensors, config)
    roles = _roles_of(path, metadata)
    return CheckpointFile(path, tensors, config, roles or BranchRoles(), roles is not None, metadata)


def save_checkpoint(
    path: str | Path,
    network: DPENetwork | Mapping[str, Tensor],
    roles: BranchRoles | None,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a safetensors checkpoint; the file appears whole or not at all.

    Args:
        path: where to, ending in .safetensors.
        network: a network in its training form, or the state dict of one.
        roles: which branch edits what; None where nobody knows, and the file does not say.
        metadata: further text entries, e.g. title, license, description.
        dtype: stored precision.

    Raises:
        CheckpointError: the network is folded (its weights no longer are the checkpoint's), or the place is unwritable.
    """
    path = Path(path)
    if isinstance(network, DPENetwork):
        if network.folded:
            raise CheckpointError(f"{path}: an inference network cannot be saved; save the one it was made from.")
        network = network.state_dict()
    entries = {**(metadata or {}), "format": FORMAT}
    if roles is not None:
        entries["roles"] = json.dumps({r: roles.branch(r) for r in ROLES})
    tensors = {n: t.detach().to("cpu", dtype).contiguous() for n, t in network.items()}
    try:
        write_safetensors(path, tensors, entries)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written ({error}). Choose another place.") from error


def convert_checkpoint(
    source: str | Path,
    target: str | Path,
    dtype: torch.dtype = torch.float16,
    roles: BranchRoles | None = None,
    metadata: Mapping[str, str] | None = None,
    average_with: str | Path | None = None,
) -> CheckpointFile:
    """Rewrite a model file as safetensors.

    Args:
        source: the model file.
        target: where to, ending in .safetensors.
        dtype: stored precision.
        roles: overrides what the file states.
        metadata: further text entries, beside the file's own.
        average_with: a model trained on from this one, or it from that: the mean of both weights is written, which as a
            rule errs less on new people than either (Izmailov et al., "Averaging Weights Leads to Wider Optima and
            Better Generalization", UAI 2018).

    Returns:
        The new file, read back.

    Raises:
        CheckpointError: a file cannot be used or written, or the two models differ in size or in their branches' roles.
    """
    file = read_checkpoint(source)
    tensors = file.tensors if average_with is None else _mean_tensors(file, read_checkpoint(average_with))
    # The authors' files say nothing and are as released; files of this package that say nothing do so on purpose.
    own = None if not file.roles_stated and file.metadata.get("format") == FORMAT else file.roles
    save_checkpoint(target, tensors, roles or own, {**file.metadata, **(metadata or {})}, dtype)
    return read_checkpoint(target)


def _mean_tensors(first: CheckpointFile, second: CheckpointFile) -> StateDict:
    if first.config != second.config:
        raise CheckpointError(
            f"{second.path}: expected a model of the same size and widths as {first.path} ({first.config.size} px). "
            "Average only checkpoints of one training run."
        )
    if first.roles != second.roles:
        raise CheckpointError(
            f"{second.path}: its branches have other roles than those of {first.path}. Average only checkpoints "
            "of one training run. Where a file states its roles wrongly, convert it with --expression-branch first."
        )
    # Blur kernels are constants that a file may lack.
    return {n: (t.float() + second.tensors.get(n, t).float()) / 2 for n, t in first.tensors.items()}


def _read_tensors(path: Path) -> tuple[StateDict, dict[str, str]]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such model file. The released model's page is {RELEASE_PAGE}.")
    with path.open("rb") as stream:
        head = stream.read(9)
    if len(head) == 9 and head[8:9] == b"{":
        return _read_safetensors(path)
    return _read_pytorch(path), {}


def _read_safetensors(path: Path) -> tuple[StateDict, dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {n: file.get_tensor(n) for n in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected a whole safetensors file, found one that cannot be read ({error}). It is probably "
            "truncated: download or copy it again."
        ) from error


def load_safely(path: Path, mmap: bool = False) -> Any:
    """What a PyTorch file holds, on the CPU; no code in it is run.

    The authors' and LIA's training checkpoints hold their command line beside the tensors: that is let through.

    Raises:
        CheckpointError: it holds a command line, and this PyTorch lets none through.
        pickle.UnpicklingError and whatever else `torch.load` raises.
    """
    safe_globals = getattr(torch.serialization, "safe_globals", None)
    try:
        with nullcontext() if safe_globals is None else safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if safe_globals is not None or "argparse.Namespace" not in str(error):
            raise
        raise CheckpointError(
            f"{path}: expected tensors alone, found a command line beside them, as in the authors' training "
            f"checkpoints. PyTorch {torch.__version__} cannot open such a file safely: install PyTorch 2.5 or newer."
        ) from error


def _read_pytorch(path: Path) -> StateDict:
    try:
        content = load_safely(path, mmap=zipfile.is_zipfile(path))
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path}: expected a PyTorch or safetensors model file, found something that cannot be read safely "
            f"({why_unreadable(error)}). It may be truncated or a web page; download it again from {RELEASE_PAGE}."
        ) from error
    return _find_state_dict(path, content)


def _find_state_dict(path: Path, content: Any) -> StateDict:
    if isinstance(content, Mapping) and isinstance(content.get("gen"), Mapping):
        content = content["gen"]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a dictionary of tensors, found {type(content).__name__}.")
    tensors = {str(n).removeprefix("module."): t for n, t in content.items() if isinstance(t, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: expected a dictionary of tensors, found the entries {_some(content)}.")
    return tensors


def _infer_config(path: Path, tensors: StateDict) -> NetworkConfig:
    prefix = "enc.net_app.convs."
    blocks = sorted(int(n.split(".")[3]) for n in tensors if n.startswith(prefix) and n.endswith("conv1.0.weight"))
    needed = ["dir.weight", f"{prefix}0.0.weight", "mlp_pose.0.weight", "mlp_exp.0.weight"]
    if not blocks or any(n not in tensors for n in needed):
        if "dec.direction.weight" in tensors:
            raise CheckpointError(
                f"{path}: expected a DPE model, found a LIA model. LIA's weights can start a training (warm_start), "
                f"they cannot edit. The DPE model's page is {RELEASE_PAGE}."
            )
        raise CheckpointError(
            f"{path}: expected a DPE model (tensors such as {prefix}0.0.weight, mlp_pose.0.weight, dir.weight), found "
            f"{len(tensors)} tensors such as {_some(tensors)}. The DPE model's page is {RELEASE_PAGE}."
        )
    if blocks != list(range(1, len(blocks) + 1)) or not all(tensors[n].ndim for n in needed):
        raise CheckpointError(f"{path}: expected encoder blocks 1..n, found {blocks}. The file is damaged.")
    size = 4 * 2 ** len(blocks)
    channels = {size: tensors[f"{prefix}0.0.weight"].shape[0]}
    for i in blocks:
        weight = tensors.get(f"{prefix}{i}.conv2.1.weight")
        if weight is None:
            raise CheckpointError(f"{path}: missing tensor {prefix}{i}.conv2.1.weight. The file is damaged.")
        channels[size >> i] = weight.shape[0]
    style_dim, motion_dim = (*tensors["dir.weight"].shape, 0)[:2]
    try:
        return NetworkConfig(size=size, style_dim=style_dim, motion_dim=motion_dim, channels=channels)
    except ValueError as error:
        raise CheckpointError(f"{path}: the tensor shapes describe no DPE network ({error}).") from error


def _verify(path: Path, tensors: StateDict, config: NetworkConfig) -> None:
    with torch.device("meta"):
        network = DPENetwork(config)
    shapes = {n: t.shape for n, t in network.state_dict().items()}
    missing = [n for n in shapes if n not in tensors and not n.endswith(".kernel")]
    extra = [n for n in tensors if n not in shapes]
    if missing or extra:
        parts = [f"{len(missing)} missing, such as {_some(missing)}"] if missing else []
        parts += [f"{len(extra)} unknown, such as {_some(extra)}"] if extra else []
        raise CheckpointError(
            f"{path}: expected the {len(shapes)} tensors of a {config.size} px DPE model, found {'; '.join(parts)}. "
            "The file is incomplete or of another model."
        )
    wrong = [n for n in tensors if tensors[n].shape != shapes[n]]
    if wrong:
        n = wrong[0]
        raise CheckpointError(
            f"{path}: {len(wrong)} tensors have unexpected shapes, the first {n}: expected {list(shapes[n])}, found "
            f"{list(tensors[n].shape)}. The file is damaged or of another model."
        )
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path}: {name}: expected floating point values, found {tensor.dtype}.")
        if not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"{path}: {name} holds {bad} NaN or infinite values of {tensor.numel()}. The file is damaged, or its "
                "training diverged; use another one."
            )
    _verify_kernels(path, tensors, config)


def _verify_kernels(path: Path, tensors: StateDict, config: NetworkConfig) -> None:
    present = {n: t for n, t in tensors.items() if n.endswith(".kernel")}
    if not present:
        return
    for name, expected in _kernels(config).items():
        if name in present and not torch.allclose(present[name].float(), expected, atol=1e-4):
            raise CheckpointError(f"{path}: {name}: expected the (1, 3, 3, 1) blur kernel, found another one.")


def _kernels(config: NetworkConfig) -> StateDict:
    slim = NetworkConfig(size=config.size, style_dim=1, motion_dim=1, channels=dict.fromkeys(config.channels, 1))
    return {n: t for n, t in DPENetwork(slim).state_dict().items() if n.endswith(".kernel")}


def _roles_of(path: Path, metadata: Mapping[str, str]) -> BranchRoles | None:
    if "roles" not in metadata:
        return None
    try:
        return BranchRoles(**json.loads(metadata["roles"]))
    except (ValueError, TypeError, CheckpointError) as error:
        raise CheckpointError(f"{path}: the metadata entry 'roles' cannot be understood ({error}).") from error


def _some(names: Iterable[object], count: int = 4) -> str:
    return ", ".join(str(n) for n in list(names)[:count]) or "nothing"
