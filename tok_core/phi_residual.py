"""Phi residual: a scale residual that learns from the sums so far, with a convolution per scale.

    r := f;  on every scale k:  q = code of area(r);  h = phi_k(bicubic(q));  f^ := f^ + h;  r -= h

    phi_k(x) = (1 - a) x + a conv3x3(x), a few convolutions shared among the scales

Where the codes come from is left to the two quantizers built on this:
`tok_core.multi_scale_quantizer` (one learnt table) and `tok_core.binary_spherical` (signs).

Tian et al. 2024, arXiv 2404.02905 (VAR); Li et al. 2024, arXiv 2410.01756 (ImageFolder: dropout,
the commitment as a sum).  Letters: B batch, D channels, H W grid, S scales, K codes, N tokens of
all scales, sg stop-gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tok_core.errors import ConfigError
from tok_core.full_float32 import full_float32, full_float32_convolutions
from tok_core.processes import sum_over_processes, world_size
from tok_core.quantizer_dropout import Dropped, QuantizerDropout
from tok_core.scale_residual import (
    Level,
    ScaleResidual,
    as_grid,
    bicubic,
    grid_size,
    like_input,
)
from tok_core.scale_usage import AverageHits, scale_statistics
from tok_core.scales import Scales
from tok_core.vector_quantizer import Quantized


class PhiResidual(ScaleResidual):
    """The loop with its losses and dropout; not a quantizer by itself.

    Losses compare the sum after every scale with the latent, so each scale is asked to make the
    picture right so far. The decoder's gradient goes straight to the latent; codes and phi learn
    from the losses alone.

    Args:
        codebook_size: K. code_dim: D.
        scales, other_scales: see `tok_core.scale_residual.ScaleResidual`.
        phi_convs: convolutions shared among the scales: 4 in VAR, S for one each, 0 for none.
        phi_ratio: a, the share of the convolution in phi.
        beta: weight of the commitment loss.
        sum_commitment: sum the commitment over the scales instead of averaging it: XQ-GAN's
            release of ImageFolder was so trained, Adobe's and VAR average.
        average_usage: keep running averages of hits, for usage per scale over many batches;
            they follow latents with as many scales as the native list.
        official_usage: count these averages' updates as the released codes do, see
            `tok_core.scale_usage.AverageHits`.
        dropout: drawn in every training forward; None keeps all scales.

    Raises:
        ConfigError: sizes below 1, an illegal scale list, ``phi_convs`` below 0, or a dropout that
            begins beyond the last scale.
    """

    # Whether something learns from what the scales quantize, beyond the sums.
    follows_targets = False

    def __init__(
        self,
        codebook_size: int,
        code_dim: int,
        scales: Sequence[int | Sequence[int]] | None,
        *,
        other_scales: Sequence[Sequence[int | Sequence[int]]] = (),
        phi_convs: int = 4,
        phi_ratio: float = 0.5,
        beta: float = 0.25,
        sum_commitment: bool = False,
        average_usage: bool = False,
        official_usage: bool = False,
        dropout: QuantizerDropout | None = None,
    ) -> None:
        super().__init__(codebook_size, scales, other_scales)
        if code_dim < 1 or phi_convs < 0:
            raise ConfigError(
                f"code_dim {code_dim} and phi_convs {phi_convs} came in; "
                "give at least 1 dimension and at least 0 convolutions."
            )
        count = 1 if self.scales is None else len(self.scales)
        if dropout is not None:
            dropout.check(count)
        self.code_dim, self.phi_ratio = code_dim, phi_ratio
        self.beta, self.sum_commitment, self.dropout = beta, sum_commitment, dropout
        self.phi = nn.ModuleList(
            nn.Conv2d(code_dim, code_dim, 3, padding=1) for _ in range(phi_convs)
        )
        self.average = (
            AverageHits(count, codebook_size, official_count=official_usage)
            if average_usage else None
        )

    def forward(self, z: Tensor, *, dropped: Dropped | None = None) -> Quantized:
        """Quantize z (B, D, H, W) or (B, F, D); in training mode, keep the codebook alive.

        Args:
            z: latents.
            dropped: which items keep how many scales; None draws it in training (``dropout``).

        Returns:
            latents like z; codes int64 (B, N) of all scales, coarse to fine and row by row; losses
            ``quantizer/codebook`` and ``quantizer/commitment``; statistics as of
            `tok_core.scale_usage.scale_statistics`, and ``codebook/average_usage/scale0`` and so
            on with ``average_usage`` (plain for one scale); the items that were chosen for dropout.
        """
        f = as_grid(z, self.code_dim).float()
        scales = self.scales_for(grid_size(f))
        if dropped is None and self.training and self.dropout is not None:
            dropped = self.dropout.draw(len(f), len(scales))
        with full_float32(z.device.type):
            f = self._space(f)
            learns = self._learns()
            if learns:
                self._begin(f, scales)
            levels = list(self._levels(f if self.follows_targets else f.detach(), scales))
            keep = None if dropped is None else _kept(dropped.depths.to(f.device), len(scales))
            total, losses = self._losses(f, levels, keep)
            statistics = self._statistics([level.codes for level in levels])
            if learns:
                self._revive(levels, statistics)
            statistics |= self._averages(statistics, f)
            latents = f + (total - f).detach()
        codes = torch.cat([level.codes.flatten(1) for level in levels], 1)
        items = None if dropped is None else dropped.items.to(f.device)
        return Quantized(
            like_input(latents, z), codes, losses, statistics,
            searches=self._searches(levels, keep=keep), dropped=items,
        )

    def encode(self, z: Tensor) -> Tensor:
        """Return the codes (B, N) of z (B, D, H, W) or (B, F, D); no state changes."""
        with full_float32(z.device.type):
            return self._codes(self._space(as_grid(z, self.code_dim).float()))

    # -- what the two quantizers fill in -------------------------------------------------------

    def _learns(self) -> bool:
        """Return whether this forward may move the codes."""
        return False

    def _begin(self, f: Tensor, scales: Scales) -> None:
        """Prepare the codes for the first batch."""

    def _revive(self, levels: Sequence[Level], statistics: dict[str, Tensor]) -> None:
        """Move codes that nothing chooses."""

    def _statistics(self, codes: Sequence[Tensor]) -> dict[str, Tensor]:
        return scale_statistics(codes, self.codebook_size)

    # -- the parts of the loop -----------------------------------------------------------------

    def _raised(self, vectors: Tensor, scale: int, scales: Scales) -> Tensor:
        full = bicubic(vectors, scales.grid)
        if not len(self.phi):
            return full
        conv = self.phi[shared_index(scale, len(scales), len(self.phi))]
        # The codes of all finer scales hang on this convolution.
        with full_float32_convolutions():
            return full * (1 - self.phi_ratio) + conv(full) * self.phi_ratio

    def _losses(
        self, f: Tensor, levels: Sequence[Level], keep: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of all kept scales, and the losses of the sums so far.

        Args:
            f: (B, D, H, W). keep: float (S, B), see `_kept`; None keeps all.
        """
        total = torch.zeros_like(f)
        codebook, commitment = f.new_zeros(()), f.new_zeros(())
        for scale, level in enumerate(levels):
            # Weights of mean 1, so a mean over all items is one over those that are left.
            weight = None if keep is None else keep[scale].view(-1, 1, 1, 1)
            part = level.part if weight is None else level.part * (weight > 0)
            total = total + part
            codebook = codebook + _mean_square(total - f.detach(), weight)
            commitment = commitment + _mean_square(total.detach() - f, weight)
        for idle in self._idle(len(levels)):
            codebook = codebook + 0.0 * idle.sum()
        share = 1 if self.sum_commitment else len(levels)
        return total, {
            "quantizer/codebook": codebook / len(levels),
            "quantizer/commitment": self.beta * commitment / share,
        }

    def _idle(self, num_scales: int) -> list[Tensor]:
        """Return parameters that few scales leave unused: DDP wants all in the graph of a step."""
        count = len(self.phi)
        used = {shared_index(s, num_scales, count) for s in range(num_scales)} if count else set()
        return [p for i, conv in enumerate(self.phi) if i not in used for p in conv.parameters()]

    def _averages(self, statistics: dict[str, Tensor], f: Tensor) -> dict[str, Tensor]:
        """Move the running averages in training, and return what they say."""
        if self.average is None:
            return {}
        counts = statistics["codebook/counts"].view(-1, self.codebook_size)
        if self.training and len(counts) == len(self.average.hits):
            self.average.update(counts)
        used = self.average.usage(f.numel() // self.code_dim)
        if len(used) == 1:
            return {"codebook/average_usage": used[0]}
        return {f"codebook/average_usage/scale{s}": share for s, share in enumerate(used)}


def shared_index(scale: int, num_scales: int, shared: int) -> int:
    """Return which of ``shared`` convolutions serves a scale: the one whose tick is nearest.

    Source: released code of arXiv 2404.02905, whose ticks are laid differently for four.
    """
    edge = 1 / 3 / shared if shared == 4 else 1 / 2 / shared
    # In float64 as there: midway between two ticks, rounding decides.
    ticks = np.linspace(edge, 1 - edge, shared)
    place = scale / (num_scales - 1) if num_scales > 1 else 0.0
    return int(np.abs(ticks - place).argmin())


def _kept(depths: Tensor, num_scales: int) -> Tensor:
    """Return (S, B) weights: 0 where an item's scale is dropped, else 1 / share that is kept.

    The share is that of all processes, so that their mean loss is the one of the joined batch.
    """
    keep = (torch.arange(num_scales, device=depths.device)[:, None] < depths).float()
    share = sum_over_processes(keep.mean(1, keepdim=True)) / world_size()
    return keep / share.clamp(min=torch.finfo(torch.float32).tiny)


def _mean_square(error: Tensor, weight: Tensor | None) -> Tensor:
    square = error.square()
    return square.mean() if weight is None else (square * weight).mean()
