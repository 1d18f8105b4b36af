"""From full frames to portraits and back: detect, track, crop, mask, paste."""

from .boxes import BoxedFaces, read_boxes
from .choose import check_selection
from .crop import Crop, crop_frames, frame_portraits
from .detect import DETECTORS, load_detector
from .face import DetectorError, Face, FaceDetector
from .mask import face_mask, feather_mask
from .overlay import draw_overlay, telling_frame
from .paste import PasteOptions, Paster
from .scale import matching_scale, measure_proportion
from .sightings import Sightings, TrackBuilder
from .summary import describe_faces, describe_person
from .track import People, Track

__all__ = [
    "DETECTORS",
    "BoxedFaces",
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
    "check_selection",
    "crop_frames",
    "describe_faces",
    "describe_person",
    "draw_overlay",
    "face_mask",
    "feather_mask",
    "frame_portraits",
    "load_detector",
    "matching_scale",
    "measure_proportion",
    "read_boxes",
    "telling_frame",
]
