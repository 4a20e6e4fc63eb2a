"""Caption features as generators take them: cut to T positions, padded at the left, with a mask.

    (n, C) of one caption --first T--> | 0 0 0 f f f f |  (T, C)
                                       | - - - + + + + |  (T,)

Sun et al. 2024, arXiv 2406.06525: padding lies before the caption, so that its last feature stands
right before the first token.  Letters: B batch, n positions given, T positions taken, C features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from generators.contract import Condition
from tok_core.errors import ConfigError


def padded_left(features: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return features (n, C) as (T, C) with a mask (T,), True where they are real.

    Example:
        >>> padded_left(torch.ones(2, 1), 3)[1].tolist()
        [False, True, True]
    """
    kept = features[:length]
    missing = length - len(kept)
    mask = torch.arange(length) >= missing
    return F.pad(kept, (0, 0, missing, 0)), mask.to(kept.device)


def caption_condition(
    embeds: Any, mask: Any = None, *, shape: tuple[int, int] | None, batch: int | None = None
) -> Condition:
    """Return the condition of captions as text encoders give them.

    Args:
        embeds: float (B, n, C) features, or (n, C) of one caption for all.
        mask: (B, n), nonzero where a feature is real, padded at either side as tokenizers do it;
            None where all are.
        shape: (T, C) of the generator, None for one without captions.
        batch: B, to check; None takes any.

    Raises:
        ConfigError: a generator without captions, other shapes, NaN or Inf, a caption of nothing.

    Example:
        >>> caption_condition(torch.zeros(2, 7, 2048), shape=(120, 2048)).features.shape
        torch.Size([2, 120, 2048])
    """
    if shape is None:
        raise ConfigError("prompt_embeds came in but this generator takes no captions; drop them.")
    length, width = shape
    features = torch.as_tensor(embeds)
    if features.dim() == 2:
        features = features[None]
    legal = features.dim() == 3 and features.is_floating_point() and features.shape[1] > 0
    if not legal or features.shape[2] != width or batch not in (None, len(features)):
        wanted = f"({'captions' if batch is None else batch}, positions, {width})"
        raise ConfigError(
            f"prompt_embeds are {features.dtype} of shape {tuple(features.shape)}; give floats "
            f"{wanted} of the text encoder that this generator was trained with."
        )
    if not torch.isfinite(features).all():
        raise ConfigError("prompt_embeds hold NaN or Inf; encode the captions again.")
    real = torch.ones(features.shape[:2], dtype=torch.bool)
    if mask is not None:
        real = torch.as_tensor(mask).cpu() != 0
        if real.shape != features.shape[:2]:
            raise ConfigError(
                f"prompt_attention_mask has shape {tuple(real.shape)}; give "
                f"{tuple(features.shape[:2])}."
            )
        if not real.any(dim=1).all():
            raise ConfigError("a caption has no feature in its mask; give at least one.")
    pairs = [
        padded_left(row[keep.to(row.device)].float(), length)
        for row, keep in zip(features, real, strict=True)
    ]
    return Condition(
        features=torch.stack([row for row, _ in pairs]),
        mask=torch.stack([keep for _, keep in pairs]),
    )
