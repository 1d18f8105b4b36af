"""DriveVideo: a whole video edited from file to file, without its frames ever lying in memory together."""

from __future__ import annotations

import io as memory_io
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import InputImpl, io

from ..dpe_model.errors import MotionError
from ..dpe_model.jobs import CropOptions, Drivers, EditOptions, edit_clip
from ..dpe_model.jobs.edit_video import RESULTS
from ..dpe_model.jobs.portraits import CROP_WHEN, taken_as_portraits
from ..dpe_model.jobs.setup import Driver
from ..dpe_model.jobs.stream import AHEAD
from ..dpe_model.motion import EDIT_MODES, LENGTH_POLICIES, Motion
from ..dpe_model.portrait import DETECTORS, PasteOptions, describe_faces, describe_person
from ..dpe_model.portrait.crop import FRAMINGS, NO_FACE, SCALE
from ..dpe_model.portrait.parsing import FILE
from ..dpe_model.portrait.paste import MASKS
from ..dpe_model.portrait.track import SELECT
from ..dpe_model.video import FrameSource, MemoryFrames, Section, VideoInfo, open_frames, write_wav
from . import host, inputs
from .inputs import PASTE_DEFAULTS
from .paste import parsing_weights
from .sockets import CATEGORY, DPEModel, DPEMotion

logger = logging.getLogger("ComfyUI-DPE")

EDITS = ("expression", "pose", "both")


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


class HostReporter:
    """Shows a job's progress on the node: a bar for each stage. Keeps its warnings for the node's notes.

    Args:
        names: what the user knows a clip as, by its path.
    """

    def __init__(self, names: Mapping[Path, str]) -> None:
        self.warnings: list[str] = []
        self._names = names
        self._progress: host.Progress | None = None

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """A bar for one stage; counting stops the job where the user asked for it."""
        self._progress = host.Progress(total or 1)
        yield self._progress.add

    def warn(self, clip: Path, message: str) -> None:
        """Into the log, and kept under the name of the input."""
        logger.warning("%s: %s.", clip, message)
        self.warnings.append(f"{self._names.get(clip, clip.name)}: {message}")

    def show(self, frame: torch.Tensor) -> None:
        """Show a frame [H, W, 3] beside the bar."""
        if self._progress is not None:
            self._progress.add(0, frame[None])


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
                io.Combo.Input(
                    "mode",
                    options=list(EDIT_MODES),
                    default="absolute",
                    tooltip=(
                        "absolute: the driver's motion as it is. relative: the driver's change since its reference "
                        "frame is added to the person's own movement."
                    ),
                ),
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
                io.Combo.Input(
                    "framing",
                    options=list(FRAMINGS),
                    default="follow",
                    tooltip="static: one crop for each shot. follow: the crop moves with the head.",
                ),
                io.Float.Input(
                    "scale",
                    default=SCALE,
                    min=0.5,
                    max=10.0,
                    step=0.01,
                    tooltip="Side of the crop in sides of the face box. The default frames the head as in training.",
                ),
                io.Combo.Input(
                    "person",
                    options=list(SELECT),
                    default="largest",
                    tooltip=(
                        "Who is edited, where several people are in the picture: judged over the whole clip. position: "
                        "whose face first comes to position_x, position_y. mask: whose face lies under the mask."
                    ),
                ),
                inputs.person_index(),
                *inputs.position(),
                io.Combo.Input(
                    "no_face",
                    options=list(NO_FACE),
                    default="auto",
                    tooltip=(
                        "Frames where the face is not found. hold: keep the framing of the frames around; pass: leave "
                        "the frame as it is; auto: hold up to 25 frames in a row, pass longer absences; stop: stop "
                        "with the frame numbers. No frame is lost."
                    ),
                ),
                io.Combo.Input(
                    "detector",
                    options=list(DETECTORS),
                    default="mtcnn",
                    tooltip="mtcnn is built in. insightface needs that package and its models (non-commercial use).",
                ),
                io.Combo.Input(
                    "driver_crop",
                    options=list(CROP_WHEN),
                    default="auto",
                    tooltip="Whether the driver's face is cut out first. auto: where its frames are not square.",
                ),
                io.Combo.Input(
                    "mask_shape",
                    options=list(MASKS),
                    default="face",
                    tooltip=(
                        "What is pasted back. face: from forehead to chin. crop: the whole portrait. parsing: the face "
                        f"as a parsing network sees it; needs {FILE} in models/face_parsing."
                    ),
                ),
                *inputs.mask_edge(),
                io.Float.Input(
                    "detail",
                    default=PASTE_DEFAULTS.detail,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of the frame's fine detail stays where the edit moved nothing.",
                ),
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
        roles = _driven(edit, driver_video, driver_motion)
        with _workplace() as folder:
            source = OpenedVideo.of(video, folder, "video")
            clip = None if driver_video is None else OpenedVideo.of(driver_video, folder, "driver_video").source
            if match_driver and clip is not None and taken_as_portraits(clip.info, driver_crop):
                options = replace(options, crop=replace(options.crop, match=clip))
            given: dict[str, Driver | None] = {"video": clip, "motion": driver_motion}
            drivers = Drivers(
                expression=given.get(roles.get("expression", "")),
                pose=given.get(roles.get("pose", "")),
                expression_strength=strength,
                pose_strength=strength,
                mode=mode,
                reference=reference_frame,
                length=length,
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
            f"{host.counted(done.frames, 'frame')}, {'sound kept' if source.sound is not None else 'no sound'}",
            describe_faces(done.framed.track, done.framed.crop),
            *describe_person(done.framed.track.person, len(done.framed.people)),
            *_driver_notes(None if clip is None else clip.info, driver_crop, driver_motion),
            *reporter.warnings,
            *(f"video: {notice}" for notice in source.source.notices),
            *(f"driver_video: {notice}" for notice in (() if clip is None else clip.notices)),
        ]
        if mask is not None and person != "mask":
            notes.append("The mask is not used: set person to mask")
        if match_driver and options.crop.match is None:
            notes.append("match_driver changes nothing: the driver shows no portraits yet, and is cut out at scale too")
        if done.outline_moved:
            notes.append("The edit moves the outline of the head, as a pose edit does: the neck may no longer fit.")
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), done.frames, ui=host.note(*notes))


def _driver_notes(clip: VideoInfo | None, crop: str, motion: Motion | None) -> list[str]:
    """What to say of drivers that may not be what they are taken for."""
    notes = []
    if clip is not None and crop == "auto" and taken_as_portraits(clip, crop):
        notes.append("driver_video is square, so taken for portraits. Is the head small in it? Set driver_crop to face")
    if motion is not None and motion.fps is None and len(motion) > 1:
        notes.append("driver_motion has no frame rate, so its frames go one by one: connect fps in DPE Encode Motion")
    return notes


def _driven(edit: str, video: Any, motion: Motion | None) -> dict[str, str]:
    """Who drives what: role -> "video" or "motion".

    Raises:
        MotionError: nobody drives, or it is not clear who.
    """
    if edit not in EDITS:
        raise MotionError(f"edit: expected one of {', '.join(EDITS)}, got {edit!r}.")
    roles = ("expression", "pose") if edit == "both" else (edit,)
    if video is None and motion is None:
        raise MotionError("Expected a driver: connect driver_video or driver_motion.")
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
