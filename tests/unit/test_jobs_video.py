"""Whole clips from file to file: time stamps, sound, rotation, colours, odd sizes, several people, failures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from dpe_model.engine import Engine
from dpe_model.errors import FrameError, MotionError, VideoError
from dpe_model.jobs import (
    CropOptions,
    DriveJob,
    Drivers,
    EditOptions,
    EditVideoJob,
    Silent,
    VideoEncoding,
    crop_clip,
    drive,
    edit_clip,
    edit_video,
)
from dpe_model.jobs.portraits import open_portraits
from dpe_model.jobs.setup import measure_clip, source_clock
from dpe_model.jobs.writing import write_timed
from dpe_model.memory import return_free_memory
from dpe_model.motion import EditPlan, Motion
from dpe_model.video import FrameWriter, MemoryFrames, Section, open_frames, probe, read_frames

from .tiny import Faces, clip, tiny_checkpoint
from .video_samples import clicks, corner_frames, corners, encode, heard, remux, turn

UNEVEN = [Fraction(t, 1000) for t in accumulate((0, 20, 50, 33, 90, 40, 40, 15))]


@pytest.fixture(autouse=True)
def middle(monkeypatch):
    see(monkeypatch, (0.5, 0.5))


def see(monkeypatch, *places):
    monkeypatch.setattr("dpe_model.jobs.portraits.load_detector", lambda *a, **k: Faces(*places))


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_checkpoint(), chunk=4)


@pytest.fixture
def driver(engine):
    """A motion at 50 frames a second that differs in every frame."""
    return Motion(torch.randn(40, 3, generator=torch.Generator().manual_seed(3)), "tiny", 50.0)


def edit(engine, source, drivers, output, **options):
    opened = open_frames(source, read_ahead=options.get("overlap", 2))
    sound = source if opened.info.has_audio else None
    return edit_clip(engine, opened, drivers, output, EditOptions(**options), sound=sound).frames


def times(path: Path) -> list[Fraction]:
    return [t for _, stamps in open_frames(path).timed_chunks(8) for t in stamps]


def noise(frames: int, width: int = 64, height: int = 48) -> torch.Tensor:
    return torch.randint(0, 256, (frames, height, width, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


@pytest.mark.parametrize("fps", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(25)])
def test_rates_are_kept_exactly(engine, driver, tmp_path, fps):
    source = encode(tmp_path / "in.mp4", noise(9), fps)
    assert edit(engine, source, Drivers(driver), tmp_path / "out.mp4") == 9
    assert probe(tmp_path / "out.mp4").fps == fps
    assert times(tmp_path / "out.mp4") == [i / fps for i in range(9)]


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_uneven_time_stamps_are_kept(engine, driver, tmp_path, ending):
    source = encode(tmp_path / "in.mp4", noise(8), pts=UNEVEN)
    assert edit(engine, source, Drivers(driver), tmp_path / f"out.{ending}") == 8
    assert times(tmp_path / f"out.{ending}") == UNEVEN


def test_a_driven_portrait_keeps_uneven_time_stamps_too(tmp_path, monkeypatch):
    monkeypatch.setattr("dpe_model.jobs.setup.ModelOptions.engine", lambda self: Engine(tiny_checkpoint()))
    source = encode(tmp_path / "in.mp4", clip(8, 32), pts=UNEVEN)
    driving = encode(tmp_path / "driving.mp4", clip(4, 32, seed=1), 30)
    assert drive(DriveJob(source, Drivers(driving), tmp_path / "out.mp4", crop="none")) == 8
    assert times(tmp_path / "out.mp4") == UNEVEN


def test_the_driver_is_seen_at_the_source_s_own_times(engine, tmp_path, monkeypatch):
    """A ramp that tells the time: what drives each frame is that frame's time stamp."""
    ramp = Motion(torch.arange(60, dtype=torch.float32)[:, None].expand(-1, 3) / 50, "tiny", 50.0)
    source = encode(tmp_path / "in.mp4", noise(8), pts=UNEVEN)
    driven = []
    original = EditPlan.apply

    def spy(self, alpha, start):
        driven.extend(self.edits[0].driver.at(self.frames[0][start : start + len(alpha)])[:, 0].tolist())
        return original(self, alpha, start)

    monkeypatch.setattr(EditPlan, "apply", spy)
    edit(engine, source, Drivers(ramp), tmp_path / "out.mp4")
    assert driven == pytest.approx([float(t) for t in UNEVEN], abs=1e-5)


def test_a_driver_with_uneven_time_stamps_is_measured_with_them(engine, tmp_path):
    even = encode(tmp_path / "even.mp4", clip(8, 32), 25)
    uneven = encode(tmp_path / "uneven.mp4", clip(8, 32), pts=UNEVEN)

    def measured(path, clock=None):
        return measure_clip(engine, open_frames(path), "none", EditOptions().crop, Silent(), clock)

    assert measured(even).times is None
    assert measured(uneven).times.tolist() == pytest.approx([float(t) for t in UNEVEN])
    clock = torch.tensor([0.0, 0.1])
    assert len(measured(uneven, clock)) == 4  # up to 0.103 s
    assert len(measured(even, clock)) == 4


def test_frames_of_a_driver_without_a_face_drive_nobody(engine, tmp_path, monkeypatch, caplog):
    """Between the last frame with a face and the next its motion goes straight."""
    path, missing = encode(tmp_path / "in.mp4", noise(9), 25), {3, 4}

    class Blinking(Faces):
        def __init__(self):
            super().__init__()
            self.seen = 0

        def detect(self, frames):
            self.seen += len(frames)
            first = self.seen - len(frames)
            return [[] if first + n in missing else faces for n, faces in enumerate(super().detect(frames))]

    whole = measure_clip(engine, open_frames(path), "face", EditOptions().crop, Silent()).alpha
    monkeypatch.setattr("dpe_model.jobs.portraits.load_detector", lambda *a, **k: Blinking())
    bridged = measure_clip(engine, open_frames(path), "face", EditOptions().crop, Silent()).alpha
    assert "no face at frames 3-4" in caplog.text
    assert torch.allclose(bridged[[0, 1, 2, 5, 6, 7, 8]], whole[[0, 1, 2, 5, 6, 7, 8]], atol=1e-5)
    assert torch.allclose(bridged[3:5], torch.lerp(whole[2], whole[5], torch.tensor([[1 / 3], [2 / 3]])), atol=1e-5)
    assert not torch.allclose(whole[3:5], bridged[3:5], atol=1e-2)


def test_a_clip_in_the_middle_of_a_clock(engine, driver, tmp_path):
    source = encode(tmp_path / "in.mp4", noise(25), 25, sound=clicks([0.4, 0.8], 1.0))
    section = Section(open_frames(source), Fraction(1, 5), Fraction(2, 5))
    done = edit_clip(engine, section, Drivers(driver), tmp_path / "out.mp4", EditOptions(), sound=source)
    assert done.frames == 10
    starts, end = heard(tmp_path / "out.mp4")
    assert starts == pytest.approx([0.2], abs=0.002)
    assert end == pytest.approx(0.4, abs=0.04)


def test_what_works_at_once_gives_the_same_file_as_one_after_the_other(engine, driver, tmp_path):
    source = encode(tmp_path / "in.mp4", noise(25), 25, sound=clicks([0.3], 1.0))
    for overlap in (0, 1, 3):
        edit(engine, source, Drivers(driver), tmp_path / f"{overlap}.mp4", overlap=overlap)
    files = [(tmp_path / f"{overlap}.mp4").read_bytes() for overlap in (0, 1, 3)]
    assert files[0] == files[1] == files[2]
    assert not [t for t in threading.enumerate() if t.name.startswith("dpe-")]


def test_pictures_rendered_in_pieces_find_their_frames(engine, driver, tmp_path, monkeypatch):
    """As after the device ran out of memory: the engine gives smaller pieces than it was given."""
    source = tmp_path / "in"
    with FrameWriter(source, 25) as writer:
        writer.write(noise(11))
    edit(engine, source, Drivers(driver), tmp_path / "whole")

    def split(self, stream, length=None):
        start = 0
        for part in (part for frames in stream for part in frames.split(3)):
            yield start, part
            start += len(part)

    monkeypatch.setattr(Engine, "_split", split)
    edit(engine, source, Drivers(driver), tmp_path / "pieces")
    assert torch.equal(read_frames(tmp_path / "whole"), read_frames(tmp_path / "pieces"))


def test_sound_and_flashes_stay_together(engine, driver, tmp_path):
    source = encode(tmp_path / "in.mp4", noise(30), Fraction(30000, 1001), sound=clicks([0.2, 0.9], 1.0))
    edit(engine, source, Drivers(driver), tmp_path / "out.mp4")
    assert heard(tmp_path / "out.mp4")[0] == pytest.approx(heard(source)[0], abs=1e-4)


def test_a_clip_without_sound_stays_without(engine, driver, tmp_path):
    edit(engine, encode(tmp_path / "in.mp4", noise(3)), Drivers(driver), tmp_path / "out.mp4")
    assert not probe(tmp_path / "out.mp4").has_audio


def test_a_turned_clip_comes_out_upright(engine, driver, tmp_path):
    source = turn(encode(tmp_path / "in.mp4", corner_frames(3, 96, 64)), (0, 1, -1, 0))
    assert probe(source).rotation == 90
    edit(engine, source, Drivers(driver), tmp_path / "out.mp4")
    info = probe(tmp_path / "out.mp4")
    assert (info.width, info.height, info.rotation) == (64, 96, 0)
    before, after = read_frames(source)[0], read_frames(tmp_path / "out.mp4")[0]
    assert corners(before) == "BRWG"
    for y, x in ((4, 4), (4, -4), (-4, 4), (-4, -4)):
        assert (before[y, x].int() - after[y, x].int()).abs().max() < 12
    assert not torch.equal(before[44:52, 28:36], after[44:52, 28:36])


def test_odd_sizes_get_one_more_row_and_column(engine, driver, tmp_path, caplog):
    frames = noise(3, 65, 49)
    folder = tmp_path / "frames"
    with FrameWriter(folder, 25) as writer:
        writer.write(frames)
    edit(engine, folder, Drivers(driver), tmp_path / "out.mp4")
    assert (probe(tmp_path / "out.mp4").width, probe(tmp_path / "out.mp4").height) == (66, 50)
    assert caplog.text.count("65x49 became 66x50") == 1
    edit(engine, folder, Drivers(driver), tmp_path / "out")
    assert read_frames(tmp_path / "out").shape == frames.shape
    assert caplog.text.count("became") == 1


def test_a_picture_too_small_is_named(engine, driver, tmp_path):
    with FrameWriter(tmp_path / "frames", 25) as writer:
        writer.write(noise(1, 48, 16))
    Image.new("RGB", (48, 8)).save(tmp_path / "frames/000000.png")
    with pytest.raises(FrameError, match=r"frames: .*48x8"):
        edit(engine, tmp_path / "frames", Drivers(driver), tmp_path / "out.mp4")


def test_an_overlay_does_not_lie_where_the_portraits_are_made(tmp_path):
    source = encode(tmp_path / "in.mp4", noise(3))
    with pytest.raises(VideoError, match="partial"):
        crop_clip(source, tmp_path / "out.mp4", CropOptions(), 32, overlay=tmp_path / "out.partial.mp4")


def test_portraits_of_no_reasonable_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match="16 to 8192 px"):
        crop_clip(encode(tmp_path / "in.mp4", noise(3)), tmp_path / "out.mp4", CropOptions(), 20000)


def test_large_frames_go_in_smaller_chunks(engine, driver, tmp_path):
    source = encode(tmp_path / "in.mp4", torch.full((3, 2160, 3840, 3), 90, dtype=torch.uint8), options={})
    sizes = []
    original = FrameWriter.write

    def spy(self, frames, pts=None):
        sizes.append(len(frames))
        return original(self, frames, pts)

    patch = pytest.MonkeyPatch()
    patch.setattr(FrameWriter, "write", spy)
    with patch.context():
        wide = Engine(tiny_checkpoint(), chunk=16)
        assert edit_clip(wide, open_frames(source), Drivers(driver), tmp_path / "out.mp4", EditOptions()).frames == 3
    patch.undo()
    assert sizes == [1, 1, 1]
    assert probe(tmp_path / "out.mp4").width == 3840


@pytest.mark.parametrize(("person", "side"), [("left", slice(0, 48)), ("right", slice(48, 96))])
def test_of_two_people_only_the_chosen_one_changes(engine, driver, tmp_path, monkeypatch, person, side):
    see(monkeypatch, (0.25, 0.5), (0.75, 0.5))
    frames = noise(4, 96, 48)
    with FrameWriter(tmp_path / "in", 25) as writer:
        writer.write(frames)
    crop = EditOptions().crop.__class__(person=person)
    edit(engine, tmp_path / "in", Drivers(driver), tmp_path / "out", crop=crop)
    changed = (read_frames(tmp_path / "out") != frames).any(-1).any(0).any(0)
    assert changed[side].any()
    other = torch.ones(96, dtype=torch.bool)
    other[side] = False
    assert not changed[other].any()


def test_the_portrait_alone(engine, driver, tmp_path):
    source = encode(tmp_path / "in.mp4", noise(4), pts=UNEVEN[:4])
    edit(engine, source, Drivers(driver), tmp_path / "out.mp4", result="portrait")
    info = probe(tmp_path / "out.mp4")
    assert (info.width, info.height) == (16, 16)
    assert times(tmp_path / "out.mp4") == UNEVEN[:4]


def test_frames_in_memory_are_edited_as_from_a_file(engine, driver, tmp_path):
    frames = noise(5)
    with FrameWriter(tmp_path / "in", 25) as writer:
        writer.write(frames)
    edit(engine, tmp_path / "in", Drivers(driver), tmp_path / "a")
    edit_clip(engine, MemoryFrames(frames.float() / 255, Fraction(25)), Drivers(driver), tmp_path / "b", EditOptions())
    assert torch.equal(read_frames(tmp_path / "a"), read_frames(tmp_path / "b"))


def test_a_motion_of_another_model_and_a_shortened_video_are_refused(engine, driver, tmp_path):
    source = encode(tmp_path / "in.mp4", noise(3))
    with pytest.raises(MotionError, match="another checkpoint"):
        edit(engine, source, Drivers(Motion(driver.alpha, "else")), tmp_path / "out.mp4")
    with pytest.raises(MotionError, match="keeps its length"):
        edit(engine, source, Drivers(driver, length="trim"), tmp_path / "out.mp4")
    with pytest.raises(ValueError, match="everything"):
        EditOptions(result="everything")


class Unread(MemoryFrames):
    """A clip at which nobody may look."""

    def _pictures(self, start, stop):
        raise AssertionError("a frame was read")


def test_what_cannot_work_is_known_before_the_clip_is_looked_through(engine, driver, tmp_path):
    clip = Unread(torch.zeros(6, 32, 32, 3), Fraction(25))
    other = tmp_path / "other.safetensors"
    Motion(driver.alpha, "else").save(other)
    for drivers, message in (
        (Drivers(Motion(driver.alpha, "else")), "another checkpoint"),
        (Drivers(other), "another checkpoint"),
        (Drivers(driver, mode="relative", reference=40), "reference frame"),
    ):
        with pytest.raises(MotionError, match=message):
            edit_clip(engine, clip, drivers, tmp_path / "out.mp4", EditOptions())
    for person, mask in (("mask", None), ("mask", torch.zeros(4, 8, 8)), ("anybody", None)):
        with pytest.raises(ValueError, match=person):
            crop = CropOptions(person=person, mask=mask)
            edit_clip(engine, clip, Drivers(driver), tmp_path / "out.mp4", EditOptions(crop))


@pytest.mark.parametrize("overlap", [0, 2])
def test_a_failing_encoder_is_reported_and_leaves_no_result(engine, driver, tmp_path, monkeypatch, overlap):
    source = encode(tmp_path / "in.mp4", noise(40))
    written = []
    original = FrameWriter.write

    def broken(self, frames, pts=None):
        written.append(len(frames))
        if len(written) == 3:
            raise VideoError("disk full")
        return original(self, frames, pts)

    monkeypatch.setattr(FrameWriter, "write", broken)
    with pytest.raises(VideoError, match="disk full"):
        edit(engine, source, Drivers(driver), tmp_path / "out.mp4", overlap=overlap)
    assert len(written) == 3
    assert not (tmp_path / "out.mp4").exists()
    assert not [t for t in threading.enumerate() if t.name.startswith("dpe-")]


def test_an_interruption_stops_everything(driver, tmp_path):
    source = encode(tmp_path / "in.mp4", noise(60))
    asked = []

    def check():
        asked.append(1)
        if len(asked) == 5:
            raise KeyboardInterrupt

    engine = Engine(tiny_checkpoint(), chunk=4)
    engine.services = type(engine.services)(check_interrupt=check)
    with pytest.raises(KeyboardInterrupt):
        edit(engine, source, Drivers(driver), tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
    assert not [t for t in threading.enumerate() if t.name.startswith("dpe-")]


KILLED = """
import sys, torch
from pathlib import Path
from tests.unit.test_jobs_video import edit
from tests.unit.tiny import Faces, tiny_checkpoint
from dpe_model.engine import Engine
from dpe_model.jobs import Drivers, portraits
from dpe_model.motion import Motion
portraits.load_detector = lambda *a, **k: Faces((0.5, 0.5))
folder = Path(sys.argv[1])
edit(Engine(tiny_checkpoint()), folder / "in.mp4", Drivers(Motion(torch.zeros(3, 3), "tiny")), folder / "out.mp4")
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_job_leaves_nothing_under_the_result_s_name(tmp_path):
    encode(tmp_path / "in.mp4", noise(20).repeat(30, 1, 1, 1))
    root = Path(__file__).resolve().parents[2]
    job = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    partial = tmp_path / "out.partial.mp4"
    while job.poll() is None and not (partial.exists() and partial.stat().st_size > 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert job.poll() is None, "the job ended before it could be killed"
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(("matrix", "value_range"), [(5, 1), (1, 1), (6, 1), (1, 2)])
def test_colour_tags_are_kept(engine, driver, tmp_path, matrix, value_range):
    frames = corner_frames(3, 64, 48)
    source = encode(tmp_path / "in.mp4", frames, colour=(matrix, value_range))
    edit(engine, source, Drivers(driver), tmp_path / "out.mp4")
    for path in (source, tmp_path / "out.mp4"):
        with av.open(str(path)) as container:
            context = container.streams.video[0].codec_context
            assert (context.colorspace, context.color_range) == (matrix, value_range)
    before, after = read_frames(source).int(), read_frames(tmp_path / "out.mp4").int()
    assert (before[:, :8, :16] - after[:, :8, :16]).abs().float().mean() < 1


def test_pixels_that_are_not_square_stay_so_and_are_named(engine, driver, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("dpe_model.jobs.portraits.load_detector", lambda *a, **k: Faces(radius=1 / 5))
    path = tmp_path / "in.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for picture in noise(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")))
        container.mux(stream.encode(None))
    assert probe(path).pixel_aspect == Fraction(4, 3)
    edit(engine, path, Drivers(driver), tmp_path / "out.mp4")
    assert caplog.text.count("its pixels are not square") == 1
    assert probe(tmp_path / "out.mp4").pixel_aspect == Fraction(4, 3)
    assert len(source_clock(open_frames(path))) == 3
    caplog.clear()
    crop_clip(path, tmp_path / "crop.mp4", CropOptions(), 32, overlay=tmp_path / "overlay.mp4")
    assert caplog.text.count("its pixels are not square") == 1
    for name in ("crop", "overlay"):
        assert probe(tmp_path / f"{name}.mp4").pixel_aspect == Fraction(4, 3)
    caplog.clear()
    open_portraits(open_frames(path), "face", CropOptions(), 32, Silent(), "source")
    assert caplog.text.count("its pixels are not square") == 1


@pytest.mark.skipif(not return_free_memory(), reason="another C library than glibc")
def test_freed_memory_is_handed_back():
    def held() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    blocks = [np.ones(16 * 1024, dtype=np.uint8) for _ in range(6400)]  # 100 MB in blocks that the heap holds
    kept = blocks[::640]
    full = held()
    del blocks
    assert return_free_memory()
    assert held() < full - 60
    assert len(kept) == 10


def test_cut_out_portraits_and_the_overlay_keep_uneven_time_stamps(tmp_path, monkeypatch):
    monkeypatch.setattr("dpe_model.jobs.portraits.load_detector", lambda *a, **k: Faces(radius=1 / 5))
    source = encode(tmp_path / "in.mp4", noise(8), pts=UNEVEN)
    assert crop_clip(source, tmp_path / "out.mp4", CropOptions(), 32, overlay=tmp_path / "overlay.mp4") == 8
    assert times(tmp_path / "out.mp4") == times(tmp_path / "overlay.mp4") == UNEVEN


def test_a_bad_encoding_is_known_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("dpe_model.jobs.setup.ModelOptions.engine", lambda self: pytest.fail("work was begun"))
    source = encode(tmp_path / "in.mp4", clip(3, 32))
    for encoding in (VideoEncoding(codec="nonsense"), VideoEncoding(crf=-1), VideoEncoding(pix_fmt="rgb24")):
        with pytest.raises(VideoError):
            drive(DriveJob(source, Drivers(source), tmp_path / "out.mp4", encoding=encoding))
    assert not list(tmp_path.glob("out*"))


def test_the_encoding_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("dpe_model.jobs.setup.ModelOptions.engine", lambda self: Engine(tiny_checkpoint()))
    source, sizes = encode(tmp_path / "in.mp4", clip(20, 32)), []
    for crf in (0, 40):
        encoding = VideoEncoding(crf=crf, pix_fmt="yuv444p")
        drive(DriveJob(source, Drivers(source), tmp_path / f"{crf}.mp4", crop="none", encoding=encoding))
        with av.open(str(tmp_path / f"{crf}.mp4")) as container:
            assert container.streams.video[0].codec_context.pix_fmt == "yuv444p"
        sizes.append((tmp_path / f"{crf}.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]


@pytest.mark.parametrize("fps", [Fraction(29.97), Fraction(23.976), Fraction(30000 / 1001)])
def test_frames_in_memory_at_a_rate_that_was_a_decimal_number(engine, driver, tmp_path, fps):
    source = MemoryFrames(noise(4), fps)
    done = edit_clip(engine, source, Drivers(driver), tmp_path / "out.mp4", EditOptions())
    assert done.frames == 4
    assert abs(probe(tmp_path / "out.mp4").fps - fps) < 1e-3


def test_a_person_of_the_source_is_not_looked_for_in_a_driver():
    options = CropOptions(person="index", person_index=3)
    assert options.of_driver().person == "largest"


def test_the_detector_runs_beside_the_model(driver, tmp_path, monkeypatch):
    asked = []

    def load(name, device, **options):
        asked.append(device)
        return Faces((0.5, 0.5), radius=1 / 5)

    monkeypatch.setattr("dpe_model.jobs.portraits.load_detector", load)
    engine = Engine(tiny_checkpoint())
    source = open_frames(encode(tmp_path / "in.mp4", noise(3)))
    engine.device = torch.device("cuda:1")  # looked at before anything is computed there
    three = Motion(driver.alpha[:3], driver.checkpoint, driver.fps)
    monkeypatch.setattr(Engine, "measure", lambda self, chunks, *rest: three)
    measure_clip(engine, source, "face", CropOptions(), Silent())
    measure_clip(engine, source, "face", CropOptions(device="cpu"), Silent())
    assert asked == ["cuda:1", "cpu"]


def test_pictures_at_the_rate_asked_for(driver, tmp_path, monkeypatch):
    monkeypatch.setattr("dpe_model.jobs.setup.ModelOptions.engine", lambda self: Engine(tiny_checkpoint()))
    with FrameWriter(tmp_path / "folder", 25) as writer:
        writer.write(noise(6, 48, 48))
    fps = Fraction(30000, 1001)
    job = DriveJob(tmp_path / "folder", Drivers(driver), tmp_path / "out.mp4", crop="none", picture_fps=fps)
    assert drive(job) == 6
    assert times(tmp_path / "out.mp4") == [i / fps for i in range(6)]
    still = tmp_path / "still.png"
    (tmp_path / "folder").glob("*.png").__next__().rename(still)
    drive(DriveJob(still, Drivers(tmp_path / "folder"), tmp_path / "still.mp4", crop="none", picture_fps=fps))
    assert (probe(tmp_path / "still.mp4").fps, probe(tmp_path / "still.mp4").frames) == (fps, 5)
    video = EditVideoJob(
        tmp_path / "folder", Drivers(driver), tmp_path / "edited.mp4", options=EditOptions(picture_fps=fps)
    )
    assert edit_video(video) == 5
    assert probe(tmp_path / "edited.mp4").fps == fps
    assert crop_clip(tmp_path / "folder", tmp_path / "crop.mp4", CropOptions(), 32, picture_fps=fps) == 5
    assert probe(tmp_path / "crop.mp4").fps == fps


def shown_until(path: Path) -> Fraction | None:
    source = open_frames(path)
    list(source.chunks(8))
    return source.end_time()


def test_a_last_frame_that_is_held_is_held_in_the_result(engine, driver, tmp_path, monkeypatch):
    monkeypatch.setattr("dpe_model.jobs.portraits.load_detector", lambda *a, **k: Faces(radius=1 / 5))
    monkeypatch.setattr("dpe_model.jobs.setup.ModelOptions.engine", lambda self: engine)
    pts = [Fraction(i, 10) for i in range(6)]
    source = remux(encode(tmp_path / "a.mkv", noise(6, 48, 48), pts=pts), tmp_path / "in.mkv", Fraction(1))
    assert shown_until(source) == Fraction(3, 2)
    edit(engine, source, Drivers(driver), tmp_path / "edited.mp4")
    crop_clip(source, tmp_path / "cropped.mp4", CropOptions(), 32)
    drive(DriveJob(source, Drivers(driver), tmp_path / "driven.mp4", crop="none"))
    for name in ("edited", "cropped", "driven"):
        assert shown_until(tmp_path / f"{name}.mp4") == Fraction(3, 2), name
    short = Motion(driver.alpha[:3], driver.checkpoint, 10.0)
    drive(DriveJob(source, Drivers(short, length="trim"), tmp_path / "trimmed.mp4", crop="none"))
    assert probe(tmp_path / "trimmed.mp4").duration < Fraction(1, 2)


def test_a_constant_rate_in_milliseconds_becomes_exact(engine, driver, tmp_path):
    source = encode(tmp_path / "in.mkv", noise(13), 60)
    edit(engine, source, Drivers(driver), tmp_path / "out.mp4")
    assert times(tmp_path / "out.mp4") == [Fraction(i, 60) for i in range(13)]
    assert probe(tmp_path / "out.mp4").fps == 60
    driven_by = encode(tmp_path / "driver.mkv", clip(8, 32), 60)
    assert measure_clip(engine, open_frames(driven_by), "none", EditOptions().crop, Silent()).times is None


def test_a_picture_of_a_moving_result_is_refused_before_drivers_are_measured(engine, driver, tmp_path, monkeypatch):
    monkeypatch.setattr("dpe_model.jobs.setup.ModelOptions.engine", lambda self: engine)
    monkeypatch.setattr(Engine, "measure", lambda *a: pytest.fail("a driver was measured"))
    moving = encode(tmp_path / "moving.mp4", clip(3, 32))
    with FrameWriter(tmp_path / "still.png", 25) as writer:
        writer.write(clip(1, 32))
    for source, drivers in (
        (tmp_path / "still.png", Drivers(moving)),
        (tmp_path / "still.png", Drivers(driver)),
        (moving, Drivers(tmp_path / "still.png")),
    ):
        with pytest.raises(VideoError, match="holds one picture"):
            drive(DriveJob(source, drivers, tmp_path / "out.png", crop="none"))


def test_results_carry_the_clip_s_timecode_and_date(tmp_path):
    source = encode(tmp_path / "in.mp4", noise(3))
    info = replace(probe(source), timecode="10:00:00:00", created="2024-01-02T03:04:05.000000Z")
    with VideoEncoding().clip_writer(tmp_path / "out.mp4", info, [source]) as writer:
        write_timed(writer, noise(3), times(source))
    written = probe(tmp_path / "out.mp4")
    assert (written.timecode, written.created) == (info.timecode, info.created)
