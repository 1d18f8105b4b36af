"""LoadDPEModel: a model file to the DPE_MODEL socket."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from ..dpe_model.bundled import bundled_models
from ..dpe_model.checkpoint import RELEASE_PAGE, BranchRoles, Checkpoint, load_checkpoint
from ..dpe_model.engine import PRECISIONS, compile_on_gpu, resolve_precision
from ..dpe_model.errors import CheckpointError
from . import host
from .sockets import CATEGORY, DPEModel

logger = logging.getLogger("ComfyUI-DPE")

FOLDER = "dpe"
EXTENSIONS = {".safetensors", ".pt"}
BUNDLED = "bundled: "
_PRECISION_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
ROLES = {
    "from the file": None,
    "pose branch edits expression (as released)": BranchRoles(expression="pose", pose="exp"),
    "exp branch edits expression": BranchRoles(expression="exp", pose="pose"),
}


def register_model_folder() -> None:
    """Make `models/dpe` a model folder, beside those an extra_model_paths.yaml may have named already."""
    default = Path(folder_paths.models_dir) / FOLDER
    try:
        default.mkdir(parents=True, exist_ok=True)  # so that whoever is told to put a model there finds it
    except OSError as error:
        logger.warning("%s: the folder for models could not be made (%s).", default, error)
    folder_paths.add_model_folder_path(FOLDER, str(default))
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(EXTENSIONS))


def model_names() -> list[str]:
    """What the node offers: the user's files, then the bundled ones."""
    return [*folder_paths.get_filename_list(FOLDER), *(BUNDLED + p.name for p in bundled_models())]


def model_path(name: str) -> Path:
    """The file behind a name that the node offers.

    Raises:
        CheckpointError: there is none.
    """
    if name.startswith(BUNDLED):
        found = [p for p in bundled_models() if BUNDLED + p.name == name]
        # A workflow may name a bundled model of an earlier release.
        return found[0] if found else _newest_bundled(name)
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        folders = ", ".join(folder_paths.get_folder_paths(FOLDER))
        raise CheckpointError(
            f"{name}: no such model in {folders}. Get the released model from {RELEASE_PAGE} (Trained Models), put the "
            "file there, press R to refresh, and choose it; or choose the bundled one."
        )
    return Path(path)


def _newest_bundled(name: str) -> Path:
    models = bundled_models()
    if not models:
        raise CheckpointError(f"{name}: the pack came without its bundled model. Install it again.")
    logger.warning("%s is not part of this version; using %s.", name, models[0].name)
    return models[0]


class LoadDPEModel(io.ComfyNode):
    """A model file to the DPE_MODEL socket."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        names = model_names()
        return io.Schema(
            node_id="DPE_LoadDPEModel",
            display_name="Load DPE Model",
            category=CATEGORY,
            description=(
                "Opens a DPE model. The released model is the one for real people: download dpe.pt from "
                f"{RELEASE_PAGE} (see Trained Models) and put it into ComfyUI/models/dpe. The bundled model is small "
                "and runs without a download."
            ),
            inputs=[
                io.Combo.Input(
                    "model",
                    options=names,
                    default=names[0] if names else None,
                    tooltip="A .pt or .safetensors file in models/dpe, or the model that came with the pack.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    tooltip=(
                        "Precision of the convolutions. auto: bf16 or fp16 on NVIDIA and AMD GPUs that are good at it, "
                        "fp32 elsewhere. "
                        "fp32 is exact; half precision is faster and needs half the memory. CPUs with matrix units "
                        "(Intel AMX) are several times faster in bf16. Frames that do not fit half precision are made "
                        "again in fp32."
                    ),
                ),
                io.Combo.Input(
                    "roles",
                    options=list(ROLES),
                    default="from the file",
                    optional=True,
                    tooltip=(
                        "Which of the model's two branches edits the expression. Training decides this by chance; "
                        "files saved by this pack record it, others are taken to be like the released model. Change it "
                        "only if Render Expression moves the head."
                    ),
                ),
                io.Boolean.Input(
                    "compile",
                    default=False,
                    optional=True,
                    tooltip=(
                        "For long clips on an NVIDIA GPU: have PyTorch compile the network, which takes a minute or "
                        "more before the first frame. Where that does not work the log says so and rendering goes on "
                        "as usual."
                    ),
                ),
            ],
            outputs=[DPEModel.Output(display_name="model")],
        )

    @classmethod
    def validate_inputs(cls, model: str | None = None) -> bool:
        """Let any name pass: hosts refuse what is not listed, as bundled models of earlier releases are not.

        Which file that is, or what to do where there is none, `execute` knows. None: it comes from another node.
        """
        return True

    @classmethod
    def fingerprint_inputs(cls, model: str | None, **_: object) -> str:
        """Load again when the file has changed. None: the name comes from another node, which the host looks at."""
        if model is None:
            return ""
        stat = model_path(model).stat()
        return f"{model}:{stat.st_mtime_ns}:{stat.st_size}"

    @classmethod
    def execute(
        cls, model: str, precision: str = "auto", roles: str = "from the file", compile: bool = False
    ) -> io.NodeOutput:
        """Open the file and hand the network to the host's memory management."""
        if roles not in ROLES:
            raise CheckpointError(f"roles: expected one of {', '.join(ROLES)}, got {roles!r}.")
        device = host.memory.get_torch_device()
        checkpoint = load_checkpoint(model_path(model), resolve_precision(precision, device))
        if compile:
            compile_on_gpu(checkpoint, device)
        chosen = ROLES[roles]
        if chosen is not None:
            checkpoint = replace(checkpoint, roles=chosen)
        lines = [_summary(checkpoint)]
        if model.startswith(BUNDLED):
            logger.info("Using the bundled model. The released model for real people: %s", RELEASE_PAGE)
            lines.append(
                f"The released model is the one for real people: {RELEASE_PAGE} (Trained Models). Put dpe.pt into "
                "models/dpe."
            )
        return io.NodeOutput(host.LoadedModel.of(checkpoint), ui=host.note(*lines))


def _summary(checkpoint: Checkpoint) -> str:
    title = checkpoint.metadata.get("title") or checkpoint.name
    precision = _PRECISION_NAMES[checkpoint.network.compute_dtype]
    return f"{title}: {checkpoint.config.size} px, {precision}"
