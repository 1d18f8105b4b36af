"""EncodeMotion, EditLatent, SaveMotion, LoadMotion: pictures to numbers, and what is done with the numbers."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from ..dpe_model.checkpoint import ROLES
from ..dpe_model.errors import MotionError
from ..dpe_model.jobs import bridge_faceless
from ..dpe_model.latent import Latent
from ..dpe_model.listing import FileList
from ..dpe_model.motion import LENGTH_POLICIES, TIMINGS, Edit, Motion
from ..dpe_model.portrait import Crop
from ..dpe_model.portrait.crop import ranges
from . import host, inputs
from .sockets import CATEGORY, DPECrop, DPELatent, DPEModel, DPEMotion

MOTION_ENDING = ".motion.safetensors"
SAME_RATE = 0.01
"""Share by which two rates may differ and still count as the same."""


class EncodeMotion(io.ComfyNode):
    """Portrait pictures to a latent (who) and a motion (how they move)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DPE_EncodeMotion",
            display_name="DPE Encode Motion",
            category=CATEGORY,
            description=(
                "Encodes square portrait pictures. For the person to edit, use the latent; for the person who drives, "
                "use the motion. Pictures of another size are resized; crop full frames with DPE Crop Portrait first."
            ),
            inputs=[
                DPEModel.Input("model", tooltip="From Load DPE Model."),
                io.Image.Input("image", tooltip="Square pictures of one face: a clip, or a single still."),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.01,
                    optional=True,
                    tooltip="Frames per second of the clip, kept with the motion. 0 = unknown.",
                ),
                DPECrop.Input(
                    "crop",
                    optional=True,
                    tooltip=(
                        "From the DPE Crop Portrait that cut a driver out: in frames where the face was not found the "
                        "motion is then interpolated to the next one with a face."
                    ),
                ),
            ],
            outputs=[
                DPELatent.Output(display_name="latent", tooltip="The person: appearance, own movement, no edits yet."),
                DPEMotion.Output(display_name="motion", tooltip="How the person moves: 20 numbers a frame."),
            ],
        )

    @classmethod
    def execute(
        cls, model: host.LoadedModel, image: torch.Tensor, fps: float = 0.0, crop: Crop | None = None
    ) -> io.NodeOutput:
        """Encode every frame once.

        Of a clip too long for its features to be kept, the motion is measured by the first node that looks at it.
        """
        if crop is not None and len(crop) != len(image):
            raise MotionError(f"crop: expected that of these {len(image)} pictures, got one of {len(crop)} frames.")

        def measure() -> torch.Tensor:
            return host.engine(model, host.Progress(len(image))).measure([image]).alpha

        latent = host.engine(model, host.Progress(len(image))).encode(image, fps or None, measure)
        return io.NodeOutput(latent, bridge_faceless(latent.motion, crop), ui=host.note(*_faceless(crop)))


def _faceless(crop: Crop | None) -> list[str]:
    if crop is None or not len(crop.faceless_frames):
        return []
    return [f"No face at frames {ranges(crop.faceless_frames)}: there the motion is interpolated"]


class EditLatent(io.ComfyNode):
    """Adds edits to a latent: another expression, another pose, or both."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DPE_EditLatent",
            display_name="DPE Edit Latent",
            category=CATEGORY,
            description=(
                "Lets a driver's motion take over the expression, the pose, or each from another driver. Nothing is "
                "rendered yet: follow with DPE Render Expression, DPE Render Pose or, for both, DPE Portrait Editor. "
                "Or render the expression, encode the result, then edit and render the pose."
            ),
            inputs=[
                DPELatent.Input("latent", tooltip="The person to edit, from DPE Encode Motion."),
                DPEMotion.Input(
                    "expression", optional=True, tooltip="Whose expression to take. Leave open to keep it."
                ),
                DPEMotion.Input("pose", optional=True, tooltip="Whose head pose to take. Leave open to keep it."),
                inputs.strength("expression_strength"),
                inputs.strength("pose_strength"),
                inputs.mode(),
                inputs.reference_frame(),
                io.Combo.Input(
                    "length",
                    options=list(LENGTH_POLICIES),
                    default="hold",
                    tooltip=(
                        "Where source and driver differ in length. trim: the shorter one counts. Otherwise the "
                        "source's length is kept, and a shorter driver holds its last frame (hold), starts again "
                        "(loop) or runs back and forth (ping_pong). A still source takes the longest driver's length."
                    ),
                ),
                io.Combo.Input(
                    "timing",
                    options=list(TIMINGS),
                    default="frames",
                    optional=True,
                    tooltip=(
                        "How driver and source meet. frames: one by one. seconds: by time, so that a driver of another "
                        "frame rate plays at its own speed; needs fps at both DPE Encode Motion."
                    ),
                ),
            ],
            outputs=[DPELatent.Output(display_name="latent", tooltip="The person with the edits to be rendered.")],
        )

    @classmethod
    def execute(
        cls,
        latent: Latent,
        expression_strength: float,
        pose_strength: float,
        mode: str,
        reference_frame: int,
        length: str,
        expression: Motion | None = None,
        pose: Motion | None = None,
        timing: str = "frames",
    ) -> io.NodeOutput:
        """Note the edits; numbers only."""
        for name, value, allowed in (("length", length, LENGTH_POLICIES), ("timing", timing, TIMINGS)):
            if value not in allowed:
                raise MotionError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}.")
        edited = latent.with_policy(length, timing)
        if expression is not None:
            edited = edited.with_edit("expression", Edit(expression, expression_strength, mode, reference_frame))
        if pose is not None:
            edited = edited.with_edit("pose", Edit(pose, pose_strength, mode, reference_frame))
        return io.NodeOutput(edited, ui=host.note(_lengths(edited), *_rates(edited)))


def _lengths(latent: Latent) -> str:
    """How the lengths meet, such as "228 source frames, expression driver 334 -> 228 frames"."""
    parts = [host.counted(len(latent.motion), "source frame")]
    for role in ROLES:
        parts += [f"{role} driver {len(edit.driver)}" for edit in latent.edits(role)]
    if len(parts) == 1:
        parts.append("no edit")
    return f"{', '.join(parts)} -> {host.counted(latent.length, 'frame')}"


def _rates(latent: Latent) -> list[str]:
    """A line for each driver that does not play at its own speed, or is not known to."""
    if latent.timing == "seconds":
        return _unknown_rates(latent)
    own = latent.motion.fps if len(latent.motion) > 1 else None
    return [
        f"{role} driver {edit.driver.fps:g} fps, source {own:g} fps: frames go one by one, so it plays at another "
        "speed. Set timing to seconds."
        for role in ROLES
        for edit in latent.edits(role)
        if own and edit.driver.fps and abs(edit.driver.fps / own - 1.0) > SAME_RATE
    ]


def _unknown_rates(latent: Latent) -> list[str]:
    """A line for each that has no frame rate, so that seconds cannot be told."""
    names = ["source"] if len(latent.motion) > 1 and latent.motion.fps is None else []
    names += [
        f"{role} driver"
        for role in ROLES
        for edit in latent.edits(role)
        if len(edit.driver) > 1 and edit.driver.fps is None
    ]
    return [
        f"The {name} has no frame rate, so frames go one by one: connect fps at its DPE Encode Motion" for name in names
    ]


class SaveMotion(io.ComfyNode):
    """A motion to a file in the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DPE_SaveMotion",
            display_name="DPE Save Motion",
            category=CATEGORY,
            description="Saves a motion as a small .safetensors file in the output folder, for DPE Load Motion.",
            is_output_node=True,
            inputs=[
                DPEMotion.Input("motion", tooltip="From DPE Encode Motion."),
                io.String.Input("filename_prefix", default="dpe/motion", tooltip="Folder and beginning of the name."),
            ],
            outputs=[DPEMotion.Output(display_name="motion", tooltip="The same motion, to go on with.")],
        )

    @classmethod
    def execute(cls, motion: Motion, filename_prefix: str) -> io.NodeOutput:
        """Write the file under the next free number."""
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        # The host's counter only knows names of the form name_00001_.ending, which ours are.
        path = Path(folder) / f"{name}_{counter:05}_{MOTION_ENDING}"
        motion.save(path)
        shown = (Path(subfolder) / path.name).as_posix()
        return io.NodeOutput(motion, ui=host.note(f"{shown}: {host.counted(len(motion), 'frame')}"))


@cache
def _tensor_files(root: str) -> FileList:
    return FileList(Path(root), ".safetensors")


def motion_files() -> list[str]:
    """Motion files in the input and the output folder, as the host's annotated names."""
    roots = (folder_paths.get_input_directory(), ""), (folder_paths.get_output_directory(), " [output]")
    return [name + label for root, label in roots for name in _tensor_files(root).names()]


class LoadMotion(io.ComfyNode):
    """A motion file to a motion."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DPE_LoadMotion",
            display_name="DPE Load Motion",
            category=CATEGORY,
            description="Loads a motion saved by DPE Save Motion. It fits the checkpoint it was measured with.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=motion_files(),
                    tooltip="A motion file in the input or the output folder. Press R after saving a new one.",
                ),
            ],
            outputs=[DPEMotion.Output(display_name="motion", tooltip="How the person moves: 20 numbers a frame.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str | None, **_: object) -> str:
        """Load again when the file has changed. None: the name comes from another node, which the host looks at."""
        if file is None:
            return ""
        stat = _motion_path(file).stat()
        return f"{file}:{stat.st_mtime_ns}:{stat.st_size}"

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """Read the file."""
        motion = Motion.load(_motion_path(file))
        rate = "fps unknown" if motion.fps is None else f"{motion.fps:g} fps"
        return io.NodeOutput(motion, ui=host.note(f"{host.counted(len(motion), 'frame')}, {rate}"))


def _motion_path(file: str) -> Path:
    path = folder_paths.get_annotated_filepath(file) if file else None
    if path is None or not Path(path).is_file():
        raise MotionError(
            f"{file!r}: no such motion file in the input or output folder. Save one with DPE Save Motion."
        )
    return Path(path)
