"""How a tokenizer uses its codes: usage, entropy, perplexity, per position and per codebook.

    codes (B, *axes) --to_sequence--> (B, L, F) --count--> one table (N, K) per factor

Letters: B items, L positions of the sequence view, F factors (branches, codebook levels or
dimensions), N positions counted one by one, K codes of a factor.

All figures only grow or settle with the data, so they mean nothing without the number of items.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from eval.metric_entry import MetricEntry
from tok_core.codebook_usage import add_counts, entropy
from tok_core.contract import Tokens
from tok_core.errors import ConfigError, TokenError
from tok_core.token_spec import FACTOR_AXES, POSITION_AXES, TokenSpec

# Tables of 8-byte counts; a process that gathers two of them stays below a gigabyte.
TABLE_BYTES = 2**28


class CodeUsage(Metric):
    """Usage of every codebook of a tokenizer over a data set.

    Counts fill one table per factor, whatever the number of items. Positions are counted one by
    one where their number N is known and all tables together fit ``table_bytes`` (16384 codes at
    256 positions take 32 MiB, 2^18 codes at 256 positions do not fit); else each codebook as a
    whole only, and ``by_position`` is false.

    Args:
        spec: of the tokenizer.
        positions: N; None takes it from the spec, where the input does not decide it.
        epsilon: added to every share inside the logarithm: 1e-8 as in 1d-tokenizer's evaluator,
            1e-10 as in EMA-VQ training code; 0 is exact.
        table_bytes: most memory for all tables.
        options: of `torchmetrics.Metric`.

    Returns (compute):
        dict of float64. Scalars, means over the factors where there are several:
        ``codes/usage`` (share of the codes that occurred, 0 to 1), ``codes/entropy`` (bits per
        code), ``codes/perplexity``, ``codes/min_frequency`` and ``codes/max_frequency``
        (occurrences of the rarest and the commonest code, over all factors), ``codes/bits`` (bits
        per item at log2 K each), ``codes/bits_bound`` (bits per item that an entropy coder needs
        which knows each position's shares and nothing else; without positions, each codebook's),
        ``codes/items``, ``codes/tokens`` (codes counted).
        Curves: ``codes/counts`` (K,), ``codes/position_entropy`` and ``codes/position_usage`` (N,).
        With several factors the first three and all curves also per factor, such as
        ``codes/usage/level0``; counts then exist per factor alone. A factor or position at which
        nothing was counted gives NaN. A curve of one value comes out as a scalar (torchmetrics).

    Raises:
        ConfigError: codebooks beyond ``table_bytes``. TokenError (update): codes that do not fit
            the spec, or more positions than N.

    Source: perplexity as in van den Oord et al. 2017, arXiv 1711.00937; per position as in
        One-D-Piece, arXiv 2501.10064.

    Example:
        >>> metric = CodeUsage(tokenizer.spec)
        >>> metric.update(tokenizer.encode(images))
        >>> metric.compute()["codes/perplexity"]
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    items: Tensor

    def __init__(
        self,
        spec: TokenSpec,
        *,
        positions: int | None = None,
        epsilon: float = 0.0,
        table_bytes: int = TABLE_BYTES,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.spec, self.epsilon = spec, epsilon
        least = 8 * sum(spec.vocabulary)
        if least > table_bytes:
            raise ConfigError(
                f"codebooks of {sum(spec.vocabulary)} codes need {least} bytes to count and "
                f"{table_bytes} are allowed; give a larger table_bytes."
            )
        known = fixed_positions(spec) if positions is None else positions
        self.by_position = known > 0 and known * least <= table_bytes
        self.positions = known
        self.names = tuple(f"table{i}" for i in range(spec.factors))
        for name, size in zip(self.names, spec.vocabulary, strict=True):
            table = torch.zeros(known if self.by_position else 1, size, dtype=torch.int64)
            self.add_state(name, table, dist_reduce_fx="sum", persistent=True)
        count = torch.zeros((), dtype=torch.int64)
        self.add_state("items", count, dist_reduce_fx="sum", persistent=True)

    def update(self, tokens: Tokens | Tensor) -> None:
        """Count codes (B, *axes), or Tokens, whose positions beyond their lengths do not count."""
        codes, lengths, _ = tokens if isinstance(tokens, Tokens) else Tokens(tokens)
        self.spec.check(codes)
        sequence = self.spec.to_sequence(codes).to(self.items.device)
        length = sequence.shape[1]
        if self.positions and length > self.positions:
            raise TokenError(
                f"codes of {length} positions came to a count of {self.positions}; give the "
                "largest number as positions."
            )
        valid = torch.ones(sequence.shape[:2], dtype=torch.bool, device=sequence.device)
        if lengths is not None:
            place = torch.arange(length, device=sequence.device)
            valid = place < lengths.to(sequence.device)[:, None]
        factors = used_factors(self.spec, codes)
        for factor, one in zip(factors, sequence.unbind(-1), strict=True):
            table = getattr(self, self.names[factor])
            if self.by_position:
                add_counts(table, one, valid)
            else:
                add_counts(table, one[valid][:, None])
        self.items += len(codes)

    def compute(self) -> dict[str, Tensor]:
        """Return all figures; see the class."""
        seen = [self._factor(getattr(self, name)) for name in self.names]
        result = {
            f"codes/{key}": torch.nanmean(torch.stack([one[key] for one in seen]))
            for key in ("usage", "entropy", "perplexity")
        }
        total = torch.stack([one["tokens"] for one in seen])
        used = [one["counts"] for one, n in zip(seen, total, strict=True) if n > 0]
        frequency = torch.cat(used or [total * float("nan")])
        result["codes/min_frequency"] = frequency.min()
        result["codes/max_frequency"] = frequency.max()
        items = self.items.double()
        bits = total.new_tensor([math.log2(size) for size in self.spec.vocabulary])
        result["codes/bits"] = (total * bits).sum() / items
        result["codes/bits_bound"] = torch.stack([one["bound"] for one in seen]).sum() / items
        result["codes/items"], result["codes/tokens"] = items, total.sum()
        names = [""] if len(seen) == 1 else [f"/{name}" for name in factor_names(self.spec)]
        keys = ["counts"] + ["position_entropy", "position_usage"] * self.by_position
        if len(seen) > 1:
            keys += ["usage", "entropy", "perplexity"]
            for key in keys[1:3] if self.by_position else ():
                curves = torch.stack([one[key] for one in seen])
                result[f"codes/{key}"] = torch.nanmean(curves, dim=0)
        for name, one in zip(names, seen, strict=True):
            result |= {f"codes/{key}{name}": one[key] for key in keys}
        return result

    def _factor(self, table: Tensor) -> dict[str, Tensor]:
        """Return the figures of one codebook from its counts (N, K)."""
        counts = table.sum(0)
        total = counts.sum().double()
        nats = entropy(counts, epsilon=self.epsilon)
        nothing = torch.where(total > 0, 0.0, float("nan")).to(nats)
        by_row = _blockwise_entropy(table, self.epsilon) / math.log(2)
        tokens = table.sum(1).double()
        empty = torch.where(tokens > 0, 0.0, float("nan")).to(by_row)
        return {
            "counts": counts.double(),
            "tokens": total,
            "usage": (counts > 0).double().mean() + nothing,
            "entropy": nats / math.log(2) + nothing,
            "perplexity": nats.exp() + nothing,
            # A position that only some items reach costs its entropy only there.
            "bound": (tokens * by_row).sum(),
            "position_entropy": by_row + empty,
            "position_usage": (table > 0).sum(1) / table.shape[1] + empty,
        }


def fixed_positions(spec: TokenSpec) -> int:
    """Return L of the longest codes, or 0 where the input decides it (sound, free grids)."""
    sizes = [axis.size for axis in spec.axes if axis.name in POSITION_AXES]
    return math.prod(size or 0 for size in sizes)


def used_factors(spec: TokenSpec, codes: Tensor) -> list[int]:
    """Return which factor each one of these codes' sequence view is; not all with a prefix."""
    places = [0]
    for axis, size in zip(spec.axes, spec.sizes_of(codes), strict=True):
        if axis.name in FACTOR_AXES:
            full = axis.size or 1
            places = [place * full + i for place in places for i in range(size)]
    return places


def factor_names(spec: TokenSpec) -> list[str]:
    """Return a name per factor: ``level0`` and on, or ``branch0.dimension1`` for two axes."""
    names = [""]
    for axis in spec.axes:
        if axis.name in FACTOR_AXES:
            parts = [f"{axis.name}{i}" for i in range(axis.size or 1)]
            names = [f"{head}.{part}" if head else part for head in names for part in parts]
    return names


def _blockwise_entropy(table: Tensor, epsilon: float) -> Tensor:
    """Return nats (N,) of a table (N, K), some rows at a time: the shares are 8 bytes each."""
    rows = max(1, 2**21 // table.shape[1])
    return torch.cat([entropy(block, epsilon=epsilon) for block in table.split(rows)])


_VALUES = (
    "codes/usage", "codes/entropy", "codes/perplexity", "codes/min_frequency",
    "codes/max_frequency", "codes/bits", "codes/bits_bound", "codes/items", "codes/tokens",
)  # fmt: skip


def _entry(name: str, title: str, epsilon: float, source: str) -> MetricEntry:
    return MetricEntry(
        name=name, title=title, sense="tokens", kind="single", higher_is_better=None,
        build=CodeUsage, options={"epsilon": epsilon}, values=_VALUES, source=source,
    )  # fmt: skip


ENTRIES: tuple[MetricEntry, ...] = (
    _entry("codes", "code usage", 0.0, "Shannon 1948; exact"),
    _entry("codes/1d-tokenizer", "code usage (1d-tokenizer)", 1e-8,
           "bytedance/1d-tokenizer evaluator: 1e-8 inside the logarithm"),
    _entry("codes/ema-vq", "code usage (EMA-VQ)", 1e-10,
           "training code of EMA-VQ: 1e-10 inside the logarithm"),
)  # fmt: skip
