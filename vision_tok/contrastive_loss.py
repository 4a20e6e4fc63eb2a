"""Contrastive loss: each picture's tokens should find their own teacher feature in the batch.

    logits = scale * t s^T (N, N);  loss = (CE(logits, diagonal) + CE(logits^T, diagonal)) / 2

Radford et al., "CLIP", arXiv 2103.00020, section 2.3, as XQ-GAN (arXiv 2412.01762) regularises its
codes: features as they are and scale 1, or normalised with a scale that rises from 1 to 100.
Letters: B items of one process, N = B x processes, C features, t teacher, s tokens.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from tok_core.errors import ConfigError
from tok_core.full_float32 import full_float32
from tok_core.processes import per_process, world_size

LARGEST_SCALE = 100.0


def contrastive_loss(
    teacher: Tensor, tokens: Tensor, *, scale: float = 1.0, normalize: bool = False
) -> Tensor:
    """Return the symmetric InfoNCE over the items of all processes, the same on each.

    Args:
        teacher: (B, C) features of the teacher, as many on every process.
        tokens: (B, C) features of the tokens of the same pictures, in the same order.
        scale: of the products.
        normalize: bring every feature to length 1 first.

    Returns:
        A scalar; ln N where nothing is told apart. Averaged over processes, as DDP does, its
        gradients are those of one process on the joined batch, towards both sides.

    Raises:
        ConfigError: another number of features on each side.

    Example:
        >>> contrastive_loss(torch.zeros(4, 8), torch.zeros(4, 8))
        tensor(1.3863)
    """
    if teacher.shape != tokens.shape or teacher.ndim != 2:
        raise ConfigError(
            f"the contrastive loss got teacher features of shape {tuple(teacher.shape)} and token "
            f"features of {tuple(tokens.shape)}; both must be (items, features) and agree"
        )
    with full_float32(teacher.device.type):
        ours, theirs = (side.float() for side in (tokens, teacher))
        if normalize:
            ours, theirs = F.normalize(ours, dim=-1), F.normalize(theirs, dim=-1)
        logits = scale * _joined(theirs) @ _joined(ours).t()
        own = torch.arange(len(logits), device=logits.device)
        return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own))


def ramped_scale(step: int, length: int) -> float:
    """Return the scale for normalised features: 1 at step 0, a line to 100 at ``length`` steps.

    Example:
        >>> ramped_scale(50, 100)
        50.5
    """
    share = min(1.0, step / length) if length > 0 else 1.0
    return 1.0 + (LARGEST_SCALE - 1.0) * share


def _joined(rows: Tensor) -> Tensor:
    """Return (N, C) rows of all processes; gradients reach this process's own, P times as large.

    Every process computes the same loss, so averaging over P processes gives the joined gradient.
    """
    if world_size() == 1:
        return rows
    parts = list(per_process(rows.detach()))
    own = dist.get_rank()
    parts[own] = parts[own] + world_size() * (rows - rows.detach())
    return torch.cat(parts)
