"""Importer of published RAR generators, over MaskGIT-VQGAN's and RobusTok's codes.

    embeddings             tokens | (a mask that no RAR ever sees) | condition: classes, no class
    pos_embed              positions | (rows for lengths that none was trained at)
    target_aware_pos_embed (two rows of the prefix) | target_positions | (rows as above)
    timesteps_embeddings   slots | (rows as above)
    blocks.i, lm_head      trunk.blocks.i, output

What stands in brackets is never read and left out, so our parameter counts are 1.6 to 3 million
below the official ones.  Yu et al. 2024, arXiv 2411.00776; Qiu et al. 2025, arXiv 2509.12474.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generators.rar import RAR
from tok_core.errors import ConfigError, WeightsError
from tok_core.model import Model
from tok_core.official_fit import check_agreement, fill
from tok_core.official_names import class_to_build, count_of, renamed
from tok_core.official_source import official_files
from tok_core.official_weights import read_state
from tok_core.token_spec import Axis, TokenSpec

WRAPPERS = ("model", "module", "state_dict")
TABLE, HEAD, START = "embeddings.weight", "lm_head.weight", "cls_token"
POSITIONS, TARGETS, SLOTS = "pos_embed", "target_aware_pos_embed", "timesteps_embeddings"
# Of these some rows are read.
_TABLES = (TABLE, START, POSITIONS, TARGETS, SLOTS)
KEY_NORM, MLP = "blocks.0.attn.k_norm.weight", "blocks.0.mlp.fc1.weight"
_NEEDED = (*_TABLES, HEAD, KEY_NORM, MLP)
# Rows of the official tables beyond the number of codes.
_SPARE_POSITIONS, _SPARE_SLOTS = 1024, 100
# Slots before the codes; also rows of `embeddings` beside codes and classes: mask and no class.
_PREFIX = 2
_NAMES = (
    (r"^trunk\.modulation\.", "adaln_before_head.adaLN_modulation.1."),
    (r"^trunk\.blocks\.", "blocks."),
    (r"^output\.", "lm_head."),
    (r"\.modulation\.", ".adaLN_modulation.1."),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.mlp_norm\.", ".norm2."),
    (r"\.attention\.", ".attn."),
    (r"\.out\.", ".proj."),
    (r"\.query_norm\.", ".q_norm."),
    (r"\.key_norm\.", ".k_norm."),
    (r"\.up\.", ".fc1."),
    (r"\.down\.", ".fc2."),
)


def import_rar(
    source: str | Path, config: Mapping[str, Any] | str | Path | None = None, *,
    cls: type[Model] | None = None, spec: TokenSpec | None = None, code_hash: str | None = None,
) -> Any:  # fmt: skip
    """Read a published RAR; every key must find its place on both sides.

    Args:
        source: ``rar_b.bin`` and the like, a safetensors file with the same keys, or a folder with
            one of the usual names.
        config: official options as an object or JSON file: ``image_seq_len`` for tables of unusual
            length, ``dropout`` and ``attn_drop`` for further training; others are compared.
        cls: a subclass of `RAR` to build.
        spec: of the tokenizer; None is image codes on a square grid where their number is a
            square, else in a row.
        code_hash: of the tokenizer.

    Returns:
        A `RAR` in eval mode, float32, on the CPU.

    Raises:
        WeightsError: unreadable file, another network, keys left over on either side, a config
            that does not fit. ConfigError: a spec of other codes.

    Example:
        >>> generator = import_rar("rar_b.bin")  # doctest: +SKIP
        >>> generator.spec.grid  # doctest: +SKIP
        (16, 16)
    """
    files = official_files(source, config)
    return rar_from_state(
        read_state(files.weights, WRAPPERS), files.merged, cls=cls, spec=spec,
        code_hash=code_hash, name=str(source),
    )  # fmt: skip


def rar_from_state(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, *,
    cls: type[Model] | None = None, spec: TokenSpec | None = None, code_hash: str | None = None,
    name: str = "the checkpoint",
) -> Any:  # fmt: skip
    """Build the model that a state dict with official names belongs to (tensors may be on meta).

    Raises:
        WeightsError, ConfigError: as `import_rar`.
    """
    chosen = class_to_build(cls, RAR, name)
    lacking = [key for key in _NEEDED if key not in state]
    if lacking:
        raise WeightsError(f"{name} holds no RAR (no {', '.join(lacking)}); give a rar_*.bin.")
    options = dict(config or {})
    length, values = _length(state, options, name), _values(state, options, name)
    vocabulary = len(state[HEAD])
    spec = spec or natural_spec(length, vocabulary)
    with torch.device("meta"):
        model = chosen(spec.to_json(), code_hash=code_hash, **values)
    if (model.settings.length, spec.vocabulary) != (length, (vocabulary,)):
        raise ConfigError(
            f"{name} generates {length} codes of {vocabulary} but the spec has "
            f"{model.settings.length} of {'/'.join(map(str, spec.vocabulary))}; give the spec of "
            "the tokenizer it was trained with."
        )
    whole = {key: tensor for key, tensor in state.items() if key not in _TABLES}
    fill(model, official_names(model), {**whole, **_rows(state, length)}, name)
    return model.eval()


def official_names(model: RAR) -> dict[str, tuple[str, ...]]:
    """Return our name -> official name of everything in the state; tables' parts keep ours."""
    names: dict[str, tuple[str, ...]] = {}
    for ours in model.state_dict():
        inside = ours.startswith(("trunk.", "output."))
        names[ours] = (renamed(ours, _NAMES) if inside else ours,)
    return names


def natural_spec(length: int, codebook_size: int) -> TokenSpec:
    """Return the spec of image codes (B, rows, columns) of a square, or (B, L) of another number.

    Example:
        >>> natural_spec(256, 1024).grid
        (16, 16)
    """
    side = math.isqrt(length)
    if side * side != length:
        axes: tuple[Axis, ...] = (Axis(name="token", size=length, minimum=length),)
        return TokenSpec(modality="image", axes=axes, vocabulary=(codebook_size,))
    axes = tuple(Axis(name=name, size=side, minimum=side) for name in ("row", "column"))
    return TokenSpec(modality="image", axes=axes, vocabulary=(codebook_size,), grid=(side, side))


def _rows(state: Mapping[str, Tensor], length: int) -> dict[str, Tensor]:
    """Return the rows of the official tables that are read, by our names."""
    vocabulary, end = len(state[HEAD]), _PREFIX + length
    parts = {
        "tokens.weight": state[TABLE][:vocabulary],
        "condition.table.weight": state[TABLE][vocabulary + 1 :],
        "start": state[START].flatten(),
        "positions": state[POSITIONS][0, :end],
        "slots": state[SLOTS][0, :end],
        "target_positions": state[TARGETS][0, _PREFIX:end],
    }
    # Of their own memory: no file takes two views of one table.
    return {ours: rows.clone() for ours, rows in parts.items()}


def _length(state: Mapping[str, Tensor], options: Mapping[str, Any], name: str) -> int:
    """Return L: the config's, or what the published tables have beyond their spare rows."""
    tables = {key: tuple(state[key].shape) for key in (POSITIONS, TARGETS, SLOTS)}
    rows = {key: shape[1] if len(shape) == 3 else 0 for key, shape in tables.items()}
    given = options.get("image_seq_len")
    length = rows[POSITIONS] - _SPARE_POSITIONS if given is None else given
    usual = (rows[TARGETS], rows[SLOTS]) == (rows[POSITIONS], length + _SPARE_SLOTS)
    if not 1 <= length <= min(rows.values()) - _PREFIX or (given is None and not usual):
        shapes = ", ".join(f"{key} {shape}" for key, shape in tables.items())
        raise WeightsError(
            f"{name} has {shapes}; for L codes RAR's tables are (1, L + 1024, W) twice and "
            "(1, L + 100, W): give image_seq_len if this file has others."
        )
    return length


def _values(state: Mapping[str, Tensor], options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the keyword values of `RAR` that tensors and options tell, agreeing."""
    table, head, norm = state[TABLE], state[HEAD], state[KEY_NORM]
    flat = table.ndim == head.ndim == state[MLP].ndim == 2 and norm.ndim == 1 and len(norm)
    if not flat or table.shape[1] % len(norm) or len(table) < len(head) + _PREFIX:
        raise WeightsError(
            f"{name} has {TABLE} {tuple(table.shape)}, {HEAD} {tuple(head.shape)} and {KEY_NORM} "
            f"{tuple(norm.shape)}; RAR's are (V + 2 + classes, W), (V, W) and (W / heads,)."
        )
    said = {
        "hidden_size": table.shape[1], "num_hidden_layers": count_of(state, "blocks."),
        "num_attention_heads": table.shape[1] // len(norm),
        "intermediate_size": len(state[MLP]), "codebook_size": len(head),
        "condition_num_classes": len(table) - len(head) - _PREFIX,
    }  # fmt: skip
    check_agreement(options, said)
    values = {
        "width": said["hidden_size"], "layers": said["num_hidden_layers"],
        "heads": said["num_attention_heads"], "hidden": said["intermediate_size"],
        "classes": said["condition_num_classes"],
    }  # fmt: skip
    dropouts = {"dropout": options.get("dropout"), "attention_dropout": options.get("attn_drop")}
    return values | {key: chance for key, chance in dropouts.items() if chance is not None}
