"""Sizes of one side of the convolutional autoencoder, checked.

Letters: Z latent channels, F pixels per grid cell and side.
"""

from __future__ import annotations

from dataclasses import dataclass

from tok_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ConvSizes:
    """Sizes of one side, encoder or decoder; the defaults are LlamaGen's VQ-16.

    Attributes:
        channels: width that the multipliers multiply, and of the encoder's first convolution.
        multipliers: width of every level over ``channels``, from fine to coarse; F is
            2 ** (levels - 1). Fractions are for published widths that are no multiples.
        res_blocks: residual blocks per level (the decoder has one more).
        z_channels: Z.
        attention: levels with attention, 0 the finest; None for the coarsest alone.
        mid_attention: attention between the two middle blocks.
        dropout: inside residual blocks, in training.
        groups: of every group norm.
        modulated_by: channels of the map that scales and shifts the decoder's norms (MoVQ,
            arXiv 2209.09002); 0 for ordinary norms.

    Raises:
        ConfigError: no level, a level that is not there, widths that the group norms cannot split.
    """

    channels: int = 128
    multipliers: tuple[float, ...] = (1, 1, 2, 2, 4)
    res_blocks: int = 2
    z_channels: int = 256
    attention: tuple[int, ...] | None = None
    mid_attention: bool = True
    dropout: float = 0.0
    groups: int = 32
    modulated_by: int = 0

    def __post_init__(self) -> None:
        if not self.multipliers or min(self.channels, self.res_blocks, self.z_channels) < 1:
            raise ConfigError(
                f"channels {self.channels}, multipliers {list(self.multipliers)}, res_blocks "
                f"{self.res_blocks} and z_channels {self.z_channels} came in; each has to be at "
                "least 1, with one multiplier per level"
            )
        widths = {self.channels, *self.widths}
        if self.groups < 1 or any(width < 1 or width % self.groups for width in widths):
            raise ConfigError(
                f"the levels are {list(self.widths)} channels wide after {self.channels}; every "
                f"width must be a multiple of the {self.groups} groups of the norms"
            )
        if any(not 0 <= level < len(self.multipliers) for level in self.attention or ()):
            raise ConfigError(
                f"attention is asked for on levels {list(self.attention or ())}; legal are 0 (the "
                f"finest) to {len(self.multipliers) - 1}"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; give at least 0 and less than 1")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level, from fine to coarse."""
        return tuple(round(self.channels * m) for m in self.multipliers)

    @property
    def factor(self) -> int:
        """F, pixels per grid cell and side."""
        return int(2 ** (len(self.multipliers) - 1))

    def attends(self, level: int) -> bool:
        """Return whether a level (0 the finest) has attention after its residual blocks."""
        last = len(self.multipliers) - 1
        return level in ((last,) if self.attention is None else self.attention)
