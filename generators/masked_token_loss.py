"""Cross-entropy of masked tokens, and with a small weight of those that can be seen.

    loss = sum_i w_i CE_smoothed(logits_i, code_i) / sum_i w_i      w = 1 masked, 0.1 seen

Official TiTok and One-D-Piece, which see the loss of visible tokens as a regulariser.  Letters: B
batch, N positions, F factors, K codes of a factor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_token_losses(
    logits: Sequence[Tensor], codes: Tensor, masked: Tensor, *, smoothing: float = 0.1,
    unmasked_weight: float = 0.1,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:  # fmt: skip
    """Return losses and statistics of one forward with masks.

    Args:
        logits: (B, N, K) of each factor. codes: int64 (B, N, F).
        masked: bool (B, N), which positions the model did not see.
        smoothing: share of the target that is spread over all codes.
        unmasked_weight: of positions that it saw.

    Returns:
        ``loss/tokens``, the mean over factors; ``accuracy`` on masked positions, their ``masked``
        share, ``loss_per_position`` (N,) over masked samples (0 where nothing was masked) and
        ``loss_per_factor`` (F,) over masked positions.
    """
    each, right = torch.zeros_like(masked.float()), torch.zeros_like(masked.float())
    seen, apart = masked.float(), []
    for factor, part in enumerate(logits):
        flat, targets = part.float().flatten(0, 1), codes[..., factor].flatten()
        loss = F.cross_entropy(flat, targets, reduction="none", label_smoothing=smoothing)
        each = each + loss.view_as(masked)
        apart.append((loss.detach().view_as(masked) * seen).sum())
        right = right + (flat.argmax(dim=-1) == targets).view_as(masked)
    each, right = each / len(logits), right / len(logits)
    weight = torch.where(masked, 1.0, unmasked_weight)
    # Nothing counts where nothing is masked and the weight of the rest is 0.
    losses = {"loss/tokens": (each * weight).sum() / weight.sum().clamp(min=1e-8)}
    with torch.no_grad():
        statistics = {
            "accuracy": (right * seen).sum() / seen.sum().clamp(min=1),
            "masked": seen.mean(),
            "loss_per_position": (each * seen).sum(0) / seen.sum(0).clamp(min=1),
            "loss_per_factor": torch.stack(apart) / seen.sum().clamp(min=1),
        }
    return losses, statistics
