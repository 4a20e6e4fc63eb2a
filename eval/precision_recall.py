"""Improved precision and recall: fidelity and coverage of generated pictures, told apart.

    precision   share of generated vectors inside some ball around a real one
    recall      share of real vectors inside some ball around a generated one

A ball reaches to its centre's k-th nearest other vector of the same set. Swapping both sets swaps
both numbers, so the sets are given by keyword only.

Letters: N generated and M real vectors, D dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from eval.pair_distances import centred, neighbour_radii, within
from tok_core.errors import ConfigError, MediaError

NEIGHBOURS = 3


class PrecisionRecall(NamedTuple):
    """Both shares, float64 scalars in [0, 1]."""

    precision: Tensor
    recall: Tensor


def precision_recall(
    *, generated: Tensor, real: Tensor, neighbours: int = NEIGHBOURS
) -> PrecisionRecall:
    """Return precision and recall; memory is that of the features and one block of distances.

    Args:
        generated: (N, D) features. real: (M, D) features of the same extractor and tap.
        neighbours: k, 1 or more.

    Raises:
        ConfigError: k out of range, too few vectors, or other dimensions. MediaError: NaN.

    Source: Kynkäänniemi et al. 2019, arXiv 1904.06991, eq. 1 to 3.

    Example:
        >>> precision_recall(generated=fake, real=real).recall
    """
    if neighbours < 1 or min(len(generated), len(real)) <= neighbours:
        raise ConfigError(
            f"precision and recall with {neighbours} neighbours of {len(generated)} generated and "
            f"{len(real)} real pictures cannot be had; give more than k of each and k of 1 or more."
        )
    if generated.shape[1] != real.shape[1]:
        raise ConfigError(
            f"features of {generated.shape[1]} and {real.shape[1]} dimensions cannot be compared; "
            "take both from one tap of one extractor."
        )
    if not bool(generated.isfinite().all() and real.isfinite().all()):
        raise MediaError("the features hold NaN or infinity; leave the damaged pictures out.")
    fake, true = centred(generated, real)
    inside_real, inside_fake = within(
        fake, true, neighbour_radii(fake, neighbours), neighbour_radii(true, neighbours)
    )
    return PrecisionRecall(inside_real.double().mean(), inside_fake.double().mean())
