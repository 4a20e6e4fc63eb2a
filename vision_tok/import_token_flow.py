"""Importer of published TokenFlow checkpoints, every key mapped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tok_core.contract import Autoencoder
from tok_core.official_fit import fill
from tok_core.official_names import class_to_build, renamed
from tok_core.official_source import official_files
from tok_core.official_weights import read_state
from vision_tok.conv_autoencoder_keys import conv_autoencoder_keys
from vision_tok.import_vqgan import WRAPPERS, tokenizer_part
from vision_tok.infer_token_flow import (
    PIXEL_TABLE,
    SCALE,
    SEMANTIC_TABLE,
    SHIFT,
    TOWER,
    WINDOW,
    kind_of,
    token_flow_values,
)
from vision_tok.token_flow import TokenFlow
from vision_tok.tower_weights import PREFIXES, find_tower, tower_names, unused_names
from vision_tok.vision_tower import VisionTower

_NAMES = (
    (r"^code_head\.", "encode_task_layer."),
    (r"^feature_decoder\.head\.", "decode_task_layer."),
    (r"^feature_decoder\.patches\.", "decoder_vqkd.patch_embed.proj."),
    (r"^feature_decoder\.class_token$", "decoder_vqkd.cls_token"),
    (r"^feature_decoder\.position_table$", "decoder_vqkd.pos_embed"),
    (r"^feature_decoder\.norm_out\.", "decoder_vqkd.fc_norm."),
    (r"^feature_decoder\.", "decoder_vqkd."),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.mlp_norm\.", ".norm2."),
    (r"\.attention\.query_bias$", ".attn.q_bias"),
    (r"\.attention\.value_bias$", ".attn.v_bias"),
    (r"\.attention\.out\.", ".attn.proj."),
    (r"\.attention\.", ".attn."),
    (r"\.mlp\.up\.", ".mlp.fc1."),
    (r"\.mlp\.down\.", ".mlp.fc2."),
    (r"^quantizer\.tables\.semantic$", SEMANTIC_TABLE),
    (r"^quantizer\.tables\.pixel$", PIXEL_TABLE),
    (r"^quantizer\.recent\.codes$", WINDOW),
)
_NETWORK = "semantic_tower.network."
# Stored with two axes of size 1 in front.
_FLAT = ("decoder_vqkd.cls_token", "decoder_vqkd.pos_embed")


def import_token_flow(
    source: str | Path, config: Mapping[str, Any] | str | Path | None = None, *,
    cls: type[Autoencoder] | None = None,
) -> Any:  # fmt: skip
    """Read a published checkpoint; every key must find its place on both sides.

    Args:
        source: ``tokenflow_clipb_32k_enhanced.pt``, ``tokenflow_siglip_32k.pt``, another file of
            the three kinds, a folder with weights and a flat config.json, or a hub id.
        config: options as an object or JSON file; ``{"image_size": 256}`` runs the CLIP model at
            the size it was released for (its positions are those of 224).
        cls: a subclass of `TokenFlow` to build.

    Returns:
        A `TokenFlow` in eval mode, float32, on the CPU.

    Raises:
        WeightsError: unreadable file, no TokenFlow, keys left over on either side.
        ConfigError: a ViTamin checkpoint where timm cannot be imported.

    Example:
        >>> tokenizer = import_token_flow("tokenflow_siglip_32k.pt")  # doctest: +SKIP
    """
    files = official_files(source, config)
    state = read_state(files.weights, WRAPPERS)
    return token_flow_from_state(state, files.merged, cls=cls, name=str(source))


def token_flow_from_state(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, *,
    cls: type[Autoencoder] | None = None, name: str = "the checkpoint",
) -> Any:  # fmt: skip
    """Build the model that a state dict with official names belongs to (tensors may be on meta).

    Raises:
        WeightsError, ConfigError: as `import_token_flow`.
    """
    chosen = class_to_build(cls, TokenFlow, name)
    state = tokenizer_part(state)
    values = token_flow_values(state, config, kind_of(state, name))
    with torch.device("meta"):
        model = chosen(**values)
    names = official_names(model, state)
    left_out = _left_out(model, state)
    kept = {n: t for n, t in state.items() if n not in left_out}
    for flat in _FLAT:
        if flat in kept:
            kept[flat] = kept[flat].squeeze()
    fill(model, names, kept, name)
    return model.eval()


def official_names(model: TokenFlow, state: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """Return our name -> official names for everything in the model's state dict.

    Args:
        model: ours.
        state: the checkpoint, whose encoder may or may not have transformers' ``vision_model.``
            level above its names.
    """
    levels = {
        "encoder": len(model.settings.encoder.widths),
        "decoder": len(model.settings.decoder.widths),
    }
    names = conv_autoencoder_keys(model.state_dict(), "llamagen", levels)
    tower = _tower_names(model, state)
    for ours in model.state_dict():
        if ours in names:
            continue
        if ours.startswith(_NETWORK):
            names[ours] = tower[ours]
            continue
        names[ours] = (renamed(ours, _NAMES),)
    return names


def _tower_names(model: TokenFlow, state: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    network = model.semantic_tower.network
    if not isinstance(network, VisionTower):
        inner = f"{_NETWORK}model."
        return {
            name: (TOWER + name.removeprefix(inner),)
            for name in model.state_dict() if name.startswith(inner)
        }
    level, inside = _tower(state)
    words = find_tower(inside, "the checkpoint").words
    return {
        _NETWORK + ours: tuple(TOWER + level + part for part in parts)
        for ours, parts in tower_names(network, words).items()
    }


def _tower(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return the level above the tower's names, and its tensors without it."""
    inside = {n.removeprefix(TOWER): t for n, t in state.items() if n.startswith(TOWER)}
    for level in PREFIXES:
        if level and any(name.startswith(level) for name in inside):
            return level, {name.removeprefix(level): t for name, t in inside.items()}
    return "", inside


def _left_out(model: TokenFlow, state: Mapping[str, Tensor]) -> set[str]:
    """Return what the file holds and this model does without.

    The normalisation's constants went into the config; SigLIP's last block, norm and head are
    never used.
    """
    left = {SHIFT, SCALE} & set(state)
    network = model.semantic_tower.network
    if isinstance(network, VisionTower):
        level, inside = _tower(state)
        unused = unused_names(find_tower(inside, "the checkpoint"), network)
        left |= {TOWER + level + name for name in unused}
    return left
