"""LlamaGen: a Llama decoder over the tokens of any single-scale tokenizer, in raster order.

    condition (B, T, W), code embeddings of windows 0 .. C - 2 --trunk--> window features
    --(unfuse)--> slot features --output--> logits of every code of window 0 .. C - 1

Plain LlamaGen has windows of one token; larger ones are Token-Shuffle.  Product, level and
dimension codes of one position are embedded as a sum and predicted by one head each, in parallel or
one after the other.

Sun et al. 2024, arXiv 2406.06525; Ma et al. 2025, arXiv 2504.17789.  Letters: B batch, T condition
positions, L token positions, F factors, C windows, S slots of a window, W width, V codes of a
factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from generators.causal_head import CausalHead
from generators.condition_embedding import ConditionEmbedding, caption_attention
from generators.contract import UNCONDITIONAL, Condition, Generator, GeneratorOutput
from generators.device_tables import DeviceTables
from generators.factors import factor_logits, padded_logits
from generators.llama_blocks import LlamaTrunk
from generators.llamagen_config import LlamaGenConfig, parse_llamagen_config
from generators.llamagen_session import LlamaGenSession, StaticLlamaGenSession
from generators.token_loss import token_losses
from generators.token_shuffle import Fuse, Unfuse, shuffled, unshuffled
from tok_core.errors import ConfigError
from tok_core.fast_linear import Linear
from tok_core.official_source import OfficialSource


class LlamaGen(OfficialSource, Generator):
    """Autoregressive generator; the defaults are LlamaGen-B's for ImageNet at 256 pixels.

    Args:
        spec: JSON of the tokenizer's `TokenSpec`, one scale, all sizes fixed (`fixed_spec`).
        width, layers, heads: of the trunk. hidden: None for Llama's two thirds of 4 W.
        classes: number of labels, 0 for none. caption_width: C of caption features instead of
            labels, ``caption_length`` of them.
        window: s of Token-Shuffle. shuffle_blocks: its residual MLPs.
        slot_head: ``parallel``, or ``causal``: codes of a window or position see each other;
            ``dimension_wise`` is TokenBridge's form of it, see `CausalHead`.
        dropout, condition_dropout: in training. norm_eps, rope_base: of the trunk.
        z_loss: weight of the squared logsumexp, 1e-5 where logits grow.
        code_hash: of the tokenizer whose tokens it was trained on.

    Raises:
        ConfigError: sizes that do not go together. TokenError: no token spec.

    Example:
        >>> generator = LlamaGen(spec=tokenizer.spec.to_json(), classes=10, width=128, layers=4,
        ...                      heads=4)  # doctest: +SKIP
        >>> generator(codes, condition=Condition(labels)).losses["loss/tokens"]  # doctest: +SKIP
    """

    settings: LlamaGenConfig
    static_steps = True
    _supports_gradient_checkpointing = True
    _no_split_modules = ["LlamaBlock"]  # sharded as one
    _repeated_blocks = ["LlamaBlock"]  # for diffusers' compile_repeated_blocks()
    official_importer = "generators.import_llamagen:import_llamagen"

    @register_to_config
    def __init__(
        self,
        spec: Any = None,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        hidden: int | None = None,
        classes: int = 0,
        caption_width: int | None = None,
        caption_length: int = 120,
        window: int = 1,
        shuffle_blocks: int = 2,
        slot_head: str = "parallel",
        dropout: float = 0.1,
        condition_dropout: float = 0.1,
        norm_eps: float = 1e-5,
        rope_base: float = 10_000.0,
        z_loss: float = 0.0,
        code_hash: str | None = None,
    ) -> None:
        config = parse_llamagen_config(locals())
        super().__init__()
        self.settings = config
        self.register_to_config(spec=config.spec.to_json())
        sizes = config.spec.vocabulary
        self.condition = ConditionEmbedding(
            width, classes=classes, caption_width=caption_width, caption_length=caption_length,
            dropout=condition_dropout,
        )  # fmt: skip
        # All factors in one table, one after the other.
        self.tokens = nn.Embedding(sum(sizes), width)
        self.trunk = LlamaTrunk(
            layers, width, heads=heads, hidden=config.hidden, eps=norm_eps, dropout=dropout
        )
        self.output = Linear(width, sum(sizes), bias=False)
        slots = config.slots
        self.fuse = Fuse(width, slots, shuffle_blocks) if slots > 1 else None
        self.unfuse = Unfuse(width, slots, shuffle_blocks) if slots > 1 else None
        inner = slots * len(sizes)
        self.head: CausalHead | None = None
        if slot_head != "parallel" and inner > 1:
            blocks = "llama" if slot_head == "causal" else "adaln"
            self.head = CausalHead(
                width, inner, sizes * slots, blocks=blocks, first_input="stepped"
            )
        self._tables = DeviceTables(config.tables)
        self._reset()

    @torch.no_grad()
    def _reset(self) -> None:
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=0.02)
        for part in (self.fuse, self.unfuse):
            if part is not None:
                part.reset()
        nn.init.zeros_(self.output.weight)
        if self.settings.slot_head == "dimension_wise" and self.head is not None:
            self.head.reset()

    # -- what it is ------------------------------------------------------------------------------

    @property
    def tables(self) -> Mapping[str, Tensor]:
        """``windows`` (C, S), ``rotation`` (T + C, D / 2, 2), ``starts`` (F,)."""
        return self._tables.on(self.output.weight.device)

    # -- training --------------------------------------------------------------------------------

    def forward(
        self, codes: Tensor, *, condition: Condition = UNCONDITIONAL, valid: Tensor | None = None
    ) -> GeneratorOutput:
        """Predict every code from those before it.

        Args:
            codes: int64 (B, *axes). condition: of every item.
            valid: bool (B,), which items count in the losses (LlamaGen's caption training).

        Raises:
            ConfigError: a condition it cannot take. TokenError: codes that do not fit the spec.
        """
        self.spec.check(codes)
        sequence = self.spec.to_sequence(codes)
        batch, length, _ = sequence.shape
        if length != self.settings.length:
            raise ConfigError(
                f"codes of {length} positions came in; this generator was made for "
                f"{self.settings.length}."
            )
        condition = self.condition.checked(condition, batch)
        windows = self.tables["windows"]
        windowed = shuffled(sequence, windows)
        hidden = self._hidden(windowed, condition)
        features = self._features(hidden, windowed)
        logits = unshuffled(self._logits(features).unflatten(1, windows.shape), windows)
        losses, statistics = token_losses(
            logits, sequence, valid=valid, z_weight=self.settings.z_loss
        )
        return GeneratorOutput(logits, losses, statistics)

    def _hidden(self, windowed: Tensor, condition: Condition) -> Tensor:
        """Return window features (B, C, W) of codes (B, C, S, F)."""
        prefix = self.condition(condition, len(windowed))
        x = torch.cat((prefix, self._fused(windowed[:, :-1])), dim=1)
        x = F.dropout(x, self.settings.dropout, self.training)
        mask = caption_attention(condition.mask, x.shape[1])
        x = self.trunk(x, self.tables["rotation"][: x.shape[1]], mask)
        return x[:, self.settings.prefix - 1 :]

    def _fused(self, windowed: Tensor) -> Tensor:
        """Embed codes (B, C, S, F) as (B, C, W)."""
        x = self.tokens(windowed + self.tables["starts"]).sum(dim=-2)
        return x[:, :, 0] if self.fuse is None else self.fuse(x)

    def _features(self, hidden: Tensor, windowed: Tensor) -> Tensor:
        """Return what each factor of each slot is predicted from, (B, C S, F, W) or (B, C S, 1, W).

        Without a causal head all factors of a slot share their features.
        """
        slots = self._slots(hidden)
        if self.head is None:
            return slots.flatten(1, 2)[:, :, None]
        batch, count = hidden.shape[:2]
        factors = windowed.shape[-1]
        spread = slots[:, :, :, None].expand(-1, -1, -1, factors, -1)
        flat = self.head(
            spread.reshape(batch * count, -1, slots.shape[-1]),
            windowed.reshape(batch * count, -1),
        )
        return flat.view(batch, -1, factors, slots.shape[-1])

    def _slots(self, hidden: Tensor) -> Tensor:
        """Split window features (B, C, W) into slot features (B, C, S, W)."""
        return hidden[:, :, None] if self.unfuse is None else self.unfuse(hidden)

    def _logits(self, features: Tensor) -> Tensor:
        """Map (B, L, F or 1, W) to float32 logits (B, L, F, V), -inf behind a vocabulary."""
        last = features.shape[2] - 1
        return padded_logits([
            self.factor_logits(features[:, :, min(factor, last)], factor)
            for factor in range(self.spec.factors)
        ])

    def factor_logits(self, features: Tensor, factor: int) -> Tensor:
        """Map features (..., W) to float32 logits (..., V) of one factor."""
        return factor_logits(features, self.output.weight, self.spec.vocabulary, factor)

    # -- sampling --------------------------------------------------------------------------------

    def session(self, condition: Condition, *, batch: int, guided: bool) -> LlamaGenSession:
        """Begin a generation; see `generators.sampling.sample`."""
        return LlamaGenSession(self, condition, batch=batch, guided=guided)

    def static_session(
        self, condition: Condition, *, batch: int, guided: bool
    ) -> StaticLlamaGenSession:
        """Begin a generation with steps of fixed shapes."""
        return StaticLlamaGenSession(self, condition, batch=batch, guided=guided)
