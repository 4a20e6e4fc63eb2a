"""Discriminators of spectra: magnitudes at one resolution, and complex spectra in bands.

    x (B, 1, T) --|STFT|--> (B, 1, F, L) --5 convolutions--> last --> logits          resolution
    x (B, 1, T) --STFT--> (B, 2, L, F) --a stack per band, joined--> last --> logits  bands

Letters: B sounds, T samples, F frequency bins, L frames, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from audio_tok.judgement import Judgement
from audio_tok.period_discriminator import SLOPE, condition_table, projection


class ResolutionDiscriminator(nn.Module):
    """Judges magnitude spectra of rectangular windows.

    Args:
        n_fft, hop: window and step in samples.
        channels: C.
        condition_rows: as in `PeriodDiscriminator`.

    Source: Jang et al. 2021, arXiv 2106.07889 (UnivNet), in the form of Vocos, arXiv 2306.00814.

    Example:
        >>> ResolutionDiscriminator(512, 128, 64)(torch.zeros(1, 1, 24000)).logits.shape
        torch.Size([1, 423])
    """

    def __init__(self, n_fft: int, hop: int, channels: int, *, condition_rows: int = 4) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        # Kernel, stride and padding, frequency first.
        plan = [
            ((7, 5), (2, 2), (3, 2)), ((5, 3), (2, 1), (2, 1)), ((5, 3), (2, 2), (2, 1)),
            ((3, 3), (2, 1), (1, 1)), ((3, 3), (2, 2), (1, 1)),
        ]  # fmt: skip
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(channels if i else 1, channels, *form))
            for i, form in enumerate(plan)
        )
        self.conv_post = weight_norm(nn.Conv2d(channels, 1, 3, 1, 1))
        self.emb = condition_table(condition_rows, channels)

    def forward(self, x: Tensor, row: Tensor | None = None) -> Judgement:
        """Judge sound (B, 1, T) under condition ``row`` int64 (1,), None for row 0."""
        y = rectangular_stft(x, self.n_fft, self.hop).abs()[:, None]
        maps = []
        for conv in self.convs:
            y = F.leaky_relu(conv(y), SLOPE)
            maps.append(y)
        last = self.conv_post(y) + projection(self.emb, row, y)
        return Judgement(last.flatten(1), [*maps, last])


class BandDiscriminator(nn.Module):
    """Judges real and imaginary parts of a spectrum, each band by a stack of its own.

    Args:
        n_fft: window in samples; it steps by a quarter.
        bands: shares (from, to) of the bins.
        channels: C.

    Source: Kumar et al. 2023, arXiv 2306.06546, section 3.3 (DAC).

    Example:
        >>> judge = BandDiscriminator(512, [(0.0, 0.5), (0.5, 1.0)], 4)
        >>> judge(torch.zeros(1, 1, 2400)).logits.shape
        torch.Size([1, 627])
    """

    def __init__(self, n_fft: int, bands: Sequence[Sequence[float]], channels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        bins = n_fft // 2 + 1
        self.bands = [(int(low * bins), int(high * bins)) for low, high in bands]
        plan = [((3, 9), (1, 1), (1, 4)), *[((3, 9), (1, 2), (1, 4))] * 3, ((3, 3), (1, 1), (1, 1))]
        self.band_convs = nn.ModuleList(
            nn.ModuleList(
                weight_norm(nn.Conv2d(channels if i else 2, channels, *form))
                for i, form in enumerate(plan)
            )
            for _ in self.bands
        )
        self.conv_post = weight_norm(nn.Conv2d(channels, 1, 3, 1, 1))

    def forward(self, x: Tensor, row: Tensor | None = None) -> Judgement:
        """Judge sound (B, 1, T); there is no condition, ``row`` is ignored."""
        spectrum = rectangular_stft(x, self.n_fft, self.n_fft // 4)
        parts = torch.view_as_real(spectrum).permute(0, 3, 2, 1)
        maps, ends = [], []
        for (low, high), stack in zip(self.bands, self.band_convs, strict=True):
            y = parts[..., low:high]
            assert isinstance(stack, nn.ModuleList)
            for conv in stack:
                y = F.leaky_relu(conv(y), SLOPE)
                maps.append(y)
            ends.append(y)
        last = self.conv_post(torch.cat(ends, -1))
        return Judgement(last.flatten(1), [*maps, last])


def rectangular_stft(x: Tensor, n_fft: int, hop: int) -> Tensor:
    """Return the spectrum (B, F, L) of (B, 1, T): rectangular windows, centred, mirrored ends."""
    window = torch.ones(n_fft, device=x.device, dtype=x.dtype)
    return torch.stft(
        x.flatten(1), n_fft, hop, window=window, center=True, pad_mode="reflect",
        return_complex=True,
    )
