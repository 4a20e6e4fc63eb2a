"""Sizes and options of an official checkpoint, read off its shapes.

Shapes tell everything but three things: the number of heads (width / 64 in all that is published),
whether codes are l2-normalised (with the legacy head, yes; otherwise no), and loss weights. A
config, where there is one, decides those; where it contradicts a shape, that is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from tok_core.errors import WeightsError
from tok_core.official_fit import check_agreement
from tok_core.official_names import Shapes

HEAD_WIDTH = 64


def plain_options(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Flatten a config to the options that matter here.

    Args:
        config: the nested form of the official hub repositories (``model.vq_model...``,
            ``dataset.preprocessing.crop_size``), the flat form of the parity folders, or None.
    """
    config = config or {}
    nested = (config.get("model") or {}).get("vq_model")
    if nested is None:
        flat = dict(config)
        for side in ("encoder", "decoder"):
            if isinstance(flat.get(side), Mapping) and "heads" in flat[side]:
                flat[f"{side}_heads"] = flat[side]["heads"]
        return flat
    flat = dict(nested)
    crop = ((config.get("dataset") or {}).get("preprocessing") or {}).get("crop_size")
    if crop is not None:
        flat["image_size"] = crop
    if "vit_enc_patch_size" in flat:
        flat["patch_size"] = flat["vit_enc_patch_size"]
    return flat


def titok_values(shapes: Shapes, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the keyword values of `TiTok` (or `TiTokKL`: no codebook) for these shapes.

    Raises:
        WeightsError: a tensor that says the sizes is missing, or the config contradicts one.
    """
    options = plain_options(config)
    try:
        values = _sizes(shapes, options)
    except KeyError as error:
        raise WeightsError(
            f"the checkpoint lacks {error.args[0]}; this is not a whole TiTok or One-D-Piece file."
        ) from None
    table = shapes.get("quantize.embedding.weight")
    if table is not None:
        clustering = "quantize.embed_prob" in shapes
        legacy = values["head"] == "legacy"
        values["codebook_size"] = table[0]
        values["l2_normalize"] = bool(options.get("use_l2_norm", legacy))
        values["quantizer_options"] = {
            "commitment_weight": float(options.get("commitment_cost", 0.25)),
            "update": "clustering" if clustering else "gradient",
            "ema_decay": float(options.get("clustering_decay", 0.99)),
        }
    _agree(values, options, table)
    return values


def _sizes(shapes: Shapes, options: Mapping[str, Any]) -> dict[str, Any]:
    patch = shapes["encoder.patch_embed.weight"][-1]
    grid = math.isqrt(shapes["encoder.positional_embedding"][0] - 1)
    legacy = "decoder.ffn.2.weight" in shapes
    encoder = _transformer(shapes, "encoder", options)
    values: dict[str, Any] = {
        "image_size": grid * patch,
        "patch_size": patch,
        "encoder_size": encoder,
        "decoder_size": _transformer(shapes, "decoder", options),
        "mlp_ratio": _mlp_ratio(shapes, encoder["width"]),
        "layer_norm_eps": float(options.get("layer_norm_eps", 1e-5)),
        "num_tokens": shapes["latent_tokens"][0],
        "token_size": shapes["decoder.decoder_embed.weight"][1],
        "legacy_reshape": bool(options.get("legacy_reshape", options.get("is_legacy", legacy))),
        "head": "legacy" if legacy else "direct",
    }
    if legacy:
        values["proxy_codebook_size"] = shapes["decoder.ffn.2.weight"][0]
    if "pixel_quantize.embedding.weight" in shapes:
        values["pixel_decoder"] = convolution_sizes(shapes, "pixel_decoder.")
    if "decoder.text_guidance_proj.weight" in shapes:
        values["text"] = {
            "context_length": shapes["decoder.text_guidance_positional_embedding"][0],
            "embed_dim": shapes["decoder.text_guidance_proj.weight"][1],
        }
    return values


def _transformer(shapes: Shapes, side: str, options: Mapping[str, Any]) -> dict[str, int]:
    width = shapes[f"{side}.class_embedding"][1]
    layers = _count(shapes, rf"{side}\.transformer\.(\d+)\.")
    heads = options.get(f"{side}_heads") or max(1, width // HEAD_WIDTH)
    return {"width": width, "layers": layers, "heads": int(heads)}


def _mlp_ratio(shapes: Shapes, width: int) -> float:
    return shapes.get("encoder.transformer.0.mlp.c_fc.weight", (4 * width,))[0] / width


def convolution_sizes(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """Return the sizes of a MaskGIT-VQGAN decoder whose keys start with ``prefix``."""
    try:
        levels = _count(shapes, rf"{re.escape(prefix)}up\.(\d+)\.")
        widths = [shapes[f"{prefix}up.{i}.block.0.conv1.weight"][0] for i in range(levels)]
        z_channels = shapes[f"{prefix}conv_in.weight"][1]
    except KeyError as error:
        raise WeightsError(
            f"the checkpoint lacks {error.args[0]}; its MaskGIT-VQGAN decoder is not whole."
        ) from None
    if not widths:
        raise WeightsError(f"the checkpoint has no {prefix}up.0; its decoder is not whole.")
    # All published networks have multiplier 1 at the finest level.
    return {
        "hidden_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": _count(shapes, rf"{re.escape(prefix)}up\.0\.block\.(\d+)\."),
        "z_channels": z_channels,
    }


def maskgit_values(shapes: Shapes) -> dict[str, Any]:
    """Return the keyword values of `MaskGitVQGAN` for these shapes."""
    size = shapes["quantize.embedding.weight"][0]
    return convolution_sizes(shapes, "decoder.") | {"codebook_size": size}


def _count(shapes: Shapes, pattern: str) -> int:
    found = (re.match(pattern, name) for name in shapes)
    return max((int(match.group(1)) + 1 for match in found if match), default=0)


def _agree(
    values: Mapping[str, Any], options: Mapping[str, Any], table: tuple[int, ...] | None
) -> None:
    said = {
        "image_size": values["image_size"], "patch_size": values["patch_size"],
        "num_latent_tokens": values["num_tokens"], "token_size": values["token_size"],
        "quantize_mode": "vae" if table is None else "vq",
    }  # fmt: skip
    if table is not None:
        said["codebook_size"] = table[0]
    check_agreement(options, said)
