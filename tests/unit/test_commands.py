"""The command line from file to file, on clips made here."""

from __future__ import annotations

import importlib
import io
import os
import signal
import subprocess
import sys
from fractions import Fraction

import pytest
import torch

import dpe_model
from dpe_model.checkpoint import BranchRoles, save_checkpoint
from dpe_model.commands import COMMANDS, main
from dpe_model.commands.info import say
from dpe_model.engine import Engine
from dpe_model.errors import VideoError
from dpe_model.motion import Motion
from dpe_model.video import FrameWriter, open_frames, probe, read_frames

from .tiny import Faces, clip, tiny_network


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    save_checkpoint(folder / "tiny.safetensors", tiny_network(), BranchRoles())
    torch.save({"gen": tiny_network().state_dict()}, folder / "dpe.pt")
    for name, frames, size in (("source", 6, 32), ("driving", 4, 32), ("long", 9, 32)):
        with FrameWriter(folder / f"{name}.mp4", 25, crf=1) as writer:
            writer.write(clip(frames, size))
    with FrameWriter(folder / "wide.mp4", 30) as writer:
        writer.write(torch.randint(0, 255, (5, 48, 64, 3), dtype=torch.uint8))
    with FrameWriter(folder / "still.png", 25) as writer:
        writer.write(clip(1, 32))
    return folder


@pytest.fixture
def stub_detector(monkeypatch):
    monkeypatch.setattr("dpe_model.jobs.portraits.load_detector", lambda *a, **k: Faces(radius=1 / 5))


def run(files, command, *arguments):
    return main(
        [
            command,
            *(str(a) for a in arguments),
            *(["--model", str(files / "tiny.safetensors")] if command in ("drive", "edit-video", "encode") else []),
        ]
    )


def drive(files, output, *arguments):
    return run(files, "drive", "--source", files / "source.mp4", "--output", output, *arguments)


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_is_shown(command, capsys):
    name = [] if command is None else [command.replace("_", "-")]
    with pytest.raises(SystemExit) as ended:
        main([*name, "--help"])
    assert ended.value.code == 0
    assert f"usage: python -m dpe_model {' '.join(name)}" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["shards", "clips", "probes"])
def test_help_of_the_renderers_is_shown(module, capsys):
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"dpe_model.training.synthetic.{module}").main(["--help"])
    assert ended.value.code == 0
    assert "--head" in capsys.readouterr().out


@pytest.mark.parametrize("edit", ["expression", "exp", "pose", "both"])
def test_drive(files, tmp_path, edit):
    assert drive(files, tmp_path / "o.mp4", "--driving", files / "long.mp4", "--edit", edit) == 0
    info = probe(tmp_path / "o.mp4")
    assert (info.width, info.height, info.frames, info.fps) == (16, 16, 6, 25)


def test_edits_differ(files, tmp_path):
    for edit in ("expression", "exp", "pose", "both"):
        drive(files, tmp_path / edit, "--driving", files / "long.mp4", "--edit", edit)
    results = [read_frames(tmp_path / edit) for edit in ("exp", "pose", "both")]
    assert torch.equal(results[0], read_frames(tmp_path / "expression")), "two words for the same"
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert not torch.equal(results[1], results[2])


@pytest.mark.parametrize(("length", "frames"), [("trim", 4), ("hold", 6), ("loop", 6), ("ping_pong", 6)])
def test_driver_shorter_than_source(files, tmp_path, length, frames):
    assert drive(files, tmp_path / "o", "--driving", files / "driving.mp4", "--length", length) == 0
    assert len(open_frames(tmp_path / "o")) == frames


def test_strength_zero_ignores_the_driver(files, tmp_path):
    for name in ("driving", "long"):
        drive(files, tmp_path / name, "--driving", files / f"{name}.mp4", "--strength", 0)
    assert torch.equal(read_frames(tmp_path / "driving"), read_frames(tmp_path / "long"))


def test_no_more_of_a_driver_is_measured_than_the_source_needs(files, tmp_path, monkeypatch):
    measured = []
    original = Engine.measure

    def counting(self, chunks, fps=None):
        motion = original(self, chunks, fps)
        measured.append(len(motion))
        return motion

    monkeypatch.setattr(Engine, "measure", counting)
    drive(files, tmp_path / "a", "--driving", files / "long.mp4")
    drive(files, tmp_path / "b", "--driving", files / "long.mp4", "--mode", "relative", "--reference", 8)
    drive(files, tmp_path / "c", "--driving", files / "long.mp4", "--mode", "relative", "--reference", -1)
    assert measured == [7, 9, 9]


def test_still_with_two_drivers(files, tmp_path):
    status = run(
        files, "drive", "--source", files / "still.png", "--expression", files / "long.mp4",
        "--pose", files / "driving.mp4", "--output", tmp_path / "o.mp4",
    )  # fmt: skip
    assert status == 0
    assert probe(tmp_path / "o.mp4").frames == 9


def test_still_by_still_is_a_picture(files, tmp_path):
    assert run(files, "drive", "--source", files / "still.png", "--driving", files / "still.png",
               "--output", tmp_path / "o.png") == 0  # fmt: skip
    assert read_frames(tmp_path / "o.png").shape == (1, 16, 16, 3)


def test_a_face_set_by_hand_needs_no_driver(files, tmp_path):
    for name, settings in (("smile", "smile=0.8"), ("yaw", "yaw=-10"), ("both", "smile=0.8, yaw=-10")):
        assert drive(files, tmp_path / name, "--set", settings) == 0
    results = [read_frames(tmp_path / name) for name in ("smile", "yaw", "both")]
    assert [len(frames) for frames in results] == [6, 6, 6]
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert not torch.equal(results[1], results[2])
    assert (
        run(files, "drive", "--source", files / "still.png", "--set", "smile=0.8", "--output", tmp_path / "o.png") == 0
    )
    assert len(open_frames(tmp_path / "o.png")) == 1


def test_a_face_is_set_on_top_of_a_driver(files, tmp_path):
    driven = "--driving", files / "long.mp4"
    for name, more in (("plain", ()), ("zero", ("--set", "smile=0,yaw=0")), ("set", ("--set", "smile=0.8"))):
        assert drive(files, tmp_path / name, *driven, *more) == 0
    assert torch.equal(read_frames(tmp_path / "zero"), read_frames(tmp_path / "plain"))
    assert not torch.equal(read_frames(tmp_path / "set"), read_frames(tmp_path / "plain"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("grin=1", "grin: no such control. There are yaw"),
        ("smile=2", "smile: expected -1.5..1.5, got 2.0"),
        ("smile", "expected NAME=VALUE such as smile=0.6, got 'smile'"),
        ("smile=0.1,smile=0.2", "smile is there twice"),
    ],
)
def test_settings_that_mean_nothing_are_refused(files, tmp_path, capsys, settings, words):
    with pytest.raises(SystemExit):
        drive(files, tmp_path / "o", "--set", settings)
    assert words in capsys.readouterr().err


def test_encoded_motion_drives_like_its_clip(files, tmp_path):
    assert run(files, "encode", "--source", files / "long.mp4", "--output", tmp_path / "m.safetensors") == 0
    assert len(Motion.load(tmp_path / "m.safetensors")) == 9
    drive(files, tmp_path / "a", "--driving", files / "long.mp4")
    drive(files, tmp_path / "b", "--driving", tmp_path / "m.safetensors")
    assert torch.equal(read_frames(tmp_path / "a"), read_frames(tmp_path / "b"))


def test_frames_that_are_not_square_are_cropped(files, tmp_path, stub_detector):
    assert run(files, "drive", "--source", files / "wide.mp4", "--driving", files / "long.mp4",
               "--output", tmp_path / "o.mp4") == 0  # fmt: skip
    assert probe(tmp_path / "o.mp4").frames == 5


def test_crop(files, tmp_path, stub_detector):
    assert run(files, "crop", "--source", files / "wide.mp4", "--output", tmp_path / "o.mp4", "--size", 64) == 0
    info = probe(tmp_path / "o.mp4")
    assert (info.width, info.height, info.frames, info.fps) == (64, 64, 5, 30)


def test_crop_with_an_overlay(files, tmp_path, stub_detector):
    assert run(files, "crop", "--source", files / "wide.mp4", "--output", tmp_path / "o.mp4",
               "--overlay", tmp_path / "shown.mp4") == 0  # fmt: skip
    info = probe(tmp_path / "shown.mp4")
    assert (info.width, info.height, info.frames, info.fps) == (64, 48, 5, 30)


def cropped(files, output, *arguments):
    """What is cut out of the frames."""
    status = run(files, "crop", "--source", files / "wide.mp4", "--output", output, "--framing", "static", *arguments)
    assert status == 0
    return read_frames(output)


def test_scale_auto_matches_the_heads_of_portraits(files, tmp_path, stub_detector):
    # The stub's face box is 0.4 of the portraits' side, so the crop must be 2.5 boxes.
    auto = cropped(files, tmp_path / "a", "--scale", "auto", "--match", files / "long.mp4")
    assert torch.equal(auto, cropped(files, tmp_path / "b", "--scale", "2.5"))
    assert not torch.equal(auto, cropped(files, tmp_path / "c"))


def test_scale_auto_takes_the_party_that_is_a_portrait(files, tmp_path, stub_detector, caplog):
    caplog.set_level("INFO")
    assert run(files, "edit-video", "--source", files / "wide.mp4", "--driving", files / "driving.mp4", "--scale",
               "auto", "--output", tmp_path / "a.mkv") == 0  # fmt: skip
    assert "wide.mp4: scale 2.50 matches the heads of" in caplog.text
    assert "driving.mp4" in caplog.text.split("matches the heads of")[1].splitlines()[0]
    caplog.clear()
    assert run(files, "drive", "--source", files / "source.mp4", "--driving", files / "wide.mp4", "--scale", "auto",
               "--output", tmp_path / "b.mp4") == 0  # fmt: skip
    assert "wide.mp4: scale 2.50 matches the heads of" in caplog.text
    caplog.clear()
    assert run(files, "drive", "--source", files / "wide.mp4", "--driving", files / "wide.mp4", "--scale", "auto",
               "--output", tmp_path / "c.mp4") == 0  # fmt: skip
    assert "nobody is a portrait already" in caplog.text


def test_a_person_by_place_and_by_mask(files, tmp_path, stub_detector, capsys):
    with FrameWriter(tmp_path / "mask.png", 25) as writer:
        writer.write(torch.full((1, 24, 32, 3), 255, dtype=torch.uint8))
    whole = cropped(files, tmp_path / "a")
    assert torch.equal(whole, cropped(files, tmp_path / "b", "--person-at", "0.5,0.5"))
    assert torch.equal(whole, cropped(files, tmp_path / "c", "--person-mask", tmp_path / "mask.png"))
    with FrameWriter(tmp_path / "black.png", 25) as writer:
        writer.write(torch.zeros((1, 24, 32, 3), dtype=torch.uint8))
    base = ("crop", "--source", files / "wide.mp4", "--output", tmp_path / "d")
    failed(capsys, run(files, *base, "--person-mask", tmp_path / "black.png"), "no face lies under the mask")
    failed(capsys, run(files, *base, "--person-at", "0.5,7"), "position", "0..1")
    failed(capsys, run(files, *base, "--person-at", "0,0", "--person", "left"), "one way to choose")
    failed(capsys, run(files, *base, "--person", "mask"), "--person-mask PICTURE")
    failed(capsys, run(files, *base, "--scale", "auto"), "--match PATH")
    failed(capsys, run(files, *base, "--scale", "auto", "--match", tmp_path / "mask.png"), "square portraits", "32x24")


def test_edit_video_keeps_size_rate_and_length(files, tmp_path, stub_detector):
    assert run(files, "edit-video", "--source", files / "wide.mp4", "--driving", files / "driving.mp4",
               "--output", tmp_path / "o.mkv") == 0  # fmt: skip
    info = probe(tmp_path / "o.mkv")
    assert (info.width, info.height, info.fps) == (64, 48, 30)
    assert len(open_frames(tmp_path / "o.mkv")) == 5


def test_edit_video_changes_the_face_only(files, tmp_path, stub_detector):
    frames = read_frames(files / "wide.mp4")
    folder = tmp_path / "frames"
    with FrameWriter(folder, 30) as writer:
        writer.write(frames)
    assert (
        run(files, "edit-video", "--source", folder, "--driving", files / "driving.mp4", "--output", tmp_path / "o")
        == 0
    )
    found = read_frames(tmp_path / "o")
    assert not torch.equal(found[:, 20:28, 28:36], frames[:, 20:28, 28:36])
    assert torch.equal(found[:, :, :8], frames[:, :, :8])
    assert torch.equal(found[:, :, -8:], frames[:, :, -8:])


def test_edit_video_by_hand_and_the_neck(files, tmp_path, stub_detector, caplog):
    """Nobody drives; a turned head is warned of, a smile is not."""
    for name, settings in (("smile", "smile=0.8"), ("turn", "yaw=10")):
        caplog.clear()
        arguments = ("--source", files / "wide.mp4", "--set", settings, "--output", tmp_path / f"{name}.mp4")
        assert run(files, "edit-video", *arguments) == 0
        assert probe(tmp_path / f"{name}.mp4").frames == 5
        assert ("Pasting suits expression edits" in caplog.text) == (name == "turn")


def test_convert_and_info(files, tmp_path, capsys):
    assert main(["convert", "--source", str(files / "dpe.pt"), "--output", str(tmp_path / "o.safetensors")]) == 0
    assert main(["info", str(tmp_path / "o.safetensors"), str(files / "source.mp4")]) == 0
    said = capsys.readouterr().out
    assert "16 px" in said
    assert "torch.float16" in said
    assert "32x32, 6 frames" in said
    assert main(["convert", "--source", str(files / "dpe.pt"), "--output", str(tmp_path / "s.safetensors"),
                 "--expression-branch", "exp"]) == 0  # fmt: skip
    assert "expression: branch 'exp'" in capsys.readouterr().out
    assert main(["convert", "--source", str(files / "dpe.pt"), "--output", str(tmp_path / "m.safetensors"),
                 "--average-with", str(tmp_path / "o.safetensors")]) == 0  # fmt: skip
    assert (tmp_path / "m.safetensors").exists()
    before = (tmp_path / "m.safetensors").read_bytes()
    for option in ("--source", "--average-with"):
        words = ["convert", "--source", files / "dpe.pt", "--output", tmp_path / "m.safetensors"]
        failed(capsys, main([str(w) for w in (*words, option, tmp_path / "m.safetensors")]), "m.safetensors", "replace")
    assert (tmp_path / "m.safetensors").read_bytes() == before


def failed(capsys, status, *words):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert status == 1
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]


def test_exhausted_memory_is_one_line_that_says_what_to_do(files, tmp_path, capsys, monkeypatch):
    def exhausted(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr("dpe_model.network.dpe.DPENetwork.encode", exhausted)
    failed(capsys, drive(files, tmp_path / "o.mp4", "--driving", files / "long.mp4"), "out of memory", "--device cpu")


def test_errors_are_one_line_that_names_the_file(files, tmp_path, capsys):
    failed(capsys, drive(files, tmp_path / "o.mp4", "--driving", files / "none.mp4"), "none.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    failed(capsys, drive(files, tmp_path / "o.mp4", "--driving", tmp_path / "bad.mp4"), "bad.mp4")
    (tmp_path / "bad.pt").write_bytes(b"not a model")
    status = main(["drive", "--driving", str(files / "long.mp4"), "--source", str(files / "source.mp4"),
                   "--output", str(tmp_path / "o.mp4"), "--model", str(tmp_path / "bad.pt")])  # fmt: skip
    failed(capsys, status, "bad.pt")
    assert not (tmp_path / "o.mp4").exists()


def test_an_unwritable_output_is_said_before_any_work(files, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr("dpe_model.jobs.setup.load_checkpoint", lambda *a: pytest.fail("work was begun"))
    failed(capsys, drive(files, tmp_path / "file" / "o.mp4", "--driving", files / "long.mp4"), "file")


def test_a_picture_cannot_hold_a_clip(files, tmp_path, capsys):
    failed(capsys, drive(files, tmp_path / "o.png", "--driving", files / "long.mp4"), "o.png", "6 frames")


def test_the_source_is_never_overwritten(files, capsys):
    before = (files / "source.mp4").read_bytes()
    failed(capsys, drive(files, files / "source.mp4", "--driving", files / "long.mp4"), "source.mp4")
    assert (files / "source.mp4").read_bytes() == before


def test_a_motion_of_another_model_is_refused(files, tmp_path, capsys):
    Motion(torch.zeros(4, 3), "somebody else").save(tmp_path / "m.safetensors")
    failed(
        capsys, drive(files, tmp_path / "o.mp4", "--driving", tmp_path / "m.safetensors"), "m.safetensors", "another"
    )


def test_no_face_anywhere(files, tmp_path, capsys):
    with FrameWriter(tmp_path / "grey.mp4", 25) as writer:
        writer.write(torch.full((3, 48, 64, 3), 128, dtype=torch.uint8))
    status = run(files, "edit-video", "--source", tmp_path / "grey.mp4", "--driving", files / "long.mp4",
                 "--output", tmp_path / "o.mp4")  # fmt: skip
    failed(capsys, status, "No face")


def test_a_traceback_only_with_debug(tmp_path, capsys):
    command = ["info", str(tmp_path / "none.mp4")]
    assert main(command) == 1
    plain = capsys.readouterr().err
    assert plain.startswith("error: ")
    assert "Traceback" not in plain
    with pytest.raises(VideoError):  # which Python shows with its traceback
        main([*command, "--debug"])


def test_edit_video_asks_for_a_driver(files, tmp_path, capsys):
    assert run(files, "edit-video", "--source", files / "wide.mp4", "--output", tmp_path / "out.mp4") == 1
    assert "--driving" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--driving", "D", "--expression", "D"], "nothing is left for it to drive"),
        (["--match", "D", "--scale", "2"], "--match"),
        (["--person", "left", "--person-index", "1"], "one way to choose the person"),
        (["--scale", "20"], "scale: expected 0.5 to 10"),
        (["--person-at=-0.2,0.5"], "0..1 of the frame"),
        (["--device", "gpu"], "device: expected auto"),
        (["--strength", "nan"], "strength: expected a number"),
    ],
)
def test_options_that_cannot_be_meant(files, tmp_path, capsys, options, words):
    named = [files / "driving.mp4" if word == "D" else word for word in options]
    assert drive(files, tmp_path / "out.mp4", *named) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--scale", "abc"), ("--person-at", "0.5"), ("--fps", "fast")])
def test_values_of_the_wrong_kind_say_what_was_expected(files, tmp_path, capsys, option, value):
    with pytest.raises(SystemExit):
        drive(files, tmp_path / "out.mp4", option, value)
    assert "expected" in capsys.readouterr().err


def test_a_match_alone_is_matched_and_a_number_alone_chooses(files, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("dpe_model.commands.crop.crop_clip", lambda s, o, crop, *rest: seen.append(crop) or 1)
    where = ["--source", files / "wide.mp4", "--output", tmp_path / "o.mp4"]
    assert run(files, "crop", *where, "--match", files / "driving.mp4") == 0
    assert run(files, "crop", *where, "--person-index", 2) == 0
    assert seen[0].match == files / "driving.mp4"
    assert (seen[1].person, seen[1].person_index) == ("index", 2)


def test_no_input_is_written_over(files, tmp_path, capsys, stub_detector):
    match = tmp_path / "m.mp4"
    match.write_bytes((files / "driving.mp4").read_bytes())
    before = match.read_bytes()
    assert run(files, "crop", "--source", files / "wide.mp4", "--match", match, "--output", match) == 1
    assert "is needed" in capsys.readouterr().err
    assert match.read_bytes() == before


def test_parsing_weights_choose_the_parsing_mask(files, tmp_path, capsys, stub_detector):
    words = ["--source", files / "wide.mp4", "--driving", files / "driving.mp4", "--output", tmp_path / "o.mp4"]
    words += ["--driver-crop", "none"]
    assert run(files, "edit-video", *words, "--parsing-weights", tmp_path / "none.pth") == 1
    assert "none.pth" in capsys.readouterr().err


def test_the_renderer_s_errors_are_one_line(tmp_path, capsys):
    from dpe_model.training.synthetic.shards import main as render

    for count in (0, 4):
        with pytest.raises(SystemExit) as ended:
            render(["--head", str(tmp_path / "none.npz"), "--output", str(tmp_path / "s"), "--count", str(count)])
        assert ended.value.code == 1
        assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "s").exists()


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == dpe_model.__version__


def test_quiet_says_nothing_but_warnings_and_errors(files, tmp_path, capsys):
    command = [sys.executable, "-m", "dpe_model", "drive", "--source", files / "source.mp4", "--driving"]
    command += [files / "long.mp4", "--model", files / "tiny.safetensors", "--output", tmp_path / "o.mp4"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    loud, quiet = (
        subprocess.run([*command, *more], capture_output=True, text=True, env=alone) for more in ([], ["--quiet"])
    )
    assert (loud.returncode, quiet.returncode) == (0, 0)
    assert "6 frames" in loud.stderr
    assert quiet.stdout + quiet.stderr == ""
    assert main([*map(str, command[3:]), "--quiet", "--strength", "nan"]) == 1
    assert capsys.readouterr().err.startswith("error: strength")


@pytest.mark.parametrize(
    ("given", "rate"), [("30", 30), ("29.97", Fraction(30000, 1001)), ("24000/1001", Fraction(24000, 1001))]
)
def test_a_folder_of_pictures_has_the_rate_asked_for(files, tmp_path, given, rate):
    with FrameWriter(tmp_path / "folder", 25) as writer:
        writer.write(clip(3, 32))
    source, output = str(tmp_path / "folder"), str(tmp_path / "o.mp4")
    command = ["drive", "--source", source, "--driving", str(files / "long.mp4"), "--output", output, "--fps", given]
    assert main([*command, "--model", str(files / "tiny.safetensors")]) == 0
    assert probe(tmp_path / "o.mp4").fps == rate


def test_where_a_motion_cannot_be_written_is_known_before_any_work(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dpe_model.jobs.setup.ModelOptions.engine", lambda self: pytest.fail("work was begun"))
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").write_text("")
    for output, words in (
        (tmp_path / "folder.safetensors", "this is a folder"),
        (tmp_path / "file" / "m.safetensors", "file"),
        (files / "tiny.safetensors", "which is needed"),
    ):
        status = run(files, "encode", "--source", files / "driving.mp4", "--output", output)
        failed(capsys, status, words)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGBREAK"])
def test_a_signal_that_ends_the_program_leaves_what_was_written(tmp_path, monkeypatch, capsys, name):
    if not hasattr(signal, name):
        pytest.skip(f"no {name} on this system")
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # under nohup it is ignored

    def stopped(arguments):
        with FrameWriter(tmp_path / "o.mp4", 25) as writer:
            writer.write(clip(3, 32))
            signal.raise_signal(number)
        raise AssertionError("went on")

    monkeypatch.setattr("dpe_model.commands.info.run", stopped)
    try:
        assert main(["info", "x.mp4"]) == 130
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert "interrupted" in capsys.readouterr().err
    assert len(read_frames(tmp_path / "o.partial.mp4")) == 3


def test_training_and_ignored_signals_keep_their_handlers(monkeypatch):
    seen = []
    look = lambda arguments: seen.append(signal.getsignal(signal.SIGTERM)) or 0  # noqa: E731
    monkeypatch.setattr("dpe_model.commands.train.run", look)
    monkeypatch.setattr("dpe_model.commands.train.add_arguments", lambda parser: None)
    monkeypatch.setattr("dpe_model.commands.info.run", look)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert main(["info", "x.mp4"]) == 0
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert main(["train"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIG_IGN, signal.SIG_DFL]


def test_a_folder_with_a_dot_in_its_name_is_taken_where_it_is_there(files, tmp_path, capsys):
    asked = files, f"{tmp_path}/frames.v2/", "--driving", files / "long.mp4"
    assert drive(*asked) == 1
    assert "make it first" in capsys.readouterr().err
    (tmp_path / "frames.v2").mkdir()
    assert drive(*asked) == 0
    assert len(read_frames(tmp_path / "frames.v2")) == 6


def test_names_that_the_terminal_cannot_show_are_shown_by_number(monkeypatch):
    terminal = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(terminal, encoding="ascii"))
    say("日.mp4: video")
    sys.stdout.flush()
    assert terminal.getvalue().split() == [b"\\u65e5.mp4:", b"video"]
