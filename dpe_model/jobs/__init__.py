"""Whole jobs from file to file: what the command line and the video node run."""

from .drive import DriveJob, drive
from .edit_video import EditOptions, EditVideoJob, edit_clip, edit_video
from .portraits import CropOptions, crop_clip
from .report import Reporter, Silent
from .setup import Drivers, ModelOptions, bridge_faceless
from .writing import VideoEncoding

__all__ = [
    "CropOptions",
    "DriveJob",
    "Drivers",
    "EditOptions",
    "EditVideoJob",
    "ModelOptions",
    "Reporter",
    "Silent",
    "VideoEncoding",
    "bridge_faceless",
    "crop_clip",
    "drive",
    "edit_clip",
    "edit_video",
]
