"""What the ComfyUI graph sees: one file a stage, each node thin over `dpe_model`."""

from .curves import PlotMotion, SmoothMotion
from .editor import PortraitEditor
from .examples import install_examples
from .load import LoadDPEModel, register_model_folder
from .motion import EditLatent, EncodeMotion, LoadMotion, SaveMotion
from .paste import PasteBack, register_parsing_folder
from .portrait import CropPortrait
from .render import RenderExpression, RenderPose
from .video import DriveVideo

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
    SmoothMotion,
    PlotMotion,
    DriveVideo,
    PortraitEditor,
)

__all__ = ["NODES", "install_examples", "register_model_folder", "register_parsing_folder"]
