"""Pasting a whole clip: the same in any chunks, steady, sharp, and silent outside the mask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dpe_model.bundled import FULL_FRAME_CLIP
from dpe_model.errors import FrameError
from dpe_model.frames import to_unit
from dpe_model.portrait import (
    Crop,
    PasteOptions,
    Paster,
    crop_frames,
    face_mask,
    frame_portraits,
    load_detector,
)
from dpe_model.portrait import paste as paste_module
from dpe_model.portrait.detail import change_map
from dpe_model.portrait.mask import head_pose, jaw_drop
from dpe_model.portrait.paste import _Canvas, small
from dpe_model.portrait.track import find_people
from dpe_model.portrait.warp import gaussian_blur, resample
from dpe_model.video import read_frames

from .flicker import edge_flicker
from .test_portrait_crop import track_of
from .test_portrait_paste import crop_of, psnr, smooth_noise


def paste(
    options: PasteOptions, frames: Tensor, edited: Tensor, crop: Crop, chunk: int, **more: Tensor
) -> list[Tensor]:
    """Frames and masks of a clip pasted `chunk` frames at a time."""
    paster = Paster(options, crop)
    parts = []
    for start in range(0, len(frames), chunk):
        part = slice(start, start + chunk)
        parts.append(paster.paste(frames[part], edited[part], start, **{k: v[part] for k, v in more.items()}))
    return [torch.cat(part) for part in zip(*parts, strict=True)]


@pytest.fixture(scope="module")
def clip() -> tuple[Tensor, Crop]:
    """A rendered person in 640x480 frames, and where their face is."""
    frames = read_frames(FULL_FRAME_CLIP, 10)
    track = find_people(load_detector().detect(frames), tuple(frames.shape[1:3])).choose()
    return frames, frame_portraits(track, framing="follow")


OPTIONS = [
    PasteOptions(),
    PasteOptions(mask="crop", detail=0.0, colour_match="mean_std"),
    PasteOptions(colour_match="histogram", detail=0.5, mask_smoothing=5.0, feather=0.02),
]


@pytest.mark.parametrize("options", OPTIONS, ids=["default", "crop", "histogram"])
def test_chunks_do_not_matter(options: PasteOptions) -> None:
    frames, crop = smooth_noise(6, 200, 300), crop_of(6)
    edited = (crop_frames(frames, crop, 64).float() * 0.8 + 20).round().byte()
    edited[:, 20:40, 20:40] = 0
    whole = paste(options, frames, edited, crop, 6)
    for chunk in (1, 3, 4):
        for part, of_whole in zip(paste(options, frames, edited, crop, chunk), whole, strict=True):
            assert torch.equal(part, of_whole)
    given = paste(options, frames, edited, crop, 6, portraits=crop_frames(frames, crop, 128))
    assert psnr(given[0], whole[0], whole[1] > 0) > 40


@pytest.mark.parametrize("broken", ["frames", "edited"])
def test_nan_is_refused_by_its_frame_before_it_spoils_what_follows(broken: str) -> None:
    crop = crop_of(6)
    clips = {"frames": torch.rand(6, 200, 300, 3), "edited": torch.rand(6, 64, 64, 3)}
    clips[broken][4, 40, 40] = float("nan")
    paster = Paster(PasteOptions(), crop)
    paster.paste(clips["frames"][:3], clips["edited"][:3], 0)
    with pytest.raises(FrameError, match=rf"{broken}: .* at frame 4\."):
        paster.paste(clips["frames"][3:], clips["edited"][3:], 3)


@pytest.mark.parametrize("options", OPTIONS, ids=["default", "crop", "histogram"])
def test_outside_the_mask_every_byte_stays(options: PasteOptions) -> None:
    frames, crop = smooth_noise(3, 200, 300), crop_of(3)
    out, mask = paste(options, frames, smooth_noise(3, 96, 96, 1), crop, 3)
    assert torch.equal(out[mask == 0], frames[mask == 0])
    assert (out[mask > 0.9] != frames[mask > 0.9]).float().mean() > 0.5


def test_chunks_out_of_order_are_refused() -> None:
    frames, crop = smooth_noise(4, 200, 300), crop_of(4)
    paster = Paster(PasteOptions(), crop)
    paster.paste(frames[:2], frames[:2, :64, :64], 0)
    with pytest.raises(FrameError, match="starts at frame 2, got one that starts at 0"):
        paster.paste(frames[:2], frames[:2, :64, :64], 0)
    with pytest.raises(FrameError, match="portraits: expected 2"):
        paster.paste(frames[2:], frames[2:, :64, :64], 2, portraits=frames[:1, :64, :64])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mask": "ears"}, "mask: expected one of face, crop, parsing"),
        ({"mask": "parsing"}, "79999_iter.pth"),
        ({"colour_match": "all"}, "colour_match: expected one of none"),
        ({"feather": 0.6}, "feather: expected 0..0.5"),
        ({"grow": 0.0}, "grow: expected 0.1..4"),
        ({"detail": 1.5}, "detail: expected 0..1"),
        ({"detail": float("nan")}, "detail"),
        ({"mask_smoothing": -1.0}, "mask_smoothing: expected 0..50"),
    ],
)
def test_options_say_what_is_wrong(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PasteOptions(**wrong)


@pytest.mark.parametrize("shape", [(200, 300), (64, 64)])
def test_a_mask_of_ones_own_shows_where_it_is_white(shape: tuple[int, int]) -> None:
    """Full-frame or in the crop's square; faded out at the crop's border either way."""
    frames, crop = torch.zeros(2, 200, 300, 3, dtype=torch.uint8), crop_of(2)
    own = torch.zeros(shape)
    own[: shape[0] // 2] = 1.0
    white = torch.full((2, 64, 64, 3), 255, dtype=torch.uint8)
    out, mask = Paster(PasteOptions(detail=0.0), crop).paste(frames, white, 0, own)
    assert mask.max() == 1.0
    assert mask[:, 110:].max() == 0.0
    assert torch.equal(out > 0, (mask > 0.5 / 255)[..., None].expand_as(out))
    border = crop.inverse(1)[0, :, 2]
    assert mask[0, int(border[1])].max() == 0.0
    with pytest.raises(FrameError, match="mask: expected 1 or 2 masks"):
        Paster(PasteOptions(), crop).paste(frames, white, 0, torch.ones(3, 64, 64))


def test_masks_of_ones_own_come_in_several_layouts() -> None:
    frames, crop = torch.zeros(2, 200, 300, 3, dtype=torch.uint8), crop_of(2)
    white = torch.full((2, 64, 64, 3), 255, dtype=torch.uint8)

    def pasted(own: Tensor) -> Tensor:
        return Paster(PasteOptions(detail=0.0), crop).paste(frames, white, 0, own)[0]

    own = smooth_noise(2, 200, 300)[..., 0].float() / 255
    assert torch.equal(pasted(own[:, None]), pasted(own))
    assert torch.equal(pasted(own[:1, None]), pasted(own[0]))
    for shape in ((2, 1, 1, 200, 300), (1, 2, 200, 300), (200,)):
        with pytest.raises(FrameError, match="mask: expected 1 or 2 masks"):
            pasted(torch.ones(shape))


@pytest.mark.parametrize("size", [(400, 600), (100, 150), (133, 200), (274, 411)])
def test_a_full_frame_mask_of_another_size_is_resized(size: tuple[int, int]) -> None:
    """White up to a line through the face, which lies at the same place whatever the mask's size."""
    frames, crop = torch.zeros(1, 200, 300, 3, dtype=torch.uint8), crop_of(1)
    white = torch.full((1, 64, 64, 3), 255, dtype=torch.uint8)

    def placed(own: Tensor) -> Tensor:
        return Paster(PasteOptions(detail=0.0), crop).paste(frames, white, 0, own)[1]

    own = torch.zeros(1, *size)
    own[:, :, : size[1] // 2] = 1.0
    expected = torch.zeros(1, 200, 300)
    expected[:, :, :150] = 1.0
    apart = (placed(own) - placed(expected)).abs()
    assert apart[..., :147].max() < 1e-4
    assert apart[..., 153:].max() < 1e-4
    assert placed(own).max() > 0.9
    with pytest.raises(FrameError, match="300x200"):
        placed(torch.ones(1, size[0], size[1] + size[1] // 8))


def test_a_square_mask_is_the_portrait_s_unless_it_has_the_frame_s_size() -> None:
    crop = replace(crop_of(1), frame_size=(300, 300))
    frames, white = torch.zeros(1, 300, 300, 3), torch.ones(1, 64, 64, 3)
    for side, inside in ((64, True), (300, False)):
        own = torch.zeros(side, side)
        own[:, : int(0.4 * side)] = 1.0
        placed = Paster(PasteOptions(detail=0.0), crop).paste(frames, white, 0, own)[1][0]
        last = float(torch.nonzero(placed.amax(0) > 0.5).flatten()[-1])
        in_crop = float(crop.inverse(1)[0, 0] @ [0.4, 0.0, 1.0])
        assert last == pytest.approx(in_crop if inside else 0.4 * 300, abs=3)


def test_the_clip_itself_comes_back(clip: tuple[Tensor, Crop]) -> None:
    frames, crop = clip
    for size, least in ((128, 60), (256, 60), (512, 45)):
        out, mask = paste(PasteOptions(), frames[:2], crop_frames(frames[:2], crop[:2], size), crop[:2], 2)
        assert psnr(out, frames[:2], mask > 0) > least
        assert torch.equal(out[mask == 0], frames[:2][mask == 0])


@pytest.mark.parametrize("detail", [0.0, 1.0])
def test_the_edge_does_not_flicker(clip: tuple[Tensor, Crop], detail: float) -> None:
    """A soft edit, as of a small model: what it adds along the mask's edge changes by less than 1/255 a frame."""
    frames, crop = clip
    soft = torch.stack([gaussian_blur(each, 1.0) for each in to_unit(crop_frames(frames, crop, 128))])
    out, mask = paste(PasteOptions(detail=detail), frames, soft, crop, 4)
    more, added = edge_flicker(out, frames, mask)
    assert more < 0.5
    assert added < 0.5
    more, _ = edge_flicker(out, frames, mask, level=0.5)
    assert more < 1.0


def test_detail_makes_a_soft_edit_sharp_but_leaves_what_moved_alone(clip: tuple[Tensor, Crop]) -> None:
    frames, crop = clip[0][:1], clip[1][:1]
    portrait = to_unit(crop_frames(frames, crop, 128))
    soft = gaussian_blur(portrait[0], 0.7)[None]
    plain, mask = paste(PasteOptions(detail=0.0), frames, soft, crop, 1)
    fine, _ = paste(PasteOptions(detail=1.0), frames, soft, crop, 1)
    inside = mask > 0.95
    assert psnr(fine, frames, inside) > psnr(plain, frames, inside) + 4
    # Turned upside down, everything has moved.
    moved = soft.flip(1)
    plain, mask = paste(PasteOptions(detail=0.0), frames, moved, crop, 1)
    fine, _ = paste(PasteOptions(detail=1.0), frames, moved, crop, 1)
    assert (fine.float() - plain.float())[mask > 0.95].abs().mean() < 1.5


def test_detail_of_a_softer_frame_is_not_taken(clip: tuple[Tensor, Crop]) -> None:
    """A restored portrait stays as sharp as it is."""
    frames, crop = clip[0][:1], clip[1][:1]
    sharp = crop_frames(frames, crop, 512)
    blurred = gaussian_blur(frames[0], 2.0).round().byte()[None]
    plain, mask = paste(PasteOptions(detail=0.0), blurred, sharp, crop, 1)
    fine, _ = paste(PasteOptions(detail=1.0), blurred, sharp, crop, 1)
    assert (fine.float() - plain.float())[mask > 0.95].abs().mean() < 0.3


def test_a_pose_edit_is_noticed(clip: tuple[Tensor, Crop]) -> None:
    frames, crop = clip[0][:2], clip[1][:2]
    portraits = crop_frames(frames, crop, 128)
    for shift, expected in ((0, False), (12, True)):
        paster = Paster(PasteOptions(), crop)
        assert not paster.outline_moved
        paster.paste(frames, portraits.roll(shift, 2), 0)
        assert paster.outline_moved is expected


def test_the_mask_reaches_down_where_the_jaw_opens(clip: tuple[Tensor, Crop]) -> None:
    frames, crop = clip[0][:4], clip[1][:4]
    portraits = crop_frames(frames, crop, 128)
    marks = crop.landmarks[0]
    bottom = int(128 * (head_pose(marks) @ [0.0, 1.9, 0.0, 1.0])[1])
    opened = portraits.clone()
    opened[:, bottom : bottom + 10, 44:84] = 0
    closed_change, open_change = (
        change_map(small(to_unit(portraits[0])), small(to_unit(each[0]))) for each in (portraits, opened)
    )
    assert jaw_drop(closed_change, marks) == 0.0
    assert 0.2 < jaw_drop(open_change, marks) <= 0.6
    masks = [paste(PasteOptions(), frames, each, crop, 4)[1][-1] for each in (portraits, opened)]
    assert (masks[1] - masks[0]).min() > -1e-6
    assert masks[1].sum() > 1.03 * masks[0].sum()


def test_the_mask_turns_with_the_head() -> None:
    """Seen from the side the nose comes nearer to one cheek: there the mask is narrow, on the other side wide."""
    crop = crop_of(1)
    turned = crop.landmarks.copy()
    apart = turned[0, 1, 0] - turned[0, 0, 0]
    turned[0, 2, 0] += 0.3 * apart
    spread = []
    for marks in (crop.landmarks, turned):
        mask = face_mask(replace(crop, landmarks=marks), 128)[0]
        row = mask[int(128 * marks[0, :2, 1].mean())]
        filled = torch.nonzero(row > 0.5).flatten()
        middle = 128 * marks[0, :2, 0].mean()
        spread.append((float(middle - filled[0]), float(filled[-1] - middle)))
    assert spread[0][0] == pytest.approx(spread[0][1], abs=1.5)
    assert spread[1][0] > spread[1][1] + 8


def test_landmarks_that_make_no_face_make_some_mask() -> None:
    crop = crop_of(1)
    for marks in (np.full((1, 5, 2), 0.5), np.linspace(0, 1, 10).reshape(1, 5, 2)):
        mask = face_mask(replace(crop, landmarks=marks), 64)
        assert torch.isfinite(mask).all()
        assert mask.min() >= 0.0


def test_a_cut_forgets_what_was_before() -> None:
    """Colours matched to one scene must not tint the next."""
    crop = crop_of(8, framing="static")
    dark, bright = smooth_noise(1, 200, 300) // 4, 128 + smooth_noise(1, 200, 300, 5) // 4
    frames = torch.cat([dark.repeat(4, 1, 1, 1), bright.repeat(4, 1, 1, 1)])
    edited = crop_frames(frames, crop, 96)
    edited[:4] = edited[:4] + 40
    options = PasteOptions(colour_match="mean_std", detail=0.0)
    out, mask = paste(options, frames, edited, crop, 8)
    alone, _ = paste(options, frames[4:], edited[4:], crop[4:], 4)
    assert torch.equal(out[4:], alone)
    assert (out[:4].float() - frames[:4].float())[mask[:4] > 0.9].mean().abs() < 3


def test_the_mask_of_one_shot_owes_nothing_to_the_next() -> None:
    """Two shots alike to look at, with the person elsewhere in the second: the crop says where they part."""
    crop = crop_of(8, framing="static")
    moved = crop.landmarks.copy()
    moved[4:] += np.array([0.1, 0.06])
    crop = replace(crop, landmarks=moved, part=np.array([0, 0, 0, 0, 1, 1, 1, 1]))
    frames = smooth_noise(1, 200, 300).repeat(8, 1, 1, 1)
    edited = crop_frames(frames, crop, 96) + 20
    options = PasteOptions(mask_smoothing=3.0)
    out, mask = paste(options, frames, edited, crop, 3)
    for half in (slice(0, 4), slice(4, 8)):
        alone, alone_mask = paste(options, frames[half], edited[half], crop[half], 4)
        assert torch.equal(out[half], alone)
        assert torch.equal(mask[half], alone_mask)
    blurred = paste(options, frames, edited, replace(crop, part=None), 3)[1]
    assert (blurred[3] - mask[3]).abs().max() > 0.02


@pytest.mark.parametrize("method", ["mean_std", "histogram"])
def test_frames_with_an_empty_mask_say_nothing_of_the_colours(clip: tuple[Tensor, Crop], method: str) -> None:
    """The face is hidden at first, and its mask empty; when it comes, colours are matched as if it began there."""
    frames, crop = clip
    edited = (to_unit(crop_frames(frames, crop)) * 0.8).clamp(0.0, 1.0)
    masks = torch.ones(len(frames), *frames.shape[1:3])
    masks[:3] = 0.0
    options = PasteOptions(colour_match=method, detail=0.0)
    paster = Paster(options, crop)
    whole, _ = paster.paste(frames, edited, 0, masks)
    assert torch.equal(whole[:3], frames[:3])
    later, _ = Paster(options, crop[3:]).paste(frames[3:], edited[3:], 0, masks[3:])
    assert torch.equal(whole[3:], later)


@pytest.mark.parametrize("method", ["mean_std", "histogram"])
def test_colours_are_known_again_when_the_face_comes_back(method: str) -> None:
    """While the detector misses it the crop shows something else, to which no colour is to be matched."""
    ramp = torch.linspace(0.0, 1.0, 96)
    face = torch.stack(
        [ramp.expand(96, 96) * 0.3 + 0.45, ramp[:, None].expand(96, 96) * 0.2 + 0.35, ramp.expand(96, 96) * 0.1 + 0.3],
        -1,
    )
    other = face.flip(0, 1) * torch.tensor([0.75, 0.95, 1.15])
    away = range(20, 40)
    frames = torch.stack([other if n in away else face for n in range(60)])
    places = [None if n in away else (48.0, 46.0, 38.0) for n in range(60)]
    crop = frame_portraits(track_of(*places, size=(96, 96)), framing="follow", no_face="hold", size=128)
    edited = crop_frames(frames, crop)
    cast = torch.tensor([0.06, -0.03, 0.04])
    edited = torch.stack([p if n in away else (p + cast).clamp(0, 1) for n, p in enumerate(edited)])
    result, masks = Paster(PasteOptions(colour_match=method, detail=0.0), crop).paste(frames, edited, 0)
    off = [float((result[n] - frames[n]).abs().mean(-1)[masks[n] > 0.9].mean()) for n in (19, 40, 41, 50)]
    assert max(off) < 1.0 / 255.0


def test_the_crop_alone_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    """To a device goes the part of a frame that its crop needs, and the crop is the same."""
    frames, crop = smooth_noise(1, 400, 600), crop_of(1)
    expected = resample(frames[0], crop.matrix[0] * 64.0, (64, 64)) / 255.0
    canvas, to, sizes = _Canvas(frames), Tensor.to, []

    def watched(tensor: Tensor, *where: object) -> Tensor:
        sizes.append(tensor.numel())
        return to(tensor, *where)

    monkeypatch.setattr(Tensor, "to", watched)
    assert torch.equal(canvas.cut(0, crop.matrix[0], 64, torch.device("cpu")), expected)
    assert sizes and max(sizes) < frames.numel() / 4


def out_of_memory(*_: object, **__: object) -> Tensor:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("when", ["with_detail", "small", "change_map"])
def test_when_memory_runs_out_pasting_goes_on_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    """At whatever step of the third frame: the clip comes out as if nothing had happened. cpu:0 plays the GPU."""
    frames, crop = smooth_noise(6, 200, 300), crop_of(6)
    edited = (crop_frames(frames, crop, 64).float() * 0.8 + 20).round().byte()
    edited[:, 20:40, 20:40] = torch.arange(6, dtype=torch.uint8)[:, None, None, None] * 40
    options = PasteOptions(colour_match="mean_std", detail=0.5, mask_smoothing=5.0)
    whole = Paster(options, crop)
    expected = whole.paste(frames, edited, 0)
    paster = Paster(options, crop)
    paster.device = torch.device("cpu", 0)
    step, calls = getattr(paste_module, when), []

    def pressed(*arguments: object) -> Tensor:
        calls.append(1)
        if len(calls) > 2 * (2 if when == "small" else 1) and paster.device.index is not None:
            out_of_memory()
        return step(*arguments)

    monkeypatch.setattr(paste_module, when, pressed)
    found = paster.paste(frames, edited, 0)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert paster._past.seams == whole._past.seams
    assert paster.device == torch.device("cpu")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "out of memory" in caplog.text


def test_the_parsing_network_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Apple's GPUs it runs there while everything else is on the CPU."""

    class Parser:
        device = torch.device("mps")

        def to(self, device: torch.device) -> None:
            self.device = device

        def face(self, portraits: Tensor) -> Tensor:
            return out_of_memory() if self.device.type == "mps" else torch.ones(len(portraits), 128, 128)

    frames, crop = smooth_noise(2, 200, 300), crop_of(2)
    paster = Paster(PasteOptions(), crop)
    paster._parser = Parser()
    _, mask = paster.paste(frames, frames[:, :64, :64], 0)
    assert mask.max() > 0.9
    assert paster._parser.device == torch.device("cpu")


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_other_errors_end_pasting(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    error, calls = "CUDA out of memory" if device == "cpu" else "shapes do not match", []

    def fail(*_: object) -> Tensor:
        calls.append(1)
        raise RuntimeError(error)

    monkeypatch.setattr(paste_module, "change_map", fail)
    paster, frames = Paster(PasteOptions(), crop_of(1)), smooth_noise(1, 200, 300)
    paster.device = torch.device(device)
    with pytest.raises(RuntimeError, match=error):
        paster.paste(frames, frames[:, :64, :64], 0)
    assert len(calls) == 1


def test_products_of_matrices_are_exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a host has set: resampling is made of them."""
    inside, products, matmul = [], [], torch.matmul

    @contextmanager
    def exact(device: torch.device) -> Iterator[None]:
        inside.append(device)
        yield
        inside.pop()

    def watched(*arguments: Tensor, **out: Tensor) -> Tensor:
        products.append(inside[:])
        return matmul(*arguments, **out)

    frames, paster = smooth_noise(2, 200, 300), Paster(PasteOptions(), crop_of(2))
    monkeypatch.setattr(paste_module, "exact_float32", exact)
    monkeypatch.setattr(torch, "matmul", watched)
    paster.paste(frames, frames[:, :64, :64], 0)
    assert products and all(each == [torch.device("cpu")] for each in products)
