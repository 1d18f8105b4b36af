"""Frames into a video, a picture or a folder of pictures; the target appears only once it is complete."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

import av
import av.error
import numpy as np
from av.container import OutputContainer
from torch import Tensor

from ..errors import VideoError
from ..frames import check_frames, to_uint8
from .access import existing, naming, same_place
from .pictures import write_picture
from .pixels import from_rgb
from .reader import first_time
from .sound import SoundTrack
from .timing import as_fps

logger = logging.getLogger(__name__)

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
PICTURES = frozenset({".png", ".jpg", ".jpeg"})
TIME_BASE = Fraction(1, 360000)
"""For given time stamps: exact for milliseconds, 24, 25 and 30 fps and their 1000/1001 kin."""

_BT709, _LIMITED = 1, 1
_FRAME_NAME = re.compile(r"\d{6,}\.png")
_SPACE_ADVICE = "Check the free space and the permissions of the folder."


class FrameWriter:
    """Writes frames to a file or folder, whose kind the path's ending tells.

    - `.mp4`, `.mov`, `.mkv`: H.264, yuv420p, BT.709 limited range, tagged so; `.webm`: VP9, the same.
      Sides that `pix_fmt` cannot halve get one more row or column, a copy of the last one.
    - `.png`, `.jpg`: exactly one picture.
    - no ending: a folder with 000000.png, 000001.png, ...; it must be new or empty.

    Frames go to `<name>.partial<ending>` beside the target, which takes the target's name when all is written: the
    target is never half a file. When the block is left by an error, frames already written are kept there as a
    playable file and the log names it; without any, nothing is left.

    Use as a context manager::

        with FrameWriter("out.mp4", source.info.fps, audio_from=source.info.path) as writer:
            for frames in source.chunks(16):
                writer.write(frames)

    Args:
        path: the target. Folders missing above it are created.
        fps: frames per second; with given time stamps, the nominal rate, which says how long the last frame lasts.
        size: (width, height) in pixels that frames must have; that of the first frame if None.
        audio_from: a file whose sound goes along, in step with its pictures: copied without re-encoding where the
            container takes the codec, else as AAC (Opus in `.webm`), and cut at the end of the pictures. A file
            without sound is fine. Its pictures' first frame and the first frame written fall together.
        timestamps: "constant": frame i lies at i / fps. "given": `write` gets each frame's time.
        crf: constant rate factor of the encoder, 0 (best) upwards; 18 for H.264 and 28 for VP9 if None.
        codec: FFmpeg's name of the encoder instead of `libx264` or `libvpx-vp9`.
        pix_fmt: pixel format; "yuv444p" keeps the colour of every pixel but plays in fewer players.
        audio_start: seconds after the first frame of `audio_from` at which the first frame written lies, for a
            clip that starts later. Not used with given time stamps, which say it themselves.
        sources: files read while writing, which the target must not be.

    Raises:
        VideoError: before any frame is taken: unknown ending, place that cannot be written, target that is a source,
            encoder not there, sound file missing or unreadable.
    """

    def __init__(
        self,
        path: str | Path,
        fps: Fraction | float | str,
        size: tuple[int, int] | None = None,
        audio_from: str | Path | None = None,
        timestamps: Literal["constant", "given"] = "constant",
        crf: int | None = None,
        codec: str | None = None,
        pix_fmt: str = "yuv420p",
        audio_start: Fraction | float = Fraction(0),
        sources: Sequence[str | Path] = (),
    ) -> None:
        if timestamps not in ("constant", "given"):
            raise VideoError(f'Expected timestamps="constant" or "given", got {timestamps!r}.')
        self.path = self.check(path, *sources, *([audio_from] if audio_from is not None else []))
        """The target."""
        self.frames = 0
        """How many frames were written."""
        self._size = size
        self._given = timestamps == "given"
        partial = _partial(self.path)
        kind = _kind(self.path)
        self._sink: _Sink
        if kind == "folder":
            self._sink = _FolderSink(partial)
        elif kind == "picture":
            self._sink = _PictureSink(partial)
        else:
            sound = _with_sound(existing(audio_from)) if audio_from is not None else None
            self._sink = _VideoSink(
                partial, CONTAINERS[self.path.suffix.lower()], as_fps(fps), codec, crf, pix_fmt, sound,
                None if self._given else Fraction(audio_start),
            )  # fmt: skip
        if kind != "video" and audio_from is not None:
            logger.warning("%s: pictures have no sound; that of %s is left out", self.path, audio_from)
        self._open = True

    @staticmethod
    def check(path: str | Path, *sources: str | Path) -> Path:
        """The target as a path, after making sure that it can be written; creates the folders above it.

        Raises:
            VideoError: unknown ending, place that cannot be written, target that is one of `sources`.
        """
        target = Path(path).expanduser()
        kind = _kind(target)
        for source in sources:
            if same_place(target, Path(source).expanduser()):
                raise VideoError(f"{target}: the result would replace the file it is made from. Choose another name.")
        with naming(target, "creating it", "Choose a place where files can be written."):
            if kind == "folder":
                if target.exists() and (not target.is_dir() or any(target.iterdir())):
                    raise VideoError(
                        f"{target}: a folder for frames must be new or empty, and this is not. Choose another name, "
                        "or an ending such as .mp4 for a video."
                    )
            elif target.is_dir():
                raise VideoError(f"{target}: expected the name of a file to write, this is a folder. Add a file name.")
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = _partial(target)
            if kind == "folder":
                _clear_folder(partial)
                partial.mkdir()
                partial.rmdir()
            else:
                partial.open("wb").close()
                partial.unlink()
        return target

    def write(self, frames: Tensor, pts: Sequence[Fraction] | None = None) -> None:
        """Appends frames.

        Args:
            frames: [N, H, W, 3] or one picture [H, W, 3], RGB, uint8 0..255 or floating point 0..1.
            pts: with given time stamps, one a frame, in seconds, increasing, on the clock of `audio_from`, as
                `FrameSource.timed_chunks` gives them; the first becomes 0.

        Raises:
            VideoError: other size than before, time stamps missing or not increasing, a second frame for a single
                picture, or writing fails (disk full).
            FrameError: no frames, or another layout.
        """
        if not self._open:
            raise VideoError(f"{self.path}: the writer is closed; frames cannot be added. Make a new one.")
        frames = check_frames(frames)
        height, width = frames.shape[1:3]
        self._size = self._size or (width, height)
        if (width, height) != self._size:
            raise VideoError(
                f"{self.path}: expected frames of {self._size[0]}x{self._size[1]}, got {width}x{height} at frame "
                f"{self.frames}. All frames of one file have one size."
            )
        if self._given != (pts is not None) or (pts is not None and len(pts) != len(frames)):
            expected = "one time stamp a frame" if self._given else 'no time stamps (timestamps="constant")'
            raise VideoError(f"{self.path}: expected {expected}, got {len(pts) if pts is not None else 'none'}.")
        for i, frame in enumerate(frames):
            with naming(self.path, f"writing frame {self.frames}", _SPACE_ADVICE):
                self._sink.add(to_uint8(frame).cpu().numpy(), Fraction(pts[i]) if pts is not None else None)
            self.frames += 1

    def close(self) -> None:
        """Completes the file and gives it the target's name.

        Raises:
            VideoError: no frame was written, or completing fails; what there is stays in the partial file.
        """
        if not self._open:
            return
        if self.frames == 0:
            self.abort()
            raise VideoError(f"{self.path}: nothing to save, no frame was written. Check the input.")
        partial = _partial(self.path)
        self._open = False
        try:
            with naming(self.path, "completing it", f"{_SPACE_ADVICE} What was written is in {partial.name}."):
                self._sink.finish()
                if self.path.is_dir():
                    self.path.rmdir()  # empty; a rename does not replace it everywhere
                partial.replace(self.path)
        finally:
            self._sink.close()

    def abort(self) -> None:
        """Gives up: the target stays as it was, frames written so far are kept in `<name>.partial<ending>`."""
        if not self._open:
            return
        self._open = False
        partial = _partial(self.path)
        try:
            if self.frames:
                with naming(partial, "completing it", _SPACE_ADVICE):
                    self._sink.finish()
                logger.warning("%s was not completed; the %d frames written are in %s", self.path, self.frames, partial)
        except VideoError as error:  # the error that made us give up is the one to report
            logger.warning("%s", error)
        finally:
            self._sink.close()
            if not self.frames:
                partial.unlink(missing_ok=True)

    def __enter__(self) -> FrameWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class _Sink(Protocol):
    """Where pictures go, one at a time: `add` them, `finish` once, `close` in any case."""

    def add(self, picture: np.ndarray, time: Fraction | None) -> None: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


class _PictureSink:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = False

    def add(self, picture: np.ndarray, time: Fraction | None) -> None:
        if self._written:
            ending = self._path.suffix
            raise VideoError(
                f"{self._path}: a {ending} file holds one picture, got more. Choose a name ending in .mp4 for a "
                "video, or one without ending for a folder of pictures."
            )
        write_picture(self._path, picture)
        self._written = True

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class _FolderSink:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def add(self, picture: np.ndarray, time: Fraction | None) -> None:
        if self._count == 0:
            self._folder.mkdir()
        write_picture(self._folder / f"{self._count:06d}.png", picture)
        self._count += 1

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class _VideoSink:
    """An encoder and, beside it, the sound; opened with the first picture, whose size it takes."""

    def __init__(
        self,
        path: Path,
        container: str,
        fps: Fraction,
        codec: str | None,
        crf: int | None,
        pix_fmt: str,
        sound: Path | None,
        audio_start: Fraction | None,
    ) -> None:
        self._path, self._format, self._fps, self._pix_fmt = path, container, fps, pix_fmt
        self._codec = codec or ("libvpx-vp9" if container == "webm" else "libx264")
        self._step = _halvings(path, self._codec, pix_fmt)
        self._options = _options(self._codec, crf)
        self._sound_path, self._audio_start = sound, audio_start
        self._container: OutputContainer | None = None
        self._stream: Any = None
        self._sound: SoundTrack | None = None
        self._origin = Fraction(0)
        self._last = Fraction(-1)
        self._end = Fraction(0)

    def add(self, picture: np.ndarray, time: Fraction | None) -> None:
        picture = self._even(picture)
        container = self._container or self._start(picture, time)
        if time is None:
            at = round(self._end * self._fps) / self._fps
        else:
            at = time - self._origin
            if at <= self._last:
                raise VideoError(
                    f"{self._path}: expected increasing time stamps, got {float(time):.6f} s after "
                    f"{float(self._last + self._origin):.6f} s."
                )
        frame = from_rgb(picture, self._pix_fmt)
        base = self._stream.codec_context.time_base
        frame.pts, frame.time_base = round(at / base), base
        self._last, self._end = at, at + 1 / self._fps
        container.mux(self._stream.encode(frame))
        if self._sound is not None:
            self._sound.write_until(at)

    def finish(self) -> None:
        if self._container is None:
            return
        self._container.mux(self._stream.encode(None))
        if self._sound is not None:
            self._sound.finish(self._end)
        self._container.close()
        self._container = None

    def close(self) -> None:
        if self._sound is not None:
            self._sound.close()
        if self._container is not None:
            container, self._container = self._container, None
            try:
                container.close()
            except (av.error.FFmpegError, OSError) as error:
                logger.warning("%s: closing failed: %s", self._path, error)

    def _start(self, picture: np.ndarray, time: Fraction | None) -> OutputContainer:
        options = {"movflags": "+faststart"} if self._format in ("mp4", "mov") else {}
        container = av.open(str(self._path), "w", format=self._format, options=options)
        self._container = container
        stream: Any = container.add_stream(self._codec, rate=self._fps, options=self._options)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = self._pix_fmt
        context = stream.codec_context
        context.time_base = 1 / self._fps if time is None else TIME_BASE
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        self._stream = stream
        self._origin = time if time is not None else Fraction(0)
        if self._sound_path is not None:
            origin = time if time is not None else first_time(self._sound_path) + (self._audio_start or 0)
            self._sound = SoundTrack(self._sound_path, container, self._format, origin)
        return container

    def _even(self, picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        down, right = -height % self._step[0], -width % self._step[1]
        return np.pad(picture, ((0, down), (0, right), (0, 0)), mode="edge") if down or right else picture


def _kind(target: Path) -> Literal["video", "picture", "folder"]:
    ending = target.suffix.lower()
    if ending in CONTAINERS:
        return "video"
    if ending in PICTURES:
        return "picture"
    if ending == "" and target.name:
        return "folder"
    raise VideoError(
        f"{target}: cannot tell what to write. Expected a name ending in {', '.join(CONTAINERS)} for a video, "
        f"{', '.join(sorted(PICTURES))} for one picture, or no ending for a folder of pictures."
    )


def _partial(target: Path) -> Path:
    return target.with_name(f"{target.stem}.partial{target.suffix}")


def _clear_folder(partial: Path) -> None:
    """Removes what an earlier failure left, and nothing else."""
    if not partial.exists():
        return
    others = [p.name for p in partial.iterdir() if not _FRAME_NAME.fullmatch(p.name)]
    if others:
        raise VideoError(f"{partial}: this folder is needed for writing and holds other files ({others[0]}). Move it.")
    for frame in partial.iterdir():
        frame.unlink()
    partial.rmdir()


def _with_sound(path: Path) -> Path | None:
    """The path, or None where there is no sound in it."""
    if path.is_dir():
        return None
    with naming(path, "opening", "Its sound was asked for; it is no file with sound, or truncated."):
        container = av.open(str(path), metadata_errors="replace")
    with container:
        return path if container.streams.audio else None


def _halvings(path: Path, codec: str, pix_fmt: str) -> tuple[int, int]:
    """What height and width must be multiples of, by the encoder's chroma subsampling.

    Raises:
        VideoError: no such encoder or pixel format here.
    """
    try:
        av.Codec(codec, "w")
        layout = av.VideoFormat(pix_fmt)
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(
            f"{path}: this PyAV has no encoder {codec!r} or no pixel format {pix_fmt!r}. Choose another codec, "
            "or install PyAV's own wheel: pip install av."
        ) from error
    probe = 64
    return probe // layout.chroma_height(probe), probe // layout.chroma_width(probe)


def _options(codec: str, crf: int | None) -> dict[str, str]:
    if crf is not None and crf < 0:
        raise VideoError(f"Expected a crf of 0 or above, got {crf}.")
    if codec.startswith("libvpx"):
        return {"crf": str(28 if crf is None else crf), "b": "0", "row-mt": "1", "cpu-used": "4"}
    if codec in ("libx264", "libx265"):
        return {"crf": str(18 if crf is None else crf)}
    return {} if crf is None else {"crf": str(crf)}
