"""Cross-entropy of predicted codes, its z-loss, and where in the sequence it is high.

Letters: B batch, L positions, F factors, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def token_losses(
    logits: Tensor, codes: Tensor, *, valid: Tensor | None = None, z_weight: float = 0.0
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return losses and statistics of teacher-forced logits.

    Args:
        logits: float32 (B, L, F, V). codes: int64 (B, L, F).
        valid: bool (B,), which items count; None is all.
        z_weight: of logsumexp squared, which keeps logits from growing.

    Returns:
        ``loss/tokens``, the mean over all codes of the items that count, and ``loss/z`` where it
        has a weight; ``accuracy``, ``loss_per_position`` (L,), the mean over items and factors, and
        ``loss_per_factor`` (F,).
    """
    each = F.cross_entropy(logits.flatten(0, 2), codes.flatten(), reduction="none").view_as(codes)
    share = torch.ones(len(codes), device=codes.device) if valid is None else valid.float()
    weight = share[:, None, None] / (share.sum().clamp(min=1) * codes[0].numel())
    losses = {"loss/tokens": (each * weight).sum()}
    if z_weight:
        squared = logits.logsumexp(dim=-1).square()
        losses["loss/z"] = z_weight * (squared * weight).sum()
    with torch.no_grad():
        right = (logits.argmax(dim=-1) == codes).float()
        statistics = {
            "accuracy": (right * weight).sum(),
            "loss_per_position": (each * weight).sum((0, 2)) * codes.shape[1],
            "loss_per_factor": (each * weight).sum((0, 1)) * codes.shape[2],
        }
    return losses, statistics
