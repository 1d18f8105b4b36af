# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""The inner loops: transform, project, rasterise, look up correspondence. Compiled with numba, one core each.

Camera space has x to the right, y up and z towards the camera; screen space is in pixels with y down and pixel
centres at +0.5. Depth is the distance along the viewing axis, in the head model's unit (cm for ICT-FaceKit).
"""

from __future__ import annotations

import math

import numpy as np

try:
    from numba import njit
except ImportError as error:  # pragma: no cover - exercised by a test that hides numba
    raise ImportError(
        "Rendering heads needs the package numba, which is not installed. Install it with `pip install numba` "
        "(or the extra `training`), or train on real clips alone."
    ) from error

EMPTY = np.float32(1e9)
"""Depth of a sample that nothing covers."""


@njit(cache=True, fastmath=True)
def lookup_noise(volume, x, y, z):
    """Value noise: trilinear reading of a periodic volume [P, P, P], P a power of two, at any point."""
    mask = volume.shape[0] - 1
    fx = math.floor(x)
    fy = math.floor(y)
    fz = math.floor(z)
    tx = x - fx
    ty = y - fy
    tz = z - fz
    tx = tx * tx * (3.0 - 2.0 * tx)
    ty = ty * ty * (3.0 - 2.0 * ty)
    tz = tz * tz * (3.0 - 2.0 * tz)
    i0 = int(fx) & mask
    j0 = int(fy) & mask
    k0 = int(fz) & mask
    i1 = (i0 + 1) & mask
    j1 = (j0 + 1) & mask
    k1 = (k0 + 1) & mask
    a = volume[i0, j0, k0] * (1 - tz) + volume[i0, j0, k1] * tz
    b = volume[i0, j1, k0] * (1 - tz) + volume[i0, j1, k1] * tz
    c = volume[i1, j0, k0] * (1 - tz) + volume[i1, j0, k1] * tz
    d = volume[i1, j1, k0] * (1 - tz) + volume[i1, j1, k1] * tz
    return (a * (1 - ty) + b * ty) * (1 - tx) + (c * (1 - ty) + d * ty) * tx


@njit(cache=True, fastmath=True)
def add_modes(weights, modes, out):
    """Adds the weighted sum of `modes` [K, N] to `out` [N]; on one thread, so that worker processes do not get in each
    other's way."""
    for k in range(weights.shape[0]):
        weight = weights[k]
        if weight != 0.0:
            row = modes[k]
            for i in range(out.shape[0]):
                out[i] += weight * row[i]


@njit(cache=True, fastmath=True)
def pose_and_project(rest, weight, rotations, pivot, shift_x, shift_y, focal, distance, height, centre, out, screen):
    """Turns each vertex by its share of the head's rotation and projects it.

    Args:
        rest: [V, 3] deformed but unposed vertices.
        weight: [V] 0 = moves with the shoulders, 1 = with the head.
        rotations: [K, 3, 3] rotations in K equal steps from the shoulders' to the head's.
        pivot: [3] point that stays in place.
        shift_x, shift_y: framing, in picture widths, y down.
        focal: pixels per unit at unit distance; distance: camera to pivot.
        height: picture height and width in pixels. centre: y of the model that falls on the picture's middle.
        out: [V, 3] written: camera space. screen: [V, 3] written: x, y in pixels, depth.
    """
    steps = rotations.shape[0] - 1
    for i in range(rest.shape[0]):
        w = weight[i] * steps
        k = int(w)
        if k >= steps:
            k = steps - 1
        t = w - k
        x = rest[i, 0] - pivot[0]
        y = rest[i, 1] - pivot[1]
        z = rest[i, 2] - pivot[2]
        for c in range(3):
            a = rotations[k, c, 0] * x + rotations[k, c, 1] * y + rotations[k, c, 2] * z
            b = rotations[k + 1, c, 0] * x + rotations[k + 1, c, 1] * y + rotations[k + 1, c, 2] * z
            out[i, c] = a + t * (b - a) + pivot[c]
        depth = distance - out[i, 2]
        if depth < 1.0:
            depth = 1.0
        factor = focal / depth
        screen[i, 0] = out[i, 0] * factor + height * (0.5 + shift_x)
        screen[i, 1] = (centre - out[i, 1]) * factor + height * (0.5 + shift_y)
        screen[i, 2] = depth


@njit(cache=True, fastmath=True)
def vertex_normals(vertices, faces, normals):
    """Area-weighted unit normals of `vertices` [V, 3] under `faces` [F, 3], written to `normals` [V, 3]."""
    normals[:] = 0.0
    for i in range(faces.shape[0]):
        a = faces[i, 0]
        b = faces[i, 1]
        c = faces[i, 2]
        ux = vertices[b, 0] - vertices[a, 0]
        uy = vertices[b, 1] - vertices[a, 1]
        uz = vertices[b, 2] - vertices[a, 2]
        wx = vertices[c, 0] - vertices[a, 0]
        wy = vertices[c, 1] - vertices[a, 1]
        wz = vertices[c, 2] - vertices[a, 2]
        x = uy * wz - uz * wy
        y = uz * wx - ux * wz
        z = ux * wy - uy * wx
        for k in (a, b, c):
            normals[k, 0] += x
            normals[k, 1] += y
            normals[k, 2] += z
    for i in range(normals.shape[0]):
        length = math.sqrt(normals[i, 0] ** 2 + normals[i, 1] ** 2 + normals[i, 2] ** 2) + 1e-12
        for c in range(3):
            normals[i, c] /= length


@njit(cache=True, fastmath=True)
def rasterise(screen, faces, fringe, noise, cull, triangle, bary, depth):
    """Z-buffer of triangles into a G-buffer.

    Args:
        screen: [V, 3] x, y in pixels, depth.
        faces: [F, 3].
        fringe: [V, 3] strand coordinate, distance along the strand, raggedness; where the distance exceeds 1 less noise
            of that amplitude the sample is cut away (ends of hair and lashes). Zero for everything else.
        noise: periodic volume for the ragged ends.
        cull: [F] nonzero = skip triangles that face away.
        triangle [H, W] int32 (-1 = nothing), bary [H, W, 2] screen-linear weights of the second and third vertex,
        depth [H, W]: written where nearer than what is there.
    """
    height, width = depth.shape
    for i in range(faces.shape[0]):
        a = faces[i, 0]
        b = faces[i, 1]
        c = faces[i, 2]
        x0 = screen[a, 0]
        y0 = screen[a, 1]
        x1 = screen[b, 0]
        y1 = screen[b, 1]
        x2 = screen[c, 0]
        y2 = screen[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        # Counter-clockwise seen from outside with y up is clockwise, a negative area, with y down.
        if abs(area) < 1e-9 or (cull[i] != 0 and area > 0.0):
            continue
        left = max(0, int(math.ceil(min(x0, x1, x2) - 0.5)))
        right = min(width - 1, int(math.floor(max(x0, x1, x2) - 0.5)))
        if left > right:
            continue
        top = max(0, int(math.ceil(min(y0, y1, y2) - 0.5)))
        bottom = min(height - 1, int(math.floor(max(y0, y1, y2) - 0.5)))
        if top > bottom:
            continue
        inverse = 1.0 / area
        # Reciprocal depth is linear on the screen.
        r0 = 1.0 / screen[a, 2]
        r1 = 1.0 / screen[b, 2]
        r2 = 1.0 / screen[c, 2]
        amplitude = fringe[a, 2]
        ragged = amplitude > 0.0 and max(fringe[a, 1], fringe[b, 1], fringe[c, 1]) > 1.0 - amplitude
        for y in range(top, bottom + 1):
            py = y + 0.5
            for x in range(left, right + 1):
                px = x + 0.5
                w1 = ((px - x0) * (y2 - y0) - (x2 - x0) * (py - y0)) * inverse
                w2 = ((x1 - x0) * (py - y0) - (px - x0) * (y1 - y0)) * inverse
                w0 = 1.0 - w1 - w2
                if w0 < 0.0 or w1 < 0.0 or w2 < 0.0:
                    continue
                z = 1.0 / (w0 * r0 + w1 * r1 + w2 * r2)
                if z >= depth[y, x]:
                    continue
                if ragged:
                    end = (w0 * fringe[a, 1] * r0 + w1 * fringe[b, 1] * r1 + w2 * fringe[c, 1] * r2) * z
                    strand = (w0 * fringe[a, 0] * r0 + w1 * fringe[b, 0] * r1 + w2 * fringe[c, 0] * r2) * z
                    cut = 0.55 + 0.45 * lookup_noise(noise, strand * 160.0, 0.0, 3.5)
                    cut = 0.4 * cut + 0.3 + 0.3 * lookup_noise(noise, strand * 32.0, 0.0, 7.5)
                    cut = 1.0 - amplitude * cut
                    if end > cut:
                        continue
                depth[y, x] = z
                triangle[y, x] = i
                bary[y, x, 0] = w1
                bary[y, x, 1] = w2


@njit(cache=True, fastmath=True)
def rasterise_depth(screen, faces, depth):
    """Nearest linear depth only, for shadows and occlusion: `screen` [V, 3], `faces` [F, 3] -> `depth` [H, W]."""
    height, width = depth.shape
    for i in range(faces.shape[0]):
        a = faces[i, 0]
        b = faces[i, 1]
        c = faces[i, 2]
        x0 = screen[a, 0]
        y0 = screen[a, 1]
        x1 = screen[b, 0]
        y1 = screen[b, 1]
        x2 = screen[c, 0]
        y2 = screen[c, 1]
        left = max(0, int(math.ceil(min(x0, x1, x2) - 0.5)))
        right = min(width - 1, int(math.floor(max(x0, x1, x2) - 0.5)))
        if left > right:
            continue
        top = max(0, int(math.ceil(min(y0, y1, y2) - 0.5)))
        bottom = min(height - 1, int(math.floor(max(y0, y1, y2) - 0.5)))
        if top > bottom:
            continue
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < 1e-9:
            continue
        inverse = 1.0 / area
        for y in range(top, bottom + 1):
            py = y + 0.5
            for x in range(left, right + 1):
                px = x + 0.5
                w1 = ((px - x0) * (y2 - y0) - (x2 - x0) * (py - y0)) * inverse
                w2 = ((x1 - x0) * (py - y0) - (px - x0) * (y1 - y0)) * inverse
                w0 = 1.0 - w1 - w2
                if w0 < 0.0 or w1 < 0.0 or w2 < 0.0:
                    continue
                z = w0 * screen[a, 2] + w1 * screen[b, 2] + w2 * screen[c, 2]
                if z < depth[y, x]:
                    depth[y, x] = z


@njit(cache=True, fastmath=True)
def count_unoccluded(points, normals, direction, depth, bias, hits, total):
    """Adds one direction's cosine-weighted visibility of each point to `hits` and the cosine to `total`.

    Args:
        points: [V, 3] x, y in pixels of the depth map and depth, as given to `rasterise_depth`.
        normals: [V, 3]; direction: [3] unit vector towards the light, both in the space before projection.
        depth: [H, W]; bias: depth slack.
    """
    height, width = depth.shape
    for i in range(points.shape[0]):
        cosine = normals[i, 0] * direction[0] + normals[i, 1] * direction[1] + normals[i, 2] * direction[2]
        if cosine <= 0.0:
            continue
        total[i] += cosine
        x = int(points[i, 0])
        y = int(points[i, 1])
        if x < 0 or y < 0 or x >= width or y >= height or points[i, 2] - bias <= depth[y, x]:
            hits[i] += cosine


@njit(cache=True, fastmath=True)
def correspond(
    triangle,
    bary,
    screen_target,
    faces,
    region,
    camera_source,
    triangle_source,
    depth_source,
    focal_scale,
    centre_x,
    centre_y,
    middle,
    distance,
    sub,
    slack,
    flow,
    visible,
):
    """Where each pixel of one render lies in another render of the same person.

    Args:
        triangle [H*sub, W*sub], bary [.., 2], screen_target [V, 3]: the target's G-buffer and projected vertices.
        faces [F, 3], region [F]: topology, and what each face belongs to (a lid never counts as an eyeball).
        camera_source [V, 3], triangle_source, depth_source: the source's posed vertices and G-buffer.
        focal_scale, centre_x, centre_y, middle, distance: the source's projection in its G-buffer's pixels.
        sub: samples a pixel and side. slack: depth difference that still counts as the same surface.
        flow: [H, W, 2] written, source position in -1..1 (pixel-centre convention); visible: [H, W] written, 0..1.
    """
    height, width = visible.shape
    sub_height, sub_width = triangle.shape
    for y in range(height):
        for x in range(width):
            # The nearest sample decides which surface the pixel shows.
            best = 1e9
            best_x = 0.0
            best_y = 0.0
            for pas in range(2):
                sum_x = 0.0
                sum_y = 0.0
                count = 0
                seen = 0
                for sy in range(sub):
                    for sx in range(sub):
                        yy = y * sub + sy
                        xx = x * sub + sx
                        px = xx + 0.5
                        py = yy + 0.5
                        t = triangle[yy, xx]
                        z_target = 9e8
                        ok = False
                        if t < 0:
                            qx = px
                            qy = py
                            ok = triangle_source[yy, xx] < 0
                        else:
                            a = faces[t, 0]
                            b = faces[t, 1]
                            c = faces[t, 2]
                            w1 = bary[yy, xx, 0]
                            w2 = bary[yy, xx, 1]
                            r0 = (1.0 - w1 - w2) / screen_target[a, 2]
                            r1 = w1 / screen_target[b, 2]
                            r2 = w2 / screen_target[c, 2]
                            z_target = 1.0 / (r0 + r1 + r2)
                            r0 *= z_target
                            r1 *= z_target
                            r2 *= z_target
                            z = distance - (
                                r0 * camera_source[a, 2] + r1 * camera_source[b, 2] + r2 * camera_source[c, 2]
                            )
                            factor = focal_scale / z
                            qx = (
                                r0 * camera_source[a, 0] + r1 * camera_source[b, 0] + r2 * camera_source[c, 0]
                            ) * factor
                            qy = r0 * camera_source[a, 1] + r1 * camera_source[b, 1] + r2 * camera_source[c, 1]
                            qx += centre_x
                            qy = (middle - qy) * factor + centre_y
                            ix = int(math.floor(qx - 0.5))
                            iy = int(math.floor(qy - 0.5))
                            for dy in range(2):
                                for dx in range(2):
                                    jx = ix + dx
                                    jy = iy + dy
                                    if jx < 0 or jy < 0 or jx >= sub_width or jy >= sub_height:
                                        continue
                                    s = triangle_source[jy, jx]
                                    if s >= 0 and region[s] == region[t] and abs(depth_source[jy, jx] - z) < slack:
                                        ok = True
                        move_x = qx - px
                        move_y = qy - py
                        if pas == 0:
                            if z_target < best:
                                best = z_target
                                best_x = move_x
                                best_y = move_y
                        elif abs(move_x - best_x) + abs(move_y - best_y) < 1.5 * sub:
                            sum_x += move_x
                            sum_y += move_y
                            count += 1
                            if ok:
                                seen += 1
                if pas == 1:
                    inverse = 1.0 / max(count, 1)
                    px = (x + 0.5) * sub + sum_x * inverse
                    py = (y + 0.5) * sub + sum_y * inverse
                    flow[y, x, 0] = 2.0 * px / sub_width - 1.0
                    flow[y, x, 1] = 2.0 * py / sub_height - 1.0
                    visible[y, x] = seen / (sub * sub)


@njit(cache=True, fastmath=True)
def tone_curve(picture, exposure, exponent, balance, saturation, contrast, out):
    """Linear RGB [H, W, 3] to display values: exposure, shoulder, gamma, white balance, saturation, contrast."""
    height, width = picture.shape[:2]
    for y in range(height):
        for x in range(width):
            grey = 0.0
            for c in range(3):
                value = max(picture[y, x, c] * exposure, 0.0)
                # Linear below 0.6, then towards 1: cameras do not clip hard.
                if value > 0.6:
                    value = 1.0 - 0.4 * math.exp(-(value - 0.6) / 0.4)
                value = value**exponent * balance[c]
                out[y, x, c] = value
                grey += value / 3.0
            for c in range(3):
                value = grey + (out[y, x, c] - grey) * saturation
                out[y, x, c] = (value - 0.5) * contrast + 0.5
