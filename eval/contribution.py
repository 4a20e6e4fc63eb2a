"""Contribution: what replacing the token at each position changes in the decoded signal.

    codes ──▶ replace position p ──decode──▶ mean squared change against the clean decoding

1D tokens have no place in the picture by construction; this map shows which matter and, with
``footprint``, where each one acts. `eval.heat_map` draws both.

Letters: B items, L positions and F factors of the sequence view, S side of the footprint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from tok_core.codebook import Codebook
from tok_core.contract import Tokenizer, Tokens
from tok_core.errors import ConfigError, nearest
from tok_core.latent_perturbation import around_code, sample_draws
from tok_core.nearest_code import nearest_code
from tok_core.neighbour_table import neighbour_tables
from tok_core.token_spec import TokenSpec

REPLACEMENTS = ("neighbour", "mean", "random")
# (x, y) float (B, 3, H, W) in [-1, 1] -> distance (B,), such as LPIPS with reduction "none".
Distance = Callable[[Tensor, Tensor], Tensor]


class Contributions(NamedTuple):
    """What each position did in a batch.

    Attributes:
        change: float32 (B, L, G) mean squared change of the decoded signal in [-1, 1]; G is F with
            ``per_factor``, else 1.
        absolute: the same shape, mean absolute change.
        distance: the same shape, by the given distance, or None.
        footprint: float32 (L, S, S) mean squared change in each cell of the picture, a mean over
            the batch and factors, or None.
    """

    change: Tensor
    absolute: Tensor
    distance: Tensor | None
    footprint: Tensor | None


class Contribution(Metric):
    """Mean change per position over a data set.

    Args:
        tokenizer: any of the contract, in eval mode.
        replacement: ``neighbour`` (one of the delta - 1 codes nearest to the code itself),
            ``mean`` (the code nearest to the mean of the codebook) or ``random`` (any other code).
        delta: neighbours, the code itself included, at least 2.
        seed: of the draws, which depend on an item's index alone.
        positions: L, where it follows the input (sound, free grids).
        per_factor: replace one factor at a time (branch, level, dimension) instead of all.
        distance: a second measure of the change, such as LPIPS.
        footprint: side S of the picture's grid of cells, 0 for none.
        num_tokens: budget of the encoding. decode_batch: items decoded at a time.
        options: of `torchmetrics.Metric`.

    Returns (compute):
        dict: ``contribution/mse`` and ``contribution/mae`` (L, G), ``contribution/distance`` (L, G)
        and ``contribution/footprint`` (L, S, S) where asked for, ``contribution/samples``.

    Raises:
        ConfigError: an unknown replacement, a number out of range, sound with a footprint.

    Source: One-D-Piece, arXiv 2501.10064, whose map is ``mae`` with replacement ``random``.

    Example:
        >>> score = Contribution(tokenizer, replacement="neighbour", delta=8)
        >>> score.update(images, indices)
        >>> save_heat_map(score.compute()["contribution/mse"], tokenizer.spec, "map.png")
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    change: Tensor
    absolute: Tensor
    far: Tensor
    cells: Tensor
    samples: Tensor

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        replacement: str = "neighbour",
        delta: int = 8,
        seed: int = 0,
        positions: int | None = None,
        per_factor: bool = False,
        distance: Distance | None = None,
        footprint: int = 0,
        num_tokens: int | None = None,
        decode_batch: int = 32,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        _check(tokenizer.spec, replacement, delta, footprint, distance)
        # In a tuple, so that the tokenizer's weights are no state of the metric.
        self.kept = (tokenizer, distance)
        self.replacement, self.delta, self.seed = replacement, delta, seed
        self.per_factor, self.footprint = per_factor, footprint
        self.num_tokens, self.decode_batch = num_tokens, decode_batch
        self.positions = positions or num_tokens_of(tokenizer.spec, num_tokens)
        self.tables: tuple[Tensor, ...] | None = None
        groups = tokenizer.spec.factors if per_factor else 1
        shapes = {
            "change": (self.positions, groups),
            "absolute": (self.positions, groups),
            "far": (self.positions, groups),
            "cells": (self.positions, footprint, footprint),
        }
        for name, shape in shapes.items():
            zeros = torch.zeros(shape, dtype=torch.float64)
            self.add_state(name, zeros, dist_reduce_fx="sum", persistent=True)
        count = torch.zeros((), dtype=torch.int64)
        self.add_state("samples", count, dist_reduce_fx="sum", persistent=True)

    def update(self, x: Tensor, indices: Sequence[int] | Tensor) -> None:
        """Take images (B, 3, H, W) or sound (B, 1, T) in [-1, 1] and each one's index."""
        found = self.measure(x, [int(i) for i in indices])
        groups = found.change.shape[2]
        self.change[:, :groups] += found.change.double().sum(0).to(self.change.device)
        self.absolute[:, :groups] += found.absolute.double().sum(0).to(self.absolute.device)
        if found.distance is not None:
            self.far[:, :groups] += found.distance.double().sum(0).to(self.far.device)
        if found.footprint is not None:
            self.cells += found.footprint.double().to(self.cells.device) * len(x)
        self.samples += len(x)

    def compute(self) -> dict[str, Tensor]:
        """Return the mean maps; see the class."""
        count = self.samples.clamp(min=1)
        maps = {"contribution/mse": self.change / count, "contribution/mae": self.absolute / count}
        if self.kept[1] is not None:
            maps["contribution/distance"] = self.far / count
        if self.footprint:
            maps["contribution/footprint"] = self.cells / count
        return maps | {"contribution/samples": self.samples.double()}

    @torch.no_grad()
    def measure(self, x: Tensor, indices: Sequence[int]) -> Contributions:
        """Return what each position of this batch contributes, item by item; no state changes."""
        tokenizer, distance = self.kept
        tokens = tokenizer.encode(x, num_tokens=self.num_tokens)
        clean = tokenizer.decode(tokens)
        codes = tokenizer.spec.to_sequence(tokens.codes)
        _, length, factors = codes.shape
        if length != self.positions:
            raise ConfigError(
                f"an input of {length} positions came to a map of {self.positions}; give all "
                "inputs the same size, and that number as positions."
            )
        groups = factors if self.per_factor else 1
        shape = (len(x), length * groups)
        change, absolute = torch.zeros(shape), torch.zeros(shape)
        far = None if distance is None else torch.zeros(shape)
        side = self.footprint
        cells = torch.zeros(length, side, side) if side else None
        for item, place, decoded in self._decodings(tokens, codes, indices, groups):
            gap = (decoded - clean[item]).float()
            change[item, place] = gap.square().flatten(1).mean(1).cpu()
            absolute[item, place] = gap.abs().flatten(1).mean(1).cpu()
            if far is not None and distance is not None:
                far[item, place] = distance(decoded, clean[item]).float().cpu().view(-1)
            if cells is not None:
                pooled = F.adaptive_avg_pool2d(gap.square().mean(1), side).cpu()
                cells.index_add_(0, place // groups, pooled / (groups * len(x)))
        full = (len(x), length, groups)
        far = None if far is None else far.view(full)
        return Contributions(change.view(full), absolute.view(full), far, cells)

    def _decodings(
        self, tokens: Tokens, codes: Tensor, indices: Sequence[int], groups: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield items (b,), places (b,) in 0..L G - 1, and the decodings with those replaced."""
        tokenizer = self.kept[0]
        others = self._replacements(codes, indices)
        places = codes.shape[1] * groups
        pairs = torch.cartesian_prod(torch.arange(places), torch.arange(len(codes)))
        for part in pairs.split(self.decode_batch):
            place, item = part.unbind(1)
            moved, rows = codes[item].clone(), torch.arange(len(part))
            where = (rows, place // groups, place % groups) if self.per_factor else (rows, place)
            moved[where] = others[item][where]
            yield item, place, tokenizer.decode(_replaced(tokenizer.spec, tokens, item, moved))

    def _replacements(self, codes: Tensor, indices: Sequence[int]) -> Tensor:
        """Return another code for every code (B, L, F); ``mean`` may keep one."""
        tokenizer = self.kept[0]
        books = tokenizer.codebooks
        place = sample_draws(self.seed, indices, codes.shape[1], len(books)).place.to(codes.device)
        if self.replacement == "neighbour" and self.tables is None:
            self.tables = neighbour_tables(books, self.delta)
        new = torch.empty_like(codes)
        for factor in range(codes.shape[2]):
            own, u, size = codes[..., factor], place[..., factor], len(books[factor].vectors)
            if self.replacement == "mean":
                new[..., factor] = mean_code(books[factor])
            elif self.replacement == "random":
                # A step of 1 to K - 1 around the ring of codes never ends where it began.
                new[..., factor] = (own + 1 + (u * (size - 1)).long()) % size
            else:
                assert self.tables is not None
                table = self.tables[factor].to(codes.device)
                rank = 1 + (u * (table.shape[1] - 1)).long()
                new[..., factor] = around_code(own, rank.clamp(max=table.shape[1] - 1), table)
        return new


def mean_code(codebook: Codebook) -> int:
    """Return the code nearest to the mean of all code vectors."""
    vectors = codebook.vectors.float()
    return int(nearest_code(vectors.mean(0, keepdim=True), vectors, metric=codebook.metric))


def num_tokens_of(spec: TokenSpec, num_tokens: int | None) -> int:
    """Return L of a tokenizer with a fixed number of positions; ConfigError where it is free."""
    sizes = tuple(axis.size for axis in spec.axes)
    names = [axis.name for axis in spec.axes]
    if num_tokens is not None and "token" in names:
        return num_tokens
    if any(s is None for s, n in zip(sizes, names, strict=True) if n not in ("branch", "level")):
        raise ConfigError(
            "this tokenizer's number of positions follows its input; give it as positions."
        )
    return len(spec.coordinates().time)


def _replaced(spec: TokenSpec, tokens: Tokens, item: Tensor, sequence: Tensor) -> Tokens:
    codes = spec.from_sequence(sequence, tuple(tokens.codes.shape[1:])).contiguous()
    return Tokens(codes, *(None if part is None else part[item] for part in tokens[1:]))


def _check(
    spec: TokenSpec, replacement: str, delta: int, footprint: int, distance: Distance | None
) -> None:
    if replacement not in REPLACEMENTS:
        legal = ", ".join(REPLACEMENTS) + nearest(replacement, REPLACEMENTS)
        raise ConfigError(f"replacement '{replacement}' is unknown; legal are {legal}")
    if delta < 2:
        raise ConfigError(f"delta is {delta}; at least 2 hold a neighbour beside the code itself.")
    if footprint < 0 or (spec.modality != "image" and (footprint or distance is not None)):
        raise ConfigError(
            f"a footprint of {footprint} or a distance of pictures was asked of a tokenizer of "
            f"{spec.modality}; legal are 0 or more cells, and both for images only."
        )
