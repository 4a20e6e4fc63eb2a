"""MaskGIT: a bidirectional model that fills in masked tokens, all at once or some at a time.

    [class, x_1, MASK, x_3, MASK, ...] --network--> logits of every code at every position

Generation begins with masks alone and reveals what the model is surest of, step by step: see
`generators.masked_sampling`.  Chang et al. 2022, arXiv 2202.04200; the networks are those of TiTok
(Yu et al. 2024, arXiv 2406.07550) and One-D-Piece (arXiv 2501.10064).  Letters: B batch, N
positions, F factors, K codes of a factor, V most of them, W width, R rows (B or 2 B).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from generators.bert_network import BertNetwork
from generators.condition_embedding import ConditionEmbedding
from generators.contract import UNCONDITIONAL, Condition, Generator, GeneratorOutput, Session
from generators.factors import factor_starts, padded_logits
from generators.mask_schedule import training_mask
from generators.masked_token_loss import masked_token_losses
from generators.maskgit_config import MaskGITConfig, parse_maskgit_config
from generators.sampling import uniform_numbers
from generators.uvit_network import UViTNetwork
from tok_core.errors import ConfigError, TokenError
from tok_core.fast_linear import Linear
from tok_core.official_source import OfficialSource

TRUNKS: dict[str, Any] = {"bert": BertNetwork, "uvit": UViTNetwork}


class MaskGIT(OfficialSource, Generator):
    """Masked generator of codes of a fixed number; the defaults are One-D-Piece's and TiTok's.

    Args:
        spec: JSON of the tokenizer's `TokenSpec`, or the object. Factors of one position are
            masked together and predicted at once, each by a head of its own.
        network: ``bert`` (post-norm; 768, 24 layers) or ``uvit`` (pre-norm with skips; TiTok-S-128
            has width 1024, 20 layers, which leaves out the middle one).
        classes: number of labels, 0 for none.
        width, layers, heads, hidden: W, blocks, heads, width inside of the MLPs (None is 4 W).
        dropout: of what every branch adds. attention_dropout: of attention weights.
        condition_dropout: chance of a label to be dropped in training.
        label_smoothing: share of the target that is spread over all codes.
        unmasked_weight: in the loss, of positions that were not masked.
        code_hash: of the tokenizer whose tokens it was trained on.

    Raises:
        ConfigError: sizes that do not go together, a spec without fixed sizes. TokenError: no
            token spec.

    Example:
        >>> generator = MaskGIT(spec=tokenizer.spec.to_json(), classes=10)  # doctest: +SKIP
        >>> generator(codes, condition=Condition(labels)).losses["loss/tokens"]  # doctest: +SKIP
    """

    settings: MaskGITConfig
    _supports_gradient_checkpointing = True
    _no_split_modules = ["BertBlock", "UViTBlock"]  # sharded as one
    no_decay = (
        "token_embedding.", "condition.", "trunk.position_embedding", "trunk.type_embedding",
    )  # fmt: skip
    official_importer = "generators.import_maskgit:import_maskgit"

    @register_to_config
    def __init__(
        self,
        spec: Any = None,
        network: str = "bert",
        classes: int = 0,
        width: int = 768,
        layers: int = 24,
        heads: int = 16,
        hidden: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        condition_dropout: float = 0.1,
        label_smoothing: float = 0.1,
        unmasked_weight: float = 0.1,
        code_hash: str | None = None,
    ) -> None:
        settings = parse_maskgit_config(locals())
        super().__init__()
        self.settings = settings
        self.register_to_config(spec=settings.spec.to_json(), hidden=settings.hidden)
        vocabulary = settings.spec.vocabulary
        # All factors in one table, one after the other, and the mask last.
        self.token_embedding = nn.Embedding(sum(vocabulary) + 1, width)
        self.condition = ConditionEmbedding(width, classes=classes, dropout=condition_dropout)
        self.trunk = TRUNKS[network](
            settings.length + 1, layers=layers, width=width, heads=heads, hidden=settings.hidden,
            dropout=dropout, attention_dropout=attention_dropout,
        )  # fmt: skip
        self.head = Linear(width, sum(vocabulary))
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=0.02)
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)

    # -- training --------------------------------------------------------------------------------

    def forward(
        self, codes: Tensor, *, condition: Condition = UNCONDITIONAL, masked: Tensor | None = None
    ) -> GeneratorOutput:
        """Predict codes (B, *axes) of which some are masked.

        Args:
            codes: int64, all of them. condition: labels (B,); some are dropped in training mode.
            masked: bool (B, N), positions that are not shown. None draws them by the arccos
                schedule; in eval mode those of an item follow from its codes, so that a
                validation loss can be repeated and does not depend on the batch.

        Raises:
            ConfigError: a condition it cannot take. TokenError: codes or masks that do not fit.
        """
        self.spec.check(codes)
        if tuple(codes.shape[1:]) != self.sizes:
            raise TokenError(
                f"codes of sizes {tuple(codes.shape[1:])} came in; this generator takes all of "
                f"{self.sizes}, no part."
            )
        sequence = self.spec.to_sequence(codes)
        batch, length, _ = sequence.shape
        masked = self._drawn_mask(sequence) if masked is None else masked
        if masked.shape != (batch, length) or masked.dtype != torch.bool:
            raise TokenError(
                f"masks of shape {tuple(masked.shape)} and type {masked.dtype} came in; give bool "
                f"({batch}, {length})."
            )
        checked = self.condition.checked(condition, batch)
        logits = self.predict(sequence, masked, self.condition(checked, batch))
        losses, statistics = masked_token_losses(
            logits, sequence, masked, smoothing=self.settings.label_smoothing,
            unmasked_weight=self.settings.unmasked_weight,
        )  # fmt: skip
        return GeneratorOutput(padded_logits(logits), losses, statistics)

    def predict(self, codes: Tensor, masked: Tensor, condition: Tensor) -> list[Tensor]:
        """Return float32 logits (R, N, K) of each factor.

        Args:
            codes: int64 (R, N, F), anything legal where ``masked``, bool (R, N).
            condition: (R, 1, W), embedded.
        """
        sizes = self.spec.vocabulary
        # The same row of the table for all factors of a masked position.
        rows = codes + factor_starts(sizes).to(codes.device)
        rows = rows.masked_fill(masked[..., None], sum(sizes))
        x = torch.cat((condition, self.token_embedding(rows).sum(dim=2)), dim=1)
        logits = self.head(self.trunk(x)[:, 1:]).float()
        return list(logits.split(sizes, dim=-1))

    def _drawn_mask(self, sequence: Tensor) -> Tensor:
        shape = (sequence.shape[1] + 1,)
        if self.training:
            numbers = torch.rand(len(sequence), *shape, device="cpu")
        else:
            numbers = uniform_numbers(sequence.sum(dim=(1, 2)).tolist(), shape)
        return training_mask(numbers).to(sequence.device)

    # -- generation ------------------------------------------------------------------------------

    def session(self, condition: Condition, *, batch: int, guided: bool, **options: Any) -> Session:
        """Refuse: which positions a step reveals follows from what was drawn.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "MaskGIT reveals positions by confidence and cannot be drawn from place by place; use "
            "generators.masked_sampling.sample_masked."
        )
