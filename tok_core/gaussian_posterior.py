"""The diagonal Gaussian that a KL autoencoder's encoder says, for pictures, sound and 1D latents.

    moments --split, clamp--> mean, log-variance --sample--> z = mean + exp(log-variance / 2) noise

Kingma and Welling 2013, arXiv 1312.6114, section 3 and appendix B.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# With variances near 1 the noise drowns the means of the first hundreds of steps.
START_LOG_VARIANCE = -6.0
# Of every published KL autoencoder: variances stay finite in float16 and float32.
LOG_VARIANCE = (-30.0, 20.0)


class GaussianPosterior(NamedTuple):
    """A diagonal Gaussian over latents of any layout.

    Attributes:
        mean, log_variance: of one shape, float32; the log-variance within -30 to 20.

    Example:
        >>> posterior = GaussianPosterior.of(torch.zeros(2, 8, 4, 4), axis=1)
        >>> posterior.mean.shape, posterior.kl(axis=1).shape
        (torch.Size([2, 4, 4, 4]), torch.Size([2, 4, 4]))
    """

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def of(cls, moments: Tensor, axis: int) -> GaussianPosterior:
        """Split what an encoder says: the first half of ``axis`` is the mean."""
        mean, log_variance = moments.float().chunk(2, dim=axis)
        return cls(mean, log_variance.clamp(*LOG_VARIANCE))

    def sample(
        self, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return ``mean + std * noise``; noise like the mean is drawn where none is given."""
        if noise is None:
            noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def kl(self, axis: int = -1) -> Tensor:
        """Return the divergence from the standard normal in nats, summed over ``axis``."""
        terms = self.mean.square() + self.log_variance.exp() - 1 - self.log_variance
        return 0.5 * terms.sum(axis)


@torch.no_grad()
def start_certain(weight: Tensor, bias: Tensor) -> None:
    """Let a fresh last layer say small, nearly constant variances, in place.

    Args:
        weight: (2 C, ...), the means' rows first. bias: (2 C,).
    """
    half = len(weight) // 2
    weight[half:] *= 0.1
    bias[half:] = START_LOG_VARIANCE
