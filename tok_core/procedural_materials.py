"""Colours, noise fields and light: what the procedural pictures are painted with.

Letters: n canvas side in pixels, (n, n) one plane, (n, n, 3) a picture with values about [0, 1].
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tok_core.procedural_draws import Array, Draws

# Opponent axes of colour: natural pictures vary most in lightness, then between blue and yellow,
# least between red and green (Ruderman, Cronin and Chiao 1998).
_BLUE_YELLOW = np.array([0.55, 0.25, -1.0])
_RED_GREEN = np.array([1.0, -0.75, 0.1])


@lru_cache(maxsize=8)
def axis(n: int) -> Array:
    """Return pixel centres along one side, -1..1, shape (n,); do not write into it."""
    return (np.arange(n) + 0.5) * (2.0 / n) - 1.0


@lru_cache(maxsize=8)
def _frequencies(n: int) -> tuple[Array, Array]:
    return np.fft.fftfreq(n)[:, None] * n, np.fft.rfftfreq(n)[None, :] * n


@lru_cache(maxsize=8)
def _log_frequency(n: int) -> Array:
    rows, columns = _frequencies(n)
    squared = rows**2 + columns**2
    squared[0, 0] = 1.0
    return 0.5 * np.log(squared)


@lru_cache(maxsize=1)
def _phase_table() -> NDArray[np.complex128]:
    """Return 4,096 points of the unit circle: looking phases up is faster than sine and cosine."""
    return np.exp(2j * math.pi * np.arange(4096) / 4096)


def noise_field(draws: Draws, n: int, slope: float, stretch: float = 1.0) -> Array:
    """Return random-phase noise with amplitude f**-slope, mean 0, standard deviation 1, (n, n).

    Args:
        slope: 1 looks like clouds or photographs, 0.3 like sand, 2 like smooth light.
        stretch: above 1 the noise is drawn out in one random direction (fur, grass, wood).
    """
    if stretch == 1.0:
        log_f = _log_frequency(n)
    else:
        rows, columns = _frequencies(n)
        angle = draws.uniform(0.0, math.pi)
        cosine, sine = math.cos(angle), math.sin(angle)
        squared = (stretch * (cosine * rows + sine * columns)) ** 2
        squared += (cosine * columns - sine * rows) ** 2
        squared[0, 0] = 1.0
        log_f = 0.5 * np.log(squared)
    amplitude = np.exp(-slope * log_f)
    amplitude[0, 0] = 0.0
    phases = _phase_table()[draws.integers(amplitude.shape, len(_phase_table()))]
    field = np.fft.irfft2(amplitude * phases, s=(n, n))
    field *= 1.0 / (math.sqrt(np.vdot(field, field) / field.size) + 1e-12)
    return field


def palette(draws: Draws, count: int) -> Array:
    """Return ``count`` colours of one picture, (count, 3) in [0.02, 0.98].

    Lightness spreads over the whole range; chroma scatters around one tint of the picture, as it
    does under one light; one picture in nine is grey.
    """
    middle, spread = draws.uniform(0.3, 0.65), draws.uniform(0.12, 0.32)
    light = middle + spread * draws.normals(count)
    if draws.chance(0.11):
        colours = np.repeat(light[:, None], 3, axis=1)
    else:
        vivid = draws.log_uniform(0.02, 0.16)
        tint = 0.12 * draws.normals(2)
        blue_yellow = tint[0] + vivid * draws.normals(count)
        red_green = 0.5 * tint[1] + 0.6 * vivid * draws.normals(count)
        colours = light[:, None] + blue_yellow[:, None] * _BLUE_YELLOW
        colours = colours + red_green[:, None] * _RED_GREEN
    return np.clip(colours, 0.02, 0.98)


def contrasting(draws: Draws, distance: float = 0.55) -> tuple[Array, Array]:
    """Return two colours (3,), (3,) whose summed channel difference is at least ``distance``."""
    colours = draws.uniforms((12, 3), 0.03, 0.97)
    gaps = np.abs(colours[1:] - colours[0]).sum(axis=1)
    wide = np.flatnonzero(gaps >= distance)
    return colours[0], colours[1 + int(wide[0] if wide.size else gaps.argmax())]


def linear_ramp(draws: Draws, n: int) -> Array:
    """Return a plane rising from 0 to 1 in a random direction, (n, n)."""
    angle = draws.uniform(0.0, 2.0 * math.pi)
    ramp = math.cos(angle) * axis(n)[:, None] + math.sin(angle) * axis(n)[None, :]
    low, high = ramp.min(), ramp.max()
    return (ramp - low) / (high - low)


def blend(amount: Array, first: Array, second: Array) -> Array:
    """Return the picture (n, n, 3) that goes from colour ``first`` (0) to ``second`` (1)."""
    return first + amount[..., None] * (second - first)


def backdrop(draws: Draws, n: int) -> Array:
    """Return a quiet background (n, n, 3): plain, ramp, soft clouds or fine grain."""
    first, second = palette(draws, 2)
    kind = draws.integer(0, 3)
    if kind == 0:
        return np.broadcast_to(first, (n, n, 3)).copy()
    if kind == 1:
        return blend(linear_ramp(draws, n), first, second)
    if kind == 2:
        field = noise_field(draws, n, draws.uniform(1.2, 2.0))
        return blend(np.clip(0.5 + 0.3 * field, 0.0, 1.0), first, second)
    field = noise_field(draws, n, draws.uniform(0.2, 0.9), draws.log_uniform(1.0, 6.0))
    ramp = blend(linear_ramp(draws, n), first, 0.6 * first + 0.4 * second)
    return ramp * (1.0 + draws.uniform(0.03, 0.15) * field[..., None])
