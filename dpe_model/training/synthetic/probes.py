"""Renders the pictures that controls are measured with (`dpe_model.controls`):
`python -m dpe_model.training.synthetic.probes --head HEAD.npz --output DIR`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...controls import CONTROLS
from .appearance import Scene, make_background
from .renderer import HeadParams, develop, render
from .sampling import Picture, Studio

logger = logging.getLogger(__name__)

SEED = 0x70726F62
"""First word of every seed used here ("prob"): nobody drawn here is drawn for training or evaluation."""
PEOPLE = 6
SIZE = 256
QUALITY = 88

BLENDSHAPES: Mapping[str, Mapping[str, float]] = {
    "mouth_open": {"jawOpen": 0.7},
    "smile": {"mouthSmile_L": 0.8, "mouthSmile_R": 0.8},
    "pucker": {"mouthPucker": 0.8},
    "lip_raise": {"noseSneer_L": 0.8, "noseSneer_R": 0.8},
    "blink": {"eyeBlink_L": 0.9, "eyeBlink_R": 0.9},
    "brows": {"browInnerUp_L": 0.8, "browInnerUp_R": 0.8, "browOuterUp_L": 0.8, "browOuterUp_R": 0.8},
}
"""What a setting of 1 of each control of the expression is; those of the pose are `HeadParams` of that name."""


def settings() -> Iterator[Mapping[str, float]]:
    """The settings of a person's pictures, in order: at rest, then one control at a time."""
    yield {}
    for control in CONTROLS:
        for value in control.probes:
            yield {control.name: value}


def face(studio: Studio, setting: Mapping[str, float]) -> HeadParams:
    """A face seen from the front, at rest but for a setting."""
    weights: dict[str, float] = {}
    pose: dict[str, Any] = {}
    for name, value in setting.items():
        if name in BLENDSHAPES:
            weights |= {shape: weight * value for shape, weight in BLENDSHAPES[name].items()}
        else:
            pose[name] = value
    return HeadParams(expression=studio.expression(weights), **pose)


def draw_strip(studio: Studio, scene: Scene, size: int = SIZE) -> Picture:
    """One person in all settings, side by side: uint8 [size, n * size, 3]."""
    background = make_background(scene.background_seed, size)
    pictures = (
        develop(render(scene, face(studio, setting), size, 2, background).linear, scene.post, degrade=False)
        for setting in settings()
    )
    return np.concatenate(list(pictures), axis=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a strip for each person."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--head", type=Path, required=True, metavar="PATH", help="ICT-FaceKit export (.npz)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    given = parser.parse_args(arguments)
    studio = Studio.load(given.head)
    given.output.mkdir(parents=True, exist_ok=True)
    for person in range(PEOPLE):
        scene = studio.sample_scene(np.random.default_rng([SEED, person]), glasses=False)
        path = given.output / f"person_{person + 1}.jpg"
        Image.fromarray(draw_strip(studio, scene)).save(path, quality=QUALITY, subsampling=0)
        logger.info("%s", path)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
