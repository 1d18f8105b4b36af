"""Evaluation on rendered heads, on the coarse head of the renderer's own tests."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from dpe_model.checkpoint import BranchRoles, save_checkpoint  # noqa: E402
from dpe_model.commands import main  # noqa: E402
from dpe_model.errors import EvaluationError  # noqa: E402
from dpe_model.evaluation.face_fit import SHARES, FaceFit, moved  # noqa: E402
from dpe_model.evaluation.leak import Changes, Measured, bent, blurred, leak, leak_report, measure_changes  # noqa: E402
from dpe_model.evaluation.people import NUMBERS, Cases, draw_cases, face_numbers, open_studio  # noqa: E402
from dpe_model.evaluation.rendered import (  # noqa: E402
    COPY_DRIVER,
    COPY_SOURCE,
    DRIVERS,
    MODEL,
    Edited,
    RenderedOptions,
    edit_cases,
    edit_people,
    score_people,
)
from dpe_model.evaluation.roles import measure_roles_on_head  # noqa: E402
from dpe_model.training.synthetic import HeadParams, Studio  # noqa: E402
from dpe_model.training.synthetic.shards import SampleOptions, draw  # noqa: E402
from dpe_model.video import FrameWriter  # noqa: E402

from .test_synthetic import head_fields  # noqa: E402
from .tiny import clip, tiny_network  # noqa: E402

SIZE = 48


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("head") / "head.npz"
    np.savez(path, **head_fields())
    return path


@pytest.fixture(scope="module")
def studio(head: Path) -> Studio:
    return open_studio(head)


@pytest.fixture(scope="module")
def cases(studio: Studio) -> Cases:
    return draw_cases(studio, 0, 0, 2, SIZE)


class TruthEditor:
    """Knows the truth of the cases it was shown."""

    size = SIZE

    def __init__(self, cases: Cases) -> None:
        self.cases = cases

    def edit(self, source, driver, *roles, strength=1.0):
        if strength == 0.0:
            return source
        return {1: getattr(self.cases, roles[0]), 2: self.cases.both}[len(roles)]


class LazyEditor:
    """Leaves the source as it is."""

    size = SIZE

    def edit(self, source, driver, *roles, strength=1.0):
        return source


def test_cases_are_the_same_every_time_and_others_for_another_person(studio: Studio, cases: Cases) -> None:
    again, other = draw_cases(studio, 0, 0, 2, SIZE), draw_cases(studio, 0, 1, 2, SIZE)
    assert torch.equal(cases.source, again.source) and torch.equal(cases.driver, again.driver)
    assert not torch.equal(cases.source, other.source)
    assert not torch.equal(cases.source, draw_cases(studio, 1, 0, 2, SIZE).source)


def test_a_driver_is_oneself_first_and_somebody_else_then(cases: Cases) -> None:
    assert cases.same_person.tolist() == [True, True, False, False]
    assert torch.equal(cases.driver[:2], cases.both[:2])
    assert not torch.equal(cases.driver[2:], cases.both[2:])
    assert torch.equal(cases.source[:2], cases.source[2:])


class _Seen(Exception):
    """Carries the generator that somebody was going to draw with."""


def states(monkeypatch: pytest.MonkeyPatch, studio: Studio, method: str, draws: Iterable[Callable[[], object]]) -> set:
    """The seeds' states of the generators that each of `draws` hands to a method of the studio."""

    def look(rng: np.random.Generator, *_: object) -> None:
        raise _Seen(rng)

    monkeypatch.setattr(studio, method, look)
    found = set()
    for run in draws:
        with pytest.raises(_Seen) as seen:
            run()
        found.add(tuple(seen.value.args[0].bit_generator.seed_seq.generate_state(4)))
    return found


def test_seeds_are_not_those_of_training(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studio = open_studio(head)
    seeds, numbers = range(12), range(40)
    held_out = [partial(draw_cases, studio, s, n, 1, SIZE) for s in seeds for n in numbers]
    training = [partial(draw, studio, SampleOptions(seed=s), n) for s in seeds for n in numbers]
    ours = states(monkeypatch, studio, "sample_scene", held_out)
    theirs = states(monkeypatch, studio, "sample_tuple", training)
    assert len(ours) == len(theirs) == len(seeds) * len(numbers)
    assert not ours & theirs


def test_the_truth_beats_every_baseline_and_copying_beats_nothing(cases: Cases) -> None:
    scores = score_people([edit_cases(TruthEditor(cases), cases)])
    for driver in DRIVERS:
        for edit in ("expression", "pose", "both"):
            found = scores[driver][edit]
            assert found["methods"][MODEL]["whole"]["psnr"] == 60.0
            assert found["margin"]["change"]["psnr"] > 5 and found["margin"]["change"]["l1"] > 0
        assert scores[driver]["self"]["pose"]["whole"]["ssim"] == pytest.approx(1.0)
    lazy = score_people([edit_cases(LazyEditor(), cases)])
    for edit in ("expression", "pose", "both"):
        found = lazy["other person"][edit]
        assert found["methods"][MODEL] == found["methods"][COPY_SOURCE]
        assert max(found["margin"]["change"].values()) <= 0.0


def test_baselines(cases: Cases) -> None:
    scores = score_people([edit_cases(TruthEditor(cases), cases)])
    # A driver of the same person is the truth of "both": no baseline.
    assert set(scores["same person"]["both"]["methods"]) == {MODEL, COPY_SOURCE, "expression alone", "pose alone"}
    other = scores["other person"]["both"]["methods"]
    assert COPY_DRIVER in other
    assert other["pose alone"] != other["expression alone"]
    same = scores["same person"]["pose"]["methods"]
    assert same[COPY_DRIVER]["whole"]["psnr"] > scores["other person"]["pose"]["methods"][COPY_DRIVER]["whole"]["psnr"]


def test_options_that_draw_nobody_are_refused(head: Path) -> None:
    with pytest.raises(EvaluationError, match="at least one identity"):
        RenderedOptions(head, identities=0)


def test_face_numbers(studio: Studio) -> None:
    scene = studio.sample_scene(np.random.default_rng(0))
    rest = face_numbers(scene, HeadParams(yaw=12, pitch=-3, roll=4, scale=1.2, shift_x=0.05))
    assert rest[:3].tolist() == [12, -3, 4]
    turned = face_numbers(scene, HeadParams(yaw=-20))
    assert np.allclose(rest[3:], turned[3:]), "expression numbers do not know the pose"
    smiling = face_numbers(scene, HeadParams(expression=studio.expression({"mouthSmile_L": 1.0})))
    assert smiling[NUMBERS.index("smile")] > rest[NUMBERS.index("smile")] + 0.02


@pytest.fixture
def fit(studio: Studio) -> FaceFit:
    scene = studio.sample_scene(np.random.default_rng(12), glasses=False)
    first = HeadParams(yaw=-12, expression=studio.expression({}))
    second = HeadParams(yaw=14, pitch=5, expression=studio.expression({"jawOpen": 1.0}))
    return FaceFit(scene, first, second, 128, 256)


def test_a_fit_reads_the_face_off_a_softened_picture(fit: FaceFit) -> None:
    for known in (fit.between(0.9, 0.1, 0, 0, 0, 0, 0), fit.between(0.2, 0.8, 0, 0, 0, 0, 0)):
        found = fit.measure(blurred(fit.picture(known))).face
        assert found[:2] == pytest.approx(known[:2], abs=1.0)
        assert found[6] == pytest.approx(known[6], abs=0.1)


def test_a_fit_reads_the_face_off_a_bent_picture(fit: FaceFit) -> None:
    for seed in range(3):
        known = fit.between(0.5, 0.3, 0, 0, 0, 0, 0)
        picture = bent(fit.picture(known), np.random.default_rng(seed))
        assert float((picture - fit.picture(known) / 255.0).abs().mean()) > 0.01
        assert fit.measure(blurred(picture)).face[6] == pytest.approx(known[6], abs=0.15)


def test_a_fit_reads_gaze_and_mouth_apart(studio: Studio) -> None:
    scene = studio.sample_scene(np.random.default_rng(12), glasses=False)
    first = HeadParams(gaze_yaw=-25, expression=studio.expression({}))
    second = HeadParams(gaze_yaw=25, expression=studio.expression({"jawOpen": 1.0}))
    fit = FaceFit(scene, first, second, 128, 256)
    for mouth, gaze in ((0.8, 0.2), (0.2, 0.8)):
        found = fit.measure(blurred(fit.picture(fit.between(0.0, mouth, 0, 0, 0, 0, gaze)))).face
        assert (found[6], found[11]) == pytest.approx((mouth, gaze), abs=0.15)


def test_a_part_outside_the_picture_is_not_seen(fit: FaceFit) -> None:
    inside = fit.between(0.5, 0.5, 0, 0, 0, 0, 0)
    below = (*inside[:5], inside[5] + 0.45, *inside[6:])  # the mouth under the picture's edge, the eyes within
    seen = fit.measure(blurred(fit.picture(inside))).seen
    assert seen["mouth"] == seen["right eye"] == seen["left eye"] == 1.0
    lowered = fit._read_parts(blurred(fit.picture(below)), below[:6]).seen
    assert lowered["mouth"] < 0.6 < min(lowered["right eye"], lowered["left eye"])


def test_a_head_turned_a_little_wrong_is_not_taken_for_an_expression(fit: FaceFit) -> None:
    still = fit.between(1.0, 0.0)
    known = moved(still, np.array((4.0, -3.0, 3.0, 0.02, 0.01, -0.01, *[0.0] * len(SHARES))))
    found = fit.measure(blurred(fit.picture(known))).face
    assert found[:3] == pytest.approx(known[:3], abs=1.0)
    assert found[6] == pytest.approx(0.0, abs=0.1)


def test_no_leak_in_the_truth_and_all_of_it_where_everything_is_taken_over(studio: Studio, cases: Cases) -> None:
    true = edit_cases(TruthEditor(cases), cases)
    report = leak_report(measure_changes([true]))
    assert report["leak"]["pose"]["leak"] == 0.0
    assert report["leak"]["yaw"]["follows"] == 1.0
    assert report["accuracy"]["yaw"]["r2"] > 0.9
    few = draw_cases(studio, 0, 0, 1, SIZE)
    everything = Edited(few, dict.fromkeys(("expression", "pose", "both"), few.both), {})
    assert leak_report(measure_changes([everything]))["leak"]["pose"]["leak"] == 1.0


def test_a_process_that_was_ended_from_outside_is_told_of(cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(pool: ProcessPoolExecutor, *_: object) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(ProcessPoolExecutor, "map", broken)
    one = edit_cases(TruthEditor(cases), cases)
    with pytest.raises(EvaluationError, match="memory.*--workers"):
        measure_changes([one, one], workers=2)


def inside(change, *outside) -> Measured:
    """Changes read off pictures; of the cases in `outside` the mouth is not in the picture."""
    seen = np.ones_like(change)
    seen[list(outside), 3] = 0.2
    return Measured(change, seen)


def test_leak_against_hand_computed_values() -> None:
    asked = np.zeros((2, 7), np.float32)
    asked[:, 0], asked[:, 3] = [10, -10], [0.4, 0.2]
    pose, expression = np.zeros((2, 7), np.float32), np.zeros((2, 7), np.float32)
    pose[:, 0], pose[:, 3] = [8, -8], [0.05, -0.05]
    expression[:, 0], expression[:, 3] = [2, 0], [0.4, 0.2]
    report = leak({"pose": inside(pose), "expression": inside(expression)}, asked)
    assert report["yaw"] == {
        "leak": 0.125, "typical": 0.125, "all": 0.125, "follows": 0.8, "strays": 0.1, "cases": 2
    }  # fmt: skip
    assert report["mouth"]["leak"] == pytest.approx(0.05 / 0.3, abs=1e-4)
    assert report["mouth"]["strays"] == pytest.approx(0.01 / 0.2, abs=1e-4)
    assert report["roll"] == dict.fromkeys(("leak", "typical", "all", "follows", "strays")) | {"cases": 2}
    assert report["pose"]["leak"] == 0.125


def test_cases_outside_the_picture_are_left_out_but_of_all() -> None:
    asked, pose, expression = (np.zeros((3, 7), np.float32) for _ in range(3))
    asked[:, 3] = 0.4
    pose[:, 3], expression[:, 3] = [0.02, 0.22, 0.06], [0.2, 0.1, 0.3]
    by = {"pose": inside(pose, 1), "expression": inside(expression, 2)}
    report = leak(by, asked)
    assert report["mouth"] == {
        "leak": 0.1, "typical": 0.1, "all": 0.5, "follows": 0.375, "strays": 0.1, "cases": 1
    }  # fmt: skip
    changes = Changes(asked, by, asked + pose, inside(asked + pose))
    changes.found.change[1, 3], changes.found.inside[1, 3] = 9.0, 0.0
    assert leak_report(changes)["accuracy"]["mouth"] == {"r2": 1.0, "error": 0.0, "strays": 0.0}


def test_a_reading_that_guesses_between_source_and_driver_is_told_of() -> None:
    """A fifth of what is asked is read where nothing of it is there; the other numbers are not asked to change."""
    asked, known = (np.zeros((4, 7), np.float32) for _ in range(2))
    asked[:, 3], known[:, 3] = [0.4, 0.2, -0.3, 0.1], [0.1, 0.2, 0.0, -0.1]
    nothing = inside(np.zeros_like(asked))
    found = leak_report(
        Changes(asked, {"pose": nothing, "expression": nothing}, known, inside(0.8 * known + 0.2 * asked))
    )
    assert found["accuracy"]["mouth"]["strays"] == pytest.approx(0.2, abs=1e-4)
    assert found["accuracy"]["brows"]["strays"] is None


def test_one_misread_picture_moves_the_leak_but_not_the_typical_one() -> None:
    asked, pose, expression = (np.zeros((5, 7), np.float32) for _ in range(3))
    asked[:, 3], expression[:, 3] = 0.4, 0.2
    pose[:, 3] = [0.02, -0.02, 0.02, -0.02, 1.5]
    report = leak({"pose": inside(pose), "expression": inside(expression)}, asked)
    assert report["mouth"]["leak"] == pytest.approx(1.58, abs=1e-4)
    assert report["mouth"]["typical"] == pytest.approx(0.1, abs=1e-4)


class BranchEditor:
    """Branch `pose_branch` takes over the pose, the other the expression, whatever role the roles give them."""

    size = SIZE

    def __init__(self, pose_branch: str, stated: BranchRoles, known: dict[bytes, str]) -> None:
        self.pose_branch, self.stated, self.known = pose_branch, stated, known

    def edit(self, source, driver, *roles, strength=1.0):
        branch = self.stated.branch(roles[0])
        wanted = "pose" if branch == self.pose_branch else "expression"
        moved = [strength > 0 and self.known.get(d.numpy().tobytes()) == wanted for d in driver]
        return torch.stack([d if m else s for s, d, m in zip(source, driver, moved, strict=True)])


@pytest.mark.parametrize("pose_branch", ["exp", "pose"])
@pytest.mark.parametrize("stated", [BranchRoles(), BranchRoles("exp", "pose")])
def test_roles_are_found_whatever_the_file_says(
    head: Path, studio: Studio, pose_branch: str, stated: BranchRoles, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpe_model.evaluation import roles

    monkeypatch.setattr(roles, "PEOPLE", 1)
    pictures = roles._draw(studio, 0, SIZE)
    known = {p.numpy().tobytes(): name for name in ("pose", "expression") for p in pictures[name]}
    evidence = measure_roles_on_head(BranchEditor(pose_branch, stated, known), stated, head)
    assert evidence.suggested is not None and evidence.suggested.pose == pose_branch
    assert evidence.details[pose_branch]["nearer by pose"] == pytest.approx(1.0)


def test_branches_that_do_the_same_are_undecided(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dpe_model.evaluation import roles

    monkeypatch.setattr(roles, "PEOPLE", 1)

    class Everything(LazyEditor):
        def edit(self, source, driver, *roles, strength=1.0):
            return driver if strength else source

    assert measure_roles_on_head(Everything(), BranchRoles(), head).suggested is None


def test_the_command_writes_the_same_report_twice_whoever_measures(head: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "tiny.safetensors", tiny_network(), BranchRoles())
    words = ["evaluate", "--model", tmp_path / "tiny.safetensors", "--head", head, "--identities", 2]
    for name, workers in (("a", 1), ("b", 2)):
        more = ["--tuples-per-identity", 1, "--output", tmp_path / name, "--workers", workers]
        assert main([str(w) for w in [*words, *more]]) == 0
    first, second = ((tmp_path / n / "evaluation.json").read_text() for n in ("a", "b"))
    assert first == second
    report = json.loads(first)
    assert report["rendered"]["identities"] == 2 and set(report["rendered"]["scores"]) == set(DRIVERS)
    assert set(report["leak"]["accuracy"]) == set(NUMBERS)
    text = (tmp_path / "a" / "evaluation.md").read_text()
    assert "### Pose edit, driver: other person" in text and "## Leaks" in text
    for name in ("sheet_same_person", "sheet_other_person"):
        assert (tmp_path / "a" / f"{name}.png").stat().st_size > 0


def test_no_process_at_all_is_refused(head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--head", str(head), "--workers", "0", "--output", str(tmp_path / "o")]) == 1
    assert "--workers: expected at least 1, got 0" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_judge_that_fails_at_the_end_costs_only_the_curves(
    head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path / "tiny.safetensors", tiny_network(), BranchRoles())
    with FrameWriter(tmp_path / "clip.mp4", 25) as writer:
        writer.write(clip(3, 32))
    words = ["evaluate", "--model", tmp_path / "tiny.safetensors", "--head", head, "--identities", 1, "--no-leak"]
    words += ["--tuples-per-identity", 1, "--source", tmp_path / "clip.mp4", "--driving", tmp_path / "clip.mp4"]
    words += ["--output", tmp_path / "o", "--judge", sys.executable, tmp_path / "none.py"]
    assert main([str(w) for w in words]) == 1
    assert "failed with exit status" in capsys.readouterr().err
    assert set(json.loads((tmp_path / "o" / "evaluation.json").read_text())["rendered"]["scores"]) == set(DRIVERS)


def test_a_missing_head_is_a_plain_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--head", str(tmp_path / "none.npz"), "--output", str(tmp_path)]) == 1
    assert "none.npz" in capsys.readouterr().err


def test_people_are_edited_one_after_the_other(head: Path) -> None:
    seen: list[int] = []

    class Counting:
        def stage(self, name, total):
            from contextlib import nullcontext

            assert total == 2
            return nullcontext(seen.append)

    people = edit_people(LazyEditor(), RenderedOptions(head, 2, 1), Counting())
    assert len(people) == 2 and seen == [1, 1]
