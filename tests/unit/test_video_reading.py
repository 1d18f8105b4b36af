"""Reading: what a clip is, its frames, its clock, its turn, its colours; and what cannot be read."""

from __future__ import annotations

import io
import logging
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from dpe_model.errors import FrameError, VideoError
from dpe_model.video import MemoryFrames, Section, open_frames, probe, read_frames, reader
from dpe_model.video.pixels import Colour

from .video_samples import (
    CHART,
    chart_frame,
    clicks,
    corner_frames,
    corners,
    counted_frames,
    encode,
    numbers,
    remux,
    turn,
    without_elements,
)


def test_probe_tells_size_rate_count_and_sound(tmp_path: Path) -> None:
    clip = encode(tmp_path / "a.mp4", corner_frames(9), Fraction(30000, 1001), sound=clicks([0.1], 0.3))
    info = probe(clip)
    assert (info.width, info.height, info.fps, info.frames) == (64, 32, Fraction(30000, 1001), 9)
    assert (info.has_audio, info.rotation, info.kind, info.start) == (True, 0, "video", 0)
    assert info.duration == 9 * Fraction(1001, 30000)


def test_chunks_have_the_asked_size_and_can_be_read_again(tmp_path: Path) -> None:
    source = open_frames(encode(tmp_path / "a.mp4", counted_frames(11)))
    for _ in range(2):
        chunks = list(source.chunks(4))
        assert [len(c) for c in chunks] == [4, 4, 3]
        assert chunks[0].dtype == torch.uint8 and chunks[0].shape[1:] == (32, 32, 3)
        assert numbers(torch.cat(chunks)) == list(range(11))


def test_start_and_stop_choose_exact_frames(tmp_path: Path) -> None:
    source = open_frames(encode(tmp_path / "a.mp4", counted_frames(30), gop=10))
    assert numbers(torch.cat(list(source.chunks(4, start=13, stop=22)))) == list(range(13, 22))
    assert list(source.chunks(4, start=5, stop=5)) == []
    with pytest.raises(VideoError, match="start <= stop"):
        next(source.chunks(4, start=5, stop=4))


def test_the_first_chunk_does_not_decode_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_frames(encode(tmp_path / "a.mp4", counted_frames(60), gop=10))
    converted = []
    convert = reader.to_rgb
    monkeypatch.setattr(reader, "to_rgb", lambda *a: converted.append(1) or convert(*a))
    chunks = source.chunks(4)
    next(chunks)
    assert len(converted) == 4
    chunks.close()


def test_frames_are_counted_where_the_container_does_not_know(tmp_path: Path) -> None:
    source = open_frames(encode(tmp_path / "a.mkv", counted_frames(17)))
    assert source.info.frames is None
    assert source.count_frames() == len(source) == 17


def test_time_stamps_of_uneven_clips_survive(tmp_path: Path) -> None:
    pts = [Fraction(t, 1000) for t in (0, 33, 66, 200, 250, 600)]
    source = open_frames(encode(tmp_path / "a.mp4", counted_frames(6), 30, pts=pts))
    timed = list(source.timed_chunks(4))
    assert [len(times) for _, times in timed] == [4, 2]
    assert [t for _, times in timed for t in times] == pts


@pytest.mark.parametrize(
    ("matrix", "rotation", "mirrored", "upright"),
    [
        ((1, 0, 0, 1), 0, False, "RGBW"),
        ((0, 1, -1, 0), 90, False, "BRWG"),
        ((-1, 0, 0, -1), 180, False, "WBGR"),
        ((0, -1, 1, 0), 270, False, "GWRB"),
        ((-1, 0, 0, 1), 0, True, "GRWB"),
        ((1, 0, 0, -1), 180, True, "BWRG"),
        ((0, 1, 1, 0), 270, True, "RBGW"),
        ((0, -1, -1, 0), 90, True, "WGBR"),
    ],
)
def test_stored_pictures_are_turned_upright(
    tmp_path: Path, matrix: tuple[int, int, int, int], rotation: int, mirrored: bool, upright: str
) -> None:
    source = open_frames(turn(encode(tmp_path / "a.mp4", corner_frames(3)), matrix))
    info = source.info
    assert (info.rotation, info.mirrored) == (rotation, mirrored)
    assert (info.width, info.height) == ((32, 64) if matrix[0] == 0 else (64, 32))
    frames = next(source.chunks(3))
    assert frames.shape == (3, info.height, info.width, 3)
    assert corners(frames[0]) == upright


@pytest.mark.parametrize("matrix", [1, 5, 6], ids=["bt709", "bt470bg", "smpte170m"])
@pytest.mark.parametrize("value_range", [1, 2], ids=["limited", "full"])
def test_colours_follow_the_tags_of_the_stream(tmp_path: Path, matrix: int, value_range: int) -> None:
    clip = encode(tmp_path / "a.mp4", chart_frame().expand(2, -1, -1, -1), colour=(matrix, value_range))
    frame = read_frames(clip)[0]
    for i, colour in enumerate(CHART):
        seen = frame[64, 16 * i + 8].int()
        assert int((seen - torch.tensor(colour)).abs().max()) <= 4, (i, seen)


def test_untagged_pictures_are_bt709_when_large_and_bt601_when_small(tmp_path: Path) -> None:
    green = {}
    for side in (128, 720):
        luma = np.full((side * 3 // 2, side), 128, np.uint8)
        luma[:side] = 145  # limited-range BT.601 green is (145, 54, 34)
        luma[side : side + side // 4], luma[side + side // 4 :] = 54, 34
        path = tmp_path / f"{side}.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "0"})
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(luma, format="yuv420p")))
            container.mux(stream.encode(None))
        green[side] = read_frames(path)[0, side // 2, side // 2].tolist()
    assert np.abs(np.array(green[128]) - (0, 255, 0)).max() <= 3
    assert np.abs(np.array(green[720]) - (0, 217, 0)).max() <= 12
    assert np.abs(np.array(green[128]) - np.array(green[720])).max() > 5


def test_reading_too_much_into_memory_is_refused_with_a_way_out(tmp_path: Path) -> None:
    clip = encode(tmp_path / "a.mp4", counted_frames(20))
    assert numbers(read_frames(clip, limit=5)) == [0, 1, 2, 3, 4]
    assert len(read_frames(clip, max_bytes=20 * 32 * 32 * 3)) == 20
    with pytest.raises(VideoError, match=r"20 frames of 32x32 .*chunks.*max_bytes"):
        read_frames(clip, max_bytes=20 * 32 * 32 * 3 - 1)
    with pytest.raises(VideoError, match="at least 1"):
        read_frames(clip, limit=0)


def picture(path: Path, mode: str) -> Path:
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    rgb.convert(mode).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.png", "RGB"), ("a.png", "RGBA"), ("a.png", "L"), ("a.png", "LA"), ("a.png", "P"), ("a.png", "1"),
     ("a.bmp", "RGB"), ("a.tif", "RGB"), ("a.TIFF", "CMYK"), ("a.webp", "RGB"), ("a.JPG", "L")],
)  # fmt: skip
def test_pictures_of_all_modes_become_rgb(tmp_path: Path, name: str, mode: str) -> None:
    path = picture(tmp_path / name, mode)
    source = open_frames(path)
    assert (source.info.kind, source.info.frames, source.info.has_audio) == ("picture", 1, False)
    frames = next(source.chunks(8))
    assert frames.shape == (1, 20, 24, 3) and frames.dtype == torch.uint8
    expected = np.asarray(Image.open(path).convert("RGB"))
    assert np.array_equal(frames[0].numpy(), expected)


def test_deep_grey_pictures_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 24 * 20).reshape(20, 24)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray((ramp / 65535).astype(np.float32)).save(tmp_path / "float.tiff")
    expected = torch.from_numpy(ramp / 257).round().int()
    for name in ("deep.png", "float.tiff"):
        grey = read_frames(tmp_path / name)[0, :, :, 1].int()
        assert int((grey - expected).abs().max()) <= 1, name


def test_pictures_are_turned_as_exif_says(tmp_path: Path) -> None:
    image = Image.fromarray(corner_frames(1)[0].numpy())
    exif = Image.Exif()
    exif[0x0112] = 6  # show turned 90 degrees clockwise
    image.save(tmp_path / "phone.jpg", exif=exif, quality=95)
    source = open_frames(tmp_path / "phone.jpg")
    assert (source.info.width, source.info.height) == (32, 64)
    assert corners(next(source.chunks(1))[0]) == "BRWG"


def test_folders_are_read_in_counting_order(tmp_path: Path) -> None:
    frames = counted_frames(12)
    for i, frame in enumerate(frames):
        Image.fromarray(frame.numpy()).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "._frame3.png").write_bytes(b"left by another system")
    source = open_frames(tmp_path)
    assert (source.info.kind, len(source)) == ("folder", 12)
    assert numbers(torch.cat(list(source.chunks(5)))) == list(range(12))
    assert numbers(torch.cat(list(source.chunks(5, start=3, stop=11)))) == list(range(3, 11))


def test_a_folder_of_two_sizes_names_the_odd_one(tmp_path: Path) -> None:
    for i, side in enumerate((32, 32, 40)):
        Image.new("RGB", (side, 32)).save(tmp_path / f"{i}.png")
    with pytest.raises(VideoError, match=r"2\.png with 40x32"):
        open_frames(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.mp4", None, r"gone\.mp4.*found nothing"),
        ("text.mp4", b"this is a text file, whatever its name", r"text\.mp4: opening failed.*no video"),
        ("empty.mp4", b"", r"empty\.mp4: opening failed"),
        ("text.png", b"not a picture", r"text\.png.*picture"),
        ("folder", "folder", r"folder.*found none"),
    ],
)
def test_what_is_no_clip_is_named(tmp_path: Path, name: str, content: bytes | str | None, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, str):
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoError, match=message):
        open_frames(path)


def write_silence(path: Path, container_format: str) -> Path:
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream("aac", rate=44100)
        stream.codec_context.layout = "mono"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44100
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    return path


def test_a_sound_file_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="expected a video stream, found audio"):
        open_frames(write_silence(tmp_path / "a.m4a", "mp4"))


def test_the_cover_of_a_sound_file_is_no_video(tmp_path: Path) -> None:
    cover = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(cover, "png")
    body = b"\0image/png\0\x03\0" + cover.getvalue()  # an ID3v2.3 tag with one attached picture
    tag = b"APIC" + struct.pack(">IH", len(body), 0) + body
    length = bytes((len(tag) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    sound = write_silence(tmp_path / "a.aac", "adts")
    sound.write_bytes(b"ID3\x03\0\0" + length + tag + sound.read_bytes())
    with av.open(str(sound)) as container:
        assert {s.type for s in container.streams} == {"audio", "video"}
    with pytest.raises(VideoError, match="expected a video stream"):
        open_frames(sound)


def test_a_cut_off_video_gives_its_frames_and_says_how_many(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = torch.randint(0, 256, (40, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clip = encode(tmp_path / "a.mp4", noise, options={"movflags": "+faststart"}, gop=1)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    source = open_frames(clip)
    with caplog.at_level(logging.WARNING):
        count = sum(len(c) for c in source.chunks(8))
        assert sum(len(c) for c in source.chunks(8)) == count
    assert 10 < count < 30
    assert caplog.text.count(f"{count} frames were decoded of 40") == 1
    (notice,) = Section(source, Fraction(0)).notices
    assert f"{count} frames were decoded of 40" in notice


def test_a_video_cut_off_before_its_index_is_an_error(tmp_path: Path) -> None:
    clip = encode(tmp_path / "a.mp4", corner_frames(10))
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"a\.mp4: opening failed.*truncated"):
        open_frames(clip)


def test_damage_in_the_middle_is_passed_over_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = torch.randint(0, 256, (20, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clip = encode(tmp_path / "a.mkv", noise, gop=1)
    with av.open(str(clip)) as container:
        spots = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(clip.read_bytes())
    at, size = spots[7]
    data[at + 12 : at + size] = bytes(size - 12)
    clip.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        count = sum(len(c) for c in open_frames(clip).chunks(8))
    assert count == 19
    assert "19 frames were decoded, 1 packets could not be decoded" in caplog.text


def test_a_video_without_frames_is_an_error(tmp_path: Path) -> None:
    clip = encode(tmp_path / "a.mkv", corner_frames(1))
    with av.open(str(clip)) as container:
        at, size = next((p.pos, p.size) for p in container.demux(video=0) if p.size)
    data = bytearray(clip.read_bytes())
    data[at : at + size + 16] = bytes(size + 16)
    clip.write_bytes(data)
    with pytest.raises(VideoError, match="no frame of it could be decoded"):
        open_frames(clip)


def test_a_chunk_larger_than_the_clip_takes_no_more_room_than_it(tmp_path: Path) -> None:
    (chunk,) = open_frames(encode(tmp_path / "a.mkv", counted_frames(9))).chunks(10**9)
    assert numbers(chunk) == list(range(9))
    assert chunk.untyped_storage().nbytes() == 9 * 32 * 32 * 3


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_time_stamps_are_found_without_decoding(tmp_path: Path, name: str) -> None:
    pts = [Fraction(t, 1000) for t in (0, 20, 70, 103, 193, 233, 273, 288)]
    path = encode(tmp_path / name, counted_frames(8), pts=pts)
    source = open_frames(path)
    found = source.frame_times()
    assert found == pts
    assert found == [t for _, times in open_frames(path).timed_chunks(3) for t in times]


def test_time_stamps_of_pictures_are_those_of_their_rate(tmp_path: Path) -> None:
    for i in range(3):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{i}.png")
    assert open_frames(tmp_path).frame_times() == [Fraction(i, 25) for i in range(3)]


def test_after_a_whole_reading_the_time_stamps_are_those_that_were_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_frames(encode(tmp_path / "a.mp4", counted_frames(20)), read_ahead=2)
    monkeypatch.setattr(source, "_find_times", lambda: pytest.fail("asked the file again"))
    seen = [t for _, times in source.timed_chunks(6) for t in times]
    assert source.frame_times() == seen == [Fraction(i, 25) for i in range(20)]


@pytest.mark.parametrize("ahead", [1, 3])
def test_reading_ahead_gives_the_same_frames(tmp_path: Path, ahead: int) -> None:
    path = encode(tmp_path / "a.mp4", counted_frames(11))
    source = open_frames(path, read_ahead=ahead)
    assert [numbers(c) for c in source.chunks(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert [numbers(c) for c in source.chunks(4, 3, 9)] == [[3, 4, 5, 6], [7, 8]]


def test_a_section_is_a_source_of_its_own(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", counted_frames(25), 25)
    section = Section(open_frames(path), Fraction(1, 5), Fraction(2, 5))
    assert (len(section), section.info.frames, section.info.start) == (10, 10, Fraction(1, 5))
    assert [numbers(c) for c in section.chunks(6)] == [[5, 6, 7, 8, 9, 10], [11, 12, 13, 14]]
    assert [numbers(c) for c in section.chunks(6, 2, 5)] == [[7, 8, 9]]
    assert section.frame_times() == [Fraction(i, 25) for i in range(5, 15)]
    assert len(Section(open_frames(path), Fraction(4, 5))) == 5
    with pytest.raises(VideoError, match=r"from 0\.000 s to 0\.960 s"):
        Section(open_frames(path), Fraction(7))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_frames_in_memory_are_a_source(dtype: torch.dtype) -> None:
    frames = counted_frames(7)
    source = MemoryFrames(frames if dtype == torch.uint8 else frames / 255, Fraction(10))
    assert [numbers(c) for c in source.chunks(4, 1)] == [[1, 2, 3, 4], [5, 6]]
    assert (len(source), source.info.fps, source.info.width) == (7, 10, 32)
    assert source.frame_times()[3] == Fraction(3, 10)


def test_frames_in_memory_with_nan_are_refused_by_their_number() -> None:
    frames = counted_frames(7) / 255
    frames[5, 3, 3] = float("nan")
    chunks = MemoryFrames(frames, Fraction(10), "video").chunks(2)
    assert [len(next(chunks)) for _ in range(2)] == [2, 2]
    with pytest.raises(FrameError, match=r"video: expected finite values, found NaN or infinity at frame 5\."):
        next(chunks)


def test_colours_and_pixel_shape_are_told(tmp_path: Path) -> None:
    assert probe(encode(tmp_path / "a.mp4", chart_frame(), colour=(6, 2))).colour == Colour(6, True, 2, 2)
    assert probe(encode(tmp_path / "b.mp4", chart_frame())).colour == Colour()
    assert probe(tmp_path / "b.mp4").pixel_aspect == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(corner_frames(1)[0].numpy())
    stored.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as picture:
        expected = np.array(ImageOps.exif_transpose(picture))
    found = read_frames(tmp_path / "a.png")[0].numpy()
    assert np.array_equal(found, expected)
    assert (probe(tmp_path / "a.png").height, probe(tmp_path / "a.png").width) == expected.shape[:2]


def test_damaged_exif_data_does_not_spoil_a_picture(tmp_path: Path) -> None:
    Image.fromarray(corner_frames(1)[0].numpy()).save(tmp_path / "a.png", exif=b"Exif\0\0garbage, no TIFF at all")
    assert torch.equal(read_frames(tmp_path / "a.png"), corner_frames(1))
    assert probe(tmp_path / "a.png").width == 64


def test_an_avi_with_gaps_in_time_is_not_called_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its header counts the gaps as frames."""
    path = tmp_path / "gaps.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        for i in (0, 1, 2, 6, 7):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 8
    source = open_frames(path)
    assert len(source) == len(torch.cat(list(source.chunks(4)))) == 5
    assert source.frame_times() == [Fraction(i, 25) for i in (0, 1, 2, 6, 7)]
    assert "damaged" not in caplog.text


@pytest.mark.skipif("libvpx" not in av.codecs_available, reason="this PyAV has no VP8 encoder")
def test_the_rate_of_a_browser_s_recording_is_found_from_its_frames(tmp_path: Path) -> None:
    """It stores neither a rate nor a duration, and times in whole milliseconds."""
    jitter = np.random.default_rng(0).integers(-8, 9, 60)
    jitter[0] = 0
    pts = [Fraction(round(i * 100 / 3) + int(off), 1000) for i, off in enumerate(jitter)]
    path = encode(tmp_path / "a.webm", counted_frames(60), 30, pts=pts, codec="libvpx")
    info = probe(without_elements(path, b"\x23\xe3\x83", b"\x44\x89"))
    assert 28 < info.fps < 32
    assert open_frames(path).frame_times() == pts


@pytest.mark.parametrize("fps", [Fraction(60), Fraction(60000, 1001)])
def test_a_constant_rate_stored_in_milliseconds_is_exact(tmp_path: Path, fps: Fraction) -> None:
    path = encode(tmp_path / "a.mkv", counted_frames(40), fps)
    exact = [i / fps for i in range(40)]
    with av.open(str(path)) as container:
        stored = sorted(p.pts * p.time_base for p in container.demux(video=0) if p.size)
    assert stored != exact
    assert open_frames(path).frame_times() == exact
    source = open_frames(path)
    assert [t for _, times in source.timed_chunks(7) for t in times] == source.frame_times() == exact
    assert [t for _, times in open_frames(path).timed_chunks(7, 3, 12) for t in times] == exact[3:12]
    section = Section(open_frames(path), exact[5])
    assert [t for _, times in section.timed_chunks(7) for t in times] == section.frame_times() == exact[5:]


def test_uneven_times_in_milliseconds_stay(tmp_path: Path) -> None:
    pts = [Fraction(t, 1000) for t in (0, 17, 33, 50, 74, 83, 100)]
    path = encode(tmp_path / "a.mkv", counted_frames(7), 60, pts=pts)
    assert [t for _, times in open_frames(path).timed_chunks(3) for t in times] == pts


def fragmented(path: Path, gop: int) -> Path:
    return encode(path, counted_frames(1).repeat(100, 1, 1, 1), options={"movflags": "frag_keyframe"}, gop=gop)


def test_frames_of_fragments_are_counted(tmp_path: Path) -> None:
    """The header tells those of the first fragment alone."""
    source = open_frames(fragmented(tmp_path / "a.mp4", 10))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].frames == 10
    assert len(source) == 100
    assert len(open_frames(fragmented(tmp_path / "b.mp4", 1))) == 100  # no still picture


def test_frames_that_an_edit_list_leaves_out_do_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = encode(tmp_path / "a.mp4", counted_frames(50), gop=5)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    data[at : at + 4] = struct.pack(">I", 1000)  # the first of its two seconds
    path.write_bytes(data)
    source = open_frames(path)
    count = len(source)
    assert 25 <= count < 30
    assert count == sum(len(frames) for frames in source.chunks(8))
    assert "damaged" not in caplog.text


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_how_long_the_last_frame_is_shown_is_told(tmp_path: Path, name: str) -> None:
    pts = [Fraction(t, 2) for t in range(5)]
    plain = encode(tmp_path / f"plain{name}", counted_frames(5), pts=pts, gop=1)
    source = open_frames(remux(plain, tmp_path / name, Fraction(4)))
    assert source.end_time() is None  # before it was read
    assert len(torch.cat(list(source.chunks(3, stop=5)))) == 5
    assert source.end_time() == 6
    section = Section(source, Fraction(1), Fraction(3))
    assert section.end_time() == 4
    assert Section(source, Fraction(1)).end_time() == 6
    assert Section(source, Fraction(0), Fraction(2)).end_time() is None
    even = open_frames(encode(tmp_path / f"even{name}", counted_frames(5), 30))
    list(even.chunks(8))
    assert even.end_time() is None


def test_what_a_picture_lacks_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    glass = Image.new("RGBA", (16, 16), (200, 100, 50, 0))
    (tmp_path / "folder").mkdir()
    for i in range(3):
        glass.save(tmp_path / "folder" / f"{i}.png")
    read_frames(tmp_path / "folder")
    assert caplog.text.count("its transparency is left out") == 1
    caplog.clear()
    Image.new("RGBA", (16, 16), (200, 100, 50, 255)).save(tmp_path / "opaque.png")
    read_frames(tmp_path / "opaque.png")
    assert not caplog.text


def raw_video(path: Path, codec: str, pix_fmt: str, options: dict[str, str] | None = None) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 64, 64, pix_fmt
        for i in range(3):
            picture = np.zeros((64, 64, 4), np.uint8)
            picture[i % 2 :: 2] = 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format=pix_fmt)))
        container.mux(stream.encode(None))
    return path


def test_transparent_videos_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = open_frames(raw_video(tmp_path / "a.mkv", "ffv1", "yuva420p"))
    for _ in range(2):
        list(source.chunks(8))
    assert caplog.text.count("its transparency is left out") == 1
    caplog.clear()
    list(open_frames(raw_video(tmp_path / "b.mkv", "ffv1", "yuv420p")).chunks(8))
    assert not caplog.text


def test_interlaced_videos_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"flags": "+ildct+ilme", "x264-params": "tff=1"}
    source = open_frames(raw_video(tmp_path / "a.mp4", "libx264", "yuv420p", options))
    for _ in range(2):
        list(source.chunks(8))
    assert caplog.text.count("interlaced video; it is not deinterlaced") == 1


def swapped_profile() -> bytes:
    """An RGB profile whose red and green are swapped, so that nobody can overlook its use."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    entries = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * 20, 12)}
    red, green = entries[b"rXYZ"], entries[b"gXYZ"]
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be")).replace(b"sRGB", b"swap")


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_colour_profiles_are_converted(tmp_path: Path, name: str) -> None:
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    red.save(tmp_path / name, icc_profile=swapped_profile())
    assert np.abs(read_frames(tmp_path / name)[0, 8, 8].numpy().astype(int) - (0, 255, 0)).max() <= 4
    red.save(tmp_path / name, icc_profile=b"no profile at all")
    assert np.abs(read_frames(tmp_path / name)[0, 8, 8].numpy().astype(int) - (255, 0, 0)).max() <= 4


def test_animated_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pictures = [Image.fromarray(frame.numpy()) for frame in counted_frames(4)]
    first, rest = pictures[0], pictures[1:]
    first.save(tmp_path / "a.png", save_all=True, append_images=rest, duration=[100, 100, 100, 1500])
    source = open_frames(tmp_path / "a.png")
    assert (source.info.kind, source.info.fps, len(source)) == ("video", 10, 4)
    assert numbers(torch.cat(list(source.chunks(8)))) == [0, 1, 2, 3]
    assert source.end_time() == Fraction(9, 5)
    assert not caplog.text
    first.save(tmp_path / "a.webp", save_all=True, append_images=rest, duration=100)
    assert len(read_frames(tmp_path / "a.webp")) == 1
    assert "only the first one is used" in caplog.text


def test_the_clock_goes_on_where_recordings_were_joined(tmp_path: Path) -> None:
    pts = [10 + Fraction(i, 25) + Fraction(i % 2, 100) for i in range(30)]
    part = encode(tmp_path / "part.ts", counted_frames(30), pts=pts).read_bytes()
    (tmp_path / "a.ts").write_bytes(part + part)
    source = open_frames(tmp_path / "a.ts")
    found = source.frame_times()
    single = [t - pts[0] for t in pts]
    assert [t - found[0] for t in found] == single + [t + single[-1] + 1 / source.info.fps for t in single]
    assert [t for _, times in source.timed_chunks(8) for t in times] == found
