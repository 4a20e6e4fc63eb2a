"""Scale residual: quantize a latent coarse to fine, every scale what the coarser ones left over.

    r := z
    on every scale:  r --area pool--> p --nearest codes--> q --bicubic--> u;  r := r - u
    z^ = sum of u over the scales; any prefix of whole scales is a coarser z^

What p is compared with and what becomes of q is left to what is built on this:
`tok_core.phi_residual` (VAR, ImageFolder) and `tok_core.dual_codebook` (TokenFlow).

Tian et al. 2024, arXiv 2404.02905, algorithms 1 and 2.  Letters: B batch, D channels, H W the
latent's grid, h w the grid of one scale, S scales, F frames, K codes, N tokens of all scales.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.code_search import CodeSearch
from tok_core.codebook import check_codes
from tok_core.errors import ConfigError, TokenError
from tok_core.full_float32 import full_float32
from tok_core.nearest_code import nearest_code
from tok_core.scales import Scales, Size, fitting_scales


class Level(NamedTuple):
    """What happened on one scale."""

    target: Tensor
    """(B, D, h, w) what the code vectors stand for."""
    codes: Tensor
    """int64 (B, h, w)."""
    vectors: Tensor
    """(B, D, h, w) code vectors, before up-sampling."""
    part: Tensor
    """(B, D, H, W) what the scale adds to the sum."""


class ScaleResidual(nn.Module):
    """Scales, look-up and the residual loop; not a quantizer by itself.

    Latents are grids (B, D, H, W) or sequences (B, F, D); a sequence is a grid of one row. Grids
    that no list names get the first list, stretched in proportion.

    Args:
        codebook_size: K.
        scales: see `tok_core.scales.Scales.parse`; None quantizes whatever comes on its own grid
            alone.
        other_scales: lists for further grids.

    Raises:
        ConfigError: an illegal scale list, further lists without a first one, or K below 1.
    """

    def __init__(
        self,
        codebook_size: int,
        scales: Sequence[int | Sequence[int]] | None,
        other_scales: Sequence[Sequence[int | Sequence[int]]] = (),
    ) -> None:
        super().__init__()
        if codebook_size < 1:
            raise ConfigError(f"codebook_size is {codebook_size}; give at least 1.")
        if scales is None and other_scales:
            raise ConfigError(
                f"other_scales {other_scales} came in without scales; give the native list first."
            )
        self.codebook_size = codebook_size
        self.scales = None if scales is None else Scales.parse(scales)
        native = [] if self.scales is None else [self.scales]
        self._lists = [*native, *(Scales.parse(other) for other in other_scales)]

    def scales_for(self, grid: Size) -> Scales:
        """Return the scales on which a latent of that grid (H, W) is quantized."""
        return fitting_scales(self._lists, grid) if self._lists else Scales.parse([grid])

    def scales_of(self, codes: Tensor, size: int | Size | None) -> Scales:
        """Return the scales that codes (B, n) of a latent of that size lie on; see `lookup`."""
        if codes.ndim != 2:
            raise TokenError(
                f"codes have shape {tuple(codes.shape)}; this quantizer takes (batch, tokens)."
            )
        if size is None and self.scales is not None:
            return self.scales
        grid = codes.shape[1] if size is None else size
        return self.scales_for((1, grid) if isinstance(grid, int) else (grid[0], grid[1]))

    # -- what the two quantizers fill in -------------------------------------------------------

    @property
    def vectors(self) -> Tensor:
        """The (K, D) float32 table that codes are assigned with."""
        raise TypeError(f"{type(self).__name__} does not define vectors")

    def _rows(self, codes: Tensor, stream: str | None) -> Tensor:
        """Return the vectors (B, D, h, w) of codes (B, h, w)."""
        raise TypeError(f"{type(self).__name__} does not define rows")

    def _target(self, pooled: Tensor) -> Tensor:
        """Return what of the pooled residual (B, D, h, w) the code vectors stand for."""
        return pooled

    def _raised(self, vectors: Tensor, scale: int, scales: Scales) -> Tensor:
        """Bring the vectors of one scale (B, D, h, w) to the full grid."""
        return bicubic(vectors, scales.grid)

    def _passed(self, target: Tensor, vectors: Tensor) -> Tensor:
        """Return what goes on in place of the vectors: the place of a straight-through step."""
        return vectors

    def _space(self, f: Tensor) -> Tensor:
        """Bring latents (B, D, H, W) into the space that is quantized."""
        return f

    def _compared(self, rows: Tensor) -> Tensor:
        """Bring targets (..., D) into the space of `vectors`."""
        return rows

    def _searcher(self) -> Callable[[Tensor], Tensor]:
        """Return what finds the codes (M,) of targets (M, D), for all scales of one forward."""
        table = self.vectors.detach()
        return lambda rows: nearest_code(self._compared(rows), table)

    # -- tokens to latents -----------------------------------------------------------------------

    def maps(
        self, codes: Tensor, *, stream: str | None = None, upto: int | None = None,
        size: int | Size | None = None,
    ) -> list[Tensor]:
        """Return the code vectors (B, D, h, w) of every scale, before up-sampling."""
        scales = self.scales_of(codes, size)
        count = scales.upto(codes.shape[1], upto)
        check_codes(codes, self.codebook_size)
        return [self._rows(part, stream) for part in scales.split(codes)[:count]]

    def cumulative(
        self, codes: Tensor, *, stream: str | None = None, upto: int | None = None,
        size: int | Size | None = None,
    ) -> Iterator[Tensor]:
        """Yield the sum (B, D, H, W) after every scale, coarse to fine."""
        maps = self.maps(codes, stream=stream, upto=upto, size=size)
        scales = self.scales_of(codes, size)
        total: Tensor | None = None
        for scale, vectors in enumerate(maps):
            with full_float32(codes.device.type):
                part = self._raised(vectors, scale, scales)
            total = part if total is None else total + part
            yield total

    def lookup(
        self, codes: Tensor, upto: int | None = None, *, stream: str | None = None,
        size: int | Size | None = None,
    ) -> Tensor:
        """Return the latents of codes.

        Args:
            codes: int64 (B, n), n tokens of whole scales.
            upto: use the first so many scales only.
            stream: of a `tok_core.dual_codebook.DualCodebook`.
            size: (H, W) of the latent, or the number of frames of a sequence; None is the native
                grid, or where there is none a sequence of as many frames as codes.

        Returns:
            (B, D, H, W) or, for a sequence, (B, F, D), float32.

        Raises:
            TokenError: codes out of range, codes that end inside a scale, ``upto`` out of range.
        """
        sums = self.cumulative(codes, stream=stream, upto=upto, size=size)
        total = deque(sums, maxlen=1).pop()
        is_sequence = isinstance(size, int) or (size is None and self.scales is None)
        return total.squeeze(2).transpose(1, 2) if is_sequence else total

    # -- latents to tokens -----------------------------------------------------------------------

    def _codes(self, z: Tensor) -> Tensor:
        """Return codes (B, N) of a grid of latents (B, D, H, W); no state changes."""
        scales = self.scales_for(grid_size(z))
        with torch.no_grad(), full_float32(z.device.type):
            codes = [level.codes.flatten(1) for level in self._levels(z.float(), scales)]
        return torch.cat(codes, 1)

    def searches_of(self, z: Tensor) -> tuple[CodeSearch, ...]:
        """Return what every scale searches of latents (B, D, H, W); no state changes."""
        with torch.no_grad(), full_float32(z.device.type):
            f = self._space(z.float())
            return self._searches(list(self._levels(f, self.scales_for(grid_size(f)))))

    def _levels(self, z: Tensor, scales: Scales, drop: int | None = None) -> Iterator[Level]:
        """Run the loop on z (B, D, H, W); scale ``drop`` is coded but adds nothing.

        Call it inside `full_float32`.
        """
        search, residual = self._searcher(), z
        for scale, size in enumerate(scales.sizes):
            target = self._target(area(residual, size))
            rows = target.detach().movedim(1, -1)
            codes = search(rows.flatten(0, 2)).view(rows.shape[:3])
            vectors = self._rows(codes, None)
            part = self._raised(self._passed(target, vectors), scale, scales)
            yield Level(target, codes, vectors, part)
            if scale != drop:
                # Detached: the latent is pulled by every scale once, not through the others.
                residual = residual - part.detach()

    def _searches(
        self, levels: Sequence[Level], *, drop: int | None = None, keep: Tensor | None = None
    ) -> tuple[CodeSearch, ...]:
        """Return the searches of the scales that were used, for codes (B, N) coarse to fine.

        Args:
            levels: of all scales. drop: a scale that was left out.
            keep: (S, B), above 0 where an item's scale was used; None used all.
        """
        found, start = [], 0
        for scale, level in enumerate(levels):
            stop = start + level.codes.shape[1:].numel()
            if scale != drop:
                rows = self._compared(level.target.detach().movedim(1, -1))
                items = None if keep is None else keep[scale] > 0
                found.append(CodeSearch(rows, 0, range(start, stop), items))
            start = stop
        return tuple(found)

    def _ideal_targets(self, z: Tensor, scales: Scales) -> list[Tensor]:
        """Return what the scales would quantize if every code fitted exactly, (B, D, h, w) each."""
        residual, targets = z.detach(), []
        for size in scales.sizes:
            targets.append(self._target(area(residual, size)))
            residual = residual - bicubic(targets[-1], scales.grid)
        return targets


def item_rows(maps: Sequence[Tensor]) -> Tensor:
    """Return the cells (M, D) of maps (B, D, h, w), item by item.

    So the rows of several processes, one after the other, are those of their joined batch.
    """
    return torch.cat([each.flatten(2) for each in maps], 2).transpose(1, 2).flatten(0, 1)


def area(z: Tensor, size: Size) -> Tensor:
    """Average z (B, D, H, W) down to a grid of ``size``; itself where it has that size."""
    return z if grid_size(z) == size else F.interpolate(z, size=size, mode="area")


def bicubic(z: Tensor, size: Size) -> Tensor:
    """Resize z (B, D, h, w) to a grid of ``size``; itself where it has that size."""
    if grid_size(z) == size:
        return z
    return F.interpolate(z, size=size, mode="bicubic", align_corners=False)


def grid_size(z: Tensor) -> Size:
    """Return (H, W) of z (B, D, H, W)."""
    return z.shape[-2], z.shape[-1]


def as_grid(z: Tensor, width: int) -> Tensor:
    """View latents (B, D, H, W) or (B, F, D) as a grid of D channels.

    Raises:
        ConfigError: another number of axes or of channels.
    """
    if z.ndim == 3:
        z = z.transpose(1, 2)[:, :, None]
    if z.ndim != 4 or z.shape[1] != width:
        raise ConfigError(
            f"latents of shape {tuple(z.shape)} met codes of width {width}; legal are "
            f"(batch, {width}, rows, columns) and (batch, frames, {width})."
        )
    return z


def like_input(grid: Tensor, z: Tensor) -> Tensor:
    """Bring a grid (B, D, H, W) back to the layout and the dtype of z, which `as_grid` took."""
    return (grid.squeeze(2).transpose(1, 2) if z.ndim == 3 else grid).to(z.dtype)
