"""The three kinds of discriminators of WavTokenizer, each configurable, under one forward.

Letters: B sounds, T samples.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from audio_tok.judgement import Judgement
from audio_tok.period_discriminator import PeriodDiscriminator
from audio_tok.spectrum_discriminator import BandDiscriminator, ResolutionDiscriminator

Weight = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]
WIDTHS = (32, 128, 512, 1024, 1024)
PERIODS = (2, 3, 5, 7, 11)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Weights of what a kind of discriminator adds to the losses, and when.

    Attributes:
        start: first optimizer step in which it trains and is heard.
        adversarial: of the generator's adversarial term. features: of feature matching.
        discriminator: of its own loss.
    """

    start: Count = 0
    adversarial: Weight = 1.0
    features: Weight = 1.0
    discriminator: Weight = 1.0


@dataclass(frozen=True, kw_only=True)
class PeriodOptions(Terms):
    """Multi-period discriminator: one for each period, hinge loss, averaged."""

    enabled: bool = True
    periods: tuple[Size, ...] = PERIODS
    channels: tuple[Size, ...] = WIDTHS
    condition_rows: Count = 4


@dataclass(frozen=True, kw_only=True)
class ResolutionOptions(Terms):
    """Multi-resolution discriminator: one for each (n_fft, hop), hinge loss, averaged."""

    enabled: bool = True
    resolutions: tuple[tuple[Size, Size], ...] = ((1024, 256), (2048, 512), (512, 128))
    channels: Size = 64
    condition_rows: Count = 4


@dataclass(frozen=True, kw_only=True)
class DacOptions(Terms):
    """DAC's discriminators: periods and banded spectra, least squares, summed."""

    enabled: bool = True
    periods: tuple[Size, ...] = PERIODS
    channels: tuple[Size, ...] = WIDTHS
    fft_sizes: tuple[Size, ...] = (2048, 1024, 512)
    bands: tuple[tuple[float, float], ...] = (
        (0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0),
    )  # fmt: skip
    band_channels: Size = 32


class DacDiscriminator(nn.Module):
    """All sub-discriminators of DAC, on sound without offset and with a peak of 0.8.

    Source: Kumar et al. 2023, arXiv 2306.06546, section 3.3.
    """

    def __init__(self, options: DacOptions) -> None:
        super().__init__()
        periods = [
            PeriodDiscriminator(
                period, options.channels, condition_rows=0, first_map=True, whole_period=True
            )
            for period in options.periods
        ]
        spectra = [
            BandDiscriminator(size, options.bands, options.band_channels)
            for size in options.fft_sizes
        ]
        self.discriminators = nn.ModuleList([*periods, *spectra])

    def forward(self, x: Tensor, row: Tensor | None = None) -> list[Judgement]:
        """Judge sound (B, 1, T)."""
        x = x - x.mean(-1, keepdim=True)
        x = 0.8 * x / (x.abs().amax(-1, keepdim=True) + 1e-9)
        return [one(x) for one in self.discriminators]


class Several(nn.Module):
    """Sub-discriminators of one kind on the sound as it is."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(parts)

    def forward(self, x: Tensor, row: Tensor | None = None) -> list[Judgement]:
        """Judge sound (B, 1, T) under condition ``row`` int64 (1,)."""
        return [one(x, row) for one in self.discriminators]


def build_kinds(
    period: PeriodOptions, resolution: ResolutionOptions, dac: DacOptions
) -> dict[str, nn.Module]:
    """Return the kinds that are on, by name: ``period``, ``resolution``, ``dac``."""
    kinds: dict[str, nn.Module] = {}
    if period.enabled:
        rows = period.condition_rows
        kinds["period"] = Several([
            PeriodDiscriminator(p, period.channels, condition_rows=rows) for p in period.periods
        ])
    if resolution.enabled:
        rows = resolution.condition_rows
        kinds["resolution"] = Several([
            ResolutionDiscriminator(n_fft, hop, resolution.channels, condition_rows=rows)
            for n_fft, hop in resolution.resolutions
        ])
    if dac.enabled:
        kinds["dac"] = DacDiscriminator(dac)
    return kinds


class Discriminators(nn.ModuleDict):
    """Kinds by name under one forward, so that a distributed wrapper sees each pass."""

    def forward(
        self, x: Tensor, row: Tensor | None, kinds: Collection[str]
    ) -> dict[str, Any]:
        """Return the judgements (lists of `Judgement`) of the ``kinds`` asked for."""
        return {name: kind(x, row) for name, kind in self.items() if name in kinds}
