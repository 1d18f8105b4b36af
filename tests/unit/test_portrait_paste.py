from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from dpe_model.errors import FrameError, NoFaceError
from dpe_model.portrait import Crop, PasteOptions, Paster, crop_frames, face_mask, feather_mask, frame_portraits
from dpe_model.portrait.mask import BORDER
from dpe_model.portrait.paste import OWN_RIM

from .test_portrait_crop import track_of


def smooth_noise(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Frames [n, H, W, 3] uint8 with detail down to about three pixels."""
    rng = np.random.default_rng(seed)
    pictures = [
        gaussian_filter(rng.integers(0, 256, (height, width, 3)).astype(np.float32), (2, 2, 0)) for _ in range(n)
    ]
    return torch.from_numpy(np.stack([np.clip((p - 127.5) * 5 + 127.5, 0, 255) for p in pictures]).astype(np.uint8))


def psnr(a: Tensor, b: Tensor, where: Tensor) -> float:
    error = ((a.double() - b.double()) ** 2)[where].mean().item()
    return 10 * np.log10(255**2 / max(error, 1e-9))


def crop_of(n: int = 2, size: tuple[int, int] = (200, 300), framing: str = "follow", **options: object) -> Crop:
    places = [(150.0 + 1.3 * k, 100.0 - 0.7 * k, 60.0 + 0.4 * k) for k in range(n)]
    return frame_portraits(track_of(*places, size=size), framing=framing, **options)


def pasted(
    frames: Tensor, edited: Tensor, crop: Crop, mask: Tensor | None = None, colour_match: str = "none"
) -> tuple[Tensor, Tensor]:
    """Frames and masks, the edit as it is, each frame by itself."""
    options = PasteOptions(detail=0.0, mask_smoothing=0.0, colour_match=colour_match)
    return Paster(options, crop).paste(frames, edited, 0, mask)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("side", [64, 256, 1024])
def test_outside_the_mask_nothing_changes(dtype: torch.dtype, side: int) -> None:
    frames = smooth_noise(2, 200, 300)
    frames = frames if dtype == torch.uint8 else (frames.float() / 255).to(dtype)
    if dtype != torch.uint8:
        frames[:, :5, :5] = -0.0
    before = frames.clone()
    out, mask = pasted(frames, torch.rand(2, side, side, 3), crop_of())
    assert out.dtype == dtype
    assert out.shape == frames.shape
    assert torch.equal(frames, before)
    outside = mask == 0
    assert 0.1 < outside.float().mean() < 0.95
    assert (
        out[outside].numpy(force=True).tobytes() == before[outside].numpy(force=True).tobytes()
        if (dtype != torch.bfloat16)
        else torch.equal(out[outside].view(torch.int16), before[outside].view(torch.int16))
    )
    assert not torch.equal(out[mask > 0.5], before[mask > 0.5])


@pytest.mark.parametrize(("framing", "side", "least"), [("static", 256, 34), ("follow", 256, 34), ("static", 111, 90)])
def test_pasting_the_crop_itself_changes_next_to_nothing(framing: str, side: int, least: float) -> None:
    frames = smooth_noise(1, 200, 300)
    crop = crop_of(1, framing=framing)
    out, mask = pasted(frames, crop_frames(frames, crop, side), crop)
    assert psnr(out, frames, mask > 0) > least


def test_full_mask_shows_the_edited_crop() -> None:
    out, mask = pasted(torch.zeros(1, 200, 300, 3), torch.ones(1, 64, 64, 3), crop_of(1), torch.ones(64, 64))
    assert out[mask == 1].min() == 1.0
    side = crop_of(1).sides[0]
    # Its rim fades out over a twentieth, before the border that shows nothing.
    assert mask.sum().item() == pytest.approx((side * (1.0 - OWN_RIM - 2.0 * BORDER)) ** 2, rel=0.01)


def test_uint8_frames_take_float_crops_and_the_other_way() -> None:
    crop, ones = crop_of(1), torch.ones(32, 32)
    bytes_out, mask = pasted(torch.zeros(1, 200, 300, 3, dtype=torch.uint8), torch.ones(1, 32, 32, 3), crop, ones)
    assert set(bytes_out[mask == 1].flatten().tolist()) == {255}
    white = torch.full((1, 32, 32, 3), 255, dtype=torch.uint8)
    float_out, mask = pasted(torch.zeros(1, 200, 300, 3), white, crop, ones)
    assert float_out[mask == 1].min() == 1.0


@pytest.mark.parametrize("place", [(0.0, 0.0), (300.0, 200.0), (-20.0, 100.0)])
def test_crop_partly_outside_the_frame(place: tuple[float, float]) -> None:
    crop = frame_portraits(track_of((*place, 80.0)))
    frames = smooth_noise(1, 200, 300)
    out, mask = pasted(frames, crop_frames(frames, crop, 148), crop)
    assert mask.max().item() == pytest.approx(1.0)
    assert psnr(out, frames, mask > 0) > 40


def test_crop_wholly_outside_the_frame_leaves_it_alone() -> None:
    crop = frame_portraits(track_of((2000.0, 50.0, 40.0)))
    frames = smooth_noise(1, 200, 300)
    out, mask = pasted(frames, torch.zeros(1, 64, 64, 3), crop)
    assert torch.equal(out, frames)
    assert mask.max() == 0.0


def test_frames_without_a_face_pass_untouched() -> None:
    crop = frame_portraits(track_of((150.0, 100.0, 60.0), None, (150.0, 100.0, 60.0)), no_face="pass")
    frames = smooth_noise(3, 200, 300)
    out, mask = pasted(frames, torch.zeros(3, 64, 64, 3), crop)
    assert torch.equal(out[1], frames[1])
    assert mask[1].max() == 0.0
    assert not torch.equal(out[0], frames[0])


def test_chunks_equal_the_whole() -> None:
    frames, edited, crop = smooth_noise(5, 200, 300), smooth_noise(5, 64, 64, 1), crop_of(5)
    whole, mask = pasted(frames, edited, crop)
    parts = [pasted(frames[k : k + 2], edited[k : k + 2], crop[k : k + 2]) for k in range(0, 5, 2)]
    assert torch.equal(torch.cat([part for part, _ in parts]), whole)
    assert torch.equal(torch.cat([part for _, part in parts]), mask)


@pytest.mark.parametrize("size", [(16, 16), (3000, 4000)])
def test_smallest_and_large_frames(size: tuple[int, int]) -> None:
    height, width = size
    crop = frame_portraits(track_of((width / 2, height / 2, min(size) / 3), size=size))
    out, mask = pasted(torch.zeros(1, height, width, 3, dtype=torch.uint8), torch.ones(1, 256, 256, 3), crop)
    assert mask.max() > 0.99
    assert out.max() == 255
    assert out[mask == 0].max() == 0


def test_grey_and_rgba_are_taken() -> None:
    out, _ = pasted(torch.zeros(2, 200, 300, 1), torch.ones(2, 32, 32, 4), crop_of())
    assert out.shape == (2, 200, 300, 3)


def test_what_does_not_fit_is_named() -> None:
    frames, crop = torch.zeros(2, 200, 300, 3), crop_of()
    good = torch.zeros(2, 64, 64, 3)
    with pytest.raises(FrameError, match="2 frames and 3 edited"):
        pasted(frames, torch.zeros(3, 64, 64, 3), crop)
    with pytest.raises(FrameError, match="expected 2, one for each crop, got 3"):
        pasted(torch.zeros(3, 200, 300, 3), torch.zeros(3, 64, 64, 3), crop)
    with pytest.raises(FrameError, match="expected 300x200"):
        pasted(torch.zeros(2, 100, 100, 3), good, crop)
    with pytest.raises(FrameError, match="square pictures, got 64x32"):
        pasted(frames, torch.zeros(2, 32, 64, 3), crop)
    bad = good.clone()
    bad[1, 5, 5, 0] = float("inf")
    with pytest.raises(FrameError, match=r"edited: .* infinity at frame 1\."):
        pasted(frames, bad, crop)
    with pytest.raises(FrameError, match="mask"):
        pasted(frames, good, crop, torch.zeros(3, 64, 64))
    with pytest.raises(FrameError, match="mask"):
        pasted(frames, good, crop, torch.full((64, 64), float("nan")))
    with pytest.raises(ValueError, match="colour_match"):
        pasted(frames, good, crop, colour_match="all")


def test_mean_std_undoes_a_colour_cast() -> None:
    frames = smooth_noise(1, 200, 300)
    frames = (frames.float() / 255 * 0.5 + 0.25).contiguous()
    crop = crop_of(1, framing="static")
    cast = (crop_frames(frames, crop, 111) * torch.tensor([0.9, 1.0, 0.95]) + torch.tensor([0.06, 0.0, 0.02])).clamp(
        0, 1
    )
    errors = []
    for choice in ("none", "mean_std"):
        out, mask = pasted(frames, cast, crop, colour_match=choice)
        errors.append((out - frames)[mask > 0.5].abs().mean().item())
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("size", [16, 256])
def test_masks_are_zero_along_the_border_and_one_in_the_middle(size: int) -> None:
    crop = crop_of(3)
    for mask in (
        feather_mask(size),
        face_mask(crop, size),
        face_mask(crop, size, grow=4.0),
        feather_mask(size, 0.0, 0.0),
    ):
        assert mask.dtype == torch.float32
        assert mask.shape[1:] == (size, size)
        border = torch.cat([mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]])
        assert border.max() == 0.0
        assert mask[:, size // 2, size // 2].min() == 1.0
        assert mask.min() >= 0.0


def test_feather_falls_off_without_a_step() -> None:
    row = feather_mask(256, 0.2)[0, 128]
    assert row.diff().abs().max() < 1.6 / (0.2 * 256)


def test_face_mask_covers_the_landmarks_and_turns_with_the_face() -> None:
    crop = crop_of(1)
    mask = face_mask(crop, 128)[0]
    for x, y in crop.landmarks[0] * 128:
        assert mask[int(y), int(x)] == 1.0
    tall = np.ptp(np.flatnonzero(mask.amax(1) > 0.5)), np.ptp(np.flatnonzero(mask.amax(0) > 0.5))
    assert tall[0] > tall[1]
    turned = crop.landmarks.copy() - 0.5
    turned = np.stack([-turned[..., 1], turned[..., 0]], -1) + 0.5
    side = face_mask(Crop(crop.matrix, crop.frame_size, 128, turned, crop.edited))[0]
    assert torch.allclose(side, torch.rot90(mask, -1), atol=0.02)


def test_masks_refuse_what_they_cannot_use() -> None:
    crop = crop_of(1)
    bare = Crop(crop.matrix, crop.frame_size, 256, None, crop.edited)
    with pytest.raises(NoFaceError, match="landmarks"):
        face_mask(bare)
    with pytest.raises(ValueError, match="feather"):
        feather_mask(64, 0.9)
    with pytest.raises(ValueError, match="grow"):
        face_mask(crop, grow=0.0)
    out, mask = pasted(torch.zeros(1, 200, 300, 3), torch.ones(1, 64, 64, 3), bare)
    assert mask.max().item() == pytest.approx(1.0)
    assert out.max().item() == pytest.approx(1.0)
