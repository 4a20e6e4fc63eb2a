"""Adaptive adversarial weight: as loud as the other losses at the decoder's last layer.

    lambda = |d(rest) / dW| / (|d(adversarial) / dW| + 1e-4), at most 10^4,  W the last weight

Esser et al., arXiv 2012.09841, eq. 7.  TokenFlow and LlamaGen offer it and train without.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tok_core.errors import ConfigError
from tok_core.processes import sum_over_processes, world_size

LAST_LAYER = "last_layer"
STABILITY, LARGEST = 1e-4, 1e4


def adaptive_weight(rest: Tensor, adversarial: Tensor, features: Mapping[str, Tensor]) -> Tensor:
    """Return lambda, a scalar without gradient; over all processes the joined batch's.

    Args:
        rest: reconstruction and perceptual terms, a scalar with gradients.
        adversarial: the generator's adversarial term, unweighted, likewise.
        features: `TrainingOutput.features`; ``last_layer`` holds W.

    Raises:
        ConfigError: the tokenizer names no last layer, or it does not train.

    Example:
        >>> total = rest + adaptive_weight(rest, gan, out.features) * gan
    """
    weight = features.get(LAST_LAYER)
    if weight is None or not weight.requires_grad:
        raise ConfigError(
            "objective.adaptive_weight needs a tokenizer whose decoder ends in a layer that "
            "trains (features['last_layer'], as VQGAN in training has); switch it off"
        )
    norms = []
    for term in (rest, adversarial):
        (gradient,) = torch.autograd.grad(term, weight, retain_graph=True)
        norms.append((sum_over_processes(gradient) / world_size()).norm())
    return (norms[0] / (norms[1] + STABILITY)).clamp(0.0, LARGEST).detach()
