"""PortraitEditor: a face set by hand."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..dpe_model.checkpoint import ROLES
from ..dpe_model.controls import CONTROLS, Control, ControlDirections, known_controls, probe_count
from ..dpe_model.latent import Latent
from . import host
from .sockets import CATEGORY, DPELatent, DPEModel, DPESettings

AGREED = 0.5
"""Least agreement between people on what a control is, below which the node says that the model hardly knows it."""


def _slider(control: Control) -> io.Input:
    what = "Degrees" if control.degrees else "The expression, on top of the person's own"
    return io.Float.Input(
        control.name,
        default=0.0,
        min=-control.limit,
        max=control.limit,
        step=0.5 if control.degrees else 0.01,
        display_mode=io.NumberDisplay.slider,
        tooltip=f"{what}: {control.meaning}. 0 leaves it alone.",
    )


class PortraitEditor(io.ComfyNode):
    """Sets the expression and the pose of a portrait by hand."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DPE_PortraitEditor",
            display_name="DPE Portrait Editor",
            category=CATEGORY,
            description=(
                "Sets expression and pose by sliders, on top of what the person does and of edits by drivers: a smile "
                "for a photo, or through a whole clip. Shows the first picture. Choose Run (On Change) and it follows "
                "the sliders."
            ),
            is_output_node=True,
            inputs=[
                DPEModel.Input("model", tooltip="The model that encoded the latent."),
                DPELatent.Input("latent", tooltip="From DPE Encode Motion, or from DPE Edit Latent with its edits."),
                *(_slider(control) for control in CONTROLS),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="Edited portraits, at the model's size: both edits, expression first."
                ),
                DPELatent.Output(
                    display_name="edited", tooltip="The person with all edits, for a render node or another editor."
                ),
                DPESettings.Output(
                    display_name="settings", tooltip="The sliders, for DPE Drive Video: the same face through a video."
                ),
            ],
        )

    @classmethod
    def execute(cls, model: host.LoadedModel, latent: Latent, **settings: float) -> io.NodeOutput:
        """Render what has changed, expression first; pictures without a change are passed on at the model's size."""
        latent.motion.require_checkpoint(model.checkpoint.fingerprint, "latent")
        notes: list[str] = []
        edited = latent
        if any(settings.values()):
            directions = known_controls(host.engine(model), host.Progress(probe_count()).add)
            edited = directions.apply(latent, settings)
            notes = _unclear(directions, settings)
        roles = [role for role in ROLES if edited.changes(role)]
        for role in roles:
            edited.settle(role)  # before the model is loaded: another one may be needed for it
        engine = host.engine(model)
        chunks = engine.render(edited, *roles) if roles else engine.unchanged(edited)
        images = host.gather(chunks, edited.length, host.Progress(edited.length), previews=False)
        if not roles:
            notes = ["No slider is moved: the portraits are as they came"]
        shown = ui.PreviewImage(images[:1], cls=cls).as_dict()
        return io.NodeOutput(images, edited, settings, ui={**shown, **host.note(*notes)})


def _unclear(directions: ControlDirections, settings: dict[str, float]) -> list[str]:
    """What to say of sliders whose meaning the model hardly knows."""
    names = [name for name, value in settings.items() if value and directions.agreement[name] < AGREED]
    return [f"This model hardly tells {', '.join(names)}: something else may change, too"] if names else []
