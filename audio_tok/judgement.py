"""What a discriminator says, and the losses that follow from it.

Letters: B sounds, N logits per sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Judgement(NamedTuple):
    """One sub-discriminator's verdict on a batch.

    Attributes:
        logits: (B, N), higher is more real.
        maps: its feature maps in order, the logits' own map last.
    """

    logits: Tensor
    maps: list[Tensor]


Verdict = Sequence[Judgement]  # of all sub-discriminators of one kind


def hinge_generator(fake: Verdict) -> Tensor:
    """Return mean max(0, 1 - D(fake)), averaged over the sub-discriminators."""
    return torch.stack([F.relu(1 - one.logits).mean() for one in fake]).mean()


def hinge_discriminator(real: Verdict, fake: Verdict) -> Tensor:
    """Return mean max(0, 1 - D(real)) + mean max(0, 1 + D(fake)), averaged likewise."""
    terms = [
        F.relu(1 - r.logits).mean() + F.relu(1 + f.logits).mean()
        for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).mean()


def squares_generator(fake: Verdict) -> Tensor:
    """Return mean (1 - D(fake))^2, summed over the sub-discriminators."""
    return torch.stack([(1 - one.logits).square().mean() for one in fake]).sum()


def squares_discriminator(real: Verdict, fake: Verdict) -> Tensor:
    """Return mean D(fake)^2 + mean (1 - D(real))^2, summed likewise."""
    terms = [
        f.logits.square().mean() + (1 - r.logits).square().mean()
        for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).sum()


def feature_matching(real: Verdict, fake: Verdict, *, with_last: bool) -> Tensor:
    """Return the mean absolute difference of each pair of maps, summed over all of them.

    Args:
        real: constants. fake: gradients flow through it. with_last: whether the logits' map counts.

    Source: Kumar et al. 2019, arXiv 1910.06711, eq. 4.
    """
    total = fake[0].logits.new_zeros(())
    for r, f in zip(real, fake, strict=True):
        end = None if with_last else -1
        for ours, theirs in zip(r.maps[:end], f.maps[:end], strict=True):
            total = total + (theirs - ours.detach()).abs().mean()
    return total
