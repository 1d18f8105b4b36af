"""Encoding and rendering of many frames: in chunks, with flat memory, each picture encoded once.

The engine knows no files and no ComfyUI. What it needs from its surroundings (progress, interruption, freeing memory)
comes in as `Services`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch
from torch import Tensor

from .checkpoint import Checkpoint, Role
from .errors import DPEError, FrameError, MotionError
from .frames import check_frames, from_network, to_network
from .latent import Latent
from .motion import EditPlan, Motion
from .network import Branch, Encoding
from .network.encoder import concat_encodings

logger = logging.getLogger(__name__)
T = TypeVar("T")

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16", "fp16")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

FEATURE_BUDGET = 256 * 2**20
"""Bytes of encodings kept in a latent for rendering again."""

RenderStep = tuple[Role, EditPlan]


def resolve_precision(precision: Precision, device: torch.device | str) -> torch.dtype:
    """The dtype of the convolutions: `auto` is float32 on the CPU, bfloat16 where the GPU has it, else float16.

    Raises:
        DPEError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise DPEError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}.")
    if precision != "auto":
        return _DTYPES[precision]
    if torch.device(device).type == "cuda":
        # From compute capability 8 on bfloat16 runs in hardware; before, PyTorch would emulate it.
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    return torch.float32


@dataclass(frozen=True)
class Services:
    """What the surroundings provide.

    Attributes:
        on_frames: called after each chunk with the number of frames done in it.
        check_interrupt: called before each chunk; raises to stop.
        free_memory: called when the device ran out of memory, before a smaller chunk is tried.
    """

    on_frames: Callable[[int], None] = field(default=lambda count: None)
    check_interrupt: Callable[[], None] = field(default=lambda: None)
    free_memory: Callable[[], None] = field(default=lambda: torch.cuda.empty_cache())


@dataclass
class PassCount:
    """Pictures that went through encoder and generators."""

    encoder: int = 0
    generator: int = 0


class Engine:
    """Runs a checkpoint over frames.

    Args:
        checkpoint: in its inference form; its network is on `device` already or is moved there.
        device: where to compute.
        chunk: pictures at a time; halved when the device runs out of memory.
        services: progress, interruption, memory.
        feature_budget: bytes of encodings that a latent may keep.
        storage: where those are kept: not on the GPU, whose memory others manage.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device | str = "cpu",
        chunk: int | None = None,
        services: Services | None = None,
        feature_budget: int = FEATURE_BUDGET,
        storage: torch.device | str = "cpu",
    ) -> None:
        self.checkpoint = checkpoint
        self.network = checkpoint.network.to(device)
        self.device = torch.device(device)
        self.chunk = chunk or (4 if self.device.type == "cpu" else 16)
        self.services = services or Services()
        self.feature_budget = feature_budget
        self.storage = torch.device(storage)
        self.passes = PassCount()

    @property
    def size(self) -> int:
        """Side of the pictures the network takes and gives, in pixels."""
        return self.checkpoint.config.size

    # Encoding

    @torch.no_grad()
    def encode(self, frames: Tensor, fps: float | None = None) -> Latent:
        """Source frames [N, S, S, 3] to a latent without edits.

        Raises:
            FrameError: frames that the network cannot take.
        """
        frames = check_frames(frames)
        encodings: list[Encoding] | None = []
        alphas: list[Tensor] = []
        held = 0
        for chunk in self._split(frames):
            encoding = self._encode(self._images(chunk), with_features=encodings is not None)
            alphas.append(self.network.motion(encoding.w).cpu())
            if encodings is not None:
                held += encoding.nbytes
                encodings = [*encodings, encoding.to(self.storage)] if held <= self.feature_budget else None
            self.services.on_frames(len(chunk))
        motion = Motion(torch.cat(alphas), self.checkpoint.fingerprint, fps)
        return Latent(frames, motion, concat_encodings(encodings) if encodings else None)

    @torch.no_grad()
    def measure(self, chunks: Iterable[Tensor], fps: float | None = None) -> Motion:
        """Motion of a stream of frame chunks [n, S, S, 3], e.g. a driver's.

        Raises:
            FrameError: no frames, or frames that the network cannot take.
        """
        alphas: list[Tensor] = []
        for big in chunks:
            for chunk in self._split(check_frames(big)):
                alphas.append(self.network.motion(self._encode(self._images(chunk), with_features=False).w).cpu())
                self.services.on_frames(len(chunk))
        if not alphas:
            raise FrameError("driver: expected at least one frame, got none. Check the file or node before.")
        return Motion(torch.cat(alphas), self.checkpoint.fingerprint, fps)

    # Rendering

    def render(self, latent: Latent, *roles: Role) -> Iterator[Tensor]:
        """Render a latent's edits, one role after the other; between two roles the picture is encoded again.

        Args:
            latent: from `encode`, with edits. A role without edits gives that branch's self-reconstruction.
            roles: `expression`, `pose`, or both (the published order is expression first).

        Returns:
            An iterator over frames [n, S, S, 3] float32 in 0..1 on the CPU, in order.

        Raises:
            MotionError: the latent was encoded with another checkpoint.
        """
        latent.motion.require_checkpoint(self.checkpoint.fingerprint, "latent")
        if not roles:
            raise MotionError("render: expected at least one of expression, pose.")
        steps = [(role, latent.plan(role)) for role in roles]
        if latent.encoding is not None:
            return self._render_kept(latent.encoding, steps)
        if len(latent.motion) == 1:
            return self.render_still(latent.frames, steps)
        return self.render_stream([latent.frames[: latent.length]], steps)

    @torch.no_grad()
    def render_stream(self, chunks: Iterable[Tensor], steps: Sequence[RenderStep]) -> Iterator[Tensor]:
        """Render a stream of source chunks [n, S, S, 3] of any lengths; stops after the plans' length.

        Args:
            chunks: the source, in order.
            steps: role and laid-out edits, applied in order.
        """
        start, length = 0, min(plan.length for _, plan in steps)
        for big in chunks:
            for frames in self._split(check_frames(big)[: length - start]):
                yield self.render_chunk(frames, steps, start)
                start += len(frames)
            if start >= length:
                return

    @torch.no_grad()
    def render_chunk(self, frames: Tensor, steps: Sequence[RenderStep], start: int) -> Tensor:
        """Render source frames [n, S, S, 3] that are number `start` and following of the result."""
        encoding = self._encode(self._images(frames), with_features=True)
        return self._finish(self._run_steps(encoding, steps, start, len(frames)))

    def render_still(self, frames: Tensor, steps: Sequence[RenderStep]) -> Iterator[Tensor]:
        """Render one picture [1, S, S, 3] for as long as the plans go; it is encoded once."""
        with torch.no_grad():
            still = self._encode(self._images(frames), with_features=True)
        return self._render_kept(still, steps)

    @torch.no_grad()
    def _render_kept(self, kept: Encoding, steps: Sequence[RenderStep]) -> Iterator[Tensor]:
        start, length = 0, min(plan.length for _, plan in steps)
        if len(kept) == 1:
            kept = kept.to(self.device)
        while start < length:
            self.services.check_interrupt()
            stop = min(start + self.chunk, length)
            part = _slice(kept, start, stop).to(self.device)
            yield self._finish(self._run_steps(part, steps, start, stop - start))
            start = stop

    def _run_steps(self, encoding: Encoding, steps: Sequence[RenderStep], start: int, count: int) -> Tensor:
        """Pictures [count, 3, S, S] after all steps; `encoding` holds `count` pictures or one still."""
        images = encoding.w
        for i, (role, plan) in enumerate(steps):
            if i:
                # As published, the half-way picture is encoded as it is, unclamped.
                encoding = self._encode(images, with_features=True)
            alpha = plan.apply(self.network.motion(encoding.w).expand(count, -1), start)
            images = self._generate(encoding, alpha, self.checkpoint.roles.branch(role))
        return images

    # One batch through the network, in smaller pieces when memory runs out

    def _encode(self, images: Tensor, with_features: bool) -> Encoding:
        self.passes.encoder += len(images)

        def run(part: slice) -> Encoding:
            return self.network.encode(images[part], with_features)

        return concat_encodings(self._pieces(run, len(images)))

    def _generate(self, encoding: Encoding, alpha: Tensor, branch: Branch) -> Tensor:
        self.passes.generator += len(alpha)

        def run(part: slice) -> Tensor:
            return self.network.render(_slice(encoding, part.start, part.stop), alpha[part], branch)

        pieces = self._pieces(run, len(alpha))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _pieces(self, run: Callable[[slice], T], count: int) -> list[T]:
        """Run over `count` pictures in slices of at most `chunk`, halving it while the device runs out of memory."""
        results: list[T] = []
        start = 0
        while start < count:
            stop = min(start + self.chunk, count)
            try:
                results.append(run(slice(start, stop)))
                start = stop
                continue
            except torch.cuda.OutOfMemoryError:
                if stop - start == 1:
                    raise
            # Outside the handler, so that the failed attempt's tensors are gone.
            self.chunk = (stop - start) // 2
            logger.warning("Out of memory on %s: going on with %d pictures at a time.", self.device, self.chunk)
            self.services.free_memory()
        return results

    def _split(self, frames: Tensor) -> Iterator[Tensor]:
        start = 0
        while start < len(frames):  # the chunk may shrink on the way
            self.services.check_interrupt()
            part = frames[start : start + self.chunk]
            yield part
            start += len(part)

    def _images(self, frames: Tensor) -> Tensor:
        return to_network(frames, self.size, self.device)

    def _finish(self, images: Tensor) -> Tensor:
        if not bool(torch.isfinite(images).all()):
            raise DPEError(
                f"render: the network gave non-finite values in {self.network.compute_dtype}. Choose fp32 precision."
            )
        frames = from_network(images).cpu()
        self.services.on_frames(len(frames))
        return frames


def _slice(encoding: Encoding, start: int, stop: int) -> Encoding:
    """Part of an encoding; a still's stands for every frame."""
    if len(encoding) == 1:
        return encoding
    return Encoding(encoding.w[start:stop], tuple(f[start:stop] for f in encoding.features))
