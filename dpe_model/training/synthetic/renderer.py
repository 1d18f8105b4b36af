"""Renders a scene at a pose and an expression, and the correspondence between two renders of the same person."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ..framing import framing
from . import kernels
from .appearance import Post, Scene, make_background
from .geometry import NECK_PIVOT, Array, look_along, rotation, rotation_steps
from .shading import shade

SHADOW_SIZE = 112
POSE_NAMES = ("yaw", "pitch", "roll", "scale", "shift_x", "shift_y")


@dataclass(frozen=True)
class HeadParams:
    """What moves: pose (with framing) and expression (with gaze).

    Attributes:
        yaw, pitch, roll: degrees; positive turns the face to the viewer's right, down, and counter-clockwise.
        scale: size in the picture, 1 = as the camera frames it. shift_x, shift_y: in picture widths, right and down.
        expression: weights of the blendshapes, mostly 0..1, in the template's order.
        gaze_yaw, gaze_pitch: degrees of the eyes in the head, same signs as the head's.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    scale: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    expression: tuple[float, ...] = ()
    gaze_yaw: float = 0.0
    gaze_pitch: float = 0.0

    def with_pose_of(self, other: HeadParams) -> HeadParams:
        """This expression at the other's pose and framing."""
        return replace(self, **{name: getattr(other, name) for name in POSE_NAMES})

    def with_expression_of(self, other: HeadParams) -> HeadParams:
        """This pose and framing with the other's expression and gaze."""
        return other.with_pose_of(self)

    def pose_vector(self) -> Array:
        """[6] float32: yaw, pitch, roll in degrees, scale, shift_x, shift_y."""
        return np.array([getattr(self, name) for name in POSE_NAMES], np.float32)

    def expression_vector(self) -> Array:
        """[E + 2] float32: blendshape weights, then gaze yaw and pitch in degrees."""
        return np.array([*self.expression, self.gaze_yaw, self.gaze_pitch], np.float32)


@dataclass(frozen=True)
class Render:
    """One picture with what is needed to find its points in another.

    Attributes:
        linear: [S, S, 3] float32 linear RGB before the camera's effects.
        triangle, bary, depth: G-buffer [S*sub, S*sub]. camera, screen: [V, 3] posed vertices.
        params, focal_scale: the projection.
    """

    linear: Array
    triangle: npt.NDArray[np.int32]
    bary: Array
    depth: Array
    camera: Array
    screen: Array
    params: HeadParams
    focal_scale: float
    sub: int

    @property
    def size(self) -> int:
        """Pixels a side."""
        return int(self.linear.shape[0])


def render(scene: Scene, params: HeadParams, size: int = 128, sub: int = 2, background: Array | None = None) -> Render:
    """Draws the scene.

    Args:
        scene: person, light and camera.
        params: pose and expression.
        size: pixels a side. sub: samples a pixel and side.
        background: [size, size, 3] linear RGB, made from the scene's seed when None.
    """
    person, cam = scene.person, scene.camera
    head = rotation(params.yaw, params.pitch, params.roll)
    side = size * sub
    focal_scale = cam.distance * side / cam.span * params.scale
    camera, screen = project(scene, params, side)
    triangle = np.full((side, side), -1, np.int32)
    bary = np.empty((side, side, 2), np.float32)
    depth = np.full((side, side), kernels.EMPTY, np.float32)
    kernels.rasterise(screen, person.faces, person.fringe, scene.noise, person.cull, triangle, bary, depth)
    normals = np.empty_like(camera)
    kernels.vertex_normals(camera, person.faces, normals)
    shadow_map, shadow_rows = _shadow(camera, person.casters, scene.light.directions[0])
    if background is None:
        background = make_background(scene.background_seed, size)
    image = np.empty((size, size, 3), np.float32)
    shade(
        triangle,
        bary,
        screen,
        camera,
        normals,
        person.faces,
        person.region,
        person.rest,
        person.texture,
        person.occlusion,
        scene.base_colour,
        scene.masks,
        np.stack([centre for _, centre in person.template.eyes]),
        head,
        scene.noise,
        scene.look,
        scene.light,
        shadow_map,
        shadow_rows,
        cam.distance,
        sub,
        background,
        image,
    )
    return Render(image, triangle, bary, depth, camera, screen, params, focal_scale, sub)


def project(scene: Scene, params: HeadParams, side: int) -> tuple[Array, Array]:
    """The person's posed vertices [V, 3] in camera space, and on a screen of `side` pixels (x, y, depth)."""
    person, cam = scene.person, scene.camera
    weights = np.zeros(len(person.template.expression_names), np.float32)
    weights[: len(params.expression)] = params.expression
    deformed = person.deform(weights, params.gaze_yaw, params.gaze_pitch)
    head = rotation(params.yaw, params.pitch, params.roll)
    body = rotation(cam.body_yaw + cam.follow * params.yaw, cam.body_pitch, 0.3 * cam.follow * params.roll)
    camera, screen = np.empty_like(deformed), np.empty_like(deformed)
    kernels.pose_and_project(
        deformed,
        person.head_weight,
        rotation_steps(body, head),
        NECK_PIVOT,
        params.shift_x,
        params.shift_y,
        cam.distance * side / cam.span * params.scale,
        cam.distance,
        side,
        cam.centre,
        camera,
        screen,
    )
    return camera, screen


def landmarks(scene: Scene, params: HeadParams) -> Array:
    """The 68 landmarks' places [68, 2] in a picture, -1..1 between its edges, x first; hidden ones included."""
    _, screen = project(scene, params, 2)
    return (screen[scene.person.template.landmarks, :2] - 1.0).astype(np.float32)


def framed_like(scene: Scene, params: HeadParams, wanted: Array) -> HeadParams:
    """`params` with the scale and the shifts that put this person's face where the landmarks `wanted` [68, 2] lie."""
    own, goal = framing(landmarks(scene, params)), framing(wanted)
    zoom = float(goal[0] / own[0])
    # Shifts are in picture widths, which are 2 of the landmarks' units.
    x, y = (goal[1:] - zoom * own[1:]) / 2.0
    return replace(
        params,
        scale=zoom * params.scale,
        shift_x=zoom * params.shift_x + float(x),
        shift_y=zoom * params.shift_y + float(y),
    )


def _shadow(camera: Array, faces: npt.NDArray[np.int32], direction: Array) -> tuple[Array, Array]:
    """Depth map [K, K] from a lamp and the affine map [3, 4] from camera space to its pixels and depth."""
    view = look_along(direction)
    middle = np.array([0.0, 1.0, 0.0], np.float32)
    scale = SHADOW_SIZE / 40.0
    rows = np.zeros((3, 4), np.float32)
    rows[:, :3] = view * np.array([[scale], [scale], [-1.0]], np.float32)
    rows[:, 3] = -rows[:, :3] @ middle
    rows[:2, 3] += SHADOW_SIZE / 2
    points = camera @ rows[:, :3].T + rows[:, 3]
    depth = np.full((SHADOW_SIZE, SHADOW_SIZE), kernels.EMPTY, np.float32)
    kernels.rasterise_depth(np.ascontiguousarray(points), faces, depth)
    return depth, rows


def correspondence(scene: Scene, target: Render, source: Render, slack: float = 0.3) -> tuple[Array, Array]:
    """For every pixel of `target`, where that surface point lies in `source`.

    Returns:
        flow [S, S, 2]: x, y in -1..1 with pixel i's centre at (2 i + 1) / S - 1 (`grid_sample`, align_corners=False).
        visible [S, S]: 0..1, the share of the pixel's samples whose point is seen in `source`. Background stays.
    """
    size = target.size
    side = float(size * target.sub)
    flow = np.empty((size, size, 2), np.float32)
    visible = np.empty((size, size), np.float32)
    kernels.correspond(
        target.triangle,
        target.bary,
        target.screen,
        scene.person.faces,
        scene.person.region,
        source.camera,
        source.triangle,
        source.depth,
        source.focal_scale,
        side * (0.5 + source.params.shift_x),
        side * (0.5 + source.params.shift_y),
        scene.camera.centre,
        scene.camera.distance,
        target.sub,
        slack,
        flow,
        visible,
    )
    return flow, visible


def develop(
    picture: Array, post: Post, rng: np.random.Generator | None = None, degrade: bool = True
) -> npt.NDArray[np.uint8]:
    """Linear RGB [S, S, 3] as the picture a camera and a codec would deliver, uint8.

    Args:
        picture: linear RGB.
        post: the effects.
        rng: source of the sensor noise; None = none.
        degrade: False leaves out noise and JPEG, as a training target may want.
    """
    size = picture.shape[0]
    x: Any = np.empty_like(picture)
    balance = np.asarray(post.balance, np.float32)
    kernels.tone_curve(picture, post.exposure, post.gamma / 2.2, balance, post.saturation, post.contrast, x)
    if post.shrink > 1.0:
        small = max(8, round(size / post.shrink))
        x = cv2.resize(x, (small, small), interpolation=cv2.INTER_AREA)
        x = cv2.resize(x, (size, size), interpolation=cv2.INTER_LINEAR)
    sigma = post.blur * size / 128.0
    if sigma > 0.15:
        x = cv2.GaussianBlur(x, (0, 0), sigma)
    if degrade and post.noise > 0.0 and rng is not None:
        x = x + rng.standard_normal(x.shape, np.float32) * np.float32(post.noise)
    result = (np.clip(x, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    if degrade and post.quality > 0:
        _, packed = cv2.imencode(".jpg", result[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, post.quality])
        decoded: Any = cv2.imdecode(packed, cv2.IMREAD_COLOR)
        result = np.ascontiguousarray(decoded[..., ::-1])
    return result
