"""Renders the bundled clips: `python -m dpe_model.training.synthetic.clips --head HEAD.npz --output DIR`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.interpolate import PchipInterpolator

from ...video import FrameWriter
from .appearance import Camera, Light, Post, Scene, linear
from .person import HairStyle, Outfit
from .renderer import HeadParams, develop, render
from .sampling import Picture, Studio

logger = logging.getLogger(__name__)

FPS = 25
FRAMES = 75
SIZE = 256
WIDE_SIZE = 640
WIDE_ROWS = slice(96, 576)
"""Of the square picture, what a 640x480 frame shows."""
WIDE_SPAN = 50.0


@dataclass(frozen=True)
class Curve:
    """A smooth movement through (second, value) knots, without overshoot."""

    knots: tuple[tuple[float, float], ...]

    def __call__(self, time: float) -> float:
        """Value at a time in seconds; constant outside the knots."""
        times, values = zip(*self.knots, strict=True)
        return float(PchipInterpolator(times, values)(np.clip(time, times[0], times[-1])))


def _blink(at: float, depth: float = 1.0) -> tuple[tuple[float, float], ...]:
    """Knots of a blink: down in 0.1 s, up in 0.2 s."""
    return ((at - 0.12, 0.0), (at, depth), (at + 0.04, depth), (at + 0.24, 0.0))


def portrait_light(warmth: float, side: float) -> Light:
    """A soft key from above and one side, a fill, and a rim from behind."""
    directions = np.array([[0.62 * side, 0.55, 0.75], [-0.8 * side, 0.1, 0.6], [-0.75 * side, 0.45, -0.75]], np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    warm = np.array([1.0 + warmth, 1.0, 1.0 - warmth], np.float32)
    cold = np.array([1.0 - warmth, 1.0, 1.0 + 1.5 * warmth], np.float32)
    return Light(
        sky=0.34 * cold,
        ground=0.22 * warm,
        side=np.zeros(3, np.float32),
        side_direction=np.array([1.0, 0.0, 0.0], np.float32),
        directions=directions,
        colours=np.stack([0.85 * warm, 0.16 * cold, 0.75 * cold]),
        shadow=0.6,
        wrap=0.35,
    )


def studio_backdrop(low: Sequence[float], high: Sequence[float], seed: int, size: int = SIZE) -> np.ndarray:
    """A room out of focus: gradient, broad soft shapes and a vignette, linear RGB [size, size, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    picture = np.asarray(high, np.float32) * (1 - y[..., None]) + np.asarray(low, np.float32) * y[..., None]
    for _ in range(7):
        x0, width = int(rng.uniform(0, size)), int(rng.uniform(0.06, 0.2) * size)
        picture[:, x0 : x0 + width] *= np.float32(rng.uniform(0.75, 1.25))
    for _ in range(6):
        centre = (int(rng.uniform(0, size)), int(rng.uniform(0, 0.6) * size))
        layer = np.zeros((size, size, 1), np.float32)
        cv2.circle(layer, centre, int(rng.uniform(0.02, 0.05) * size), 1.0, -1)
        picture += layer.reshape(size, size, 1) * np.array([60, 48, 30], np.float32)
    picture = cv2.GaussianBlur(picture, (0, 0), size / 36)
    picture *= (1.0 - 0.5 * ((x - 0.5) ** 2 + (y - 0.45) ** 2))[..., None]
    return linear(picture)


def source_scene(studio: Studio, seed: int = 50) -> Scene:
    """The person of `source.mp4`."""
    hair = HairStyle(thickness=0.7, crown_lift=1.5, edge=0.5, front=43, recess=5, temple=36, sideburn=-6, nape=-40,
                     raggedness=0.5, sweep=0.5, lump=0.15)  # fmt: skip
    scene = studio.sample_scene(
        np.random.default_rng(seed),
        hair=hair,
        outfit=Outfit(collar=-9.6, depth=3.4, pointed=0.75, stand=1.6, slope=0.3, width=0.3),
        light=portrait_light(0.05, 1.0),
        camera=Camera(distance=110.0, body_yaw=6.0, follow=0.08),
        post=Post(),
        skin=np.array([214, 168, 140], np.float32),
        glasses=False,
        identity_scale=0.75,
    )
    look = scene.look._replace(
        hair=linear([70, 45, 30]), hair_tip=linear([96, 64, 42]), brow=linear([52, 34, 24]), brow_amount=0.85,
        beard=linear([70, 48, 36]), beard_amount=0.3, lip=linear([182, 112, 104]), lip_amount=0.6, freckles=0.0,
        shadow_amount=0.1, flush_amount=0.35, blotch=0.06, pores=0.05, wrinkles=0.06, gloss=0.28, sharpness=16.0,
        iris=linear([84, 104, 78]), iris_radius=0.61, pupil_radius=0.24, hair_gloss=0.5, strand_contrast=0.5,
        jacket=1.0, cloth=linear([38, 46, 66]), shirt=linear([226, 228, 232]), pattern=0,
    )  # fmt: skip
    return replace(scene, look=look)


def driving_scene(studio: Studio, seed: int = 47) -> Scene:
    """The person of `driving.mp4`."""
    hair = HairStyle(thickness=1.1, crown_lift=0.7, edge=0.6, front=45, recess=-4, temple=30, sideburn=8, ear=8,
                     nape=-40, raggedness=0.4, sweep=-0.6, length=15, tuck=56, flare=1.2, wave=0.35)  # fmt: skip
    scene = studio.sample_scene(
        np.random.default_rng(seed),
        hair=hair,
        outfit=Outfit(collar=-10.2, depth=3.5, pointed=0.1, stand=0.5, slope=0.33, width=0.6, shoulder=19),
        light=portrait_light(0.06, -1.0),
        camera=Camera(distance=110.0, body_yaw=-5.0, follow=0.1),
        post=Post(),
        skin=np.array([172, 118, 86], np.float32),
        glasses=False,
        identity_scale=0.7,
    )
    look = scene.look._replace(
        hair=linear([36, 24, 20]), hair_tip=linear([74, 46, 32]), brow=linear([32, 22, 18]), brow_amount=0.8,
        beard_amount=0.0, lip=linear([160, 70, 68]), lip_amount=0.75, freckles=0.0, shadow_amount=0.2,
        shadow=linear([110, 66, 54]), flush_amount=0.4, blotch=0.05, pores=0.04, wrinkles=0.03, gloss=0.32,
        sharpness=16.0,
        iris=linear([84, 52, 28]), iris_radius=0.63, pupil_radius=0.25, hair_gloss=0.6, strand_contrast=0.45,
        scalp_amount=0.9, jacket=0.0, cloth=linear([150, 58, 48]), pattern=0,
    )  # fmt: skip
    return replace(scene, look=look)


def source_motion(studio: Studio) -> Callable[[float], HeadParams]:
    """Small movements of a person who listens, and one blink."""
    yaw = Curve(((0, -2), (0.8, 4), (1.7, -4), (2.4, 1), (3, -2)))
    pitch = Curve(((0, 1), (0.6, -1.5), (1.4, 2), (2.3, -1), (3, 1)))
    roll = Curve(((0, 0), (1.0, 2), (2.1, -2), (3, 0)))
    smile = Curve(((0, 0.1), (1.0, 0.28), (2.0, 0.12), (3, 0.1)))
    brow = Curve(((0, 0.0), (0.9, 0.0), (1.3, 0.35), (1.9, 0.0), (3, 0.0)))
    jaw = Curve(((0, 0.0), (1.8, 0.0), (2.05, 0.12), (2.2, 0.03), (2.4, 0.14), (2.65, 0.0), (3, 0.0)))
    blink = Curve(((0, 0.0), *_blink(1.55), (3, 0.0)))

    def at(time: float) -> HeadParams:
        weights = {"jawOpen": jaw(time)}
        for side in "LR":
            weights |= {
                f"mouthSmile_{side}": smile(time),
                f"browInnerUp_{side}": brow(time),
                f"browOuterUp_{side}": brow(time),
                f"eyeBlink_{side}": blink(time),
            }
        return HeadParams(
            yaw=yaw(time),
            pitch=pitch(time),
            roll=roll(time),
            shift_x=0.0006 * yaw(time),
            expression=studio.expression(weights),
            gaze_yaw=-0.8 * yaw(time),
            gaze_pitch=-0.6 * pitch(time),
        )

    return at


def driving_motion(studio: Studio) -> Callable[[float], HeadParams]:
    """Clear turns of the head, and clear expressions one after another: smile, open mouth, pucker, brows, blink."""
    yaw = Curve(((0, 0), (0.35, 2), (0.9, 24), (1.15, 25), (1.9, -23), (2.15, -24), (2.75, 0), (3, 0)))
    pitch = Curve(((0, 0), (0.5, -2), (1.0, 3), (1.5, -7), (2.0, 2), (2.45, 8), (3, 0)))
    roll = Curve(((0, 0), (1.0, -5), (2.0, 6), (3, 0)))
    smile = Curve(((0, 0.05), (0.45, 0.95), (0.8, 0.9), (1.1, 0.1), (2.3, 0.05), (2.6, 0.6), (3, 0.05)))
    jaw = Curve(
        ((0, 0.0), (0.3, 0.15), (0.9, 0.05), (1.3, 0.7), (1.5, 0.65), (1.8, 0.03), (2.5, 0.0), (2.65, 0.1), (3, 0.0))
    )
    pucker = Curve(((0, 0.0), (1.65, 0.0), (2.0, 0.9), (2.2, 0.9), (2.45, 0.0), (3, 0.0)))
    brow = Curve(((0, 0.0), (0.9, 0.0), (1.3, 0.9), (1.6, 0.6), (1.9, 0.0), (3, 0.0)))
    frown = Curve(((0, 0.0), (1.8, 0.0), (2.05, 0.7), (2.3, 0.5), (2.5, 0.0), (3, 0.0)))
    blink = Curve(((0, 0.0), *_blink(0.2), *_blink(1.72), *_blink(2.5), (3, 0.0)))

    def at(time: float) -> HeadParams:
        weights = {"jawOpen": jaw(time), "mouthPucker": pucker(time)}
        for side in "LR":
            weights |= {
                f"mouthSmile_{side}": smile(time),
                f"mouthUpperUp_{side}": 0.2 * smile(time),
                f"cheekSquint_{side}": 0.6 * smile(time),
                f"browInnerUp_{side}": brow(time),
                f"browOuterUp_{side}": brow(time),
                f"eyeWide_{side}": 0.6 * brow(time),
                f"browDown_{side}": frown(time),
                f"eyeBlink_{side}": blink(time),
            }
        return HeadParams(
            yaw=yaw(time),
            pitch=pitch(time),
            roll=roll(time),
            shift_x=0.0008 * yaw(time),
            expression=studio.expression(weights),
            gaze_yaw=float(np.clip(-0.7 * yaw(time), -17, 17)),
            gaze_pitch=-0.6 * pitch(time),
        )

    return at


def frames(
    scene: Scene, motion: Callable[[float], HeadParams], backdrop: np.ndarray, count: int = FRAMES, sub: int = 4
) -> Iterator[Picture]:
    """Pictures uint8 [S, S, 3] of a movement at 25 frames a second; S is the backdrop's side."""
    for index in range(count):
        image = render(scene, motion(index / FPS), len(backdrop), sub, backdrop).linear
        yield develop(image, scene.post)


def wide_scene(scene: Scene) -> Scene:
    """The same person from farther away: a full frame around the portrait."""
    return replace(scene, camera=replace(scene.camera, span=WIDE_SPAN))


def swaying(motion: Callable[[float], HeadParams]) -> Callable[[float], HeadParams]:
    """A movement of somebody who also shifts from one side to the other."""
    sway = Curve(((0, -0.05), (1.2, 0.04), (2.2, -0.02), (3, -0.05)))
    return lambda time: replace(motion(time), shift_x=sway(time))


def write_clip(path: Path, pictures: Iterator[Picture]) -> None:
    """Writes pictures as H.264."""
    with FrameWriter(path, Fraction(FPS), crf=18) as writer:
        for picture in pictures:
            writer.write(torch.from_numpy(picture)[None])


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Render the bundled clips and source.png.")
    parser.add_argument("--head", type=Path, required=True, help="ICT-FaceKit export (.npz)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    studio = Studio.load(options.head)
    options.output.mkdir(parents=True, exist_ok=True)
    source, driving = source_scene(studio), driving_scene(studio)
    walls = studio_backdrop((92, 84, 78), (128, 122, 114), 3), studio_backdrop((58, 72, 84), (104, 122, 132), 8)
    write_clip(options.output / "source.mp4", frames(source, source_motion(studio), walls[0]))
    first = next(frames(source, source_motion(studio), walls[0], count=1))
    cv2.imwrite(str(options.output / "source.png"), first[..., ::-1])
    write_clip(options.output / "driving.mp4", frames(driving, driving_motion(studio), walls[1]))
    wide_wall = studio_backdrop((92, 84, 78), (128, 122, 114), 3, WIDE_SIZE)
    wide = frames(wide_scene(source), swaying(source_motion(studio)), wide_wall, sub=3)
    write_clip(options.output / "full_frame.mp4", (picture[WIDE_ROWS] for picture in wide))
    logger.info("Wrote source.mp4, source.png, driving.mp4 and full_frame.mp4 to %s", options.output)


if __name__ == "__main__":
    main()
