"""Residual quantizer: every level quantizes what the levels before it left over.

    r_0 = z;  c_l = nearest code of r_l;  r_{l+1} = r_l - c_l;  output = sum of the first k levels

Zeghidour et al. 2021, arXiv 2107.03312, section 3.3 (residual form and dropped levels).  Letters:
B batch, F frames, D dimensions, Q levels, K codes, k kept levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tok_core.code_search import CodeSearch
from tok_core.errors import ConfigError, TokenError
from tok_core.tail_drop import TailDrop, prefix_mask
from tok_core.vector_quantizer import Quantized, VectorQuantizer


class ResidualQuantizer(nn.Module):
    """Q codebooks of K vectors each; with Q = 1 exactly one `VectorQuantizer`.

    Args:
        num_codebooks: Q. codebook_size: K. code_dim: D.
        tail_drop: draws in training how many levels the decoder gets; every level always trains.
            None keeps all.
        l2_normalize: measure on the unit sphere.  With several levels the latents are brought to
            unit length once, and every level measures what is left as it is: what one level leaves
            of a unit vector is none, and levels that all look for directions would find the first
            one's again.
        options: of every level, as `VectorQuantizer` takes them.

    Attributes:
        levels: the Q quantizers.

    Raises:
        ConfigError: fewer than one level, or options that a level refuses.

    Example:
        >>> quantizer = ResidualQuantizer(4, 1024, 128, update="ema")
        >>> quantizer(torch.randn(2, 75, 128)).codes.shape
        torch.Size([2, 75, 4])
    """

    def __init__(
        self,
        num_codebooks: int,
        codebook_size: int,
        code_dim: int,
        *,
        tail_drop: TailDrop | None = None,
        l2_normalize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if num_codebooks < 1:
            raise ConfigError(f"num_codebooks is {num_codebooks}; give at least 1.")
        if tail_drop is not None and tail_drop.num_tokens != num_codebooks:
            raise ConfigError(
                f"tail drop over {tail_drop.num_tokens} levels met {num_codebooks} codebooks; "
                "give both the same number."
            )
        self.tail_drop = tail_drop
        self.unit_latents = l2_normalize and num_codebooks > 1
        own = l2_normalize and not self.unit_latents
        self.levels = nn.ModuleList(
            VectorQuantizer(codebook_size, code_dim, l2_normalize=own, **options)
            for _ in range(num_codebooks)
        )

    def level(self, index: int) -> VectorQuantizer:
        """Return one level, counted from 0."""
        part = self.levels[index]
        assert isinstance(part, VectorQuantizer)
        return part

    def forward(self, z: Tensor, levels: Tensor | None = None) -> Quantized:
        """Quantize z (B, F, D) and, in training mode, keep the codebooks up to date.

        Args:
            z: (B, F, D).
            levels: int64 (B,) levels kept per item, 1 to Q; None draws them with tail drop in
                training, and keeps all otherwise.

        Returns:
            latents (B, F, D), the sum of the kept levels; codes (B, F, Q) of all levels; losses and
            usage as means over levels; ``codebook/counts`` (K,) for Q = 1, else (Q, K).
        """
        parts, quantized = self.forward_levels(z)
        if levels is None and self.training and self.tail_drop is not None:
            levels = self.tail_drop.draw_lengths(len(z))
        if levels is None:
            return quantized
        return quantized._replace(latents=self.kept(z, parts, levels))

    def forward_levels(self, z: Tensor) -> tuple[Tensor, Quantized]:
        """Return what each level adds (Q, B, F, D), and what `forward` gives with all of them."""
        found: list[Quantized] = []
        residual = z = self.measured(z)
        for level in self.levels:
            found.append(level(residual))
            # Detached: each level pulls the encoder by its own commitment only.
            residual = residual - found[-1].latents.detach()
        parts = torch.stack([one.latents for one in found])
        codes = torch.stack([one.codes for one in found], -1)
        losses = {
            name: torch.stack([one.losses[name] for one in found]).mean()
            for name in found[0].losses
        }
        latents = found[0].latents if len(found) == 1 else self.kept(z, parts, None)
        return parts, Quantized(
            latents, codes, losses, _mean_statistics(found), _searches(found), found[0].straight
        )

    def kept(self, z: Tensor, parts: Tensor, levels: Tensor | None) -> Tensor:
        """Sum the first ``levels`` (B,) parts of each item, with the gradient of all of z."""
        z = self.measured(z)
        if levels is not None:
            keep = prefix_mask(levels.to(parts.device), len(parts)).t()[:, :, None, None]
            parts = parts * keep
        total = parts.sum(0)
        if not self.level(0).straight_through:
            return total
        # Once straight through for the sum: each part alone passes the whole gradient on, and
        # their sum would multiply it.
        return z + (total - z).detach()

    def measured(self, z: Tensor) -> Tensor:
        """Return what the first level measures."""
        return F.normalize(z, dim=-1) if self.unit_latents else z

    @torch.no_grad()
    def encode(self, z: Tensor, num_levels: int | None = None) -> Tensor:
        """Return codes (B, F, k) of z (B, F, D) on the first ``num_levels`` levels, all if None."""
        codes, residual = [], self.measured(z.float())
        wanted = len(self.levels) if num_levels is None else num_levels
        for i in range(wanted):
            codes.append(self.level(i).encode(residual))
            if i + 1 < wanted:
                residual = residual - self.level(i).lookup(codes[-1])
        return torch.stack(codes, -1)

    def lookup(self, codes: Tensor, upto: int | None = None) -> Tensor:
        """Return the summed vectors (..., D) of codes (..., k), k from 1 to Q.

        Args:
            codes: int64, levels last.
            upto: sum the levels below this number only, 1 to k.

        Raises:
            TokenError: codes out of range, more levels than codebooks, or ``upto`` out of range.
        """
        count = codes.shape[-1]
        wanted = count if upto is None else upto
        if not 1 <= wanted <= count <= len(self.levels):
            raise TokenError(
                f"codes with {count} levels came in and {wanted} were asked for; this quantizer "
                f"has {len(self.levels)}: give 1 to {len(self.levels)} levels."
            )
        total = self.level(0).lookup(codes[..., 0])
        for i in range(1, wanted):
            total = total + self.level(i).lookup(codes[..., i])
        return total


def _searches(found: Sequence[Quantized]) -> tuple[CodeSearch, ...]:
    """Return one search per level; codes are frame by frame, levels last."""
    levels = [one.searches[0] for one in found if one.searches]
    if len(levels) < len(found):  # a level that is bypassed passes on more than a code
        return ()
    last = len(levels) * len(levels[0].places)
    return tuple(
        search._replace(factor=level, places=range(level, last, len(levels)))
        for level, search in enumerate(levels)
    )


def _mean_statistics(found: Sequence[Quantized]) -> dict[str, Tensor]:
    if len(found) == 1:
        return found[0].statistics
    stacked = {
        name: torch.stack([one.statistics[name] for one in found]) for name in found[0].statistics
    }
    return {
        name: value if name == "codebook/counts" else value.mean(0)
        for name, value in stacked.items()
    }
