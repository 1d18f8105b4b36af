"""Frames in and out of files: videos, pictures and folders of pictures, a chunk at a time."""

from .reader import PICTURE_FPS, FrameSource, MemoryFrames, Section, VideoInfo, open_frames, probe, read_frames
from .sound import write_wav
from .timing import as_fps
from .writer import FrameWriter

__all__ = [
    "PICTURE_FPS",
    "FrameSource",
    "FrameWriter",
    "MemoryFrames",
    "Section",
    "VideoInfo",
    "as_fps",
    "open_frames",
    "probe",
    "read_frames",
    "write_wav",
]
