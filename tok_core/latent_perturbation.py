"""Latent perturbation: a code is sometimes replaced by one of its nearest neighbours.

    codes ──▶ neighbours (delta) ──▶ u <= alpha: the neighbour of rank r, else the code itself

A generator errs, and when it does it tends to pick a code close to the right one.  Decoding
perturbed codes tells how a decoder bears that (pFID), training on them teaches it to.

Qiu et al. 2025, "Robust Latent Matters", arXiv 2503.08354.  alpha: chance that a token of a chosen
item is drawn anew (it may draw itself, so 1 - 1/delta of them change); beta: share of items that
are chosen; delta: size of the neighbourhood, the code itself included, clipped to the codebook.

Letters: B items, L positions and F factors of the sequence view, K codes, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tok_core.codebook import Codebook
from tok_core.errors import ConfigError, TokenError, nearest
from tok_core.neighbour_table import nearest_neighbours
from tok_core.token_spec import TokenSpec

NEIGHBOURHOODS = ("code", "latent")


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """How strongly codes are perturbed.

    Args:
        alpha: chance, 0 to 1, that a token of a chosen item is drawn anew.
        delta: neighbours drawn from, itself included, at least 1.
        beta: share of items chosen, 0 to 1.
        neighbourhood: ``code`` (nearest to the assigned code, the paper's text) or ``latent``
            (nearest to the latent before quantization, the released training code).

    Raises:
        ConfigError: a value out of range or an unknown neighbourhood.
    """

    alpha: float
    delta: int
    beta: float = 1.0
    neighbourhood: str = "code"

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie in 0 to 1.")
        if self.delta < 1:
            raise ConfigError(
                f"delta is {self.delta}; give at least 1 neighbour (1 is the code itself)."
            )
        if self.neighbourhood not in NEIGHBOURHOODS:
            raise ConfigError(
                f"neighbourhood '{self.neighbourhood}' is unknown; legal are "
                f"{' and '.join(NEIGHBOURHOODS)}{nearest(self.neighbourhood, NEIGHBOURHOODS)}"
            )


class Perturbed(NamedTuple):
    """Perturbed codes, and where they differ from the clean ones (bool, same shape)."""

    codes: Tensor
    changed: Tensor


class Draws(NamedTuple):
    """The randomness of one batch.

    Attributes:
        item: (B,) in [0, 1), an item is chosen where it is below beta.
        chance: (B, L, F) in [0, 1), a token is drawn anew where it is not above alpha.
        place: (B, L, F) in [0, 1), the rank of the neighbour is ``floor(place * delta)``.
    """

    item: Tensor
    chance: Tensor
    place: Tensor


# -- the pure rule -----------------------------------------------------------------------------


def replace_codes(
    codes: Tensor, candidates: Tensor, chance: Tensor, *, alpha: float, items: Tensor | None = None
) -> Perturbed:
    """Take the candidate wherever ``chance <= alpha`` in a chosen item.

    Args:
        codes: int64 (B, ...) clean codes. candidates: same shape, what each may become.
        chance: same shape, uniform in [0, 1). alpha: see the module.
        items: bool (B,) chosen items; None chooses all.

    Example:
        >>> replace_codes(codes, around_code(codes, rank, table), chance, alpha=0.5)
    """
    hit = chance <= alpha
    if items is not None:
        hit = hit & items.to(codes.device).view(-1, *[1] * (codes.ndim - 1))
    new = torch.where(hit, candidates, codes)
    return Perturbed(new, new != codes)


def around_code(codes: Tensor, rank: Tensor, table: Tensor) -> Tensor:
    """Return the neighbour of each code with that rank, int64, shape of ``codes``.

    Args:
        codes: int64 in [0, K). rank: int64 in [0, delta), same shape; 0 is the code itself.
        table: (K, delta or more) from `tok_core.neighbour_table.neighbour_table`.
    """
    return table[codes, rank]


def around_latent(z: Tensor, rank: Tensor, codebook: Codebook) -> Tensor:
    """Return the code of that rank among those nearest to each latent, int64 (...).

    Args:
        z: (..., D) latents before quantization. rank: int64 (...), 0 is the ordinary assignment.
        codebook: vectors (K, D) and metric.
    """
    wanted = int(rank.max()) + 1 if rank.numel() else 1
    return nearest_neighbours(z, codebook, wanted).gather(-1, rank[..., None]).squeeze(-1)


def replace_latents(
    clean: Tensor,
    codes: Tensor,
    new: Tensor,
    lookup: Callable[[Tensor], Tensor],
    *,
    straight: Tensor | None = None,
) -> Tensor:
    """Return the quantized latents of perturbed codes, for training.

    Items without a perturbed code keep theirs. The others get the difference of the two look-ups
    added, so a sum over scales or levels keeps what was dropped from it. Their gradient goes
    straight through to the latents before quantization; codebooks learn from clean codes only.

    Args:
        clean: (B, ...) what the quantizer made of the latents, straight through of them.
        codes, new: int64 (B, ...) before and after perturbation.
        lookup: of the quantizer: codes (b, ...) to latents (b, ...) in the layout of ``clean``.
        straight: like ``clean``, what gradients go to, where those of ``clean`` go to a codebook.

    Source: arXiv 2503.08354 and its released code.

    Example:
        >>> replace_latents(out.latents, out.codes, new, quantizer.lookup)
    """
    items = (new != codes).reshape(len(codes), -1).any(1).nonzero()[:, 0]
    if not len(items):
        return clean
    base = (clean if straight is None else straight)[items]
    with torch.no_grad():
        moved = clean[items].float() + (lookup(new[items]) - lookup(codes[items]))
    # In float32, so that the value is that of the codes although it is reached by differences.
    passed = base + (moved - base).detach()
    return clean.index_copy(0, items, passed.to(clean.dtype))


# -- any tokenizer -----------------------------------------------------------------------------


def sample_draws(seed: int, indices: Sequence[int], positions: int, factors: int) -> Draws:
    """Return the draws of a batch; each item's depend on the seed and on its own index alone.

    So any batch size and any number of processes perturb an item alike, and a longer or deeper
    item begins with the draws of its shorter self. Every setting of a grid sees the same draws:
    a larger alpha changes the tokens a smaller one does, and more.

    Args:
        seed: 0 or more. indices: position of each item in the whole data set, 0 or more.
        positions: L. factors: F of the spec, even where the codes hold fewer levels.
    """
    if seed < 0 or min(indices, default=0) < 0:
        raise ConfigError(f"seed {seed} or an index below 0 came in; both count from 0.")
    rows, item = [], []
    for index in indices:
        random = np.random.Generator(np.random.PCG64([seed, index]))
        item.append(random.random())
        rows.append(torch.from_numpy(random.random((positions, factors, 2))))
    both = torch.stack(rows) if rows else torch.zeros(0, positions, factors, 2).double()
    return Draws(torch.tensor(item, dtype=torch.float64), both[..., 0], both[..., 1])


@torch.no_grad()
def perturb(
    codes: Tensor,
    spec: TokenSpec,
    tables: Sequence[Tensor],
    setting: Perturbation,
    draws: Draws,
    *,
    lengths: Tensor | None = None,
) -> Perturbed:
    """Perturb the codes of any tokenizer, every factor, scale and level on its own.

    Decoding the result accumulates scales and levels from the perturbed codes; nothing is encoded
    again in between.

    Args:
        codes: int64 (B, *axes of the spec).
        spec: of the tokenizer.
        tables: for each factor the neighbours: (K, delta) of the codes, or (B, L, delta) of the
            latents for the ``latent`` neighbourhood. delta may be larger than the setting's.
        setting: alpha, beta, delta.
        draws: from `sample_draws`.
        lengths: int64 (B,) valid positions of each item; codes behind them stay.

    Returns:
        codes and change mask, (B, *axes).

    Raises:
        TokenError: codes that do not fit the spec, or too few tables or draws.

    Source: arXiv 2503.08354; the rule for several factors is ours, the authors name none.

    Example:
        >>> tables = neighbour_tables(tokenizer.codebooks, 200)
        >>> draws = sample_draws(0, range(8), 256, 1)
        >>> perturb(codes, tokenizer.spec, tables, Perturbation(alpha=0.5, delta=200), draws)
    """
    sequence = spec.to_sequence(codes)
    batch, length, factors = sequence.shape
    drawn = tuple(draws.chance.shape)
    if len(tables) < factors or drawn[:2] != (batch, length) or drawn[2] < factors:
        raise TokenError(
            f"codes of {batch} items, {length} positions and {factors} factors met draws of shape "
            f"{drawn} and {len(tables)} neighbour tables; make both for these codes."
        )
    device = codes.device
    items = (draws.item < setting.beta).to(device)
    chance, place = draws.chance.to(device), draws.place.to(device)
    candidates = _neighbours(sequence, tables, place, setting.delta)
    if lengths is not None:
        behind = torch.arange(length, device=device) >= lengths.to(device)[:, None]
        candidates = torch.where(behind[..., None], sequence, candidates)
    chosen = chance[..., :factors]
    new, _ = replace_codes(sequence, candidates, chosen, alpha=setting.alpha, items=items)
    out = spec.from_sequence(new, tuple(codes.shape[1:])).contiguous()
    return Perturbed(out, out != codes)


def _neighbours(sequence: Tensor, tables: Sequence[Tensor], place: Tensor, delta: int) -> Tensor:
    """Return the neighbour drawn for every code of (B, L, F), factor by factor."""
    drawn = torch.empty_like(sequence)
    for factor in range(sequence.shape[-1]):
        table, own = tables[factor].to(sequence.device), sequence[..., factor]
        rank = (place[..., factor] * min(delta, table.shape[-1])).long()
        if table.ndim == 2:
            drawn[..., factor] = around_code(own, rank, table)
        else:
            drawn[..., factor] = table.gather(-1, rank[..., None]).squeeze(-1)
    return drawn


# -- the schedule of training ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PerturbationAnnealing:
    """alpha and delta over the epochs of training; beta stays.

    Args:
        start, end: epochs between which both shrink.
        end_ratio: what remains of them after ``end``.
        continuous: go straight to ``end_ratio``; the official formula (False) arrives at
            1 - end_ratio and jumps from there, which differs unless end_ratio is 0.5.

    Source: released training code of arXiv 2503.08354 (start 40, end 120, end_ratio 0.5).

    Example:
        >>> schedule = PerturbationAnnealing(start=40, end=120)
        >>> schedule.at(120, Perturbation(alpha=1.0, delta=100, beta=0.1)).delta
        50
    """

    start: int
    end: int
    end_ratio: float = 0.5
    continuous: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end or not 0.0 <= self.end_ratio <= 1.0:
            raise ConfigError(
                f"annealing from epoch {self.start} to {self.end} down to {self.end_ratio} came "
                "in; legal are 0 <= start <= end and a ratio in 0 to 1."
            )

    def ratio(self, epoch: int) -> float:
        """Return the factor of alpha and delta in an epoch, counted from 0."""
        if epoch > self.end:
            return self.end_ratio
        if epoch < self.start or self.start == self.end:
            return 1.0
        fall = 1.0 - self.end_ratio if self.continuous else self.end_ratio
        return 1.0 - (epoch - self.start) / (self.end - self.start) * fall

    def at(self, epoch: int, full: Perturbation) -> Perturbation:
        """Return the setting of an epoch; delta is truncated, and never below 1."""
        ratio = self.ratio(epoch)
        # A neighbourhood of none, where the released code crashes, is the code itself.
        return replace(full, alpha=ratio * full.alpha, delta=max(1, int(ratio * full.delta)))
