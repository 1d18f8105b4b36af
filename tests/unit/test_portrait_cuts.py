from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dpe_model.portrait.cuts import find_cuts, thumbnails

from .scenes import Actor, at, background, line, scene


def cuts(frames: Tensor) -> list[int]:
    return np.flatnonzero(find_cuts(thumbnails(frames))).tolist()


def shot(seed: int, n: int = 12) -> Tensor:
    return scene(n, [Actor("man", line((100, 120, 130), (200, 120, 140), 20))], seed=seed)


def test_cuts_are_found_at_the_first_frame_of_the_new_shot() -> None:
    frames = torch.cat([shot(1), shot(2), shot(3)])
    assert cuts(frames) == [12, 24]
    assert cuts(frames.float() / 255.0) == [12, 24]


def test_cuts_of_dark_footage_are_found_and_its_movement_is_none() -> None:
    frames = torch.cat([shot(1), shot(2), shot(3)]).float()
    moving = scene(20, [Actor("man", lambda n: (160 + 60 * np.sin(n / 3), 120, 160))]).float()
    noise = 4.0 * torch.randn(36, 240, 320, 3, generator=torch.Generator().manual_seed(0))
    for gain in (0.5, 0.25, 0.12):
        dark, still = (frames * gain).to(torch.uint8), (moving * gain).to(torch.uint8)
        assert cuts(dark) == [12, 24], gain
        assert cuts(still) == [], gain
        assert cuts((frames * gain + noise).clamp(0, 255).to(torch.uint8)) == [12, 24], gain


def test_shots_of_a_few_frames_count() -> None:
    assert cuts(torch.cat([shot(1), shot(2, 2), shot(3)])) == [12, 14]


def test_movement_flashes_and_fades_are_no_cuts() -> None:
    assert cuts(scene(20, [Actor("man", lambda n: (160 + 60 * np.sin(n / 3), 120, 160))])) == []
    flash = shot(1, 20)
    flash[8] = 255
    flash[14:16] = 250
    assert cuts(flash) == []
    fade = shot(1, 20).float() * torch.linspace(1, 0, 20)[:, None, None, None]
    assert cuts(fade.to(torch.uint8)) == []


def test_a_pan_is_no_cut_even_with_repeated_frames() -> None:
    wide = background((240, 900), 7)
    pan = torch.from_numpy(np.stack([wide[:, 14 * n : 14 * n + 320] for n in range(40)]))
    assert cuts(pan) == []
    assert cuts(pan[::2].repeat_interleave(2, 0)) == []


def test_one_and_two_frames() -> None:
    assert cuts(shot(1, 1)) == []
    assert cuts(scene(2, [Actor("man", at(160, 120, 140))])) == []
    assert thumbnails(torch.zeros(1, 16, 16, 3)).shape == (1, 9, 16, 3)
