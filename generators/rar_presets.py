"""How the published RAR generators are sampled from; every set of weights has its own numbers.

A scale of 0 in the released scripts means no guidance, which is a scale of 1 here.  Yu et al. 2024,
arXiv 2411.00776 (over MaskGIT-VQGAN's codes, and the release's demonstration); Qiu et al. 2025,
arXiv 2509.12474 (over RobusTok's).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from generators.guidance import Guidance
from generators.token_filter import TokenFilter


class SamplingPreset(NamedTuple):
    """Arguments of `generators.sampling.sample`.

    Example:
        >>> sample(model, condition, seeds=[0], **PRESETS["rar_b"]._asdict())  # doctest: +SKIP
    """

    guidance: Guidance
    token_filter: TokenFilter


def rar_preset(scale: float, power: float, temperature: float = 1.0) -> SamplingPreset:
    """Return the numbers of the released scripts as ours.

    Args:
        scale: ``guidance_scale``; 0 is none. power: ``guidance_scale_pow``; 0 is constant.
        temperature: ``randomize_temperature``.
    """
    guidance = Guidance(scale=scale, schedule="power_cosine", power=power) if scale else Guidance()
    return SamplingPreset(guidance, TokenFilter(temperature=temperature))


PRESETS: Mapping[str, SamplingPreset] = MappingProxyType(
    {
        "rar_b": rar_preset(16.0, 2.75),
        "rar_l": rar_preset(15.5, 2.5, 1.02),
        "rar_xl": rar_preset(6.9, 1.5, 1.02),
        "rar_xxl": rar_preset(8.0, 1.2, 1.02),
        "rar_demo": rar_preset(4.0, 0.0),
        "robus_tok_rar_b": rar_preset(6.0, 1.15, 1.02),
        "robus_tok_rar_l": rar_preset(6.75, 1.01, 1.04),
    }
)
