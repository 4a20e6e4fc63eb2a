"""FeatureExtractor: what a distance between sets of pictures needs of a network.

    pictures uint8 (B, 3, H, W) ──resize──▶ network ──▶ {tap: (B, D)}
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from tok_core.frozen_network import FrozenNetwork

if TYPE_CHECKING:
    from typing import Self


@runtime_checkable
class FeatureExtractor(Protocol):
    """A frozen network with named places ("taps") where numbers are taken.

    Attributes:
        name: such as ``inception-fid``; part of every protocol.
        sha256: of its weight file, 64 hex digits; empty when it was not made from a file.
        dimensions: D by tap.
        feature_tap: of means and covariances. spatial_tap: of the spatial variant (sFID), None
            where there is none. logits_tap: of class logits.
    """

    name: str
    sha256: str
    dimensions: Mapping[str, int]
    feature_tap: str
    spatial_tap: str | None
    logits_tap: str

    def features(self, images: Tensor, taps: Collection[str]) -> dict[str, Tensor]:
        """Return (B, D) for each tap of pictures uint8 (B, 3, H, W)."""
        ...

    def protocol(self) -> dict[str, Any]:
        """Return what its numbers depend on, as plain JSON values."""
        ...


class FrozenExtractor(FrozenNetwork):
    """A network behind `FeatureExtractor`; it never changes, so copies of a metric share it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself."""
        return self


def fold_batch_norm(
    weight: Tensor, *, gain: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the one convolution that equals convolution, then batch norm.

    Args:
        weight: (C_out, C_in, kh, kw) of a convolution without bias.
        gain, shift, mean, variance: (C_out,) of the batch norm in eval mode.

    Returns:
        float64 weight and bias, so that the caller's rounding is the only one.
    """
    scale = gain.double() / (variance.double() + epsilon).sqrt()
    return weight.double() * scale.view(-1, 1, 1, 1), shift.double() - mean.double() * scale
