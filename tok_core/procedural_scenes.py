"""Whole-picture textures, gradients, shapes and text, the plainer procedural kinds.

Every painter takes the item's draws and the canvas side n and returns (n, n, 3), about [0, 1].
"""

from __future__ import annotations

import math
import string

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tok_core.procedural_draws import Array, Draws
from tok_core.procedural_leaves import leaf_outlines
from tok_core.procedural_materials import (
    axis,
    backdrop,
    blend,
    contrasting,
    linear_ramp,
    noise_field,
    palette,
)


def _wave_pattern(draws: Draws, n: int) -> Array:
    """Oriented waves bent by noise: cloth, ripples, fur; (n, n) in [0, 1]."""
    angle = draws.uniform(0.0, math.pi)
    across = math.cos(angle) * axis(n) + math.sin(angle) * axis(n)[:, None]
    bend = noise_field(draws, n, draws.uniform(1.3, 2.0))
    phase = math.pi * draws.log_uniform(2.0, 0.16 * n) * across
    wave = np.sin(phase + draws.uniform(0.0, 2.5) * bend)
    if draws.chance(0.4):  # a second direction makes a weave
        along = math.cos(angle) * axis(n)[:, None] - math.sin(angle) * axis(n)
        wave = 0.5 * wave + 0.5 * np.sin(math.pi * draws.log_uniform(2.0, 0.16 * n) * along + bend)
    return 0.5 + 0.5 * wave * (1.0 + 0.2 * bend).clip(0.0, 1.0)


def _wood_pattern(draws: Draws, n: int) -> Array:
    """Stretched rings around a far centre, with fine grain along them; (n, n) in [0, 1]."""
    x, y = axis(n) - draws.uniform(-1.5, 1.5), axis(n)[:, None] - draws.uniform(-1.5, 1.5)
    if draws.chance(0.5):
        x, y = y, x
    bend = noise_field(draws, n, 1.8)
    distance = np.sqrt((draws.uniform(3.0, 8.0) * x) ** 2 + y**2) + 0.15 * bend
    rings = np.mod(distance * draws.log_uniform(1.0, 5.0), 1.0)
    fibres = noise_field(draws, n, 0.5, 8.0)
    return np.clip(rings**1.5 + 0.08 * fibres, 0.0, 1.0)


def _noise_pattern(draws: Draws, n: int) -> Array:
    """Clouds, sand, marble veins or grass from one noise field; (n, n) in [0, 1]."""
    field = noise_field(draws, n, draws.uniform(0.4, 1.8), draws.log_uniform(1.0, 8.0))
    if draws.chance(0.3):
        return np.abs(np.tanh(1.5 * field))
    return np.clip(0.5 + 0.25 * field, 0.0, 1.0)


def _tile_pattern(draws: Draws, n: int) -> Array:
    """Bricks or tiles with grout lines, every tile of its own shade; (n, n) in [0, 1]."""
    rows = draws.log_uniform(2.0, 10.0)
    columns = rows * draws.uniform(0.4, 1.2)
    tilt = draws.uniform(-0.25, 0.25)
    x = (axis(n) + tilt * axis(n)[:, None] + 2.0) * 0.5 * columns
    y = (axis(n)[:, None] - tilt * axis(n) + 2.0) * 0.5 * rows
    row = np.floor(y)
    x = x + draws.choice((0.0, 0.5)) * row
    column = np.floor(x)
    gap = draws.uniform(0.03, 0.12)
    beside = np.minimum(x - column, 1.0 - x + column) < gap
    grout = beside | (y - row < 2.0 * gap * rows / columns)
    shades = draws.uniforms((64, 64), 0.45, 1.0)
    tiles = shades[row.astype(np.int64) % 64, column.astype(np.int64) % 64]
    return np.where(grout, draws.uniform(0.0, 0.3), tiles)


def texture(draws: Draws, n: int) -> Array:
    """Return one material over the whole picture: noise, waves, wood or tiles."""
    pattern = draws.choice((_noise_pattern, _noise_pattern, _wave_pattern, _wood_pattern,
                            _tile_pattern))(draws, n)
    inks = palette(draws, 3)
    picture = blend(pattern, inks[0], inks[1])
    tint = np.clip(0.5 + 0.3 * noise_field(draws, n, 1.6), 0.0, 1.0)
    picture += draws.uniform(0.0, 0.35) * tint[..., None] * (inks[2] - picture)
    grain = noise_field(draws, n, 0.4)
    return picture * (1.0 + draws.uniform(0.0, 0.08) * grain[..., None])


def gradient(draws: Draws, n: int) -> Array:
    """Return smooth colour alone: a ramp of several colours, a glow, or soft lights."""
    inks = palette(draws, 4)
    kind = draws.integer(0, 2)
    if kind == 0:
        position = linear_ramp(draws, n)
    elif kind == 1:
        x, y = axis(n) - draws.uniform(-1.0, 1.0), axis(n)[:, None] - draws.uniform(-1.0, 1.0)
        position = np.clip(np.sqrt(x**2 + draws.uniform(0.4, 2.5) * y**2) / 2.0, 0.0, 1.0)
    else:
        position = np.clip(0.5 + 0.25 * noise_field(draws, n, draws.uniform(2.0, 3.0)), 0.0, 1.0)
    stops = np.array([0.0, draws.uniform(0.2, 0.5), draws.uniform(0.5, 0.8), 1.0])
    return np.stack([np.interp(position, stops, inks[:, c]) for c in range(3)], axis=-1)


def shapes(draws: Draws, n: int) -> Array:
    """Return a few clean shapes, some outlined, on a quiet background."""
    picture = backdrop(draws, n)
    radii = n * draws.log_uniforms(draws.integer(1, 7), 0.06, 0.35)
    outlines, _ = leaf_outlines(draws, radii, n)
    for outline in outlines.reshape(len(outlines), -1).tolist():
        mask = Image.new("L", (n, n))
        if draws.chance(0.25):
            corners = outline + outline[:4]
            width = draws.integer(max(2, n // 64), max(3, n // 14))
            ImageDraw.Draw(mask).line(corners, fill=255, width=width, joint="curve")
        else:
            ImageDraw.Draw(mask).polygon(outline, fill=255)
        inside = np.asarray(mask) > 0
        ink = palette(draws, 2)
        picture[inside] = blend(linear_ramp(draws, n), ink[0], ink[1])[inside] if draws.chance(
            0.4) else ink[0]
    return picture


def _word(draws: Draws) -> str:
    letters = string.ascii_lowercase * 3 + string.ascii_uppercase + string.digits
    word = "".join(draws.choice(letters) for _ in range(draws.integer(1, 9)))
    return word.capitalize() if draws.chance(0.3) else word


def text(draws: Draws, n: int) -> Array:
    """Return lines of random words in Pillow's built-in font on a quiet background."""
    picture = backdrop(draws, n)
    mask = Image.new("L", (n, n))
    draw = ImageDraw.Draw(mask)
    height = n * draws.log_uniform(0.09, 0.45)
    font = ImageFont.load_default(size=height)
    left, top = n * draws.uniform(-0.1, 0.25), n * draws.uniform(-0.05, 0.3)
    while top < n:
        line = " ".join(_word(draws) for _ in range(draws.integer(1, 4)))
        draw.text((left, top), line, fill=255, font=font)
        top += height * draws.uniform(1.0, 1.5)
    if draws.chance(0.3):
        mask = mask.rotate(draws.uniform(-30.0, 30.0), resample=Image.Resampling.BILINEAR)
    dark = picture.mean() > 0.5
    ink = draws.uniforms(3, 0.0, 0.3) if dark else draws.uniforms(3, 0.7, 1.0)
    if draws.chance(0.2):
        ink = contrasting(draws)[0]
    cover = np.asarray(mask)[..., None] / 255.0
    return picture + cover * (ink - picture)
