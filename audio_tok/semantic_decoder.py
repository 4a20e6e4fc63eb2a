"""Semantic decoder: from the semantic half of the codes back to what the teacher hears.

    semantic codes (B, F, D) --convolutions--> (B, F, C) --linear--> prediction (B, F, D')

It exists for training and for readers of `features`; sound is decoded without it.

Letters: B batch, F frames, D semantic channels, C width, D' features of the teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audio_tok.vocos_backbone import VocosBackbone


class SemanticDecoder(nn.Module):
    """ConvNeXt blocks and one linear layer.

    Args:
        dim: D. features: D'. width: C. hidden: of the blocks. layers: how many.
        causal: no frame depends on later ones.

    Example:
        >>> SemanticDecoder(32, 39, 64, 128, 2)(torch.zeros(1, 75, 32)).shape
        torch.Size([1, 75, 39])
    """

    def __init__(
        self, dim: int, features: int, width: int, hidden: int, layers: int, *,
        causal: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone = VocosBackbone(
            dim, width, hidden, layers, attention=False, condition_ids=1, causal=causal
        )
        self.out = nn.Linear(width, features)

    def forward(self, z: Tensor) -> Tensor:
        """Predict the teacher's features (B, F, D') from (B, F, D)."""
        row = torch.zeros(1, dtype=torch.int64, device=z.device)
        return self.out(self.backbone(z.to(self.backbone.embed.weight.dtype), row))
