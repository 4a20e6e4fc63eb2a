"""Calibration: what dimension-wise quantization has to know of an autoencoder, from a user's data.

    batches --encoder--> latents --> moments, histogram, power spectrum --> DimensionWiseConfig

    scale          1 / standard deviation, of all channels together or of each
    shift          the mean, likewise
    low, high      -+ the 99.99th percentile of |normalised latent|
    channel_order  by low-frequency power, see `tok_core.frequency_order`

Batches are seen once and not kept: memory is a histogram of 1 MB per channel, whatever the amount
of data.  Letters: B batch, C channels, D dimensions of one position, p patch side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tok_core.dimension_wise_config import DimensionWiseConfig, Factor
from tok_core.errors import ConfigError, MediaError
from tok_core.frequency_order import CUT_OFF, FrequencyPower

PERCENTILE = 99.99
# A bin holds the float32 values that share sign, exponent and 8 bits of the mantissa, so that it is
# at most 1/256 of its value wide on any scale of latents.
_DROPPED_BITS = 15
_SIDE = 1 << (31 - _DROPPED_BITS)  # bins of one sign


class LatentStatistics:
    """Everything `calibrate` measures, batch by batch.

    Args:
        patch_size: p, for codes of packed positions: the order is then one of C p p dimensions.
        cut_off: see `tok_core.frequency_order.FrequencyPower`.

    Attributes:
        count: latent vectors seen.

    Example:
        >>> statistics = LatentStatistics()
        >>> statistics.add(torch.randn(4, 16, 32, 32))
        >>> config = statistics.config(bits=6)
    """

    def __init__(self, *, patch_size: int = 1, cut_off: float = CUT_OFF) -> None:
        self.patch_size = patch_size
        self.power = FrequencyPower(cut_off)
        self.count = 0
        self._mean = self._squares = torch.zeros(0, dtype=torch.float64)
        self._histogram = torch.zeros(0, 0, dtype=torch.int64)

    @torch.no_grad()
    def add(self, z: Tensor) -> None:
        """Take latents (B, C, h, w) of pictures or (B, C, T) of sound, as the encoder gives them.

        Raises:
            MediaError: another shape, other channels than before, or values that are not finite.
        """
        if z.dim() not in (3, 4) or not z.numel():
            raise MediaError(
                f"latents of shape {tuple(z.shape)} came in; legal are (batch, channels, rows, "
                "columns) and (batch, channels, frames)."
            )
        if not bool(torch.isfinite(z).all()):
            raise MediaError(
                "the autoencoder gave latents that are not finite; run it in float32 and check "
                "its inputs."
            )
        rows = z.detach().float().transpose(0, 1).flatten(1)
        if self.count and len(rows) != len(self._mean):
            raise MediaError(
                f"latents of {len(rows)} channels came after some of {len(self._mean)}; give those "
                "of one autoencoder."
            )
        self.power.add(_packed(z, self.patch_size))
        self._add_moments(rows)
        self._add_histogram(rows)

    def _add_moments(self, rows: Tensor) -> None:
        """Merge mean and squared deviations of (C, N), which no number of batches wears out."""
        rows = rows.double()
        new, mean = rows.shape[1], rows.mean(1)
        squares = (rows - mean[:, None]).square().sum(1).cpu()
        mean = mean.cpu()
        if not self.count:
            self.count, self._mean, self._squares = new, mean, squares
            return
        total, apart = self.count + new, mean - self._mean
        self._squares = self._squares + squares + apart.square() * (self.count * new / total)
        self._mean = self._mean + apart * (new / total)
        self.count = total

    def _add_histogram(self, rows: Tensor) -> None:
        key = (rows.contiguous().view(torch.int32) >> _DROPPED_BITS) & (2 * _SIDE - 1)
        counts = torch.stack([torch.bincount(row, minlength=2 * _SIDE) for row in key.long()])
        counts = counts.cpu()
        self._histogram = counts if not len(self._histogram) else self._histogram + counts

    # -- what follows --------------------------------------------------------------------------

    def factors(self, *, per_channel: bool = False, centre: bool = True) -> tuple[Factor, Factor]:
        """Return scale and shift.

        Args:
            per_channel: a number for each channel instead of one for all.
            centre: subtract the mean; without it shift is 0, as for MAR's KL-16.

        Raises:
            MediaError: nothing came in, or latents that never vary.
        """
        if not self.count:
            raise MediaError("no latents came in to calibrate on; give at least one batch.")
        mean, variance = self._mean, self._squares / self.count
        if not per_channel:
            whole = mean.mean()
            variance = (variance + (mean - whole).square()).mean().expand(1)
            mean = whole.expand(1)
        if not bool((variance > 0).all()):
            flat = (variance <= 0).nonzero().flatten().tolist()
            raise MediaError(
                f"the latents of channel {flat[0]} never vary; leave per_channel out, or give "
                "more and other data."
                if per_channel
                else "the latents never vary; give more and other data."
            )
        scale, shift = variance.rsqrt().tolist(), mean.tolist()
        if per_channel:
            return tuple(scale), tuple(shift) if centre else 0.0
        return scale[0], shift[0] if centre else 0.0

    def clip(self, scale: Factor, shift: Factor, percentile: float = PERCENTILE) -> float:
        """Return the percentile of |(z - shift) * scale|, at most 0.8 % too large."""
        if not 0 < percentile <= 100:
            raise ConfigError(f"percentile is {percentile!r}; give above 0 to 100.")
        channel, key = self._histogram.nonzero(as_tuple=True)
        counts = self._histogram[channel, key]
        # Both ends of each bin; the one that is farther from the shift bounds what lies in it.
        size = key & (_SIDE - 1)
        ends = torch.stack([size, size + 1]) << _DROPPED_BITS
        ends = ends.to(torch.int32).view(torch.float32).double()
        ends = torch.where(key >= _SIDE, -ends, ends)
        ends = (ends - _per_channel(shift, channel)).abs() * _per_channel(scale, channel)
        reach, order = ends.amax(0).sort()
        reached = counts[order].cumsum(0)
        place = int(torch.searchsorted(reached, math.ceil(percentile / 100 * int(reached[-1]))))
        return float(reach[min(place, len(reach) - 1)])

    def config(
        self, *, bits: int = 6, per_channel: bool = False, centre: bool = True,
        percentile: float = PERCENTILE, **more: Any,
    ) -> DimensionWiseConfig:  # fmt: skip
        """Return the settings; see `calibrate`.

        Raises:
            MediaError: nothing came in, or latents that never vary. ConfigError: illegal settings.
        """
        scale, shift = self.factors(per_channel=per_channel, centre=centre)
        clip = self.clip(scale, shift, percentile)
        return DimensionWiseConfig(
            bits=bits, scale=scale, shift=shift, low=-clip, high=clip,
            channel_order=self.power.order(), **more,
        )  # fmt: skip


def calibrate(
    vae: Any, data: Iterable[Tensor], *, patch_size: int = 1, cut_off: float = CUT_OFF,
    **settings: Any,
) -> DimensionWiseConfig:  # fmt: skip
    """Measure scale, shift, clip range and channel order of an autoencoder on a user's data.

    Args:
        vae: a continuous autoencoder of either sense (anything with ``latents``), or a function
            from a batch to its latents (B, C, ...).
        data: batches as the autoencoder takes them, pictures (B, 3, H, W) or sound (B, 1, T) in
            [-1, 1]; sizes may differ between batches. Seen once, nothing of it is kept.
        patch_size, cut_off: see `LatentStatistics`.
        settings: ``bits`` (6), ``per_channel`` (False), ``centre`` (True), ``percentile`` (99.99)
            and further options of `DimensionWiseConfig`.

    Returns:
        The settings; `DimensionWiseConfig.save` keeps them in a file.

    Raises:
        MediaError: no data, latents of another shape, not finite, or never varying.
        ConfigError: illegal settings.

    Example:
        >>> config = calibrate(codec, batches)  # doctest: +SKIP
        >>> config.save("calibration.json")     # doctest: +SKIP
    """
    encode: Callable[[Tensor], Tensor] = getattr(vae, "latents", vae)
    if not callable(encode):
        raise ConfigError(
            f"a {type(vae).__name__} came in to calibrate; give an autoencoder, or a function from "
            "a batch to its latents."
        )
    device = getattr(vae, "device", None)
    statistics = LatentStatistics(patch_size=patch_size, cut_off=cut_off)
    with torch.no_grad():
        for batch in data:
            if not isinstance(batch, Tensor):
                raise MediaError(
                    f"a batch is a {type(batch).__name__}; give tensors, the signal alone."
                )
            statistics.add(encode(batch if device is None else batch.to(device)))
    return statistics.config(**settings)


def _packed(z: Tensor, patch: int) -> Tensor:
    """Return (B, C p p, h / p, w / p); rows and columns that fill no patch are left out."""
    if patch == 1:
        return z
    if z.dim() != 4 or min(z.shape[2:]) < patch:
        raise MediaError(
            f"latents of shape {tuple(z.shape)} have no patch of {patch} x {patch} cells; give "
            "larger pictures, or patch_size 1."
        )
    rows, columns = (size - size % patch for size in z.shape[2:])
    return F.pixel_unshuffle(z[..., :rows, :columns], patch)


def _per_channel(factor: Factor, channel: Tensor) -> Tensor:
    values = torch.tensor(factor, dtype=torch.float64)
    return values if values.dim() == 0 else values[channel]
