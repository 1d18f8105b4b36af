"""One person: shape of the face, hair, clothes and glasses as a single mesh with texture coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import kernels
from .eyes import Eyeball, Eyes
from .geometry import (
    CLOTH,
    GLASSES,
    HAIR,
    MAP_CENTRE,
    SKIN,
    Array,
    HeadTemplate,
    Indices,
    neck_weight,
    rotation,
    skull_points,
)

Rng = np.random.Generator

HAIR_COLUMNS, HAIR_ARC_ROWS, HAIR_HANGING_ROWS = 80, 16, 9
TORSO_COLUMNS, TORSO_ROWS = 48, 14


@dataclass(frozen=True)
class HairStyle:
    """Shape of the hair. Lengths in cm, angles in degrees of elevation about the middle of the skull.

    Attributes:
        bald: no hair at all. shaved: only a shadow on the scalp.
        thickness: of the hair on the skull; crown_lift: extra on top; edge: thickness left at the hairline, 0..1.
        front, temple, sideburn, ear, nape: elevation of the hairline there; recess: rise beside the front's middle.
        fringe: how far the front falls below its hairline, in degrees; sweep: asymmetry of the fringe, -1..1.
        length: of what hangs below the hairline; tuck: azimuth where that begins; flare: outward spread; wave: size.
        raggedness: how much of the end is cut into strands, 0..1.
        lump: amplitude of large irregularities.
    """

    bald: bool = False
    shaved: bool = False
    thickness: float = 0.8
    crown_lift: float = 0.5
    edge: float = 0.25
    front: float = 37.0
    recess: float = 3.0
    temple: float = 27.0
    sideburn: float = -6.0
    ear: float = 12.0
    nape: float = -45.0
    fringe: float = 0.0
    sweep: float = 0.0
    length: float = 0.0
    tuck: float = 95.0
    flare: float = 1.0
    wave: float = 0.0
    raggedness: float = 0.6
    lump: float = 0.15

    @classmethod
    def sample(cls, rng: Rng) -> HairStyle:
        """Bald, shaved, short, medium and long styles in about the shares one meets."""
        base: dict[str, Any] = {
            "front": rng.normal(38.0, 4.0),
            "recess": rng.uniform(-1.0, 9.0),
            "temple": rng.normal(28.0, 4.0),
            "sideburn": rng.uniform(-14.0, 8.0),
            "ear": rng.uniform(10.0, 17.0),
            "nape": rng.uniform(-52.0, -30.0),
            "raggedness": rng.uniform(0.2, 1.0),
            "lump": rng.uniform(0.05, 0.35),
            "sweep": rng.uniform(-1.0, 1.0),
            "crown_lift": rng.uniform(0.0, 1.6),
        }
        kind = rng.random()
        if kind < 0.05:
            return cls(bald=True, **base)
        if kind < 0.13:
            return cls(shaved=True, thickness=0.05, **{**base, "crown_lift": 0.0, "lump": 0.0})
        fringe = rng.uniform(4.0, 22.0) if rng.random() < 0.35 else 0.0
        edge = rng.uniform(0.4, 0.9) if fringe else rng.uniform(0.05, 0.6)
        if kind < 0.6:
            return cls(thickness=rng.uniform(0.25, 1.4), edge=edge, fringe=fringe, **base)
        return cls(
            thickness=rng.uniform(0.5, 1.6),
            edge=edge,
            fringe=fringe,
            length=rng.uniform(3.0, 22.0),
            tuck=rng.uniform(62.0, 120.0),
            flare=rng.uniform(-0.5, 2.2),
            wave=rng.uniform(0.0, 0.8) * (rng.random() < 0.6),
            **{**base, "ear": rng.uniform(4.0, 14.0), "sideburn": rng.uniform(0.0, 12.0)},
        )

    def end_elevation(self, azimuth: Array) -> Array:
        """Elevation of the hairline at an azimuth (degrees, 0 = front), both [..]."""
        knots = np.array([0.0, 28.0, 50.0, 64.0, 73.0, 82.0, 92.0, 104.0, 116.0, 135.0, 180.0])
        front = self.front
        ends = np.array(
            [
                front,
                front + self.recess,
                self.temple + 3.0,
                self.temple - 4.0,
                self.sideburn + 3.0,
                self.sideburn,
                self.ear,
                self.ear - 4.0,
                -14.0,
                (self.nape - 20.0) / 2.0,
                self.nape,
            ]
        )
        return np.interp(np.abs(azimuth), knots, ends).astype(np.float32)


@dataclass(frozen=True)
class Outfit:
    """Shape of the clothes. Lengths in cm.

    Attributes:
        collar: its height at the neck's sides. depth: how far the neckline falls in front; pointed: 0 is round.
        stand: height of a standing collar. slope: of the shoulders. width: of the neckline beyond the neck.
        shoulder: half the shoulders' width.
    """

    collar: float = -10.0
    depth: float = 2.5
    pointed: float = 0.3
    stand: float = 0.5
    slope: float = 0.3
    width: float = 0.4
    shoulder: float = 21.0

    @classmethod
    def sample(cls, rng: Rng) -> Outfit:
        """Round and pointed necklines, with and without a standing collar."""
        return cls(
            collar=rng.uniform(-11.0, -8.6),
            depth=rng.uniform(0.5, 6.0),
            pointed=rng.uniform(0.0, 1.0),
            stand=rng.choice([0.3, 0.6, 1.6, 2.4]),
            slope=rng.uniform(0.2, 0.42),
            width=rng.uniform(0.0, 1.2),
            shoulder=rng.uniform(18.0, 24.0),
        )


@dataclass(frozen=True)
class Person:
    """A person's mesh at rest and the coordinates their textures hang on.

    Attributes:
        base: [V, 3] neutral vertices: the face model's first, then hair, clothes, glasses.
        faces: [F, 3]; region: [F]; cull: [F] 1 where a triangle's back is never seen.
        casters: [C, 3] the faces that cast shadows.
        rest: [V, 3] where the vertex lies in the mean head: coordinates for textures.
        texture: [V, 2] strand coordinate and distance along the strand for hair, azimuth and row for clothes.
        fringe: [V, 3] the same with the raggedness for hair and lashes, 0 elsewhere.
        head_weight: [V]. occlusion: [V]. eyeballs: the person's own, the viewer's left one first.
        eyes, hair, outfit: what these parts were made from.
    """

    template: HeadTemplate
    base: Array
    faces: Indices
    region: np.ndarray
    cull: np.ndarray
    casters: Indices
    rest: Array
    texture: Array
    fringe: Array
    head_weight: Array
    occlusion: Array
    eyeballs: tuple[Eyeball, ...]
    eyes: Eyes
    hair: HairStyle
    outfit: Outfit

    def deform(self, weights: Array, gaze_yaw: float, gaze_pitch: float) -> Array:
        """Vertices [V, 3] with an expression (weights [E]) and the eyes turned by the given degrees, unposed.

        Gaze follows the head's convention: positive yaw to the viewer's right, positive pitch down.
        """
        vertices = self.base.copy()
        count = len(self.template.neutral)
        head = vertices[:count]
        weights = self.eyes.at_rest(self.template, weights)
        for index in np.nonzero(weights)[0]:
            head += weights[index] * self.template.expressions[index]
        turn = rotation(gaze_yaw, gaze_pitch, 0.0)
        for eyeball in self.eyeballs:
            eyeball.move(head, turn)
        return vertices


@dataclass(frozen=True)
class _Part:
    vertices: Array
    faces: Indices
    region: int
    texture: Array
    head_weight: Array
    occlusion: Array
    fringe: Array
    rest: Array


def make_person(
    template: HeadTemplate,
    identity: Array,
    hair: HairStyle,
    outfit: Outfit,
    glasses: bool = False,
    warp: Array | None = None,
    rng: Rng | None = None,
    eyes: Eyes | None = None,
) -> Person:
    """Builds one person's mesh.

    Args:
        template: the shared model.
        identity: [I] weights of the identity modes, standard deviations.
        hair, outfit: shapes of the extra parts.
        glasses: whether to wear any.
        warp: [V, 3] further displacement of the face in cm (asymmetry), or None.
        rng: source of the small irregularities of hair and glasses.
        eyes: how they lie; the head model's own if None.
    """
    rng = rng if rng is not None else np.random.default_rng(0)
    eyes = eyes or Eyes()
    count = len(template.neutral)
    base = template.neutral + eyes.displacement(template)
    kernels.add_modes(identity.astype(np.float32), template.identity, base.reshape(-1))
    if warp is not None:
        base = base + warp
    base = base.astype(np.float32)
    parts = [_torso(base, template, outfit)]
    if not hair.bald and not hair.shaved:
        parts.append(_hair(template, base, hair, rng))
    if glasses:
        parts.append(_glasses(template, base, rng))
    # The bust below the collar is never seen; left in, it might poke through the clothes.
    kept = template.face_top >= outfit.collar - outfit.depth - 4.0
    offsets = np.cumsum([count] + [len(part.vertices) for part in parts])
    faces = np.concatenate([template.faces[kept]] + [p.faces + o for p, o in zip(parts, offsets, strict=False)])
    region = np.concatenate([template.region[kept]] + [np.full(len(p.faces), p.region, np.uint8) for p in parts])
    faces = np.ascontiguousarray(faces, np.int32)
    casts = np.isin(region, (SKIN, HAIR, CLOTH, GLASSES))
    zeros = np.zeros((count, 2), np.float32)
    return Person(
        template=template,
        base=np.concatenate([base] + [p.vertices for p in parts]).astype(np.float32),
        faces=faces,
        region=region.astype(np.uint8),
        casters=np.ascontiguousarray(faces[casts]),
        cull=(region < 4).astype(np.uint8),
        rest=np.concatenate([template.neutral] + [p.rest for p in parts]).astype(np.float32),
        texture=np.concatenate([zeros] + [p.texture for p in parts]).astype(np.float32),
        fringe=np.concatenate([template.lash_fringe] + [p.fringe for p in parts]).astype(np.float32),
        head_weight=np.concatenate([template.head_weight] + [p.head_weight for p in parts]).astype(np.float32),
        occlusion=np.concatenate([template.occlusion] + [p.occlusion for p in parts]).astype(np.float32),
        eyeballs=tuple(Eyeball.of(template, part, centre, base) for part, centre in template.eyes),
        eyes=eyes,
        hair=hair,
        outfit=outfit,
    )


def _grid_faces(rows: int, columns: int, closed: bool) -> Indices:
    """Triangles of a grid of vertices numbered row by row; `closed` joins the last column to the first."""
    wide = columns if closed else columns - 1
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(wide), indexing="ij")
    following = (column + 1) % columns
    a, b = row * columns + column, row * columns + following
    c, d = a + columns, (row + 1) * columns + following
    return np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)]).astype(
        np.int32
    )


def _waves(rng: Rng, angle: Array, count: int = 5) -> npt.NDArray[np.floating]:
    """A smooth periodic function of an angle in radians with values about -1..1."""
    total = np.zeros_like(angle)
    for order in range(1, count + 1):
        total += rng.normal() / order * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    return total / 1.5


def _hair(template: HeadTemplate, base: Array, style: HairStyle, rng: Rng) -> _Part:
    """A shell combed from the crown to the hairline, and what hangs below it; rows run along the strands."""
    azimuth = np.linspace(-180.0, 180.0, HAIR_COLUMNS, dtype=np.float32)
    radians = np.radians(azimuth)
    end: npt.NDArray[np.floating] = style.end_elevation(azimuth)
    end = end + 8.0 * style.lump * _waves(rng, radians, 7)
    # Strands are cut raggedly; what is cut off lies below the hairline.
    end = end - (89.0 - end) * 0.17 * style.raggedness
    front = np.clip(1.0 - np.abs(azimuth) / 62.0, 0.0, 1.0) ** 0.6
    end = end - style.fringe * front * (1.0 + 0.5 * style.sweep * np.sin(radians * 1.5))
    arc = np.linspace(0.0, 1.0, HAIR_ARC_ROWS, dtype=np.float32)[:, None] ** 0.85
    elevation = 89.0 + (end - 89.0) * arc
    grid_azimuth = np.broadcast_to(azimuth, elevation.shape)
    skull = skull_points(template, base, grid_azimuth, elevation.astype(np.float32))
    outward = skull - MAP_CENTRE
    outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
    profile = style.edge + (1.0 - style.edge) * np.clip((1.0 - arc) / 0.3, 0.0, 1.0) ** 0.7
    hang = np.clip((np.abs(azimuth) - style.tuck) / 12.0, 0.0, 1.0) if style.length > 0 else np.zeros_like(azimuth)
    profile = profile + (1.0 - profile) * hang
    lumps = 1.0 + style.lump * (_waves(rng, radians, 6) * (0.4 + arc) + 0.6 * _waves(rng, radians * 2 + arc * 5, 5))
    thickness = style.thickness * profile * np.clip(lumps, 0.3, 2.0)
    top = np.clip((elevation - 20.0) / 50.0, 0.0, 1.0)
    part_line = 1.0 - 0.5 * np.exp(-((skull[..., 0] - 2.2 * style.sweep) ** 2) / 0.5) * (skull[..., 2] > -4.0) * top
    thickness = (thickness + style.crown_lift * top * np.clip(profile, 0, 1)) * part_line + 0.06
    shell = skull + outward * thickness[..., None]
    rows = [shell]
    v = [np.broadcast_to(arc, shell.shape[:2])]
    total = HAIR_ARC_ROWS
    if style.length > 0:
        last = shell[-1]
        away = np.stack([np.sin(radians), np.zeros_like(radians), np.cos(radians)], -1)
        phase = rng.uniform(0, 6.28) + 0.6 * _waves(rng, radians, 6)
        ragged_length = style.length * (1.0 + 0.06 * _waves(rng, radians, 8))
        for step in range(1, HAIR_HANGING_ROWS + 1):
            t = step / HAIR_HANGING_ROWS
            drop = hang * ragged_length * t
            spread = hang * (
                style.flare * t * (1.6 - t) + 0.9 * min(1.0, 4 * t) + style.wave * np.sin(phase + drop * 0.9)
            )
            point = last + away * spread[:, None]
            point[:, 1] -= drop
            rows.append(point[None])
            v.append(np.broadcast_to(np.float32(t), (1, HAIR_COLUMNS)))
        total += HAIR_HANGING_ROWS
    vertices = np.concatenate(rows).astype(np.float32)
    hanging = hang > 0.02
    along = np.concatenate(v).astype(np.float32)
    # Where hair goes on hanging, the end of the arc is no end of the strands.
    arc_v = along[:HAIR_ARC_ROWS]
    along[:HAIR_ARC_ROWS] = np.where(hanging, arc_v * 0.4, arc_v)
    if style.length > 0:
        along[HAIR_ARC_ROWS:] = np.where(hanging, 0.4 + 0.6 * along[HAIR_ARC_ROWS:], 1.0)
    faces = _grid_faces(total, HAIR_COLUMNS, closed=False)
    flat = np.abs(np.linalg.norm(np.cross(*_edges(vertices.reshape(-1, 3), faces)), axis=1)) < 1e-6
    strand = np.broadcast_to(azimuth / 180.0, along.shape)
    texture = np.stack([strand, along], -1).reshape(-1, 2)
    fringe = np.concatenate([texture, np.full((len(texture), 1), 0.25 * style.raggedness, np.float32)], 1)
    rest = vertices.reshape(-1, 3)
    depth_below = np.zeros((total, HAIR_COLUMNS), np.float32)
    if style.length > 0:
        depth_below[HAIR_ARC_ROWS:] = np.linspace(0.1, 1.0, HAIR_HANGING_ROWS)[:, None]
    weight = 1.0 - np.clip(depth_below * style.length / 30.0, 0.0, 0.6)
    occlusion = np.broadcast_to(0.55 + 0.45 * np.clip(1.2 - 0.5 * along, 0.0, 1.0), along.shape)
    return _Part(
        rest, faces[~flat], HAIR, texture, weight.reshape(-1), occlusion.reshape(-1).copy(), fringe, rest.copy()
    )


def _edges(vertices: Array, faces: Indices) -> tuple[Array, Array]:
    return vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]]


def _torso(base: Array, template: HeadTemplate, outfit: Outfit) -> _Part:
    """Clothes: rings from the inside of the collar over its rim to the shoulders and the chest."""
    angle = np.linspace(0.0, 2 * np.pi, TORSO_COLUMNS, endpoint=False, dtype=np.float32)
    side, front = np.sin(angle), np.cos(angle)
    ring = (template.neutral[:, 1] > -9.5) & (template.neutral[:, 1] < -6.0) & (template.neutral[:, 2] < 0)
    neck = base[ring & (template.vertex_region == SKIN)]
    half = float(np.abs(neck[:, 0]).max()) if len(neck) else 5.5
    width = half + 0.7 + outfit.width
    drop_front = np.clip(front, 0.0, 1.0) ** (1.2 + 4.0 * outfit.pointed) * outfit.depth
    rim = outfit.collar - drop_front + 1.2 * np.clip(-front, 0.0, 1.0)
    depth_front, depth_back = 5.6 + 0.45 * drop_front, 4.6
    depth = np.where(front > 0, depth_front, depth_back)
    middle = -2.6
    rows, texture_v = [], []
    stand = outfit.stand * (0.35 + 0.65 * np.clip(0.4 - front, 0.0, 1.0))
    rows.append(np.stack([side * width * 0.93, rim - 1.2, middle + front * depth * 0.93], -1))
    rows.append(np.stack([side * width * 0.97, rim + stand, middle + front * depth * 0.97], -1))
    rows.append(np.stack([side * width * 1.03, rim + stand * 0.85, middle + front * depth * 1.03], -1))
    texture_v += [-0.1, 0.0, 0.03]
    for s in np.linspace(0.0, 1.0, TORSO_ROWS):
        wide = (outfit.shoulder - width) * s
        deep = np.where(front > 0, 6.5, 7.0) * s**0.8
        over = np.clip((s - 0.75) / 0.25, 0.0, 1.0)
        fall_side = outfit.slope * wide + 9.0 * over**2
        fall_front = 16.0 * s**1.15 - 0.3 * drop_front * (1 - s) * s
        fall = side**2 * fall_side + (1.0 - side**2) * fall_front
        # A thickness beyond the bust keeps the cloth off the skin.
        rows.append(
            np.stack([side * (width * 1.06 + wide), rim - 0.1 - fall, middle + front * (depth * 1.06 + deep)], -1)
        )
        texture_v.append(0.05 + 0.95 * s)
    vertices = np.concatenate(rows).astype(np.float32)
    count = len(rows)
    faces = _grid_faces(count, TORSO_COLUMNS, closed=True)
    u = np.tile(angle / np.pi, count)
    texture = np.stack([u, np.repeat(np.array(texture_v, np.float32), TORSO_COLUMNS)], -1)
    occlusion = np.clip(0.55 + 1.2 * texture[:, 1], 0.3, 1.0).astype(np.float32)
    weight = neck_weight(vertices) * 0.25
    return _Part(
        vertices, faces, CLOTH, texture, weight, occlusion, np.zeros((len(vertices), 3), np.float32), vertices.copy()
    )


def _tube(path: Array, radius: float, closed: bool, sides: int = 6) -> tuple[Array, Indices]:
    """A tube of `radius` along `path` [N, 3]."""
    ahead = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True) + 1e-9
    helper = np.where(np.abs(ahead[:, 1:2]) < 0.8, np.array([[0.0, 1.0, 0.0]]), np.array([[1.0, 0.0, 0.0]]))
    across = np.cross(ahead, helper)
    across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-9
    other = np.cross(ahead, across)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    rings = across[:, None] * np.cos(angle)[:, None] + other[:, None] * np.sin(angle)[:, None]
    vertices = (path[:, None] + radius * rings).reshape(-1, 3)
    faces = _grid_faces(len(path), sides, closed=True)
    if closed:
        last, first = (len(path) - 1) * sides, 0
        column = np.arange(sides)
        a, b, c, d = last + column, last + (column + 1) % sides, first + column, first + (column + 1) % sides
        faces = np.concatenate([faces, np.stack([a, c, b], -1), np.stack([b, c, d], -1)]).astype(np.int32)
    return vertices.astype(np.float32), faces


def _glasses(template: HeadTemplate, base: Array, rng: Rng) -> _Part:
    """Two rims, a bridge and temples, sitting on the person's own eyes, nose and ears."""
    landmarks = base[template.landmarks]
    left, right = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    half_width = rng.uniform(2.3, 2.9)
    half_height = rng.uniform(1.5, 2.3)
    power = rng.uniform(2.0, 4.0)
    radius = rng.uniform(0.06, 0.2)
    front = max(float(landmarks[27, 2]) + 0.5, float(left[2]) + 2.0)
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    pieces: list[tuple[Array, Indices]] = []
    for centre in (left, right):
        x = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** (2 / power) * half_width
        y = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** (2 / power) * half_height
        outer = np.sign(centre[0]) * x > 0
        path = np.stack([centre[0] + x, centre[1] - 0.25 + y, front - 0.10 * np.abs(x) * outer - 0.12 * np.abs(x)], -1)
        pieces.append(_tube(path, radius, closed=True))
        side = np.sign(centre[0])
        start = np.array([centre[0] + side * half_width, centre[1] + 0.3, front - 0.22 * half_width])
        end = np.array([side * (abs(float(base[:, 0].max())) - 1.0), centre[1] + 0.2, 0.5])
        middle = np.array([side * (abs(start[0]) + 1.4), centre[1] + 0.3, start[2] - 1.5])
        t = np.linspace(0, 1, 10)[:, None]
        pieces.append(_tube((1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end, radius, closed=False))
    t = np.linspace(-1, 1, 8)[:, None]
    gap = (right[0] - left[0]) / 2 - half_width
    arch = np.array([[1.0, 0, 0]]) * t * gap + np.array([[0.0, 0.4, 0.15]]) * (1 - t**2)
    pieces.append(_tube(arch + np.array([(left[0] + right[0]) / 2, left[1] + 0.2, front - 0.2]), radius, closed=False))
    vertices = np.concatenate([p[0] for p in pieces])
    offsets = np.cumsum([0] + [len(p[0]) for p in pieces])
    faces = np.concatenate([p[1] + o for p, o in zip(pieces, offsets, strict=False)]).astype(np.int32)
    zero = np.zeros((len(vertices), 2), np.float32)
    one = np.ones(len(vertices), np.float32)
    return _Part(
        vertices, faces, GLASSES, zero, one, one * 0.9, np.zeros((len(vertices), 3), np.float32), vertices.copy()
    )
