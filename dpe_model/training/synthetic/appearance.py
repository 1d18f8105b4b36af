"""What people and pictures look like: skin, hair, eyes, clothes, light, background, camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from .eyes import Eyes
from .geometry import EYE, MAP_CENTRE, SKIN, Array, HeadTemplate, segment_distance, smooth_step
from .person import Person

Rng = np.random.Generator

SKIN_TONES = np.array(
    [
        [244, 208, 190],
        [236, 196, 170],
        [228, 184, 156],
        [214, 166, 134],
        [198, 146, 112],
        [174, 122, 90],
        [148, 100, 72],
        [118, 78, 56],
        [90, 58, 42],
        [66, 42, 32],
    ],
    np.float64,
)
HAIR_TONES = np.array(
    [[18, 15, 14], [38, 27, 22], [62, 42, 30], [92, 64, 42], [126, 90, 56], [172, 134, 84], [208, 178, 128],
     [122, 58, 30], [150, 150, 150], [205, 203, 200]],
    np.float64,
)  # fmt: skip
IRIS_TONES = np.array(
    [[62, 38, 22], [88, 56, 30], [110, 84, 44], [84, 98, 62], [74, 104, 130], [104, 122, 136]], np.float64
)

NOISE_PERIOD = 64


class Look(NamedTuple):
    """Colours (linear RGB [3]) and scalars the shader reads. One name a row, units where they matter.

    `offset` [3] moves the noise, so that no two people share a texture. Frequencies are per cm; amounts are 0..1. Those
    of the eyes are told under `Eyes`.
    """

    offset: Array
    lip: Array
    lip_amount: float
    brow: Array
    brow_amount: float
    beard: Array
    beard_amount: float
    beard_frequency: float
    scalp_amount: float
    flush: Array
    flush_amount: float
    shadow: Array
    shadow_amount: float
    blotch: float
    pores: float
    wrinkles: float
    freckles: float
    gloss: float
    sharpness: float
    iris: Array
    iris_rim: float
    iris_radius: float
    pupil_radius: float
    sclera: Array
    eye_shade: float
    sparkle: float
    socket: float
    teeth: Array
    gums: Array
    lash: Array
    lash_amount: float
    hair: Array
    hair_tip: Array
    strand_contrast: float
    hair_gloss: float
    cloth: Array
    cloth_second: Array
    shirt: Array
    pattern: int
    pattern_frequency: float
    jacket: float
    frame: Array


class Light(NamedTuple):
    """Illumination in camera space: a sky-to-ground gradient, a sideways gradient, and up to three lamps.

    sky, ground, side: linear RGB [3]; side_direction [3]; directions [L, 3] unit vectors towards the lamps; colours
    [L, 3]; shadow: how dark the first lamp's shadows are, 0..1; wrap: how far light creeps round the terminator.
    """

    sky: Array
    ground: Array
    side: Array
    side_direction: Array
    directions: Array
    colours: Array
    shadow: float
    wrap: float


@dataclass(frozen=True)
class Camera:
    """Where the camera stands, and how the shoulders stand before it.

    span: cm across the picture at the head's middle; distance in cm; centre: height in cm that falls on the picture's
    middle; body_yaw, body_pitch: how the shoulders are turned, degrees; follow: their share of the head's yaw.
    """

    span: float = 29.3
    distance: float = 90.0
    centre: float = 3.1
    body_yaw: float = 0.0
    body_pitch: float = 0.0
    follow: float = 0.1


@dataclass(frozen=True)
class Post:
    """What camera and codec do to a picture, the same for all pictures of a tuple.

    exposure, contrast, saturation: factors; gamma: exponent on the display signal; balance: factors on R, G, B;
    blur: sigma in pixels at 128 px; shrink: factor by which the picture is once scaled down; noise: sigma, 0..1;
    quality: JPEG's, 0 = none.
    """

    exposure: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    gamma: float = 1.0
    balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blur: float = 0.0
    shrink: float = 1.0
    noise: float = 0.0
    quality: int = 0


@dataclass(frozen=True)
class Scene:
    """All that stays the same when pose and expression change: person, textures, light, camera, background."""

    person: Person
    base_colour: Array
    masks: Array
    look: Look
    light: Light
    camera: Camera
    background_seed: int
    post: Post
    noise: Array


def linear(colour: npt.ArrayLike) -> Array:
    """Display RGB 0..255 as linear RGB 0..1 (gamma 2.2)."""
    return (np.clip(np.asarray(colour, np.float64) / 255.0, 0.0, 1.0) ** 2.2).astype(np.float32)


def noise_volume(seed: int = 7) -> Array:
    """The periodic white noise in -1..1 [64, 64, 64] behind every texture."""
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (NOISE_PERIOD,) * 3).astype(np.float32)


def tone_between(rng: Rng, tones: np.ndarray, spread: float) -> np.ndarray:
    """A colour between two neighbouring tones, with some noise. Display RGB."""
    position = rng.uniform(0, len(tones) - 1)
    low = int(position)
    t = position - low
    colour = tones[low] * (1 - t) + tones[min(low + 1, len(tones) - 1)] * t
    return np.clip(colour * rng.normal(1.0, spread, 3) * rng.normal(1.0, spread), 4, 250)


def _signed_polygon(points: Array, polygon: Array) -> Array:
    """Signed distance in the xy plane of points [V, 3] from a closed polygon [N, 2..3], positive inside."""
    closed = np.concatenate([polygon, polygon[:1]])[:, :2]
    flat = np.concatenate([points[:, :2], np.zeros((len(points), 1), np.float32)], 1)
    outline = np.concatenate([closed, np.zeros((len(closed), 1), np.float32)], 1)
    distance, _ = segment_distance(flat, outline)
    inside = np.zeros(len(points), bool)
    x, y = points[:, 0], points[:, 1]
    for (xi, yi), (xj, yj) in zip(closed[:-1], closed[1:], strict=True):
        inside ^= ((yi > y) != (yj > y)) & (x < (xj - xi) * (y - yi) / (yj - yi + 1e-12) + xi)
    return np.where(inside, distance, -distance)


@dataclass(frozen=True)
class FaceMap:
    """Where lips, brows, beard and so on lie on the mean head: values [V] that all people share."""

    lip: Array
    cheek: Array
    lid: Array
    beard: Array
    under_eye: Array
    socket: Array

    @classmethod
    def build(cls, template: HeadTemplate) -> FaceMap:
        """Works the masks out from the 68 landmarks of the mean head."""
        points = template.neutral
        marks = points[template.landmarks]
        skin = template.vertex_region != EYE
        front = smooth_step(points[:, 2], 6.5, 8.5) * skin
        lip = smooth_step(_signed_polygon(points, marks[48:60]), -0.16, 0.16) * front
        cheek = sum(
            np.exp(-((points - np.array([side * 4.6, -0.4, 8.3], np.float32)) ** 2).sum(1) / 6.0) for side in (-1, 1)
        ) + 0.8 * np.exp(-((points - np.array([0.0, 0.3, 12.6], np.float32)) ** 2).sum(1) / 1.6)
        lids, under, sockets = [], [], []
        for eye in (marks[36:42], marks[42:48]):
            rim, _ = segment_distance(points, eye[:4])
            lids.append(np.exp(-((rim / 0.55) ** 2)) * (points[:, 1] > eye[:, 1].mean() - 0.1))
            low = eye.mean(0) - np.array([0.0, 1.3, 0.0], np.float32)
            under.append(np.exp(-((points[:, 0] - low[0]) ** 2 / 1.5 + (points[:, 1] - low[1]) ** 2 / 0.35)) * front)
            x0, y0 = eye.mean(0)[:2] + np.array([0.0, 0.4], np.float32)
            sockets.append(np.exp(-((points[:, 0] - x0) ** 2 / 4.0 + (points[:, 1] - y0) ** 2 / 1.2)) * front)
        x, y, z = points.T
        jaw = smooth_step(-y, 0.8, 3.6) * smooth_step(z, 0.5, 3.0) * smooth_step(y, -11.0, -8.5)
        moustache = np.exp(-((y - marks[51, 1] - 0.75) ** 2) / 0.35) * smooth_step(-np.abs(x), -3.4, -1.8) * front
        beard = np.clip(np.maximum(jaw, moustache), 0, 1) * (1.0 - smooth_step(lip, 0.0, 0.4))
        beard *= template.vertex_region == SKIN
        return cls(
            lip=lip.astype(np.float32),
            cheek=np.asarray(cheek, np.float32),
            lid=np.maximum(*lids).astype(np.float32),
            beard=beard.astype(np.float32),
            under_eye=np.maximum(*under).astype(np.float32),
            socket=np.maximum(*sockets).astype(np.float32),
        )


def brow_coordinates(template: HeadTemplate, drop: float = 0.0) -> tuple[Array, Array]:
    """Distance in cm of each vertex of the mean head from the nearer brow, `drop` cm below its landmarks, and how far
    along it from the nose the nearest point lies, 0..1; both [V] float32."""
    points = template.neutral
    marks = points[template.landmarks] - np.array([0.0, drop, 0.0], np.float32)
    left, right = segment_distance(points, marks[17:22]), segment_distance(points, marks[22:27])
    nearer = left[0] < right[0]
    distance, along = np.where(nearer, left[0], right[0]), np.where(nearer, left[1], 1.0 - right[1])
    return distance.astype(np.float32), along.astype(np.float32)


def sample_look(rng: Rng, skin: np.ndarray, eyes: Eyes) -> Look:
    """Draws colours and texture strengths for a person with these eyes, whose skin has the display colour `skin`."""
    darkness = 1.0 - skin.mean() / 255.0
    hair = tone_between(rng, HAIR_TONES[: 4 if darkness > 0.55 else 10], 0.06)
    if rng.random() < 0.04:
        hair = rng.uniform(20, 230, 3)
    made_up = rng.random() < 0.3
    natural_lip = skin * np.array([0.92, 0.66, 0.66]) * rng.normal(1.0, 0.05)
    lip = rng.uniform([130, 15, 25], [215, 100, 110]) if made_up else natural_lip
    bearded = rng.random() < 0.38
    iris = IRIS_TONES[rng.integers(0, 2)] if darkness > 0.5 else tone_between(rng, IRIS_TONES, 0.08)
    shadow = rng.uniform(30, 160, 3) if made_up else skin * np.array([0.72, 0.6, 0.6])
    shadow_amount = rng.uniform(0.2, 0.7) if made_up else rng.uniform(0.0, 0.4)
    if eyes.lid:
        shadow, shadow_amount = np.minimum(skin * (1.0 + eyes.lid), 250.0), 0.8
    sclera = np.array([228, 218, 212]) * rng.normal(1.0, 0.04) * rng.normal(1.0, 0.02, 3)
    return Look(
        offset=rng.uniform(0, NOISE_PERIOD, 3).astype(np.float32),
        lip=linear(lip),
        lip_amount=rng.uniform(0.6, 1.0) if made_up else rng.uniform(0.45, 0.95),
        brow=linear(np.minimum(hair * rng.uniform(0.45, 0.85), skin * 0.75)),
        brow_amount=rng.uniform(0.55, 1.0),
        beard=linear(hair * rng.uniform(0.7, 1.0)),
        beard_amount=rng.uniform(0.15, 1.0) ** 1.3 if bearded else 0.0,
        beard_frequency=rng.uniform(5.0, 11.0),
        scalp_amount=rng.uniform(0.5, 1.0),
        flush=np.array([rng.uniform(0.9, 1.3), rng.uniform(0.6, 0.95), rng.uniform(0.6, 0.95)], np.float32),
        flush_amount=rng.uniform(0.0, 0.7) * (1.0 - 0.7 * darkness),
        shadow=linear(shadow),
        shadow_amount=shadow_amount,
        blotch=rng.uniform(0.02, 0.22),
        pores=rng.uniform(0.0, 0.16),
        wrinkles=rng.uniform(0.0, 0.22),
        freckles=rng.uniform(0.2, 0.9) if rng.random() < 0.22 else 0.0,
        gloss=rng.uniform(0.05, 0.5),
        sharpness=rng.uniform(8.0, 40.0),
        iris=linear(iris * eyes.dim),
        iris_rim=rng.uniform(0.3, 0.8),
        iris_radius=rng.uniform(0.56, 0.66),
        pupil_radius=rng.uniform(0.16, 0.32),
        sclera=linear((sclera + eyes.tint * (skin - sclera)) * eyes.dim),
        eye_shade=eyes.shade,
        sparkle=eyes.sparkle,
        socket=eyes.socket,
        teeth=linear(np.array([226, 216, 196]) * rng.uniform(0.8, 1.05)),
        gums=linear(np.array([165, 82, 80]) * rng.uniform(0.75, 1.15)),
        lash=linear(hair * 0.3 + 4),
        lash_amount=eyes.lash,
        hair=linear(hair),
        hair_tip=linear(hair * rng.uniform(0.85, 1.35)),
        strand_contrast=rng.uniform(0.25, 0.75),
        hair_gloss=rng.uniform(0.1, 0.8),
        cloth=linear(rng.uniform(10, 245, 3) * rng.uniform(0.3, 1.0)),
        cloth_second=linear(rng.uniform(10, 245, 3)),
        shirt=linear(rng.uniform(150, 250, 3)),
        pattern=int(rng.integers(0, 5)),
        pattern_frequency=rng.uniform(0.3, 1.6),
        jacket=float(rng.random() < 0.35),
        frame=linear(rng.uniform(5, 90, 3)),
    )


def sample_light(rng: Rng) -> Light:
    """Soft daylight to a hard lamp from one side, warm to cold, one to three lamps."""
    count = int(rng.integers(1, 4))
    directions, colours = [], []
    strength = rng.uniform(0.5, 1.5)
    for index in range(count):
        azimuth = rng.normal(0.0, 0.7) if index == 0 else rng.uniform(-2.4, 2.4)
        height = rng.uniform(-0.15, 1.1)
        directions.append([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
        warmth = rng.normal(0.0, 0.12)
        colour = np.array([1 + warmth, 1.0 + rng.normal(0, 0.03), 1 - warmth])
        if index and rng.random() < 0.15:
            colour = rng.uniform(0.2, 1.4, 3)
        colours.append(colour * strength * (1.0 if index == 0 else rng.uniform(0.1, 0.6)))
    ambient = rng.uniform(0.2, 0.75)
    warmth = rng.normal(0.0, 0.08)
    sky = ambient * np.array([1 + warmth, 1.0, 1 - warmth]) * rng.uniform(0.8, 1.3)
    ground = ambient * np.array([1 + rng.normal(0, 0.08), 1.0, 1 + rng.normal(0, 0.08)]) * rng.uniform(0.35, 0.9)
    azimuth = rng.uniform(0, 2 * np.pi)
    return Light(
        sky=sky.astype(np.float32),
        ground=ground.astype(np.float32),
        side=(ambient * rng.uniform(-0.35, 0.35, 3)).astype(np.float32),
        side_direction=np.array([np.cos(azimuth), np.sin(azimuth) * 0.4, 0.3], np.float32),
        directions=np.asarray(directions, np.float32),
        colours=np.asarray(colours, np.float32),
        shadow=float(rng.uniform(0.3, 0.95)),
        wrap=float(rng.uniform(0.1, 0.45)),
    )


def sample_camera(rng: Rng) -> Camera:
    """Framings of portrait clips: eyes a little above the middle, some 55 px apart in 256."""
    return Camera(
        span=float(np.clip(rng.normal(29.3, 2.2), 24.5, 36.0)),
        distance=float(np.exp(rng.uniform(np.log(45.0), np.log(220.0)))),
        centre=float(rng.normal(3.1, 0.9)),
        body_yaw=float(np.clip(rng.normal(0.0, 12.0), -30, 30)),
        body_pitch=float(rng.normal(0.0, 3.0)),
        follow=float(rng.uniform(0.0, 0.3)),
    )


def sample_post(rng: Rng) -> Post:
    """From a clean camera to a bad codec."""
    poor = rng.random() < 0.5
    return Post(
        exposure=float(np.exp(rng.normal(0.0, 0.16))),
        contrast=float(rng.uniform(0.8, 1.2)),
        saturation=float(rng.uniform(0.6, 1.25)),
        gamma=float(np.exp(rng.normal(0.0, 0.12))),
        balance=tuple(float(x) for x in np.exp(rng.normal(0.0, 0.05, 3))),  # type: ignore[arg-type]
        blur=float(rng.uniform(0.0, 0.9)) if rng.random() < 0.6 else 0.0,
        shrink=float(rng.uniform(1.0, 2.0)) if rng.random() < 0.25 else 1.0,
        noise=float(rng.uniform(0.0, 0.03)) if poor else 0.0,
        quality=int(rng.integers(35, 96)) if poor else 0,
    )


def make_background(seed: int, size: int) -> Array:
    """A picture to stand before, linear RGB [size, size, 3]: gradient, fractal noise, panels or lights out of focus."""
    rng = np.random.default_rng(seed)
    canvas = 160
    y, x = np.mgrid[0:canvas, 0:canvas].astype(np.float32) / canvas
    angle = rng.uniform(0, 2 * np.pi)
    t = np.clip(0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle), 0, 1)[..., None]
    first, second = rng.uniform(0, 255, (2, 3)) * rng.uniform(0.25, 1.0)
    vivid = rng.uniform(0.0, 1.0)
    first, second = (c.mean() + (c - c.mean()) * vivid for c in (first, second))
    if rng.random() < 0.4:
        second = first * rng.uniform(0.6, 1.2)
    picture = first * (1 - t) + second * t
    kind = rng.integers(0, 5)
    if kind == 1:
        picture = picture + _fractal(rng, canvas) * rng.uniform(20, 90)
    elif kind in (2, 4):
        for _ in range(rng.integers(2, 16)):
            x0, y0 = rng.integers(-20, canvas, 2)
            w, h = (rng.gamma(2.0, 22.0, 2) + 3).astype(int)
            top, left = max(y0, 0), max(x0, 0)
            area = picture[top : max(y0 + h, 0), left : max(x0 + w, 0)]
            area += (rng.uniform(0, 255, 3) - area) * rng.uniform(0.3, 1.0)
    elif kind == 3:
        picture = np.ascontiguousarray(picture * rng.uniform(0.2, 0.7), np.float32)
        for _ in range(rng.integers(5, 40)):
            centre = tuple(int(v) for v in rng.integers(0, canvas, 2))
            colour = tuple(float(v) for v in rng.uniform(60, 255, 3))
            cv2.circle(picture, centre, int(rng.integers(2, 16)), colour, -1)
    picture = np.ascontiguousarray(picture, np.float32)
    if kind == 4:
        picture += _fractal(rng, canvas).astype(np.float32) * np.float32(rng.uniform(5, 50))
    if rng.random() < 0.85:
        picture = cv2.GaussianBlur(picture, (0, 0), float(np.exp(rng.uniform(np.log(0.5), np.log(7.0)))))
    picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if size < canvas else cv2.INTER_CUBIC)
    return linear(picture)


def _fractal(rng: Rng, size: int) -> np.ndarray:
    """Coloured fractal noise about -1..1, [size, size, 3] float32."""
    total = np.zeros((size, size, 3), np.float32)
    amplitude = 1.0
    persistence = rng.uniform(0.4, 0.75)
    for cells in (3, 6, 12, 24, 48):
        grid = rng.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        grey = grid.mean(-1, keepdims=True)
        grid = grid + (grey - grid) * 0.6
        total += amplitude * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
        amplitude *= persistence
    return total


def face_masks(template: HeadTemplate, face_map: FaceMap, person: Person, rng: Rng, brow_drop: float) -> Array:
    """Per vertex [V, 7] float32: lip, brow, beard, scalp, flush, lid shadow, eye socket, each 0..1.

    Brows (`brow_drop` cm below their landmarks) and hairline vary.
    """
    count = len(template.neutral)
    masks = np.zeros((len(person.base), 7), np.float32)
    points = template.neutral
    masks[:count, 0] = face_map.lip
    thickness = rng.uniform(0.28, 0.55)
    taper = rng.uniform(0.35, 0.8)
    distance, along = brow_coordinates(template, brow_drop)
    width = thickness * (1.0 - taper * np.clip(1.0 - along * 1.4, 0, 1))
    brow = 1.0 - distance / (2.0 * width)
    masks[:count, 1] = np.clip(brow, 0.0, 1.0) * (template.vertex_region == SKIN)
    masks[:count, 2] = face_map.beard
    style = person.hair
    if not style.bald:
        offset = points - MAP_CENTRE
        azimuth = np.degrees(np.arctan2(offset[:, 0], offset[:, 2]))
        elevation = np.degrees(np.arctan2(offset[:, 1], np.hypot(offset[:, 0], offset[:, 2])))
        ear = (np.abs(points[:, 0]) > 7.75) & (points[:, 1] < 5.8)
        scalp = smooth_step(elevation - style.end_elevation(azimuth), -5.0, 5.0)
        masks[:count, 3] = np.where(ear, 0.0, scalp) * (template.vertex_region == SKIN)
    masks[:count, 4] = face_map.cheek
    masks[:count, 5] = np.maximum(face_map.lid, 0.6 * face_map.under_eye)
    masks[:count, 6] = face_map.socket
    return masks


def face_warp(template: HeadTemplate, rng: Rng, amplitude: float = 0.12) -> Array:
    """Smooth displacement [V, 3] in cm that breaks the model's symmetry; small, and zero-mean over people."""
    waves = rng.normal(0.0, 0.22, (6, 3)).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, 6).astype(np.float32)
    ways = rng.normal(0.0, 1.0, (6, 3)).astype(np.float32)
    return (amplitude / 2.4) * np.sin(template.neutral @ waves.T + phases) @ ways
