"""Measures of a decoded sound against its original: PESQ, STOI, SI-SDR, SDR, SNR.

None of them knows more than the two waveforms. PESQ and STOI come from their packages; a sound
they cannot judge is a counted failure, never a number in the mean.

Letters: T samples.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from eval.metric_entry import MetricEntry
from eval.sound_metric import SPEECH_RATE, SoundMetric
from tok_core.audio_measures import (
    PESQ_RATES,
    SILENT_COPY,
    SILENT_ORIGINAL,
    Figure,
    failed,
    measure_pesq,
    measure_stoi,
    required_package,
    si_sdr,
)
from tok_core.errors import ConfigError


class PESQ(SoundMetric):
    """Perceptual speech quality.

    It aligns the sounds in time itself. Both are divided by their joint peak.

    Args:
        mode: ``wb`` (P.862.2, 1.0 to 4.64) or ``nb`` (P.862.1, 1.0 to 4.55).
        sample_rate: 16000; for ``nb`` 8000 too.

    Raises:
        ConfigError: another mode or rate, or the package pesq is not installed.

    Source: ITU-T P.862, through the package pesq.

    Example:
        >>> metric = PESQ(mode="nb", sample_rate=8000)
    """

    higher_is_better = True

    def __init__(
        self, mode: str = "wb", sample_rate: int | None = SPEECH_RATE, **options: Any
    ) -> None:
        if sample_rate not in PESQ_RATES.get(mode, ()):
            raise ConfigError(
                f"PESQ was asked for mode '{mode}' at {sample_rate} Hz; legal are wb at 16000 Hz "
                "and nb at 8000 or 16000 Hz: resample the sounds first."
            )
        required_package("pesq", "PESQ", "pesq")
        super().__init__(sample_rate, **options)
        self.mode = mode

    def figure(self, *sounds: Tensor) -> Figure:
        """Return PESQ of (test, reference), each (T,)."""
        test, reference = sounds
        return measure_pesq(reference, test, self.sample_rate, self.mode)


class STOI(SoundMetric):
    """Short-time objective intelligibility, about 0 to 1; it does not stand any delay.

    Args:
        sample_rate: of the sounds in Hz; pystoi brings them to 10 kHz itself.
        extended: ESTOI.

    Raises:
        ConfigError: the package pystoi is not installed.

    Source: Taal et al. 2011; Jensen and Taal 2016 (extended); through pystoi.

    Example:
        >>> metric = STOI(24000, extended=True)
    """

    higher_is_better = True

    def __init__(
        self, sample_rate: int | None = None, extended: bool = False, **options: Any
    ) -> None:
        required_package("pystoi", "STOI", "eval")
        super().__init__(sample_rate, **options)
        self.extended = extended

    def figure(self, *sounds: Tensor) -> Figure:
        """Return STOI of (test, reference), each (T,)."""
        test, reference = sounds
        return measure_stoi(reference, test, self.sample_rate, extended=self.extended)


class _Ratio(SoundMetric):
    """A ratio of signal to error in dB, in float64; a perfect copy has infinitely many."""

    higher_is_better = True
    needs_copy: ClassVar[bool] = True

    def figure(self, *sounds: Tensor) -> Figure:
        """Return the ratio of (test, reference), each (T,)."""
        test, reference = (sound.double() for sound in sounds)
        if not bool(reference.any()):
            return failed(SILENT_ORIGINAL)
        if self.needs_copy and not bool(test.any()):
            return failed(SILENT_COPY)
        return Figure(self.ratio(test, reference))

    def ratio(self, test: Tensor, reference: Tensor) -> float:
        """Return dB of two float64 sounds (T,) that are not silent."""
        raise TypeError(f"{type(self).__name__} does not define ratio")


class SISDR(_Ratio):
    """Scale-invariant signal-to-distortion ratio in dB.

    It is without meaning for codecs that delay sound or change its phase.

    Args:
        sample_rate: of the sounds in Hz.
        convention: ``zero-mean`` removes both means first, and a perfect copy has infinitely many
            dB (SI-SNR of DATES is this one); ``torchmetrics`` does not, and adds 2e-16 to both
            powers, so that a perfect copy has about 150 dB and a silent one 0.

    Source: Le Roux et al. 2019, arXiv 1811.02508, eq. 3.

    Example:
        >>> metric = SISDR(16000, convention="torchmetrics")
    """

    CONVENTIONS = ("zero-mean", "torchmetrics")

    def __init__(
        self, sample_rate: int | None = None, convention: str = "zero-mean", **options: Any
    ) -> None:
        super().__init__(sample_rate, **options)
        if convention not in self.CONVENTIONS:
            raise ConfigError(
                f"SI-SDR convention '{convention}' is unknown; legal are "
                f"{', '.join(self.CONVENTIONS)}."
            )
        self.convention = convention

    def ratio(self, test: Tensor, reference: Tensor) -> float:
        """Return the ratio in dB."""
        if self.convention == "zero-mean":
            return si_sdr(reference, test)
        from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

        return float(scale_invariant_signal_distortion_ratio(test, reference))


class SDR(_Ratio):
    """Signal-to-distortion ratio of BSS Eval in dB: a filter of 512 taps is forgiven.

    It hardly notices a delay under 512 samples or a filter, so it says little about a codec beside
    others.

    Source: Vincent et al. 2006; Scheibler 2022, arXiv 2110.06440, through torchmetrics.

    Example:
        >>> metric = SDR(16000)
    """

    def ratio(self, test: Tensor, reference: Tensor) -> float:
        """Return the ratio in dB; inf where the filter leaves no error in float64."""
        from torchmetrics.functional.audio import signal_distortion_ratio

        if torch.equal(test, reference):
            return float("inf")
        try:
            return float(signal_distortion_ratio(test, reference))
        except RuntimeError:  # an original whose shifts depend on each other, such as a tone
            return float(signal_distortion_ratio(test, reference, load_diag=1e-10))


class SNR(_Ratio):
    """Signal-to-noise ratio in dB: the original's energy over that of the difference.

    Example:
        >>> metric = SNR(16000)
    """

    needs_copy = False

    def ratio(self, test: Tensor, reference: Tensor) -> float:
        """Return the ratio in dB."""
        noise = float((test - reference).square().sum())
        signal = float(reference.square().sum())
        return 10.0 * math.log10(signal / noise) if noise else float("inf")


def _entry(name: str, title: str, build: Any, **more: Any) -> MetricEntry:
    plain: dict[str, Any] = {
        "name": name, "title": title, "sense": "audio", "kind": "paired",
        "higher_is_better": True, "build": build, "options": {},
    }  # fmt: skip
    return MetricEntry(**plain | more)


_TAAL, _JENSEN = "Taal et al. 2011, pystoi", "Jensen and Taal 2016, pystoi"
ENTRIES: tuple[MetricEntry, ...] = (
    _entry("pesq/wb", "PESQ", PESQ, options={"mode": "wb"}, packages=("pesq",),
           source="ITU-T P.862.2, package pesq, 16 kHz"),
    _entry("pesq/nb", "PESQ nb", PESQ, options={"mode": "nb"}, packages=("pesq",),
           source="ITU-T P.862.1, package pesq, 16 kHz"),
    _entry("stoi", "STOI", STOI, packages=("pystoi",), source=_TAAL),
    _entry("estoi", "ESTOI", STOI, options={"extended": True},
           packages=("pystoi",), source=_JENSEN),
    _entry("si_sdr", "SI-SDR", SISDR, unit="dB", source="arXiv 1811.02508 eq. 3, means removed"),
    _entry("si_sdr/torchmetrics", "SI-SDR (tm)", SISDR, unit="dB",
           options={"convention": "torchmetrics"},
           source="torchmetrics: means kept, eps in both powers"),
    _entry("sdr", "SDR", SDR, unit="dB", source="BSS Eval, 512 taps, torchmetrics"),
    _entry("snr", "SNR", SNR, unit="dB", source="energy of the original over the difference's"),
)  # fmt: skip
