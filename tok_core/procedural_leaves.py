"""Dead leaves: occluding random shapes of all sizes, the simplest model of a photograph.

Lee, Mumford and Huang, "Occlusion models for natural images", IJCV 2001: opaque shapes whose
radii follow a power law reproduce the edge and scale statistics of natural pictures.  Ours carry
a material each (grain, grass, waves, wood rings), shading, soft shadows and common light.

Letters: n canvas side, L leaves, V outline vertices.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from tok_core.procedural_draws import Array, Draws
from tok_core.procedural_materials import axis, backdrop, linear_ramp, noise_field, palette

_VERTICES = 36  # a multiple of 3, 4 and 6, so that the corners of those polygons are hit exactly


def leaf_outlines(draws: Draws, radii: Array, n: int) -> tuple[Array, Array]:
    """Return outlines (L, V, 2) and centres (L, 2) as x, y canvas pixels for radii in pixels."""
    count = len(radii)
    angles = np.arange(_VERTICES) * (2.0 * math.pi / _VERTICES)
    kinds = draws.integers(count, 8)
    profile = np.ones((count, _VERTICES))
    for kind, sides in ((0, 3), (1, 4), (2, 4), (3, 6)):
        sector = math.pi / sides
        edge = math.cos(sector) / np.cos(np.mod(angles, 2.0 * sector) - sector)
        profile[kinds == kind] = edge * 1.15
    wobbly = kinds >= 6
    waves = np.sin(angles * np.array([2.0, 3.0, 5.0])[:, None, None]
                   + draws.uniforms((3, count, 1), 0.0, 2.0 * math.pi))
    bumps = np.tensordot(np.array([0.22, 0.18, 0.08]), waves, axes=1)
    profile[wobbly] += bumps[wobbly]
    stretch = draws.log_uniforms(count, 1.0, 2.6)
    long = draws.uniforms(count) < 0.1
    stretch[long] = draws.log_uniforms(count, 4.0, 14.0)[long]
    wide, high = np.sqrt(stretch) * radii, radii / np.sqrt(stretch)
    x = profile * np.cos(angles) * wide[:, None]
    y = profile * np.sin(angles) * high[:, None]
    turn = draws.uniforms((count, 1), 0.0, 2.0 * math.pi)
    cosine, sine = np.cos(turn), np.sin(turn)
    centres = draws.uniforms((count, 2), -0.1 * n, 1.1 * n)
    rotated = np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=-1)
    return rotated + centres[:, None, :], centres


def _paint(outlines: Array, offset: Array, n: int) -> tuple[Array, Array]:
    """Paint leaves back to front; return ids (n, n), 0 for the background, and shadow (n, n)."""
    ids, shadow = Image.new("I", (n, n)), Image.new("L", (n, n))
    draw_id, draw_shadow = ImageDraw.Draw(ids).polygon, ImageDraw.Draw(shadow).polygon
    fallen = (outlines + offset).reshape(len(outlines), -1).tolist()
    visible = bool(np.abs(offset).max() >= 1.0)
    for number, outline in enumerate(outlines.reshape(len(outlines), -1).tolist()):
        if visible:
            draw_shadow(fallen[number], fill=255)
            draw_shadow(outline, fill=0)
        draw_id(outline, fill=number + 1)
    return np.asarray(ids), np.asarray(shadow)


def _materials(draws: Draws, count: int, n: int) -> dict[str, Array]:
    """Draw per-leaf parameters; row 0 (the background under all leaves) stays unused."""
    busy = draws.log_uniform(0.25, 1.6)  # some pictures are smooth all over, some rough
    waves = np.where(draws.uniforms(count) < 0.3, draws.uniforms(count, 0.05, 0.3), 0.0)
    return {
        "grain": busy * draws.uniforms(count, 0.0, 0.16) * (draws.uniforms(count) < 0.75),
        "cloud": busy * draws.uniforms(count, 0.0, 0.2),
        "wave": waves * min(busy, 1.0),
        "angle": draws.uniforms(count, 0.0, math.pi),
        "frequency": draws.log_uniforms(count, 3.0, 0.2 * n),
        "warp": draws.uniforms(count, 0.0, 2.5) * (draws.uniforms(count) < 0.5),
        "shade_x": draws.uniforms(count, -0.5, 0.5),
        "shade_y": draws.uniforms(count, -0.5, 0.5),
    }


def _texture(ids: Array, leaf: dict[str, Array], centres: Array, draws: Draws, n: int) -> Array:
    """Return the relative brightness change inside every leaf, (n, n)."""
    grain = noise_field(draws, n, draws.uniform(0.2, 0.8), draws.log_uniform(1.0, 5.0))
    cloud = noise_field(draws, n, draws.uniform(1.0, 1.6))
    angle = leaf["angle"]
    across = np.take(np.cos(angle), ids) * axis(n) + np.take(np.sin(angle), ids) * axis(n)[:, None]
    phase = math.pi * np.take(leaf["frequency"], ids) * across + np.take(leaf["warp"], ids) * cloud
    texture = np.take(leaf["wave"], ids) * np.sin(phase)
    texture += np.take(leaf["grain"], ids) * grain
    texture += np.take(leaf["cloud"], ids) * cloud
    middle = 2.0 * centres / n - 1.0
    texture += np.take(leaf["shade_x"], ids) * (axis(n) - np.take(middle[:, 0], ids))
    texture += np.take(leaf["shade_y"], ids) * (axis(n)[:, None] - np.take(middle[:, 1], ids))
    return texture


def dead_leaves(draws: Draws, n: int) -> Array:
    """Return one dead-leaves picture (n, n, 3), values about [0, 1], not clipped.

    Example::

        picture = dead_leaves(item_draws("x", version=1, seed=0, index=7), 128)
    """
    small, large = n * draws.log_uniform(0.018, 0.12), n * draws.uniform(0.22, 0.6)
    count = draws.integer(15, 60) if small > 0.05 * n else draws.integer(40, 150)
    radii = draws.power_law(count, small, large, draws.uniform(1.8, 3.2))
    outlines, centres = leaf_outlines(draws, radii, n)
    sun = draws.uniform(0.0, 2.0 * math.pi)
    throw = n * draws.uniform(0.0, 0.03)
    ids, shadow = _paint(outlines, throw * np.array([math.cos(sun), math.sin(sun)]), n)
    leaf = _materials(draws, count + 1, n)
    centres = np.concatenate([np.full((1, 2), 0.5 * n), centres])
    texture = _texture(ids, leaf, centres, draws, n)
    inks = palette(draws, 4 + draws.integer(0, 12))
    base = inks[draws.integers(count + 1, len(inks))]
    base *= 1.0 + 0.12 * draws.normals((count + 1, 1))
    colour = np.take(base, ids, axis=0)
    under = ids == 0
    if under.any():
        colour[under] = backdrop(draws, n)[under]
    dark = draws.uniform(0.0, 0.6) * (shadow / 255.0)
    light = draws.uniform(0.75, 1.0) + draws.uniform(0.0, 0.5) * linear_ramp(draws, n)
    return colour * ((1.0 + texture) * (1.0 - dark) * light)[..., None]
