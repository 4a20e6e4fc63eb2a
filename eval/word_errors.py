"""WER and CER: how many words or characters of a transcript are wrong.

    (substitutions + deletions + insertions) / words of the reference

Transcripts are texts: a speech recogniser that the user runs writes them, one JSON object a line,
``{"item": "name", "text": "what was said"}``.  How texts are made alike first (the normaliser) is
part of the metric's options.

Letters: n words or characters of the hypothesis, m of the reference.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from eval.item_metric import ItemMetric
from eval.metric_entry import MetricEntry
from tok_core.errors import ConfigError, nearest


def _plain(text: str) -> str:
    """Lower case, without punctuation and symbols; apostrophes stay, they are part of words."""
    kept = (
        "'" if c in "'\u2019" else " " if unicodedata.category(c)[0] in "PS" else c
        for c in text.lower()
    )
    return " ".join("".join(kept).split())


NORMALISERS: Mapping[str, Callable[[str], str]] = {
    "none": str,
    "lower-no-punctuation": _plain,
}
UNITS: Mapping[str, Callable[[str], Sequence[str]]] = {"word": str.split, "character": list}
AVERAGES = ("pooled", "per-file")


def edit_distance(hypothesis: Sequence[str], reference: Sequence[str]) -> int:
    """Return the fewest substitutions, deletions and insertions between two sequences.

    Source: Levenshtein 1966, by rows of the usual table.

    Example:
        >>> edit_distance("a c d".split(), "a b c d".split())
        1
    """
    names: dict[str, int] = {}
    a, b = (
        np.array([names.setdefault(unit, len(names)) for unit in units], dtype=np.int64)
        for units in (hypothesis, reference)
    )
    steps = np.arange(len(b) + 1)
    row = steps.copy()
    for place, unit in enumerate(a, start=1):
        best = row + 1
        best[1:] = np.minimum(best[1:], row[:-1] + (b != unit))
        best[0] = place
        # Reaching a place from any one before it costs a step each: a running minimum.
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])


class WordErrors(ItemMetric):
    """Word or character error rate over a set of transcripts; 0 is perfect, above 1 is possible.

    Args:
        unit: ``word``, or ``character`` (spaces count as characters).
        average: ``pooled`` (all errors over all reference words, the usual rate) or ``per-file``
            (mean of the files' own rates, in which short files weigh more).
        normaliser: ``none``, or ``lower-no-punctuation`` (lower case; punctuation and symbols
            become spaces, apostrophes stay). Name it with every score.
        options: of `torchmetrics.Metric`.

    Raises:
        ConfigError: an unknown word among the options, or texts of different number.

    Example:
        >>> metric = WordErrors(normaliser="lower-no-punctuation")
        >>> metric.update(["The quick fox."], ["the quick brown fox"])
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = False
    REASONS: ClassVar[tuple[str, ...]] = ("", "the reference holds no words")
    errors: Tensor
    units: Tensor

    def __init__(
        self,
        unit: str = "word",
        *,
        average: str = "pooled",
        normaliser: str = "none",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        _legal("unit", unit, UNITS)
        _legal("average", average, AVERAGES)
        _legal("normaliser", normaliser, NORMALISERS)
        self.unit, self.average, self.normaliser = unit, average, normaliser
        for name in ("errors", "units"):
            count = torch.zeros((), dtype=torch.int64)
            self.add_state(name, count, dist_reduce_fx="sum", persistent=True)

    def update(  # type: ignore[override]
        self,
        hypotheses: str | Sequence[str],
        references: str | Sequence[str],
        indices: Sequence[int] | Tensor | None = None,
    ) -> None:
        """Take what was heard, then what was said, text by text; ``indices`` as for pictures."""
        heard, said = (
            [one] if isinstance(one, str) else list(one) for one in (hypotheses, references)
        )
        if len(heard) != len(said):
            raise ConfigError(
                f"{len(heard)} hypotheses came with {len(said)} references; give one for each."
            )
        normal, split = NORMALISERS[self.normaliser], UNITS[self.unit]
        parts = [(split(normal(a)), split(normal(b))) for a, b in zip(heard, said, strict=True)]
        errors = torch.tensor([edit_distance(a, b) for a, b in parts], dtype=torch.int64)
        units = torch.tensor([len(b) for _, b in parts], dtype=torch.int64)
        self.errors += errors.sum().to(self.errors.device)
        self.units += units.sum().to(self.units.device)
        super().update(errors, units, indices=indices)

    def measure(self, *signals: Tensor) -> tuple[Tensor, Tensor]:
        """Return rates (B,) and failure codes of errors (B,) and reference lengths (B,)."""
        errors, units = signals
        rate = errors.double() / units.double()
        codes = (units == 0).long()
        return torch.where(units > 0, rate, torch.full_like(rate, float("nan"))), codes

    def compute(self) -> Tensor:
        """Return the rate, float64; NaN where no reference held anything."""
        if self.average == "per-file":
            return super().compute()
        return self.errors.double() / torch.where(self.units > 0, self.units, torch.nan)


def read_transcripts(path: str | Path) -> dict[str, str]:
    """Return text by item from a file of lines ``{"item": "...", "text": "..."}``.

    Raises:
        ConfigError: unreadable, a line that is none, or an item twice.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"transcripts {path} cannot be read ({reason}); give a JSONL file in UTF-8."
        ) from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            item, text = row["item"], row["text"]
        except (ValueError, KeyError, TypeError):
            item = text = None
        if not isinstance(item, str) or not isinstance(text, str):
            raise ConfigError(
                f"{path}, line {number}, is no transcript; write "
                '{"item": "name", "text": "what was said"} on each line.'
            )
        if item in found:
            raise ConfigError(f"{path}, line {number}, tells item '{item}' again; keep one.")
        found[item] = text
    return found


def _legal(name: str, value: str, legal: Sequence[str] | Mapping[str, Any]) -> None:
    if value not in legal:
        words = ", ".join(legal) + nearest(value, legal)
        raise ConfigError(f"{name} '{value}' is unknown; legal are {words}")


def _entry(name: str, title: str, unit: str, average: str) -> MetricEntry:
    options = {"unit": unit, "average": average, "normaliser": "lower-no-punctuation"}
    return MetricEntry(
        name=name, title=title, sense="tokens", kind="paired", higher_is_better=False,
        build=WordErrors, options=options, source="Levenshtein 1966; update takes texts",
    )  # fmt: skip


ENTRIES: tuple[MetricEntry, ...] = (
    _entry("wer", "WER", "word", "pooled"),
    _entry("wer/per-file", "WER (mean of files)", "word", "per-file"),
    _entry("cer", "CER", "character", "pooled"),
    _entry("cer/per-file", "CER (mean of files)", "character", "per-file"),
)
