"""Putting edited crops back into the full frames, touching nothing outside the mask."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..devices import exact_float32, is_out_of_memory, warping_device
from ..errors import FrameError, OptionError
from ..frames import check_finite, check_frames, mask_planes, to_unit
from .colour import colour_statistics, matched
from .crop import Crop, check_fit, same_shape, smooth
from .detail import FINE, LOW_SIZE, change_map, moved_map, with_detail
from .mask import SHAPE_SIZE, face_mask, feather_mask, jaw_drop, parsed_mask
from .parsing import FaceParser
from .temporal import RunningMap, RunningMean, RunningPeak, SceneWatch
from .warp import corners, invert, resample, shifted

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
MASKS = ("face", "crop", "parsing")
COLOUR_MATCH = ("none", "mean_std", "histogram")
OWN_RIM = 0.05
"""Width over which a mask of one's own falls off to the crop's border, in sides of the crop."""
COLOUR_MEMORY = 12.0
"""Frames over which colours are averaged before they are matched."""
STILL_MEMORY = 3.0
"""Frames in which detail comes back where something has stopped moving."""
MOVED_WEIGHT = 0.05
"""What moved places count in matching colours, where still ones count 1."""
OUTLINE_CHANGE = 0.06
"""Mean change along the mask's edge, in 0..1, from which an edit has moved the head itself. Measured: at most 0.04 with
true edits of expression, 0.09 to 0.19 with edits of pose."""


@dataclass(frozen=True)
class PasteOptions:
    """How edited crops are put back.

    Attributes:
        mask: "face" (a soft shape around the landmarks), "crop" (all of the crop, feathered) or "parsing" (the face
            as a parsing network sees it, in source and edit; needs `parsing_weights`).
        feather: width of the mask's soft edge, in sides of the crop, 0..0.5.
        grow: size of the face's mask, 0.1..4; 1 covers a face from forehead to chin.
        colour_match: "none", or give the edit the colours the frame has under the mask: "mean_std" or "histogram".
        detail: how much of the frame's fine detail is carried over where the edit moved nothing, 0..1.
        parsing_weights: the file of the face-parsing network (BiSeNet, 19 classes).
        mask_smoothing: how steady the mask is over time, in frames, 0..50.

    Raises:
        OptionError: an unknown choice, or a number out of range.
    """

    mask: str = "face"
    feather: float = 0.15
    grow: float = 1.0
    colour_match: str = "none"
    detail: float = 1.0
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
            raise OptionError(
                "mask: parsing needs the weights of the face-parsing network. Name the file (79999_iter.pth, as "
                "published with the face-parsing project), or choose face or crop."
            )


class Paster:
    """Puts the edited crops of one clip back into its frames, chunk by chunk.

    However the clip is cut into chunks, the result is the same: that of a frame depends on the crop of the whole clip,
    on this frame, and on those before it.

    Args:
        options: how.
        crop: of the whole clip.
        device: where the work is done, as far as it can be done there, and until it runs out of memory: from then on
            the CPU does it, with one warning. Frames and results stay on the CPU.

    Raises:
        ParsingError: the parsing network's weights cannot be used.
    """

    def __init__(self, options: PasteOptions, crop: Crop, device: torch.device | str = "cpu") -> None:
        self.options = options
        self.crop = _steadied(crop, options.mask_smoothing)
        self.device = warping_device(device)
        self._parser: FaceParser | None = None
        if options.mask == "parsing" and options.parsing_weights is not None:
            self._parser = FaceParser(options.parsing_weights, device)
        self._next = 0
        self._past = _Past(
            SceneWatch(),
            RunningMean(options.mask_smoothing),
            RunningMap(options.mask_smoothing),
            RunningPeak(STILL_MEMORY),
            RunningMean(COLOUR_MEMORY),
        )

    @property
    def outline_moved(self) -> bool:
        """Whether what was pasted so far moves the head's outline: after a pose edit the neck no longer fits."""
        seams = self._past.seams
        return len(seams) > 0 and sum(seams) / len(seams) > OUTLINE_CHANGE

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
            edited: [n, S, S, 3] the edited crops; any square size and either kind of values.
            start: the first frame's place in the clip.
            own_mask: a mask instead of the automatic one, [n, h, w], [1, h, w], [h, w] or [n, 1, h, w] in 0..1: of the
                full frames' shape, or square, in the crop. It is faded out at the crop's border.
            portraits: [n, s, s, 3] the crops before the edit, if at hand (they are cut again otherwise).

        Returns:
            The frames [n, H, W, 3] in their dtype on the CPU, and the mask [n, H, W] float32 that was used. Where the
            mask is 0 the result equals the frame bit for bit. Frames with `crop.edited` False come back untouched with
            an empty mask.

        Raises:
            FrameError: chunks out of order, numbers or sizes that do not fit, NaN or infinite values.
        """
        if start != self._next:
            raise FrameError(f"Expected the chunk that starts at frame {self._next}, got one that starts at {start}.")
        frames, edited = check_frames(frames), check_frames(edited, "edited")
        crop = self.crop[start : start + len(frames)]
        check_fit(frames, crop)
        _check_edited(frames, edited, start)
        own = None if own_mask is None else _own_masks(own_mask, crop)
        if portraits is not None:
            portraits = check_frames(portraits, "portraits")
            if len(portraits) != len(frames):
                raise FrameError(f"portraits: expected {len(frames)}, one a frame, got {len(portraits)}.")
        canvas = _Canvas(frames)
        with exact_float32(self.device):
            for n in map(int, np.flatnonzero(crop.edited)):
                portrait = None if portraits is None else portraits[n]
                mask = None if own is None else own[n if len(own) > 1 else 0]
                self._paste_somewhere(canvas, n, edited[n], crop[n : n + 1], portrait, mask)
        self._next = start + len(frames)
        return canvas.results(frames.dtype)

    def _unit(self, picture: Tensor) -> Tensor:
        """A picture as float32 in 0..1 on the device."""
        return to_unit(picture.to(self.device))

    def _paste_somewhere(
        self, canvas: _Canvas, n: int, edited: Tensor, crop: Crop, portrait: Tensor | None, own: _Mask | None
    ) -> None:
        """`_paste_one`; from the frame on at which the device runs out of memory, on the CPU."""
        if self._wholly_on_cpu:
            self._paste_one(canvas, n, edited, crop, portrait, own)
            return
        before = self._past.on(self.device)
        try:
            self._paste_one(canvas, n, edited, crop, portrait, own)
            return
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler, so that the failed attempt's tensors are gone.
        logger.warning("Pasting ran out of memory on the GPU and continues on the CPU, more slowly.")
        self._past = before
        self._move_to_cpu()
        self._paste_one(canvas, n, edited, crop, portrait, own)

    @property
    def _wholly_on_cpu(self) -> bool:
        return self.device == CPU and (self._parser is None or self._parser.device == CPU)

    def _move_to_cpu(self) -> None:
        self.device = CPU
        self._past = self._past.on(CPU)
        if self._parser is not None:
            self._parser.to(CPU)

    def _paste_one(
        self, canvas: _Canvas, n: int, edited: Tensor, crop: Crop, portrait: Tensor | None, own: _Mask | None
    ) -> None:
        """Measure one frame against those before it, and blend."""
        options, past = self.options, self._past
        matrix = crop.matrix[0]
        edited = self._unit(edited)
        if portrait is None:
            portrait = canvas.cut(n, matrix, edited.shape[0] if self._parser else LOW_SIZE, self.device)
        else:
            portrait = self._unit(portrait)
        source_low, edited_low = small(portrait), small(edited)
        part = None if crop.part is None else int(crop.part[0])
        # Without the face, a frame says nothing of the face's colours.
        held = crop.faceless is not None and bool(crop.faceless[0])
        if (past.scenes.is_cut(source_low) and not held) or part != past.part:
            for state in (past.jaw, past.face, past.moved, past.colours):
                state.reset()
        past.part = part
        change = change_map(source_low, edited_low)
        mask = self._mask(crop, change, portrait, edited, held) if own is None else own
        counts = halved(mask.small(matrix, self.device))
        if not bool(counts.any()):  # nothing of this frame is pasted, nor does it say anything of its colours
            return
        if not held:
            past.seams.append(_along_edge(change, counts))
        still = None
        if options.detail > 0.0 or options.colour_match != "none":
            still = 1.0 - past.moved.update(moved_map(source_low, edited_low, change))
        if still is not None and options.colour_match != "none":
            counts = counts * (MOVED_WEIGHT + (1.0 - MOVED_WEIGHT) * still)

            def statistics() -> Tensor:
                return colour_statistics(halved(edited_low), halved(source_low), counts, options.colour_match)

            edited = matched(edited, past.colours.at(statistics, held), options.colour_match)
        canvas.blend(n, edited, matrix, mask, None if still is None or not options.detail else options.detail * still)

    def _mask(self, crop: Crop, change: Tensor, portrait: Tensor, edited: Tensor, held: bool) -> _Mask:
        """The automatic mask of one frame, in the crop's square."""
        options = self.options
        marks = None if crop.landmarks is None else crop.landmarks[0]
        if self._parser is not None:
            face = self._past.face.value
            if face is None or not held:
                either = torch.maximum(self._parser.face(portrait[None])[0], self._parser.face(edited[None])[0])
                face = self._past.face.follow(either.to(self.device), marks)
            return _Mask(parsed_mask(face, options.feather, options.grow))
        size = SHAPE_SIZE if options.feather > 0.05 else max(SHAPE_SIZE, crop.size)
        if options.mask == "crop" or marks is None:
            return _Mask(feather_mask(size, options.feather)[0].to(self.device))
        jaw = self._past.jaw.at(lambda: torch.tensor(jaw_drop(change, marks)), held)
        return _Mask(face_mask(crop, size, options.grow, options.feather, float(jaw))[0].to(self.device))


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise an OptionError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise OptionError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}.")


def check_range(name: str, value: float, low: float, high: float, unit: str = "") -> None:
    """Raise an OptionError unless `value` is a number in low..high."""
    if not low <= value <= high:
        raise OptionError(f"{name}: expected {low:g}..{high:g}{unit}, got {value}.")


def small(picture: Tensor) -> Tensor:
    """A square picture [s, s, 3] in 0..1 at the side at which edits are compared."""
    if picture.shape[0] == LOW_SIZE:
        return picture
    scale = LOW_SIZE / picture.shape[0]
    return resample(picture, np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]]), (LOW_SIZE, LOW_SIZE))


def halved(picture: Tensor) -> Tensor:
    """[s, s, 3] or [s, s] at half the size."""
    planes = picture[None] if picture.ndim == 2 else picture.permute(2, 0, 1)
    planes = F.avg_pool2d(planes[None], 2)[0]
    return planes[0] if picture.ndim == 2 else planes.permute(1, 2, 0)


def _along_edge(change: Tensor, mask: Tensor) -> float:
    """Mean of a map [s, s] along the soft edge of a mask [s, s]."""
    edge = mask * (1.0 - mask)
    return float((change * edge).sum() / edge.sum().clamp_min(1e-6))


@dataclass
class _Past:
    """What a clip's frames up to now leave for the next: what is steadied over time, and the seams' changes."""

    scenes: SceneWatch
    jaw: RunningMean
    face: RunningMap
    moved: RunningPeak
    colours: RunningMean
    part: int | None = None
    seams: list[float] = field(default_factory=list)

    def on(self, device: torch.device) -> _Past:
        """A copy that goes on from here on a device."""
        return _Past(
            self.scenes.on(device),
            self.jaw.on(device),
            self.face.on(device),
            self.moved.on(device),
            self.colours.on(device),
            self.part,
            [*self.seams],
        )


@dataclass(frozen=True)
class _Mask:
    """Where an edit shows: a map in the crop's square and, multiplied with it, perhaps one over the full frame.

    Attributes:
        inner: [s, s] in 0..1.
        frame: [H, W] in 0..1, or None.
    """

    inner: Tensor
    frame: Tensor | None = None

    def small(self, matrix: np.ndarray, device: torch.device) -> Tensor:
        """The mask in the crop's square, `LOW_SIZE` px; `matrix` takes frame pixels to the unit square."""
        scale = LOW_SIZE / self.inner.shape[0]
        size = (LOW_SIZE, LOW_SIZE)
        inner = resample(self.inner.to(device), np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]]), size)
        if self.frame is None:
            return inner
        return inner * resample(self.frame, matrix * LOW_SIZE, size, edge="zero").to(device)

    def support(self) -> tuple[float, float, float, float] | None:
        """The box x0, y0, x1, y1 in the unit square outside which the mask is 0; None if it is 0 everywhere."""
        size = self.inner.shape[0]
        spans = []
        for axis in (0, 1):
            filled = torch.nonzero(self.inner.amax(axis) > 0.0).flatten()
            if not len(filled):
                return None
            # Interpolation carries a value half a pixel beyond its own.
            spans.append(((float(filled[0]) - 0.5) / size, (float(filled[-1]) + 1.5) / size))
        return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


class _Canvas:
    """Copies of the frames, and the masks, that the crops are blended into."""

    def __init__(self, frames: Tensor) -> None:
        self.frames = torch.empty(frames.shape, dtype=frames.dtype).copy_(frames)
        self.masks = torch.zeros(frames.shape[:3], dtype=torch.float32)

    def results(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The frames and the masks."""
        return self.frames.to(dtype), self.masks

    def cut(self, n: int, matrix: np.ndarray, size: int, device: torch.device) -> Tensor:
        """The crop [size, size, 3] of frame `n`, 0..1."""
        values = resample(self.frames[n], matrix * float(size), (size, size), device=device)
        return values / 255.0 if self.frames.dtype == torch.uint8 else values

    def blend(self, n: int, edited: Tensor, matrix: np.ndarray, mask: _Mask, detail: Tensor | None) -> None:
        """Blend one crop [S, S, 3] into frame `n`; `detail` [s, s] says where the frame's fine detail stays."""
        box = self._box(matrix, mask)
        if box is None:
            return
        top, bottom, left, right = box
        area, size = (n, slice(top, bottom), slice(left, right)), (bottom - top, right - left)
        inner = mask.inner.to(edited.device)
        alpha = resample(inner, _to_frame(matrix, inner.shape[0], left, top), size, edge="zero").clamp_(0.0, 1.0)
        if mask.frame is not None:
            alpha = alpha * mask.frame[top:bottom, left:right].to(edited.device)
        region = self.frames[area].to(edited.device)
        old = to_unit(region)
        new = resample(edited, _to_frame(matrix, edited.shape[0], left, top), size)
        if detail is not None:
            weight = resample(detail, _to_frame(matrix, detail.shape[0], left, top), size)
            new = with_detail(new, old, weight, self._fine(matrix, edited.shape[0]))
        blended = torch.lerp(old, new, alpha[..., None])
        if region.dtype == torch.uint8:
            blended = (blended * 255.0).round_().clamp_(0, 255)
        pasted = torch.where((alpha > 0.0)[..., None], blended.to(region.dtype), region)
        # Last, and together: until here the frame may still be made again elsewhere.
        self.frames[area], self.masks[area] = pasted.cpu(), alpha.cpu()

    def _box(self, matrix: np.ndarray, mask: _Mask) -> tuple[int, int, int, int] | None:
        """top, bottom, left, right of the mask in the frame, in whole pixels inside it; None if they do not meet."""
        support = mask.support()
        if support is None:
            return None
        u0, v0, u1, v1 = support
        x0, y0, x1, y1 = corners(shifted(invert(matrix), (u0, v0), (0.0, 0.0)), u1 - u0, v1 - v0)
        height, width = self.frames.shape[1:3]
        top, bottom = max(math.floor(y0), 0), min(math.ceil(y1), height)
        left, right = max(math.floor(x0), 0), min(math.ceil(x1), width)
        return (top, bottom, left, right) if top < bottom and left < right else None

    @staticmethod
    def _fine(matrix: np.ndarray, size: int) -> float:
        """The blur that takes fine detail away, frame px, for a portrait of side `size`."""
        side = 1.0 / math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))
        return max(FINE * side / size, 0.3)


def _to_frame(matrix: np.ndarray, size: int, left: int, top: int) -> np.ndarray:
    """[2, 3] from pixels of a crop of side `size` to pixels of the frame's part at (left, top)."""
    return shifted(invert(matrix * float(size)), (0.0, 0.0), (-left, -top))


def _steadied(crop: Crop, sigma: float) -> Crop:
    """The crop with landmarks smoothed over each part of the clip."""
    if crop.landmarks is None or sigma == 0.0:
        return crop
    steady = crop.landmarks.copy()
    for part in crop.parts():
        steady[part] = smooth(steady[part], sigma, np.ones(part.stop - part.start, dtype=bool))
    return replace(crop, landmarks=steady)


def _check_edited(frames: Tensor, edited: Tensor, start: int) -> None:
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
    check_finite(frames, "frames", start)
    check_finite(edited, "edited", start)


def check_mask(mask: Tensor, crop: Crop) -> Tensor:
    """A mask given from outside as [1 or N, h, w], whatever `mask_planes` takes; N are the frames of `crop`.

    Raises:
        FrameError: another number of masks, neither square nor of the full frames' shape, NaN or infinite values.
    """
    planes = mask_planes(mask)
    fits = planes.ndim == 3 and (planes.shape[1] == planes.shape[2] or _is_whole(planes, crop))
    if not fits or len(planes) not in (1, len(crop)):
        height, width = crop.frame_size
        raise FrameError(
            f"mask: expected 1 or {len(crop)} masks, square (the portrait's) or of the shape of {width}x{height} "
            f"(the full frame's), got {list(mask.shape)}."
        )
    if not torch.isfinite(planes).all():
        raise FrameError("mask: expected values in 0..1, found NaN or infinity.")
    return planes


def _own_masks(mask: Tensor, crop: Crop) -> list[_Mask]:
    """Masks given from outside, one for all frames or one a frame, with a rim that fades out over `OWN_RIM`."""
    mask = check_mask(mask, crop).detach().float().clamp(0.0, 1.0).cpu()
    if _is_whole(mask, crop):
        border = feather_mask(crop.size, OWN_RIM)[0]
        return [_Mask(border, _fitted(each, crop.frame_size)) for each in mask]
    border = feather_mask(mask.shape[1], OWN_RIM)[0]
    return [_Mask(each * border) for each in mask]


def _is_whole(mask: Tensor, crop: Crop) -> bool:
    """Whether masks [N, h, w] cover the full frame. Square ones of another size than the frame's are the portrait's."""
    height, width = mask.shape[1:]
    if (height, width) == tuple(crop.frame_size):
        return True
    return height != width and same_shape((height, width), crop.frame_size)


def _fitted(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask [h, w] at the size (height, width) of the full frame."""
    height, width = mask.shape
    if (height, width) == tuple(size):
        return mask
    return resample(mask, np.array([[size[1] / width, 0.0, 0.0], [0.0, size[0] / height, 0.0]]), size)
