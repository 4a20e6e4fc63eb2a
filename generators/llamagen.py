"""LlamaGen: a Llama decoder over the tokens of any single-scale tokenizer, in raster order.

    condition (B, T, W), code embeddings of windows 0 .. C - 2 --trunk--> window features
    --(unfuse)--> slot features --output--> logits of every code of window 0 .. C - 1

Plain LlamaGen has windows of one token; larger ones are Token-Shuffle.  Product, level and
dimension codes of one position are embedded as a sum and predicted by one head each, in parallel or
one after the other.

Sun et al. 2024, arXiv 2406.06525; Ma et al. 2025, arXiv 2504.17789.  Letters: B batch, T condition
positions, L token positions, F factors, C windows, S slots of a window, W width, V codes of a
factor, R rows (B or 2 B).
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
from generators.contract import UNCONDITIONAL, Condition, Draw, Generator, GeneratorOutput
from generators.device_tables import DeviceTables
from generators.factors import factor_logits, padded_logits
from generators.llama_blocks import LlamaTrunk
from generators.llamagen_config import LlamaGenConfig, parse_llamagen_config
from generators.token_loss import token_losses
from generators.token_shuffle import Fuse, ResidualMlp, Unfuse, shuffled, unshuffled
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
        slot_head: ``parallel``, or ``causal``: codes of a window or position see each other.
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
    _supports_gradient_checkpointing = True
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
        self.head = (
            CausalHead(width, inner, sizes * slots) if slot_head == "causal" and inner > 1 else None
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
                for block in part.modules():
                    if isinstance(block, ResidualMlp):
                        block.reset()
        nn.init.zeros_(self.output.weight)

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


class LlamaGenSession:
    """The state of one generation: a cache, and which window is next.

    Args:
        model: in eval mode. condition: of every sample. batch: B. guided: run null rows, too.
    """

    def __init__(
        self, model: LlamaGen, condition: Condition, *, batch: int, guided: bool
    ) -> None:
        config: LlamaGenConfig = model.settings
        self.model, self.rows = model, 2 * batch if guided else batch
        self.tables = model.tables
        self.steps = len(self.tables["windows"])
        condition = model.condition.checked(condition, batch)
        prefix = model.condition(condition, batch)
        mask = condition.mask
        if guided:
            prefix = torch.cat((prefix, model.condition.null(batch)))
            # The null rows see what the captions' padding leaves, as the released code has it.
            mask = None if mask is None else mask.repeat(2, 1)
        self.prefix = prefix.to(model.tokens.weight.dtype)
        self.mask = None if mask is None or bool(mask.all()) else mask
        self.cache = model.trunk.cache(self.rows, config.prefix + self.steps - 1)

    def step(self, step: int, codes: Tensor, draw: Draw) -> None:
        """Draw the codes of window ``step`` into codes (B, L, F), in place."""
        model = self.model
        hidden = self._next(step, codes)
        places = self.tables["windows"][step]
        slots = model._slots(hidden)[:, 0]
        if model.head is None:
            for factor in range(codes.shape[-1]):
                codes[:, places, factor] = draw(model.factor_logits(slots, factor), places, factor)
            return
        cache, before = model.head.cache(self.rows), None
        for slot, place in enumerate(places.tolist()):
            for factor in range(codes.shape[-1]):
                features = model.head.step(slots[:, slot], before, cache)
                logits = model.factor_logits(features[:, None], factor)
                drawn = draw(logits, places[slot : slot + 1], factor)[:, 0]
                codes[:, place, factor] = drawn
                before = drawn if self.rows == len(drawn) else drawn.repeat(2)

    def _next(self, step: int, codes: Tensor) -> Tensor:
        """Return features (R, 1, W) of the window to draw."""
        model = self.model
        if not step:
            x = self.prefix
        else:
            x = model._fused(codes[:, self.tables["windows"][step - 1]][:, None])
            x = x if self.rows == len(codes) else x.repeat(2, 1, 1)
        start = self.cache.length
        rotation = self.tables["rotation"][start : start + x.shape[1]]
        hidden = model.trunk(x, rotation, self._seen(x.shape[1]), self.cache)
        return hidden[:, -1:]

    def _seen(self, count: int) -> Tensor | None:
        """Return what ``count`` new positions may see, None where nothing is padded."""
        if self.mask is None:
            return None
        end = self.cache.length + count
        seen = caption_attention(self.mask, end)
        return None if seen is None else seen[:, :, -count:]
