"""Kind and sizes of a published RobusTok, XQ-GAN or ImageFolder checkpoint, read off its shapes.

Shapes tell everything but the heads (width / 64 in all that is published), the scale list (ten
published scales where ten are held), the size of the pictures (patches that fill the positions) and
how losses are weighed.  A config, where there is one, decides those; where it contradicts a shape,
that is an error.  Letters: P branches, g side of the code grid, S scales.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tok_core.errors import WeightsError
from tok_core.official_fit import check_agreement, recognised_parts
from tok_core.official_names import Shapes
from vision_tok.infer_titok import HEAD_WIDTH

QUERIES, LEVELS = "encoder.latent_tokens", "encoder.lvl_embed.weight"
TO_PIXEL = "decoder.to_pixel.model.weight"
# Of ImageFolder; no tensor says them.
PUBLISHED_SCALES = (1, 1, 2, 3, 3, 4, 5, 6, 8, 11)
_PARTS = (
    "encoder", "decoder", "quant_conv", "post_quant_conv", "quantize", "quantizes",
    "semantic_model", "detail_model", "sem_linear",
)  # fmt: skip


def check_layout(names: Iterable[str], source: str) -> None:
    """Refuse a state dict that is no ViT tokenizer of this family.

    Raises:
        WeightsError: it lists the parts that were recognised and those that were not.
    """
    names = set(names)
    if {QUERIES, LEVELS, TO_PIXEL} <= names:
        return
    if any(name.startswith("encoder.conv_in.") for name in names):
        raise WeightsError(
            f"{source} has a convolutional encoder, XQ-GAN's older kind, which is not read here; "
            "give one with a ViT encoder (encoder.latent_tokens)."
        )
    raise WeightsError(
        f"{source} is no RobusTok, XQ-GAN or ImageFolder: {recognised_parts(names, _PARTS)}; it "
        f"needs {QUERIES}, {LEVELS} and {TO_PIXEL}."
    )


def quantizer_prefixes(shapes: Shapes) -> list[str]:
    """Return what every branch's tensors begin with, in order.

    Example:
        >>> quantizer_prefixes(shapes)  # doctest: +SKIP
        ['quantizes.0.', 'quantizes.1.']
    """
    if any(name.startswith("quantize.") for name in shapes):
        return ["quantize."]
    found = (re.match(r"quantizes\.(\d+)\.", name) for name in shapes)
    return [f"quantizes.{i}." for i in sorted({int(match[1]) for match in found if match})]


def robus_tok_values(
    shapes: Shapes, config: Mapping[str, Any] | None, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the keyword values of `RobusTok` for these shapes.

    Args:
        shapes: name -> shape of the state dict.
        config: the official options, flat or with a ``backbone`` object; ``image_size`` or
            ``backbone.img_size`` is the side of the pictures.
        settings: what the checkpoint itself remembers of its training; used where it fits.

    Raises:
        WeightsError: a tensor that says the sizes is missing, the config contradicts one, or
            nothing says the scale list.
    """
    given = dict(config or {})
    given |= {k: v for k, v in dict(given.pop("backbone", None) or {}).items() if k not in given}
    try:
        values = _sizes(shapes, given)
        values |= _quantizer(shapes, given, dict(settings or {}), values)
    except KeyError as error:
        raise WeightsError(
            f"the checkpoint lacks {error.args[0]}; this is not a whole RobusTok file."
        ) from None
    except (IndexError, ValueError, TypeError) as error:
        raise WeightsError(
            f"the checkpoint's shapes or its config make no RobusTok ({error}); give the whole "
            "published file and its own config."
        ) from None
    _agree(shapes, values, given)
    return values


def _sizes(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    patch = shapes["encoder.model.patch_embed.proj.weight"][-1]
    positions = math.isqrt(shapes["encoder.model.pos_embed"][-2] - 1)
    branches = shapes[LEVELS][0] - 1
    size = given.get("img_size", given.get("image_size"))
    return {
        "image_size": positions * patch if size is None else size,
        "patch_size": patch,
        "position_grid": positions,
        "encoder_size": _side(shapes, given, "encoder"),
        "decoder_size": _side(shapes, given, "decoder"),
        "branches": branches,
        "code_grid": math.isqrt(shapes[QUERIES][-2] // max(branches, 1)),
        "code_dim": shapes["quant_conv.weight"][0],
        "layer_norm_eps": float(given.get("layer_norm_eps", 1e-6)),
        "drop_path": float(given.get("drop_path_rate", 0.1)),
    }


def _side(shapes: Shapes, given: Mapping[str, Any], side: str) -> dict[str, Any]:
    width = shapes[f"{side}.model.pos_embed"][-1]
    blocks = [re.match(rf"{side}\.model\.blocks\.(\d+)\.", name) for name in shapes]
    return {
        "width": width,
        "layers": max((int(match[1]) + 1 for match in blocks if match), default=0),
        "heads": int(given.get("num_heads", max(1, width // HEAD_WIDTH))),
        "mlp_width": shapes[f"{side}.model.blocks.0.mlp.fc1.weight"][0],
    }


def _quantizer(
    shapes: Shapes, given: Mapping[str, Any], settings: Mapping[str, Any],
    values: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    first = quantizer_prefixes(shapes)[0] if quantizer_prefixes(shapes) else "quantize."
    table, hits = f"{first}embedding.weight", f"{first}ema_vocab_hit_SV"
    phi = _count(shapes, rf"{re.escape(first)}quant_resi\.qresi_ls\.(\d+)\.weight")
    held = shapes.get(hits, ())
    scales = _scales(given, settings, values["code_grid"], held[0] if len(held) == 2 else None)
    options: dict[str, Any] = {
        "average_usage": bool(held),
        "dropout": _number(given, settings, "codebook_drop", 0.0),
    }
    beta = _number(given, settings, "commit_loss_beta", 0.25)
    binary = table not in shapes
    found: dict[str, Any] = {
        "codebook_size": 1 << values["code_dim"] if binary else shapes[table][0],
        "l2_normalize": bool(given.get("codebook_l2_norm", True)),
        "semantic_branches": "last" if _half_sem(given, settings) else "all",
    }
    if not binary and not phi and len(held) != 2:
        options["commitment_weight"] = beta
        return found | {"quantizer_kind": "vector", "quantizer_options": options}
    options |= {
        "phi_convs": phi, "beta": beta,
        "start_drop": min(int(_number(given, settings, "start_drop", 3)), len(scales)),
    }  # fmt: skip
    kind = "binary" if binary else "multi_scale"
    return found | {
        "quantizer_kind": kind, "scales": scales, "quantizer_options": options
    }  # fmt: skip


def _scales(
    given: Mapping[str, Any], settings: Mapping[str, Any], grid: int, held: int | None
) -> list[int]:
    """Return the scale list, of which shapes tell the last one and, mostly, how many there are."""
    told = given.get("v_patch_nums", given.get("scales"))
    if told is None:
        own = settings.get("v_patch_nums")
        fits = isinstance(own, list) and own and own[-1] == grid and held in (None, len(own))
        told = own if fits else None
    if told is None and held in (None, 1):
        return [grid]
    if told is None:
        if held != len(PUBLISHED_SCALES) or grid != PUBLISHED_SCALES[-1]:
            raise WeightsError(
                f"the checkpoint has {held} scales that end in {grid} and no tensor says which; "
                "give a config with v_patch_nums, the sides of the grids from coarse to fine."
            )
        told = PUBLISHED_SCALES
    if held is not None and held != len(told):
        raise WeightsError(
            f"the config lists {len(told)} scales but the weights hold {held}; the two files do "
            "not belong together."
        )
    return list(told)


def _number(
    given: Mapping[str, Any], settings: Mapping[str, Any], name: str, usual: float
) -> float:
    own = settings.get(name)
    return float(given.get(name, own if isinstance(own, int | float) else usual))


def _half_sem(given: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    own = settings.get("half_sem")
    return bool(given.get("half_sem", own if isinstance(own, bool) else True))


def _agree(shapes: Shapes, values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    side, kind = values["encoder_size"], values["quantizer_kind"]
    prefixes = quantizer_prefixes(shapes)
    if len(prefixes) != values["branches"]:
        raise WeightsError(
            f"the encoder has queries for {values['branches']} branches but the checkpoint holds "
            f"{len(prefixes)} quantizers; give the whole published file."
        )
    single = [values["code_grid"]]
    check_agreement(given, {
        "codebook_size": values["codebook_size"], "codebook_embed_dim": values["code_dim"],
        "product_quant": values["branches"], "num_latent_tokens": values["code_grid"] ** 2,
        "latent_grid": values["code_grid"], "patch_size": values["patch_size"],
        "embed_dim": side["width"], "depth": side["layers"],
        "v_patch_nums": single if kind == "vector" else None,
        "share_quant_resi": None if kind == "vector"
        else values["quantizer_options"]["phi_convs"] or None,
    })  # fmt: skip


def _count(shapes: Shapes, pattern: str) -> int:
    found = (re.fullmatch(pattern, name) for name in shapes)
    return max((int(match[1]) + 1 for match in found if match), default=0)
