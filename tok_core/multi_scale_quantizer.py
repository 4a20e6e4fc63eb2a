"""Multi-scale quantizer: VAR's residual quantization of one grid over many, with one codebook.

    r := f;  on every scale k:  q = nearest code of area(r);  h = phi_k(bicubic(q));
                                f^ := f^ + h;  r := r - h

    phi_k(x) = (1 - a) x + a conv3x3(x), a few convolutions shared among the scales

Tian et al. 2024, "Visual Autoregressive Modeling", arXiv 2404.02905, algorithms 1 and 2.  Letters:
B batch, D channels, H W grid, S scales, K codes, N tokens of all scales, sg stop-gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.code_revival import CodeRevival
from tok_core.errors import ConfigError
from tok_core.full_float32 import full_float32, full_float32_convolutions
from tok_core.scale_residual import (
    Level,
    ScaleResidual,
    as_grid,
    bicubic,
    grid_size,
    item_rows,
    like_input,
)
from tok_core.scale_usage import AverageHits, scale_statistics
from tok_core.scales import Scales
from tok_core.vector_quantizer import Quantized


class MultiScaleQuantizer(ScaleResidual):
    """One codebook of K vectors over S scales, always in float32.

    Losses compare the sum after every scale with the latent, so each scale is asked to make the
    picture right so far. The decoder's gradient goes straight to the latent; codes and phi learn
    from the losses alone.

    Args:
        codebook_size: K. code_dim: D.
        scales: of the native grid, coarse to fine, such as ``[1, 2, 3, 4, 5, 6, 8, 10, 13, 16]``.
        other_scales: lists for further grids; any other grid gets the native list in proportion.
        phi_convs: convolutions shared among the scales: 4 in VAR, S for one each, 0 for none.
        phi_ratio: a, the share of the convolution in phi.
        cosine: choose codes by direction; the raw code is used all the same.
        beta: weight of the commitment loss.
        kmeans_start, dead_code_every: see `tok_core.code_revival.CodeRevival`.
        average_usage: keep VAR's running averages of hits, for usage per scale over many batches;
            they follow latents with as many scales as the native list.

    Attributes:
        codebook: (K, D) parameter. phi: the convolutions.

    Raises:
        ConfigError: sizes below 1, an illegal scale list, or ``phi_convs`` below 0.

    Source: arXiv 2404.02905 and its released code.

    Example:
        >>> quantizer = MultiScaleQuantizer(4096, 32, [1, 2, 4, 8])
        >>> quantizer(torch.randn(2, 32, 8, 8)).codes.shape
        torch.Size([2, 85])
    """

    def __init__(
        self,
        codebook_size: int,
        code_dim: int,
        scales: Sequence[int | Sequence[int]],
        *,
        other_scales: Sequence[Sequence[int | Sequence[int]]] = (),
        phi_convs: int = 4,
        phi_ratio: float = 0.5,
        cosine: bool = False,
        beta: float = 0.25,
        kmeans_start: bool = False,
        dead_code_every: int = 0,
        average_usage: bool = False,
    ) -> None:
        super().__init__(codebook_size, scales, other_scales)
        if code_dim < 1 or phi_convs < 0:
            raise ConfigError(
                f"code_dim {code_dim} and phi_convs {phi_convs} came in; "
                "give at least 1 dimension and at least 0 convolutions."
            )
        self.code_dim, self.phi_ratio = code_dim, phi_ratio
        self.cosine, self.beta = cosine, beta
        start = torch.empty(codebook_size, code_dim).uniform_(-1 / codebook_size, 1 / codebook_size)
        self.codebook = nn.Parameter(start)
        self.phi = nn.ModuleList(
            nn.Conv2d(code_dim, code_dim, 3, padding=1) for _ in range(phi_convs)
        )
        self.revival = CodeRevival(
            codebook_size, kmeans_start=kmeans_start, dead_code_every=dead_code_every
        )
        self.average = AverageHits(len(self._lists[0]), codebook_size) if average_usage else None

    @property
    def metric(self) -> str:
        """Distance of the assignment, as a `tok_core.codebook.Codebook` names it."""
        return "cosine" if self.cosine else "l2"

    @property
    def vectors(self) -> Tensor:
        """The (K, D) float32 table codes are assigned with: unit vectors under ``cosine``."""
        return self._compared(self.codebook.float())

    def forward(self, z: Tensor) -> Quantized:
        """Quantize z (B, D, H, W) or (B, F, D); in training mode, keep the codebook alive.

        Returns:
            latents like z; codes int64 (B, N), coarse to fine and row by row; losses
            ``quantizer/codebook`` and ``quantizer/commitment``; statistics as of
            `tok_core.scale_usage.scale_statistics`, and ``codebook/average_usage/scale0`` and so
            on with ``average_usage``.
        """
        f = as_grid(z, self.code_dim).float()
        scales = self.scales_for(grid_size(f))
        with full_float32(z.device.type):
            learns = self.training and self.codebook.requires_grad
            if learns:
                self._begin(f, scales)
            levels = list(self._levels(f.detach(), scales))
            total, losses = self._losses(f, levels)
            statistics = scale_statistics([level.codes for level in levels], self.codebook_size)
            if learns:
                self._revive(levels, statistics["codebook/counts"])
            statistics |= self._averages(statistics["codebook/counts"], f)
            latents = f + (total - f).detach()
        codes = torch.cat([level.codes.flatten(1) for level in levels], 1)
        return Quantized(like_input(latents, z), codes, losses, statistics)

    def encode(self, z: Tensor) -> Tensor:
        """Return the codes (B, N) of z (B, D, H, W) or (B, F, D); no state changes."""
        return self._codes(as_grid(z, self.code_dim))

    def extra_repr(self) -> str:
        """Sizes and the options that differ between models."""
        return f"{self.codebook_size}, {self.code_dim}, scales={self._lists[0].sizes}"

    # -- the parts of the loop -----------------------------------------------------------------

    def _rows(self, codes: Tensor, stream: str | None) -> Tensor:
        if stream is not None:
            raise ConfigError(f"stream '{stream}' was asked for; this quantizer has no streams.")
        return F.embedding(codes, self.codebook).float().movedim(-1, 1)

    def _compared(self, rows: Tensor) -> Tensor:
        return F.normalize(rows, dim=-1) if self.cosine else rows

    def _raised(self, vectors: Tensor, scale: int, scales: Scales) -> Tensor:
        full = bicubic(vectors, scales.grid)
        if not len(self.phi):
            return full
        conv = self.phi[shared_index(scale, len(scales), len(self.phi))]
        # The codes of all finer scales hang on this convolution.
        with full_float32_convolutions():
            return full * (1 - self.phi_ratio) + conv(full) * self.phi_ratio

    def _losses(self, f: Tensor, levels: Sequence[Level]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of all scales, and the losses of the sums so far."""
        total = torch.zeros_like(f)
        codebook, commitment = f.new_zeros(()), f.new_zeros(())
        for level in levels:
            total = total + level.part
            codebook = codebook + F.mse_loss(total, f.detach())
            commitment = commitment + F.mse_loss(total.detach(), f)
        for idle in self._idle(len(levels)):
            codebook = codebook + 0.0 * idle.sum()
        return total, {
            "quantizer/codebook": codebook / len(levels),
            "quantizer/commitment": self.beta * commitment / len(levels),
        }

    def _idle(self, num_scales: int) -> list[Tensor]:
        """Return parameters that few scales leave unused: DDP wants all in the graph of a step."""
        count = len(self.phi)
        used = {shared_index(s, num_scales, count) for s in range(num_scales)} if count else set()
        return [p for i, conv in enumerate(self.phi) if i not in used for p in conv.parameters()]

    # -- keeping the codebook alive --------------------------------------------------------------

    def _begin(self, f: Tensor, scales: Scales) -> None:
        centres = self.revival.start(lambda: item_rows(self._ideal_targets(f, scales)))
        if centres is not None:
            self._place(torch.arange(self.codebook_size, device=f.device), centres)

    def _revive(self, levels: Sequence[Level], counts: Tensor) -> None:
        counts = counts.view(-1, self.codebook_size).sum(0)
        found = self.revival.restart(
            self.codebook, counts, lambda: item_rows([level.target for level in levels])
        )
        if found is not None:
            self._place(*found)

    @torch.no_grad()
    def _place(self, which: Tensor, vectors: Tensor) -> None:
        """Move codes ``which`` (M,) to ``vectors`` (M, D)."""
        self.codebook[which] = vectors.to(self.codebook.dtype)

    def _averages(self, counts: Tensor, f: Tensor) -> dict[str, Tensor]:
        """Move the running averages in training, and return what they say."""
        if self.average is None:
            return {}
        counts = counts.view(-1, self.codebook_size)
        if self.training and len(counts) == len(self.average.hits):
            self.average.update(counts)
        used = self.average.usage(f.numel() // self.code_dim)
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
