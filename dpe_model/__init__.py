"""DPE: pose and expression editing of people in video, each without touching the other.

After *DPE: Disentanglement of Pose and Expression for General Video Portrait Editing* (Pang et al., CVPR 2023). This
package is the system itself; it knows nothing of ComfyUI. From a script::

    checkpoint = load_checkpoint("dpe.pt")
    engine = Engine(checkpoint, "cuda")
    latent = engine.encode(source_frames)
    driver = engine.encode(driving_frames).motion
    for frames in engine.render(latent.with_edit("expression", Edit(driver)), "expression"):
        ...
"""

from .checkpoint import BranchRoles, Checkpoint, convert_checkpoint, load_checkpoint, read_checkpoint, save_checkpoint
from .controls import measure_controls
from .engine import Engine, Services
from .errors import CheckpointError, DPEError, FrameError, MotionError, NoFaceError, VideoError
from .latent import Latent
from .motion import Edit, Motion

__version__ = "0.1.0"

__all__ = [
    "BranchRoles",
    "Checkpoint",
    "CheckpointError",
    "DPEError",
    "Edit",
    "Engine",
    "FrameError",
    "Latent",
    "Motion",
    "MotionError",
    "NoFaceError",
    "Services",
    "VideoError",
    "convert_checkpoint",
    "load_checkpoint",
    "measure_controls",
    "read_checkpoint",
    "save_checkpoint",
]
