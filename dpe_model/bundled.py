"""What comes with the package: a small model and two rendered clips, so that everything runs without a download.

Dropping another `.safetensors` file into `assets/models` is all it takes to ship another model.
"""

from __future__ import annotations

from pathlib import Path

from .errors import CheckpointError

ASSETS = Path(__file__).parent / "assets"
SOURCE_CLIP = ASSETS / "source.mp4"
"""A rendered head, 256x256, near neutral."""
DRIVING_CLIP = ASSETS / "driving.mp4"
"""Another rendered head, turning and grimacing."""
FULL_FRAME_CLIP = ASSETS / "full_frame.mp4"
"""The first head in a 640x480 frame, for pasting back."""
SOURCE_STILL = ASSETS / "source.png"
PHOTO = ASSETS / "photo.jpg"
"""The first full frame."""
PROBES = ASSETS / "probes"
"""Rendered people at rest and with one thing changed at a time, a strip of pictures for each: see `controls`."""


def bundled_models() -> list[Path]:
    """The model files that come with the package, by name."""
    return sorted((ASSETS / "models").glob("*.safetensors"))


def default_model() -> Path:
    """The model used where none is named.

    Raises:
        CheckpointError: the package was installed without its model.
    """
    models = bundled_models()
    if not models:
        raise CheckpointError(f"{ASSETS / 'models'}: the bundled model is missing. Install the package again.")
    return models[0]
