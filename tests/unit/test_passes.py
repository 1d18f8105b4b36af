"""No job computes anything twice: pictures through encoder and generator, counted from file to file."""

from __future__ import annotations

import pytest
import torch

from dpe_model.checkpoint import BranchRoles, save_checkpoint
from dpe_model.commands import main
from dpe_model.engine import Engine
from dpe_model.video import FrameWriter

from .tiny import Faces, clip, tiny_network

SOURCE, DRIVER = 6, 6  # frames; a driver is measured as far as the source reaches


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    save_checkpoint(folder / "tiny.safetensors", tiny_network(), BranchRoles())
    for name, frames, size in (
        ("source.mp4", SOURCE, 32),
        ("a.mp4", DRIVER, 32),
        ("b.mp4", DRIVER, 32),
        ("s.png", 1, 32),
    ):
        with FrameWriter(folder / name, 25, crf=1) as writer:
            writer.write(clip(frames, size))
    with FrameWriter(folder / "wide.mp4", 25) as writer:
        writer.write(torch.randint(0, 255, (SOURCE, 48, 64, 3), dtype=torch.uint8))
    assert main(["encode", "--source", str(folder / "a.mp4"), "--output", str(folder / "a.safetensors"),
                 "--model", str(folder / "tiny.safetensors")]) == 0  # fmt: skip
    return folder


@pytest.fixture
def passes(monkeypatch):
    """(encoder, generator) of all engines made meanwhile."""
    made: list[Engine] = []
    original = Engine.__init__

    def noting(self, *arguments, **options):
        original(self, *arguments, **options)
        made.append(self)

    monkeypatch.setattr(Engine, "__init__", noting)
    return lambda: (sum(e.passes.encoder for e in made), sum(e.passes.generator for e in made))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--source", "source.mp4", "--driving", "a.mp4"], (SOURCE + DRIVER, SOURCE)),
        (["--source", "source.mp4", "--driving", "a.mp4", "--edit", "both"], (2 * SOURCE + DRIVER, 2 * SOURCE)),
        (["--source", "source.mp4", "--expression", "a.mp4", "--pose", "b.mp4"], (2 * SOURCE + 2 * DRIVER, 2 * SOURCE)),
        (["--source", "source.mp4", "--driving", "a.safetensors"], (SOURCE, SOURCE)),
        (["--source", "s.png", "--driving", "a.mp4"], (1 + DRIVER, DRIVER)),
        (["--source", "s.png", "--driving", "a.safetensors"], (1, DRIVER)),
        (["--source", "s.png", "--driving", "a.mp4", "--edit", "both"], (1 + 2 * DRIVER, 2 * DRIVER)),
    ],
    ids=["clip", "both", "two drivers", "motion file", "still", "still, motion file", "still, both"],
)
def test_drive(files, tmp_path, passes, arguments, expected):
    paths = [str(files / a) if a.endswith((".mp4", ".png", ".safetensors")) else a for a in arguments]
    assert main(["drive", *paths, "--output", str(tmp_path / "o.mp4"), "--model", str(files / "tiny.safetensors")]) == 0
    assert passes() == expected


def test_edit_video(files, tmp_path, passes, monkeypatch):
    monkeypatch.setattr("dpe_model.jobs.portraits.load_detector", lambda *a, **k: Faces())
    arguments = ["--source", files / "wide.mp4", "--driving", files / "a.mp4", "--output", tmp_path / "o.mp4"]
    assert main(["edit-video", *map(str, arguments), "--model", str(files / "tiny.safetensors")]) == 0
    assert passes() == (SOURCE + DRIVER, SOURCE)
