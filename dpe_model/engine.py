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
from .deferred import DeferredMotion
from .devices import (
    Download,
    available_bytes,
    best_chunk,
    best_dtype,
    emulates_bfloat16,
    exact_float32,
    is_out_of_memory,
)
from .errors import DPEError, FrameError, MotionError
from .frames import check_frames, check_square, from_network, to_network, to_unit
from .latent import Latent
from .motion import EditPlan, Motion
from .network import Branch, DPENetwork, Encoding
from .network.encoder import concat_encodings, encoding_bytes

logger = logging.getLogger(__name__)
T = TypeVar("T")

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16", "fp16")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

FEATURE_BUDGET = 256 * 2**20
"""Bytes of encodings kept in a latent for rendering again."""

RenderStep = tuple[Role, EditPlan]


def resolve_precision(precision: Precision, device: torch.device | str) -> torch.dtype:
    """The dtype of the convolutions; `auto` is what `best_dtype` says of the device.

    A CUDA or ROCm GPU without bfloat16 computes in that too where bf16 was asked for, with a warning: cuDNN has no
    bfloat16 convolutions there.

    Raises:
        DPEError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise DPEError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}.")
    device = torch.device(device)
    if precision == "auto":
        return best_dtype(device)
    if precision == "bf16" and emulates_bfloat16(device.type):
        logger.warning("bf16: this processor emulates it, many times slower than fp32. Choose fp32 or auto.")
    if precision == "bf16" and device.type == "cuda" and (best := best_dtype(device)) != torch.bfloat16:
        logger.warning("bf16: this GPU has none; %s is used. Choose auto.", str(best).removeprefix("torch."))
        return best
    return _DTYPES[precision]


def compile_on_gpu(checkpoint: Checkpoint, device: torch.device) -> None:
    """Have a checkpoint's network compiled by `torch.compile` where it runs on a CUDA GPU; elsewhere say so."""
    if device.type == "cuda":
        checkpoint.network.compile_passes()
    else:
        logger.info("compile: for CUDA GPUs only; %s goes on without it.", device.type)


@dataclass(frozen=True)
class Services:
    """What the surroundings provide.

    Attributes:
        on_frames: called after each chunk with the number of frames done in it.
        check_interrupt: called before each chunk; raises to stop.
        free_memory: called when the device ran out of memory, before a smaller chunk is tried.
        free_bytes: how much can be allocated on a device, if known: decides how many pictures go at a time.
        place: puts a further network (see `Engine`) on a device; what it returns is held while the network is used.
    """

    on_frames: Callable[[int], None] = field(default=lambda count: None)
    check_interrupt: Callable[[], None] = field(default=lambda: None)
    free_memory: Callable[[], None] = field(default=lambda: torch.cuda.empty_cache())
    free_bytes: Callable[[torch.device], int | None] = field(default=available_bytes)
    place: Callable[[DPENetwork, torch.device], object] = field(default=lambda network, device: network.to(device))


@dataclass
class PassCount:
    """Pictures that went through encoder and generators."""

    encoder: int = 0
    generator: int = 0


@dataclass(frozen=True)
class _Begun:
    """A chunk on its way: its result with a flag "all of it is finite", and how to make it again in float32."""

    arrival: Download
    again: Callable[[], Tensor]


class Engine:
    """Runs a checkpoint over frames.

    A chunk whose result is not finite, as half precision may give it, is made again in float32, with one warning; the
    float32 network is read from the checkpoint's file when that first happens.

    On a GPU a chunk is begun before the one before it is waited for, so that decoding, encoding and copying of frames
    happen while it computes; float32 there is exact (no TF32). PyTorch's global settings are left as they were.

    Args:
        checkpoint: in its inference form; its network is on `device` already or is moved there.
        device: where to compute.
        chunk: pictures at a time, by default what the free memory allows; halved when the device runs out of memory.
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
        self.services = services or Services()
        dtype = self.network.compute_dtype
        free = self.services.free_bytes(self.device)
        self.chunk = chunk or best_chunk(checkpoint.config, dtype, self.device, free)
        self.feature_budget = feature_budget
        self.storage = torch.device(storage)
        self.passes = PassCount()
        self._exact: DPENetwork | None = None
        self._placed: object = None
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    @property
    def size(self) -> int:
        """Side of the pictures the network takes and gives, in pixels."""
        return self.checkpoint.config.size

    # Encoding

    def encode(self, frames: Tensor, fps: float | None = None, later: Callable[[], Tensor] | None = None) -> Latent:
        """Source frames [N, S, S, 3] to a latent without edits.

        Args:
            frames: the source.
            fps: frames per second, where known.
            later: measures the frames' motion, alpha [N, M]. Where given, it is called when somebody first looks at the
                motion, unless the features can be kept: nothing is encoded now that rendering would encode again.

        Raises:
            FrameError: frames that the network cannot take.
        """
        frames = check_square(frames)
        if len(frames) * encoding_bytes(self.checkpoint.config, self.network.compute_dtype) <= self.feature_budget:
            return self._encode_and_keep(frames, fps)
        if later is None:
            return Latent(frames, self.measure([frames], fps))
        numbers = self.checkpoint.config.motion_dim
        return Latent(frames, DeferredMotion(later, len(frames), numbers, self.checkpoint.fingerprint, fps))

    @torch.no_grad()
    def _encode_and_keep(self, frames: Tensor, fps: float | None) -> Latent:
        kept: list[Encoding] = []

        def begin(start: int, chunk: Tensor) -> _Begun:
            images = self._images(chunk, start)
            encoding = self._encode(images, with_features=True)
            kept.append(encoding.to(self.storage))
            return self._begun_motion(encoding, images)

        alphas = list(self._in_order(begin(start, chunk) for start, chunk in self._split([frames])))
        motion = Motion(torch.cat(alphas), self.checkpoint.fingerprint, fps)
        # What float32 had to repair is not worth keeping.
        return Latent(frames, motion, concat_encodings(kept) if self._exact is None else None)

    @torch.no_grad()
    def measure(self, chunks: Iterable[Tensor], fps: float | None = None) -> Motion:
        """Motion of a stream of frame chunks [n, S, S, 3], e.g. a driver's.

        Raises:
            FrameError: no frames, or frames that the network cannot take.
        """

        def begin(start: int, chunk: Tensor) -> _Begun:
            images = self._images(chunk, start)
            return self._begun_motion(self._encode(images, with_features=False), images)

        alphas = list(self._in_order(begin(start, chunk) for start, chunk in self._split(chunks)))
        if not alphas:
            raise FrameError("driver: expected at least one frame, got none. Check the file or node before.")
        return Motion(torch.cat(alphas), self.checkpoint.fingerprint, fps)

    @torch.no_grad()
    def edit_code(self, alpha: Tensor, role: Role) -> Tensor:
        """What a role's generator hears of motions [N, M]: its code [N, style_dim], float32 on the CPU."""
        with exact_float32(self.device):
            return self.network.branch_code(alpha.to(self.device), self.checkpoint.roles.branch(role)).cpu()

    def _begun_motion(self, encoding: Encoding, images: Tensor) -> _Begun:
        def again() -> Tensor:
            network = self._exact_network()
            return self._motion(self._encode(images, with_features=False, network=network), network)

        return self._begun(self._motion(encoding, self.network), again)

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
        for role in roles:
            latent.settle(role)  # now, and not amid a chunk
        if latent.encoding is not None and latent.encoding.dtype == self.network.compute_dtype:
            return self._render_kept(latent.encoding, latent.frames, steps)
        if len(latent.motion) == 1:
            return self.render_still(latent.frames, steps)
        return self.render_stream([latent.frames[: latent.length]], steps)

    def unchanged(self, latent: Latent) -> Iterator[Tensor]:
        """A latent's own frames: [n, S, S, 3] float32 in 0..1 on the CPU, in order; resized where they must be."""
        fits = latent.frames.shape[1] == self.size
        for start, frames in self._split([latent.frames]):
            yield to_unit(frames).cpu() if fits else from_network(self._images(frames, start)).cpu()
            self.services.on_frames(len(frames))

    @torch.no_grad()
    def render_stream(self, chunks: Iterable[Tensor], steps: Sequence[RenderStep]) -> Iterator[Tensor]:
        """Render a stream of source chunks [n, S, S, 3] of any lengths; stops after the plans' length.

        Args:
            chunks: the source, in order.
            steps: role and laid-out edits, applied in order.
        """
        yield from self._in_order(self._begin_stream(chunks, steps))

    def _begin_stream(self, chunks: Iterable[Tensor], steps: Sequence[RenderStep]) -> Iterator[_Begun]:
        for start, frames in self._split(chunks, min(plan.length for _, plan in steps)):
            yield self._begin_render(None, frames, steps, start, len(frames))

    def render_still(self, frames: Tensor, steps: Sequence[RenderStep]) -> Iterator[Tensor]:
        """Render one picture [1, S, S, 3] for as long as the plans go; it is encoded once."""
        with torch.no_grad():
            still = self._encode(self._images(frames), with_features=True)
        return self._render_kept(still, frames, steps)

    @torch.no_grad()
    def _render_kept(self, kept: Encoding, frames: Tensor, steps: Sequence[RenderStep]) -> Iterator[Tensor]:
        yield from self._in_order(self._begin_kept(kept, frames, steps))

    def _begin_kept(self, kept: Encoding, frames: Tensor, steps: Sequence[RenderStep]) -> Iterator[_Begun]:
        start, length = 0, min(plan.length for _, plan in steps)
        if len(kept) == 1:
            kept = kept.to(self.device)
        while start < length:
            self.services.check_interrupt()
            stop = min(start + self.chunk, length)
            part = _slice(kept, start, stop).to(self.device)
            own = frames if len(frames) == 1 else frames[start:stop]
            yield self._begin_render(part, own, steps, start, stop - start)
            start = stop

    def _begin_render(
        self, encoding: Encoding | None, frames: Tensor, steps: Sequence[RenderStep], start: int, count: int
    ) -> _Begun:
        """Begin frames number `start` and following; `encoding`, if known, is that of `frames`, `count` or a still."""

        def run(known: Encoding | None, network: DPENetwork) -> Tensor:
            known = known or self._encode(self._images(frames, start), with_features=True, network=network)
            return self._run_steps(known, steps, start, count, network)

        return self._begun(run(encoding, self.network), lambda: run(None, self._exact_network()), from_network)

    def _run_steps(
        self, encoding: Encoding, steps: Sequence[RenderStep], start: int, count: int, network: DPENetwork
    ) -> Tensor:
        """Pictures [count, 3, S, S] after all steps; `encoding` holds `count` pictures or one still."""
        images = encoding.w
        for i, (role, plan) in enumerate(steps):
            if i:
                # As published, the half-way picture is encoded as it is, unclamped.
                encoding = self._encode(images, with_features=True, network=network)
            alpha = plan.apply(self._motion(encoding, network).expand(count, -1), start)
            images = self._generate(encoding, alpha, self.checkpoint.roles.branch(role), network)
        return images

    # Results on their way

    def _begun(
        self, result: Tensor, again: Callable[[], Tensor], finish: Callable[[Tensor], Tensor] = lambda t: t
    ) -> _Begun:
        finite = torch.isfinite(result).all()
        return _Begun(Download((finish(result), finite), self._stream), lambda: finish(again()))

    def _in_order(self, begun: Iterable[_Begun]) -> Iterator[Tensor]:
        """The results; on a GPU always one behind what has been begun."""
        waiting: _Begun | None = None
        for chunk in begun:
            if self._stream is None:
                yield self._finish(chunk)
                continue
            if waiting is not None:
                yield self._finish(waiting)
            waiting = chunk
        if waiting is not None:
            yield self._finish(waiting)

    def _finish(self, begun: _Begun) -> Tensor:
        """Wait for a chunk, and repair it if need be."""
        result, finite = begun.arrival.wait()
        if not bool(finite):
            result = begun.again().cpu()
            if not bool(torch.isfinite(result).all()):
                raise DPEError(
                    f"{self.checkpoint.name}: expected finite pictures, got NaN or infinity even in float32. The model "
                    "is damaged or its training diverged; use another one."
                )
        self.services.on_frames(len(result))
        return result

    def _exact_network(self) -> DPENetwork:
        """The network in float32, made when first needed."""
        if self._exact is None:
            if self.network.compute_dtype == torch.float32:
                return self.network
            logger.warning(
                "%s: values overflow %s in some frames, which are made again in float32. Choose fp32 precision (or "
                "bf16, if this was fp16) to save the double work.",
                self.checkpoint.name,
                str(self.network.compute_dtype).removeprefix("torch."),
            )
            network = self.checkpoint.in_float32()
            self._placed = self.services.place(network, self.device)
            self._exact = network.to(self.device)  # a host short of memory may have left it on the CPU
        return self._exact

    # One batch through the network, in smaller pieces when memory runs out

    def _encode(self, images: Tensor, with_features: bool, network: DPENetwork | None = None) -> Encoding:
        self.passes.encoder += len(images)
        chosen = network or self.network

        def run(part: slice) -> Encoding:
            return chosen.encode(images[part], with_features)

        return concat_encodings(self._pieces(run, len(images), chosen))

    def _motion(self, encoding: Encoding, network: DPENetwork) -> Tensor:
        with exact_float32(self.device):
            return network.motion(encoding.w)

    def _generate(self, encoding: Encoding, alpha: Tensor, branch: Branch, network: DPENetwork) -> Tensor:
        self.passes.generator += len(alpha)

        def run(part: slice) -> Tensor:
            return network.render(_slice(encoding, part.start, part.stop), alpha[part], branch)

        pieces = self._pieces(run, len(alpha), network)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _pieces(self, run: Callable[[slice], T], count: int, network: DPENetwork) -> list[T]:
        """Run over `count` pictures in slices of at most `chunk`, halving it while the device runs out of memory."""
        most = self._most(network)
        results: list[T] = []
        start = 0
        while start < count:
            stop = min(start + min(self.chunk, most), count)
            try:
                with exact_float32(self.device):
                    results.append(run(slice(start, stop)))
                start = stop
                continue
            except RuntimeError as error:
                if stop - start == 1 or not is_out_of_memory(error):
                    raise
            # Outside the handler, so that the failed attempt's tensors are gone.
            self.chunk = (stop - start) // 2
            logger.warning("Out of memory on %s: going on with %d pictures at a time.", self.device, self.chunk)
            self.services.free_memory()
        return results

    def _most(self, network: DPENetwork) -> int:
        """How many pictures a network takes at a time; the float32 one comes on top of what `chunk` was chosen for."""
        if network is not self._exact:
            return self.chunk
        free = self.services.free_bytes(self.device)
        return min(self.chunk, best_chunk(self.checkpoint.config, torch.float32, self.device, free))

    def _split(self, stream: Iterable[Tensor], length: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """A stream's frames in chunks, each with its first frame's number; of the first `length` frames, if given."""
        done = 0
        for big in stream:
            frames = check_frames(big)[: None if length is None else length - done]
            start = 0
            while start < len(frames):  # the chunk may shrink on the way
                self.services.check_interrupt()
                part = frames[start : start + self.chunk]
                yield done + start, part
                start += len(part)
            done += len(frames)
            if done == length:
                return

    def _images(self, frames: Tensor, start: int = 0) -> Tensor:
        return to_network(frames, self.size, self.device, start)


def _slice(encoding: Encoding, start: int, stop: int) -> Encoding:
    """Part of an encoding; a still's stands for every frame."""
    if len(encoding) == 1:
        return encoding
    return Encoding(encoding.w[start:stop], tuple(f[start:stop] for f in encoding.features))
