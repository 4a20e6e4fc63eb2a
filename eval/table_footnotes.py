"""What stands below a table: why a value is missing, who failed, what to know, how it was measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from eval.protocol import Protocol
from eval.score import Score
from eval.shown_number import one_line

_SKIPPED = ("name", "sense", "source")
_OF_SOUNDS = ("sample_rate", "resample", "channels", "trim", "sample_format")


class Footnotes:
    """Numbers sentences in order of first use; the same sentence keeps its number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, sentence: str) -> int:
        """Return the number of a sentence, from 1."""
        return self._numbers.setdefault(sentence, len(self._numbers) + 1)

    @property
    def sentences(self) -> tuple[str, ...]:
        """All sentences by their numbers."""
        return tuple(self._numbers)


def notes_on(score: Score) -> tuple[str, ...]:
    """Return what a reader of one value must know, one sentence each."""
    found = []
    if score.value is None:
        found.append(score.unavailable or f"{score.title or score.metric} has no value")
    elif math.isnan(score.value):
        found.append(f"{score.title or score.metric} is undefined here (not a number)")
    for failure in score.failures:
        names = f" ({', '.join(failure.items)})" if failure.items else ""
        total = score.n + score.failed
        found.append(f"{failure.count} of {total} failed: {failure.reason}{names}")
    return tuple(one_line(sentence) for sentence in (*found, *score.warnings))


def protocol_line(protocol: Protocol) -> str:
    """Say in one line how was measured.

    Example:
        >>> protocol_line(protocol_named("vocos-speech"))
        'vocos-speech: split test-clean, sample_rate 24000, resample torchaudio-sinc, ...'
    """
    kept = []
    for field in dataclasses.fields(Protocol):
        value = getattr(protocol, field.name)
        of_sounds = field.name in _OF_SOUNDS
        general = field.name in ("split", "samples")
        if field.name in _SKIPPED or value is None:
            continue
        if general or of_sounds == (protocol.sense == "audio"):
            text = value[:12] if field.name.endswith("sha256") else value
            kept.append(f"{field.name} {text}")
    return one_line(f"{protocol.name}: {', '.join(kept)}")


def protocol_lines(scores: Mapping[str, Sequence[Score]]) -> tuple[str, ...]:
    """Say how the columns of a table were measured, one line per way.

    Args:
        scores: of the table, by the title of their column.
    """
    columns: dict[str, list[str]] = {}
    for title, found in scores.items():
        for score in found:
            items = f"; items {score.items[:12]}" if score.items else ""
            line = f"{protocol_line(score.protocol)}{one_line(items)}; seed {score.seed}"
            titles = columns.setdefault(line, [])
            if title not in titles:
                titles.append(title)
    if len(columns) == 1:
        return tuple(f"Protocol {line}" for line in columns)
    return tuple(f"Protocol of {', '.join(titles)}: {line}" for line, titles in columns.items())
