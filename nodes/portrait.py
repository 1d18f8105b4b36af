"""CropPortrait: from full frames to portraits of one person."""

from __future__ import annotations

import weakref
from collections import deque
from functools import cache
from typing import Any

import torch
from comfy_api.latest import io

from ..dpe_model.frames import check_frames, to_unit
from ..dpe_model.portrait import (
    BoxedFaces,
    Crop,
    FaceDetector,
    People,
    Sightings,
    Track,
    TrackBuilder,
    check_selection,
    crop_frames,
    describe_faces,
    describe_person,
    draw_overlay,
    frame_portraits,
    load_detector,
    matching_scale,
    measure_proportion,
    read_boxes,
    telling_frame,
)
from ..dpe_model.portrait.boxes import LAYOUTS
from ..dpe_model.portrait.scale import MATCHED
from . import host, inputs
from .sockets import CATEGORY, DPECrop

DETECT_CHUNK = 8
SMALLEST_IN_BOX = 0.15
"""Smallest face looked for around a given box, as a fraction of what is searched."""
REMEMBERED = 4
"""Of how many clips the faces are remembered."""
BoundingBox = io.Custom("BOUNDING_BOX")


def _detector(name: str, **options: Any) -> FaceDetector:
    device = host.memory.get_torch_device()
    if name == "insightface":
        return load_detector(name, device, root=host.insightface_folder(), unsure=True)
    return load_detector(name, device, unsure=True, **options)


class SeenFaces:
    """The faces of the pictures looked at last: another person, scale or size needs no second look.

    Of a few pictures, for a graph has several of these nodes: one for the source, one for each driver.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[weakref.ref[torch.Tensor], str, Sightings]] = deque(maxlen=REMEMBERED)

    def get(self, image: torch.Tensor, detector: str) -> Sightings | None:
        """What was seen in these very pictures by this detector, if they are among the last ones."""
        found = (sightings for at, by, sightings in self._seen if at() is image and by == detector)
        return next(found, None)

    def put(self, image: torch.Tensor, detector: str, sightings: Sightings) -> None:
        """Remember what was seen; the pictures themselves are not kept."""
        self._seen.append((weakref.ref(image), detector, sightings))


@cache
def _seen() -> SeenFaces:
    return SeenFaces()


def _look(frames: torch.Tensor, detector: FaceDetector, progress: host.Progress) -> Sightings:
    """Everybody's face in the frames, found chunk by chunk."""
    builder = TrackBuilder(detector)
    for start in range(0, len(frames), DETECT_CHUNK):
        host.check_interrupt()
        chunk = frames[start : start + DETECT_CHUNK]
        builder.add(chunk)
        progress.add(len(chunk))
    return builder.sightings()


def _cut(frames: torch.Tensor, crop: Crop, progress: host.Progress) -> torch.Tensor:
    """Portraits [N, S, S, 3] of frames [N, H, W, 3], cut chunk by chunk."""
    parts = []
    for start in range(0, len(frames), DETECT_CHUNK):
        host.check_interrupt()
        part = slice(start, start + DETECT_CHUNK)
        parts.append(crop_frames(frames[part], crop[part]))
        progress.add(len(parts[-1]))
    return torch.cat(parts)


def _overlay(frames: torch.Tensor, people: People, chosen: int, crop: Crop, every: bool) -> torch.Tensor:
    """Small pictures [n, h, w, 3] float32 of every frame, or of the one that shows most people."""
    if not every:
        n = telling_frame(people)
        return to_unit(draw_overlay(frames[n : n + 1], people, chosen, crop, n))
    parts = []
    for start in range(0, len(frames), DETECT_CHUNK):
        host.check_interrupt()
        chunk = frames[start : start + DETECT_CHUNK]
        parts.append(to_unit(draw_overlay(chunk, people, chosen, crop, start)))
    return torch.cat(parts)


class CropPortrait(io.ComfyNode):
    """Full frames to square portraits of one person, framed as the network expects."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DPE_CropPortrait",
            display_name="DPE Crop Portrait",
            category=CATEGORY,
            description=(
                "Finds a person in full frames and cuts out square portraits, framed as the model expects. The crop "
                "output remembers where they came from, for DPE Paste Back. Portraits that fill their frame already "
                "need no crop."
            ),
            inputs=[
                io.Image.Input("image", tooltip="Full frames of a clip, or one picture."),
                inputs.framing(),
                inputs.scale(),
                io.Int.Input(
                    "size",
                    default=256,
                    min=64,
                    max=2048,
                    step=8,
                    tooltip="Side of the portraits in pixels. The released model works at 256.",
                ),
                inputs.person(each=True),
                inputs.person_index(),
                inputs.no_face(),
                inputs.detector(),
                *inputs.position(optional=True),
                io.Combo.Input(
                    "boxes_as",
                    options=list(LAYOUTS),
                    default="xywh",
                    optional=True,
                    tooltip="How four numbers at boxes are meant. xywh: corner, width, height. xyxy: two corners.",
                ),
                io.Boolean.Input(
                    "overlay_all",
                    default=False,
                    optional=True,
                    tooltip="Overlay of every frame. Off: only of the frame that shows most people.",
                ),
                inputs.person_mask(),
                io.MultiType.Input(
                    "boxes",
                    types=[io.BBOX, BoundingBox],
                    optional=True,
                    tooltip=(
                        "Face boxes from another node instead of the detector's, in pixels: one for all frames, one a "
                        "frame, or a list a frame. The detector only looks inside them for the landmarks."
                    ),
                ),
                io.Image.Input(
                    "match",
                    optional=True,
                    tooltip=(
                        "Square portraits, as of the driver: the crop is made so that the heads are equally large. "
                        "Then scale is not used."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(display_name="portrait", tooltip="Square portraits, one a frame."),
                DPECrop.Output(display_name="crop", tooltip="Where each portrait lies in its frame."),
                io.Image.Output(
                    display_name="overlay",
                    tooltip="Small frames with everybody's box and number, the chosen one green, the crop yellow.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        framing: str,
        scale: float,
        size: int,
        person: str,
        person_index: int,
        no_face: str,
        detector: str,
        position_x: float = 0.5,
        position_y: float = 0.5,
        boxes_as: str = "xywh",
        overlay_all: bool = False,
        mask: torch.Tensor | None = None,
        boxes: Any = None,
        match: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """Detect, follow one person, lay out the crops, cut them."""
        frames = check_frames(image, "image")
        each = person == inputs.EACH
        select = "largest" if each else person
        check_selection(select, len(frames), (position_x, position_y), mask)
        proportion = None if match is None else measure_proportion(match, _detector(detector))
        progress = host.Progress(2 * len(frames))
        if boxes is None:
            sightings = _seen().get(image, detector)
            if sightings is None:
                sightings = _look(frames, _detector(detector), progress)
                _seen().put(image, detector, sightings)
            else:
                progress.add(len(frames))
        else:
            inside = _detector(detector, min_face=SMALLEST_IN_BOX)
            sightings = _look(frames, BoxedFaces(read_boxes(boxes, len(frames), boxes_as), inside), progress)
        people = sightings.of_each_frame() if each else sightings.people()
        track = people.choose(select, person_index, (position_x, position_y), mask)
        if proportion is not None:
            scale = matching_scale(track, proportion)
        crop = frame_portraits(track, scale, framing, size, no_face)
        notes = _notes(
            track, people, crop, None if proportion is None else scale, mask is not None and person != "mask"
        )
        shown = _overlay(frames, people, track.person, crop, overlay_all)
        return io.NodeOutput(_cut(frames, crop, progress), crop, shown, ui=host.note(*notes))


def _notes(track: Track, people: People, crop: Crop, scale: float | None, idle_mask: bool) -> list[str]:
    """What the node tells after a run."""
    who = [f"{line}; the overlay shows the numbers" for line in describe_person(track.person, len(people))]
    notes = [describe_faces(track, crop), *who]
    if scale is not None:
        notes.append(_matched(scale))
    if idle_mask:
        notes.append("The mask is not used: set person to mask")
    return notes


def _matched(scale: float) -> str:
    """What to say of a scale that was chosen to match other portraits."""
    low, high = MATCHED
    if low < scale < high:
        return f"Scale {scale:.2f} matches the heads"
    small, bound = ("small", "largest") if scale >= high else ("large", "smallest")
    return (
        f"The heads at match are too {small} to be matched: scale {scale:.2f}, the {bound}, is taken. Cut them out "
        "with DPE Crop Portrait first."
    )
