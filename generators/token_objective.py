"""How a generator trains in the engine of the tokenizers: codes and labels in, its own losses out.

Letters: B batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from generators.contract import UNCONDITIONAL, Condition, GeneratorOutput
from generators.random_order import RandomnessAnnealing
from generators.token_data import NO_LABEL, CaptionedSample, SignalSample
from tok_core.errors import ConfigError, MediaError
from tok_core.loading import load
from tok_core.training.objective import Objective


@dataclass(frozen=True, kw_only=True)
class TokenObjectiveConfig:
    """What follows from the data, which `generators.train` fills in, and what some papers add.

    Attributes:
        tokenizer: tokenizes signals on the fly, None for token shards.
        conditional: whether labels are passed on.
        random_order: how RAR's random orders give way to raster order; others have none.
        sample_posterior: draw latents from the tokenizer's posterior in training, as TokenBridge's
            published generators were trained; False takes its mean.
    """

    tokenizer: str | None = None
    conditional: bool = False
    random_order: RandomnessAnnealing = field(default_factory=RandomnessAnnealing)
    sample_posterior: bool = False


class TokenObjective(Objective):
    """Losses of a generator.

    Args:
        config: see there.

    Raises:
        ConfigError: ``sample_posterior`` where nothing encodes, or without a posterior.
    """

    frozen_parts = ("tokenizer",)

    def __init__(self, config: TokenObjectiveConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer: Any = None
        if config.tokenizer is not None:
            self.tokenizer = load(config.tokenizer).requires_grad_(False)
        if config.sample_posterior and not _has_posterior(self.tokenizer):
            raise ConfigError(
                "objective.sample_posterior needs data.signals and a tokenizer over a KL "
                "autoencoder (TokenBridgeTokenizer); set it to false for others and for shards."
            )

    def train(self, mode: bool = True) -> TokenObjective:
        """Leave the tokenizer in eval mode: it is frozen, with its codebook."""
        super().train(mode)
        if self.tokenizer is not None:
            self.tokenizer.eval()
        return self

    def before_step(self, model: Any, step: int, steps: int) -> None:
        """Move the share of random orders, where the generator trains in any."""
        if hasattr(model, "order_ratio"):
            ratio = self.config.random_order.at(step, steps)
            model.order_ratio = ratio
            self.last_statistics["order_ratio"] = ratio

    def model_input(self, x: Any) -> Tensor:
        """Return codes (B, *axes) to train on, made on the fly where signals came in."""
        return self.codes(x, sample=self.config.sample_posterior)

    def codes(self, x: Any, *, sample: bool = False) -> Tensor:
        """Return codes (B, *axes); ``sample`` draws latents from the posterior."""
        if not isinstance(x, SignalSample):
            return x.codes
        options = {"sample": True} if sample else {}
        # Codes are the same whatever precision the generator trains in.
        with torch.no_grad(), torch.autocast(x.signal.device.type, enabled=False):
            return self.tokenizer.encode(x.signal, **options).codes

    def model_inputs(self, x: Any) -> dict[str, Any]:
        """Return the condition of the batch."""
        return {"condition": condition_of(x, self.config.conditional)}

    def generator_losses(self, x: Any, out: GeneratorOutput, step: int) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the generator's own losses."""
        return dict(out.losses)


def _has_posterior(tokenizer: Any) -> bool:
    return tokenizer is not None and "sample" in signature(tokenizer.encode).parameters


def condition_of(x: Any, conditional: bool) -> Condition:
    """Return the condition of a batch of samples.

    Raises:
        MediaError: a sample without a label in a run with labels.
    """
    if isinstance(x, CaptionedSample):
        return Condition(features=x.features, mask=x.mask)
    if not conditional:
        return UNCONDITIONAL
    if bool((x.label == NO_LABEL).any()):
        raise MediaError(
            "a sample without a label came in; put every file into a folder of its class, or set "
            "data.classes to 0."
        )
    return Condition(labels=x.label)
