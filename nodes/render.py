"""RenderExpression and RenderPose: a latent's pending edits to pictures."""

from __future__ import annotations

from comfy_api.latest import io

from ..dpe_model.checkpoint import ROLES, Role
from ..dpe_model.latent import Latent
from . import host
from .sockets import CATEGORY, DPELatent, DPEModel

NODES: dict[Role, str] = {"expression": "DPE Render Expression", "pose": "DPE Render Pose"}
"""The node that renders edits of a role."""


def _render(model: host.LoadedModel, latent: Latent, role: Role) -> io.NodeOutput:
    latent.settle(role)  # before the model is loaded: another one may be needed for it
    engine = host.engine(model)
    images = host.gather(engine.render(latent, role), latent.length, host.Progress(latent.length))
    return io.NodeOutput(images, ui=host.note(*_unseen(latent, role)))


def _unseen(latent: Latent, role: Role) -> list[str]:
    """What to say of a latent's edits of another role than is rendered."""
    others = [other for other in ROLES if other != role and latent.changes(other)]
    if latent.changes(role):
        return [
            f"Only the {role} edit is shown here. For the {other} too, use DPE Portrait Editor; or encode this result "
            f"with DPE Encode Motion, then edit and render the {other}."
            for other in others
        ]
    return [f"The {other} edit is not shown here: {NODES[other]} shows it" for other in others]


def _inputs() -> list[io.Input]:
    return [
        DPEModel.Input("model", tooltip="The model that encoded the latent."),
        DPELatent.Input("latent", tooltip="From DPE Edit Latent. Without an edit, the person is reproduced as is."),
    ]


class RenderExpression(io.ComfyNode):
    """Renders the expression edits of a latent; the head keeps its pose."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DPE_RenderExpression",
            display_name="DPE Render Expression",
            category=CATEGORY,
            description=(
                "Renders the latent's expression edit; the head keeps its pose. The result has the model's size and "
                "may pass through any face restorer or upscaler before DPE Paste Back."
            ),
            inputs=_inputs(),
            outputs=[io.Image.Output(display_name="image", tooltip="Edited portraits, at the model's size.")],
        )

    @classmethod
    def execute(cls, model: host.LoadedModel, latent: Latent) -> io.NodeOutput:
        """Render through the branch that edits expression."""
        return _render(model, latent, "expression")


class RenderPose(io.ComfyNode):
    """Renders the pose edits of a latent; the face keeps its expression."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DPE_RenderPose",
            display_name="DPE Render Pose",
            category=CATEGORY,
            description=(
                "Renders the latent's pose edit; the face keeps its expression. In absolute mode the result takes the "
                "driver's framing too. Pasting a pose edit back into its frame seldom works: the neck no longer fits."
            ),
            inputs=_inputs(),
            outputs=[io.Image.Output(display_name="image", tooltip="Edited portraits, at the model's size.")],
        )

    @classmethod
    def execute(cls, model: host.LoadedModel, latent: Latent) -> io.NodeOutput:
        """Render through the branch that edits pose."""
        return _render(model, latent, "pose")
