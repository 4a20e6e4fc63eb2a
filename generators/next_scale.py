"""Next-scale prediction: a transformer draws a whole scale at once, coarse to fine.

    condition ------------------------------- + place --> codes of scale 1
    values of scales before k, on grid k ---- + place --> codes of scale k      k = 2 .. S

Every position sees its own scale and all before it.  Values come from the tokenizer's own tables
(`tok_core.next_scale_inputs`), so that the model sees what a decoder would; product codes have one
head per branch and are drawn in parallel.

Tian et al. 2024, "VAR", arXiv 2404.02905; Qu et al. 2024, "TokenFlow", arXiv 2412.03069; Li et al.
2024, "ImageFolder", arXiv 2410.01756.  Letters: B batch, S scales, L positions of all scales, n of
one, F branches, D values of a position, W width, V codes of a branch, R rows (B or 2 B).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from generators.condition_embedding import ConditionEmbedding
from generators.contract import (
    UNCONDITIONAL,
    Condition,
    Draw,
    Generator,
    GeneratorOutput,
    fixed_spec,
    read_spec,
)
from generators.device_tables import DeviceTables
from generators.factors import factor_logits, padded_logits
from generators.llama_blocks import LlamaTrunk, hidden_width
from generators.token_loss import token_losses
from tok_core.errors import ConfigError
from tok_core.fast_linear import Linear
from tok_core.next_scale_inputs import next_scale_inputs
from tok_core.token_spec import TokenSpec


@dataclass(frozen=True, kw_only=True)
class NextScaleConfig:
    """What `NextScale` was made with, checked; its arguments say what they mean."""

    spec: TokenSpec
    classes: int
    value_width: int
    dropout: float

    @property
    def counts(self) -> list[int]:
        """Positions of every scale."""
        return [rows * columns for rows, columns in self.spec.scales or ()]

    def tables(self) -> dict[str, Tensor]:
        """Return the constant tables, see `NextScale.tables`."""
        scale = self.spec.coordinates().scale
        return {"scale": scale, "seen": scale[:, None] >= scale}


class NextScale(Generator):
    """Generator of multi-scale codes: VAR's, TokenFlow's, ImageFolder's.

    Args:
        spec: JSON of the tokenizer's `TokenSpec`, with scales.
        value_width: D, what `next_scale_inputs` gives per position (branches side by side).
        width, layers, heads: of the trunk. hidden: None for Llama's two thirds of 4 W.
        classes: number of labels, 0 for none.
        dropout, condition_dropout: in training. norm_eps: of the trunk.
        code_hash: of the tokenizer whose tokens it was trained on.

    Raises:
        ConfigError: sizes that do not go together, codes of one scale.

    Example:
        >>> generator = NextScale(spec=tokenizer.spec.to_json(), value_width=32)  # doctest: +SKIP
        >>> generator.attach(tokenizer)  # doctest: +SKIP
        >>> generator(codes).losses["loss/tokens"]  # doctest: +SKIP
    """

    settings: NextScaleConfig
    consumes_values = True
    _supports_gradient_checkpointing = True
    _no_split_modules = ["LlamaBlock"]  # sharded as one
    no_decay = ("condition.", "places", "levels")

    @register_to_config
    def __init__(
        self,
        spec: Any = None,
        value_width: int = 32,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        hidden: int | None = None,
        classes: int = 0,
        dropout: float = 0.1,
        condition_dropout: float = 0.1,
        norm_eps: float = 1e-5,
        code_hash: str | None = None,
    ) -> None:
        chosen = fixed_spec(read_spec(spec))
        if chosen.scales is None:
            raise ConfigError(
                "these tokens lie on one scale; use LlamaGen, RAR or MaskGIT for them."
            )
        if width % heads:
            raise ConfigError(f"width {width} is no multiple of {heads} heads; choose others.")
        super().__init__()
        self.settings = NextScaleConfig(
            spec=chosen, classes=classes, value_width=value_width, dropout=dropout
        )
        self.register_to_config(spec=chosen.to_json())
        sizes, length = chosen.vocabulary, sum(self.settings.counts)
        self.condition = ConditionEmbedding(width, classes=classes, dropout=condition_dropout)
        self.value_in = Linear(value_width, width)
        self.places = nn.Parameter(torch.empty(length, width))
        self.levels = nn.Parameter(torch.empty(len(chosen.scales), width))
        self.trunk = LlamaTrunk(
            layers, width, heads=heads, hidden=hidden or hidden_width(width), eps=norm_eps,
            dropout=dropout,
        )  # fmt: skip
        self.output = Linear(width, sum(sizes), bias=False)
        self._tables = DeviceTables(self.settings.tables)
        self._source = _Source()
        self._reset()

    @torch.no_grad()
    def _reset(self) -> None:
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=0.02)
        for table in (self.places, self.levels):
            nn.init.normal_(table, std=0.02)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.value_in.bias)

    # -- what it is ------------------------------------------------------------------------------

    @property
    def tables(self) -> Mapping[str, Tensor]:
        """``scale`` (L,) of every position, ``seen`` (L, L), which may be looked at."""
        return self._tables.on(self.places.device)

    def attach(self, tokenizer: Any) -> None:
        """Take a copy of this tokenizer's tables; they are no part of the model's state.

        Raises:
            TokenError: it makes other tokens. ConfigError: it has no scales to sum up, or values
                of another width.
        """
        self.check_fits(tokenizer)
        quantizer: Any = getattr(tokenizer, "quantizer", None)
        found = getattr(quantizer, "code_dim", None)
        if found != self.settings.value_width:
            raise ConfigError(
                f"value_width is {self.settings.value_width} but the tokens of this "
                f"{type(tokenizer).__name__} have {found} values; set it to that."
            )
        # A copy: following the model to its device must not take the tokenizer's own along.
        self._source = _Source(copy.deepcopy(quantizer).requires_grad_(False).eval())

    # -- training --------------------------------------------------------------------------------

    def forward(self, codes: Tensor, *, condition: Condition = UNCONDITIONAL) -> GeneratorOutput:
        """Predict every scale from those before it.

        Args:
            codes: int64 (B, *axes), all scales. condition: of every item.

        Raises:
            ConfigError: no tokenizer attached, a condition it cannot take. TokenError: codes that
                do not fit the spec.
        """
        self.spec.check(codes)
        sequence = self.spec.to_sequence(codes)
        condition = self.condition.checked(condition, len(codes))
        x = self._inputs(self.condition(condition, len(codes)), self._source(codes))
        hidden = self.trunk(x, None, self.tables["seen"])
        logits = padded_logits([self.factor_logits(hidden, i) for i in range(self.spec.factors)])
        losses, statistics = token_losses(logits, sequence)
        return GeneratorOutput(logits, losses, statistics)

    def _inputs(self, prefix: Tensor, values: Tensor, start: int = 0) -> Tensor:
        """Return trunk inputs (B, n, W) from position ``start`` on; values begin at scale 2."""
        x = self.value_in(values.to(self.places.dtype))
        if not start:
            x = torch.cat((prefix.expand(-1, self.settings.counts[0], -1), x), dim=1)
        end = start + x.shape[1]
        level = self.levels[self.tables["scale"][start:end]]
        x = x + self.places[start:end] + level
        return F.dropout(x, self.settings.dropout, self.training)

    def factor_logits(self, features: Tensor, factor: int) -> Tensor:
        """Map features (..., W) to float32 logits (..., V) of one branch."""
        return factor_logits(features, self.output.weight, self.spec.vocabulary, factor)

    # -- sampling --------------------------------------------------------------------------------

    def session(self, condition: Condition, *, batch: int, guided: bool) -> NextScaleSession:
        """Begin a generation; see `generators.sampling.sample`. A step is a scale."""
        return NextScaleSession(self, condition, batch=batch, guided=guided)


class NextScaleSession:
    """The state of one generation: a cache, and which scale is next.

    Args:
        model: in eval mode, with a tokenizer attached. condition: of every sample. batch: B.
        guided: run null rows, too.
    """

    def __init__(
        self, model: NextScale, condition: Condition, *, batch: int, guided: bool
    ) -> None:
        self.model, self.rows = model, 2 * batch if guided else batch
        condition = model.condition.checked(condition, batch)
        prefix = model.condition(condition, batch)
        self.prefix = torch.cat((prefix, model.condition.null(batch))) if guided else prefix
        self.ends = list(accumulate(model.settings.counts))
        self.steps = len(self.ends)
        self.cache = model.trunk.cache(self.rows, self.ends[-1])

    def step(self, step: int, codes: Tensor, draw: Draw) -> None:
        """Draw the codes of scale ``step`` into codes (B, L, F), in place."""
        model, start = self.model, self.ends[step - 1] if step else 0
        values = self.prefix.new_zeros(self.rows, 0, model.settings.value_width)
        if step:
            known = codes[:, :start]
            layout = known[..., 0] if known.shape[-1] == 1 else known.transpose(1, 2)
            last = model._source(layout)[:, -(self.ends[step] - start) :]
            values = last if self.rows == len(codes) else last.repeat(2, 1, 1)
        x = model._inputs(self.prefix, values, start)
        # A whole scale sees itself and all before it.
        seen = torch.ones(1, 1, x.shape[1], start + x.shape[1], dtype=torch.bool, device=x.device)
        hidden = model.trunk(x, None, seen, self.cache)
        places = torch.arange(start, self.ends[step], device=codes.device)
        for factor in range(codes.shape[-1]):
            codes[:, places, factor] = draw(model.factor_logits(hidden, factor), places, factor)


class _Source:
    """The tokenizer's tables, outside of the model's state and copies."""

    def __init__(self, quantizer: Any = None) -> None:
        self.quantizer = quantizer

    def __call__(self, codes: Tensor) -> Tensor:
        if self.quantizer is None:
            raise ConfigError(
                "next-scale prediction needs its tokenizer's tables; call attach(tokenizer) first."
            )
        return next_scale_inputs(self.quantizer.to(codes.device), codes)

    def __deepcopy__(self, memo: object) -> _Source:
        return self
