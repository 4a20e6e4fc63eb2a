"""The labelled procedural set: twelve shapes and textures a person names at a glance.

Colour, place, size, turn and background vary freely and say nothing about the class.
Letters: n canvas side; x, y coordinates in the figure's own frame, where it spans about -1..1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tok_core.procedural_draws import Array, Draws
from tok_core.procedural_materials import axis, noise_field

Mask = NDArray[np.bool_]


def _polar(x: Array, y: Array) -> tuple[Array, Array]:
    return np.hypot(x, y), np.arctan2(y, x)


def _triangle(x: Array, y: Array) -> Mask:
    return (y < 0.62) & (y > -0.95 + 1.75 * np.abs(x))


def _star(x: Array, y: Array) -> Mask:
    radius, angle = _polar(x, y)
    sector = 2.0 * math.pi / 5.0
    fold = np.abs(np.mod(angle + math.pi / 2.0 + sector / 2.0, sector) - sector / 2.0)
    # The edge from the tip (radius 1) to the notch (radius 0.42) is a straight line.
    inner, half = 0.42, sector / 2.0
    edge = inner * math.sin(half) / (
        np.sin(fold) * (1.0 - inner * math.cos(half)) + inner * math.sin(half) * np.cos(fold))
    return radius < edge


def _heart(x: Array, y: Array) -> Mask:
    u, v = 1.25 * x, 0.1 - 1.2 * y
    return (u**2 + v**2 - 1.0) ** 3 < u**2 * v**3


def _arrow(x: Array, y: Array) -> Mask:
    head = (x > 0.1) & (np.abs(y) < 0.7 * (1.0 - x) / 0.9)
    return head | ((x > -0.95) & (x <= 0.1) & (np.abs(y) < 0.22))


def _cross(x: Array, y: Array) -> Mask:
    arm = np.minimum(np.abs(x), np.abs(y)) < 0.28
    return arm & (np.maximum(np.abs(x), np.abs(y)) < 0.9)


def _crescent(x: Array, y: Array) -> Mask:
    return (np.hypot(x, y) < 0.9) & (np.hypot(x - 0.42, y) > 0.72)


def _square(x: Array, y: Array) -> Mask:
    return np.maximum(np.abs(x), np.abs(y)) < 0.75


def _disc(x: Array, y: Array) -> Mask:
    return np.hypot(x, y) < 0.85


def _ring(x: Array, y: Array) -> Mask:
    radius = np.hypot(x, y)
    return (radius < 0.92) & (radius > 0.56)


def _stripes(x: Array, y: Array) -> Mask:
    return np.mod(x, 1.0) < 0.5


def _checkerboard(x: Array, y: Array) -> Mask:
    return (np.mod(x, 1.0) < 0.5) ^ (np.mod(y, 1.0) < 0.5)


def _dots(x: Array, y: Array) -> Mask:
    return np.hypot(np.mod(x, 1.0) - 0.5, np.mod(y, 1.0) - 0.5) < 0.3


_FIGURES: dict[str, Callable[[Array, Array], Mask]] = {
    "disc": _disc, "ring": _ring, "square": _square, "triangle": _triangle, "star": _star,
    "cross": _cross, "heart": _heart, "crescent": _crescent, "arrow": _arrow,
}
_PATTERNS: dict[str, Callable[[Array, Array], Mask]] = {
    "stripes": _stripes, "checkerboard": _checkerboard, "dots": _dots,
}
CLASS_NAMES: tuple[str, ...] = (*_FIGURES, *_PATTERNS)


def _ground(draws: Draws, n: int, colour: Array) -> Array:
    """Return a background near ``colour``: plain, shaded, or with soft grain; (n, n, 3)."""
    change = np.zeros((n, n))
    if draws.chance(0.7):
        change = change + draws.uniform(-0.15, 0.15) * axis(n)
        change = change + draws.uniform(-0.15, 0.15) * axis(n)[:, None]
    if draws.chance(0.6):
        change = change + draws.uniform(0.02, 0.07) * noise_field(draws, n, draws.uniform(0.4, 1.8))
    return colour + change[..., None]


def class_picture(draws: Draws, n: int, label: int) -> Array:
    """Return one picture (n, n, 3), about [0, 1], of class ``label`` (an index of CLASS_NAMES).

    Figures cover about an eighth to a half of the picture and lie wholly inside it; patterns fill
    it.  Squares and crosses turn freely, hearts and triangles lean by at most 20 degrees.
    """
    name = CLASS_NAMES[label]
    figure, ground = _far_colours(draws)
    if name in _FIGURES:
        scale = draws.uniform(0.42, 0.85)
        place = draws.uniforms(2, -0.95 + scale, 0.95 - scale)
        upright = name in ("heart", "triangle")
        turn = draws.uniform(-0.35, 0.35) if upright else draws.uniform(0.0, 2.0 * math.pi)
        inside = _FIGURES[name]
    else:
        scale = 2.0 / draws.log_uniform(2.5, 5.5)
        place, turn = draws.uniforms(2, -1.0, 1.0), draws.uniform(0.0, math.pi)
        inside = _PATTERNS[name]
    u, v = (axis(n) - place[0]) / scale, (axis(n)[:, None] - place[1]) / scale
    cosine, sine = math.cos(turn), math.sin(turn)
    mask = inside(cosine * u + sine * v, cosine * v - sine * u)
    return np.where(mask[..., None], _ground(draws, n, figure), _ground(draws, n, ground))


def _far_colours(draws: Draws) -> tuple[Array, Array]:
    """Return figure and ground colours (3,) whose lightness differs by at least a quarter."""
    candidates = draws.uniforms((24, 3), 0.05, 0.95)
    light = candidates @ np.array([0.299, 0.587, 0.114])
    far = np.flatnonzero(np.abs(light - light[0]) >= 0.25)
    other = int(far[0]) if far.size else int(np.abs(light - light[0]).argmax())
    return candidates[0], candidates[other]
