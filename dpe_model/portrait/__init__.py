"""From full frames to portraits and back: detect, track, crop, mask, paste."""

from .crop import Crop, crop_frames, frame_portraits
from .detect import DETECTORS, load_detector
from .face import DetectorError, Face, FaceDetector
from .mask import face_mask, feather_mask
from .paste import PasteOptions, Paster, paste_back
from .sightings import Sightings, TrackBuilder
from .track import People, Track, track_faces

__all__ = [
    "DETECTORS",
    "Crop",
    "DetectorError",
    "Face",
    "FaceDetector",
    "PasteOptions",
    "Paster",
    "People",
    "Sightings",
    "Track",
    "TrackBuilder",
    "crop_frames",
    "face_mask",
    "feather_mask",
    "frame_portraits",
    "load_detector",
    "paste_back",
    "track_faces",
]
