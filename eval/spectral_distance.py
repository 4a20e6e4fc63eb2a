"""Distances between spectra of a decoded sound and its original.

The same words mean other numbers elsewhere, so each is named as its settings:

    mel_distance               Vocos, WavTokenizer: natural log of 100 HTK mels
    mel_distance/dac           DAC's report: log10 power and magnitude, 150 and 80 Slaney mels
    mel_distance/dac-training  DAC's loss: log10 magnitude, 7 windows, 5 to 320 Slaney mels
    stft_distance/dac          DAC's report: log10 power and magnitude, windows 2048 and 512
    stft_distance/multi        Parallel WaveGAN: spectral convergence and log magnitude, 3 windows

Letters: T samples, F bins, M mels, L frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eval.metric_entry import MetricEntry
from eval.sound_metric import SoundMetric
from tok_core.audio_measures import Figure
from tok_core.errors import ConfigError
from tok_core.mel import MelSpectrogram, log_mel_distance, stft_magnitudes


class MelDistance(SoundMetric):
    """Mean absolute difference of natural log mel magnitudes: 100 HTK bands, n_fft 1024, hop 256.

    Args:
        sample_rate: of the sounds in Hz; 24000 in the papers.

    Source: the mel loss of Vocos (arXiv 2306.00814) and WavTokenizer (arXiv 2408.16532) without
    its weight: magnitudes, floor 1e-7.

    Example:
        >>> metric = MelDistance(24000)
    """

    higher_is_better = False

    def __init__(self, sample_rate: int | None = None, **options: Any) -> None:
        super().__init__(sample_rate, **options)
        self.mel = MelSpectrogram(self.sample_rate, 1024, 256, 100)

    def figure(self, *sounds: Tensor) -> Figure:
        """Return the distance of two sounds (T,)."""
        first, second = (self.mel(sound[None].float().to(self.device)) for sound in sounds)
        return Figure(float(log_mel_distance(first, second)))


class WindowedDistance(SoundMetric):
    """Distance of log spectra plus distance of spectra, summed over windows.

    For each window w, hop w / 4: mean |log10 max(a, 1e-5)^power - log10 max(b, 1e-5)^power|
    + linear * mean |a - b|, a and b magnitudes, of Slaney mels where bands are given.

    Args:
        sample_rate: of the sounds in Hz. windows: in samples.
        bands: mels for each window; None for the bins themselves.
        power: of the magnitudes in the logarithm. linear: weight of the second term.

    Source: Kumar et al. 2023, arXiv 2306.06546 (DAC), section 3.4, and its evaluation script.

    Example:
        >>> metric = WindowedDistance(24000, windows=(2048, 512), bands=(150, 80))
    """

    higher_is_better = False

    def __init__(
        self, sample_rate: int | None = None, *, windows: Sequence[int] = (2048, 512),
        bands: Sequence[int] | None = None, power: float = 2.0, linear: float = 1.0, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(sample_rate, **options)
        if not windows or (bands is not None and len(bands) != len(windows)):
            raise ConfigError(
                f"windows {list(windows)} and mel bands {bands and list(bands)} came in; legal is "
                "at least one window, and one number of bands for each, or no bands."
            )
        self.power, self.linear = power, linear
        self.mels = torch.nn.ModuleList(
            MelSpectrogram(self.sample_rate, window, window // 4, count, "slaney")
            for window, count in zip(windows, bands or (), strict=bands is not None)
        )
        self.windows = tuple(windows)

    def figure(self, *sounds: Tensor) -> Figure:
        """Return the distance of two sounds (T,)."""
        total = 0.0
        for place, window in enumerate(self.windows):
            a, b = (self._spectrum(place, window, sound) for sound in sounds)
            logs = (x.clamp(min=1e-5).pow(self.power).log10() for x in (a, b))
            total += float((next(logs) - next(logs)).abs().mean())
            total += self.linear * float((a - b).abs().mean())
        return Figure(total)

    def _spectrum(self, place: int, window: int, sound: Tensor) -> Tensor:
        x = sound[None].float().to(self.device)
        if len(self.mels):
            return self.mels[place](x)
        return stft_magnitudes(x, torch.hann_window(window, device=x.device), window // 4)


class MultiResolutionSTFT(SoundMetric):
    """Spectral convergence plus mean absolute difference of log magnitudes, a mean over windows.

    Convergence is ||a - b|| / ||b||, b the original; 1 for a silent copy. Magnitudes are floored
    at 1e-3.5 (power 1e-7). Three settings: n_fft 1024, 2048, 512, hop 120, 240, 50, window 600,
    1200, 240.

    Args:
        sample_rate: of the sounds in Hz; 24000 in the paper.

    Source: Yamamoto et al. 2020, arXiv 1910.11480 (Parallel WaveGAN), eq. 4 to 6.

    Example:
        >>> metric = MultiResolutionSTFT(24000)
    """

    higher_is_better = False
    SETTINGS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))

    def figure(self, *sounds: Tensor) -> Figure:
        """Return the distance of (test, reference), each (T,)."""
        total = 0.0
        for n_fft, hop, width in self.SETTINGS:
            window = torch.hann_window(width, device=self.device)
            a, b = (
                stft_magnitudes(x[None].float().to(self.device), window, hop, n_fft)
                .square().clamp(min=1e-7).sqrt()
                for x in sounds
            )  # fmt: skip
            total += float((a - b).norm() / b.norm() + (a.log() - b.log()).abs().mean())
        return Figure(total / len(self.SETTINGS))


_DAC = "DAC, arXiv 2306.06546"
_REPORT = {"windows": [2048, 512], "bands": [150, 80]}
_TRAINING = {
    "windows": [32, 64, 128, 256, 512, 1024, 2048], "bands": [5, 10, 20, 40, 80, 160, 320],
    "power": 1.0, "linear": 0.0,
}  # fmt: skip


def _entry(name: str, title: str, build: Any, source: str, **options: Any) -> MetricEntry:
    return MetricEntry(
        name=name, title=title, sense="audio", kind="paired", higher_is_better=False, build=build,
        options=options, source=source,
    )  # fmt: skip


ENTRIES: tuple[MetricEntry, ...] = (
    _entry("mel_distance", "mel distance", MelDistance, "arXiv 2306.00814, 2408.16532"),
    _entry("mel_distance/dac", "mel distance (DAC)", WindowedDistance,
           f"{_DAC}, evaluation: 150 and 80 mels", **_REPORT),
    _entry("mel_distance/dac-training", "mel distance (DAC loss)", WindowedDistance,
           f"{_DAC}, loss: 7 windows", **_TRAINING),
    _entry("stft_distance/dac", "STFT distance (DAC)", WindowedDistance, f"{_DAC}, evaluation"),
    _entry("stft_distance/multi", "multi-resolution STFT distance", MultiResolutionSTFT,
           "Parallel WaveGAN, arXiv 1910.11480, eq. 4 to 6"),
)  # fmt: skip
