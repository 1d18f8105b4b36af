"""Frames into a video, a picture or a folder of pictures; the target appears only once it is complete."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, TypeAlias

import av
import numpy as np
from torch import Tensor

from ..errors import VideoError
from ..frames import check_frames, to_uint8
from .access import check_not_replaced, existing, ffmpeg_path, naming
from .encoder import VideoSink
from .pictures import write_picture
from .pixels import BT709, Colour
from .timing import as_fps

logger = logging.getLogger(__name__)

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
PICTURES = frozenset({".png", ".jpg", ".jpeg"})
Kind: TypeAlias = Literal["video", "picture", "folder"]

_FRAME_NAME = re.compile(r"\d{6,}\.png")
_SPACE_ADVICE = "Check the free space and the permissions of the folder."


class FrameWriter:
    """Writes frames to a file or folder, whose kind the path's ending tells.

    - `.mp4`, `.mov`, `.mkv`: H.264, yuv420p, BT.709 limited range unless told otherwise, tagged so; `.webm`: VP9, the
      same.
      Sides that `pix_fmt` cannot halve get one more row or column, a copy of the last one.
    - `.png`, `.jpg`: exactly one picture.
    - no ending, a slash at the end, or a folder that is there: a folder with 000000.png, 000001.png, ...; it must be
      new or empty.

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
            without sound is fine. At a constant rate its first picture and the first frame written fall together.
        timestamps: "constant": frame i lies at i / fps. "given": `write` gets each frame's time.
        crf: constant rate factor of the encoder, 0 (best) upwards; 18 for H.264 and 28 for VP9 if None.
        codec: FFmpeg's name of the encoder instead of `libx264` or `libvpx-vp9`.
        pix_fmt: pixel format; "yuv444p" keeps the colour of every pixel but plays in fewer players.
        sources: files read while writing, which neither the target nor its partial file may be.
        colour: how a video stores colours, as `VideoInfo.colour` tells of the source; BT.709 limited range if None.
        pixel_aspect: width of a video's pixels over their height, as `VideoInfo.pixel_aspect`.
        timecode: that of the first frame, as `VideoInfo.timecode`; kept in `.mp4` and `.mov`.
        created: when it was recorded, as `VideoInfo.created`; kept in the same.

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
        sources: Sequence[str | Path] = (),
        colour: Colour | None = None,
        pixel_aspect: Fraction = Fraction(1),
        timecode: str | None = None,
        created: str | None = None,
    ) -> None:
        if timestamps not in ("constant", "given"):
            raise VideoError(f'Expected timestamps="constant" or "given", got {timestamps!r}.')
        self.path = self.check(path, *sources, *([audio_from] if audio_from is not None else []))
        """The target."""
        self.frames = 0
        """How many frames were written."""
        self._size = size
        self._given = timestamps == "given"
        partial = partial_of(self.path)
        _, kind = _target(path)
        self._sink: _Sink
        if kind == "folder":
            self._sink = _FolderSink(partial)
        elif kind == "picture":
            self._sink = _PictureSink(partial)
        else:
            sound = _with_sound(existing(audio_from)) if audio_from is not None else None
            self._sink = VideoSink(
                partial, CONTAINERS[self.path.suffix.lower()], as_fps(fps), codec, crf, pix_fmt, sound,
                colour or BT709, pixel_aspect, timecode, created,
            )  # fmt: skip
        if kind != "video" and audio_from is not None:
            logger.warning("%s: pictures have no sound; that of %s is left out", self.path, audio_from)
        self._open = True
        self._begun = False

    @property
    def padding(self) -> tuple[int, int]:
        """Pixels added on the right and at the bottom, which the video's encoding needs of this size; 0, 0 at first."""
        return self._sink.padding if isinstance(self._sink, VideoSink) else (0, 0)

    @property
    def takes_times(self) -> bool:
        """Whether `write` gets each frame's time."""
        return self._given

    @staticmethod
    def check(path: str | Path, *sources: str | Path) -> Path:
        """The target as a path, after making sure that it can be written; creates the folders above it.

        Raises:
            VideoError: unknown ending, place that cannot be written, target that is one of `sources`.
        """
        target, kind = _target(path)
        # Until it is complete the result goes by another name, at which a source must not lie either.
        check_not_replaced((target, partial_of(target)), sources)
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
            _try(partial_of(target), kind)
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
        if isinstance(self._sink, _PictureSink) and self.frames + len(frames) > 1:
            raise VideoError(
                f"{self.path}: a {self.path.suffix} file holds one picture, got {self.frames + len(frames)}. Choose a "
                "name ending in .mp4 for a video, or one without ending for a folder of pictures."
            )
        self._begun = True
        for i, frame in enumerate(frames):
            with naming(self.path, f"writing frame {self.frames}", _SPACE_ADVICE):
                self._sink.add(to_uint8(frame).cpu().numpy(), Fraction(pts[i]) if pts is not None else None)
            self.frames += 1

    def end_at(self, time: Fraction) -> None:
        """Says until when the last frame is shown, which is one frame of `fps` otherwise; the sound goes on until then.

        Args:
            time: seconds on the clock of the time stamps that `write` got. Pictures and folders take no notice.
        """
        if self._given and isinstance(self._sink, VideoSink):
            self._sink.end_at(time)

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
        partial = partial_of(self.path)
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
        partial = partial_of(self.path)
        try:
            if self.frames:
                with naming(partial, "completing it", _SPACE_ADVICE):
                    self._sink.finish()
                logger.warning("%s was not completed; the %d frames written are in %s", self.path, self.frames, partial)
        except VideoError as error:  # the error that made us give up is the one to report
            logger.warning("%s", error)
        finally:
            self._sink.close()
        if self._begun and not self.frames:
            with naming(partial, "removing it", "Remove it by hand."):
                _remove(partial)

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

    def add(self, picture: np.ndarray, time: Fraction | None) -> None:
        write_picture(self._path, picture)

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
            _remove(self._folder)
            self._folder.mkdir()
        write_picture(self._folder / f"{self._count:06d}.png", picture)
        self._count += 1

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


def _target(path: str | Path) -> tuple[Path, Kind]:
    """The path and what is to be written there."""
    target = Path(path).expanduser()
    ending = target.suffix.lower()
    if str(path).endswith(("/", os.sep)) or (ending == "" and target.name):
        return target, "folder"
    if ending in CONTAINERS:
        return target, "video"
    if ending in PICTURES:
        return target, "picture"
    if _is_folder(target):
        return target, "folder"
    raise VideoError(
        f"{target}: cannot tell what to write. Expected a name ending in {', '.join(CONTAINERS)} for a video, "
        f"{', '.join(sorted(PICTURES))} for one picture, or no ending for a folder of pictures. One with a dot in its "
        "name has to be there already: make it first."
    )


def _is_folder(target: Path) -> bool:
    try:
        return target.is_dir()
    except OSError:  # what is wrong with the place is said when it is tried
        return False


def partial_of(target: Path) -> Path:
    """Where a result lies until it is complete."""
    return target.with_name(f"{target.stem}.partial{target.suffix}")


def _try(partial: Path, kind: Kind) -> None:
    """Makes sure that the file or folder can be made; what an earlier failure left there stays until it is needed."""
    if partial.is_dir() and kind == "folder":
        others = [p.name for p in partial.iterdir() if not _FRAME_NAME.fullmatch(p.name)]
        if others:
            raise VideoError(
                f"{partial}: this folder is needed for writing and holds other files ({others[0]}). Move it."
            )
    elif kind == "folder":
        partial.mkdir()
        partial.rmdir()
    else:
        left = partial.exists()
        partial.open("ab").close()
        if not left:
            partial.unlink()


def _remove(partial: Path) -> None:
    """Removes what was written, file or numbered frames."""
    if partial.is_dir():
        for frame in partial.iterdir():
            if _FRAME_NAME.fullmatch(frame.name):
                frame.unlink()
        partial.rmdir()
    else:
        partial.unlink(missing_ok=True)


def _with_sound(path: Path) -> Path | None:
    """The path, or None where there is no sound in it."""
    if path.is_dir():
        return None
    with naming(path, "opening", "Its sound was asked for; it is no file with sound, or truncated."):
        container = av.open(ffmpeg_path(path), metadata_errors="replace")
    with container:
        if any(s.codec_context is not None for s in container.streams.audio):
            return path
    return None
