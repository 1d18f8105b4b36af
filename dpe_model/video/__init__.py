"""Frames in and out of files: videos, pictures and folders of pictures, a chunk at a time."""

from .reader import FrameSource, MemoryFrames, Section, VideoInfo, open_frames, probe, read_frames
from .sound import write_wav
from .timing import as_fps, frame_times, resample_indices
from .writer import FrameWriter

__all__ = [
    "FrameSource",
    "FrameWriter",
    "MemoryFrames",
    "Section",
    "VideoInfo",
    "as_fps",
    "frame_times",
    "open_frames",
    "probe",
    "read_frames",
    "resample_indices",
    "write_wav",
]
