"""Names of a KL autoencoder's parts in the latent diffusion layout, for diffusers' names.

    diffusers   decoder.up_blocks.0.resnets.1.conv_shortcut   encoder.mid_block.attentions.0.to_q
    theirs      decoder.up.4.block.1.nin_shortcut             encoder.mid.attn_1.q

Theirs are those of MAR's KL-16 and of the autoencoders of latent diffusion, which number decoder
levels from fine to coarse and keep attention's linear layers as 1x1 convolutions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tok_core.official_names import renamed

_LEVEL = re.compile(r"(encoder\.down|decoder\.up)_blocks\.(\d+)\.(.+)")
# In turn; what is inside an attention is renamed before its place is.
_PARTS = (
    (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.resnets\.(\d+)\.", r".block.\1."),
    (r"\.attentions\.(\d+)\.", r".attn.\1."),
    (r"\.downsamplers\.0\.", ".downsample."),
    (r"\.upsamplers\.0\.", ".upsample."),
    (r"\.mid_block\.block\.0\.", ".mid.block_1."),
    (r"\.mid_block\.block\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attn\.0\.", ".mid.attn_1."),
)


def latent_diffusion_names(names: Iterable[str], levels: int) -> dict[str, tuple[str, ...]]:
    """Return diffusers' name -> their name, as `tok_core.official_fit.fill` takes it.

    Args:
        names: of an AutoencoderKL's state dict. levels: of either side.

    Example:
        >>> latent_diffusion_names(["decoder.up_blocks.0.resnets.1.conv1.bias"], 5)
        {'decoder.up_blocks.0.resnets.1.conv1.bias': ('decoder.up.4.block.1.conv1.bias',)}
    """
    return {name: (_one(name, levels),) for name in names}


def _one(name: str, levels: int) -> str:
    name = renamed(name, _PARTS)
    match = _LEVEL.fullmatch(name)
    if match is None:
        return name
    side, level, rest = match[1], int(match[2]), match[3]
    return f"{side}.{levels - 1 - level if side == 'decoder.up' else level}.{rest}"
