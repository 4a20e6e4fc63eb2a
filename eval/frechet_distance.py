"""The Fréchet distance of two Gaussians, in float64, whatever their covariances.

    d = |m_a - m_b|^2 + Tr(S_a) + Tr(S_b) - 2 Tr((S_a S_b)^(1/2))        Dowson and Landau 1982

Three routes to the last trace, each exact where the others are slow or noisy:

features    ||C_a C_b^T||_* / sqrt((n_a - 1)(n_b - 1)) of the centred vectors, when there are
            fewer vectors than dimensions and they were kept
full rank   S_a = L L^T (Cholesky); the eigenvalues of L^T S_b L are those of S_a S_b
deficient   S_a = L L^T from the eigenvectors that it can have at most (n_a - 1, none below
            rounding noise): L is (D, r), so no square root is taken of noise around zero

No route forms a matrix square root, and none raises for singular or ill-conditioned matrices.

Letters: D dimensions, n vectors of a set, r rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eval.moments import Moments, moments_of
from tok_core.errors import ConfigError, MediaError

# An eigenvalue below this share of the largest, times D, is rounding noise.
NOISE = torch.finfo(torch.float64).eps


def frechet_distance(a: Moments, b: Moments) -> Tensor:
    """Return the distance of two sets from their means and covariances.

    Args:
        a, b: moments of D dimensions each, float64; a known count makes sets of fewer vectors
            than dimensions exact.

    Returns:
        float64 scalar; rounding can leave about -1e-10 for equal sets.

    Raises:
        ConfigError: other dimensions. MediaError: NaN or infinity.

    Source: Heusel et al. 2017, arXiv 1706.08500, eq. 6.

    Example:
        >>> a, b = moments_of(real), moments_of(fake)
        >>> float(frechet_distance(a, b))
    """
    if a.mean.shape != b.mean.shape or a.covariance.shape != b.covariance.shape:
        raise ConfigError(
            f"statistics of {a.mean.shape[-1]} and of {b.mean.shape[-1]} dimensions cannot be "
            "compared; take both from one tap of one extractor."
        )
    if not all(bool(torch.isfinite(part).all()) for one in (a, b) for part in one[:2]):
        raise MediaError(
            "the statistics hold NaN or infinity, so there is no distance; make them again."
        )
    return _assembled(a, b, _root_trace(a, b))


def frechet_distance_of_features(a: Tensor, b: Tensor) -> Tensor:
    """Return the distance of two sets of vectors (n_a, D) and (n_b, D), by the best route.

    Raises:
        ConfigError: other dimensions, or fewer than two vectors.

    Example:
        >>> float(frechet_distance_of_features(real, fake))
    """
    first, second = moments_of(a), moments_of(b)
    if min(len(a), len(b)) > a.shape[1] or a.shape[1] != b.shape[1]:
        return frechet_distance(first, second)
    return _assembled(first, second, nuclear_norm_trace(a, b, first.mean, second.mean))


def nuclear_norm_trace(a: Tensor, b: Tensor, mean_a: Tensor, mean_b: Tensor) -> Tensor:
    """Return Tr((S_a S_b)^(1/2)) from the vectors (n, D) of both sets and their means (D,)."""
    left, right = a.double() - mean_a, b.double() - mean_b
    singular = torch.linalg.svdvals(left @ right.mT)
    return singular.sum() / ((len(a) - 1) * (len(b) - 1)) ** 0.5


def _assembled(a: Moments, b: Moments, root_trace: Tensor) -> Tensor:
    shift = (a.mean - b.mean).square().sum()
    traces = a.covariance.diagonal().sum() + b.covariance.diagonal().sum()
    return shift + traces - 2.0 * root_trace


def _root_trace(a: Moments, b: Moments) -> Tensor:
    """Return Tr((S_a S_b)^(1/2))."""
    # The product's trace is symmetric in both: factor the one of lower rank.
    if _rank_at_most(b) < _rank_at_most(a):
        a, b = b, a
    one, other = a.covariance, b.covariance
    scale_one, scale_other = one.abs().max(), other.abs().max()
    if not (scale_one > 0 and scale_other > 0):
        return one.new_zeros(())
    one, other = one / scale_one, other / scale_other  # squares stay far from overflow
    factor = _factor(one, _rank_at_most(a))
    if factor.shape[1] == len(one) and b.count is None:
        # Of unknown counts only the eigenvalues tell the rank.
        second = _factor(other, len(other))
        factor, other = (second, one) if second.shape[1] < factor.shape[1] else (factor, other)
    product = factor.mT @ other @ factor
    eigenvalues = torch.linalg.eigvalsh((product + product.mT) / 2)
    return eigenvalues.clamp(min=0).sqrt().sum() * (scale_one * scale_other).sqrt()


def _rank_at_most(moments: Moments) -> int:
    dimension = moments.mean.shape[-1]
    return dimension if moments.count is None else min(dimension, moments.count - 1)


def _factor(covariance: Tensor, rank: int) -> Tensor:
    """Return L (D, r) with L L^T = S, r at most ``rank``."""
    if rank == len(covariance):
        factor, failed = torch.linalg.cholesky_ex(covariance)
        # A pivot near the rounding noise means a singular matrix that happened to pass.
        if not bool(failed) and bool((factor.diagonal().square() > 1e-11).all()):
            return factor
    values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
    kept = values > NOISE * len(values) * values[-1]
    kept[: len(values) - rank] = False
    return vectors[:, kept] * values[kept].sqrt()
