"""Kind and sizes of a published TokenFlow checkpoint, read off its names and shapes.

    clip      OpenAI CLIP tower, pictures as they are, final norm of every token
    siglip    SigLIP tower, output of the last block but one, pictures enlarged
    vitamin   timm's ViTamin, pictures normalised as for CLIP, no final norm

Shapes tell everything but the heads, the scale list and the picture size (published lists by
grid), and loss weights.  A config, where there is one, decides those; where it contradicts a
shape, that is an error.  Letters: G grid side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from tok_core.errors import WeightsError
from tok_core.official_fit import check_agreement, recognised_parts
from tok_core.official_names import Shapes, shapes_of
from vision_tok.infer_vqgan import conv_sizes
from vision_tok.semantic_encoder import NORMALIZATIONS
from vision_tok.tower_weights import find_tower, tower_sizes

TOWER = "encoder_vqkd."
SEMANTIC_TABLE, PIXEL_TABLE = "quantize.embedding_vqkd.weight", "quantize.embedding_vqgan.weight"
WINDOW = "quantize.codebook_used"
SHIFT, SCALE = "scaling_layer.shift", "scaling_layer.scale"
# What each kind is recognised by, without the level above it.
MARKS = {
    "clip": "conv1.weight",
    "siglip": "embeddings.patch_embedding.weight",
    "vitamin": "patch_embed.backbone.stem.conv1.weight",
}
# Released scale lists by grid. The paper prints another one for vitamin; the code uses this.
SCALES = {
    14: (1, 2, 4, 6, 8, 10, 12, 14),
    16: (1, 2, 4, 6, 8, 10, 12, 14, 16),
    27: (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 17, 22, 27),
}
# 27 patches of 14 pixels see 378 of 384: the one size that shapes cannot tell.
SIGLIP_384 = (27, 14, 384)
VITAMIN_STRIDE, VITAMIN = 16, "vitamin_xlarge_256"
_PARTS = (
    "encoder", "decoder", "quant_conv", "post_quant_conv", "quantize", "encoder_vqkd",
    "decoder_vqkd", "encode_task_layer", "decode_task_layer", "scaling_layer",
)  # fmt: skip


def kind_of(names: Iterable[str], source: str) -> str:
    """Return the kind of semantic encoder, a key of `MARKS`.

    Raises:
        WeightsError: no TokenFlow, or an encoder of no known kind; it lists the parts that were
            recognised and those that were not.
    """
    names = set(names)
    if {SEMANTIC_TABLE, PIXEL_TABLE} <= names:
        for kind, mark in MARKS.items():
            if TOWER + mark in names or f"{TOWER}vision_model.{mark}" in names:
                return kind
    raise WeightsError(
        f"{source} is no TokenFlow: {recognised_parts(names, _PARTS)}; it needs {SEMANTIC_TABLE}, "
        f"{PIXEL_TABLE} and under {TOWER} a CLIP, SigLIP or ViTamin encoder."
    )


def token_flow_values(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None, kind: str
) -> dict[str, Any]:
    """Return the keyword values of `TokenFlow` for a state dict with official names.

    Args:
        state: tensors, which may be on meta.
        config: options that no shape tells, and any that must agree with the shapes: ``scales``,
            ``image_size``, ``semantic_heads``, ``semantic_decoder_heads``, ``commit_loss_beta``,
            ``entropy_loss_ratio``, ``entropy_temperature``, ``distance_weight_pixel``.
        kind: as `kind_of` says.

    Raises:
        WeightsError: a tensor that says a size is missing, the config contradicts one, or nothing
            says the scale list.
    """
    shapes, given = shapes_of(state), dict(config or {})
    try:
        values = _sizes(shapes, given)
        native = _decoder_grid(shapes)
        encoder, stride = _semantic_encoder(state, given, kind)
    except KeyError as error:
        raise WeightsError(
            f"the checkpoint lacks {error.args[0]}; this is not a whole TokenFlow file."
        ) from None
    size = given.get("image_size")
    if size is None:
        own = native * stride
        size = SIGLIP_384[2] if (native, stride) == SIGLIP_384[:2] else own
    values |= {"semantic_encoder": encoder, "image_size": size}
    grid = int(size) // stride
    scales = given.get("scales", SCALES.get(grid))
    if scales is None:
        raise WeightsError(
            f"a picture of {size} pixels has a grid of {grid} and no tensor says its scales; give "
            f"a config with scales, a list from 1 to {grid}."
        )
    values["scales"] = list(scales)
    _agree(values, given, kind, stride)
    return values


def _sizes(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    window = shapes.get(WINDOW, (0,))[0]
    return {
        "codebook_size": shapes[SEMANTIC_TABLE][0],
        "semantic_dim": shapes[SEMANTIC_TABLE][1],
        "pixel_dim": shapes[PIXEL_TABLE][1],
        "pixel_weight": float(given.get("distance_weight_pixel", 1.0)),
        "encoder_sizes": conv_sizes(shapes, "llamagen", "encoder"),
        "decoder_sizes": conv_sizes(shapes, "llamagen", "decoder"),
        "z_channels": shapes["quant_conv.weight"][1],
        "semantic_decoder": _semantic_decoder(shapes, given),
        "quantizer_options": {
            "commitment_weight": float(given.get("commit_loss_beta", 0.25)),
            "entropy_weight": float(given.get("entropy_loss_ratio", 0.0)),
            "entropy_temperature": float(given.get("entropy_temperature", 0.01)),
            "usage_window": window,
        },
    }


def _semantic_decoder(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    width = shapes["decoder_vqkd.pos_embed"][-1]
    blocks = [re.match(r"decoder_vqkd\.blocks\.(\d+)\.", name) for name in shapes]
    return {
        "width": width,
        "depth": max((int(match[1]) + 1 for match in blocks if match), default=0),
        "heads": int(given.get("semantic_decoder_heads", 12)),
        "grid": _decoder_grid(shapes),
        "target_dim": shapes["decode_task_layer.2.weight"][0],
        "mlp_ratio": shapes["decoder_vqkd.blocks.0.mlp.fc1.weight"][0] / width,
    }


def _decoder_grid(shapes: Shapes) -> int:
    return math.isqrt(shapes["decoder_vqkd.pos_embed"][-2] - 1)


def _semantic_encoder(
    state: Mapping[str, Tensor], given: Mapping[str, Any], kind: str
) -> tuple[dict[str, Any], int]:
    """Return the options of the semantic encoder and its pixels per token."""
    normalization = _normalization(state, {"clip": "none", "siglip": "half"}.get(kind, "clip"))
    if kind == "vitamin":
        name = given.get("semantic_name", VITAMIN)
        return {
            "kind": "timm", "name": name, "stride": VITAMIN_STRIDE, "final_norm": False,
            **normalization,
        }, VITAMIN_STRIDE  # fmt: skip
    inner = {n.removeprefix(TOWER): t for n, t in state.items() if n.startswith(TOWER)}
    options = {}
    if "semantic_heads" in given:
        options["heads"] = int(given["semantic_heads"])
    sizes = tower_sizes(find_tower(inner, "the checkpoint"), options)
    own: dict[str, Any] = {"positions": "offset-0.1"}
    if kind == "siglip":
        own = {"block": sizes.layers - 1, "final_norm": False}
    return {"sizes": asdict(sizes), **own, **normalization}, sizes.patch_size


def _normalization(state: Mapping[str, Tensor], usual: str) -> dict[str, Any]:
    """Return what the stored shift and scale amount to."""
    if SHIFT not in state or state[SHIFT].is_meta:
        return {"normalization": usual}
    mean, std = (state[name].flatten().float() for name in (SHIFT, SCALE))
    for name, constants in NORMALIZATIONS.items():
        wanted = torch.tensor(constants)
        if torch.allclose(torch.stack((mean, std)), wanted, rtol=0, atol=1e-6):
            return {"normalization": name}
    return {"normalization": "custom", "mean": mean.tolist(), "std": std.tolist()}


def _agree(
    values: Mapping[str, Any], given: Mapping[str, Any], kind: str, stride: int
) -> None:
    sizes = values["semantic_encoder"].get("sizes", {})
    said = {
        "codebook_size": values["codebook_size"], "semantic_code_dim": values["semantic_dim"],
        "pixel_code_dim": values["pixel_dim"], "z_channels": values["z_channels"],
        "teacher_out_dim": values["semantic_decoder"]["target_dim"], "patch_size": stride,
        "semantic_width": sizes.get("width"), "semantic_layers": sizes.get("layers"),
        "semantic_decoder_depth": values["semantic_decoder"]["depth"],
    }  # fmt: skip
    check_agreement(given, said)
    named = str(given.get("semantic_type", kind))
    if not named.startswith(kind):
        raise WeightsError(
            f"the config says semantic_type {named} but the weights hold a {kind} encoder; the two "
            "files do not belong together."
        )
