"""SmoothMotion, PlotMotion: a motion's numbers filtered over time, and shown."""

from __future__ import annotations

from comfy_api.latest import io

from ..dpe_model.motion import Motion
from ..dpe_model.motion_filters import SMOOTH_METHODS, UNITS, smooth_motion
from ..dpe_model.motion_plot import MIN_HEIGHT, MIN_WIDTH, plot_motion
from .sockets import CATEGORY, DPEMotion


class SmoothMotion(io.ComfyNode):
    """A motion with its tremble taken out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DPE_SmoothMotion",
            display_name="DPE Smooth Motion",
            category=CATEGORY,
            description=(
                "Takes the tremble out of a motion, without delay: the frames before and after count alike. For a "
                "driver whose movement jitters. Length, frame rate and model stay."
            ),
            inputs=[
                DPEMotion.Input("motion", tooltip="From DPE Encode Motion or DPE Load Motion."),
                io.Combo.Input(
                    "method",
                    options=list(SMOOTH_METHODS),
                    default="gaussian",
                    tooltip=(
                        "gaussian: the softest. savgol: keeps peaks such as blinks higher. one_euro: smooths what "
                        "rests, lets quick movements through. median: removes single bad frames only."
                    ),
                ),
                io.Float.Input(
                    "strength",
                    default=2.0,
                    min=0.0,
                    max=1000.0,
                    step=0.01,
                    tooltip=(
                        "How much: the width of the smoothing (standard deviation of a Gaussian; the other methods are "
                        "matched to it). 0 changes nothing."
                    ),
                ),
                io.Combo.Input(
                    "unit",
                    options=list(UNITS),
                    default="frames",
                    tooltip="What strength counts: frames or seconds. Seconds need a motion with a known frame rate.",
                ),
            ],
            outputs=[DPEMotion.Output(display_name="motion", tooltip="The smoothed motion, as many frames.")],
        )

    @classmethod
    def execute(cls, motion: Motion, method: str, strength: float, unit: str) -> io.NodeOutput:
        """Numbers only."""
        return io.NodeOutput(smooth_motion(motion, method, strength, unit))


class PlotMotion(io.ComfyNode):
    """A motion's numbers as curves in a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DPE_PlotMotion",
            display_name="DPE Plot Motion",
            category=CATEGORY,
            description=(
                "Draws a motion's numbers over time, each in a field of its own. Connect a second motion to compare: "
                "before and after smoothing, or source and driver."
            ),
            inputs=[
                DPEMotion.Input("motion", tooltip="The motion to show."),
                DPEMotion.Input("compare", optional=True, tooltip="A second motion, drawn into the same fields."),
                io.Int.Input(
                    "components",
                    default=6,
                    min=0,
                    max=64,
                    step=1,
                    tooltip="How many of the twenty numbers: those that vary most in motion. 0 shows all.",
                ),
                io.Int.Input(
                    "width", default=1024, min=MIN_WIDTH, max=8192, step=8, tooltip="Width of the picture in pixels."
                ),
                io.Int.Input(
                    "height", default=768, min=MIN_HEIGHT, max=8192, step=8, tooltip="Height of the picture in pixels."
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The curves.")],
        )

    @classmethod
    def execute(
        cls, motion: Motion, components: int, width: int, height: int, compare: Motion | None = None
    ) -> io.NodeOutput:
        """Draw."""
        return io.NodeOutput(plot_motion(motion, compare, components, (width, height)))
