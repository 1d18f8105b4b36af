# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Shades a G-buffer: procedural materials and light for every sample, averaged into pixels with their coverage."""

from __future__ import annotations

import math

from numba import njit

# Compiled in as constants. Numba's cache goes by this file's date alone: touch it where the numbers change.
from .geometry import CLOTH, EYE, HAIR, LASH, MOUTH, SKIN, TEETH
from .kernels import lookup_noise


@njit(cache=True, fastmath=True)
def _step(low, high, value):
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@njit(cache=True, fastmath=True)
def _skin(noise, look, px, py, pz, red, green, blue, masks):
    """Colour and gloss of skin at a point of the mean head."""
    x = px + look.offset[0]
    y = py + look.offset[1]
    z = pz + look.offset[2]
    lip, brow, beard, scalp, flush, lid, socket = masks
    coarse = lookup_noise(noise, x * 0.7, y * 0.7, z * 0.7)
    middle = lookup_noise(noise, x * 2.3, y * 2.3, z * 2.3)
    fine = lookup_noise(noise, x * 8.1, y * 8.1, z * 8.1)
    # Furrows run across the forehead and round the eyes and mouth: stretched noise.
    furrow = lookup_noise(noise, x * 0.5, y * 3.1 + 0.8 * coarse, z * 0.5)
    shade = 1.0 + look.blotch * (0.6 * coarse + 0.5 * middle) + look.pores * fine
    brow_height = _step(4.5, 7.5, py)
    shade *= 1.0 - look.wrinkles * max(0.0, furrow - 0.1) * (0.25 + 0.75 * brow_height) * (1.0 - lip)
    shade *= 1.0 - look.socket * socket * (1.0 + 0.4 * middle)
    red *= shade
    green *= shade
    blue *= shade
    amount = look.flush_amount * flush * (1.0 + 0.5 * middle)
    red *= 1.0 + amount * (look.flush[0] - 1.0)
    green *= 1.0 + amount * (look.flush[1] - 1.0)
    blue *= 1.0 + amount * (look.flush[2] - 1.0)
    if look.freckles > 0.0:
        spot = _step(0.3, 0.6, lookup_noise(noise, x * 4.7, y * 4.7, z * 4.7)) * look.freckles * min(1.0, 0.25 + flush)
        red *= 1.0 - 0.35 * spot
        green *= 1.0 - 0.5 * spot
        blue *= 1.0 - 0.6 * spot
    gloss = look.gloss * (1.0 + 0.4 * fine)
    if lid > 0.02:
        amount = lid * look.shadow_amount
        red += amount * (look.shadow[0] - red)
        green += amount * (look.shadow[1] - green)
        blue += amount * (look.shadow[2] - blue)
    if lip > 0.01:
        amount = lip * look.lip_amount
        crease = 1.0 + 0.16 * lookup_noise(noise, x * 6.0, y * 1.2, z * 6.0)
        red += amount * (look.lip[0] * crease - red)
        green += amount * (look.lip[1] * crease - green)
        blue += amount * (look.lip[2] * crease - blue)
        gloss += lip * 0.35
    if brow > 0.01:
        side = 1.0 if px > 0.0 else -1.0
        strand = lookup_noise(noise, (x * side * 0.8 - y * 0.9) * 5.0, (y + 0.6 * x * side) * 1.6, z)
        amount = look.brow_amount * _step(0.15, 0.75, brow + 0.3 * strand)
        red += amount * (look.brow[0] - red)
        green += amount * (look.brow[1] - green)
        blue += amount * (look.brow[2] - blue)
        gloss *= 1.0 - 0.7 * amount
    if beard > 0.01 and look.beard_amount > 0.0:
        f = look.beard_frequency
        strand = lookup_noise(noise, x * f, y * f * 0.5, z * f)
        amount = look.beard_amount * _step(0.1, 0.9, beard + 0.25 * strand + 0.25 * middle)
        red += amount * (look.beard[0] * (1 + 0.4 * strand) - red)
        green += amount * (look.beard[1] * (1 + 0.4 * strand) - green)
        blue += amount * (look.beard[2] * (1 + 0.4 * strand) - blue)
        gloss *= 1.0 - 0.6 * amount
    if scalp > 0.01:
        strand = lookup_noise(noise, x * 7.0, y * 2.5, z * 4.0)
        amount = look.scalp_amount * _step(0.2, 0.8, scalp + 0.35 * strand)
        red += amount * (look.hair[0] * (1 + 0.3 * strand) - red)
        green += amount * (look.hair[1] * (1 + 0.3 * strand) - green)
        blue += amount * (look.hair[2] * (1 + 0.3 * strand) - blue)
        gloss *= 1.0 - 0.7 * amount
    return red, green, blue, gloss


@njit(cache=True, fastmath=True)
def _eye(noise, look, dx, dy, dz, height):
    """Colour and gloss of an eyeball in the direction (dx, dy, dz) from its centre, gaze along +z.

    `height` is -1..1 from the ball's bottom to its top in the head: the upper lid's shadow does not turn with the gaze.
    """
    radius = 1.55 * math.sqrt(dx * dx + dy * dy)
    if dz < 0.0:
        radius = 2.0
    red = look.sclera[0]
    green = look.sclera[1]
    blue = look.sclera[2]
    vein = max(0.0, lookup_noise(noise, dx * 9.0 + look.offset[0], dy * 14.0, 5.0)) * _step(0.6, 1.4, radius)
    green *= 1.0 - 0.25 * vein
    blue *= 1.0 - 0.25 * vein
    inside = 1.0 - _step(look.iris_radius - 0.05, look.iris_radius + 0.05, radius)
    if inside > 0.0:
        angle = math.atan2(dy, dx) / math.pi * 32.0
        fibre = lookup_noise(noise, angle, radius * 3.0, look.offset[1])
        t = radius / look.iris_radius
        tone = (0.75 + 0.45 * fibre) * (1.0 + 0.5 * (1.0 - t)) * (1.0 - look.iris_rim * _step(0.72, 1.0, t))
        # Light from above crosses the iris and brightens its lower half.
        tone *= 1.0 - 0.7 * dy
        pupil = _step(look.pupil_radius - 0.04, look.pupil_radius + 0.04, radius)
        tone *= pupil
        red += inside * (look.iris[0] * tone + 0.004 - red)
        green += inside * (look.iris[1] * tone + 0.004 - green)
        blue += inside * (look.iris[2] * tone + 0.004 - blue)
    shade = 1.0 - look.eye_shade * _step(-0.25, 0.35, height)
    return red * shade, green * shade, blue * shade, look.sparkle


@njit(cache=True, fastmath=True)
def _cloth(noise, look, px, py, pz, u, v):
    """Colour of clothes: weave, stripes, checks, or a jacket over a shirt."""
    x = px + look.offset[0]
    y = py + look.offset[1]
    f = look.pattern_frequency
    mix = 0.0
    if look.pattern == 1:
        mix = _step(-0.1, 0.1, math.sin(y * f * 3.0))
    elif look.pattern == 2:
        mix = _step(-0.1, 0.1, math.sin(x * f * 3.0))
    elif look.pattern == 3:
        mix = 0.5 * _step(-0.1, 0.1, math.sin(x * f * 2.5)) + 0.5 * _step(-0.1, 0.1, math.sin(y * f * 2.5))
    elif look.pattern == 4:
        mix = _step(0.0, 0.15, lookup_noise(noise, x * f * 0.6, y * f * 0.6, pz * f * 0.6))
    red = look.cloth[0] + mix * (look.cloth_second[0] - look.cloth[0])
    green = look.cloth[1] + mix * (look.cloth_second[1] - look.cloth[1])
    blue = look.cloth[2] + mix * (look.cloth_second[2] - look.cloth[2])
    if look.jacket > 0.5:
        red = look.cloth[0]
        green = look.cloth[1]
        blue = look.cloth[2]
        opening = abs(u) - 0.30 + 0.9 * max(v, 0.0)
        shirt = 1.0 - _step(-0.01, 0.015, opening)
        lapel = 1.0 - 0.25 * _step(0.0, 0.02, opening) * (1.0 - _step(0.12, 0.14, opening))
        if v < 0.04:
            shirt = 1.0
        red = red * lapel + shirt * (look.shirt[0] - red * lapel)
        green = green * lapel + shirt * (look.shirt[1] - green * lapel)
        blue = blue * lapel + shirt * (look.shirt[2] - blue * lapel)
        if shirt > 0.5 and look.pattern > 1 and abs(px) < 1.0 + 0.12 * (-9.0 - py) and v > 0.03:
            red = look.cloth_second[0]
            green = look.cloth_second[1]
            blue = look.cloth_second[2]
    weave = 1.0 + 0.12 * lookup_noise(noise, x * 6.0, y * 6.0, pz * 6.0)
    weave += 0.22 * lookup_noise(noise, x * 0.35, y * 0.2, pz * 0.35)
    return red * weave, green * weave, blue * weave


@njit(cache=True, fastmath=True)
def _lit(shadow_map, shadow_rows, x, y, z, nx, ny, nz):
    """Share of the first lamp that reaches a point, 0..1: four readings of its depth map, bilinear."""
    size = shadow_map.shape[0]
    # Moved off the surface, so that a facet does not shade itself.
    x += 0.35 * nx
    y += 0.35 * ny
    z += 0.35 * nz
    u = shadow_rows[0, 0] * x + shadow_rows[0, 1] * y + shadow_rows[0, 2] * z + shadow_rows[0, 3] - 0.5
    v = shadow_rows[1, 0] * x + shadow_rows[1, 1] * y + shadow_rows[1, 2] * z + shadow_rows[1, 3] - 0.5
    d = shadow_rows[2, 0] * x + shadow_rows[2, 1] * y + shadow_rows[2, 2] * z + shadow_rows[2, 3] - 0.3
    i = int(math.floor(u))
    j = int(math.floor(v))
    if i < 0 or j < 0 or i >= size - 1 or j >= size - 1:
        return 1.0
    tu = u - i
    tv = v - j
    total = 0.0
    for dj in range(2):
        for di in range(2):
            weight = (tu if di else 1.0 - tu) * (tv if dj else 1.0 - tv)
            # A soft comparison hides the map's coarse steps.
            total += weight * _step(-0.5, 0.1, shadow_map[j + dj, i + di] - d)
    return total


@njit(cache=True, fastmath=True)
def shade(
    triangle,
    bary,
    screen,
    camera,
    normals,
    faces,
    region,
    rest,
    texture,
    occlusion,
    colour,
    masks,
    eye_centres,
    head_rows,
    noise,
    look,
    light,
    shadow_map,
    shadow_rows,
    eye_distance,
    sub,
    background,
    image,
):
    """Colours of all pixels.

    Args:
        triangle, bary: G-buffer [H*sub, W*sub]. screen, camera, normals: [V, 3] posed vertices.
        faces [F, 3], region [F], rest [V, 3], texture [V, 2], occlusion [V], colour [V, 3], masks [V, 7].
        eye_centres: [2, 3] in the mean head. head_rows: [3, 3] rotation of the head. noise: periodic volume.
        look, light: see appearance. shadow_map [K, K], shadow_rows [3, 4]: depth map of the first lamp.
        eye_distance: camera's distance. sub: samples a pixel and side.
        background: [H, W, 3] linear; image: [H, W, 3] written, linear.
    """
    height, width = image.shape[:2]
    lamps = light.directions.shape[0]
    for y in range(height):
        for x in range(width):
            out_r = 0.0
            out_g = 0.0
            out_b = 0.0
            # Where one material fills the pixel two of four samples tell its colour.
            stride = 1
            if sub == 2:
                first = triangle[2 * y, 2 * x]
                if first >= 0:
                    stride = 3
                    for s in range(1, 4):
                        t = triangle[2 * y + s // 2, 2 * x + s % 2]
                        if t < 0 or region[t] != region[first]:
                            stride = 1
            share = 0.5 if stride == 3 else 1.0 / (sub * sub)
            for s in range(0, sub * sub, stride):
                yy = y * sub + s // sub
                xx = x * sub + s % sub
                t = triangle[yy, xx]
                if t < 0:
                    out_r += background[y, x, 0]
                    out_g += background[y, x, 1]
                    out_b += background[y, x, 2]
                    continue
                a = faces[t, 0]
                b = faces[t, 1]
                c = faces[t, 2]
                w1 = bary[yy, xx, 0]
                w2 = bary[yy, xx, 1]
                w0 = (1.0 - w1 - w2) / screen[a, 2]
                w1 /= screen[b, 2]
                w2 /= screen[c, 2]
                inverse = 1.0 / (w0 + w1 + w2)
                w0 *= inverse
                w1 *= inverse
                w2 *= inverse
                nx = w0 * normals[a, 0] + w1 * normals[b, 0] + w2 * normals[c, 0]
                ny = w0 * normals[a, 1] + w1 * normals[b, 1] + w2 * normals[c, 1]
                nz = w0 * normals[a, 2] + w1 * normals[b, 2] + w2 * normals[c, 2]
                length = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
                cx = w0 * camera[a, 0] + w1 * camera[b, 0] + w2 * camera[c, 0]
                cy = w0 * camera[a, 1] + w1 * camera[b, 1] + w2 * camera[c, 1]
                cz = w0 * camera[a, 2] + w1 * camera[b, 2] + w2 * camera[c, 2]
                vx = -cx
                vy = -cy
                vz = eye_distance - cz
                far = 1.0 / math.sqrt(vx * vx + vy * vy + vz * vz)
                vx *= far
                vy *= far
                vz *= far
                if nx * vx + ny * vy + nz * vz < 0.0:
                    length = -length
                nx *= length
                ny *= length
                nz *= length
                px = w0 * rest[a, 0] + w1 * rest[b, 0] + w2 * rest[c, 0]
                py = w0 * rest[a, 1] + w1 * rest[b, 1] + w2 * rest[c, 1]
                pz = w0 * rest[a, 2] + w1 * rest[b, 2] + w2 * rest[c, 2]
                open_sky = w0 * occlusion[a] + w1 * occlusion[b] + w2 * occlusion[c]
                kind = region[t]
                wrap = 0.1
                gloss = 0.1
                sharp = 20.0
                if kind == SKIN:
                    m0 = w0 * masks[a, 0] + w1 * masks[b, 0] + w2 * masks[c, 0]
                    m1 = w0 * masks[a, 1] + w1 * masks[b, 1] + w2 * masks[c, 1]
                    m2 = w0 * masks[a, 2] + w1 * masks[b, 2] + w2 * masks[c, 2]
                    m3 = w0 * masks[a, 3] + w1 * masks[b, 3] + w2 * masks[c, 3]
                    m4 = w0 * masks[a, 4] + w1 * masks[b, 4] + w2 * masks[c, 4]
                    m5 = w0 * masks[a, 5] + w1 * masks[b, 5] + w2 * masks[c, 5]
                    r = w0 * colour[a, 0] + w1 * colour[b, 0] + w2 * colour[c, 0]
                    g = w0 * colour[a, 1] + w1 * colour[b, 1] + w2 * colour[c, 1]
                    bl = w0 * colour[a, 2] + w1 * colour[b, 2] + w2 * colour[c, 2]
                    m6 = w0 * masks[a, 6] + w1 * masks[b, 6] + w2 * masks[c, 6]
                    r, g, bl, gloss = _skin(noise, look, px, py, pz, r, g, bl, (m0, m1, m2, m3, m4, m5, m6))
                    wrap = light.wrap
                    sharp = look.sharpness
                    open_sky = min(1.0, 0.12 + 1.25 * open_sky)
                elif kind == EYE:
                    e = 0 if px < 0.0 else 1
                    dx = px - eye_centres[e, 0]
                    dy = py - eye_centres[e, 1]
                    dz = pz - eye_centres[e, 2]
                    d = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
                    eye_height = head_rows[0, 1] * nx + head_rows[1, 1] * ny + head_rows[2, 1] * nz
                    r, g, bl, gloss = _eye(noise, look, dx * d, dy * d, dz * d, eye_height)
                    sharp = 220.0
                    wrap = 0.4
                    open_sky = min(0.85, 0.25 + 1.6 * open_sky)
                elif kind == HAIR:
                    u = w0 * texture[a, 0] + w1 * texture[b, 0] + w2 * texture[c, 0]
                    v = w0 * texture[a, 1] + w1 * texture[b, 1] + w2 * texture[c, 1]
                    drift = lookup_noise(noise, u * 32.0, v * 2.0, 1.5) * 0.006
                    clump = lookup_noise(noise, (u + drift) * 32.0, v * 1.3, 11.5)
                    strand = lookup_noise(noise, (u + drift) * 128.0, v * 2.5, 2.5)
                    strand += 0.7 * lookup_noise(noise, (u + drift) * 288.0, v * 4.0, 9.5)
                    tone = max(0.12, 1.0 + look.strand_contrast * (0.5 * clump + 0.55 * strand))
                    mixing = v * v
                    r = (look.hair[0] + mixing * (look.hair_tip[0] - look.hair[0])) * tone
                    g = (look.hair[1] + mixing * (look.hair_tip[1] - look.hair[1])) * tone
                    bl = (look.hair[2] + mixing * (look.hair_tip[2] - look.hair[2])) * tone
                    gloss = look.hair_gloss * max(0.0, 0.7 + 0.5 * strand)
                    wrap = 0.25
                elif kind == CLOTH:
                    u = w0 * texture[a, 0] + w1 * texture[b, 0] + w2 * texture[c, 0]
                    if u > 1.0:
                        u -= 2.0
                    v = w0 * texture[a, 1] + w1 * texture[b, 1] + w2 * texture[c, 1]
                    r, g, bl = _cloth(noise, look, px, py, pz, u, v)
                    gloss = 0.03
                elif kind == TEETH:
                    r = look.teeth[0]
                    g = look.teeth[1]
                    bl = look.teeth[2]
                    gloss = 0.35
                    sharp = 60.0
                    open_sky = 0.8 * _step(6.5, 10.6, pz)
                elif kind == MOUTH:
                    tone = 1.0 + 0.2 * lookup_noise(noise, px * 3.0, py * 3.0, pz * 3.0)
                    r = look.gums[0] * tone
                    g = look.gums[1] * tone
                    bl = look.gums[2] * tone
                    gloss = 0.25
                    sharp = 40.0
                    open_sky = min(0.75, 0.03 + 2.5 * open_sky) * _step(2.0, 9.5, pz)
                elif kind == LASH:
                    r = colour[a, 0] + look.lash_amount * (look.lash[0] - colour[a, 0])
                    g = colour[a, 1] + look.lash_amount * (look.lash[1] - colour[a, 1])
                    bl = colour[a, 2] + look.lash_amount * (look.lash[2] - colour[a, 2])
                    gloss = 0.0
                else:
                    r = look.frame[0]
                    g = look.frame[1]
                    bl = look.frame[2]
                    gloss = 0.7
                    sharp = 60.0
                up = 0.5 + 0.5 * ny
                side = nx * light.side_direction[0] + ny * light.side_direction[1] + nz * light.side_direction[2]
                light_r = open_sky * (light.ground[0] + up * (light.sky[0] - light.ground[0]) + side * light.side[0])
                light_g = open_sky * (light.ground[1] + up * (light.sky[1] - light.ground[1]) + side * light.side[1])
                light_b = open_sky * (light.ground[2] + up * (light.sky[2] - light.ground[2]) + side * light.side[2])
                light_r = max(light_r, 0.0)
                light_g = max(light_g, 0.0)
                light_b = max(light_b, 0.0)
                spec_r = 0.0
                spec_g = 0.0
                spec_b = 0.0
                facing = max(0.0, nx * vx + ny * vy + nz * vz)
                fresnel = 0.04 + 0.5 * (1.0 - facing) ** 4
                # Strands run away from the crown.
                tx = px
                ty = py - 16.0
                tz = pz + 3.0
                if kind == HAIR:
                    hx = head_rows[0, 0] * tx + head_rows[0, 1] * ty + head_rows[0, 2] * tz
                    hy = head_rows[1, 0] * tx + head_rows[1, 1] * ty + head_rows[1, 2] * tz
                    hz = head_rows[2, 0] * tx + head_rows[2, 1] * ty + head_rows[2, 2] * tz
                    along = hx * nx + hy * ny + hz * nz
                    tx = hx - along * nx
                    ty = hy - along * ny
                    tz = hz - along * nz
                    along = 1.0 / math.sqrt(tx * tx + ty * ty + tz * tz + 1e-9)
                    tx *= along
                    ty *= along
                    tz *= along
                cavity = min(1.0, open_sky * 1.6)
                for k in range(lamps):
                    lx = light.directions[k, 0]
                    ly = light.directions[k, 1]
                    lz = light.directions[k, 2]
                    cosine = nx * lx + ny * ly + nz * lz
                    lit = cavity
                    if k == 0 and cosine > -wrap:
                        dark = 0.95 if kind in (TEETH, MOUTH) else light.shadow
                        lit *= 1.0 - dark * (1.0 - _lit(shadow_map, shadow_rows, cx, cy, cz, nx, ny, nz))
                    diffuse = max(0.0, (cosine + wrap) / (1.0 + wrap)) * lit
                    light_r += light.colours[k, 0] * diffuse
                    if kind == SKIN:
                        # Red light travels farther under the skin: the terminator reddens.
                        narrow = max(0.0, (cosine + 0.55 * wrap) / (1.0 + 0.55 * wrap)) * lit
                        light_g += light.colours[k, 1] * narrow
                        light_b += light.colours[k, 2] * narrow
                    else:
                        light_g += light.colours[k, 1] * diffuse
                        light_b += light.colours[k, 2] * diffuse
                    hx = lx + vx
                    hy = ly + vy
                    hz = lz + vz
                    norm = 1.0 / math.sqrt(hx * hx + hy * hy + hz * hz + 1e-9)
                    if kind == HAIR:
                        th = (tx * hx + ty * hy + tz * hz) * norm + 0.08
                        strength = max(0.0, 1.0 - th * th) ** 24 * gloss * 0.16 * max(0.0, cosine + 0.3) * lit
                    else:
                        cosine_half = max(0.0, (nx * hx + ny * hy + nz * hz) * norm)
                        strength = (
                            cosine_half**sharp * gloss * (fresnel + 0.12) * lit * max(0.0, min(1.0, 4.0 * cosine))
                        )
                        if kind == EYE:
                            strength *= 5.0
                    spec_r += light.colours[k, 0] * strength
                    spec_g += light.colours[k, 1] * strength
                    spec_b += light.colours[k, 2] * strength
                if kind == SKIN:
                    rim = fresnel * 0.25 * gloss * open_sky
                    spec_r += rim * light.sky[0]
                    spec_g += rim * light.sky[1]
                    spec_b += rim * light.sky[2]
                out_r += r * light_r + spec_r
                out_g += g * light_g + spec_g
                out_b += bl * light_b + spec_b
            image[y, x, 0] = out_r * share
            image[y, x, 1] = out_g * share
            image[y, x, 2] = out_b * share
