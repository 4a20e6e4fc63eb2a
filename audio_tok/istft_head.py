"""ISTFT head: features to a waveform, one short-time spectrum per frame.

    features (B, T, C) --out--> log magnitude m, phase p --> S = min(e^m, clip) e^(ip)
    frames = window * irfft(S);  wave = sum of shifted frames / sum of shifted windows squared

Siuzdak 2023, arXiv 2306.00814, section 3.2.  "Same" padding: (n - h) / 2 samples fall away at both
ends, T h remain.  Letters: B batch, T frames, C channels, h hop, n FFT size, K = n / 2 + 1 bins,
r = ceil(n / h) overlapping frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tok_core.fast_linear import fast_linear
from tok_core.full_float32 import full_float32


def overlap_add(frames: Tensor, hop: int) -> Tensor:
    """Add frames (B, T, n), each ``hop`` samples after the one before: (B, (T - 1) h + n)."""
    batch, time, size = frames.shape
    parts = -(-size // hop)
    if size % hop:
        frames = F.pad(frames, (0, parts * hop - size))
    # A frame is r pieces of one hop; piece i of frame t lands on hop t + i.  r shifted sums of
    # whole maps, where a general fold would scatter sample by sample.
    pieces = frames.view(batch, time, parts, hop)
    out = frames.new_zeros(batch, time + parts - 1, hop)
    for i in range(parts):
        out[:, i : i + time] += pieces[:, :, i]
    return out.view(batch, -1)[:, : (time - 1) * hop + size]


def inverse_stft(spectrum: Tensor, hop: int) -> Tensor:
    """Turn spectra into a waveform with a Hann window and "same" padding.

    Args:
        spectrum: complex (B, T, K) of an even FFT size n = 2 (K - 1), n - h even.
        hop: h, at most n.

    Returns:
        (B, T h) float32.

    Example:
        >>> inverse_stft(torch.zeros(1, 75, 641, dtype=torch.complex64), 320).shape
        torch.Size([1, 24000])
    """
    time, bins = spectrum.shape[1:]
    size = 2 * (bins - 1)
    window = torch.hann_window(size, device=spectrum.device, dtype=torch.float32)
    frames = torch.fft.irfft(spectrum, n=size) * window
    wave = overlap_add(frames, hop)
    envelope = overlap_add(window.square().expand(1, time, size), hop)
    cut = (size - hop) // 2
    kept = slice(cut, cut + time * hop)
    return wave[:, kept] / envelope[:, kept]


class ISTFTHead(nn.Module):
    """The last room of the decoder; always in float32, as phases need it.

    Args:
        channels: C. hop: h. n_fft: n, even, with n - h even and n at least h.
        magnitude_clip: upper bound of a bin's magnitude.

    Example:
        >>> ISTFTHead(768, 320, 1280)(torch.zeros(1, 75, 768)).shape
        torch.Size([1, 24000])
    """

    def __init__(
        self, channels: int, hop: int, n_fft: int, *, magnitude_clip: float = 100.0
    ) -> None:
        super().__init__()
        self.hop, self.n_fft, self.magnitude_clip = hop, n_fft, magnitude_clip
        self.out = nn.Linear(channels, n_fft + 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, T, C) to a waveform (B, T h), unclamped."""
        with full_float32(x.device.type):
            return inverse_stft(self.spectrum(self.project(x)), self.hop)

    def project(self, x: Tensor) -> Tensor:
        """Return log magnitudes and phases (B, T, n + 2)."""
        return fast_linear(x.float(), self.out.weight.float(), self.out.bias.float())

    def spectrum(self, projected: Tensor) -> Tensor:
        """Return the complex spectra (B, T, K) of log magnitudes and phases."""
        magnitude, phase = projected.chunk(2, -1)
        return torch.polar(magnitude.exp().clamp(max=self.magnitude_clip), phase)
