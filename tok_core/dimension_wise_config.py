"""Settings of dimension-wise quantization: frozen, checked, plain JSON in and out.

Letters: C channels of a latent, D dimensions of one position (C, or C p p for packed positions), r
range in standard deviations.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from tok_core.atomic_write import write_bytes
from tok_core.errors import ConfigError
from tok_core.gaussian_levels import gaussian_levels
from tok_core.json_options import parse_part

EMPTY_BINS = ("refuse", "drop")
Factor = float | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class DimensionWiseConfig:
    """How latents become small integers; the defaults are TokenBridge's.

    Attributes:
        bits: per dimension, 1 to 16; 2^bits levels.
        std_range: r, where the levels' standard normal is cut off.
        low, high: of normalised latents; what lies beyond is clipped.
        scale, shift: a latent z is normalised to (z - shift) * scale; one number, or one for each
            of C channels.
        channel_order: which dimension a generator predicts first, second...: every number from 0
            to D - 1 once. None is their natural order. Codes are never permuted.
        empty_bins: what to do where many bits leave bins without values: ``refuse`` them, or
            ``drop`` those levels (fewer than 2^bits remain).

    Raises:
        ConfigError: an illegal value.

    Source: Wang et al. 2025, arXiv 2503.16430, section 3.

    Example:
        >>> DimensionWiseConfig(bits=4, scale=0.2325).to_json()["bits"]
        4
    """

    bits: int = 6
    std_range: float = 3.0
    low: float = -5.0
    high: float = 5.0
    scale: Factor = 1.0
    shift: Factor = 0.0
    channel_order: tuple[int, ...] | None = None
    empty_bins: str = "refuse"

    def __post_init__(self) -> None:
        for name in ("scale", "shift", "channel_order"):
            value = getattr(self, name)
            if isinstance(value, Sequence) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        if self.empty_bins not in EMPTY_BINS:
            raise ConfigError(f"empty_bins is {self.empty_bins!r}; legal are refuse and drop.")
        if not (_finite(self.low) and _finite(self.high) and self.low < self.high):
            raise ConfigError(
                f"the clip range is {self.low!r} to {self.high!r}; give low below high, such as "
                "-5 and 5."
            )
        for name in ("scale", "shift"):
            _check_factor(name, getattr(self, name))
        order = self.channel_order
        if order is not None and not is_order(order):
            raise ConfigError(
                f"channel_order is {_shown(order)}; it has to hold every number from 0 to "
                f"{len(order) - 1 if isinstance(order, tuple) else 'D - 1'} once."
            )
        gaussian_levels(self.bits, self.std_range, self.empty_bins == "drop")

    def check_sizes(self, channels: int, dimensions: int) -> None:
        """Raise ConfigError unless the numbers per channel and the order fit C and D."""
        for name in ("scale", "shift"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != channels:
                raise ConfigError(
                    f"{name} has {len(value)} numbers but the latents have {channels} channels; "
                    "give one number or one for each channel, or calibrate on this autoencoder."
                )
        order = self.channel_order
        if order is not None and len(order) != dimensions:
            raise ConfigError(
                f"channel_order has {len(order)} entries but a position of this autoencoder has "
                f"{dimensions} dimensions, so it belongs to another one; calibrate on this one, or "
                "leave it out."
            )

    # -- JSON ----------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values by name, as models take them as keywords."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DimensionWiseConfig:
        """Read what `to_json` gave.

        Raises:
            ConfigError: an unknown option (its neighbour is named), or an illegal value.
        """
        return parse_part(cls, "the quantization", values)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write a JSON file; an existing one is not replaced without ``force``."""
        text = json.dumps(self.to_json(), indent=2) + "\n"
        write_bytes(Path(path), text.encode(), force=force)

    @classmethod
    def load(cls, path: str | Path) -> DimensionWiseConfig:
        """Read a file that `save` wrote.

        Raises:
            ConfigError: not there, no JSON object, or options of something else.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the quantization {path} ({error}).") from None
        return cls.from_json(values)


OPTIONS = tuple(field.name for field in dataclasses.fields(DimensionWiseConfig))


def is_order(order: object) -> TypeGuard[tuple[int, ...]]:
    """Return whether this is a tuple with every number from 0 on exactly once."""
    return (
        isinstance(order, tuple)
        and all(isinstance(i, int) and not isinstance(i, bool) for i in order)
        and sorted(order) == list(range(len(order)))
    )


def _check_factor(name: str, value: object) -> None:
    numbers = value if isinstance(value, tuple) else (value,)
    if not numbers or not all(_finite(number) for number in numbers):
        raise ConfigError(f"{name} is {value!r}; give a number, or one for each channel.")
    if name == "scale" and min(numbers) <= 0:
        raise ConfigError(
            f"scale is {_shown(value)}; give numbers above 0 (1 / standard deviation)."
        )


def _finite(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
