"""How the published MaskGIT generators are sampled, by name.

    official words                       ours, u + S_t (c - u)
    constant      c + s (c - u)          constant, S = 1 + s
    linear        c + s t / T (c - u)    ramp, S = 1 + s
    power-cosine  u + s_t (c - u)        power_cosine, S = s

Letters: c, u conditional and unconditional logits, s official scale, S ours, t step of T.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypedDict

from generators.guidance import Guidance
from generators.token_filter import TokenFilter
from tok_core.errors import ConfigError, nearest

OFFICIAL_SCHEDULES = ("constant", "linear", "power-cosine")


class MaskedOptions(TypedDict):
    """Options of `generators.masked_sampling.sample_masked`."""

    steps: int
    guidance: Guidance
    token_filter: TokenFilter
    annealing: bool


def official_guidance(schedule: str, scale: float, power: float = 3.0) -> Guidance:
    """Return our words for the official ones.

    Args:
        schedule: ``constant``, ``linear`` or ``power-cosine``. scale: s.
        power: of ``power-cosine``.

    Raises:
        ConfigError: an unknown schedule.

    Example:
        >>> official_guidance("linear", 4.5).at(4, 8)
        3.25
    """
    if schedule not in OFFICIAL_SCHEDULES:
        raise ConfigError(
            f"guidance schedule '{schedule}' is none of the official "
            f"{', '.join(OFFICIAL_SCHEDULES)}{nearest(schedule, OFFICIAL_SCHEDULES)}"
        )
    if schedule == "power-cosine":
        return Guidance(scale=scale, schedule="power_cosine", power=power)
    # cond + s (cond - uncond) is uncond + (1 + s) (cond - uncond).
    return Guidance(scale=1 + scale, schedule="constant" if schedule == "constant" else "ramp")


def _options(
    steps: int, temperature: float, scale: float, schedule: str, *, annealing: bool
) -> MaskedOptions:
    return MaskedOptions(
        steps=steps, guidance=official_guidance(schedule, scale),
        token_filter=TokenFilter(temperature=temperature), annealing=annealing,
    )  # fmt: skip


# By tokenizer. No published config of One-D-Piece names annealing, so it is off there.
PRESETS: Mapping[str, MaskedOptions] = MappingProxyType({
    "one_d_piece_s": _options(16, 3.0, 12.5, "power-cosine", annealing=False),
    "one_d_piece_b": _options(16, 2.5, 8.5, "power-cosine", annealing=False),
    "one_d_piece_l": _options(16, 3.0, 5.5, "power-cosine", annealing=False),
    "titok_l32": _options(8, 9.5, 4.5, "linear", annealing=True),
    "titok_b64": _options(8, 11.0, 3.0, "linear", annealing=True),
    "titok_s128": _options(64, 2.8, 6.9, "power-cosine", annealing=True),
})


def preset(name: str) -> MaskedOptions:
    """Return the options of a published generator.

    Raises:
        ConfigError: an unknown name.

    Example:
        >>> preset("titok_s128")["steps"]
        64
    """
    if name not in PRESETS:
        raise ConfigError(
            f"sampling preset '{name}' is unknown; legal are {', '.join(PRESETS)}"
            f"{nearest(name, PRESETS)}"
        )
    return PRESETS[name]
