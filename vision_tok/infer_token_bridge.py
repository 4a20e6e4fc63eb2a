"""Network and settings of a published KL autoencoder, from names, shapes and a config.

Shapes tell everything but the number of groups (32 in all that is published) and the scale of the
latents.  MAR's KL-16 is recognised by its shapes and brings its own scale, picture size and channel
order along; every other file needs a config that states the scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tok_core.dimension_wise_config import OPTIONS
from tok_core.errors import WeightsError, nearest
from tok_core.official_fit import check_agreement
from tok_core.official_names import Shapes
from vision_tok.autoencoder_kl import KL16
from vision_tok.infer_vqgan import conv_sizes

# Official name -> ours; `quant_levels` is 2^bits.
_RENAMED = {
    "latent_scale": "scale", "quant_min": "low", "quant_max": "high", "std_range": "std_range",
    "channel_order": "channel_order", "patch_size": "patch_size", "image_size": "image_size",
}  # fmt: skip
_DESCRIBING = {
    "quant_levels", "norm_num_groups", "latent_channels", "vae_embed_dim", "base_channels",
    "channel_multipliers", "res_blocks_per_level",
}  # fmt: skip
# Sections of a config that describes generator and autoencoder together.
_SECTIONS = ("generator", "vae")


def plain_options(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the options that matter here: a flat config, or one with a section ``vae``.

    Raises:
        WeightsError: a flat config with a name that is nobody's.
    """
    given = dict(config or {})
    legal = _RENAMED.keys() | _DESCRIBING | set(OPTIONS)
    if any(isinstance(given.get(name), Mapping) for name in _SECTIONS):
        parts = [given.get(name) or {} for name in _SECTIONS]
        return {k: v for part in parts for k, v in part.items() if k in legal}
    for name in given:
        if name not in legal:
            raise WeightsError(
                f"the config has the unknown option '{name}'; legal are "
                f"{', '.join(sorted(legal))}{nearest(name, legal)}"
            )
    return given


def network_of(shapes: Shapes, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return diffusers' options of a network in the latent diffusion layout.

    Raises:
        WeightsError: a tensor that says the sizes is missing, the two sides differ in more than
            diffusers can, or the config contradicts the shapes.
    """
    try:
        encoder, decoder = (conv_sizes(shapes, "taming", side) for side in ("encoder", "decoder"))
        moments = shapes["encoder.conv_out.weight"][0]
    except KeyError as error:
        raise WeightsError(
            f"the checkpoint lacks {error.args[0]}; this is not a whole KL autoencoder of MAR's or "
            "latent diffusion's layout."
        ) from None
    widths, others = (
        [round(side["channels"] * m) for m in side["multipliers"]] for side in (encoder, decoder)
    )
    same = ("res_blocks", "mid_attention")
    if widths != others or any(encoder[name] != decoder[name] for name in same):
        raise WeightsError(
            f"the encoder is {widths} wide and the decoder {others}, or they differ in blocks or "
            "attention; AutoencoderKL has both sides alike."
        )
    channels = moments // 2
    check_agreement(options, {
        "latent_channels": channels, "vae_embed_dim": channels,
        "base_channels": encoder["channels"], "channel_multipliers": encoder["multipliers"],
        "res_blocks_per_level": encoder["res_blocks"],
    })  # fmt: skip
    down = [level in _attended(encoder) for level in range(len(widths))]
    up = [level in _attended(decoder) for level in reversed(range(len(widths)))]
    return {
        "block_out_channels": widths, "layers_per_block": encoder["res_blocks"],
        "latent_channels": channels, "norm_num_groups": int(options.get("norm_num_groups", 32)),
        "down_block_types": [("Attn" if one else "") + "DownEncoderBlock2D" for one in down],
        "up_block_types": [("Attn" if one else "") + "UpDecoderBlock2D" for one in up],
        "mid_block_add_attention": encoder["mid_attention"],
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }  # fmt: skip


def settings_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword values of `TokenBridgeTokenizer` but ``vae``.

    Raises:
        WeightsError: a number of levels that is no power of two.
    """
    values = {_RENAMED.get(k, k): v for k, v in options.items() if k not in _DESCRIBING}
    levels = options.get("quant_levels")
    if levels is not None:
        bits = round(math.log2(levels)) if isinstance(levels, int) and levels > 1 else 0
        if levels != 1 << bits or values.get("bits", bits) != bits or not bits:
            raise WeightsError(
                f"the config has quant_levels {levels!r}; legal are powers of two from 2 on, in "
                "agreement with bits."
            )
        values["bits"] = bits
    return values


def is_kl16(network: Mapping[str, Any]) -> bool:
    """Return whether a network has the shapes of MAR's KL-16."""
    known = ("block_out_channels", "layers_per_block", "latent_channels", "down_block_types")
    return all(network[name] == KL16[name] for name in known)


def _attended(side: Mapping[str, Any]) -> list[int]:
    """Return the levels with attention, counted from fine to coarse."""
    levels = len(side["multipliers"])
    return [levels - 1] if side["attention"] is None else list(side["attention"])
