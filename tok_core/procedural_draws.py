"""Random draws for procedural data: one independent, portable stream per item.

Only ``Generator.random`` is used below, the one method whose stream numpy has never changed; all
other laws are derived from it here, so that a version of a source means the same pictures
everywhere.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float64, unless a docstring says otherwise
T = TypeVar("T")


class Draws:
    """Draws of one procedural item: uniform, normal, power-law numbers and choices.

    Args:
        generator: a numpy generator that nobody else draws from.

    Example::

        draws = item_draws("dead_leaves", version=1, seed=0, index=41)
        radius = draws.log_uniform(0.01, 0.3)
    """

    def __init__(self, generator: np.random.Generator) -> None:
        self._random = generator.random

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return one number in [low, high)."""
        return low + (high - low) * float(self._random())

    def uniforms(self, shape: int | tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Array:
        """Return an array of ``shape`` with numbers in [low, high)."""
        return low + (high - low) * self._random(shape)

    def log_uniform(self, low: float, high: float) -> float:
        """Return one number in [low, high) whose logarithm is uniform."""
        return low * math.exp(math.log(high / low) * float(self._random()))

    def log_uniforms(self, shape: int | tuple[int, ...], low: float, high: float) -> Array:
        """Return an array of ``shape`` with log-uniform numbers in [low, high)."""
        return low * np.exp(math.log(high / low) * self._random(shape))

    def normals(self, shape: int | tuple[int, ...]) -> Array:
        """Return standard normal numbers of ``shape`` (Box and Muller 1958)."""
        radius = np.sqrt(-2.0 * np.log(1.0 - self._random(shape)))
        return radius * np.cos(2.0 * math.pi * self._random(shape))

    def power_law(self, count: int, low: float, high: float, exponent: float) -> Array:
        """Return ``count`` numbers in [low, high) with density proportional to x**-exponent.

        ``exponent`` must differ from 1; 3 for the radii of discs gives scale-invariant pictures
        (Lee, Mumford and Huang 2001).
        """
        power = 1.0 - exponent
        bottom, top = low**power, high**power
        return (bottom + (top - bottom) * self._random(count)) ** (1.0 / power)

    def integer(self, low: int, high: int) -> int:
        """Return one whole number in low..high, both included."""
        return low + min(int(self._random() * (high - low + 1)), high - low)

    def integers(self, shape: int | tuple[int, ...], count: int) -> NDArray[np.int64]:
        """Return an int64 array of ``shape`` with numbers in 0..count-1."""
        return np.minimum((self._random(shape) * count).astype(np.int64), count - 1)

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return float(self._random()) < probability

    def choice(self, options: Sequence[T]) -> T:
        """Return one of ``options``, all equally likely."""
        return options[self.integer(0, len(options) - 1)]


def item_draws(stream: str, *, version: int, seed: int, index: int) -> Draws:
    """Return the draws of item ``index`` of one source, whatever was drawn elsewhere before.

    Args:
        stream: name of the source, e.g. "dead_leaves".
        version: version of the source; a new one starts new streams.
        seed, index: not negative, of any size.
    """
    entropy = [zlib.crc32(stream.encode()), version, seed, index]
    return Draws(np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy))))
