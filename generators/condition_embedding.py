"""What comes before the tokens of a sequence: one token for a class, or a run of caption features.

    label --table, last row for none--> (B, 1, W)
    features (B, T, C) --linear, tanh-GELU, linear--> (B, T, W)
    nothing --one learned row--> (B, 1, W)

In training some conditions become "none", so that the model learns the unconditional logits that
guidance needs.  Sun et al. 2024, arXiv 2406.06525.  Letters: B batch, T condition positions, C
caption features, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.contract import Condition, check_labels
from tok_core.errors import ConfigError


class ConditionEmbedding(nn.Module):
    """Condition to (B, T, W), with a null for guidance.

    Args:
        width: W.
        classes: number of labels, 0 for none.
        caption_width: C, None without captions. caption_length: T of captions.
        dropout: chance of a condition to become null in training.
    """

    def __init__(
        self, width: int, *, classes: int = 0, caption_width: int | None = None,
        caption_length: int = 120, dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.classes, self.dropout = classes, dropout
        self.length = 1 if caption_width is None else caption_length
        self.table: nn.Embedding | None = None
        if caption_width is None:
            self.table = nn.Embedding(classes + 1, width)
            return
        self.up = nn.Linear(caption_width, width, bias=False)
        self.down = nn.Linear(width, width, bias=False)
        # Drawn once and never trained, but part of the weights.
        null = torch.randn(caption_length, caption_width) * caption_width**-0.5
        self.register_buffer("null_caption", null)
        self.null_caption: Tensor

    @property
    def caption_shape(self) -> tuple[int, int] | None:
        """(T, C) of captions, None where labels or nothing come in."""
        if self.table is not None:
            return None
        length, width = self.null_caption.shape
        return length, width

    def checked(self, condition: Condition, batch: int) -> Condition:
        """Return the condition on this module's device, or refuse one that it cannot take.

        Raises:
            ConfigError: labels or captions missing, unwanted, misshapen or out of range.
        """
        device = next(self.parameters()).device
        if self.table is not None:
            if condition.features is not None:
                raise ConfigError("captions came in but this generator takes labels; give labels.")
            check_labels(condition.labels, self.classes, batch)
            labels = condition.labels
            return Condition(labels=None if labels is None else labels.to(device))
        features, mask = condition.features, condition.mask
        legal = (batch, *self.null_caption.shape)
        if features is None or tuple(features.shape) != legal:
            given = "no captions" if features is None else f"captions {tuple(features.shape)}"
            raise ConfigError(f"{given} came in; give features of shape {legal}, padded left.")
        if mask is not None and mask.shape != features.shape[:2]:
            raise ConfigError(
                f"the caption mask has shape {tuple(mask.shape)}; give {tuple(features.shape[:2])}."
            )
        return Condition(
            features=features.to(device), mask=None if mask is None else mask.bool().to(device)
        )

    def forward(self, condition: Condition, batch: int) -> Tensor:
        """Embed a checked condition of ``batch`` items, dropping some in training mode."""
        nothing = self.null(batch)
        if self.table is not None:
            labels = condition.labels
            x = nothing if labels is None else self.table(labels)[:, None]
        else:
            assert condition.features is not None
            x = self._caption(condition.features)
        if not self.training or not self.dropout:
            return x
        dropped = torch.rand(batch, device="cpu") < self.dropout
        return torch.where(dropped.to(x.device)[:, None, None], nothing, x)

    def null(self, batch: int) -> Tensor:
        """Return the null condition (batch, T, W)."""
        if self.table is not None:
            return self.table.weight[-1].expand(batch, 1, -1)
        return self._caption(self.null_caption[None]).expand(batch, -1, -1)

    def _caption(self, features: Tensor) -> Tensor:
        hidden = F.gelu(self.up(features.to(self.up.weight.dtype)), approximate="tanh")
        return self.down(hidden)


def caption_attention(mask: Tensor | None, length: int) -> Tensor | None:
    """Return what may be seen where captions are padded, bool (B, 1, L, L); None is causal.

    Padding is seen by nobody but itself (a row of nothing would give NaN).

    Args:
        mask: bool (B, T), True where a caption is real. length: L, condition and tokens.
    """
    if mask is None or bool(mask.all()):
        return None
    real = torch.ones(len(mask), length, dtype=torch.bool, device=mask.device)
    real[:, : mask.shape[1]] = mask
    causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=mask.device)
    return ((causal & real[:, None]) | itself)[:, None]
