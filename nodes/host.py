"""The host's services, in the form the engine takes them: memory, progress, interruption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import comfy.model_management as memory
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image

from ..dpe_model.checkpoint import Checkpoint
from ..dpe_model.devices import best_chunk, picture_bytes
from ..dpe_model.engine import Engine, Services
from ..dpe_model.frames import to_uint8
from ..dpe_model.network import DPENetwork

PREVIEW_SIZE = 512


@dataclass(frozen=True)
class LoadedModel:
    """What a DPE_MODEL socket carries: the network under the host's memory management."""

    patcher: ModelPatcher
    checkpoint: Checkpoint

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> LoadedModel:
        """Put a checkpoint's network under the host's memory management."""
        patcher = ModelPatcher(checkpoint.network, memory.get_torch_device(), memory.unet_offload_device())
        return cls(patcher, checkpoint)


class Progress:
    """A progress bar that counts frames and can show the last one."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.bar = comfy.utils.ProgressBar(total)

    def add(self, count: int, frames: torch.Tensor | None = None) -> None:
        """Count frames; `frames` [n, H, W, 3], if given, are previewed."""
        self.done = min(self.done + count, self.total)
        self.bar.update_absolute(self.done, self.total, None if frames is None else preview(frames[-1]))


def preview(frame: torch.Tensor) -> tuple[str, Image.Image, int]:
    """A frame [H, W, 3] as the host's progress bar takes it."""
    return "JPEG", Image.fromarray(to_uint8(frame).cpu().numpy()), PREVIEW_SIZE


def note(*lines: str) -> dict[str, list[str]]:
    """The ui message that the front end shows on a node after it ran: one text, its lines one below the other.

    One, since the queue's history takes each entry of a list for an output. Without lines it is empty but there: only
    a message takes away what an earlier run left on the node.
    """
    return {"dpe_note": ["\n".join(lines)] if lines else []}


def counted(number: int, thing: str) -> str:
    """A number of things, such as "1 frame" or "2 frames"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def insightface_folder() -> Path:
    """Where insightface's models are: the first of the host's folders of that name that has some (other packs and
    extra_model_paths.yaml make them known), else where they belong."""
    usual = Path(folder_paths.models_dir) / "insightface"
    named = folder_paths.folder_names_and_paths.get("insightface", ([], set()))[0]
    return next((folder for folder in map(Path, named) if (folder / "models").is_dir()), usual)


def check_interrupt() -> None:
    """Stop here if the user asked to."""
    memory.throw_exception_if_processing_interrupted()


def engine(model: LoadedModel, progress: Progress | None = None) -> Engine:
    """An engine on the host's device, the network loaded there and room made for one chunk of frames."""
    device = model.patcher.load_device
    config, dtype = model.checkpoint.config, model.checkpoint.network.compute_dtype
    wanted = best_chunk(config, dtype, device, None) * picture_bytes(config, dtype)
    memory.load_models_gpu([model.patcher], memory_required=wanted, force_full_load=True)
    services = Services(
        on_frames=(lambda count: None) if progress is None else progress.add,
        check_interrupt=check_interrupt,
        free_memory=memory.soft_empty_cache,
        free_bytes=_free_bytes,
        place=partial(_place, model),
    )
    return Engine(model.checkpoint, device, services=services, storage=memory.intermediate_device())


def _free_bytes(device: torch.device) -> int | None:
    return None if memory.is_device_cpu(device) else int(memory.get_free_memory(device))


def _place(model: LoadedModel, network: DPENetwork, device: torch.device) -> ModelPatcher:
    """Put a further network on the device beside the model's own, which is in use and must not make room for it."""
    patcher = ModelPatcher(network, device, memory.unet_offload_device())
    memory.load_models_gpu([model.patcher, patcher], force_full_load=True)
    return patcher


def gather(
    chunks: Iterator[torch.Tensor], length: int, progress: Progress | None = None, previews: bool = True
) -> torch.Tensor:
    """Chunks of frames as one IMAGE [length, H, W, 3] where the host keeps results.

    Previews stay on the node, in front of pictures that it puts out itself: such a node goes without.
    """
    images: torch.Tensor | None = None
    start = 0
    for chunk in chunks:
        if images is None:
            images = torch.empty((length, *chunk.shape[1:]), dtype=chunk.dtype, device=memory.intermediate_device())
        images[start : start + len(chunk)] = chunk
        start += len(chunk)
        if progress is not None:
            progress.add(len(chunk), chunk if previews else None)
    if images is None or start != length:
        raise RuntimeError(f"expected {length} frames, got {start}")
    return images
