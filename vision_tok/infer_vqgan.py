"""Layout and sizes of a published VQGAN, read off the names and shapes of its tensors.

Shapes tell everything but the number of groups (32 in all that is published), whether codes are
l2-normalised (LlamaGen, yes; otherwise no), VAR's scale list, the size of pictures that commands
prepare (256) and loss weights.  A config, where there is one, decides those; where it contradicts a
shape, that is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tok_core.errors import WeightsError
from tok_core.official_fit import check_agreement, recognised_parts
from tok_core.official_names import Shapes
from vision_tok.conv_autoencoder_keys import LAYOUTS, official_parts

TABLE, WINDOW = "quantize.embedding.weight", "quantize.codebook_used"
PHI, HITS = "quantize.quant_resi.", "quantize.ema_vocab_hit_SV"
# Pixels per side that nearly all of them were trained at; a config's image_size says otherwise.
NATIVE_SIZE = 256
# Of the one published VAR tokenizer, which has as many scales.
VAR_SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
KNOWN = (
    "LlamaGen (encoder.conv_blocks), taming (encoder.down, attention q, k, v), VAR (encoder.down, "
    "attention qkv) and diffusers VQModel (encoder.down_blocks)"
)
_PARTS = ("encoder", "decoder", "quant_conv", "post_quant_conv", "quantize")


def layout_of(names: Iterable[str], source: str) -> str:
    """Return the layout, a key of `LAYOUTS`, that the names of a state dict are in.

    Raises:
        WeightsError: none of them; it lists which parts were recognised and which were not.
    """
    names = list(names)
    whole = {"quant_conv.weight", "post_quant_conv.weight", TABLE} <= set(names)
    if whole and _any(names, "encoder.conv_blocks.0."):
        return "llamagen"
    if whole and _any(names, "encoder.down_blocks.0."):
        return "diffusers"
    if whole and _any(names, "encoder.down.0.block."):
        return "var" if any(".qkv." in n for n in names) or _any(names, PHI) else "taming"
    raise WeightsError(
        f"{source} is in no layout of the VQGAN family: {recognised_parts(names, _PARTS)}; the "
        f"levels inside have to be named as in {KNOWN}, with quant_conv, post_quant_conv and "
        f"{TABLE}."
    )


def vqgan_values(
    shapes: Shapes, config: Mapping[str, Any] | None, layout: str
) -> dict[str, Any]:
    """Return the keyword values of `VQGAN` for these shapes.

    Args:
        shapes: name -> shape of the state dict.
        config: LlamaGen's (flat), diffusers' or VAR's (``v_patch_nums``), or None; ``image_size``
            in any of them is the side that commands prepare pictures for.
        layout: as `layout_of` says.

    Raises:
        WeightsError: a tensor that says the sizes is missing, or the config contradicts one.
    """
    given = dict(config or {})
    try:
        encoder, decoder = (conv_sizes(shapes, layout, side) for side in ("encoder", "decoder"))
        values: dict[str, Any] = {
            "z_channels": shapes["quant_conv.weight"][1],
            "code_dim": shapes[TABLE][1],
            "codebook_size": shapes[TABLE][0],
            "quant_kernel": shapes["quant_conv.weight"][2],
            "modulated_decoder": f"decoder.{LAYOUTS[layout].norm_out}.conv_y.weight" in shapes,
            "norm_groups": int(given.get("norm_num_groups", given.get("group_norm_groups", 32))),
        }
    except KeyError as error:
        raise WeightsError(
            f"the checkpoint lacks {error.args[0]}; this is not a whole VQGAN file."
        ) from None
    dropout = float(given.get("dropout_p", given.get("dropout", 0.0)))
    values["encoder_sizes"] = encoder | {"dropout": dropout}
    values["decoder_sizes"] = decoder | {"dropout": dropout}
    values |= _quantizer(shapes, given, layout)
    if layout != "var":  # whose scales fix the size
        values["image_size"] = given.get("image_size", NATIVE_SIZE)
    _agree(values, given)
    return values


def conv_sizes(shapes: Shapes, layout: str, side: str) -> dict[str, Any]:
    """Return the `SideSizes` values of one side, ``encoder`` or ``decoder``.

    Raises:
        KeyError: a tensor that says them is missing; its name.

    Example:
        >>> conv_sizes(shapes, "llamagen", "decoder")["multipliers"]  # doctest: +SKIP
        [1, 1, 2, 2, 4]
    """
    words = LAYOUTS[layout]
    pattern = words.encoder_level if side == "encoder" else words.decoder_level
    levels = _count(shapes, f"{side}.{pattern}", i=r"(\d+)")
    order = range(levels) if side == "encoder" else range(levels - 1, -1, -1)

    def name(ours: str) -> str:
        return official_parts(f"{side}.{ours}", layout, max(levels, 1))[0]

    first = name("levels.0.blocks.0.conv1.weight")
    head = first.removesuffix(words.block.format(j=0) + ".conv1.weight")
    blocks = _count(shapes, head + words.block, j=r"(\d+)")
    widths = [shapes[name(f"levels.{i}.blocks.0.conv1.weight")][0] for i in order]
    attention = [
        level
        for level, i in enumerate(order)
        if name(f"levels.{i}.attentions.0.out.weight") in shapes
    ]
    if not widths:
        raise KeyError(first)
    channels = shapes[f"{side}.conv_in.weight"][0] if side == "encoder" else math.gcd(*widths)
    return {
        "channels": channels,
        "multipliers": [_ratio(width, channels) for width in widths],
        "res_blocks": blocks - (side == "decoder"),
        "attention": None if attention == [levels - 1] else attention,
        "mid_attention": name("middle.attention.out.weight") in shapes,
    }


def _ratio(width: int, channels: int) -> float:
    return width // channels if width % channels == 0 else width / channels


def _quantizer(shapes: Shapes, given: Mapping[str, Any], layout: str) -> dict[str, Any]:
    if layout == "var":
        return _multi_scale(shapes, given)
    if layout == "llamagen":
        options = {
            "commitment_weight": float(given.get("commit_loss_beta", 0.25)),
            "entropy_weight": float(given.get("entropy_loss_ratio", 0.0)),
            "entropy_temperature": float(given.get("entropy_temperature", 0.01)),
            "usage_window": shapes.get(WINDOW, (0,))[0],
        }
        return {
            "l2_normalize": bool(given.get("codebook_l2_norm", True)),
            "quantizer_options": options,
        }
    # taming's and diffusers' "legacy" losses: beta weighs the codes, not the commitment.
    return {
        "l2_normalize": False,
        "quantizer_options": {"codebook_weight": 0.25, "commitment_weight": 1.0},
    }


def _multi_scale(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    scales = given.get("v_patch_nums", given.get("patch_nums", given.get("scales")))
    held = shapes.get(HITS, (len(VAR_SCALES),))[0]
    if scales is None:
        if held != len(VAR_SCALES):
            raise WeightsError(
                f"the checkpoint has {held} scales and no tensor says which; give a config with "
                "v_patch_nums, the sides of the grids from coarse to fine."
            )
        scales = VAR_SCALES
    if HITS in shapes and held != len(scales):
        raise WeightsError(
            f"the config lists {len(scales)} scales but the weights hold {held}; the two files do "
            "not belong together."
        )
    return {
        "quantizer_kind": "multi_scale",
        "l2_normalize": bool(given.get("using_znorm", False)),
        "scales": list(scales),
        "quantizer_options": {
            "phi_convs": _count(shapes, PHI + "qresi_ls.{i}", i=r"(\d+)"),
            "beta": float(given.get("beta", 0.25)),
            "average_usage": HITS in shapes,
        },
    }


def _agree(values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    encoder, decoder = values["encoder_sizes"], values["decoder_sizes"]
    widths = [round(encoder["channels"] * m) for m in encoder["multipliers"]]
    said = {
        "codebook_size": values["codebook_size"], "num_vq_embeddings": values["codebook_size"],
        "codebook_embed_dim": values["code_dim"], "vq_embed_dim": values["code_dim"],
        "z_channels": values["z_channels"], "latent_channels": values["z_channels"],
        "encoder_ch_mult": encoder["multipliers"], "encoder_ch": encoder["channels"],
        "encoder_num_res_blocks": encoder["res_blocks"],
        "decoder_num_res_blocks": decoder["res_blocks"], "block_out_channels": widths,
        "layers_per_block": encoder["res_blocks"],
    }  # fmt: skip
    check_agreement(given, said)


def _count(shapes: Iterable[str], template: str, **group: str) -> int:
    """Return one more than the largest index at the one placeholder of a name's beginning."""
    (place,) = group
    head, _, tail = template.partition(f"{{{place}}}")
    pattern = re.compile(re.escape(head) + group[place] + re.escape(tail) + r"\.")
    found = (pattern.match(name) for name in shapes)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _any(names: Iterable[str], beginning: str) -> bool:
    return any(name.startswith(beginning) for name in names)
