"""Multi-scale quantizer: VAR's residual quantization of one grid over many, with one codebook.

    r := f;  on every scale k:  q = nearest code of area(r);  h = phi_k(bicubic(q));
                                f^ := f^ + h;  r := r - h

The loop, its losses and quantizer dropout are `tok_core.phi_residual`'s.  ImageFolder has one of
these per branch: ``cosine``, ``sum_commitment``, dropout (`tok_core.product_quantizer`).

Tian et al. 2024, "Visual Autoregressive Modeling", arXiv 2404.02905, algorithms 1 and 2.  Letters:
B batch, D channels, H W grid, S scales, K codes, N tokens of all scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.code_revival import CodeRevival
from tok_core.errors import ConfigError
from tok_core.phi_residual import PhiResidual
from tok_core.scale_residual import Level, item_rows
from tok_core.scales import Scales


class MultiScaleQuantizer(PhiResidual):
    """One codebook of K vectors over S scales, always in float32.

    Args:
        codebook_size: K. code_dim: D.
        scales: of the native grid, coarse to fine, such as ``[1, 2, 3, 4, 5, 6, 8, 10, 13, 16]``.
        cosine: choose codes by direction; the raw code is used all the same.
        kmeans_start, dead_code_every: see `tok_core.code_revival.CodeRevival`.
        options: ``other_scales``, ``phi_convs``, ``phi_ratio``, ``beta``, ``sum_commitment``,
            ``average_usage``, ``official_usage`` and ``dropout`` of
            `tok_core.phi_residual.PhiResidual`.

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
        cosine: bool = False,
        kmeans_start: bool = False,
        dead_code_every: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(codebook_size, code_dim, scales, **options)
        self.cosine = cosine
        start = torch.empty(codebook_size, code_dim).uniform_(-1 / codebook_size, 1 / codebook_size)
        self.codebook = nn.Parameter(start)
        self.revival = CodeRevival(
            codebook_size, kmeans_start=kmeans_start, dead_code_every=dead_code_every
        )

    @property
    def metric(self) -> str:
        """Distance of the assignment, as a `tok_core.codebook.Codebook` names it."""
        return "cosine" if self.cosine else "l2"

    @property
    def vectors(self) -> Tensor:
        """The (K, D) float32 table codes are assigned with: unit vectors under ``cosine``."""
        return self._compared(self.codebook.float())

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

    # -- keeping the codebook alive --------------------------------------------------------------

    def _learns(self) -> bool:
        return self.training and self.codebook.requires_grad

    def _begin(self, f: Tensor, scales: Scales) -> None:
        centres = self.revival.start(lambda: item_rows(self._ideal_targets(f, scales)))
        if centres is not None:
            self._place(torch.arange(self.codebook_size, device=f.device), centres)

    def _revive(self, levels: Sequence[Level], statistics: dict[str, Tensor]) -> None:
        counts = statistics["codebook/counts"].view(-1, self.codebook_size).sum(0)
        found = self.revival.restart(
            self.codebook, counts, lambda: item_rows([level.target for level in levels])
        )
        if found is not None:
            self._place(*found)

    @torch.no_grad()
    def _place(self, which: Tensor, vectors: Tensor) -> None:
        """Move codes ``which`` (M,) to ``vectors`` (M, D)."""
        self.codebook[which] = vectors.to(self.codebook.dtype)
