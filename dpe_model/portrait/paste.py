"""Putting edited crops back into the full frames, touching nothing outside the mask."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import FrameError
from ..frames import check_frames
from .colour import lab_to_rgb, rgb_to_lab
from .crop import Crop, as_array, check_fit
from .mask import face_mask, feather_mask
from .warp import corners, invert, shifted, warp

MASKS = ("face", "crop", "parsing")
COLOUR_MATCH = ("none", "mean_std", "histogram")
MAX_CONTRAST = 2.0
"""Most that colour matching may stretch or flatten a channel."""


@dataclass(frozen=True)
class PasteOptions:
    """How edited crops are put back.

    Attributes:
        mask: "face" (a soft shape around the landmarks), "crop" (all of the crop, feathered) or "parsing" (the face
            as a parsing network sees it, in source and edit; needs `parsing_weights`).
        feather: width of the mask's soft edge, in sides of the crop, 0..0.5.
        grow: size of the face's mask, 0.1..4; 1 covers a face from forehead to below the chin.
        colour_match: "none", or give the edit the colours the frame has under the mask: "mean_std" or "histogram".
        detail: how much of the frame's fine detail is carried over where the edit moved nothing, 0..1.
        parsing_weights: the file of the face-parsing network (BiSeNet, 19 classes).
        mask_smoothing: how steady the mask is over time: standard deviation in frames, 0..50.

    Raises:
        ValueError: an unknown choice, or a number out of range.
    """

    mask: str = "face"
    feather: float = 0.15
    grow: float = 1.0
    colour_match: str = "none"
    detail: float = 0.0
    parsing_weights: Path | None = None
    mask_smoothing: float = 2.0

    def __post_init__(self) -> None:
        check_choice("mask", self.mask, MASKS)
        check_choice("colour_match", self.colour_match, COLOUR_MATCH)
        check_range("feather", self.feather, 0.0, 0.5, " (in sides of the crop)")
        check_range("grow", self.grow, 0.1, 4.0)
        check_range("detail", self.detail, 0.0, 1.0)
        check_range("mask_smoothing", self.mask_smoothing, 0.0, 50.0, " (frames)")
        if self.mask == "parsing" and self.parsing_weights is None:
            raise ValueError(
                "mask: parsing needs the weights of the face-parsing network. Name the file (79999_iter.pth, as "
                "published with the face-parsing project), or choose face or crop."
            )


class Paster:
    """Puts the edited crops of one clip back into its frames, chunk by chunk.

    What is smoothed over time is the same however the clip is cut into chunks.
    """

    def __init__(self, options: PasteOptions, crop: Crop, device: torch.device | str = "cpu") -> None:
        self.options = options
        self.crop = crop
        self.device = torch.device(device)
        self._next = 0

    def paste(
        self,
        frames: Tensor,
        edited: Tensor,
        start: int,
        own_mask: Tensor | None = None,
        portraits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Paste one chunk; chunks come in order, from frame 0 on, none left out.

        Args:
            frames: [n, H, W, 3] uint8 or floating point.
            edited: [n, S, S, 3] the edited crops.
            start: the first frame's place in the clip.
            own_mask: a mask instead of the automatic one, [n, h, w], [1, h, w] or [h, w] in 0..1: of the full frames'
                size, or square, in the crop.
            portraits: [n, s, s, 3] the crops before the edit, if at hand (they are cut again otherwise).

        Returns:
            The frames [n, H, W, 3] in their dtype on the CPU, and the mask [n, H, W] float32 that was used. Where the
            mask is 0 the result equals the frame bit for bit.

        Raises:
            FrameError: chunks out of order, numbers or sizes that do not fit, NaN or infinite values.
        """
        if start != self._next:
            raise FrameError(f"Expected the chunk that starts at frame {self._next}, got one that starts at {start}.")
        part = self.crop[start : start + len(frames)]
        mask = own_mask
        if mask is None and (self.options.mask == "crop" or part.landmarks is None):
            mask = feather_mask(part.size, self.options.feather)
        elif mask is None:
            mask = face_mask(part, grow=self.options.grow, feather=self.options.feather)
        out = paste_back(frames, edited, part, mask, self.options.colour_match)
        self._next = start + len(frames)
        return out


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise a ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}.")


def check_range(name: str, value: float, low: float, high: float, unit: str = "") -> None:
    """Raise a ValueError unless `value` is a number in low..high."""
    if not low <= value <= high:
        raise ValueError(f"{name}: expected {low:g}..{high:g}{unit}, got {value}.")


def paste_back(
    frames: Tensor, edited: Tensor, crop: Crop, mask: Tensor | None = None, colour_match: str = "none"
) -> tuple[Tensor, Tensor]:
    """Blend edited crops into the full frames they were cut from.

    Where the mask is 0 the result equals the frame bit for bit. A chunk of a clip is pasted with `crop[start:stop]`.

    Args:
        frames: [N, H, W, 3] uint8 or floating point.
        edited: [N, S, S, 3] the edited crops; any square size and either kind of values.
        crop: where they were cut out.
        mask: [N, s, s], [1, s, s] or [s, s] in 0..1 in the crop's square, any size; the face mask if None (without
            landmarks the feathered crop). A mask of your own that is not 0 along the border shows the border.
        colour_match: "none", or "mean_std": give the edited crop the mean and deviation the frame has inside the
            mask, by channel in CIE Lab.

    Returns:
        The frames [N, H, W, 3] in their dtype on the CPU, and the mask [N, H, W] float32 that was used.
        Frames with `crop.found` False come back untouched with an empty mask.

    Raises:
        FrameError: numbers or sizes that do not fit together, crops that are not square, NaN or infinite values.
        ValueError: an unknown `colour_match`.
    """
    check_choice("colour_match", colour_match, COLOUR_MATCH)
    frames, edited = check_frames(frames), check_frames(edited, "edited")
    check_fit(frames, crop)
    _check_edited(frames, edited)
    masks = _crop_masks(mask, crop)
    # numpy has no bfloat16; float32 and back is exact.
    held = torch.float32 if frames.dtype == torch.bfloat16 else frames.dtype
    out = torch.empty(frames.shape, dtype=held).copy_(frames)
    placed = torch.zeros(out.shape[:3], dtype=torch.float32)
    # The pixels are worked on as numpy arrays: torch's thread pool costs more than it gives on pictures this small.
    pictures, alphas = out.numpy(), placed.numpy()
    for n in np.flatnonzero(crop.found):
        new = as_array(edited[n])
        _paste_one(pictures[n], alphas[n], new, masks[n if len(masks) > 1 else 0], crop.matrix[n], colour_match)
    return out.to(frames.dtype), placed


def _paste_one(
    frame: np.ndarray, placed: np.ndarray, edited: np.ndarray, mask: np.ndarray, matrix: np.ndarray, colour_match: str
) -> None:
    """Blend one crop [S, S, 3] into one frame [H, W, 3] and its mask [H, W], both changed in place."""
    box = _frame_box(matrix, frame.shape[0], frame.shape[1])
    if box is None:
        return
    top, bottom, left, right = box
    size = (bottom - top, right - left)
    alpha = warp(mask, _to_frame(matrix, mask.shape[0], left, top), size, edge="zero").clip(0.0, 1.0)
    inside = alpha > 0.0
    if not inside.any():
        return
    new = _as_unit(warp(edited, _to_frame(matrix, edited.shape[0], left, top), size))
    region = frame[top:bottom, left:right]
    old = _as_unit(region)
    if colour_match != "none":
        new = matched(new, old, alpha)
    blended = old + alpha[..., None] * (new - old)
    if frame.dtype == np.uint8:
        blended = np.clip(np.rint(blended * 255.0), 0, 255)
    np.copyto(region, blended.astype(frame.dtype), where=inside[..., None])
    placed[top:bottom, left:right] = alpha


def matched(new: np.ndarray, old: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`new` with the weighted mean and standard deviation of `old` in each channel of CIE Lab.

    Reinhard, Ashikhmin, Gooch, Shirley: Color Transfer between Images (2001), there in another opponent space.

    Args:
        new: [h, w, 3] RGB float32 in 0..1.
        old: [h, w, 3] the same.
        weight: [h, w] what counts, 0..1, not all 0.
    """
    a, b = (rgb_to_lab(np.clip(x, 0.0, 1.0)) for x in (new, old))
    share = (weight / weight.sum(dtype=np.float64))[..., None]
    mean_a, mean_b = (a * share).sum((0, 1)), (b * share).sum((0, 1))
    deviation_a, deviation_b = (np.sqrt(((x - m) ** 2 * share).sum((0, 1))) for x, m in ((a, mean_a), (b, mean_b)))
    gain = np.clip((deviation_b + 1e-3) / (deviation_a + 1e-3), 1.0 / MAX_CONTRAST, MAX_CONTRAST)
    lab = ((a - mean_a) * gain + mean_b).astype(np.float32)
    return np.clip(lab_to_rgb(lab), 0.0, 1.0)


def _frame_box(matrix: np.ndarray, height: int, width: int) -> tuple[int, int, int, int] | None:
    """top, bottom, left, right of the crop in the frame, in whole pixels inside it; None if they do not meet."""
    x0, y0, x1, y1 = corners(_to_frame(matrix, 1, 0, 0), 1.0, 1.0)
    top, bottom = max(math.floor(y0), 0), min(math.ceil(y1), height)
    left, right = max(math.floor(x0), 0), min(math.ceil(x1), width)
    return (top, bottom, left, right) if top < bottom and left < right else None


def _to_frame(matrix: np.ndarray, size: int, left: int, top: int) -> np.ndarray:
    """[2, 3] from pixels of a crop of side `size` to pixels of the frame's part at (left, top)."""
    return shifted(invert(matrix * float(size)), (0.0, 0.0), (-left, -top))


def _as_unit(picture: np.ndarray) -> np.ndarray:
    """uint8 or float32 values as float32 in 0..1."""
    return picture.astype(np.float32) / np.float32(255.0) if picture.dtype == np.uint8 else picture.astype(np.float32)


def _check_edited(frames: Tensor, edited: Tensor) -> None:
    if len(frames) != len(edited):
        raise FrameError(
            f"Expected as many edited crops as frames, got {len(frames)} frames and {len(edited)} edited. Render "
            "every frame of the crop, or cut the frames to the shorter length before they are cropped."
        )
    if edited.shape[1] != edited.shape[2]:
        raise FrameError(
            f"edited: expected square pictures, got {edited.shape[2]}x{edited.shape[1]}. An upscaler or restorer "
            "between must keep the shape."
        )
    bad = [n for n in range(len(edited)) if edited.is_floating_point() and not torch.isfinite(edited[n]).all()]
    if bad:
        raise FrameError(
            f"edited: expected finite values, found NaN or infinity in {len(bad)} of {len(edited)} crops, the first "
            f"at {bad[:5]}. Check the node before (a half-precision upscaler or VAE is the usual cause)."
        )


def _crop_masks(mask: Tensor | None, crop: Crop) -> np.ndarray:
    """Masks [N or 1, s, s] float32 in 0..1."""
    if mask is None:
        mask = feather_mask(crop.size) if crop.landmarks is None else face_mask(crop)
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or mask.shape[1] != mask.shape[2] or len(mask) not in (1, len(crop)):
        raise FrameError(
            f"mask: expected [{len(crop)}, s, s] or one square mask for all in the crop's square, got "
            f"{list(mask.shape)}."
        )
    if not torch.isfinite(mask).all():
        raise FrameError("mask: expected values in 0..1, found NaN or infinity.")
    return np.ascontiguousarray(mask.detach().float().clamp(0.0, 1.0).cpu().numpy())
