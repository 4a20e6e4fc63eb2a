"""TokenBridge's generator: a masked model of positions, a causal head over their dimensions.

    codes (B, L, C) --levels--> values --masked autoencoder--> features (B, L, W) --head-->
    logits of dimension o_0, then o_1 given its code, ... o_(C-1)

Its inputs stay continuous, the values that codes stand for; only its targets are discrete, so that
plain cross-entropy takes the place of MAR's diffusion loss.  Wang et al. 2025, "Bridging Continuous
and Discrete Tokens for Autoregressive Visual Generation", arXiv 2503.16430; the backbone is that of
Li et al. 2024, "MAR", arXiv 2406.11838.  Letters: B batch, L positions, n of them masked, C
dimensions (factors) of a position, o the order the head takes them in, V levels, W width of the
features, R rows (B or 2 B).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from generators.causal_head import CausalHead
from generators.condition_embedding import ConditionEmbedding
from generators.contract import UNCONDITIONAL, Condition, Generator, GeneratorOutput, Session
from generators.device_tables import DeviceTables
from generators.factors import padded_logits
from generators.mask_schedule import cut_normal
from generators.masked_autoencoder import MaskedAutoencoder
from generators.masked_token_loss import masked_token_losses
from generators.sampling import uniform_numbers
from generators.token_bridge_config import TokenBridgeConfig, parse_token_bridge_config
from tok_core.errors import ConfigError, TokenError
from tok_core.official_source import OfficialSource


class TokenBridge(OfficialSource, Generator):
    """Masked generator of codes per dimension; the defaults are TokenBridge-L's.

    Args:
        spec: JSON of the tokenizer's `TokenSpec`, all sizes fixed: any grid or number of frames,
            any number of dimensions, any vocabulary of each.
        values: the level of every code in normalised units, one row for all dimensions or one
            each; None until `attach` takes them from a tokenizer.
        channel_order: o, each dimension once: slot k of the head draws dimension o_k. None is that
            of the tokenizer at the first `attach`, or else their natural order. Codes outside are
            always in their natural order.
        width, layers, heads: of the encoder. decoder_width, decoder_layers, decoder_heads: None is
            as the encoder. H has 1280, 20, 16.
        mlp_ratio: of both. buffer: positions that hold the condition.
        head_kind: ``autoregressive``, or ``parallel``, which draws all dimensions independently.
        head_width, head_layers, head_heads: of the head; H has 6 layers.
        first_input: see `generators.causal_head.CausalHead`; ``official`` keeps the difference
            between training and sampling that the published weights have.
        classes: number of labels, 0 for none.
        dropout, attention_dropout: of the backbone. condition_dropout: chance of a label to be
            dropped in training.
        mask_mean, mask_deviation, mask_least: of the share of masked positions in training, a
            normal distribution cut off at ``mask_least`` and 1.
        head_chunk: positions that the head takes at once in training; it computes them again for
            their gradients, so that memory does not grow with the batch. None takes all.
        norm_eps: of every layer norm.
        code_hash: of the tokenizer whose tokens it was trained on.

    Raises:
        ConfigError: sizes that do not go together, an order that is no permutation, values that
            do not fit. TokenError: no token spec.

    Example:
        >>> generator = TokenBridge(tokenizer.spec.to_json(), classes=10)  # doctest: +SKIP
        >>> generator.attach(tokenizer)  # doctest: +SKIP
        >>> generator(codes, condition=Condition(labels)).losses["loss/tokens"]  # doctest: +SKIP
    """

    settings: TokenBridgeConfig
    consumes_values = True
    _supports_gradient_checkpointing = True
    _no_split_modules = ["MaskedBlock", "AdaLNBlock"]  # sharded as one
    _repeated_blocks = ["MaskedBlock", "AdaLNBlock"]  # for diffusers' compile_repeated_blocks()
    official_importer = "generators.import_token_bridge:import_token_bridge"

    @register_to_config
    def __init__(
        self,
        spec: Any = None,
        values: Any = None,
        channel_order: list[int] | None = None,
        width: int = 1024,
        layers: int = 16,
        heads: int = 16,
        decoder_width: int | None = None,
        decoder_layers: int | None = None,
        decoder_heads: int | None = None,
        mlp_ratio: float = 4.0,
        buffer: int = 64,
        head_kind: str = "autoregressive",
        head_width: int = 1024,
        head_layers: int = 4,
        head_heads: int = 8,
        first_input: str = "official",
        classes: int = 0,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        condition_dropout: float = 0.1,
        mask_mean: float = 1.0,
        mask_deviation: float = 0.25,
        mask_least: float = 0.7,
        head_chunk: int | None = None,
        norm_eps: float = 1e-6,
        code_hash: str | None = None,
    ) -> None:
        config = parse_token_bridge_config(locals())
        super().__init__()
        self.settings = config
        self.register_to_config(spec=config.spec.to_json())
        self.condition = ConditionEmbedding(width, classes=classes, dropout=condition_dropout)
        self.backbone = MaskedAutoencoder(
            config.length, config.spec.factors, buffer=buffer, encoder=config.encoder,
            decoder=config.decoder, mlp_ratio=mlp_ratio, eps=norm_eps, dropout=dropout,
            attention_dropout=attention_dropout,
        )  # fmt: skip
        self.head = CausalHead(
            head_width, config.spec.factors, config.head_vocabulary, layers=head_layers,
            heads=head_heads, blocks="adaln", features=config.decoder.width, output=True,
            sees_codes=head_kind == "autoregressive", first_input=first_input, eps=norm_eps,
        )  # fmt: skip
        self._tables = DeviceTables(config.tables)
        self.backbone.reset()
        if self.condition.table is not None:
            nn.init.normal_(self.condition.table.weight, std=0.02)

    # -- what it is ------------------------------------------------------------------------------

    @property
    def tables(self) -> Mapping[str, Tensor]:
        """``values`` (C, V), or nothing before `attach`; ``order`` (C,)."""
        return self._tables.on(self.backbone.mask_token.device)

    def decays(self, name: str, parameter: Tensor) -> bool:
        """As every generator's; the mask token decays, too, which has more axes when published."""
        return name == "backbone.mask_token" or super().decays(name, parameter)

    def attach(self, tokenizer: Any) -> None:
        """Take the tokenizer's levels and channel order, or check that they are the known ones.

        Both become part of the config, so that a saved generator samples without its tokenizer.

        Raises:
            TokenError: it makes other tokens, or its levels differ. ConfigError: its codes stand
                for vectors, not for numbers.
        """
        self.check_fits(tokenizer)
        tables = [book.vectors for book in tokenizer.codebooks]
        if any(table.shape[1] != 1 for table in tables):
            raise ConfigError(
                f"codes of this {type(tokenizer).__name__} stand for vectors, not for one number "
                "each; use LlamaGen, RAR or MaskGIT for them."
            )
        rows = [table[:, 0].detach().float().cpu().tolist() for table in tables]
        told: dict[str, Any] = {"values": rows[0] if rows.count(rows[0]) == len(rows) else rows}
        if self.settings.values is not None:
            theirs = parse_token_bridge_config({**self.config, **told}).tables()["values"]
            if not torch.allclose(self.settings.tables()["values"], theirs):
                raise TokenError(
                    f"levels of this {type(tokenizer).__name__} are not those that this generator "
                    "was trained with; load the tokenizer it was trained with, or give its "
                    "quantizer the same bits, std_range, low and high."
                )
            return
        order = tokenizer.config.get("channel_order")
        if self.config.get("channel_order") is None and order is not None:
            told["channel_order"] = list(order)
        config = parse_token_bridge_config({**self.config, **told})
        if config.head_vocabulary != self.head.vocabulary:
            raise ConfigError(
                "the tokenizer's channel_order moves dimensions of other vocabularies to each "
                "other's slots; give it as channel_order when the generator is made."
            )
        self.register_to_config(**told)
        self.settings = config
        self._tables = DeviceTables(config.tables)

    # -- training --------------------------------------------------------------------------------

    def forward(
        self, codes: Tensor, *, condition: Condition = UNCONDITIONAL, masked: Tensor | None = None
    ) -> GeneratorOutput:
        """Predict the codes of masked positions.

        Args:
            codes: int64 (B, *axes), all of them. condition: labels (B,); some are dropped in
                training mode.
            masked: bool (B, L), positions that are not shown, the same number in every row. None
                draws them; in eval mode their share is the median and those of an item follow
                from its codes, so that a validation loss can be repeated.

        Returns:
            Logits of masked positions, each dimension given those before it in the head's order;
            0, which says nothing, where a position was shown.

        Raises:
            ConfigError: no values yet, a condition it cannot take. TokenError: codes or masks that
                do not fit.
        """
        sequence = self._checked(codes)
        batch, length, _ = sequence.shape
        masked = self._drawn_mask(sequence) if masked is None else masked
        _check_mask(masked, batch, length)
        embedded = self.condition(self.condition.checked(condition, batch), batch)
        features = self.backbone(self.values(sequence), masked, embedded)
        predicted = self._head_logits(features[masked], sequence[masked], batch * length)
        logits = []
        for part in predicted:
            everywhere = part.new_zeros(batch, length, part.shape[-1])
            logits.append(everywhere.masked_scatter(masked[..., None], part))
        losses, statistics = masked_token_losses(
            logits, sequence, masked, smoothing=0.0, unmasked_weight=0.0
        )
        return GeneratorOutput(padded_logits(logits), losses, statistics)

    def values(self, sequence: Tensor) -> Tensor:
        """Return what codes (R, L, C) stand for, float32 alike.

        Raises:
            ConfigError: not known yet.
        """
        if self.settings.values is None:
            raise ConfigError(
                "this generator does not know what its codes stand for; call attach(tokenizer) "
                "first, or set values."
            )
        dimensions = torch.arange(sequence.shape[-1], device=sequence.device)
        return self._tables.on(sequence.device)["values"][dimensions, sequence]

    def _checked(self, codes: Tensor) -> Tensor:
        """Return codes as (B, L, C)."""
        self.spec.check(codes)
        if tuple(codes.shape[1:]) != self.sizes:
            raise TokenError(
                f"codes of sizes {tuple(codes.shape[1:])} came in; this generator takes all of "
                f"{self.sizes}, no part."
            )
        return self.spec.to_sequence(codes)

    def _drawn_mask(self, sequence: Tensor) -> Tensor:
        """Return bool (B, L), the same share for the whole batch: the encoder sees no padding."""
        config, (batch, length, _) = self.settings, sequence.shape
        if self.training:
            numbers = torch.rand(batch, length, device="cpu")
            share = float(torch.rand((), device="cpu"))
        else:
            numbers = uniform_numbers(sequence.sum(dim=(1, 2)).tolist(), (length,))
            share = 0.5
        ratio = cut_normal(share, config.mask_mean, config.mask_deviation, config.mask_least, 1.0)
        ranks = numbers.argsort(dim=1).argsort(dim=1)
        return (ranks < math.ceil(length * ratio)).to(sequence.device)

    def _head_logits(self, features: Tensor, codes: Tensor, most: int) -> list[Tensor]:
        """Return float32 logits (N, V) of each dimension from features (N, W) and codes (N, C).

        ``most`` is what N can be at most: it decides on the number of chunks, which then is the
        same in processes that mask different shares (sharded weights are gathered in step).
        """
        order, codes = self.settings.channel_order, codes[:, self.tables["order"]]
        chunk = self.settings.head_chunk
        if not self.training or chunk is None:
            parts = [self._slot_logits(features, codes)]
        else:
            count = math.ceil(most / chunk)
            pairs = zip(features.tensor_split(count), codes.tensor_split(count), strict=True)
            parts = [checkpoint(self._slot_logits, *pair, use_reentrant=False) for pair in pairs]
        slots = [torch.cat(of_slot) for of_slot in zip(*parts, strict=True)]
        return [slots[order.index(factor)] for factor in range(len(order))]

    def _slot_logits(self, features: Tensor, codes: Tensor) -> list[Tensor]:
        """Return float32 logits (N, V) of each slot, whose codes (N, C) stand in head order."""
        hidden = self.head(features[:, None], codes)
        return [self.head.logits(hidden[:, slot], slot) for slot in range(self.head.slots)]

    # -- generation ------------------------------------------------------------------------------

    def session(self, condition: Condition, *, batch: int, guided: bool, **options: Any) -> Session:
        """Refuse: every sample reveals its positions in an order of its own.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "TokenBridge reveals positions in random orders and cannot be drawn from place by "
            "place; use generators.masked_sampling.sample_masked."
        )


def _check_mask(masked: Tensor, batch: int, length: int) -> None:
    if masked.shape != (batch, length) or masked.dtype != torch.bool:
        raise TokenError(
            f"masks of shape {tuple(masked.shape)} and type {masked.dtype} came in; give bool "
            f"({batch}, {length})."
        )
    counts = masked.sum(dim=1)
    if batch and int(counts.min()) != int(counts.max()):
        raise TokenError(
            f"masks hide {int(counts.min())} to {int(counts.max())} positions; hide the same "
            "number in every sample of a batch."
        )
