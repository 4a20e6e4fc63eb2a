"""Dimension-wise quantizer: every number of a latent becomes an integer of a few bits, on its own.

    z --(z - shift) * scale--> x --clip to low..high, stretch to -r..r--> nearest level --> code
    code --> level --stretched back to low..high--> value (normalised) --/ scale + shift--> latent

Nothing is trained: the levels are those of a standard normal (`tok_core.gaussian_levels`), which
the latents of a KL autoencoder are close to.  The same table serves every dimension.

Wang et al. 2025, "Bridging Continuous and Discrete Tokens", arXiv 2503.16430.  Letters: B batch, C
channels on axis 1, ... any further axes (rows and columns, or frames), V levels, r range.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tok_core.dimension_wise_config import DimensionWiseConfig, Factor
from tok_core.gaussian_levels import gaussian_levels


class DimensionWiseQuantizer(nn.Module):
    """Latents (B, C, ...) to codes of the same shape and back; no parameters, no state.

    ``encode`` and ``lookup`` work on normalised values and are elementwise, so they take any
    layout; ``normalise`` and ``restore`` expect the channels on axis 1.

    Args:
        config: bits, ranges, scale and shift.

    Example:
        >>> quantizer = DimensionWiseQuantizer(DimensionWiseConfig(scale=0.2325))
        >>> codes = quantizer.encode(quantizer.normalise(torch.zeros(2, 16, 8, 8)))
        >>> codes.shape, int(codes.max())
        (torch.Size([2, 16, 8, 8]), 31)
    """

    def __init__(self, config: DimensionWiseConfig) -> None:
        super().__init__()
        self.config = config

    def extra_repr(self) -> str:
        """Levels and ranges."""
        c = self.config
        return f"levels={self.num_levels}, std_range={c.std_range}, {c.low}..{c.high}"

    # -- tables --------------------------------------------------------------------------------

    @property
    def levels(self) -> Tensor:
        """The levels (V,) in standard deviations, float32, rising, on the CPU."""
        c = self.config
        return gaussian_levels(c.bits, c.std_range, c.empty_bins == "drop")

    @property
    def num_levels(self) -> int:
        """V, 2^bits where no bin is empty."""
        return len(self.levels)

    @property
    def values(self) -> Tensor:
        """The levels (V,) on the scale of normalised latents, float32, on the CPU."""
        c, r = self.config, self.config.std_range
        with torch.inference_mode(False):
            return (self.levels + r) / (2 * r) * (c.high - c.low) + c.low

    # -- the latents' scale --------------------------------------------------------------------

    def normalise(self, z: Tensor) -> Tensor:
        """Map latents (B, C, ...) to float32 values of about unit variance."""
        z = z.float()
        if self.config.shift != 0:
            z = z - _along(self.config.shift, z)
        return z * _along(self.config.scale, z)

    def restore(self, x: Tensor) -> Tensor:
        """Invert `normalise`."""
        z = x.float() / _along(self.config.scale, x)
        return z if self.config.shift == 0 else z + _along(self.config.shift, z)

    # -- codes ---------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Return the codes, int64 like ``x``, of normalised values of any shape.

        The nearest level wins, the lower one of two that are equally near in float32.
        """
        c, r = self.config, self.config.std_range
        inside = (x.float() - c.low) / (c.high - c.low) * 2 * r - r
        inside = inside.clamp(-r, r)
        levels = self.levels.to(x.device)
        # A search between the midpoints, then the two neighbours by their distance in float32: what
        # a search over all distances finds, without a table of them.
        code = torch.bucketize(inside.contiguous(), (levels[1:] + levels[:-1]) / 2)
        code = code.clamp(max=len(levels) - 1)
        below, above = (code - 1).clamp(min=0), (code + 1).clamp(max=len(levels) - 1)
        own = (inside - levels[code]).abs()
        nearer = (inside - levels[above]).abs() < own
        lower = (inside - levels[below]).abs() <= own
        return torch.where(nearer, above, torch.where(lower, below, code))

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the normalised values, float32 like ``codes``."""
        return self.values.to(codes.device)[codes]

    def outside(self, x: Tensor) -> Tensor:
        """Return bool like ``x``, true where normalised values are clipped."""
        return (x < self.config.low) | (x > self.config.high)


def _along(factor: Factor, z: Tensor) -> Tensor:
    """Return one number, or one per channel on axis 1 of ``z``, ready to be broadcast."""
    found = torch.tensor(factor, dtype=torch.float32, device=z.device)
    return found if found.dim() == 0 else found.view(-1, *[1] * (z.dim() - 2))
