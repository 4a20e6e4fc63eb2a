"""Period discriminator: sound folded to rows of p samples, judged down the columns.

    x (B, 1, T) --fold--> (B, 1, T / p, p) --5 convolutions (5, 1)--> last --> logits

Letters: B sounds, T samples, p period, C channels, R rows of the condition table.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from audio_tok.judgement import Judgement

SLOPE = 0.1  # of every LeakyReLU


class PeriodDiscriminator(nn.Module):
    """Judges one period.

    Args:
        period: p in samples.
        channels: of the five convolutions.
        condition_rows: R; 0 has no condition. Row r's product with the last hidden map is added to
            the logits (a projection discriminator).
        first_map: whether the first convolution's map is reported.
        whole_period: mirror ``p - T mod p`` samples on, a whole period where T fits already.

    Source: Kong et al. 2020, arXiv 2010.05646, section 2.3 (HiFi-GAN); the defaults are those of
    WavTokenizer's own; ``condition_rows=0, first_map=True, whole_period=True`` its DAC copy.

    Example:
        >>> PeriodDiscriminator(3, [4, 8, 8, 8, 8])(torch.zeros(1, 1, 24000)).logits.shape
        torch.Size([1, 297])
    """

    def __init__(
        self, period: int, channels: Sequence[int], *, condition_rows: int = 4,
        first_map: bool = False, whole_period: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.period, self.first_map, self.whole_period = period, first_map, whole_period
        strides = [3] * (len(channels) - 1) + [1]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(before, after, (5, 1), (stride, 1), (2, 0)))
            for before, after, stride in zip(
                [1, *channels[:-1]], channels, strides, strict=True
            )
        )
        self.conv_post = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), 1, (1, 0)))
        self.emb = condition_table(condition_rows, channels[-1])

    def forward(self, x: Tensor, row: Tensor | None = None) -> Judgement:
        """Judge sound (B, 1, T) under condition ``row`` int64 (1,), None for row 0."""
        x, maps = self._fold(x), []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
            maps.append(x)
        last = self.conv_post(x) + projection(self.emb, row, x)
        return Judgement(last.flatten(1), [*maps[0 if self.first_map else 1 :], last])

    def _fold(self, x: Tensor) -> Tensor:
        missing = -x.shape[-1] % self.period
        if self.whole_period and not missing:
            missing = self.period
        if missing:
            x = F.pad(x, (0, missing), "reflect")
        return x.unflatten(-1, (-1, self.period))


def condition_table(rows: int, channels: int) -> nn.Embedding | None:
    """Return a table (R, C) of zeros, None without rows."""
    if not rows:
        return None
    table = nn.Embedding(rows, channels)
    nn.init.zeros_(table.weight)
    return table


def projection(table: nn.Embedding | None, row: Tensor | None, hidden: Tensor) -> Tensor | float:
    """Return the product over channels of a table's row and a map (B, C, ...): (B, 1, ...)."""
    if table is None:
        return 0.0
    if row is None:
        row = torch.zeros(1, dtype=torch.int64, device=hidden.device)
    return (table(row)[:, :, None, None] * hidden).sum(1, keepdim=True)
