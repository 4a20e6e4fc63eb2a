"""How an image run looks at its model: PSNR at several budgets and a grid, at fixed pictures.

Letters: B pictures, H W pixels, N tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tok_core.contract import Tokens
from tok_core.image_measures import psnr, to_uint8
from vision_tok.legal_lengths import legal_lengths

CHUNK = 32  # pictures decoded at once


def budgets(model: Any) -> list[int | None]:
    """Token budgets worth a score: N, N/2, N/4 ... when a prefix decodes, else the full length.

    Of scales, the last few; None is the full length of codes that have no prefix.

    Example:
        >>> budgets(one_d_piece)  # doctest: +SKIP
        [4, 8, 16, 32, 64]
    """
    axes = model.spec.axes
    if model.spec.scales is not None:
        return [*legal_lengths(model.spec)[-4:]]
    if len(axes) != 1 or axes[0].size is None or axes[0].minimum >= axes[0].size:
        return [None]
    full, floor = axes[0].size, max(1, axes[0].minimum)
    found: list[int] = []
    count = full
    while count >= floor and len(found) < 7:
        found.append(count)
        count //= 2
    return [*sorted(found)]


class ImageMonitor:
    """Scores and pictures of a tokenizer at the same pictures for the whole run.

    Args:
        pictures: (B, 3, H, W) float in [-1, 1], on the CPU.
        shown: how many of them the grid shows.
        teacher: paints for a stage-1 model, which predicts the teacher's codes only.

    Example:
        >>> ImageMonitor(pictures).scores(model)  # doctest: +SKIP
        {'psnr_32': 18.1, 'psnr_64': 19.9}
    """

    unit = "images"

    def __init__(self, pictures: Tensor, shown: int = 8, teacher: Any = None) -> None:
        self.images = pictures
        self.teacher = teacher
        self.shown = min(shown, len(pictures))

    def scores(self, model: Any) -> dict[str, float]:
        """Return the mean PSNR in dB by budget."""
        result = {}
        for budget, pictures in self._decoded(model, self.images).items():
            name = "psnr" if budget is None else f"psnr_{budget}"
            result[name] = psnr(pictures, self.images).clamp(max=100.0).mean().item()
        return result

    def pictures(self, model: Any) -> dict[str, np.ndarray]:
        """Return one grid: originals in the first row, then one row per budget, growing."""
        chosen = self.images[: self.shown]
        rows = [chosen, *self._decoded(model, chosen).values()]
        grid = torch.stack([to_uint8(row) for row in rows])  # (rows, B, 3, H, W)
        r, b, c, h, w = grid.shape
        grid = grid.permute(0, 3, 1, 4, 2).reshape(r * h, b * w, c)
        return {"reconstructions": grid.numpy()}

    def _decoded(self, model: Any, images: Tensor) -> dict[int | None, Tensor]:
        if not hasattr(model, "encode"):
            return self._through_latents(model, images)
        if self.teacher is not None:
            model.attach_teacher(self.teacher)
        device = next(model.parameters()).device
        found: dict[int | None, list[Tensor]] = {budget: [] for budget in budgets(model)}
        for chunk in images.split(CHUNK):
            codes = model.encode(chunk.to(device)).codes
            for budget, pieces in found.items():
                kept = codes if budget is None else codes[..., :budget]
                pieces.append(model.decode(Tokens(kept)).float().cpu())
        return {budget: torch.cat(pieces) for budget, pieces in found.items()}

    def _through_latents(self, model: Any, images: Tensor) -> dict[int | None, Tensor]:
        device = next(model.parameters()).device
        chunks = images.split(CHUNK)
        decoded = [model.decode_latents(model.latents(c.to(device))).float().cpu() for c in chunks]
        return {None: torch.cat(decoded).clamp(-1.0, 1.0)}


class SilentMonitor:
    """For runs that nobody wants to look at."""

    unit = "images"

    def scores(self, model: Any) -> dict[str, float]:
        """Return no scores."""
        return {}

    def pictures(self, model: Any) -> dict[str, np.ndarray]:
        """Return no pictures."""
        return {}
