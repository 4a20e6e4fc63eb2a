"""WER and CER of sounds: a speech recogniser that the user names writes the transcripts.

    decoded sound ──recogniser──▶ words ┐
    original ──transcript file, or recogniser──▶ words ┴▶ errors / words of the original

Letters: B sounds, T samples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.metric_entry import MetricEntry
from eval.sound_metric import SPEECH_RATE
from eval.transcription import load_recogniser
from eval.word_errors import WordErrors, read_transcripts
from tok_core.errors import ConfigError

# Sounds (B, T) at 16 kHz to one text for each.
Listen = Callable[[Tensor], Sequence[str]]


class HeardWordErrors(WordErrors):
    """Word or character error rate of decoded speech.

    Args:
        recogniser: its name, see `eval.transcription`; or a function.
        transcripts: JSONL file with what was said, by item name (without ending, or whole); None
            lets the recogniser write it from the originals.
        names: of all items of the run, by index; needed with transcripts.
        options: of `WordErrors`.

    Raises:
        ConfigError: no recogniser, or items without a transcript.
    """

    sample_rate = SPEECH_RATE

    def __init__(
        self, recogniser: str | Listen | None = None, *,
        transcripts: str | Path | None = None, names: Sequence[str] = (), **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(**options)
        if recogniser is None:
            raise ConfigError(
                "word errors were asked for without a speech recogniser; name one with "
                "--recogniser: transformers:NAME, a folder, or MODULE:FUNCTION that maps sounds "
                "(B, T) at 16 kHz to texts."
            )
        self.listen: Listen = (
            load_recogniser(recogniser).write if isinstance(recogniser, str) else recogniser
        )
        self.said: list[str] | None = None
        if transcripts is not None:
            known = read_transcripts(transcripts)
            stems = {os.path.splitext(name)[0]: text for name, text in known.items()}
            missing = [one for one in names if os.path.splitext(one)[0] not in stems]
            if missing:
                raise ConfigError(
                    f"{transcripts} lacks {len(missing)} of the {len(names)} items "
                    f"({', '.join(missing[:3])}); add a line for each."
                )
            self.said = [stems[os.path.splitext(name)[0]] for name in names]

    def update(  # type: ignore[override]
        self, test: Tensor, reference: Tensor, indices: Sequence[int] | Tensor | None = None
    ) -> None:
        """Take sounds at 16 kHz, (B, 1, T), (B, T) or (T,): decoded first, then original."""
        heard = self._texts(test)
        if self.said is None or indices is None:
            said = self._texts(reference)
        else:
            said = [self.said[int(index)] for index in indices]
        super().update(heard, said, indices=indices)

    def _texts(self, sounds: Tensor) -> list[str]:
        with torch.no_grad():
            found = list(self.listen(sounds.reshape(-1, sounds.shape[-1]).float()))
        if not all(isinstance(text, str) for text in found):
            raise ConfigError(
                "the speech recogniser returned something that is no text; it must return one "
                "string for each sound."
            )
        return found


def heard(
    entry: MetricEntry, recogniser: str | None, transcripts: str | None
) -> MetricEntry:
    """Return an entry of `WordErrors` as a measure of sounds by a named recogniser."""
    options = {**entry.options, "reference": "transcripts" if transcripts else "recogniser"}
    build = partial(_build, recogniser, transcripts)
    label = "" if recogniser is None else f"; heard by {recogniser}"
    return replace(
        entry, sense="audio", build=build, options={**options, "recogniser": recogniser},
        source=entry.source + label,
    )  # fmt: skip


def _build(
    name: str | None, transcripts: str | None, *, reference: str = "",
    recogniser: str | None = None, names: Sequence[str] = (), **options: Any,
) -> HeardWordErrors:  # fmt: skip
    # ``reference`` and ``recogniser`` are in the options for the record.
    del reference, recogniser
    return HeardWordErrors(name, transcripts=transcripts, names=names, **options)
