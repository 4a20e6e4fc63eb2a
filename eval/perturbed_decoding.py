"""Perturbed decoding: one encoding of a batch, then one decoding per setting of a grid.

    x ──encode──▶ tokens ──┬─ clean ──────────────────▶ decode
                           └─ perturb(alpha, delta) ──▶ decode      for every setting

What pFID does with pictures and the perturbed scores do with sound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tok_core.contract import Tokenizer, Tokens
from tok_core.errors import ConfigError, nearest
from tok_core.latent_neighbours import latent_neighbours
from tok_core.latent_perturbation import Perturbation, perturb, sample_draws
from tok_core.neighbour_table import neighbour_tables

CLEAN = "clean"


@dataclass(frozen=True, kw_only=True)
class PerturbationGrid:
    """Settings over which a perturbed score is averaged, and where they come from.

    Args:
        name: as scores carry it. settings: at least one, no two alike, one neighbourhood.
        seed: of the draws. provenance: who set these numbers and how sure that is.
    """

    name: str
    settings: tuple[Perturbation, ...]
    seed: int = 0
    provenance: str = "set by the user"

    def __post_init__(self) -> None:
        if not self.settings or len(set(self.settings)) < len(self.settings):
            raise ConfigError(
                f"grid '{self.name}' holds {len(self.settings)} settings; give at least one, and "
                "each once."
            )
        if len({one.neighbourhood for one in self.settings}) > 1:
            raise ConfigError(f"grid '{self.name}' mixes neighbourhoods; give all the same one.")

    @classmethod
    def product(
        cls, name: str, alphas: Iterable[float], deltas: Iterable[int], *, beta: float = 1.0,
        neighbourhood: str = "code", **options: Any,
    ) -> PerturbationGrid:  # fmt: skip
        """Build the grid of every alpha with every delta.

        Example:
            >>> len(PerturbationGrid.product("mine", (0.5, 0.9), (10, 20)).settings)
            4
        """
        deltas = tuple(deltas)
        settings = tuple(
            Perturbation(alpha=alpha, delta=delta, beta=beta, neighbourhood=neighbourhood)
            for alpha in alphas
            for delta in deltas
        )
        return cls(name=name, settings=settings, **options)

    @property
    def neighbourhood(self) -> str:
        """The neighbourhood of every setting."""
        return self.settings[0].neighbourhood

    @property
    def delta(self) -> int:
        """The largest delta: what a table must hold."""
        return max(one.delta for one in self.settings)

    def describe(self) -> dict[str, Any]:
        """Return what a score must carry, as plain JSON values."""
        return {
            "grid": self.name,
            "provenance": self.provenance,
            "neighbourhood": self.neighbourhood,
            "seed": self.seed,
            "settings": [
                {"alpha": one.alpha, "beta": one.beta, "delta": one.delta} for one in self.settings
            ],
        }


# Recalled from summaries of arXiv 2503.08354; neither the paper's table nor code could be checked.
ROBUSTTOK = PerturbationGrid.product(
    "robusttok-reconstructed",
    (0.5, 0.6, 0.7, 0.8, 0.9),
    (200, 280, 360),
    provenance="reconstructed from secondary sources of arXiv 2503.08354; the authors have not "
    "published their grid, so equal numbers are not to be expected",
)
# Ours. Codebooks of codecs hold few codes, and one wrong code in four is already audible.
CODEC = PerturbationGrid.product(
    "codec-v1", (0.1, 0.25, 0.5), (2, 8, 32), provenance="set by this project"
)
GRIDS: Mapping[str, PerturbationGrid] = {grid.name: grid for grid in (ROBUSTTOK, CODEC)}


def grid_named(name: str) -> PerturbationGrid:
    """Return a preset of `GRIDS`; ConfigError with the nearest name for an unknown one."""
    if name not in GRIDS:
        legal = ", ".join(sorted(GRIDS)) + nearest(name, GRIDS)
        raise ConfigError(f"perturbation grid '{name}' is unknown; legal are {legal}")
    return GRIDS[name]


def setting_label(setting: Perturbation) -> str:
    """Return a setting's name in tables and JSON: ``alpha=0.5,delta=200`` (beta unless 1)."""
    share = "" if setting.beta == 1.0 else f",beta={setting.beta:g}"
    return f"alpha={setting.alpha:g},delta={setting.delta}{share}"


class PerturbedBatch(NamedTuple):
    """One decoding of a batch.

    Attributes:
        label: ``clean`` or `setting_label`.
        decoded: (B, 3, H, W) or (B, 1, T) in [-1, 1].
        changed: (B,) share of codes that differ from the clean ones.
    """

    label: str
    decoded: Tensor
    changed: Tensor


@dataclass(kw_only=True, eq=False)
class PerturbedDecoder:
    """Decodes a batch cleanly and under every setting of a grid, encoding it once.

    Args:
        tokenizer: any that meets the contract, in eval mode.
        grid: settings. num_tokens: budget of the encoding, None for all.
        decode_batch: items decoded at a time, None for all of a batch.
    """

    tokenizer: Tokenizer
    grid: PerturbationGrid
    num_tokens: int | None = None
    decode_batch: int | None = None
    tables: tuple[Tensor, ...] = field(default=(), init=False)
    searched: tuple[Tensor, ...] | None = field(default=None, init=False)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the perturbed settings, in order."""
        return tuple(setting_label(one) for one in self.grid.settings)

    @torch.no_grad()
    def decodings(
        self, x: Tensor, indices: Sequence[int], lengths: Tensor | None = None
    ) -> Iterator[PerturbedBatch]:
        """Yield the clean decoding, then one for each setting.

        Args:
            x: images or sound, float in [-1, 1]. lengths: valid samples of padded sounds.
            indices: place of each item in the whole data set, which its draws depend on.

        Raises:
            ConfigError: not one index for each item.
        """
        if len(indices) != len(x):
            raise ConfigError(f"{len(x)} items came with {len(indices)} indices; give one each.")
        tokens = self.tokenizer.encode(x, lengths=lengths, num_tokens=self.num_tokens)
        yield PerturbedBatch(CLEAN, self._decode(tokens), torch.zeros(len(x)))
        spec = self.tokenizer.spec
        positions = spec.to_sequence(tokens.codes).shape[1]
        draws = sample_draws(self.grid.seed, list(indices), positions, spec.factors)
        tables = self._neighbours(x, tokens)
        for setting, label in zip(self.grid.settings, self.labels, strict=True):
            found = perturb(tokens.codes, spec, tables, setting, draws, lengths=tokens.lengths)
            changed = _share(spec.to_sequence(found.changed), tokens.lengths)
            yield PerturbedBatch(label, self._decode(tokens._replace(codes=found.codes)), changed)

    def _neighbours(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, ...]:
        if self.grid.neighbourhood == "latent":
            return latent_neighbours(self.tokenizer, x, tokens, self.grid.delta)
        books = self.tokenizer.codebooks
        # In a training loop the codebooks move under a metric that lives on.
        if self.searched is None or not all(
            torch.equal(old, book.vectors.cpu())
            for old, book in zip(self.searched, books, strict=True)
        ):
            self.tables = neighbour_tables(books, self.grid.delta)
            self.searched = tuple(book.vectors.detach().cpu().clone() for book in books)
        return self.tables

    def _decode(self, tokens: Tokens) -> Tensor:
        size = self.decode_batch or len(tokens.codes)
        parts = []
        for at in range(0, len(tokens.codes), size):
            codes, lengths, extent = (
                None if part is None else part[at : at + size] for part in tokens
            )
            assert codes is not None
            parts.append(self.tokenizer.decode(Tokens(codes, lengths, extent)))
        return torch.cat(parts)


def _share(changed: Tensor, lengths: Tensor | None) -> Tensor:
    """Return (B,) the share of changed codes (B, L, F) among the valid ones."""
    total = torch.full((len(changed),), float(changed.shape[1]))
    if lengths is not None:
        total = lengths.cpu().clamp(min=1).float()
    return changed.sum((1, 2)).cpu().float() / (total * changed.shape[2])
