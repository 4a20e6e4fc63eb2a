"""A start at which a signal keeps its level through a chain of layers.

    weight ~ N(0, (gain / sqrt(fan_in))^2), bias 0

With torch's own start (uniform, a third of the variance) a signal loses its level in every layer
without a norm behind it, while the biases stay: after the four or more convolutions between a
picture or waveform and its latent little but the biases is left, and training begins by
undoing that.  He et al. 2015, arXiv 1502.01852, with the gain of the layer's neighbourhood.
"""

from __future__ import annotations

import math

from torch import Tensor, nn


def keep_level(weight: Tensor, bias: Tensor | None, gain: float = 1.0) -> None:
    """Draw a layer's start in place.

    Args:
        weight: (out, in, ...) of a linear layer or convolution. bias: (out,) or None.
        gain: of the standard deviation; below 1 on branches that are added to a signal.

    Example:
        >>> keep_level(conv.weight, conv.bias)
    """
    if weight.is_meta:  # there is nothing to draw, which takes torch longer than all the rest
        return
    nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))
    if bias is not None:
        nn.init.zeros_(bias)
