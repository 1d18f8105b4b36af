"""Draws people, poses and expressions, and the tuples that training learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .appearance import (
    SKIN_TONES,
    Camera,
    FaceMap,
    Light,
    Post,
    Scene,
    face_masks,
    face_warp,
    linear,
    make_background,
    noise_volume,
    sample_camera,
    sample_light,
    sample_look,
    sample_post,
    tone_between,
)
from .eyes import Eyes
from .geometry import Array, HeadTemplate, ICTFaceKit
from .person import HairStyle, Outfit, make_person
from .renderer import HeadParams, Render, correspondence, develop, framed_like, landmarks, render

Rng = np.random.Generator
Picture = npt.NDArray[np.uint8]

POSE_SIGMA = (16.0, 9.0, 6.0)
POSE_LIMIT = (38.0, 22.0, 16.0)
"""Yaw, pitch, roll in degrees."""

IMAGE_NAMES = ("source", "driver", "pose_target", "exp_target", "both_target")
"""Order of a tuple's pictures wherever they are stacked."""
TARGET_NAMES = IMAGE_NAMES[2:]


@dataclass(frozen=True)
class HeadTuple:
    """One training sample: person A at (p1, e1), driver D at (p2, e2), and A at every mixture.

    D's face is framed like A's at (p2, e2): see `framing`.

    Attributes:
        source: A(p1, e1); driver: D(p2, e2); pose_target: A(p2, e1); exp_target: A(p1, e2); both_target: A(p2, e2);
            each uint8 RGB [S, S, 3].
        source_params, driver_params: what made them.
        flows: per target name, for each of its pixels where that surface point lies in `source`, float32 [S, S, 2],
            -1..1, x first, as `grid_sample` with align_corners=False takes it.
        visible: per target name, 0..1 float32 [S, S], the share of the pixel that is seen in `source`.
        landmarks: the 68 landmarks in each picture, float32 [5, 68, 2] in the order of `IMAGE_NAMES`, -1..1, x first.
        source_shape, driver_shape: what the expression does to the 68 landmarks of the mean head, float32 [68, 3], cm.
        same_person: whether D is A.
    """

    source: Picture
    driver: Picture
    pose_target: Picture
    exp_target: Picture
    both_target: Picture
    source_params: HeadParams
    driver_params: HeadParams
    flows: dict[str, Array]
    visible: dict[str, Array]
    landmarks: Array
    source_shape: Array
    driver_shape: Array
    same_person: bool

    def images(self) -> Picture:
        """All five pictures in the order of `IMAGE_NAMES`, uint8 [5, S, S, 3]."""
        return np.stack([getattr(self, name) for name in IMAGE_NAMES])


@dataclass(frozen=True)
class Twins:
    """Two pictures of one person that differ in the eyes alone: as drawn, and as the head model has them.

    Attributes:
        picture, plain: uint8 RGB [S, S, 3]; plain has the head model's own eyes.
        params: what made both.
        landmarks: the 68 landmarks in `picture`, float32 [68, 2], -1..1, x first.
        shape: what the expression does to the 68 landmarks of the mean head, float32 [68, 3], cm.
    """

    picture: Picture
    plain: Picture
    params: HeadParams
    landmarks: Array
    shape: Array


class Studio:
    """Everything that is loaded once: the head model and what is worked out from it. Draws scenes and tuples.

    Args:
        template: the head model. Each process needs its own or a forked copy; nothing in it is changed.
    """

    def __init__(self, template: HeadTemplate) -> None:
        self.template = template
        self.face_map = FaceMap.build(template)
        self.noise = noise_volume()

    @classmethod
    def load(cls, path: str | Path) -> Studio:
        """From an ICT-FaceKit export.

        Raises:
            HeadModelError: the file cannot be used.
        """
        return cls(HeadTemplate.build(ICTFaceKit.load(path)))

    def expression(self, weights: Mapping[str, float]) -> tuple[float, ...]:
        """Named weights as a vector in the template's order.

        Raises:
            HeadModelError: a name the model does not have.
        """
        vector = [0.0] * len(self.template.expression_names)
        for name, weight in weights.items():
            vector[self.template.expression_index(name)] = float(weight)
        return tuple(vector)

    def expression_shape(self, params: HeadParams) -> Array:
        """How far the blendshapes move the 68 landmarks of the mean head: [68, 3] float32, cm."""
        modes = self.template.expressions[:, self.template.landmarks]
        weights = np.asarray(params.expression, np.float32)
        return np.tensordot(weights, modes[: len(weights)], 1).astype(np.float32)

    def sample_scene(
        self,
        rng: Rng,
        hair: HairStyle | None = None,
        outfit: Outfit | None = None,
        light: Light | None = None,
        camera: Camera | None = None,
        post: Post | None = None,
        skin: Array | None = None,
        glasses: bool | None = None,
        eyes: Eyes | None = None,
        identity_scale: float = 1.0,
    ) -> Scene:
        """A person before a background in some light; what is given is used, the rest is drawn.

        Args:
            rng: decides everything that is not given.
            skin: display RGB 0..255 [3]. glasses: whether to wear any. eyes: how they look and lie.
            identity_scale: spread of the identity modes; below 1 nearer to the mean face.
        """
        template = self.template
        identity = np.clip(rng.normal(size=len(template.identity)), -2.2, 2.2).astype(np.float32) * identity_scale
        hair = hair or HairStyle.sample(rng)
        outfit = outfit or Outfit.sample(rng)
        wears = rng.random() < 0.14
        if glasses is not None:
            wears = glasses
        drawn = Eyes.sample(rng)
        eyes = eyes or drawn
        warp = face_warp(template, rng)
        person = make_person(template, identity, hair, outfit, wears, warp, rng, eyes)
        if skin is None:
            skin = tone_between(rng, SKIN_TONES, 0.03)
        return Scene(
            person=person,
            base_colour=np.broadcast_to(linear(skin), (len(person.base), 3)).copy(),
            masks=face_masks(template, self.face_map, person, rng, eyes.brow_drop),
            look=sample_look(rng, skin, eyes),
            light=light or sample_light(rng),
            camera=camera or sample_camera(rng),
            background_seed=int(rng.integers(2**31)),
            post=post or sample_post(rng),
            noise=self.noise,
        )

    def sample_pose(self, rng: Rng) -> HeadParams:
        """A head pose and framing with a neutral expression."""
        yaw, pitch, roll = (
            float(np.clip(rng.normal(0.0, sigma), -limit, limit))
            for sigma, limit in zip(POSE_SIGMA, POSE_LIMIT, strict=True)
        )
        return HeadParams(
            yaw=yaw,
            pitch=pitch,
            roll=roll,
            scale=float(np.exp(np.clip(rng.normal(0.0, 0.06), -0.16, 0.16))),
            shift_x=float(np.clip(rng.normal(0.0, 0.03), -0.08, 0.08)),
            shift_y=float(np.clip(rng.normal(0.0, 0.025), -0.07, 0.07)),
        )

    def sample_expression(self, rng: Rng, params: HeadParams) -> HeadParams:
        """`params` with an expression: a sparse mixture of what faces do, the gaze half against the head's turn."""
        weights: dict[str, float] = {}

        def both(name: str, amount: float, asymmetry: float = 0.15) -> None:
            tilt = float(np.clip(rng.normal(0.0, asymmetry), -1.0, 1.0))
            for side, sign in (("_L", 1.0), ("_R", -1.0)):
                weights[name + side] = weights.get(name + side, 0.0) + float(
                    np.clip(amount * (1 + sign * tilt), 0, 1.1)
                )

        def one(name: str, amount: float) -> None:
            weights[name] = weights.get(name, 0.0) + float(amount)

        if rng.random() < 0.6:
            one("jawOpen", rng.beta(1.2, 2.2))
        mood = rng.random()
        if mood < 0.42:
            both("mouthSmile", rng.uniform(0.2, 1.0))
            if rng.random() < 0.5:
                both("cheekSquint", rng.uniform(0.1, 0.8))
            if rng.random() < 0.3:
                both("mouthDimple", rng.uniform(0.1, 0.7))
        elif mood < 0.6:
            both("mouthFrown", rng.uniform(0.2, 1.0))
        if rng.random() < 0.18:
            one("mouthPucker", rng.uniform(0.2, 1.0))
        if rng.random() < 0.16:
            one("mouthFunnel", rng.uniform(0.2, 1.0))
        if rng.random() < 0.2:
            both("mouthUpperUp", rng.uniform(0.1, 0.8))
        if rng.random() < 0.2:
            both("mouthLowerDown", rng.uniform(0.1, 0.8))
        if rng.random() < 0.12:
            both("mouthStretch", rng.uniform(0.1, 0.9))
        if rng.random() < 0.1:
            both("mouthPress", rng.uniform(0.2, 0.9))
        if rng.random() < 0.1:
            one(
                str(rng.choice(["mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"])),
                rng.uniform(0.1, 0.8),
            )
        if rng.random() < 0.15:
            one(
                str(rng.choice(["mouthLeft", "mouthRight", "jawLeft", "jawRight", "jawForward"])), rng.uniform(0.1, 0.7)
            )
        lids = rng.random()
        if lids < 0.2:
            both("eyeBlink", rng.uniform(0.5, 1.0), 0.05)
        elif lids < 0.25:
            one(str(rng.choice(["eyeBlink_L", "eyeBlink_R"])), rng.uniform(0.7, 1.0))
        elif lids < 0.42:
            both("eyeWide", rng.uniform(0.2, 1.0), 0.05)
        elif lids < 0.6:
            both("eyeSquint", rng.uniform(0.2, 1.0))
        elif lids < 0.75:
            both("eyeBlink", rng.uniform(0.05, 0.4), 0.05)
        brows = rng.random()
        if brows < 0.3:
            both("browInnerUp", rng.uniform(0.2, 1.0), 0.05)
            both("browOuterUp", rng.uniform(0.0, 1.0), 0.35)
        elif brows < 0.55:
            both("browDown", rng.uniform(0.2, 1.0), 0.2)
        if rng.random() < 0.12:
            both("noseSneer", rng.uniform(0.2, 0.9), 0.3)
        if rng.random() < 0.06:
            both("cheekPuff", rng.uniform(0.2, 0.9), 0.1)
        gaze_yaw = float(np.clip(rng.normal(-0.5 * params.yaw, 7.0), -28.0, 28.0))
        gaze_pitch = float(np.clip(rng.normal(-0.4 * params.pitch, 5.0), -16.0, 18.0))
        # Lids go with the eyes.
        both("eyeLookDown" if gaze_pitch > 0 else "eyeLookUp", abs(gaze_pitch) / 25.0, 0.0)
        names = self.template.expression_names
        known = {name: min(weight, 1.1) for name, weight in weights.items() if name in names}
        return replace(params, expression=self.expression(known), gaze_yaw=gaze_yaw, gaze_pitch=gaze_pitch)

    def sample_params(self, rng: Rng) -> HeadParams:
        """A pose and an expression."""
        return self.sample_expression(rng, self.sample_pose(rng))

    def sample_twins(self, rng: Rng, size: int = 128, sub: int = 2) -> Twins:
        """Renders one person twice, with eyes like people's and with the head model's own; all else is the same.

        Args:
            rng: decides everything.
            size: pixels a side. sub: samples a pixel and side.
        """
        person, noise = (int(seed) for seed in rng.integers(2**31, size=2))
        scene, plain = (self.sample_scene(np.random.default_rng(person), eyes=eyes) for eyes in (None, Eyes()))
        params = self.sample_params(rng)
        background = make_background(scene.background_seed, size)
        pictures = [
            develop(render(each, params, size, sub, background).linear, each.post, np.random.default_rng(noise))
            for each in (scene, plain)
        ]
        return Twins(pictures[0], pictures[1], params, landmarks(scene, params), self.expression_shape(params))

    def sample_tuple(
        self, rng: Rng, same_person: bool = True, size: int = 128, sub: int = 2, clean_targets: bool = True
    ) -> HeadTuple:
        """Renders one training sample.

        Args:
            rng: decides everything.
            same_person: the driver is the source's own person in the same place, else someone else somewhere else.
            size: pixels a side. sub: samples a pixel and side.
            clean_targets: the three targets without sensor noise and JPEG (blur, tone and colour stay as the source's).
        """
        scene = self.sample_scene(rng)
        other = scene if same_person else self.sample_scene(rng)
        first, second = self.sample_params(rng), self.sample_params(rng)
        background = make_background(scene.background_seed, size)
        source = render(scene, first, size, sub, background)
        targets: dict[str, Render] = {
            "pose_target": render(scene, first.with_pose_of(second), size, sub, background),
            "exp_target": render(scene, first.with_expression_of(second), size, sub, background),
            "both_target": render(scene, second, size, sub, background),
        }
        flows, visible = {}, {}
        for name, target in targets.items():
            flows[name], visible[name] = correspondence(scene, target, source)
        driver = targets["both_target"]
        if not same_person:
            driver = render(other, framed_like(other, second, landmarks(scene, second)), size, sub)
        marks = [landmarks(scene, first), landmarks(other, driver.params)]
        marks += [landmarks(scene, targets[name].params) for name in TARGET_NAMES]
        pictures = {
            name: develop(target.linear, scene.post, rng, degrade=not clean_targets) for name, target in targets.items()
        }
        return HeadTuple(
            source=develop(source.linear, scene.post, rng),
            driver=develop(driver.linear, other.post, rng),
            source_params=first,
            driver_params=driver.params,
            flows=flows,
            visible=visible,
            landmarks=np.stack(marks),
            source_shape=self.expression_shape(first),
            driver_shape=self.expression_shape(second),
            same_person=same_person,
            **pictures,
        )
