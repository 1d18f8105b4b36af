"""Writing a job's result: a clip's frames on the clip's own clock, encoded as asked."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from ..errors import VideoError
from ..video import FrameSource, FrameWriter, VideoInfo
from ..video.writer import PICTURES


@dataclass(frozen=True)
class VideoEncoding:
    """How a video is encoded; see `FrameWriter`. Pictures and folders of pictures take no notice."""

    crf: int | None = None
    codec: str | None = None
    pix_fmt: str = "yuv420p"

    def check(self, output: Path, inputs: Sequence[Path]) -> None:
        """Refuse what cannot be written or encoded, before any work is done.

        Raises:
            VideoError: see `FrameWriter`.
        """
        self.writer(output, Fraction(25), inputs).abort()

    def writer(self, output: Path, fps: Fraction, inputs: Sequence[Path], sound: Path | None = None) -> FrameWriter:
        """A writer at a constant rate."""
        return FrameWriter(output, fps, audio_from=sound, sources=inputs, **asdict(self))

    def clip_writer(
        self,
        output: Path,
        info: VideoInfo,
        inputs: Sequence[Path],
        sound: Path | None = None,
        pixel_aspect: Fraction = Fraction(1),
    ) -> FrameWriter:
        """A writer for what becomes of a clip from its first frame on: at the clip's times, in its colours."""
        return FrameWriter(
            output,
            info.fps,
            audio_from=sound,
            timestamps="given" if info.kind == "video" else "constant",
            sources=inputs,
            colour=info.colour,
            pixel_aspect=pixel_aspect,
            timecode=info.timecode,
            created=info.created,
            **asdict(self),
        )


def write_timed(writer: FrameWriter, frames: Tensor, times: Sequence[Fraction]) -> None:
    """Write frames [n, H, W, 3] with their times where the writer takes them."""
    writer.write(frames, times if writer.takes_times else None)


def write_end(writer: FrameWriter, source: FrameSource) -> None:
    """Show the last frame for as long as the clip does, where all of the clip was written."""
    end = source.end_time()
    if end is not None and writer.frames == len(source.frame_times()):
        writer.end_at(end)


def check_kind(output: Path, frames: Sized) -> None:
    """Refuse a picture as the place of several frames, which are counted only for that.

    Raises:
        VideoError: it is one.
    """
    if output.suffix.lower() in PICTURES and len(frames) > 1:
        raise VideoError(
            f"{output}: a {output.suffix} file holds one picture, the result has {len(frames)} frames. Choose a name "
            "ending in .mp4 for a video, or one without ending for a folder of pictures."
        )
