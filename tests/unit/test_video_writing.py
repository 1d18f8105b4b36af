"""Writing: what comes back from a written file, its tags, clock and sound; and places that cannot be written."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from dpe_model.errors import FrameError, VideoError
from dpe_model.video import FrameWriter, Section, open_frames, probe, read_frames

from .video_samples import (
    CHART,
    RATE,
    chart_frame,
    clicks,
    corner_frames,
    corners,
    counted_frames,
    encode,
    heard,
    numbers,
)

FLASHES = [0.4, 1.0, 1.6]


def vp9_here() -> bool:
    return "libvpx-vp9" in av.codecs_available


needs_vp9 = pytest.mark.skipif(not vp9_here(), reason="this PyAV has no VP9 encoder")
KINDS = ["mp4", "mov", "mkv", pytest.param("webm", marks=needs_vp9)]


@pytest.mark.parametrize("ending", KINDS)
def test_frames_come_back_in_number_size_and_rate(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out.{ending}"
    with FrameWriter(path, 29.97) as writer:
        for chunk in counted_frames(23).split(8):
            writer.write(chunk)
    info = probe(path)
    assert (info.width, info.height) == (32, 32)
    if ending in ("mp4", "mov"):
        assert (info.fps, info.frames, info.duration) == (Fraction(30000, 1001), 23, 23 * Fraction(1001, 30000))
    assert abs(float(info.fps) - 29.97) < 0.01
    assert numbers(read_frames(path)) == list(range(23))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", KINDS)
def test_colours_are_bt709_in_truth_and_in_the_tags(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out.{ending}"
    with FrameWriter(path, 25, crf=4) as writer:
        writer.write(chart_frame())
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    luma = frame.to_ndarray(format="yuv420p")[64, 8:128:16].astype(int)
    weights = np.array([0.2126, 0.7152, 0.0722])  # ITU-R BT.709
    assert np.abs(luma - (16 + 219 * (np.array(CHART) / 255) @ weights)).max() <= 2
    seen = read_frames(path)[0, 64, 8:128:16].int()
    assert int((seen - torch.tensor(CHART)).abs().max()) <= 5


def test_frames_in_0_to_1_are_written_as_the_same_picture(tmp_path: Path) -> None:
    chart = chart_frame()
    for name, frames in (("a.png", chart), ("b.png", chart.float() / 255), ("c.png", (chart.float() / 255)[0])):
        with FrameWriter(tmp_path / name, 25) as writer:
            writer.write(frames)
        assert torch.equal(read_frames(tmp_path / name), chart)


def test_odd_sides_get_one_more_row_or_column_like_the_last(tmp_path: Path) -> None:
    frames = torch.full((3, 33, 47, 3), 60, dtype=torch.uint8)
    frames[:, :, -1] = 200
    with FrameWriter(tmp_path / "even.mp4", 25, crf=4) as writer:
        writer.write(frames)
    back = read_frames(tmp_path / "even.mp4")
    assert back.shape == (3, 34, 48, 3)
    assert (back[:, 10, -2:].int() - 200).abs().max() <= 8
    assert (back[:, -1, :40].int() - 60).abs().max() <= 8
    with FrameWriter(tmp_path / "exact.mp4", 25, pix_fmt="yuv444p") as writer:
        writer.write(frames)
    assert read_frames(tmp_path / "exact.mp4").shape == frames.shape


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_given_time_stamps_are_kept(tmp_path: Path, ending: str) -> None:
    pts = [5 + Fraction(t, 1000) for t in (0, 40, 41, 200, 1000)]
    path = tmp_path / f"out.{ending}"
    with FrameWriter(path, 25, timestamps="given") as writer:
        writer.write(counted_frames(5)[:2], pts[:2])
        writer.write(counted_frames(5)[2:], pts[2:])
    times = [t for _, chunk in open_frames(path).timed_chunks(2) for t in chunk]
    assert times == [t - 5 for t in pts]


def test_time_stamps_must_be_there_and_increase(tmp_path: Path) -> None:
    frame = corner_frames(1)
    with (
        pytest.raises(VideoError, match="increasing"),
        FrameWriter(tmp_path / "a.mp4", 25, timestamps="given") as writer,
    ):
        writer.write(frame, [Fraction(1)])
        writer.write(frame, [Fraction(1)])
    with FrameWriter(tmp_path / "b.mp4", 25, timestamps="given") as writer:
        writer.write(frame, [Fraction(1)])
        with pytest.raises(VideoError, match="one time stamp a frame, got none"):
            writer.write(frame)
    with FrameWriter(tmp_path / "c.mp4", 25) as writer:
        writer.write(frame)
        with pytest.raises(VideoError, match="expected no time stamps"):
            writer.write(frame, [Fraction(1)])


def flashing_clip(path: Path, codec: str = "aac", sound_start: Fraction = Fraction(0)) -> Path:
    """Two seconds of 25 fps whose frames flash white when the sound clicks, `sound_start` considered."""
    frames = torch.full((50, 32, 32, 3), 16, dtype=torch.uint8)
    for time in FLASHES:
        frames[round(time * 25)] = 235
    sound = clicks([t - float(sound_start) for t in FLASHES], 2.3)
    return encode(path, frames, sound=sound, sound_codec=codec, sound_start=sound_start)


def flashes(path: Path) -> list[float]:
    times = []
    for frames, stamps in open_frames(path).timed_chunks(16):
        times += [float(t) for f, t in zip(frames, stamps, strict=True) if f.float().mean() > 128]
    return times


def copy(source: Path, target: Path, start: int = 0, stop: int | None = None, given: bool = False) -> None:
    frames = open_frames(source)
    timestamps = "given" if given else "constant"
    with FrameWriter(target, frames.info.fps, audio_from=source, timestamps=timestamps) as writer:
        for chunk, pts in frames.timed_chunks(16, start, stop):
            writer.write(chunk, pts if given else None)


def sound_codec(path: Path) -> str:
    with av.open(str(path)) as container:
        return container.streams.audio[0].codec_context.name


@pytest.mark.parametrize("late", [Fraction(0), Fraction(3, 10)], ids=["together", "sound later"])
@pytest.mark.parametrize(
    ("source", "codec", "target", "written"),
    [
        ("a.mp4", "aac", "b.mp4", "aac"),
        ("a.mp4", "aac", "b.mkv", "aac"),
        ("a.mkv", "aac", "b.mov", "aac"),
        ("a.mkv", "pcm_s16le", "b.mov", "pcm_s16le"),
        ("a.mkv", "pcm_s16le", "b.mp4", "aac"),
        pytest.param("a.mp4", "aac", "b.webm", "opus", marks=needs_vp9),
    ],
)
def test_sound_stays_with_the_pictures(
    tmp_path: Path, source: str, codec: str, target: str, written: str, late: Fraction
) -> None:
    original, result = flashing_clip(tmp_path / source, codec, late), tmp_path / target
    copy(original, result)
    assert sound_codec(result).removeprefix("lib") == written
    bursts, end = heard(result)
    assert flashes(result) == pytest.approx(FLASHES, abs=1e-3)
    assert bursts == pytest.approx(FLASHES, abs=0.012)
    assert 1.98 <= end <= 2.03  # cut with the pictures, though there was more


@pytest.mark.parametrize(("codec", "target"), [("aac", "b.mp4"), ("pcm_s16le", "b.mp4"), ("pcm_s16le", "b.mov")])
def test_all_sound_tracks_are_kept_and_keep_their_languages(tmp_path: Path, codec: str, target: str) -> None:
    sounds = {"eng": clicks([0.2, 0.7], 1.2), "fra": clicks([0.4], 1.2), "jpn": clicks([0.3, 0.8], 0.9)}
    original = encode(tmp_path / "a.mkv", counted_frames(25), sound=sounds, sound_codec=codec)
    copy(original, tmp_path / target)
    with av.open(str(tmp_path / target)) as container:
        assert [s.metadata["language"] for s in container.streams.audio] == list(sounds)
    found = [heard(tmp_path / target, track) for track in range(3)]
    assert [bursts for bursts, _ in found] == [pytest.approx(t, abs=0.012) for t in ([0.2, 0.7], [0.4], [0.3, 0.8])]
    assert [end for _, end in found] == [pytest.approx(1.0, abs=0.03)] * 2 + [pytest.approx(0.9, abs=0.03)]


@pytest.mark.parametrize("target", ["b.mp4", "b.mkv", pytest.param("b.webm", marks=needs_vp9)])
def test_a_cut_clip_takes_its_own_stretch_of_sound(tmp_path: Path, target: str) -> None:
    original, result = flashing_clip(tmp_path / "a.mp4"), tmp_path / target
    copy(original, result, start=20, stop=45, given=True)
    bursts, end = heard(result)
    assert flashes(result) == pytest.approx([0.2, 0.8], abs=1e-3)
    assert bursts == pytest.approx([0.2, 0.8], abs=0.012)
    assert 0.97 <= end <= 1.03


@pytest.mark.parametrize("given", [False, True], ids=["constant", "given"])
def test_pictures_that_start_after_the_sound_keep_their_distance(tmp_path: Path, given: bool) -> None:
    frames = torch.full((50, 32, 32, 3), 16, dtype=torch.uint8)
    frames[15] = 235
    pts = [Fraction(i, 25) + Fraction(1, 2) for i in range(50)]
    original = encode(tmp_path / "a.mkv", frames, pts=pts, sound=clicks([0.1, 1.1], 2.6))
    assert probe(original).start == Fraction(1, 2)
    copy(original, tmp_path / "b.mp4", given=given)
    assert flashes(tmp_path / "b.mp4") == pytest.approx([0.6], abs=1e-3)
    bursts, end = heard(tmp_path / "b.mp4")
    assert bursts == pytest.approx([0.6], abs=0.012)
    assert end == pytest.approx(2.0, abs=0.03)


def test_sound_packets_are_copied_bit_by_bit(tmp_path: Path) -> None:
    original = flashing_clip(tmp_path / "a.mp4")
    copy(original, tmp_path / "b.mp4")

    def packets(path: Path) -> list[bytes]:
        with av.open(str(path)) as container:
            return [bytes(p) for p in container.demux(audio=0) if p.size]

    copied = packets(tmp_path / "b.mp4")
    assert len(copied) > 80
    assert copied == packets(original)[: len(copied)]


def test_sound_can_come_from_a_sound_file_and_may_be_missing(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "voice.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=44100)
        stream.codec_context.layout = "mono"
        samples = (clicks([0.5], 2) * 32767).astype(np.int16)
        piece = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        piece.sample_rate = 44100
        container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    with FrameWriter(tmp_path / "voiced.mp4", 25, audio_from=tmp_path / "voice.wav") as writer:
        writer.write(corner_frames(25))
    bursts, end = heard(tmp_path / "voiced.mp4")
    assert bursts == pytest.approx([0.5], abs=0.012) and end == pytest.approx(1.0, abs=0.03)
    silent = encode(tmp_path / "silent.mp4", corner_frames(3))
    with FrameWriter(tmp_path / "still silent.mp4", 25, audio_from=silent) as writer:
        writer.write(corner_frames(3))
    assert not probe(tmp_path / "still silent.mp4").has_audio


def test_one_picture_goes_into_a_picture_and_more_do_not(tmp_path: Path) -> None:
    with FrameWriter(tmp_path / "a.jpg", 25) as writer:
        writer.write(corner_frames(1))
    assert corners(read_frames(tmp_path / "a.jpg")[0]) == "RGBW"
    with pytest.raises(VideoError, match=r"one picture, got 2.*\.mp4"), FrameWriter(tmp_path / "b.png", 25) as writer:
        writer.write(corner_frames(2))
    assert [p.name for p in tmp_path.iterdir()] == ["a.jpg"]


@pytest.mark.parametrize("name", ["frames", "frames.v2/"])
def test_a_folder_gets_numbered_pictures(tmp_path: Path, name: str) -> None:
    with FrameWriter(f"{tmp_path}/{name}", 25) as writer:
        writer.write(counted_frames(2))
        writer.write(counted_frames(3)[2:])
    folder = tmp_path / name
    assert sorted(p.name for p in folder.iterdir()) == ["000000.png", "000001.png", "000002.png"]
    assert torch.equal(read_frames(folder), counted_frames(3))
    with pytest.raises(VideoError, match="new or empty"):
        FrameWriter(f"{tmp_path}/{name}", 25)


def test_missing_folders_above_are_made(tmp_path: Path) -> None:
    with FrameWriter(tmp_path / "new" / "er" / "a.png", 25) as writer:
        writer.write(corner_frames(1))
    assert (tmp_path / "new" / "er" / "a.png").is_file()


@pytest.mark.parametrize("name", ["out.mp4", "out.png", "frames"])
def test_a_place_that_cannot_be_written_is_known_before_any_work(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(VideoError, match=r"file.*creating it failed.*Choose a place"):
        FrameWriter(tmp_path / "file" / name, 25)
    with pytest.raises(VideoError, match="creating it failed"):
        FrameWriter.check(tmp_path / "file" / name)


def test_targets_that_make_no_sense_are_named(tmp_path: Path) -> None:
    clip = encode(tmp_path / "a.mp4", corner_frames(3), sound=clicks([0.0], 0.1))
    before = clip.read_bytes()
    (tmp_path / "sub").mkdir()
    for arguments in ({"audio_from": clip}, {"sources": [tmp_path / "b.mp4", clip]}):
        with pytest.raises(VideoError, match=r"replace .*a\.mp4, which is needed"):
            FrameWriter(tmp_path / "sub" / ".." / "a.mp4", 25, **arguments)
    with pytest.raises(VideoError, match=r"cannot tell what to write.*\.mp4"):
        FrameWriter(tmp_path / "out.xyz", 25)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(VideoError, match="this is a folder"):
        FrameWriter(tmp_path / "folder.mp4", 25)
    with pytest.raises(VideoError, match=r"gone\.wav"):
        FrameWriter(tmp_path / "out.mp4", 25, audio_from=tmp_path / "gone.wav")
    with pytest.raises(VideoError, match="no encoder 'nonsense'"):
        FrameWriter(tmp_path / "out.mp4", 25, codec="nonsense")
    with pytest.raises(VideoError, match="frame rate"):
        FrameWriter(tmp_path / "out.mp4", 0)
    with pytest.raises(VideoError, match="crf"):
        FrameWriter(tmp_path / "out.mp4", 25, crf=-1)
    with pytest.raises(VideoError, match="crf of 0 .* to 51 for libx264, got 52"):
        FrameWriter(tmp_path / "out.mp4", 25, crf=52)
    assert clip.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "folder.mp4", "sub"]


def test_frames_must_fit(tmp_path: Path) -> None:
    with FrameWriter(tmp_path / "a.mp4", 25, size=(64, 32)) as writer:
        with pytest.raises(VideoError, match="expected frames of 64x32, got 32x64"):
            writer.write(corner_frames(1, 32, 64))
        with pytest.raises(FrameError):
            writer.write(torch.zeros(0, 32, 64, 3))
        writer.write(corner_frames(1))
    with pytest.raises(VideoError, match="closed"):
        writer.write(corner_frames(1))


def test_nothing_written_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.png", "a"):
        with pytest.raises(VideoError, match="no frame was written"), FrameWriter(tmp_path / name, 25):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out"])
def test_a_failure_keeps_the_target_and_what_was_written(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / name
    if target.suffix:
        target.write_bytes(b"the result of yesterday")
    with caplog.at_level(logging.WARNING), pytest.raises(RuntimeError), FrameWriter(target, 25) as writer:
        writer.write(counted_frames(12))
        raise RuntimeError("out of memory")
    partial = target.with_name(f"out.partial{target.suffix}")
    assert numbers(read_frames(partial)) == list(range(12))
    assert "12 frames" in caplog.text and partial.name in caplog.text
    assert target.read_bytes() == b"the result of yesterday" if target.suffix else not target.exists()
    FrameWriter.check(target)
    assert len(read_frames(partial)) == 12  # a mere check destroys nothing
    with FrameWriter(target, 25) as writer:
        writer.write(counted_frames(5))
    assert len(read_frames(target)) == 5 and not partial.exists()


def test_other_files_in_the_way_are_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "out.partial" / "holiday.png")
    with pytest.raises(VideoError, match=r"holiday\.png"):
        FrameWriter(tmp_path / "out", 25)
    assert (tmp_path / "out.partial" / "holiday.png").exists()


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "a.partial.mkv").symlink_to(full)
    noise = torch.randint(0, 256, (60, 256, 256, 3), dtype=torch.uint8)
    with (
        pytest.raises(VideoError, match=r"a\.mkv.*No space left.*free space"),
        FrameWriter(tmp_path / "a.mkv", 25, crf=1) as writer,
    ):
        writer.write(noise)


@pytest.mark.parametrize(("target", "source"), [("k.mp4", "k.partial.mp4"), ("frames", "frames.partial")])
def test_a_source_is_not_where_the_unfinished_result_goes(tmp_path: Path, target: str, source: str) -> None:
    with FrameWriter(tmp_path / target, 25) as writer:
        writer.write(corner_frames(2))
    (tmp_path / target).rename(tmp_path / source)
    with pytest.raises(VideoError, match="is needed"):
        FrameWriter(tmp_path / target, 25, sources=[tmp_path / source])
    assert len(read_frames(tmp_path / source)) == 2


def test_a_name_that_looks_like_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    encode(tmp_path / "in.mp4", corner_frames(4), sound=clicks([0.0], 0.1)).rename("scene:1.mp4")
    with FrameWriter("scene:2.mp4", 25, audio_from="scene:1.mp4") as writer:
        writer.write(read_frames("scene:1.mp4"))
    assert len(read_frames("scene:2.mp4")) == 4


def test_a_pixel_format_that_the_encoder_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"libx264 takes no pixel format rgb24.*yuv420p"):
        FrameWriter(tmp_path / "out.mp4", 25, pix_fmt="rgb24")


def test_an_encoder_that_does_not_go_into_the_file_is_known_at_once(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"libx264 in yuv420p does not go into webm files"):
        FrameWriter(tmp_path / "out.webm", 25, codec="libx264")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ending", "codec", "pix_fmt", "off"),
    [
        ("mp4", "libx264rgb", "rgb24", 0.01), ("mov", "png", "rgb24", 0.01), ("mkv", "ffv1", "bgr0", 0.01),
        ("webm", "libvpx", "yuv420p", 1.5), ("mkv", "mjpeg", "yuvj420p", 2.0), ("mp4", "mpeg4", "yuv420p", 1.5),
    ],
)  # fmt: skip
@pytest.mark.parametrize("given", [False, True])
def test_other_encoders_keep_the_colours(
    tmp_path: Path, ending: str, codec: str, pix_fmt: str, off: float, given: bool
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    across, down = torch.meshgrid(torch.linspace(0, 240, 64), torch.linspace(0, 240, 96), indexing="ij")
    frames = torch.stack((across, down, torch.full_like(down, 120.0)), -1).round().to(torch.uint8).expand(3, -1, -1, -1)
    path = tmp_path / f"out.{ending}"
    crf = None if codec in ("png", "ffv1", "mjpeg", "mpeg4") else 0 if codec == "libx264rgb" else 4
    times = "given" if given else "constant"
    with FrameWriter(path, 25, codec=codec, pix_fmt=pix_fmt, crf=crf, timestamps=times) as writer:
        writer.write(frames, [Fraction(i, 25) for i in range(3)] if given else None)
    found = read_frames(path)
    assert len(found) == 3
    assert (found.float() - frames.float()).abs().mean() < off


def broadcast(path: Path, layout: str, start: int) -> bytes:
    """A second of MPEG transport stream, `start` seconds into a broadcast."""
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("libx264", rate=25), container.add_stream("mp2", rate=48000)
        video.width, video.height, video.pix_fmt = 64, 32, "yuv420p"
        sound.codec_context.layout = layout
        for i, picture in enumerate(corner_frames(25)):
            frame = av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")
            frame.pts = start * 25 + i
            container.mux(video.encode(frame))
        for at in range(0, 48000 - 1152, 1152):
            silence = np.zeros((1, 1152 * (1 if layout == "mono" else 2)), np.int16)
            piece = av.AudioFrame.from_ndarray(silence, format="s16", layout=layout)
            piece.sample_rate, piece.pts = 48000, start * 48000 + at
            container.mux(sound.encode(piece))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return path.read_bytes()


def test_sound_that_changes_from_mono_to_stereo_goes_on(tmp_path: Path) -> None:
    """As broadcasts do, whose codec an MP4 does not take as it is."""
    parts = [broadcast(tmp_path / f"{n}.ts", layout, n) for n, layout in enumerate(("mono", "stereo"))]
    (tmp_path / "in.ts").write_bytes(b"".join(parts))
    source = open_frames(tmp_path / "in.ts")
    with FrameWriter(tmp_path / "out.mp4", 25, audio_from=tmp_path / "in.ts", timestamps="given") as writer:
        for frames, times in source.timed_chunks(8):
            writer.write(frames, times)
    assert len(read_frames(tmp_path / "out.mp4")) == 50
    with av.open(str(tmp_path / "out.mp4")) as container:
        # The two parts overlap by 0.08 s.
        assert sum(frame.samples for frame in container.decode(audio=0)) > 1.85 * 48000


@pytest.mark.parametrize(("layout", "kept"), [("5.1", 6), ("5.1(side)", 6), ("7.1", 6), ("4.0", 2)])
@pytest.mark.parametrize("ending", ["mp4", pytest.param("webm", marks=needs_vp9)])
def test_surround_sound_that_is_encoded_again_stays_surround(
    tmp_path: Path, layout: str, kept: int, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    rate, channels = 48000, av.AudioLayout(layout).nb_channels
    pitches = [300 + 150 * n for n in range(channels)]
    tones = np.stack([np.sin(2 * np.pi * pitch * np.arange(rate) / rate) / 4 for pitch in pitches])
    low = [n for n, channel in enumerate(av.AudioLayout(layout).channels) if channel.name == "LFE"]
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        video, sound = container.add_stream("libx264", rate=25), container.add_stream("pcm_s16le", rate=rate)
        video.width, video.height, video.pix_fmt = 64, 32, "yuv420p"
        sound.codec_context.layout = layout
        for picture in corner_frames(25):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")))
        samples = (tones * 32767).astype(np.int16).T.reshape(1, -1)
        piece = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="s16", layout=layout)
        piece.sample_rate, piece.pts = rate, 0
        container.mux([*sound.encode(piece), *sound.encode(None), *video.encode(None)])
    with FrameWriter(tmp_path / f"out.{ending}", 25, audio_from=tmp_path / "in.mkv") as writer:
        writer.write(read_frames(tmp_path / "in.mkv"))
    with av.open(str(tmp_path / f"out.{ending}")) as container:
        heard_samples = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], 1)
    assert len(heard_samples) == kept
    assert (f"its {channels} channels become" in caplog.text) is (kept != channels)
    if kept == channels:
        middle = heard_samples[:, rate // 4 : rate // 4 + rate // 2]
        loudest = np.abs(np.fft.rfft(middle)).argmax(1) * 2  # bins of 2 Hz
        others = [n for n in range(channels) if n not in low]
        assert [loudest[n] for n in others] == pytest.approx([pitches[n] for n in others], abs=4)


def shown_until(path: Path) -> Fraction | None:
    source = open_frames(path)
    list(source.chunks(8))
    return source.end_time()


@pytest.mark.parametrize(("ending", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("mkv", "ffv1")])
def test_the_last_frame_lasts_as_long_as_told_and_so_does_the_sound(tmp_path: Path, ending: str, codec: str) -> None:
    pts = [Fraction(t, 2) for t in range(5)]
    sound = encode(tmp_path / "a.mkv", counted_frames(5), pts=pts, sound=clicks([0.5, 5.5], 7))
    for until in (None, Fraction(6)):
        path = tmp_path / f"{until}.{ending}"
        with FrameWriter(path, 25, audio_from=sound, timestamps="given", codec=codec) as writer:
            writer.write(counted_frames(5), pts)
            if until is not None:
                writer.end_at(until)
        assert [t for _, times in open_frames(path).timed_chunks(8) for t in times] == pts
        bursts, end = heard(path)
        if until is None:
            assert end < 2.2
        else:
            assert bursts == pytest.approx([0.5, 5.5], abs=0.012) and end == pytest.approx(6, abs=0.03)
            assert shown_until(path) == 6


def test_the_last_frame_of_an_uneven_clip_keeps_its_duration_among_reordered_ones(tmp_path: Path) -> None:
    pts = [Fraction(t, 1000) for t in (0, 20, 70, 103, 193, 233, 273, 288, 400, 411)]
    with FrameWriter(tmp_path / "a.mp4", 25, timestamps="given") as writer:
        writer.write(corner_frames(10), pts)
        writer.end_at(Fraction(3, 4))
    with av.open(str(tmp_path / "a.mp4")) as container:
        stamps = [(p.pts, p.dts) for p in container.demux(video=0) if p.size]
    assert stamps != sorted(stamps), "expected pictures stored in another order than they are shown in"
    assert abs(shown_until(tmp_path / "a.mp4") - Fraction(3, 4)) < Fraction(1, 500)


def with_sound_of(path: Path, codec: str, rate: int = RATE, bit_rate: int = 0) -> Path:
    """A second of pictures with a burst of sound at 0.5 s."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mjpeg", rate=25)
        video.width, video.height, video.pix_fmt = 32, 32, "yuvj420p"
        sound = container.add_stream(codec, rate=rate)
        sound.codec_context.layout = "mono"
        if bit_rate:
            sound.codec_context.bit_rate = bit_rate
        for picture in counted_frames(25):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")))
        container.mux(video.encode(None))
        samples = np.zeros((1, rate), np.float32)
        samples[0, rate // 2 : rate // 2 + rate // 50] = np.sin(np.arange(rate // 50) * 2 * np.pi * 2000 / rate) * 0.8
        piece = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        piece.sample_rate, piece.pts, piece.time_base = rate, 0, Fraction(1, rate)
        container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("codec", ["wmav2", "pcm_mulaw", "pcm_alaw", "adpcm_ms"])
def test_sound_that_matroska_does_not_take_is_encoded_again(tmp_path: Path, codec: str) -> None:
    original = with_sound_of(tmp_path / "a.avi", codec, bit_rate=64000)
    copy(original, tmp_path / "b.mkv")
    assert sound_codec(tmp_path / "b.mkv") == "aac"
    assert heard(tmp_path / "b.mkv")[0] == pytest.approx([0.5], abs=0.05)


@pytest.mark.parametrize(
    ("source", "codec", "rate", "target", "written"),
    [
        ("a.mp4", "libmp3lame", 44100, "b.mp4", "mp3"),
        ("a.mkv", "libmp3lame", 11025, "b.mp4", "aac"),
        ("a.mov", "pcm_s24be", 44100, "b.mov", "pcm_s24be"),
        ("a.mov", "pcm_f32be", 44100, "b.mov", "pcm_f32be"),
    ],
)
def test_sound_is_encoded_again_only_where_it_must(
    tmp_path: Path, source: str, codec: str, rate: int, target: str, written: str
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    original = with_sound_of(tmp_path / source, codec, rate)
    copy(original, tmp_path / target)
    assert sound_codec(tmp_path / target).startswith(written)
    assert heard(tmp_path / target)[0] == pytest.approx(heard(original)[0], abs=0.03)


@pytest.mark.parametrize("codec", ["aac", "mp2"])
def test_sound_goes_on_with_the_pictures_where_recordings_were_joined(tmp_path: Path, codec: str) -> None:
    frames = torch.full((50, 32, 32, 3), 16, dtype=torch.uint8)
    for time in FLASHES:
        frames[round(time * 25)] = 235
    late = [10 + Fraction(i, 25) for i in range(50)]
    part = tmp_path / "part.ts"
    # The sound breaks off early, which must not bring the next part's forward.
    encode(part, frames, pts=late, sound=clicks(FLASHES, 1.8), sound_start=Fraction(10))
    if codec != "aac":
        part = with_mp2(part, tmp_path / "other.ts")
    (tmp_path / "a.ts").write_bytes(part.read_bytes() * 3)
    copy(tmp_path / "a.ts", tmp_path / "b.mp4", given=True)
    seen, (bursts, _) = flashes(tmp_path / "b.mp4"), heard(tmp_path / "b.mp4")
    assert len(seen) == 9
    assert bursts == pytest.approx(seen, abs=0.05)


def with_mp2(path: Path, target: Path) -> Path:
    """The same with sound that an MP4 file does not take."""
    with av.open(str(path)) as before, av.open(str(target), "w") as after:
        pictures, sound = before.streams.video[0], before.streams.audio[0]
        copied, encoded = after.add_stream_from_template(pictures), after.add_stream("mp2", rate=RATE)
        encoded.codec_context.layout = "mono"
        resampler = av.AudioResampler("s16", "mono", RATE, 1152)
        for packet in before.demux(pictures, sound):
            if packet.stream is pictures and packet.size:
                packet.stream = copied
                after.mux(packet)
            elif packet.stream is sound:
                for frame in packet.decode():
                    for piece in resampler.resample(frame):
                        after.mux(encoded.encode(piece))
        after.mux(encoded.encode(None))
    return target


def test_when_a_clip_was_recorded_goes_along(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        container.metadata["creation_time"] = "2024-01-02T03:04:05.000000Z"
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.metadata["timecode"] = "01:02:03:04"
        for picture in corner_frames(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")))
        container.mux(stream.encode(None))
    info = probe(tmp_path / "a.mov")
    assert (info.timecode, info.created) == ("01:02:03:04", "2024-01-02T03:04:05.000000Z")
    assert Section(open_frames(tmp_path / "a.mov"), Fraction(1, 25)).info.timecode is None
    for name in ("b.mov", "b.mp4"):
        with FrameWriter(tmp_path / name, 25, timecode=info.timecode, created=info.created) as writer:
            writer.write(corner_frames(5))
        written = probe(tmp_path / name)
        assert (written.timecode, written.created) == (info.timecode, info.created)
    with FrameWriter(tmp_path / "c.mp4", 25, timecode="no timecode", created="yesterday") as writer:
        writer.write(corner_frames(5))
    assert len(read_frames(tmp_path / "c.mp4")) == 5


@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_hevc_is_tagged_as_players_expect(tmp_path: Path, ending: str) -> None:
    if "libx265" not in av.codecs_available:
        pytest.skip("this PyAV has no HEVC encoder")
    for count in (1, 2, 5):
        path = tmp_path / f"{count}.{ending}"
        with FrameWriter(path, 25, codec="libx265") as writer:
            writer.write(corner_frames(count))
        data = path.read_bytes()
        assert b"hvc1" in data and b"hev1" not in data
        assert open_frames(path).frame_times() == [Fraction(i, 25) for i in range(count)]


def test_a_folder_that_is_there_counts_as_one_whatever_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "frames.v2"
    folder.mkdir()
    with FrameWriter(folder, 25) as writer:
        writer.write(counted_frames(2))
    assert len(read_frames(folder)) == 2


def test_a_damaged_stretch_of_copied_sound_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What turns a broadcast's AAC into an MP4 file's reads each packet's header."""
    path = encode(tmp_path / "a.ts", counted_frames(50), sound=clicks(FLASHES, 2.0))
    content = bytearray(path.read_bytes())
    headers = [i for i in range(len(content) - 1) if content[i] == 0xFF and content[i + 1] in (0xF0, 0xF1)]
    for header in headers[40:42]:
        for i in range(header, header + 7):
            content[i] ^= 0xFF
    path.write_bytes(content)
    copy(path, tmp_path / "b.mp4", given=True)
    assert len(open_frames(tmp_path / "b.mp4")) == 50
    assert heard(tmp_path / "b.mp4")[0] == pytest.approx(FLASHES, abs=0.05)
    assert caplog.text.count("a stretch of its sound is damaged") == 1
