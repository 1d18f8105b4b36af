"""Whole jobs from file to file: what the command line and the video node run."""

from .drive import DriveJob, drive
from .edit_video import EditVideoJob, edit_video
from .portraits import CropOptions, crop_clip
from .report import Reporter, Silent
from .setup import Drivers, ModelOptions

__all__ = [
    "CropOptions",
    "DriveJob",
    "Drivers",
    "EditVideoJob",
    "ModelOptions",
    "Reporter",
    "Silent",
    "crop_clip",
    "drive",
    "edit_video",
]
