"""DriveVideo: a whole video edited from file to file, without its frames ever lying in memory together."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import InputImpl, io

from ..dpe_model.controls import set_roles
from ..dpe_model.errors import MotionError
from ..dpe_model.jobs import CropOptions, Drivers, EditOptions, edit_clip
from ..dpe_model.jobs.edit_video import RESULTS, EditedClip
from ..dpe_model.jobs.portraits import CROP_WHEN, taken_as_portraits
from ..dpe_model.jobs.setup import Driver
from ..dpe_model.motion import LENGTH_POLICIES, Motion
from ..dpe_model.portrait import PasteOptions, describe_faces, describe_person
from ..dpe_model.video import FrameSource, VideoInfo
from . import host, inputs
from .opened_video import OpenedVideo
from .paste import NECK, parsing_weights
from .reporter import HostReporter
from .sockets import CATEGORY, DPEModel, DPEMotion, DPESettings

EDITS = ("expression", "pose", "both")


class DriveVideo(io.ComfyNode):
    """A whole video edited, streamed from file to file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DPE_DriveVideo",
            display_name="DPE Drive Video",
            category=CATEGORY,
            description=(
                "Edits a person in a whole video in one step: finds and follows the face, renders the edit, pastes it "
                "back. Works from file to file, so that the video may be of any length; sound, time stamps and size "
                "stay. For anything in between, such as a face restorer, use the single nodes instead."
            ),
            inputs=[
                DPEModel.Input("model", tooltip="From Load DPE Model."),
                io.Video.Input("video", tooltip="The video to edit, from Load Video."),
                io.Video.Input(
                    "driver_video",
                    optional=True,
                    tooltip="Who drives: a video. It is brought to the time stamps of the video to edit.",
                ),
                DPEMotion.Input(
                    "driver_motion",
                    optional=True,
                    tooltip=(
                        "Who drives: a motion. With edit = both and a driver video as well, the video drives the "
                        "expression and the motion the pose. One without a frame rate goes frame by frame."
                    ),
                ),
                io.Combo.Input(
                    "edit",
                    options=list(EDITS),
                    default="expression",
                    tooltip="What the driver takes over. After a pose edit the neck may no longer fit.",
                ),
                inputs.strength(),
                inputs.mode(),
                inputs.reference_frame(),
                io.Combo.Input(
                    "length",
                    options=[policy for policy in LENGTH_POLICIES if policy != "trim"],
                    default="hold",
                    tooltip=(
                        "Where the driver is shorter than the video: hold its last frame, start again (loop), or run "
                        "back and forth (ping_pong)."
                    ),
                ),
                io.Combo.Input(
                    "result",
                    options=list(RESULTS),
                    default="frame",
                    tooltip="frame: the full video with the edit pasted back. portrait: the edited portrait alone.",
                ),
                inputs.framing(),
                inputs.scale(),
                inputs.person(),
                inputs.person_index(),
                *inputs.position(),
                inputs.no_face(),
                inputs.detector(),
                io.Combo.Input(
                    "driver_crop",
                    options=list(CROP_WHEN),
                    default="auto",
                    tooltip="Whether the driver's face is cut out first. auto: where its frames are not square.",
                ),
                inputs.mask_shape(),
                *inputs.mask_edge(),
                inputs.detail(),
                inputs.mask_smoothing(),
                io.Boolean.Input(
                    "match_driver",
                    default=False,
                    optional=True,
                    tooltip=(
                        "Frame the person so that the head is as large as in driver_video, where that shows portraits "
                        "already. Then scale is not used."
                    ),
                ),
                inputs.person_mask(),
                DPESettings.Input(
                    "settings",
                    optional=True,
                    tooltip="A face set by DPE Portrait Editor, in every frame: on top of a driver, or without one.",
                ),
            ],
            outputs=[
                io.Video.Output(
                    display_name="edited", tooltip="The edited video, a file in the temp folder: to Save Video."
                ),
                io.Int.Output(display_name="frames", tooltip="How many frames it has: as many as the video."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: host.LoadedModel,
        video: Any,
        edit: str,
        strength: float,
        mode: str,
        reference_frame: int,
        length: str,
        result: str,
        framing: str,
        scale: float,
        person: str,
        person_index: int,
        position_x: float,
        position_y: float,
        no_face: str,
        detector: str,
        driver_crop: str,
        mask_shape: str,
        feather: float,
        grow: float,
        colour_match: str,
        detail: float,
        mask_smoothing: float,
        driver_video: Any = None,
        driver_motion: Motion | None = None,
        match_driver: bool = False,
        mask: torch.Tensor | None = None,
        settings: Mapping[str, float] | None = None,
    ) -> io.NodeOutput:
        """Stream from file to file. What an interruption leaves lies in the temp folder; the log names it."""
        options = EditOptions(
            crop=CropOptions(
                framing=framing,
                scale=scale,
                person=person,
                person_index=person_index,
                no_face=no_face,
                detector=detector,
                device=str(host.memory.get_torch_device()),
                position=(position_x, position_y),
                detector_root=host.insightface_folder() if detector == "insightface" else None,
                mask=mask,
            ),
            driver_crop=driver_crop,
            paste=PasteOptions(
                mask=mask_shape,
                feather=feather,
                grow=grow,
                colour_match=colour_match,
                detail=detail,
                parsing_weights=parsing_weights() if mask_shape == "parsing" else None,
                mask_smoothing=mask_smoothing,
            ),
            result=result,
        )
        settings = settings or {}
        roles = _driven(edit, driver_video, driver_motion, bool(set_roles(settings)))
        with _workplace() as folder:
            source = OpenedVideo.of(video, folder, "video")
            clip = None if driver_video is None else OpenedVideo.of(driver_video, folder, "driver_video").source
            if match_driver and clip is not None and taken_as_portraits(clip.info, driver_crop):
                options = replace(options, crop=replace(options.crop, match=clip))
            given: dict[str, Driver | None] = {"video": clip, "motion": driver_motion}
            drivers = Drivers(
                **{role: given[kind] for role, kind in roles.items()},
                expression_strength=strength,
                pose_strength=strength,
                mode=mode,
                reference=reference_frame,
                length=length,
                settings=settings,
            )
            if driver_motion is not None:
                driver_motion.settled()  # before the model is loaded: another one may be needed for it
            path = folder.with_suffix(".mp4")
            names = {} if clip is None else {clip.info.path: "driver_video"}
            reporter = HostReporter({**names, source.source.info.path: "video"})
            done = edit_clip(
                host.engine(model), source.source, drivers, path, options, reporter, source.sound, preview=reporter.show
            )
        notes = [
            *_result_notes(done, source),
            *_driver_notes(None if clip is None else clip.info, driver_crop, driver_motion),
            *reporter.warnings,
            *_file_notes(video=source.source, driver_video=clip),
            *_unused_notes(options.crop, match_driver),
        ]
        if done.outline_moved:
            notes.append(NECK)
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), done.frames, ui=host.note(*notes))


def _result_notes(done: EditedClip, source: OpenedVideo) -> list[str]:
    """What became of the video."""
    return [
        f"{host.counted(done.frames, 'frame')}, {'sound kept' if source.sound is not None else 'no sound'}",
        describe_faces(done.framed.track, done.framed.crop),
        *describe_person(done.framed.track.person, len(done.framed.people)),
    ]


def _file_notes(**clips: FrameSource | None) -> list[str]:
    """What was noticed in reading the files, by the inputs' names."""
    return [f"{name}: {notice}" for name, clip in clips.items() if clip is not None for notice in clip.notices]


def _unused_notes(crop: CropOptions, match_driver: bool) -> list[str]:
    """What was given and changes nothing."""
    notes = []
    if crop.mask is not None and crop.person != "mask":
        notes.append("The mask is not used: set person to mask")
    if match_driver and crop.match is None:
        notes.append("match_driver changes nothing: the driver shows no portraits yet, and is cut out at scale too")
    return notes


def _driver_notes(clip: VideoInfo | None, crop: str, motion: Motion | None) -> list[str]:
    """What to say of drivers that may not be what they are taken for."""
    notes = []
    if clip is not None and crop == "auto" and taken_as_portraits(clip, crop):
        notes.append("driver_video is square, so taken for portraits. Is the head small in it? Set driver_crop to face")
    if motion is not None and motion.fps is None and len(motion) > 1:
        notes.append("driver_motion has no frame rate, so its frames go one by one: connect fps in DPE Encode Motion")
    return notes


def _driven(edit: str, video: Any, motion: Motion | None, by_hand: bool) -> dict[str, str]:
    """Who drives what: role -> "video" or "motion"; nobody need where something is set by hand.

    Raises:
        MotionError: nobody drives, or it is not clear who.
    """
    if edit not in EDITS:
        raise MotionError(f"edit: expected one of {', '.join(EDITS)}, got {edit!r}.")
    roles = ("expression", "pose") if edit == "both" else (edit,)
    if video is None and motion is None:
        if by_hand:
            return {}
        raise MotionError(
            "Expected a driver: connect driver_video or driver_motion; or settings, from a DPE Portrait Editor with a "
            "slider that is not 0."
        )
    if video is not None and motion is not None:
        if len(roles) == 1:
            raise MotionError(
                f"Two drivers for one edit ({edit}): disconnect driver_video or driver_motion, or choose edit = both, "
                "where the video drives the expression and the motion the pose."
            )
        return {"expression": "video", "pose": "motion"}
    return dict.fromkeys(roles, "motion" if video is None else "video")


@contextmanager
def _workplace() -> Iterator[Path]:
    """A folder of its own in the host's temp folder, gone afterwards; the host empties its own at every start."""
    temp = Path(folder_paths.get_temp_directory())
    temp.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="dpe_", dir=temp))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
