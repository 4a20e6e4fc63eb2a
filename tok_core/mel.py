"""Mel magnitudes of sound and the distance between their logarithms.

Letters: B sounds, T samples, F frequency bins, M mel bands, L frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tok_core.errors import ConfigError

SCALES = ("htk", "slaney")
FLOOR = 1e-7  # quieter is silence: the logarithm is cut there


def mel_bands(rate: int, n_fft: int, bins: int, scale: str = "htk") -> Tensor:
    """Return triangular filters (F, M) from 0 Hz to half the rate.

    Args:
        rate: in Hz. n_fft: window of the spectra in samples, F = n_fft // 2 + 1. bins: M.
        scale: ``htk``, not normalised (torchaudio's default), or ``slaney``, every triangle of
            area one (librosa's default).

    Source: mel(f) = 2595 log10(1 + f / 700), O'Shaughnessy 1987, as in the HTK book; Slaney's
    Auditory Toolbox 1998, linear up to 1 kHz.

    Example:
        >>> mel_bands(24000, 1024, 100).shape
        torch.Size([513, 100])
    """
    # Worked out in float64: the corners of narrow bands lie less than a bin apart.
    steps = torch.linspace(0, 1, bins + 2).double()
    if scale == "slaney":
        corners = _slaney_hz(steps * _slaney_mel(rate / 2))
    else:
        top = 2595.0 * torch.log10(torch.tensor(1.0 + rate / 2 / 700.0, dtype=torch.float64))
        corners = 700.0 * (10.0 ** (steps * top / 2595.0) - 1.0)
    bin_hz = torch.linspace(0, rate // 2, n_fft // 2 + 1).double()
    slopes = corners[None] - bin_hz[:, None]
    width = corners.diff()
    rising, falling = -slopes[:, :-2] / width[:-1], slopes[:, 2:] / width[1:]
    bands = torch.minimum(rising, falling).clamp(min=0)
    if scale == "slaney":
        bands = bands * (2.0 / (corners[2:] - corners[:-2]))
    return bands.float()


_KNEE = 1000.0  # Hz; Slaney's scale is linear below, 15 mels, and logarithmic above
_LOG_STEP = math.log(6.4) / 27


def _slaney_mel(hz: float) -> float:
    return hz * 3 / 200 if hz < _KNEE else 15.0 + math.log(hz / _KNEE) / _LOG_STEP


def _slaney_hz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15.0, mel * 200 / 3, _KNEE * torch.exp(_LOG_STEP * (mel - 15.0)))


class MelSpectrogram(nn.Module):
    """Mel magnitudes of centred, mirrored Hann frames; nothing in it is trained or saved.

    Args:
        rate: in Hz.
        n_fft, hop: window and step in samples.
        bins: mel bands from 0 Hz to half the rate. scale: see `mel_bands`.

    Raises:
        ConfigError: more bands than the window can tell apart, a number below 1, or another scale.

    Example:
        >>> MelSpectrogram(24000, 1024, 256, 100)(torch.zeros(1, 1, 24000)).shape
        torch.Size([1, 100, 94])
    """

    window: Tensor
    bands: Tensor

    def __init__(self, rate: int, n_fft: int, hop: int, bins: int, scale: str = "htk") -> None:
        super().__init__()
        if scale not in SCALES:
            raise ConfigError(f"mel scale '{scale}' is unknown; legal are {', '.join(SCALES)}.")
        if min(rate, n_fft, hop, bins) < 1 or bins > n_fft // 2:
            raise ConfigError(
                f"{bins} mel bands of windows of {n_fft} samples every {hop} at {rate} Hz came in; "
                "legal are positive numbers and at most half as many bands as samples."
            )
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("bands", mel_bands(rate, n_fft, bins, scale), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map sound (B, 1, T) or (B, T) to linear magnitudes (B, M, L), L = 1 + T // hop."""
        spectrum = stft_magnitudes(x, self.window, self.hop)
        return (spectrum.transpose(1, 2) @ self.bands).transpose(1, 2)


def stft_magnitudes(x: Tensor, window: Tensor, hop: int, n_fft: int | None = None) -> Tensor:
    """Map sound (B, 1, T) or (B, T) to magnitudes (B, F, L) of centred, mirrored frames.

    Args:
        window: (W,), hop: step in samples. n_fft: W, or more, with zeros around the window.
    """
    n_fft = n_fft or len(window)
    flat = x.flatten(1)
    short = n_fft // 2 + 1 - flat.shape[1]
    if short > 0:  # too short to be mirrored
        flat = nn.functional.pad(flat, (0, short))
    return torch.stft(
        flat, n_fft, hop, len(window), window=window, center=True, pad_mode="reflect",
        return_complex=True,
    ).abs()  # fmt: skip


def log_mel_distance(a: Tensor, b: Tensor, *, floor: float = FLOOR) -> Tensor:
    """Return the mean absolute difference of the natural logarithms, a scalar.

    Args:
        a, b: linear mel magnitudes of equal shape. floor: smallest magnitude told apart.

    Source: the mel loss of Vocos and WavTokenizer (arXiv 2408.16532), without its weight.
    """
    return (a.clamp(min=floor).log() - b.clamp(min=floor).log()).abs().mean()


class MultiResolutionMel(nn.Module):
    """Mean log mel distance over several windows, each stepping by a quarter of itself.

    Short windows hear onsets, long ones pitch.

    Args:
        rate: in Hz. sizes: windows in samples. bins: mel bands for each.
        silence: in dB below a sine of full scale: whatever is quieter is silence, so that the loss
            does not go into the noise of pauses, whose every frame is another. None: magnitudes
            under 1e-5, as published, about 150 dB below.
        magnitudes: weight of the difference of the magnitudes themselves, as a share of their sum,
            beside that of their logarithms: it holds what is loud, which carries the words.

    Source: Kumar et al. 2023, arXiv 2306.06546, section 3.4 (several windows).

    Example:
        >>> MultiResolutionMel(24000, [512, 2048], [40, 100])(x, y)  # doctest: +SKIP
    """

    def __init__(
        self, rate: int, sizes: Sequence[int], bins: Sequence[int], silence: float | None = None,
        magnitudes: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if silence is not None and silence <= 0:
            raise ConfigError(f"silence is {silence} dB; give dB below full scale, such as 70.")
        self.silence, self.magnitudes = silence, magnitudes
        if len(sizes) != len(bins) or not sizes:
            raise ConfigError(
                f"windows {list(sizes)} and mel bands {list(bins)} came in; legal is one number of "
                "bands for each window, and at least one window."
            )
        self.mels = nn.ModuleList(
            MelSpectrogram(rate, size, size // 4, count)
            for size, count in zip(sizes, bins, strict=True)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distance of two batches (B, 1, T), a scalar."""
        each = []
        for mel in self.mels:
            assert isinstance(mel, MelSpectrogram)
            a, b = mel(x), mel(y)
            distance = log_mel_distance(a, b, floor=self._floor(mel.n_fft))
            if self.magnitudes:
                whole = a.sum((1, 2)).clamp(min=1.0)  # a silent sound has no share to take
                distance = distance + self.magnitudes * ((a - b).abs().sum((1, 2)) / whole).mean()
            each.append(distance)
        return torch.stack(each).mean()

    def _floor(self, n_fft: int) -> float:
        # n_fft / 4 is the peak of a sine under a Hann window.
        return 1e-5 if self.silence is None else n_fft / 4 * 10.0 ** (-self.silence / 20)
