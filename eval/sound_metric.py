"""SoundMetric: an ItemMetric of sounds, one channel each, at a sample rate it states.

Letters: B sounds, T samples.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor

from eval.item_metric import ItemMetric
from eval.metric_entry import MetricEntry
from tok_core.audio_measures import NOT_FINITE, REASONS, TOO_SHORT, Figure, failed
from tok_core.errors import ConfigError, MediaError

SPEECH_RATE = 16_000  # Hz at which PESQ, UTMOS, CREPE and most speech networks hear


class SoundMetric(ItemMetric):
    """Base of measures of sounds, with one `Figure` for each.

    A subclass gives `figure`. The caller resamples to ``sample_rate`` and cuts to one length.

    Args:
        sample_rate: of what `update` takes, in Hz.
        options: of `torchmetrics.Metric`.

    Raises:
        ConfigError: no rate, or one that the measure cannot work at.

    Example:
        >>> metric = STOI(sample_rate=24000)
        >>> metric.update(decoded, originals)
    """

    REASONS: ClassVar[tuple[str, ...]] = REASONS
    RATES: ClassVar[tuple[int, ...]] = ()  # legal ones; empty for any
    sample_rate: int

    def __init__(self, sample_rate: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        rate = sample_rate or 0
        if rate <= 0 or (self.RATES and rate not in self.RATES):
            legal = " or ".join(str(rate) for rate in self.RATES) or "any rate of the sounds"
            raise ConfigError(
                f"{type(self).__name__} was built with sample_rate {sample_rate}; legal is "
                f"{legal} in Hz: resample the sounds to it."
            )
        self.sample_rate = rate

    def figure(self, *sounds: Tensor) -> Figure:
        """Return the figure of one sound (T,), or of a test sound and its original."""
        raise TypeError(f"{type(self).__name__} does not define figure")

    def measure(self, *signals: Tensor) -> tuple[Tensor, Tensor]:
        """Return values float64 (B,) and failure codes int64 (B,) of sounds as `update` takes."""
        batches = sound_batches(*signals)
        figures = [
            self._checked(*(batch[i] for batch in batches)) for i in range(len(batches[0]))
        ]
        values = torch.tensor([one.value for one in figures], dtype=torch.float64)
        return values, torch.tensor([one.code for one in figures], dtype=torch.int64)

    def _checked(self, *sounds: Tensor) -> Figure:
        if sounds[0].numel() == 0:
            return failed(TOO_SHORT)
        if not all(bool(torch.isfinite(sound).all()) for sound in sounds):
            return failed(NOT_FINITE)
        return self.figure(*sounds)


def sound_batches(*signals: Tensor) -> list[Tensor]:
    """Return sounds as (B, T) each, checked to be equal in shape.

    Args:
        signals: float (B, 1, T), (B, T) or (T,) each.

    Raises:
        MediaError: integers, several channels, or unequal shapes.

    Example:
        >>> [x.shape for x in sound_batches(torch.zeros(2, 1, 9), torch.zeros(2, 9))]
        [torch.Size([2, 9]), torch.Size([2, 9])]
    """
    batches = []
    for x in signals:
        if not x.is_floating_point() or not 1 <= x.dim() <= 3 or (x.dim() == 3 and x.shape[1] != 1):
            raise MediaError(
                f"sounds of shape {tuple(x.shape)} in {x.dtype} came in; legal are floats "
                "(B, 1, T), (B, T) or (T,) in [-1, 1]: mix channels down to one first."
            )
        plain = x.detach()
        batches.append(plain[None] if x.dim() == 1 else plain.flatten(1))
    if len({batch.shape for batch in batches}) > 1:
        shapes = " and ".join(str(tuple(batch.shape)) for batch in batches)
        raise MediaError(
            f"a decoded sound and its original came in as {shapes}; they must be equally many and "
            "equally long: cut them to the shorter one."
        )
    return batches


def build_at(entry: MetricEntry, rate: int, **options: Any) -> Any:
    """Build a sound measure that hears sounds of ``rate`` where it can.

    A measure of any rate has None for its parameter ``sample_rate``; one that fixes its rate says
    by its attribute ``sample_rate`` what to resample to.

    Args:
        entry: of a measure of sound. rate: in Hz. options: more for its ``build``.

    Example:
        >>> build_at(entry_named("stoi"), 24000).sample_rate
        24000
    """
    known = {**entry.options, **options}
    parameter = inspect.signature(entry.build).parameters.get("sample_rate")
    if parameter is not None and parameter.default in (None, parameter.empty):
        known.setdefault("sample_rate", rate)
    return entry.build(**known)
