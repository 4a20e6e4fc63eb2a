"""Stage 1 of the TiTok family: predict, per grid cell, the code a frozen teacher gives it.

Letters: B pictures, K teacher codes, h x w the teacher's grid.

    x --teacher encoder--> codes (B, h, w) --cross-entropy--> logits (B, K, h, w) <--tokenizer-- x

Yu et al., arXiv 2406.07550, section 3.3 ("proxy codes").
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tok_core.errors import ConfigError
from tok_core.training.objective import Objective

if TYPE_CHECKING:
    from tok_core.contract import Tokenizer, TrainingOutput

FEATURE = "proxy_logits"


def proxy_code_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Return the mean cross-entropy over all cells, a scalar.

    Args:
        logits: (B, K, h, w) or (B, K, hw).
        codes: int64 (B, h, w) or (B, hw), 0 to K - 1, row-major.

    Raises:
        ConfigError: the teacher's grid is not the one predicted.
    """
    logits, codes = logits.float().flatten(2), codes.flatten(1)
    if logits.shape[2] != codes.shape[1]:
        raise ConfigError(
            f"the teacher gives {codes.shape[1]} codes per picture but the tokenizer predicts "
            f"{logits.shape[2]}; image size and strides must match, so check both configs"
        )
    return F.cross_entropy(logits, codes)


class ProxyCodeObjective(Objective):
    """Cross-entropy against a frozen teacher's codes, plus the quantizer's own losses.

    Args:
        teacher: tokenizer whose codes are predicted; frozen here and kept out of the state dict.
        quantizer_weight: of the tokenizer's own losses.

    Example:
        >>> objective = ProxyCodeObjective.from_path("models/maskgit-vqgan")
        >>> terms = objective.generator_losses(x, model(x), step=0)
    """

    frozen_parts = ("teacher",)

    def __init__(self, teacher: Tokenizer, *, quantizer_weight: float = 1.0) -> None:
        super().__init__()
        self.teacher: Tokenizer = teacher.requires_grad_(False).eval()
        self.quantizer_weight = quantizer_weight

    @classmethod
    def from_path(
        cls, path: str | Path, *, quantizer_weight: float = 1.0
    ) -> ProxyCodeObjective:
        """Load the teacher from a folder in the diffusers layout.

        Raises:
            WeightsError: no complete model there.
        """
        from tok_core.loading import load

        teacher: Any = load(path)
        return cls(teacher, quantizer_weight=quantizer_weight)

    def train(self, mode: bool = True) -> ProxyCodeObjective:
        """Switch the objective; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def generator_losses(self, x: Tensor, out: TrainingOutput, step: int) -> dict[str, Tensor]:
        """Return ``loss/proxy_codes`` and ``loss/quantizer/*``.

        Args:
            x: pictures (B, 3, H, W) in [-1, 1].
            out: must hold ``features["proxy_logits"]`` (B, K, h, w).
            step: not used; all steps are alike.

        Raises:
            ConfigError: the tokenizer has no proxy head, or another grid than the teacher.
        """
        if FEATURE not in out.features:
            raise ConfigError(
                "objective.target is 'proxy_codes' but the tokenizer predicts none; it needs the "
                "legacy (proxy) head, or set objective.target to 'pixels'"
            )
        self.last_statistics = {}
        logits = out.features[FEATURE]
        with torch.autocast(x.device.type, enabled=False):
            with torch.no_grad():
                codes = self.teacher.encode(x.float()).codes
            losses = {"loss/proxy_codes": proxy_code_loss(logits, codes)}
            shortened = out.features.get(f"shortened_{FEATURE}")
            if shortened is not None:
                losses["loss/shortened/proxy_codes"] = proxy_code_loss(shortened, codes)
            if self.quantizer_weight > 0:
                for name, value in out.losses.items():
                    losses[f"loss/{name}"] = self.quantizer_weight * value.float()
        hits = logits.detach().flatten(2).argmax(1) == codes.flatten(1)
        self._log({**out.losses, "proxy_codes/accuracy": hits.float().mean()})
        return losses
