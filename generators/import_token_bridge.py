"""Importer of TokenBridge's published generators (large, huge).

    class_emb, fake_latent                     condition: classes, no class
    z_proj, encoder_*, decoder_*, mask_token   backbone
    output_pos_embed                           backbone.feature_places
    condition_proj, channel_*, timesteps_*     head, whose tables and outputs lie end to end
    channel_mask, boundaries                   (follow from the sizes)
    reconstruction_values                      values

The files hold the trained parameters under ``model`` and their averages, which the papers' numbers
come from, under ``model_ema``; the averages have no buffers, so the levels are computed again.
What no file holds is the order of the channels, the range, the numbers of heads: those of the
released settings are taken where the config says nothing.  Wang et al. 2025, arXiv 2503.16430.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generators.token_bridge import TokenBridge
from tok_core.errors import ConfigError, WeightsError
from tok_core.frequency_order import KL16_ORDER
from tok_core.gaussian_levels import gaussian_table
from tok_core.model import Model
from tok_core.official_fit import check_agreement, fill
from tok_core.official_names import class_to_build, count_of, renamed
from tok_core.official_source import official_files
from tok_core.official_weights import read_state
from tok_core.token_spec import Axis, TokenSpec

WRAPPERS = ("model_ema", "model")
# Buffers: they follow from the sizes, or (levels) are read apart.
LEVELS = "reconstruction_values"
BUFFERS = ("channel_mask", LEVELS, "boundaries")
# Heads of the released sizes, by the width of the encoder.
HEADS = {768: 12, 1024: 16, 1280: 16}
_TABLES = {
    "backbone.encoder_places": "encoder_pos_embed_learned",
    "backbone.decoder_places": "decoder_pos_embed_learned",
    "backbone.feature_places": "output_pos_embed",
    "backbone.mask_token": "mask_token",
    "head.places": "channel_embed",
    "head.steps": "timesteps_embeddings",
}
_PARTS = (
    (r"^backbone\.value_in\.", "z_proj."),
    (r"^backbone\.value_norm\.", "z_proj_ln."),
    (r"^backbone\.(encoder|decoder)\.", r"\1_blocks."),
    (r"^backbone\.(encoder|decoder)_norm\.", r"\1_norm."),
    (r"^backbone\.decoder_in\.", "decoder_embed."),
    (r"^head\.project\.", "condition_proj."),
    (r"^head\.trunk\.blocks\.", "channel_blocks."),
    (r"^head\.trunk\.norm\.", "channel_norm."),
    (r"^head\.trunk\.modulation\.", "channel_final.adaLN_modulation.1."),
    (r"\.modulation\.", ".adaLN_modulation.1."),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.mlp_norm\.", ".norm2."),
    (r"\.attention\.", ".attn."),
    (r"\.out\.", ".proj."),
    (r"\.query_norm\.", ".q_norm."),
    (r"\.key_norm\.", ".k_norm."),
    (r"\.mlp\.up\.|(?<=\d)\.up\.", ".mlp.fc1."),
    (r"\.mlp\.down\.|(?<=\d)\.down\.", ".mlp.fc2."),
)
_CLASSES, _NOTHING, _FIRST = "class_emb.weight", "fake_latent", "channel_heads.0.weight"
_KEY_NORM, _MLP = "channel_blocks.0.attn.k_norm.weight", "encoder_blocks.0.mlp.fc1.weight"
_NEEDED = (*_TABLES.values(), "z_proj.weight", _CLASSES, _NOTHING, _FIRST, _KEY_NORM, _MLP)


def import_token_bridge(
    source: str | Path, config: Mapping[str, Any] | str | Path | None = None, *,
    cls: type[Model] | None = None, spec: TokenSpec | None = None, code_hash: str | None = None,
) -> Any:  # fmt: skip
    """Read a published generator; every key must find its place on both sides.

    Args:
        source: ``checkpoint-last.pth``, a safetensors file with the same keys, or a folder with
            one of the usual names.
        config: official options as an object or JSON file: ``encoder_num_heads`` and
            ``decoder_num_heads`` for unusual widths, ``channel_order``, ``quant_min``,
            ``quant_max`` and ``std_range`` for another autoencoder than MAR's, ``norm_eps``,
            ``label_drop_prob``; others are compared.
        cls: a subclass of `TokenBridge` to build.
        spec: of the tokenizer; None is a square grid.
        code_hash: of the tokenizer.

    Returns:
        A `TokenBridge` in eval mode, float32, on the CPU, with averaged weights where the file
        has them.

    Raises:
        WeightsError: unreadable file, another network, keys left over on either side, a config
            that does not fit. ConfigError: a spec of other codes, an order of other channels.

    Example:
        >>> generator = import_token_bridge("checkpoint-last.pth")  # doctest: +SKIP
        >>> generator.spec.grid  # doctest: +SKIP
        (16, 16)
    """
    files = official_files(source, config)
    options = files.merged
    # A config of both halves keeps the generator's apart.
    inner = options.get("generator")
    return token_bridge_from_state(
        read_state(files.weights, WRAPPERS), inner if isinstance(inner, dict) else options,
        cls=cls, spec=spec, code_hash=code_hash, name=str(source),
    )  # fmt: skip


def token_bridge_from_state(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, *,
    cls: type[Model] | None = None, spec: TokenSpec | None = None, code_hash: str | None = None,
    name: str = "the checkpoint",
) -> Any:  # fmt: skip
    """Build the model that a state dict with official names belongs to (tensors may be on meta).

    Raises:
        WeightsError, ConfigError: as `import_token_bridge`.
    """
    chosen = class_to_build(cls, TokenBridge, name)
    lacking = [key for key in _NEEDED if key not in state]
    if lacking:
        raise WeightsError(
            f"{name} holds no TokenBridge generator (no {', '.join(lacking[:3])}); give a "
            "checkpoint-last.pth."
        )
    options = dict(config or {})
    values = _values(state, options, name)
    length, dims = state["output_pos_embed"].shape[1], state["z_proj.weight"].shape[1]
    vocabulary = (len(state[_FIRST]),) * dims
    spec = spec or natural_spec(length, vocabulary)
    levels = _levels(state.get(LEVELS), vocabulary[0], options)
    with torch.device("meta"):
        model = chosen(spec.to_json(), values=levels, code_hash=code_hash, **values)
    if (model.settings.length, spec.vocabulary) != (length, vocabulary):
        raise ConfigError(
            f"{name} generates {length} positions of {dims} codes of {vocabulary[0]} but the spec "
            f"has {model.settings.length} of {len(spec.vocabulary)} of {max(spec.vocabulary)}; "
            "give the spec of the tokenizer it was trained with."
        )
    whole = {key: tensor for key, tensor in state.items() if key not in BUFFERS}
    for key in _TABLES.values():
        # Ours have no axis for the batch.
        whole[key] = whole[key].flatten(0, -2)
    whole["mask_token"] = whole["mask_token"].flatten()
    fill(model, official_names(model), whole, name)
    return model.eval()


def official_names(model: TokenBridge) -> dict[str, tuple[str, ...]]:
    """Return our name -> official names, which lie end to end, of everything in the state."""
    slots = model.head.slots
    names: dict[str, tuple[str, ...]] = {
        "condition.table.weight": (_CLASSES, _NOTHING),
        "head.before.weight": tuple(f"token_embeddings.{k}.weight" for k in range(slots - 1)),
        "head.output.weight": tuple(f"channel_heads.{k}.weight" for k in range(slots)),
        "head.output.bias": tuple(f"channel_heads.{k}.bias" for k in range(slots)),
        **{ours: (official,) for ours, official in _TABLES.items()},
    }
    for ours in model.state_dict():
        names.setdefault(ours, (renamed(ours, _PARTS),))
    return names


def natural_spec(length: int, vocabulary: tuple[int, ...]) -> TokenSpec:
    """Return the spec of image codes (B, rows, columns, C) of a square.

    Raises:
        ConfigError: the number of positions is no square.

    Example:
        >>> natural_spec(256, (64,) * 16).grid
        (16, 16)
    """
    side = math.isqrt(length)
    if side * side != length:
        raise ConfigError(
            f"{length} positions are no square; give the spec of the tokenizer, whose grid says "
            "how they lie."
        )
    sizes = {"row": side, "column": side, "dimension": len(vocabulary)}
    axes = tuple(Axis(name=name, size=size, minimum=size) for name, size in sizes.items())
    return TokenSpec(modality="image", axes=axes, vocabulary=vocabulary, grid=(side, side))


def _levels(stored: Tensor | None, count: int, options: Mapping[str, Any]) -> list[float]:
    """Return the levels in normalised units: stored ones where there are, else computed anew.

    Raises:
        ConfigError: no number of levels that bits give.
    """
    low, high = options.get("quant_min", -5.0), options.get("quant_max", 5.0)
    r = options.get("std_range", 3.0)
    if stored is None or stored.is_meta:
        table = gaussian_table(max(1, math.ceil(math.log2(count))), r)
        # As released, with the empty bins of 10 bits and more; ours may have dropped them.
        stored = table.centroids if len(table.centroids) == count else table.centroids[table.filled]
        if len(stored) != count:
            raise ConfigError(
                f"the checkpoint has {count} levels per dimension and does not say which; give "
                f"the file that holds {LEVELS}."
            )
    return ((stored.float() + r) / (2 * r) * (high - low) + low).tolist()


def _values(state: Mapping[str, Tensor], options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the keyword values of `TokenBridge` that tensors and options tell, agreeing."""
    places, features, head = (
        state[key] for key in ("encoder_pos_embed_learned", "output_pos_embed", "channel_embed")
    )
    norm, inner = state[_KEY_NORM], state["z_proj.weight"]
    flat = places.ndim == features.ndim == head.ndim == 3 and norm.ndim == 1 and inner.ndim == 2
    if not flat or not len(norm) or head.shape[2] % len(norm):
        raise WeightsError(
            f"{name} has tables of shapes {tuple(places.shape)}, {tuple(features.shape)} and "
            f"{tuple(head.shape)} and {_KEY_NORM} {tuple(norm.shape)}; TokenBridge's are "
            "(1, buffer + L, W), (1, L, W), (1, C, W) and (W / heads,)."
        )
    widths = {"encoder": places.shape[2], "decoder": features.shape[2]}
    said: dict[str, Any] = {
        "seq_len": features.shape[1], "buffer_size": places.shape[1] - features.shape[1],
        "vae_embed_dim": inner.shape[1], "quant_levels": len(state[_FIRST]),
        "class_num": len(state[_CLASSES]), "channel_embed_dim": head.shape[2],
        "channel_num_heads": head.shape[2] // len(norm),
        "mlp_ratio": len(state[_MLP]) / widths["encoder"], "patch_size": 1,
    }  # fmt: skip
    for part, width in widths.items():
        said |= {f"{part}_embed_dim": width, f"{part}_depth": count_of(state, f"{part}_blocks.")}
    said["channel_depth"] = count_of(state, "channel_blocks.")
    check_agreement(options, said)
    heads = {part: options.get(f"{part}_num_heads", HEADS.get(w)) for part, w in widths.items()}
    if None in heads.values():
        raise ConfigError(
            f"{name} has widths {widths['encoder']} and {widths['decoder']}, which no release has, "
            "so its heads are not known; give encoder_num_heads and decoder_num_heads."
        )
    order = options.get("channel_order")
    if order is None and said["vae_embed_dim"] == len(KL16_ORDER):
        order = list(KL16_ORDER)
    values = {
        "width": widths["encoder"], "layers": said["encoder_depth"], "heads": heads["encoder"],
        "decoder_width": widths["decoder"], "decoder_layers": said["decoder_depth"],
        "decoder_heads": heads["decoder"], "mlp_ratio": said["mlp_ratio"],
        "buffer": said["buffer_size"], "head_width": said["channel_embed_dim"],
        "head_layers": said["channel_depth"], "head_heads": said["channel_num_heads"],
        "classes": said["class_num"], "channel_order": order,
        "norm_eps": options.get("norm_eps"), "condition_dropout": options.get("label_drop_prob"),
    }  # fmt: skip
    return {key: value for key, value in values.items() if value is not None}
