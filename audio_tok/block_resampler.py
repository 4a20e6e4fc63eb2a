"""Change the sample rate of a long signal block by block, as if it were done at once.

Letters: C channels, n samples of a block; p output samples for every q input samples.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from tok_core.resample import RATES, resample

# Rates without a small common measure (44101 Hz) would need a filter for every one of thousands of
# phases, gigabytes of them.  The nearest simple ratio is off by about 1e-6: 4 ms in an hour.
_MOST_TAPS = 1 << 20  # p times q, about the size of all filters together
_REACH = 6 / 0.99  # zero crossings of the kernel on each side, over its roll-off
_LEAST = 1 << 15  # samples gathered before they are converted: every call builds its filters


def length_after(samples: int, from_rate: int, to_rate: int) -> int:
    """Return how many samples ``samples`` become at another rate (rounded up).

    Example:
        >>> length_after(44100, 44100, 24000)
        24000
    """
    return -(-samples * to_rate // from_rate)


class BlockResampler:
    """The resampler of `tok_core.resample` for blocks of any sizes.

    Args:
        from_rate, to_rate: in Hz.

    Raises:
        ConfigError: a rate out of range, or torchaudio is not installed (at the first block).

    Example:
        >>> resampler = BlockResampler(48000, 24000)
        >>> parts = [resampler.push(torch.zeros(1, 70000)), resampler.finish()]
        >>> sum(part.shape[-1] for part in parts)
        35000
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        self.from_rate, self.to_rate = from_rate, to_rate
        ratio = Fraction(to_rate, from_rate)
        if ratio.numerator * ratio.denominator > _MOST_TAPS:
            ratio = ratio.limit_denominator(math.ceil(math.sqrt(_MOST_TAPS / ratio)))
        self.p, self.q = ratio.numerator, ratio.denominator
        width = math.ceil(_REACH * self.q / min(self.p, self.q))
        self.margin = -(-width // self.q) * self.q  # a multiple of q, so that phases stay
        self.kept: Tensor | None = None  # (C, n) inputs from position `start` on
        self.start, self.done, self.out = 0, 0, 0

    def push(self, block: Tensor) -> Tensor:
        """Take (C, n) and return what is finished, (C, m), m often 0 or larger than expected."""
        if self.from_rate == self.to_rate:
            self.out += block.shape[-1]
            return block
        self.kept = block if self.kept is None else torch.cat((self.kept, block), -1)
        end = self.start + self.kept.shape[-1]
        ready = (end - self.margin) // self.q * self.q
        if ready - self.done < _LEAST:
            return block[..., :0]
        return self._convert(ready, end)

    def finish(self) -> Tensor:
        """Return the rest: after it ceil(T * to / from) samples came out for T that went in."""
        if self.kept is None:
            return torch.zeros(0, 0)
        end = self.start + self.kept.shape[-1]
        rest = self._convert(-(-end // self.q) * self.q, end)
        total = length_after(end, self.from_rate, self.to_rate)
        missing = rest.shape[-1] - (self.out - total)
        self.out = total
        if missing <= rest.shape[-1]:
            return rest[..., : max(0, missing)]
        return torch.nn.functional.pad(rest, (0, missing - rest.shape[-1]))

    def _convert(self, ready: int, end: int) -> Tensor:
        """Return the outputs of inputs ``done`` to ``ready`` and forget what is no longer seen."""
        assert self.kept is not None
        seen = self.kept[..., : min(end, ready + self.margin) - self.start]
        # The ratio alone matters; both parts are scaled into the legal range of rates.
        scale = -(-RATES[0] // min(self.p, self.q))
        result = resample(seen, self.q * scale, self.p * scale)
        first = (self.done - self.start) // self.q * self.p
        part = result[..., first : first + (ready - self.done) // self.q * self.p]
        self.done, start = ready, max(0, ready - self.margin)
        # A copy, or the whole block would stay in memory behind it.
        self.kept = self.kept[..., start - self.start :].clone()
        self.start = start
        self.out += part.shape[-1]
        return part
