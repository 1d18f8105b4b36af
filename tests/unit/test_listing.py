"""Lists of files: through links, past what vanishes, and made once as long as nothing changes."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from dpe_model.listing import FileList


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two files and one of another kind, all of it unchanged for a minute."""
    root = tmp_path / "output"
    for name in ("b.safetensors", "dpe/a.safetensors", "dpe/picture.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    age(root)
    return root


def age(root: Path) -> None:
    then = time.time() - 60
    for path in (root, *root.rglob("*")):
        os.utime(path, (then, then))


def link(place: Path, target: Path) -> None:
    try:
        place.symlink_to(target, target_is_directory=True)
    except OSError as error:
        pytest.skip(f"no links here: {error}")


def test_linked_folders_are_gone_into(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    (elsewhere / "c.safetensors").touch()
    link(folder / "disk", elsewhere)
    files = FileList(folder, ".safetensors")
    assert files.names() == ["b.safetensors", "disk/c.safetensors", "dpe/a.safetensors"]
    (elsewhere / "d.safetensors").touch()
    assert "disk/d.safetensors" in files.names()


def test_links_in_a_circle_end(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    link(folder / "self", folder)
    link(folder / "other", other)
    link(other / "back", folder)
    assert FileList(folder, ".safetensors").names() == ["b.safetensors", "dpe/a.safetensors"]


def test_folders_that_come_and_go(folder: Path) -> None:
    files = FileList(folder, ".safetensors")
    assert len(files.names()) == 2
    shutil.rmtree(folder / "dpe")
    assert files.names() == ["b.safetensors"]
    shutil.rmtree(folder)
    assert files.names() == []
    (folder / "new").mkdir(parents=True)
    (folder / "new" / "e.safetensors").touch()
    assert files.names() == ["new/e.safetensors"]


def test_a_folder_that_vanishes_while_it_is_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = os.walk

    def vanishing(root, **how):
        for place, folders, names in walk(root, **how):
            if place == str(folder):
                shutil.rmtree(folder / "dpe")
            yield place, folders, names

    monkeypatch.setattr(os, "walk", vanishing)
    assert FileList(folder, ".safetensors").names() == ["b.safetensors"]


def test_it_is_listed_once_as_long_as_nothing_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = FileList(folder, ".safetensors")
    first = files.names()
    first.append("somebody else's")
    with monkeypatch.context() as patch:
        patch.setattr(os, "walk", lambda *_, **__: pytest.fail("listed again"))
        assert files.names() == ["b.safetensors", "dpe/a.safetensors"]
    (folder / "dpe" / "new.safetensors").touch()
    assert "dpe/new.safetensors" in files.names()


def test_two_changes_at_one_time_are_both_seen(folder: Path) -> None:
    """A file system that counts in seconds gives a folder the same time twice."""
    now = time.time_ns()
    os.utime(folder, ns=(now, now))
    files = FileList(folder, ".safetensors")
    files.names()
    (folder / "late.safetensors").touch()
    os.utime(folder, ns=(now, now))
    assert "late.safetensors" in files.names()
