"""Config of LlamaGen: plain JSON in, one frozen, checked object out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from generators.contract import check_sizes_known, read_spec
from generators.factors import factor_starts
from generators.llama_blocks import hidden_width
from generators.rotary import grid_table, sequence_table, with_prefix
from generators.token_shuffle import grid_windows, time_windows
from tok_core.errors import ConfigError
from tok_core.token_spec import TokenSpec

SLOT_HEADS = ("parallel", "causal", "dimension_wise")


@dataclass(frozen=True, kw_only=True)
class LlamaGenConfig:
    """Everything `generators.llamagen.LlamaGen` is built of, checked.

    Attributes:
        spec: of the tokens, all sizes fixed.
        width, layers, heads, hidden: of the trunk.
        classes: number of labels. caption_width, caption_length: of captions.
        window: s of Token-Shuffle. shuffle_blocks: residual MLPs on either side.
        slot_head: ``parallel`` draws the codes of a window independently, ``causal`` one after the
            other; so for the factors of a position; so does ``dimension_wise``, with TokenBridge's
            blocks.
        dropout: of token embeddings and branches. condition_dropout: chance of null conditions.
        eps: of norms. rope_base: of rotary positions. z_loss: weight of logsumexp squared.
    """

    spec: TokenSpec
    width: int
    layers: int
    heads: int
    hidden: int
    classes: int
    caption_width: int | None
    caption_length: int
    window: int
    shuffle_blocks: int
    slot_head: str
    dropout: float
    condition_dropout: float
    eps: float
    rope_base: float
    z_loss: float

    @property
    def length(self) -> int:
        """L."""
        return len(self.spec.coordinates().time)

    @property
    def prefix(self) -> int:
        """Positions of the condition."""
        return 1 if self.caption_width is None else self.caption_length

    @property
    def slots(self) -> int:
        """S: tokens of a window."""
        return self.window if grid_of(self.spec) is None else self.window**2

    def tables(self) -> dict[str, Tensor]:
        """Return the constant tables of the model, see `LlamaGen.tables`."""
        return {
            "windows": self.windows, "rotation": self.rotation,
            "starts": factor_starts(self.spec.vocabulary),
        }  # fmt: skip

    @property
    def windows(self) -> Tensor:
        """Sequence positions of every window's slots, int64 (C, S)."""
        grid = grid_of(self.spec)
        if grid is None:
            return time_windows(self.length, self.window)
        return grid_windows(*grid, self.window)

    @property
    def rotation(self) -> Tensor:
        """Cosines and sines (T + C, D / 2, 2), of windows; those of the condition are zero."""
        grid, width = grid_of(self.spec), self.width // self.heads
        if grid is None:
            table = sequence_table(torch.arange(self.length // self.window), width, self.rope_base)
        else:
            rows, columns = (side // self.window for side in grid)
            index = torch.arange(rows * columns)
            table = grid_table(index // columns, index % columns, width, self.rope_base)
        return with_prefix(table, self.prefix)


def grid_of(spec: TokenSpec) -> tuple[int, int] | None:
    """Return (rows, columns) of a grid tokenizer's codes, None for sequences."""
    sizes = {axis.name: axis.size or 0 for axis in spec.axes}
    return (sizes["row"], sizes["column"]) if "row" in sizes else None


def parse_llamagen_config(values: Mapping[str, Any]) -> LlamaGenConfig:
    """Read the keyword values of `LlamaGen`.

    Raises:
        ConfigError: sizes that do not go together. TokenError: no token spec.
    """
    spec = read_spec(values["spec"])
    if spec.scales is not None and len(spec.scales) > 1:
        raise ConfigError(
            "these tokens lie on several scales, which are predicted scale by scale; use NextScale "
            "for them."
        )
    check_sizes_known(spec)
    width, heads = values["width"], values["heads"]
    for name in ("width", "layers", "heads", "window"):
        if type(values[name]) is not int or values[name] < 1:
            raise ConfigError(f"{name} is {values[name]!r}; give a whole number of at least 1.")
    if width % heads:
        raise ConfigError(f"width {width} is no multiple of {heads} heads; choose others.")
    if values["slot_head"] not in SLOT_HEADS:
        raise ConfigError(
            f"slot_head is '{values['slot_head']}'; legal are {', '.join(SLOT_HEADS)}."
        )
    if values["classes"] and values["caption_width"] is not None:
        raise ConfigError("classes and caption_width exclude each other; leave one out.")
    config = LlamaGenConfig(
        spec=spec, width=width, layers=values["layers"], heads=heads,
        hidden=values["hidden"] or hidden_width(width), classes=values["classes"],
        caption_width=values["caption_width"], caption_length=values["caption_length"],
        window=values["window"], shuffle_blocks=values["shuffle_blocks"],
        slot_head=values["slot_head"], dropout=values["dropout"],
        condition_dropout=values["condition_dropout"], eps=values["norm_eps"],
        rope_base=values["rope_base"], z_loss=values["z_loss"],
    )  # fmt: skip
    _ = config.windows, config.rotation  # they check the window and the heads
    return config
