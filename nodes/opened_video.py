"""The host's VIDEO as a stream of frames, whatever it is: a file, a file in memory, pictures and sound."""

from __future__ import annotations

import io as memory_io
import os
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from comfy_api.latest import InputImpl

from ..dpe_model.jobs.stream import AHEAD
from ..dpe_model.video import FrameSource, MemoryFrames, Section, open_frames, write_wav


@dataclass(frozen=True)
class OpenedVideo:
    """A VIDEO as a stream of frames.

    Attributes:
        source: the frames.
        sound: the file with the sound, on the frames' clock.
    """

    source: FrameSource
    sound: Path | None

    @classmethod
    def of(cls, video: Any, folder: Path, name: str) -> OpenedVideo:
        """Open a VIDEO without loading it.

        Args:
            video: the host's object: a file, a file in memory, or pictures and sound in memory; trimmed or not.
            folder: where a file may be put that is needed until the end.
            name: what its files and messages are called.
        """
        if isinstance(video, InputImpl.VideoFromComponents):
            return cls._of_components(video, folder, name)
        if _changed(video):
            path = folder / f"{name}.mp4"
            video.save_to(str(path))
        else:
            path = _stored(video.get_stream_source(), folder, name)
        source = open_frames(path, read_ahead=AHEAD)
        begin, seconds = video.get_active_trim_window() if hasattr(video, "get_active_trim_window") else (0.0, 0.0)
        if (begin or seconds) and not _changed(video):
            source = Section(source, _exact(begin), _exact(seconds) if seconds else None)
        return cls(source, path if source.info.has_audio else None)

    @classmethod
    def _of_components(cls, video: Any, folder: Path, name: str) -> OpenedVideo:
        parts = video.get_components()
        source = MemoryFrames(parts.images, Fraction(parts.frame_rate), name)
        if not parts.audio:
            return cls(source, None)
        sound = folder / f"{name}.wav"
        write_wav(sound, parts.audio["waveform"][0], int(parts.audio["sample_rate"]))
        return cls(source, sound)


def _changed(video: Any) -> bool:
    """Whether what the host would show differs from the file behind in a way that only the host can make."""
    if hasattr(video, "has_pending_frame_edits"):
        edited = bool(video.has_pending_frame_edits())
    else:  # hosts that crop without saying so
        edited = hasattr(video, "as_cropped") and _differs(video, "get_dimensions")
    if hasattr(video, "get_active_trim_window"):
        return edited
    return edited or (hasattr(video, "as_trimmed") and _differs(video, "get_duration"))  # that trim without saying so


def _differs(video: Any, question: str) -> bool:
    """Whether a VIDEO answers another thing than the file behind does."""
    whole = InputImpl.VideoFromFile(video.get_stream_source())
    return getattr(video, question)() != getattr(whole, question)()


def _exact(seconds: float) -> Fraction:
    """The decimal number that a person gave: 0.2 is a fifth, and no frame shown then comes before it."""
    return Fraction(seconds).limit_denominator(10**6)


def _stored(stream: str | os.PathLike[str] | memory_io.BytesIO, folder: Path, name: str) -> Path:
    if isinstance(stream, str | os.PathLike):
        return Path(stream)
    path = folder / f"{name}.video"
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file)
    return path
