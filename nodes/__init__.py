"""What the ComfyUI graph sees: one file a stage, each node thin over `dpe_model`."""

from .examples import install_examples
from .load import LoadDPEModel, register_model_folder
from .motion import EditLatent, EncodeMotion, LoadMotion, SaveMotion
from .paste import PasteBack
from .portrait import CropPortrait
from .render import RenderExpression, RenderPose

NODES = (
    LoadDPEModel,
    CropPortrait,
    EncodeMotion,
    EditLatent,
    RenderExpression,
    RenderPose,
    PasteBack,
    SaveMotion,
    LoadMotion,
)

__all__ = ["NODES", "install_examples", "register_model_folder"]
