"""Dual codebook: streams of features share one index per cell, and each has a table of its own.

    semantic s --unit--+                               +-- row of the semantic table --> decoder 1
                       +-- one nearest code: index ----+
    pixel    p --unit--+                               +-- row of the pixel table -----> decoder 2

    index = argmin_k  w_s |s - S_k|^2 + w_p |p - P_k|^2       all of unit length

which is one search in the joined space [sqrt(w_s) s, sqrt(w_p) p].  Over several scales the streams
are quantized coarse to fine (`tok_core.scale_residual`), with the same tables on every scale.

Qu et al. 2024, "TokenFlow", arXiv 2412.03069.  Letters: B batch, D channels of all streams
together, H W grid, F frames, S scales, K codes, N tokens of all scales.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.code_revival import CodeRevival
from tok_core.entropy_loss import entropy_loss
from tok_core.errors import ConfigError, nearest
from tok_core.full_float32 import full_float32
from tok_core.processes import sum_over_processes, world_size
from tok_core.scale_residual import (
    Level,
    ScaleResidual,
    as_grid,
    grid_size,
    item_rows,
    like_input,
)
from tok_core.scale_usage import RecentCodes, scale_statistics
from tok_core.scales import Scales
from tok_core.vector_quantizer import Quantized

BOTH = "both"


class DualCodebook(ScaleResidual):
    """Tables of K rows each under one index, always in float32.

    Latents and rows are brought to unit length stream by stream, at every scale. Rows are stored
    raw and learn by the codebook loss. Do not normalise the streams outside: the residual of the
    finer scales lives from their lengths.

    Args:
        codebook_size: K.
        dims: channels of every stream by name, in the order in which latents hold them. One name
            gives an ordinary codebook on the unit sphere.
        weights: of every stream's distance by name, above 0; 1 where left out.
        scales: list of the native grid, coarse to fine, ``[G]`` for one scale; None quantizes
            whatever comes on its own grid alone, as sound does.
        other_scales: lists for further grids; any other grid gets the native list in proportion.
        beta: weight of the commitment loss. entropy: weight of the entropy loss, 0 for none.
        temperature: of the entropy loss.
        scale_drop: chance, 0 to 1, that a training forward leaves one scale but the first out.
        kmeans_start, dead_code_every: see `tok_core.code_revival.CodeRevival`.
        recent_codes: length of a window of recent codes for ``codebook/recent_usage``; 0 has none.

    Attributes:
        tables: (K, D of the stream) parameters by stream.

    Raises:
        ConfigError: no streams, sizes below 1, unknown streams among the weights, values out of
            range, or an illegal scale list.

    Source: arXiv 2412.03069 and its released code.

    Example:
        >>> dual = DualCodebook(4096, {"semantic": 32, "pixel": 8}, scales=[1, 2, 4])
        >>> streams = {"semantic": torch.randn(2, 32, 4, 4), "pixel": torch.randn(2, 8, 4, 4)}
        >>> dual(streams).codes.shape
        torch.Size([2, 21])
    """

    def __init__(
        self,
        codebook_size: int,
        dims: Mapping[str, int],
        *,
        weights: Mapping[str, float] | None = None,
        scales: Sequence[int | Sequence[int]] | None = None,
        other_scales: Sequence[Sequence[int | Sequence[int]]] = (),
        beta: float = 0.25,
        entropy: float = 0.0,
        temperature: float = 0.01,
        scale_drop: float = 0.0,
        kmeans_start: bool = False,
        dead_code_every: int = 0,
        recent_codes: int = 0,
    ) -> None:
        super().__init__(codebook_size, scales, other_scales)
        self.dims = dict(dims)
        self.weights = dict.fromkeys(dims, 1.0) | dict(weights or {})
        _check_streams(self.dims, self.weights)
        _check_numbers(temperature, scale_drop, recent_codes)
        self.beta, self.entropy, self.temperature = beta, entropy, temperature
        self.scale_drop = scale_drop
        self.tables = nn.ParameterDict({
            name: F.normalize(torch.empty(codebook_size, width).uniform_(-1, 1), dim=1)
            for name, width in self.dims.items()
        })
        self.revival = CodeRevival(
            codebook_size, kmeans_start=kmeans_start, dead_code_every=dead_code_every
        )
        self.recent = RecentCodes(recent_codes) if recent_codes else None

    @property
    def streams(self) -> tuple[str, ...]:
        """Names that `lookup` and a tokenizer's ``embed`` take: every stream, and ``both``."""
        return (*self.dims, BOTH) if len(self.dims) > 1 else tuple(self.dims)

    @property
    def code_dim(self) -> int:
        """D, the channels of all streams."""
        return sum(self.dims.values())

    @property
    def vectors(self) -> Tensor:
        """The joined (K, D) float32 table codes are assigned with: weighted unit rows."""
        return self._compared(self._unit_tables())

    def forward(self, streams: Mapping[str, Tensor], *, drop: int | None = None) -> Quantized:
        """Quantize and, in training mode, keep the tables alive.

        Args:
            streams: (B, D of the stream, H, W) or (B, F, D of the stream) by name.
            drop: scale to leave out, counted from 0; None draws one in training (`scale_drop`).

        Returns:
            latents (B, D, H, W) or (B, F, D), the sum over the scales of unit rows, for `split`;
            codes int64 (B, N), coarse to fine and row by row, those of a dropped scale being what
            it would have said; losses ``quantizer/codebook``, ``quantizer/commitment`` and
            ``quantizer/entropy`` if it has a weight; statistics as of
            `tok_core.scale_usage.scale_statistics`, and ``codebook/distance/<stream>``: the mean
            over latents of the sum over codes of squared distances squared.

        Raises:
            ConfigError: streams that are missing, unknown, or do not fit each other.
        """
        like = next(iter(streams.values()), torch.empty(0))
        h = self._joined(streams)
        scales = self.scales_for(grid_size(h))
        drop = self._drawn(len(scales)) if drop is None else drop
        if drop is not None and not 1 <= drop < len(scales):
            raise ConfigError(
                f"scale {drop} of {len(scales)} was to be left out; any but the first can be."
            )
        with full_float32(h.device.type):
            learns = self.training and all(table.requires_grad for table in self._tables())
            if learns:
                self._begin(h, scales)
            levels = list(self._levels(h, scales, drop))
            kept = [level for scale, level in enumerate(levels) if scale != drop]
            total = kept[0].part
            for level in kept[1:]:
                total = total + level.part
            losses = self._losses(kept)
            statistics = scale_statistics([level.codes for level in levels], self.codebook_size)
            statistics |= self._distances(kept)
            if learns:
                self._revive(levels, statistics["codebook/counts"])
            statistics |= self._window(levels, drop)
        codes = torch.cat([level.codes.flatten(1) for level in levels], 1)
        searches = self._searches(levels, drop=drop)
        return Quantized(like_input(total, like), codes, losses, statistics, searches)

    def encode(self, streams: Mapping[str, Tensor]) -> Tensor:
        """Return the codes (B, N) of streams as `forward` takes them; no state changes."""
        return self._codes(self._joined(streams))

    def split(self, latents: Tensor) -> dict[str, Tensor]:
        """Cut latents (B, D, H, W) or (B, F, D) into the streams."""
        axis = 2 if latents.ndim == 3 else 1
        parts = latents.split(list(self.dims.values()), axis)
        return dict(zip(self.dims, parts, strict=True))

    def extra_repr(self) -> str:
        """Sizes and the options that differ between models."""
        sizes = self.scales.sizes if self.scales else None
        return f"{self.codebook_size}, {self.dims}, weights={self.weights}, scales={sizes}"

    # -- the parts of the loop -----------------------------------------------------------------

    def _joined(self, streams: Mapping[str, Tensor]) -> Tensor:
        """Return the streams as one grid (B, D, H, W), float32."""
        if set(streams) != set(self.dims):
            raise ConfigError(
                f"the streams {', '.join(map(str, streams))} came in; "
                f"give exactly {', '.join(self.dims)}."
            )
        parts = [as_grid(streams[name], width).float() for name, width in self.dims.items()]
        sizes = {name: (len(p), *grid_size(p)) for name, p in zip(self.dims, parts, strict=True)}
        if len(set(sizes.values())) > 1:
            raise ConfigError(
                f"the streams have batch, rows and columns {sizes}; "
                "they share an index per cell, so bring them to one grid first."
            )
        return torch.cat(parts, 1)

    def _tables(self) -> list[Tensor]:
        # By name: a ParameterDict sorts its entries.
        return [self.tables[name] for name in self.dims]

    def _unit_tables(self) -> Tensor:
        return torch.cat([F.normalize(t.float(), dim=1) for t in self._tables()], 1)

    def _target(self, pooled: Tensor) -> Tensor:
        return torch.cat([F.normalize(part, dim=1) for part in self.split(pooled).values()], 1)

    def _compared(self, rows: Tensor) -> Tensor:
        if set(self.weights.values()) == {1.0}:
            return rows
        each = [self.weights[n] ** 0.5 for n, width in self.dims.items() for _ in range(width)]
        return rows * rows.new_tensor(each)

    def _rows(self, codes: Tensor, stream: str | None) -> Tensor:
        if stream not in (None, *self.streams):
            legal = self.streams
            raise ConfigError(
                f"stream '{stream}' is unknown; legal are {', '.join(legal)}"
                f"{nearest(str(stream), legal)}"
            )
        names = self.dims if stream in (None, BOTH) else (stream,)
        # Normalised after the look-up: the graph then holds copies, and the tables may be changed
        # in place before the backward pass.
        rows = [F.normalize(F.embedding(codes, self.tables[n]).float(), dim=-1) for n in names]
        return torch.cat(rows, -1).movedim(-1, 1)

    def _passed(self, target: Tensor, vectors: Tensor) -> Tensor:
        return target + (vectors - target).detach()

    def _drawn(self, num_scales: int) -> int | None:
        """Draw a scale to leave out in training, seldom and never the first."""
        if not self.training or not self.scale_drop or num_scales < 2:
            return None
        chance, place = torch.rand(2).tolist()
        return 1 + int(place * (num_scales - 1)) if chance < self.scale_drop else None

    def _losses(self, levels: Sequence[Level]) -> dict[str, Tensor]:
        """Return the losses as means over the scales in use."""
        pairs = [(level.target, level.vectors) for level in levels]
        codebook = torch.stack([F.mse_loss(q, z.detach()) for z, q in pairs]).mean()
        commitment = torch.stack([F.mse_loss(z, q.detach()) for z, q in pairs]).mean()
        losses = {
            "quantizer/codebook": codebook, "quantizer/commitment": self.beta * commitment,
        }  # fmt: skip
        if self.entropy:
            # Cloned: the tables may be changed in place before the backward pass.
            units = [F.normalize(t.float().clone(), dim=1) for t in self._tables()]
            table = self._compared(torch.cat(units, 1))
            each = [
                entropy_loss(self._compared(item_rows([z])), table, temperature=self.temperature)
                for z, _ in pairs
            ]
            losses["quantizer/entropy"] = self.entropy * torch.stack(each).mean()
        return losses

    @torch.no_grad()
    def _distances(self, levels: Sequence[Level]) -> dict[str, Tensor]:
        """Return the size of every stream's distances: what share it has in the choice.

        sum_k |z - c_k|^4 = sum_k (2 - 2 z.c_k)^2 = 4 (K - 2 z.(sum c) + z^T (sum c c^T) z), so no
        distance is ever made.
        """
        found = {}
        targets = [self.split(level.target) for level in levels]
        for name, table in zip(self.dims, self._tables(), strict=True):
            unit = F.normalize(table.float(), dim=1)
            first, second = unit.sum(0), unit.t() @ unit
            values = []
            for target in targets:
                z = item_rows([target[name]])
                each = self.codebook_size - 2 * (z @ first) + ((z @ second) * z).sum(1)
                values.append(4 * each.mean())
            mean = torch.stack(values).mean()
            found[f"codebook/distance/{name}"] = sum_over_processes(mean) / world_size()
        return found

    # -- keeping the tables alive ----------------------------------------------------------------

    def _begin(self, h: Tensor, scales: Scales) -> None:
        centres = self.revival.start(
            lambda: self._compared(item_rows(self._ideal_targets(h, scales)))
        )
        if centres is not None:
            self._place(torch.arange(self.codebook_size, device=h.device), centres)

    def _revive(self, levels: Sequence[Level], counts: Tensor) -> None:
        counts = counts.view(-1, self.codebook_size).sum(0)
        found = self.revival.restart(
            self.vectors, counts,
            lambda: self._compared(item_rows([level.target.detach() for level in levels])),
        )
        if found is not None:
            self._place(*found)

    @torch.no_grad()
    def _place(self, which: Tensor, vectors: Tensor) -> None:
        """Move rows ``which`` (M,) of every table to its part of ``vectors`` (M, D)."""
        # Rows are normalised wherever they are used, so the weights need not be taken out.
        parts = vectors.split(list(self.dims.values()), 1)
        for table, part in zip(self._tables(), parts, strict=True):
            table[which] = F.normalize(part, dim=1).to(table.dtype)

    def _window(self, levels: Sequence[Level], drop: int | None) -> dict[str, Tensor]:
        """Move the window of recent codes in training, and return what it says."""
        if self.recent is None:
            return {}
        if self.training:
            # A dropped scale keeps its place, so that processes with other draws agree on shapes.
            self.recent.push([
                torch.full_like(level.codes, -1) if scale == drop else level.codes
                for scale, level in enumerate(levels)
            ])
        return {"codebook/recent_usage": self.recent.usage(self.codebook_size)}


def _check_streams(dims: Mapping[str, int], weights: Mapping[str, float]) -> None:
    if not dims or min(dims.values()) < 1:
        raise ConfigError(
            f"the streams are {dict(dims)}; name at least one, with at least 1 channel each."
        )
    for name in dims:
        if not name.isidentifier() or name == BOTH:
            raise ConfigError(
                f"'{name}' cannot name a stream; use letters, digits and _, and not '{BOTH}'."
            )
    for name, weight in weights.items():
        if name not in dims:
            raise ConfigError(
                f"a weight came in for stream '{name}'; legal are {', '.join(dims)}"
                f"{nearest(name, dims)}"
            )
        if not weight > 0:
            raise ConfigError(f"the weight of stream '{name}' is {weight}; give one above 0.")


def _check_numbers(temperature: float, scale_drop: float, recent_codes: int) -> None:
    if not temperature > 0 or not 0 <= scale_drop <= 1 or recent_codes < 0:
        raise ConfigError(
            f"temperature {temperature}, scale_drop {scale_drop} and recent_codes {recent_codes} "
            "came in; legal are above 0, 0 to 1, and 0 or more."
        )
