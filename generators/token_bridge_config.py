"""Config of TokenBridge's generator: plain JSON in, one frozen, checked object out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from generators.causal_head import FIRST_INPUTS
from generators.contract import check_sizes_known, positions_of, read_spec
from generators.masked_autoencoder import TrunkSizes
from tok_core.errors import ConfigError, nearest
from tok_core.token_spec import TokenSpec

HEADS = ("autoregressive", "parallel")
SHARES = ("dropout", "attention_dropout", "condition_dropout")


@dataclass(frozen=True, kw_only=True)
class TokenBridgeConfig:
    """Everything `generators.token_bridge.TokenBridge` is built of; its arguments say more.

    Raises:
        ConfigError: sizes that do not go together, an order that is no permutation, values that
            do not fit the spec, unknown words, codes without a fixed number.
    """

    spec: TokenSpec
    classes: int
    encoder: TrunkSizes
    decoder: TrunkSizes
    head_sizes: TrunkSizes
    mlp_ratio: float
    buffer: int
    head_kind: str
    first_input: str
    channel_order: tuple[int, ...]
    values: tuple[tuple[float, ...], ...] | None
    dropout: float
    attention_dropout: float
    condition_dropout: float
    mask_mean: float
    mask_deviation: float
    mask_least: float
    head_chunk: int | None
    norm_eps: float

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_spec(self.spec)
        for name, value, legal in (
            ("head_kind", self.head_kind, HEADS), ("first_input", self.first_input, FIRST_INPUTS)
        ):  # fmt: skip
            if value not in legal:
                raise ConfigError(
                    f"{name} is '{value}'; legal are {', '.join(legal)}"
                    f"{nearest(str(value), legal)}"
                )
        factors = self.spec.factors
        if sorted(self.channel_order) != list(range(factors)):
            raise ConfigError(
                f"channel_order {list(self.channel_order)} is no permutation of 0 to "
                f"{factors - 1}; these codes have {factors} dimensions, so give each of them once "
                "(the order of another autoencoder does not fit)."
            )
        if self.values is not None:
            _check_values(self.values, self.spec.vocabulary)

    @property
    def length(self) -> int:
        """L, positions of all codes."""
        return positions_of(self.spec)

    @property
    def head_vocabulary(self) -> tuple[int, ...]:
        """Codes of every slot of the head."""
        return tuple(self.spec.vocabulary[factor] for factor in self.channel_order)

    def tables(self) -> dict[str, Tensor]:
        """Return ``values`` (C, V), 0 behind a vocabulary, and the ``order`` of the head (C,)."""
        most = max(self.spec.vocabulary)
        rows = [[*levels, *[0.0] * (most - len(levels))] for levels in self.values or ()]
        return {"values": torch.tensor(rows), "order": torch.tensor(self.channel_order)}


def parse_token_bridge_config(given: Mapping[str, Any]) -> TokenBridgeConfig:
    """Return the checked options of `TokenBridge.__init__`'s plain JSON values.

    Raises:
        ConfigError: as `TokenBridgeConfig`. TokenError: no token spec.
    """
    spec = read_spec(given["spec"])
    encoder = TrunkSizes(width=given["width"], layers=given["layers"], heads=given["heads"])

    def other(name: str, value: Any) -> Any:
        chosen = given[f"decoder_{name}"]
        return value if chosen is None else chosen

    order = given["channel_order"]
    return TokenBridgeConfig(
        spec=spec,
        encoder=encoder,
        decoder=TrunkSizes(
            width=other("width", encoder.width), layers=other("layers", encoder.layers),
            heads=other("heads", encoder.heads),
        ),
        head_sizes=TrunkSizes(
            width=given["head_width"], layers=given["head_layers"], heads=given["head_heads"]
        ),
        channel_order=tuple(range(spec.factors) if order is None else order),
        values=read_values(given["values"], spec.factors),
        **{
            name: given[name]
            for name in (
                "classes", "mlp_ratio", "buffer", "head_kind", "first_input", *SHARES, "mask_mean",
                "mask_deviation", "mask_least", "head_chunk", "norm_eps",
            )
        },
    )  # fmt: skip


def read_values(given: Any, factors: int) -> tuple[tuple[float, ...], ...] | None:
    """Return one row of levels per dimension from one row for all, or one each; None stays.

    Raises:
        ConfigError: anything else.
    """
    if given is None:
        return None
    rows = given if len(given) and isinstance(given[0], Sequence) else [given] * factors
    try:
        return tuple(tuple(float(level) for level in row) for row in rows)
    except (TypeError, ValueError):
        raise ConfigError(
            "values hold something else than numbers; give the levels of each dimension."
        ) from None


def _check_numbers(config: TokenBridgeConfig) -> None:
    if type(config.classes) is not int or config.classes < 0:
        raise ConfigError(f"classes is {config.classes!r}; give their number, 0 for none.")
    for name in ("buffer", "head_chunk"):
        value = getattr(config, name)
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(f"{name} is {value!r}; give a whole number of at least 1.")
    for name in SHARES:
        value = getattr(config, name)
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} is {value}; give a number from 0 to 1.")
    if not 0 < config.mask_least <= 1 or config.mask_deviation <= 0:
        raise ConfigError(
            f"mask_least is {config.mask_least} and mask_deviation {config.mask_deviation}; give "
            "a share above 0 and up to 1, and a deviation above 0."
        )


def _check_spec(spec: TokenSpec) -> None:
    if spec.scales is not None and len(spec.scales) > 1:
        raise ConfigError("these tokens lie on several scales; use NextScale for them.")
    check_sizes_known(spec)


def _check_values(values: tuple[tuple[float, ...], ...], vocabulary: tuple[int, ...]) -> None:
    found = tuple(len(row) for row in values)
    if found != vocabulary:
        raise ConfigError(
            f"values hold {_counts(found)} levels but the codes need {_counts(vocabulary)}; give "
            "one level per code of every dimension."
        )
    if not all(math.isfinite(level) for row in values for level in row):
        raise ConfigError("values hold a number that is not finite; give the levels as they are.")


def _counts(sizes: Sequence[int]) -> str:
    """Return how many of how much, such as ``16 x 64``, or all where they differ."""
    same = len(set(sizes)) == 1
    return f"{len(sizes)} x {sizes[0]}" if same else "/".join(str(size) for size in sizes) or "no"
