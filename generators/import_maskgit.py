"""Importer of the MaskGIT generators that TiTok and One-D-Piece publish, every key mapped.

    bert  model.embeddings, model.encoder.layer.i, model.lm_head     names of Hugging Face's BERT
    uvit  embeddings, pos_embed, in_blocks.i, mid_block, out_blocks.i, norm, lm_head

Rows of the official table of embeddings: K codes, the mask, the classes, "no class".  Letters: K
codes, N tokens, W width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from generators.maskgit import MaskGIT
from tok_core.errors import ConfigError, WeightsError
from tok_core.model import Model
from tok_core.official_fit import check_agreement, fill, recognised_parts
from tok_core.official_names import class_to_build, renamed
from tok_core.official_source import official_files
from tok_core.official_weights import read_state
from tok_core.token_spec import Axis, TokenSpec

# No tensor tells; all that is published has 16.
HEADS = 16
# A table that old versions of transformers stored; it counts from 0.
DEAD = ("model.embeddings.position_ids",)
CLASS_ROWS = " (rows of the classes)"
# Official options that no tensor tells, and ours.
_OPTIONS = {
    "num_attention_heads": "heads", "dropout": "dropout", "attn_drop": "attention_dropout",
    "class_label_dropout": "condition_dropout",
}  # fmt: skip


class Layout(NamedTuple):
    """Where a network's official tensors are."""

    table: str
    positions: str
    head: str
    hidden: str
    block: str  # matches the first tensor of every block that counts
    names: tuple[tuple[str, str], ...]  # ours -> official, one pattern after the other


LAYOUTS = {
    "bert": Layout(
        "model.embeddings.word_embeddings.weight", "model.embeddings.position_embeddings.weight",
        "model.lm_head.weight", "model.encoder.layer.0.intermediate.dense.weight",
        r"model\.encoder\.layer\.\d+\.intermediate\.dense\.weight",
        (
            (r"^trunk\.type_embedding$", "model.embeddings.token_type_embeddings.weight"),
            (r"^trunk\.norm_in\.", "model.embeddings.LayerNorm."),
            (r"^trunk\.blocks\.", "model.encoder.layer."),
            (r"\.attention\.qkv\.", ".attention.self.{}."),
            (r"\.attention\.out\.", ".attention.output.dense."),
            (r"\.attention_norm\.", ".attention.output.LayerNorm."),
            (r"\.mlp\.up\.", ".intermediate.dense."),
            (r"\.mlp\.down\.", ".output.dense."),
            (r"\.mlp_norm\.", ".output.LayerNorm."),
            (r"^head\.", "model.lm_head."),
        ),
    ),
    "uvit": Layout(
        "embeddings.weight", "pos_embed", "lm_head.weight", "mid_block.mlp.fc1.weight",
        r"(in|out)_blocks\.\d+\.mlp\.fc1\.weight",
        (
            (r"^trunk\.norm_out\.", "norm."),
            (r"^trunk\.", ""),
            (r"\.attention\.out\.", ".attn.proj."),
            (r"\.attention\.", ".attn."),
            (r"\.attention_norm\.", ".norm1."),
            (r"\.mlp_norm\.", ".norm2."),
            (r"\.mlp\.up\.", ".mlp.fc1."),
            (r"\.mlp\.down\.", ".mlp.fc2."),
            (r"\.skip\.", ".skip_linear."),
            (r"^head\.", "lm_head."),
        ),
    ),
}  # fmt: skip


def import_maskgit(
    source: str | Path, config: Mapping[str, Any] | str | Path | None = None, *,
    cls: type[Model] | None = None, spec: TokenSpec | None = None, code_hash: str | None = None,
) -> Any:  # fmt: skip
    """Read a published generator; every key must find its place on both sides.

    Args:
        source: ``generator_titok_l32.bin`` and the like, a folder with weights, or a hub id such
            as ``turing-motors/MaskGIT_One-D-Piece-S-256``.
        config: official options, flat or as the hub repositories nest them, or a JSON file of
            them; ``num_attention_heads`` is 16 unless it says otherwise.
        cls: a subclass of `MaskGIT` to build.
        spec: of the tokenizer; None is 1D image codes that only decode whole.
        code_hash: of the tokenizer.

    Returns:
        A `MaskGIT` in eval mode, float32, on the CPU.

    Raises:
        WeightsError: unreadable, keys left over on either side, shapes or a config that do not
            fit. ConfigError: a spec of other codes.

    Example:
        >>> model = import_maskgit("generator_titok_l32.bin", spec=titok.spec)  # doctest: +SKIP
    """
    files = official_files(source, config)
    options = {**plain_options(files.beside), **plain_options(files.given)}
    return maskgit_from_state(
        read_state(files.weights), options, cls=cls, spec=spec, code_hash=code_hash,
        name=str(source),
    )  # fmt: skip


def maskgit_from_state(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, *,
    cls: type[Model] | None = None, spec: TokenSpec | None = None, code_hash: str | None = None,
    name: str = "the checkpoint",
) -> Any:  # fmt: skip
    """Build the model that a state dict with official names belongs to (tensors may be on meta).

    Raises:
        WeightsError, ConfigError: as `import_maskgit`.
    """
    chosen = class_to_build(cls, MaskGIT, name)
    kept = {key: tensor for key, tensor in state.items() if key not in DEAD}
    values, length = _values(kept, plain_options(config), name)
    vocabulary = len(kept[LAYOUTS[values["network"]].head])
    axes = (Axis(name="token", size=length, minimum=length),)
    own = spec or TokenSpec(modality="image", axes=axes, vocabulary=(vocabulary,))
    with torch.device("meta"):
        model = chosen(spec=own.to_json(), code_hash=code_hash, **values)
    if (model.settings.length, own.vocabulary) != (length, (vocabulary,)):
        raise ConfigError(
            f"{name} generates {length} codes of {vocabulary} but the spec has "
            f"{model.settings.length} of {'/'.join(map(str, own.vocabulary))}; give the spec of "
            "the tokenizer it was trained with."
        )
    layout = LAYOUTS[values["network"]]
    table, positions = kept[layout.table], kept[layout.positions]
    # Of their own memory: neither files nor moves to a device take views of one table.
    kept[layout.table] = table[: vocabulary + 1].clone()
    kept[layout.table + CLASS_ROWS] = table[vocabulary + 1 :].clone()
    kept[layout.positions] = positions.flatten(0, -2)
    fill(model, official_names(model), kept, name)
    return model.eval()


def official_names(model: MaskGIT) -> dict[str, tuple[str, ...]]:
    """Return our name -> official names for everything in the model's state dict.

    The official table of embeddings stands for our codes and mask; its rows of the classes follow
    under the same name with `CLASS_ROWS` behind it.
    """
    layout = LAYOUTS[model.settings.network]
    names: dict[str, tuple[str, ...]] = {
        "token_embedding.weight": (layout.table,),
        "condition.table.weight": (layout.table + CLASS_ROWS,),
        "trunk.position_embedding": (layout.positions,),
    }
    for ours in model.state_dict():
        if ours in names:
            continue
        official = renamed(ours, layout.names)
        packed = ("query", "key", "value") if "{}" in official else ("",)
        names[ours] = tuple(official.format(part) for part in packed)
    return names


def plain_options(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Flatten a config: ``model.generator`` of the hub repositories, or flat options as they are.

    Example:
        >>> plain_options({"model": {"generator": {"dropout": 0.1}}})
        {'dropout': 0.1}
    """
    nested = (config or {}).get("model")
    if not isinstance(nested, Mapping):
        return dict(config or {})
    flat = dict(nested.get("generator") or {})
    codebook = (nested.get("vq_model") or {}).get("codebook_size")
    return flat if codebook is None else {"codebook_size": codebook, **flat}


def _values(
    state: Mapping[str, Tensor], options: Mapping[str, Any], name: str
) -> tuple[dict[str, Any], int]:
    """Return the keyword values of `MaskGIT` that shapes and options tell, and N."""
    network = next((kind for kind, layout in LAYOUTS.items() if layout.table in state), "bert")
    layout = LAYOUTS[network]
    needed = (layout.table, layout.positions, layout.head, layout.hidden)
    lacking = [key for key in needed if key not in state or state[key].ndim < 2]
    if lacking:
        raise WeightsError(
            f"{name} is no MaskGIT: it lacks {', '.join(lacking)}; "
            f"{recognised_parts(state, ['model', 'embeddings', 'in_blocks', 'lm_head'])}."
        )
    rows, width = state[layout.table].shape
    vocabulary, length = len(state[layout.head]), state[layout.positions].shape[-2] - 1
    layers = sum(re.fullmatch(layout.block, key) is not None for key in state)
    classes, hidden = rows - vocabulary - 2, len(state[layout.hidden])
    if classes < 0 or length < 1:
        raise WeightsError(
            f"{name} has {layout.table} of {rows} rows for {vocabulary} codes and "
            f"{length + 1} positions; a table holds the codes, a mask, the classes and one row "
            "more, and the first position is the class's."
        )
    check_agreement(options, {
        "hidden_size": width, "num_hidden_layers": layers, "intermediate_size": hidden,
        "image_seq_len": length, "codebook_size": vocabulary, "condition_num_classes": classes,
        "mask_token_id": vocabulary, "class_id_offset": vocabulary + 1,
        "null_class_id": vocabulary + 1 + classes,
    })  # fmt: skip
    values = {
        "network": network, "classes": classes, "width": width, "layers": layers, "heads": HEADS,
        "hidden": hidden,
    }  # fmt: skip
    told = {own: options[key] for key, own in _OPTIONS.items() if options.get(key) is not None}
    return {**values, **told}, length
