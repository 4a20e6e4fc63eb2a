"""How the published TokenBridge generators are sampled: one position per step, rising guidance.

The fast setting has 64 steps.  Wang et al. 2025, arXiv 2503.16430; temperatures are those of the
released commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from generators.guidance import Guidance
from generators.masked_presets import MaskedOptions
from generators.token_filter import TokenFilter


def token_bridge_preset(scale: float, temperature: float, steps: int = 256) -> MaskedOptions:
    """Return the numbers of the released commands as options of `sample_masked`.

    Args:
        scale: ``cfg``, with the schedule they call linear. temperature: ``temperature``.
        steps: ``num_iter``.

    Example:
        >>> token_bridge_preset(3.0, 0.96)["guidance"].at(128, 256)
        2.0
    """
    return MaskedOptions(
        steps=steps, guidance=Guidance(scale=scale, schedule="ramp"),
        token_filter=TokenFilter(temperature=temperature), annealing=False,
    )  # fmt: skip


PRESETS: Mapping[str, MaskedOptions] = MappingProxyType({
    "token_bridge_l": token_bridge_preset(3.1, 0.96),
    "token_bridge_h": token_bridge_preset(3.45, 0.91),
})  # fmt: skip
