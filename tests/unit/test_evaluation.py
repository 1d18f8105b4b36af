"""Metrics, judges' curves, clips and sheets of an evaluation; what needs rendered heads is tested beside."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dpe_model.checkpoint import BranchRoles, save_checkpoint
from dpe_model.commands import main
from dpe_model.commands.roles import some_frames
from dpe_model.errors import EvaluationError, FrameError
from dpe_model.evaluation import curves as judge_curves
from dpe_model.evaluation.curves import compare_curves, curves_path, fresh_curves, load_curves, on_clock, run_judge
from dpe_model.evaluation.metrics import (
    PSNR_LIMIT,
    Score,
    change_mask,
    compare,
    mean_scores,
    psnr,
    ssim_map,
)
from dpe_model.evaluation.roles import RoleEvidence, measure_roles_on_clips
from dpe_model.evaluation.sheets import GAP, LABEL_HEIGHT, ROW_LABEL_WIDTH, contact_sheet
from dpe_model.jobs.portraits import PortraitClip
from dpe_model.portrait import Face
from dpe_model.video import FrameWriter, open_frames, probe

from .tiny import clip, tiny_network

JUDGE = """
import sys
import numpy as np
for number, path in enumerate(sys.argv[1:]):
    frames = np.arange(6.0)
    np.savez(path + ".judge.npz", yaw=frames + number, pitch=-frames, roll=0 * frames, mouth=frames % 2, eyes=frames)
"""


def grey(value: float, size: int = 32) -> torch.Tensor:
    return torch.full((1, size, size, 3), value)


# Metrics


def test_equal_pictures_are_perfect() -> None:
    frames = clip(2, 32)
    for scores in compare(frames, frames):
        assert scores["whole"] == Score(PSNR_LIMIT, pytest.approx(1.0), 0.0)


def test_a_known_shift_of_grey() -> None:
    score = compare(grey(0.6), grey(0.5))[0]["whole"]
    assert score.psnr == pytest.approx(20.0, abs=1e-4)
    assert score.l1 == pytest.approx(0.1, abs=1e-6)
    # Without structure only the luminance term is left: (2 a b + C1) / (a^2 + b^2 + C1).
    assert score.ssim == pytest.approx((2 * 0.6 * 0.5 + 1e-4) / (0.36 + 0.25 + 1e-4), abs=1e-5)


def test_ssim_by_the_formula_at_one_place() -> None:
    first, second = clip(1, 16, seed=1), clip(1, 16, seed=2)
    luma = [
        (f[0].double() / 255 @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)).numpy()
        for f in (first, second)
    ]
    offset = np.arange(-5, 6)
    window = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / 4.5)
    window /= window.sum()
    x, y = (picture[2:13, 3:14] for picture in luma)
    mx, my = (window * x).sum(), (window * y).sum()
    vx, vy, cov = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum(), (window * (x - mx) * (y - my)).sum()
    expected = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert float(ssim_map(first, second)[0, 2, 3]) == pytest.approx(expected, abs=1e-6)


def test_psnr_of_a_known_error_and_of_none() -> None:
    assert psnr(0.01) == pytest.approx(20.0)
    assert psnr(0.0) == PSNR_LIMIT
    assert psnr(10 ** (-PSNR_LIMIT / 10) * 0.5) == PSNR_LIMIT


def test_regions_are_scored_apart() -> None:
    truth, source = grey(0.5, 64), grey(0.5, 64)
    truth[:, 20:40, 20:40] = 0.9
    mask = change_mask(truth, source)
    # 64 / 40 rounds to 2 pixels of dilation on each side.
    assert int(mask.sum()) == 24 * 24
    scores = compare(source, truth, mask)[0]
    assert scores["stay"].psnr == PSNR_LIMIT and scores["stay"].l1 == 0
    assert scores["change"].l1 == pytest.approx(0.4 * 400 / 576, abs=1e-6)
    assert scores["change"].psnr < scores["whole"].psnr < scores["stay"].psnr
    assert scores["change"].ssim < scores["whole"].ssim


def test_small_differences_ask_for_no_change_and_the_region_is_left_out() -> None:
    mask = change_mask(grey(0.52), grey(0.5))
    assert not mask.any()
    assert set(compare(grey(0.5), grey(0.52), mask)[0]) == {"whole", "stay"}


def test_means_are_over_the_pictures_that_have_the_region() -> None:
    scores = [{"whole": Score(10, 0.5, 0.1)}, {"whole": Score(20, 0.7, 0.3), "change": Score(5, 0.1, 0.4)}]
    means = mean_scores(scores)
    assert means["whole"].psnr == 15 and means["whole"].l1 == pytest.approx(0.2)
    assert means["change"] == Score(5, 0.1, 0.4)
    assert "stay" not in means


def test_pictures_of_different_sizes_are_refused() -> None:
    with pytest.raises(FrameError, match="one shape"):
        compare(grey(0.5, 32), grey(0.5, 64))


# Curves


def test_curves_that_follow_and_that_do_not() -> None:
    time = np.linspace(0, 6, 50)
    same = compare_curves(np.sin(time) + 2.0, np.sin(time))
    assert same["correlation"] == 1.0 and same["error"] == 2.0 and same["movement_error"] == 0.0
    assert compare_curves(-np.sin(time), np.sin(time))["correlation"] == -1.0
    assert compare_curves(np.ones(50), np.sin(time))["correlation"] is None


def test_frames_without_a_face_and_beyond_the_end_do_not_count() -> None:
    result = np.array([0.0, np.nan, 2.0, 3.0, 4.0])
    found = compare_curves(result, np.array([0.0, 100.0, 2.0, 3.0]))
    assert found["frames"] == 3 and found["error"] == 0.0
    assert compare_curves(np.full(5, np.nan), np.ones(5))["error"] is None


def test_curves_on_another_clock() -> None:
    curves = {name: np.arange(4.0) for name in judge_curves.CURVES}
    assert on_clock(curves, 25, 50, 8)["yaw"].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]


def test_curves_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    with pytest.raises(EvaluationError, match="could not read"):
        load_curves(video)
    np.savez(curves_path(video), yaw=np.zeros(3))
    with pytest.raises(EvaluationError, match="missing: pitch, roll, mouth, eyes"):
        load_curves(video)
    np.savez(curves_path(video), **{n: np.zeros(3 + (n == "eyes")) for n in judge_curves.CURVES})
    with pytest.raises(EvaluationError, match="one length"):
        load_curves(video)
    np.savez(curves_path(video), **{n: np.array([{}], object) for n in judge_curves.CURVES})
    with pytest.raises(EvaluationError, match="could not read"):
        load_curves(video)


def test_curves_older_than_their_video_are_not_taken(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"")
    assert not fresh_curves(video)
    np.savez(curves_path(video), yaw=np.zeros(1))
    os.utime(curves_path(video), (1000, 1000))
    assert not fresh_curves(video)
    os.utime(video, (900, 900))
    assert fresh_curves(video)


def test_a_judge_that_fails_or_writes_nothing_is_named(tmp_path: Path) -> None:
    video = tmp_path / "a b;c.mp4"
    video.write_bytes(b"")
    with pytest.raises(EvaluationError, match="cannot be started"):
        run_judge([str(tmp_path / "none")], [video])
    with pytest.raises(EvaluationError, match="exit status 3: no eyes"):
        run_judge([sys.executable, "-c", "import sys; sys.stderr.write('no eyes'); sys.exit(3)"], [video])
    with pytest.raises(EvaluationError, match="none was written"):
        run_judge([sys.executable, "-c", "pass"], [video])
    (tmp_path / "judge.py").write_text(JUDGE)
    run_judge([sys.executable, str(tmp_path / "judge.py")], [video])
    assert load_curves(video)["yaw"].tolist() == [0, 1, 2, 3, 4, 5]


# Clips, through the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    save_checkpoint(folder / "tiny.safetensors", tiny_network(), BranchRoles())
    for name, frames in (("source", 6), ("driving", 8)):
        with FrameWriter(folder / f"{name}.mp4", 25, crf=1) as writer:
            writer.write(clip(frames, 32))
    (folder / "judge.py").write_text(JUDGE)
    return folder


def evaluate(folder: Path, output: Path, *more: object) -> int:
    clips = ("--source", folder / "source.mp4", "--driving", folder / "driving.mp4")
    words = ("evaluate", "--model", folder / "tiny.safetensors", *clips, "--output", output, *more)
    return main([str(w) for w in words])


def test_clips_are_edited_judged_and_compared(folder: Path, tmp_path: Path) -> None:
    assert evaluate(folder, tmp_path / "o", "--judge", sys.executable, folder / "judge.py") == 0
    report = json.loads((tmp_path / "o" / "evaluation.json").read_text())["clips"]
    assert report["frames"] == 6
    for name in ("expression", "pose", "both"):
        assert probe(tmp_path / "o" / f"{name}.mp4").frames == 6
    pose = report["curves"]["pose"]
    assert pose["yaw"]["should"] == "follow" and pose["mouth"]["should"] == "stay"
    assert report["curves"]["expression"]["yaw"]["should"] == "stay"
    # The judge above numbers the clips: source, driver, expression, pose, both.
    assert pose["yaw"]["driver"]["error"] == 2.0 and pose["yaw"]["source"]["error"] == 3.0
    assert pose["yaw"]["driver"]["correlation"] == 1.0
    assert pose["roll"]["driver"]["correlation"] is None
    text = (tmp_path / "o" / "evaluation.md").read_text()
    assert "| pose | yaw | follow | 1.000 | 2.000 (0.000) |" in text
    assert Image.open(tmp_path / "o" / "sheet_clips.png").width > 5 * 192


def test_clips_can_be_judged_later(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "o"
    assert evaluate(folder, output, "--reuse") == 1
    assert evaluate(folder, output) == 0
    assert "curves" not in json.loads((output / "evaluation.json").read_text())["clips"]
    assert "No judge" in (output / "evaluation.md").read_text()
    stamp = (output / "pose.mp4").stat().st_mtime_ns
    run_judge([sys.executable, str(folder / "judge.py")], sorted(output.glob("*.mp4")))
    assert evaluate(folder, output, "--reuse") == 0
    assert "curves" in json.loads((output / "evaluation.json").read_text())["clips"]
    assert (output / "pose.mp4").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--judge", "no-such-program", "x"], "no-such-program x: there is no such program"),
        (["--driving", "none.mp4"], "none.mp4"),
        (["--reuse"], "lacks source.mp4"),
    ],
)
def test_what_cannot_be_judged_is_known_before_any_work(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more, words
) -> None:
    monkeypatch.setattr("dpe_model.jobs.setup.ModelOptions.engine", lambda self: pytest.fail("work was begun"))
    assert evaluate(folder, tmp_path / "o", *more) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("words", [[], ["--source", "a.mp4"]])
def test_an_evaluation_of_nothing_says_what_it_needs(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *words]) == 1
    assert "--source and --driving" in capsys.readouterr().err


# Sheets


def test_a_sheet_has_every_picture_in_its_place() -> None:
    columns = [("a", torch.cat([grey(0.0), grey(1.0)])), ("b", torch.cat([grey(0.2), grey(0.4)]))]
    sheet = np.asarray(contact_sheet(columns, ["1", "2"]))
    assert sheet.shape == (LABEL_HEIGHT + 2 * (32 + GAP), ROW_LABEL_WIDTH + 2 * (32 + GAP), 3)
    x, y = ROW_LABEL_WIDTH + 5, LABEL_HEIGHT + 5
    assert [int(sheet[y + r * 34, x + c * 34, 0]) for r in (0, 1) for c in (0, 1)] == [0, 51, 255, 102]
    assert sheet[:LABEL_HEIGHT].min() < 128, "labels are drawn"


def test_a_sheet_with_a_missing_picture_is_refused() -> None:
    with pytest.raises(FrameError, match="'b': expected 2 pictures, got 1"):
        contact_sheet([("a", clip(2, 32)), ("b", clip(1, 32))], ["1", "2"])


# Roles on clips


class SquareEditor:
    """Draws a white square for a face: one role takes its place from the driver, the other leaves it."""

    size = 64

    def __init__(self, mover: str) -> None:
        self.mover = mover

    def edit(self, source, driver, *roles, strength=1.0):
        return driver if self.mover in roles and strength else source


class SquareDetector:
    """Finds the white square; its corners are eyes, its middle the nose."""

    def detect(self, frames):
        found = []
        for frame in frames:
            rows, columns = np.nonzero(frame[..., 0].numpy() > 128)
            if len(rows) == 0:
                found.append([])
                continue
            x0, y0, x1, y1 = columns.min(), rows.min(), columns.max(), rows.max()
            marks = np.array([[x0, y0], [x1, y0], [(x0 + x1) / 2, (y0 + y1) / 2], [x0, y1], [x1, y1]], float)
            found.append([Face((x0, y0, x1, y1), marks, 1.0)])
        return found


def square(x: int) -> torch.Tensor:
    frame = torch.zeros((1, 64, 64, 3), dtype=torch.uint8)
    frame[:, 20:40, x : x + 20] = 255
    return frame


@pytest.mark.parametrize(("mover", "pose_branch"), [("pose", "exp"), ("expression", "pose")])
def test_the_branch_that_moves_the_head_in_clips(mover: str, pose_branch: str) -> None:
    driving = torch.cat([square(x) for x in (5, 10, 15, 20, 25)])
    # In these roles branch "exp" plays the pose: a mover of role "expression" is branch "pose".
    evidence = measure_roles_on_clips(SquareEditor(mover), BranchRoles(), square(10), driving, SquareDetector())
    assert evidence.suggested is not None and evidence.suggested.pose == pose_branch
    assert evidence.details[pose_branch]["head travel"] > 0.2


def test_no_face_in_the_results_is_no_evidence() -> None:
    blank = torch.zeros((4, 64, 64, 3), dtype=torch.uint8)
    evidence = measure_roles_on_clips(SquareEditor("pose"), BranchRoles(), blank[:1], blank, SquareDetector())
    assert evidence.suggested is None
    with pytest.raises(EvaluationError, match="at least 2 frames"):
        measure_roles_on_clips(SquareEditor("pose"), BranchRoles(), blank[:1], blank[:1], SquareDetector())


def test_weak_evidence_suggests_nothing() -> None:
    assert RoleEvidence("clips", math.log(1.2), {}).suggested is None
    assert RoleEvidence("clips", -1.0, {}).suggested == BranchRoles(expression="exp", pose="pose")
    assert RoleEvidence("clips", 1.0, {}).as_numbers()["suggested"] == {"expression": "pose", "pose": "exp"}


def test_some_frames_are_spread_over_the_clip(folder: Path, tmp_path: Path) -> None:
    frames = torch.arange(37, dtype=torch.uint8)[:, None, None, None].expand(37, 16, 16, 3)
    with FrameWriter(tmp_path / "frames", 25) as writer:
        writer.write(frames)
    portraits = PortraitClip(open_frames(tmp_path / "frames"), None)
    assert some_frames(portraits, 10)[:, 0, 0, 0].tolist() == list(range(0, 37, 4))
    assert some_frames(portraits, 1)[:, 0, 0, 0].tolist() == [0]


def test_the_roles_command_runs_on_clips(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = ("--source", folder / "source.mp4", "--driving", folder / "driving.mp4")
    assert main([str(w) for w in ("roles", "--model", folder / "tiny.safetensors", "--json", *clips)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "clips" and found["stated"] == {"expression": "pose", "pose": "exp"}


def test_without_the_renderers_packages_the_command_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [n for n in sys.modules if n.startswith("dpe_model.training.synthetic")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    assert main(["evaluate", "--head", str(tmp_path / "head.npz"), "--output", str(tmp_path)]) == 1
    assert "numba" in capsys.readouterr().err
