"""Many clips: the manifest, what is done again and what is not, failures, and several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpe_model.bundled import DRIVING_CLIP, FULL_FRAME_CLIP
from dpe_model.checkpoint import BranchRoles, save_checkpoint
from dpe_model.commands import build_parser, main
from dpe_model.commands.batch import read_manifest
from dpe_model.errors import BatchError
from dpe_model.jobs import batch as batch_job
from dpe_model.jobs.batch import Share
from dpe_model.video import FrameWriter, open_frames, read_frames

from .tiny import clip, tiny_network


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batch files")
    save_checkpoint(folder / "tiny.safetensors", tiny_network(), BranchRoles())
    with FrameWriter(folder / "driving.mp4", 25) as writer:
        writer.write(clip(3, 32))
    frames = read_frames(FULL_FRAME_CLIP, limit=3)
    for name in ("one", "two"):
        with FrameWriter(folder / f"{name}.mp4", 25) as writer:
            writer.write(frames)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture
def work(files, tmp_path):
    """Writes a manifest beside the clips and runs the batch on it: status and report."""

    def run(lines, *options, name="clips.jsonl"):
        manifest = files / name
        text = lines if isinstance(lines, str) else "".join(json.dumps(line) + "\n" for line in lines)
        manifest.write_text(text, encoding="utf-8")
        status = main([str(word) for word in arguments(files, manifest, tmp_path / "out", *options)])
        return status, json.loads((tmp_path / "out/report.json").read_text())

    return run


def arguments(files, manifest, output, *options):
    return ["batch", "--manifest", manifest, "--output-dir", output, "--model", files / "tiny.safetensors",
            "--driving", files / "driving.mp4", *options]  # fmt: skip


def states(report) -> list[str]:
    return [clip["status"] for clip in report["clips"]]


def test_a_failing_clip_is_reported_and_the_others_are_done(work, tmp_path):
    status, report = work(
        [{"source": "one.mp4"}, {"source": "broken.mp4"}, {"source": "gone.mp4"}, {"source": "two.mp4"}]
    )
    assert status == 1
    assert states(report) == ["done", "failed", "failed", "done"]
    assert (report["done"], report["failed"], report["clips"][0]["frames"]) == (2, 2, 3)
    assert "broken.mp4" in report["clips"][1]["error"]
    assert "gone.mp4" in report["clips"][2]["error"]
    assert len(open_frames(tmp_path / "out/two.mp4")) == 3
    assert not (tmp_path / "out/broken.mp4").exists()


def test_what_is_done_is_passed_over_until_something_changes(work, files, tmp_path):
    lines = [{"source": "one.mp4"}, {"source": "two.mp4", "strength": 0.5}]
    assert work(lines)[0] == 0
    first = (tmp_path / "out/one.mp4").stat().st_mtime_ns
    status, report = work(lines)
    assert (status, states(report)) == (0, ["skipped", "skipped"])
    assert [clip["frames"] for clip in report["clips"]] == [3, 3]
    assert (tmp_path / "out/one.mp4").stat().st_mtime_ns == first

    lines[1]["strength"] = 0.7
    assert states(work(lines)[1]) == ["skipped", "done"]
    (tmp_path / "out/one.mp4").unlink()
    assert states(work(lines)[1]) == ["done", "skipped"]
    (tmp_path / "out/two.mp4.done.json").write_text("{")
    assert states(work(lines)[1]) == ["skipped", "done"]
    os.utime(files / "one.mp4", ns=(1, 1))
    assert states(work(lines)[1]) == ["done", "skipped"]
    assert states(work(lines, "--mask", "crop")[1]) == ["done", "done"]


def test_how_a_path_is_written_changes_nothing(work, files, tmp_path, monkeypatch):
    assert work([{"source": "one.mp4"}])[0] == 0
    monkeypatch.chdir(files)
    words = arguments(Path(), Path("clips.jsonl"), os.path.relpath(tmp_path / "out"))
    assert main([str(word) for word in words]) == 0
    assert states(json.loads((tmp_path / "out/report.json").read_text())) == ["skipped"]


def test_an_interrupted_clip_is_made_again(work, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    assert work([{"source": "one.mp4"}])[0] == 0
    monkeypatch.setattr(batch_job, "edit_video", stop)
    lines = [{"source": "one.mp4", "strength": 0.3}]
    assert (tmp_path / "out/one.mp4.done.json").exists()
    work(lines)
    assert not (tmp_path / "out/one.mp4.done.json").exists()
    monkeypatch.undo()
    assert states(work([{"source": "one.mp4"}])[1]) == ["done"]


def test_the_model_is_opened_once(work, monkeypatch):
    opened = []
    original = batch_job.edit_video
    monkeypatch.setattr(
        batch_job,
        "edit_video",
        lambda job, reporter, engine: (opened.append(engine), original(job, reporter, engine))[1],
    )
    work([{"source": "one.mp4"}, {"source": "two.mp4"}])
    assert len(opened) == 2
    assert opened[0] is opened[1]


def jobs(files, text, *options, name="m.jsonl"):
    manifest = files / name
    manifest.write_text(text, encoding="utf-8")
    words = [str(word) for word in arguments(files, manifest, "out", *options)]
    return read_manifest(build_parser().parse_args(words))


CSV = """source,output,strength,pose-strength,edit,person_at
one.mp4,a.mkv,0.5,,both,"0.25,0.5"
sub/two.mp4,,,0,pose,
"""


def test_a_csv_line_overrides_the_command_line(files):
    one, two = jobs(files, CSV, "--strength", "0.9", "--feather", "0.2", name="m.csv")
    assert (one.source, one.output) == (files / "one.mp4", Path("out/a.mkv"))
    assert (two.source, two.output) == (files / "sub/two.mp4", Path("out/two.mp4"))
    assert (one.drivers.expression_strength, one.drivers.pose_strength) == (0.5, 0.5)
    assert (two.drivers.expression, two.drivers.pose_strength) == (None, 0.0)
    assert (one.options.crop.person, one.options.crop.position) == ("position", (0.25, 0.5))
    assert two.options.crop.person == "largest"
    assert one.options.paste.feather == two.options.paste.feather == 0.2


def test_spaces_after_commas_are_no_part_of_names(files):
    (job,) = jobs(files, "source, driving, strength\none.mp4, two.mp4, 0.5\n", name="m.csv")
    assert (job.source, job.drivers.expression) == (files / "one.mp4", files / "two.mp4")
    assert job.drivers.expression_strength == 0.5


@pytest.mark.parametrize("line", [{"person": "left"}, {"person-index": 1}, {"person-at": [0.1, 0.2]}])
def test_a_line_chooses_the_person_in_its_own_way(files, line):
    text = json.dumps({"source": "one.mp4", **line})
    for option in (("--person", "right"), ("--person-at", "0.5,0.5"), ("--person-index", "2")):
        crop = jobs(files, text, *option)[0].options.crop
        if "person" in line:
            assert crop.person == "left"
        elif "person-index" in line:
            assert (crop.person, crop.person_index) == ("index", 1)
        else:
            assert (crop.person, crop.position) == ("position", (0.1, 0.2))


def test_a_line_names_drivers_in_its_own_way(files):
    (job,) = jobs(files, '{"source": "one.mp4", "expression": "x.mp4"}')
    assert (job.drivers.expression, job.drivers.pose) == (files / "x.mp4", None)
    (job,) = jobs(files, '{"source": "one.mp4", "pose": "p.mp4"}', "--edit", "both")
    assert (job.drivers.expression, job.drivers.pose) == (files / "driving.mp4", files / "p.mp4")
    (job,) = jobs(files, '{"source": "one.mp4", "pose": "p.mp4"}', "--edit", "both", "--expression", "x.mp4")
    assert (job.drivers.expression, job.drivers.pose) == (Path("x.mp4"), files / "p.mp4")
    words = arguments(files, files / "m.jsonl", "out", "--expression", "x.mp4")
    del words[words.index("--driving") : words.index("--driving") + 2]
    (files / "m.jsonl").write_text('{"source": "one.mp4", "driving": "two.mp4"}')
    (job,) = read_manifest(build_parser().parse_args([str(word) for word in words]))
    assert job.drivers.expression == files / "two.mp4"


def test_a_line_s_scale_takes_the_place_of_a_match(files):
    text = '{"source": "one.mp4", "scale": 2.5}\n{"source": "two.mp4"}'
    one, two = (job.options.crop for job in jobs(files, text, "--match", "two.mp4"))
    assert (one.scale, one.match) == (2.5, None)
    assert two.match == Path("two.mp4")


def test_json_values_of_all_kinds(files):
    text = '{"source": "one.mp4", "strength": 0, "person-at": [0.5, 0.25], "pose": "p.mp4", "mode": null}\n\n'
    (job,) = jobs(files, text)
    assert job.drivers.expression_strength == 0.0
    assert job.options.crop.position == (0.5, 0.25)
    assert job.drivers.pose == files / "p.mp4"
    assert job.drivers.mode == "absolute"


@pytest.mark.parametrize("value", ["smile=0.5,yaw=-10", ["smile=0.5", "yaw=-10"], {"smile": 0.5, "yaw": -10}])
def test_a_line_sets_a_face_by_hand(files, value):
    lines = [{"source": "one.mp4", "set": value}, {"source": "two.mp4"}]
    (files / "set.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = arguments(files, files / "set.jsonl", files / "out", "--set", "brows=0.2")
    jobs = read_manifest(build_parser().parse_args([str(word) for word in words]))
    assert [job.drivers.settings for job in jobs] == [{"smile": 0.5, "yaw": -10.0}, {"brows": 0.2}]


def test_records_from_before_faces_were_set_by_hand_hold(files):
    """What is not set is not named in what a clip is known by."""

    def state(*options):
        words = arguments(files, files / "plain.jsonl", files / "out", *options)
        (job,) = read_manifest(build_parser().parse_args([str(word) for word in words]))
        return batch_job._plain(job.drivers)

    (files / "plain.jsonl").write_text('{"source": "one.mp4"}\n')
    assert "settings" not in state()
    assert state("--set", "yaw=3,smile=0.5")["settings"] == {"smile": 0.5, "yaw": 3.0}


def test_absolute_paths_stay(files, tmp_path):
    (job,) = jobs(files, json.dumps({"source": str(tmp_path / "x.mp4"), "driving": str(DRIVING_CLIP)}))
    assert job.source == tmp_path / "x.mp4"
    assert job.drivers.expression == DRIVING_CLIP


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("m.jsonl", '{"source": "a.mp4"}\nnot json', ("line 2", "JSON object")),
        ("m.jsonl", '["a.mp4"]', ("line 1", "list")),
        ("m.jsonl", '{"output": "a.mp4"}', ("line 1", "source")),
        ("m.jsonl", '{"source": "a.mp4", "strenght": 1}', ("line 1", "strenght")),
        ("m.jsonl", '{"source": "a.mp4", "strength": "much"}', ("line 1", "--strength", "much")),
        ("m.jsonl", '{"source": "a.mp4", "feather": 3}', ("line 1", "feather")),
        ("m.jsonl", '{"source": "a.mp4", "length": "trim"}', ("line 1", "trim")),
        ("m.jsonl", '{"source": "a.mp4", "output": "a.gif"}', ("line 1", "a.gif")),
        ("m.jsonl", '{"source": "a.mp4"}\n{"source": "b/a.mov"}', ("line 2", "a.mp4", "line 1")),
        ("m.jsonl", '{"source": "a.mp4"}\n{"source": "b.mp4", "output": "x/../a.mp4"}', ("line 2", "line 1")),
        ("m.jsonl", '{"source": "a.mp4", "model": "x.pt"}', ("line 1", "model")),
        ("m.jsonl", "\n", ("at least one",)),
        ("m.csv", "source,strength\na.mp4,1,2\n", ("line 2", "more values")),
        ("m.csv", "source,strength, source\na.mp4,1,b.mp4\n", ("line 1", "source is there twice")),
        (
            "m.jsonl",
            '{"source": "a.mp4", "pose-strength": 1, "pose_strength": 2}',
            ("line 1", "pose_strength is there"),
        ),
        ("m.jsonl", '{"source": "a.mp4", "person": "left", "person-index": 1}', ("line 1", "one way")),
        ("m.jsonl", '{"source": "a.mp4", "driving": "b.mp4", "expression": "c.mp4"}', ("line 1", "nothing is left")),
        (
            "m.jsonl",
            '{"source": "a.mp4", "output": "OUT/b.mp4"}\n{"source": "b.mp4"}',
            ("line 1", "b.mp4", "write over"),
        ),
        (
            "m.jsonl",
            '{"source": "a.mp4"}\n{"source": "b.mp4", "output": "OUT/p.mp4", "pose": "p.mp4"}',
            ("line 2", "p.mp4", "write over"),
        ),
    ],
)
def test_a_bad_manifest_is_named_before_any_work(files, name, text, words):
    with pytest.raises(BatchError) as caught:
        jobs(files, text.replace("OUT", str(files)), name=name)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_manifest_that_is_not_there(files, tmp_path):
    with pytest.raises(BatchError, match="gone.jsonl"):
        read_manifest(build_parser().parse_args([str(w) for w in arguments(files, tmp_path / "gone.jsonl", "out")]))


def test_a_clip_without_a_driver_is_named(files, tmp_path):
    (files / "m.jsonl").write_text('{"source": "one.mp4"}')
    words = ["batch", "--manifest", str(files / "m.jsonl"), "--output-dir", "out"]
    with pytest.raises(BatchError, match=r"line 1.*driver"):
        read_manifest(build_parser().parse_args(words))


def test_the_launcher_says_whose_turn_it_is(monkeypatch):
    assert Share.of_launcher() == Share(0, 1, 0)
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    share = Share.of_launcher()
    assert share == Share(3, 4, 1)
    assert share.device("cpu") == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert (share.device("auto"), share.device("cuda:0")) == ("cuda:1", "cuda:0")
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(BatchError, match="torchrun"):
        Share.of_launcher()


def test_two_processes_share_the_clips(files, tmp_path):
    """Really started by torchrun; a failure in one process does not stop the other."""
    manifest = files / "shared.jsonl"
    manifest.write_text("".join(f'{{"source": "{name}.mp4"}}\n' for name in ("gone", "one", "two")), encoding="utf-8")
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "dpe_model",
    ]
    words = [str(word) for word in arguments(files, manifest, tmp_path / "out", "--device", "cpu")]
    done = subprocess.run(
        [*launcher, *words], capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode != 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert states(report) == ["failed", "done", "done"], done.stderr
    assert [len(open_frames(tmp_path / f"out/{name}.mp4")) for name in ("one", "two")] == [3, 3]


def test_other_roles_or_weights_of_the_model_make_clips_anew(work, files):
    lines, model = [{"source": "one.mp4"}], files / "tiny.safetensors"
    before = model.read_bytes()
    try:
        assert work(lines)[0] == 0
        save_checkpoint(model, tiny_network(), BranchRoles("exp", "pose"))
        assert states(work(lines)[1]) == ["done"]
        assert states(work(lines)[1]) == ["skipped"]
    finally:
        model.write_bytes(before)


def test_a_missing_driver_fails_its_own_clip_under_scale_auto_too(work):
    status, report = work([{"source": "one.mp4", "driving": "gone.mp4", "scale": "auto"}, {"source": "two.mp4"}])
    assert (status, states(report)) == (1, ["failed", "done"])
    assert "gone.mp4" in report["clips"][0]["error"]
