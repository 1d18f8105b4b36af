"""Head geometry: an ICT-FaceKit export, and the people made from it.

The model's space has x to the viewer's right, y up, z towards the viewer, in centimetres; the head's middle lies near
the origin and the neutral face looks along +z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from ...errors import DPEError
from . import kernels

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int32]

SKIN, MOUTH, TEETH, EYE, LASH, HAIR, CLOTH, GLASSES = range(8)
"""What a triangle is made of."""

MATERIAL_REGION = {
    "M_Face": SKIN,
    "M_BackHead": SKIN,
    "M_GumsTongue": MOUTH,
    "M_Teeth": TEETH,
    "M_ScleraLeft": EYE,
    "M_ScleraRight": EYE,
    "M_EyeLashes": LASH,
}
"""Materials that are drawn; the others (iris discs, tear film, occlusion shells) are transparent in life."""

NECK_PIVOT = np.array([0.0, -4.5, -2.0], np.float32)
"""The point about which the head turns: between the joint at the skull and the middle of the neck."""

MAP_AZIMUTHS, MAP_ELEVATIONS = 180, 80
MAP_LOW, MAP_HIGH = -70.0, 90.0
MAP_CENTRE = np.array([0.0, 3.0, -0.5], np.float32)


class HeadModelError(DPEError):
    """A head model file cannot be used: missing, or lacking fields; the message names the path and the field."""


@dataclass(frozen=True)
class ICTFaceKit:
    """An export of ICT-FaceKit (USC ICT, MIT licence) as one .npz without pickled objects.

    Fields of the file: `neu` [V, 3] float, `ids` [I, V, 3] and `exs` [E, V, 3] displacements, `names` [E] str,
    `faces` [F, 3] int, `mat` [F] int, `matnames` [M] str, `lm` [68] int (vertex of each of the 68 landmarks).

    Attributes:
        neutral: [V, 3] float32, cm.
        identity_modes: [I, V, 3], one standard deviation each.
        expression_modes: [E, V, 3], displacement at weight 1.
        expression_names: E names like "jawOpen", "eyeBlink_L".
        faces: [F, 3] int32, counter-clockwise from outside.
        materials: [F] int, index into `material_names`.
        landmarks: [68] vertex indices in the order of the 300-W annotation.
    """

    neutral: Array
    identity_modes: npt.NDArray[np.floating]
    expression_modes: npt.NDArray[np.floating]
    expression_names: tuple[str, ...]
    faces: Indices
    materials: npt.NDArray[np.integer]
    material_names: tuple[str, ...]
    landmarks: npt.NDArray[np.integer]

    @classmethod
    def load(cls, path: str | Path) -> ICTFaceKit:
        """Reads an export.

        Raises:
            HeadModelError: no such file, not an .npz, fields missing or of shapes that do not fit together.
        """
        path = Path(path)
        if not path.is_file():
            raise HeadModelError(
                f"Expected an ICT-FaceKit export (.npz) at {path}, found no file. Export the model (the "
                "docstring of ICTFaceKit lists the fields) and pass its path."
            )
        try:
            with np.load(path, allow_pickle=False) as file:
                data = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError) as error:
            raise HeadModelError(f"{path}: expected an .npz of plain arrays, could not read it: {error}.") from error
        wanted = ("neu", "ids", "exs", "names", "faces", "mat", "matnames", "lm")
        missing = [name for name in wanted if name not in data]
        if missing:
            raise HeadModelError(f"{path}: expected the fields {', '.join(wanted)}; missing: {', '.join(missing)}.")
        vertices = data["neu"].shape[0]
        expected = {
            "neu": (vertices, 3),
            "ids": (data["ids"].shape[0], vertices, 3),
            "exs": (len(data["names"]), vertices, 3),
            "faces": (data["faces"].shape[0], 3),
            "mat": (data["faces"].shape[0],),
            "lm": (68,),
        }
        for name, shape in expected.items():
            if data[name].shape != shape:
                raise HeadModelError(f"{path}: expected {name} of shape {shape}, got {data[name].shape}.")
        if data["faces"].min() < 0 or data["faces"].max() >= vertices or data["lm"].max() >= vertices:
            raise HeadModelError(
                f"{path}: faces or landmarks point at vertices that do not exist ({vertices} vertices)."
            )
        return cls(
            neutral=data["neu"].astype(np.float32),
            identity_modes=data["ids"],
            expression_modes=data["exs"],
            expression_names=tuple(str(name) for name in data["names"]),
            faces=np.ascontiguousarray(data["faces"], np.int32),
            materials=data["mat"],
            material_names=tuple(str(name) for name in data["matnames"]),
            landmarks=data["lm"],
        )


@dataclass(frozen=True)
class HeadTemplate:
    """What all people share: the drawn part of the model and everything worked out from it once.

    Attributes:
        neutral [V, 3], identity [I, V*3], expressions [E, V, 3], expression_names, faces [F, 3], region [F].
        vertex_region [V] uint8. landmarks [68].
        eyes: vertex ranges and rest centre of the two eyeballs, the viewer's left one first.
        occlusion [V]: share of the sky that reaches each vertex, 0..1.
        head_weight [V]: 0 = stays with the shoulders, 1 = turns with the head.
        face_top [F]: height of the highest vertex of each face. lash_fringe [V, 3]: see `kernels.rasterise`.
        map_vertices [E, A, 3], map_weights [E, A, 3]: the skull without ears as seen from `MAP_CENTRE`, a table over
            elevation and azimuth of the triangle hit.
    """

    neutral: Array
    identity: Array
    expressions: Array
    expression_names: tuple[str, ...]
    faces: Indices
    region: npt.NDArray[np.uint8]
    vertex_region: npt.NDArray[np.uint8]
    landmarks: npt.NDArray[np.int64]
    eyes: tuple[tuple[Indices, Array], ...]
    occlusion: Array
    head_weight: Array
    face_top: Array
    lash_fringe: Array
    map_vertices: Indices
    map_weights: Array

    def expression_index(self, name: str) -> int:
        """Position of a blendshape in a weight vector.

        Raises:
            HeadModelError: the model has no blendshape of this name.
        """
        try:
            return self.expression_names.index(name)
        except ValueError as error:
            raise HeadModelError(
                f"Expected one of the blendshapes {', '.join(self.expression_names)}; got {name!r}."
            ) from error

    @classmethod
    def build(cls, kit: ICTFaceKit) -> HeadTemplate:
        """Selects what is drawn and works out occlusion, neck weights, eyes and the skull map (about 1 s)."""
        region_of_material = np.array([MATERIAL_REGION.get(name, 255) for name in kit.material_names], np.uint8)
        region = region_of_material[kit.materials]
        kept = region < 255
        if not kept.any() or not (region == SKIN).any():
            raise HeadModelError(
                f"Expected materials named {', '.join(MATERIAL_REGION)}; got {', '.join(kit.material_names)}."
            )
        kept &= ~_behind_sockets(kit, region)
        used, compact = np.unique(kit.faces[kept], return_inverse=True)
        faces = np.ascontiguousarray(compact.reshape(-1, 3), np.int32)
        region = region[kept]
        order = np.full(len(kit.neutral), -1, np.int64)
        order[used] = np.arange(len(used))
        neutral = np.ascontiguousarray(kit.neutral[used])
        occlusion = ambient_occlusion(neutral, faces)
        # The lining of mouth, nostrils and eye sockets is one surface with the skin; no light reaches it at rest.
        region[(region == SKIN) & (occlusion[faces] < 0.04).all(1)] = MOUTH
        vertex_region = np.zeros(len(used), np.uint8)
        for value in (SKIN, MOUTH, TEETH, EYE, LASH):
            vertex_region[faces[region == value].ravel()] = value
        expressions = np.ascontiguousarray(kit.expression_modes[:, used], np.float32)
        head_weight = neck_weight(neutral)
        eyes = _find_eyes(neutral, faces, region)
        opened = neutral.copy()
        if "jawOpen" in kit.expression_names:
            opened += 0.7 * expressions[kit.expression_names.index("jawOpen")]
        inside = np.isin(vertex_region, (MOUTH, TEETH))
        occlusion[inside] = ambient_occlusion(opened, faces)[inside]
        map_vertices, map_weights = _skull_map(neutral, faces, region)
        return cls(
            neutral=neutral,
            identity=np.ascontiguousarray(kit.identity_modes[:, used], np.float32).reshape(len(kit.identity_modes), -1),
            expressions=expressions,
            expression_names=kit.expression_names,
            faces=faces,
            region=region,
            vertex_region=vertex_region,
            landmarks=order[kit.landmarks],
            eyes=eyes,
            occlusion=occlusion,
            head_weight=head_weight,
            face_top=neutral[faces, 1].max(1),
            lash_fringe=_lash_fringe(neutral, vertex_region),
            map_vertices=map_vertices,
            map_weights=map_weights,
        )


def _behind_sockets(kit: ICTFaceKit, region: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Faces [F] bool of the eyeballs' rear halves, which no gaze brings to light."""
    middle = kit.neutral[kit.faces].mean(1)
    result = np.zeros(len(region), bool)
    for side in (-1.0, 1.0):
        ball = (region == EYE) & (middle[:, 0] * side > 0)
        if ball.any():
            low, high = middle[ball, 2].min(), middle[ball, 2].max()
            result |= ball & (middle[:, 2] < 0.6 * low + 0.4 * high)
    return result


def _find_eyes(neutral: Array, faces: Indices, region: npt.NDArray[np.uint8]) -> tuple[tuple[Indices, Array], ...]:
    """Vertices and centre (least-squares sphere) of each eyeball, the viewer's left one first."""
    vertices = np.unique(faces[region == EYE])
    eyes = []
    for side in (-1.0, 1.0):
        part = vertices[neutral[vertices, 0] * side > 0]
        if len(part) < 4:
            continue
        points = neutral[part].astype(np.float64)
        system = np.c_[2.0 * points, np.ones(len(points))]
        solution = np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0]
        eyes.append((part.astype(np.int32), solution[:3].astype(np.float32)))
    return tuple(eyes)


def _lash_fringe(neutral: Array, vertex_region: npt.NDArray[np.uint8]) -> Array:
    """How lashes, modelled as solid strips, thin out from the lid: [V, 3] as `kernels.rasterise` takes it."""
    fringe = np.zeros((len(neutral), 3), np.float32)
    lash = np.nonzero(vertex_region == LASH)[0]
    if len(lash) == 0:
        return fringe
    skin = neutral[vertex_region == SKIN]
    distance, _ = cKDTree(skin).query(neutral[lash])
    middle = np.median(neutral[lash, 1])
    fringe[lash, 0] = neutral[lash, 0] / 7.0
    # Lower lashes are short and sparse.
    fringe[lash, 1] = np.clip(distance / np.where(neutral[lash, 1] > middle, 0.5, 0.15), 0.0, 1.2)
    fringe[lash, 2] = 1.0
    return fringe


def neck_weight(points: Array) -> Array:
    """How far each rest point [V, 3] follows the head: 1 down to jaw and nape, falling smoothly to 0 at the collar.

    The border slants forwards and down, as the jaw lies lower than the base of the skull.
    """
    height = points[:, 1] + 0.5 * np.clip(points[:, 2], -8.0, 10.0)
    return smooth_step(height, -14.5, -5.0).astype(np.float32)


def smooth_step(values: Array, low: float, high: float) -> Array:
    """0 up to `low`, 1 from `high` on, with zero slope at both."""
    t = np.clip((values - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def segment_distance(points: Array, line: Array) -> tuple[Array, Array]:
    """Distance of points [V, 3] from a polyline [N, 3], and how far along it (0..1) the nearest point lies."""
    best = np.full(len(points), 1e9, np.float32)
    along = np.zeros(len(points), np.float32)
    for index, (a, b) in enumerate(zip(line[:-1], line[1:], strict=True)):
        ab = b - a
        t = np.clip(((points - a) @ ab) / (ab @ ab + 1e-9), 0, 1)
        distance = np.linalg.norm(points - (a + t[:, None] * ab), axis=1)
        nearer = distance < best
        best = np.where(nearer, distance, best)
        along = np.where(nearer, (index + t) / (len(line) - 1), along)
    return best, along


def sphere_directions(count: int) -> Array:
    """`count` directions spread evenly over the sphere (golden-angle spiral), [count, 3]."""
    index = np.arange(count) + 0.5
    z = 1.0 - 2.0 * index / count
    angle = math.pi * (1.0 + math.sqrt(5.0)) * index
    radius = np.sqrt(1.0 - z * z)
    return np.stack([radius * np.cos(angle), z, radius * np.sin(angle)], 1).astype(np.float32)


def look_along(direction: Array) -> Array:
    """Rotation [3, 3] whose third row is `direction`, so that points turned by it have their depth towards it last."""
    up = np.array([0.0, 1.0, 0.0]) if abs(direction[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    right = np.cross(up, direction)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(direction, right), direction]).astype(np.float32)


def ambient_occlusion(vertices: Array, faces: Indices, directions: int = 48, size: int = 192) -> Array:
    """Cosine-weighted share of directions from which each vertex [V, 3] is seen, 0..1, by depth maps."""
    normals = np.empty_like(vertices)
    kernels.vertex_normals(vertices, faces, normals)
    middle = (vertices.min(0) + vertices.max(0)) / 2
    radius = float(np.linalg.norm(vertices - middle, axis=1).max()) + 1e-3
    hits = np.zeros(len(vertices), np.float32)
    total = np.full(len(vertices), 1e-6, np.float32)
    for direction in sphere_directions(directions):
        points = (vertices - middle) @ look_along(direction).T
        points[:, :2] = (points[:, :2] / radius * 0.5 + 0.5) * size
        points[:, 2] = -points[:, 2]
        points = np.ascontiguousarray(points, np.float32)
        depth = np.full((size, size), kernels.EMPTY, np.float32)
        kernels.rasterise_depth(points, faces, depth)
        kernels.count_unoccluded(points, normals, direction, depth, np.float32(0.25), hits, total)
    return np.clip(hits / total, 0.0, 1.0)


def _spherical(points: Array) -> tuple[Array, Array, Array]:
    """Azimuth (0 = forwards, positive to +x), elevation (degrees), radius of points [..., 3] about `MAP_CENTRE`."""
    offset = points - MAP_CENTRE
    azimuth = np.degrees(np.arctan2(offset[..., 0], offset[..., 2]))
    elevation = np.degrees(np.arctan2(offset[..., 1], np.hypot(offset[..., 0], offset[..., 2])))
    return azimuth, elevation, np.linalg.norm(offset, axis=-1)


def _skull_map(neutral: Array, faces: Indices, region: npt.NDArray[np.uint8]) -> tuple[Indices, Array]:
    """For a table of directions from `MAP_CENTRE`, the vertices and weights of the skull point that lies there.

    Ears are left out, and so is the nape's far side: of several surfaces along a ray the innermost counts.
    """
    skin = faces[region == SKIN]
    azimuth, elevation, radius = _spherical(neutral)
    screen = np.empty_like(neutral)
    screen[:, 0] = (azimuth + 180.0) / 360.0 * MAP_AZIMUTHS
    screen[:, 1] = (MAP_HIGH - elevation) / (MAP_HIGH - MAP_LOW) * MAP_ELEVATIONS
    screen[:, 2] = radius
    corners = neutral[skin]
    ear = (np.abs(corners[..., 0]) > 7.9).any(1) & (corners[..., 1].mean(1) > -3.0) & (corners[..., 1].mean(1) < 6.5)
    spread = np.ptp(screen[skin][..., 0], axis=1)
    plain = skin[~ear & (spread < MAP_AZIMUTHS / 2)]
    triangle = np.full((MAP_ELEVATIONS, MAP_AZIMUTHS), -1, np.int32)
    bary = np.zeros((MAP_ELEVATIONS, MAP_AZIMUTHS, 2), np.float32)
    depth = np.full((MAP_ELEVATIONS, MAP_AZIMUTHS), kernels.EMPTY, np.float32)
    nothing = np.zeros((len(neutral), 2), np.float32)
    volume = np.zeros((2, 2, 2), np.float32)
    kernels.rasterise(screen, plain, nothing, volume, np.zeros(len(plain), np.uint8), triangle, bary, depth)
    rows, columns = np.nonzero(triangle >= 0)
    if len(rows) == 0:
        raise HeadModelError("Expected a head around the origin (cm, y up, face along +z); found no skin there.")
    holes = np.stack(np.nonzero(triangle < 0), 1)
    if len(holes):
        around = [np.stack([rows, columns + shift], 1) for shift in (-MAP_AZIMUTHS, 0, MAP_AZIMUTHS)]
        _, nearest = cKDTree(np.concatenate(around)).query(holes)
        nearest = nearest % len(rows)
        triangle[holes[:, 0], holes[:, 1]] = triangle[rows[nearest], columns[nearest]]
        bary[holes[:, 0], holes[:, 1]] = bary[rows[nearest], columns[nearest]]
    weights = np.concatenate([1.0 - bary.sum(-1, keepdims=True), bary], -1)
    return plain[triangle], weights.astype(np.float32)


def rotation(yaw: float, pitch: float, roll: float) -> Array:
    """Head rotation [3, 3] from degrees: Rz(roll) Ry(yaw) Rx(pitch).

    Positive yaw turns the face to the viewer's right, positive pitch down, positive roll tilts it counter-clockwise.
    """
    y, p, r = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return (about_z @ about_y @ about_x).astype(np.float32)


def rotation_steps(start: Array, end: Array, count: int = 33) -> Array:
    """Rotations [count, 3, 3] in equal steps from `start` to `end` about one axis."""
    relative = start.T.astype(np.float64) @ end.astype(np.float64)
    angle = math.acos(float(np.clip((np.trace(relative) - 1.0) / 2.0, -1.0, 1.0)))
    if angle < 1e-6:
        return np.repeat(end[None], count, 0)
    axis = np.array([relative[2, 1] - relative[1, 2], relative[0, 2] - relative[2, 0], relative[1, 0] - relative[0, 1]])
    axis /= 2.0 * math.sin(angle)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    t = (np.linspace(0.0, 1.0, count) * angle)[:, None, None]
    steps = np.eye(3) + np.sin(t) * cross + (1.0 - np.cos(t)) * (cross @ cross)
    return (start @ steps).astype(np.float32)


def skull_points(template: HeadTemplate, base: Array, azimuth: Array, elevation: Array) -> Array:
    """Points of a person's skull (vertices `base` [V, 3]) in given directions (degrees), [..., 3]."""
    corners = base[template.map_vertices]
    table = np.einsum("eakc,eak->eac", corners, template.map_weights)
    x = (azimuth + 180.0) / 360.0 * MAP_AZIMUTHS - 0.5
    y = np.clip((MAP_HIGH - elevation) / (MAP_HIGH - MAP_LOW) * MAP_ELEVATIONS - 0.5, 0.0, MAP_ELEVATIONS - 1.001)
    x0 = np.floor(x).astype(np.int64)
    y0 = np.floor(y).astype(np.int64)
    tx = (x - x0)[..., None]
    ty = (y - y0)[..., None]
    left, right = x0 % MAP_AZIMUTHS, (x0 + 1) % MAP_AZIMUTHS
    top = table[y0, left] * (1 - tx) + table[y0, right] * tx
    bottom = table[y0 + 1, left] * (1 - tx) + table[y0 + 1, right] * tx
    return (top * (1 - ty) + bottom * ty).astype(np.float32)
