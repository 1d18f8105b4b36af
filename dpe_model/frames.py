"""The one place that knows how pictures are laid out.

*Frames* everywhere in this package are a tensor [N, H, W, 3] of RGB values, either uint8 in 0..255 or
floating point in 0..1 (ComfyUI's IMAGE). The network takes [N, 3, S, S] in -1..1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .devices import upload, warping_device
from .errors import FrameError

MIN_SIDE = 16
"""Pictures smaller than this, in pixels, hold no face."""


def check_frames(frames: Tensor, name: str = "frames") -> Tensor:
    """Frames as [N, H, W, 3], whatever came; grey becomes RGB and an alpha channel is dropped.

    Args:
        frames: [N, H, W, C] or one picture [H, W, C], C = 1, 3 or 4, uint8 or floating point.
        name: how the message calls the input.

    Raises:
        FrameError: no frames, another layout or dtype, or a side under 16 px. Values are checked where they
            are converted (`to_network`), chunk by chunk, so that a long clip is not read twice.
    """
    if frames.ndim == 3:
        frames = frames[None]
    if frames.ndim != 4 or frames.shape[-1] not in (1, 3, 4):
        raise FrameError(f"{name}: expected pictures [N, H, W, 3], got shape {list(frames.shape)}.")
    if frames.shape[0] == 0:
        raise FrameError(f"{name}: expected at least one picture, got an empty batch. Check the node or file before.")
    if frames.dtype != torch.uint8 and not frames.is_floating_point():
        raise FrameError(f"{name}: expected uint8 (0..255) or floating point (0..1) values, got {frames.dtype}.")
    height, width = frames.shape[1:3]
    if min(height, width) < MIN_SIDE:
        raise FrameError(f"{name}: expected pictures of at least {MIN_SIDE} px a side, got {width}x{height}.")
    if frames.shape[-1] == 1:
        return frames.expand(-1, -1, -1, 3)
    return frames[..., :3]


def check_square(frames: Tensor, name: str = "frames") -> Tensor:
    """As `check_frames`, of portraits.

    Raises:
        FrameError: what `check_frames` raises, and for frames that are not square.
    """
    frames = check_frames(frames, name)
    height, width = frames.shape[1:3]
    if height != width:
        raise FrameError(
            f"{name}: expected square pictures of one face, got {width}x{height}. Crop them to the face first "
            "(node: DPE Crop Portrait; command line: --crop face)."
        )
    return frames


def mask_planes(mask: Tensor) -> Tensor:
    """Masks as [N, h, w], from [h, w], [N, h, w] or [N, 1, h, w]; anything else as it is, for its user to refuse."""
    if mask.ndim == 2:
        return mask[None]
    return mask[:, 0] if mask.ndim == 4 and mask.shape[1] == 1 else mask


def to_unit(frames: Tensor) -> Tensor:
    """Frames, or one, as float32 in 0..1: [..., H, W, 3], or masks [..., H, W]."""
    return frames.float() / 255.0 if frames.dtype == torch.uint8 else frames.float()


def to_uint8(frames: Tensor) -> Tensor:
    """Frames as uint8 in 0..255, rounded to nearest, [N, H, W, 3]."""
    return frames if frames.dtype == torch.uint8 else (frames * 255.0).round_().clamp_(0, 255).to(torch.uint8)


def to_network(frames: Tensor, size: int, device: torch.device | str = "cpu", start: int = 0) -> Tensor:
    """Square frames as the network takes them: [N, 3, size, size] float32 in -1..1 on `device`, NHWC -> NCHW.

    Other sizes are resized with an antialiasing bilinear filter. `start` is the first frame's number in its clip, for
    messages.

    Raises:
        FrameError: frames that are not square, or hold NaN or infinite values.
    """
    frames = check_square(frames)
    check_finite(frames, start=start)
    if frames.dtype == torch.float64:
        frames = frames.float()  # before it travels: Apple's GPUs have no float64
    target, other_size = torch.device(device), frames.shape[1] != size
    x = upload(frames, warping_device(target) if other_size else target)
    x = x.float() / 127.5 - 1.0 if x.dtype == torch.uint8 else x.float() * 2.0 - 1.0
    x = x.clamp_(-1.0, 1.0).permute(0, 3, 1, 2)
    if other_size:
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False).clamp_(-1.0, 1.0)
    return x.contiguous().to(target)


def check_finite(frames: Tensor, name: str = "frames", start: int = 0) -> None:
    """Refuse NaN and infinity: where the frames are, before they travel, so that nobody waits for the device.

    Args:
        frames: [n, H, W, 3] uint8 or floating point.
        name: how the message calls the input.
        start: the number in the clip of the first of them.

    Raises:
        FrameError: some value is not finite; names the frames.
    """
    if not frames.is_floating_point() or bool(torch.isfinite(frames.sum(dtype=torch.float32))):
        return
    bad = [start + n for n, frame in enumerate(frames) if not bool(torch.isfinite(frame).all())]
    if bad:
        first = ", ".join(map(str, bad[:5])) + (" ..." if len(bad) > 5 else "")
        raise FrameError(
            f"{name}: expected finite values, found NaN or infinity at {'frame' if len(bad) == 1 else 'frames'} "
            f"{first}. Check what made these pictures (a half-precision upscaler or VAE is the usual cause)."
        )


def from_network(images: Tensor) -> Tensor:
    """The network's pictures [N, 3, S, S], about -1..1, as frames [N, S, S, 3] float32 in 0..1, NCHW -> NHWC."""
    return images.float().clamp(-1.0, 1.0).add(1.0).mul_(0.5).permute(0, 2, 3, 1).contiguous()
