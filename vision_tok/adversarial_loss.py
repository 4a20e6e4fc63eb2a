"""Hinge and vanilla losses of a GAN and the LeCam regulariser.

Letters: B pictures, h x w the discriminator's logit map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.processes import joined_mean


def generator_hinge(fake: Tensor) -> Tensor:
    """Return -mean(D(reconstruction)), what the generator minimises.

    Args:
        fake: logits of any shape, with gradients towards the reconstruction.
    """
    return -fake.mean()


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Return 0.5 (mean relu(1 - real) + mean relu(1 + fake)); 1 where D cannot tell.

    Source: Lim and Ye, "Geometric GAN", arXiv 1705.02894.
    """
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def discriminator_vanilla(real: Tensor, fake: Tensor) -> Tensor:
    """Return 0.5 (mean softplus(-real) + mean softplus(fake)), the cross-entropy; ln 2 untrained.

    Source: Goodfellow et al., arXiv 1406.2661, weighed as in taming-transformers.
    """
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


class LeCam(nn.Module):
    """Keeps the discriminator near a moving average of its own verdicts, for scarce data.

    relu(mean real - average fake)^2 + relu(average real - mean fake)^2, then both averages move.
    The one-sided form is that of the TiTok family; the idea is Tseng et al., arXiv 2104.03310.
    XQ-GAN and RobusTok move the averages first and take the mean over logits of the squares:
    mean relu(real - average fake)^2 + mean relu(average real - fake)^2.
    Averages start at 0 and are buffers, saved with the run.  Means are taken over all processes
    (the official code takes its own process's), so several processes give one process's numbers.

    Args:
        decay: of the averages, per discriminator step.
        update_first: XQ-GAN's order and form.
    """

    average_real: Tensor
    average_fake: Tensor

    def __init__(self, decay: float = 0.999, *, update_first: bool = False) -> None:
        super().__init__()
        self.decay, self.update_first = decay, update_first
        self.register_buffer("average_real", torch.zeros(1))
        self.register_buffer("average_fake", torch.zeros(1))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the unweighted penalty, a scalar, and move the averages.

        Args:
            real: logits of pictures, any shape.
            fake: logits of reconstructions, any shape.
        """
        mean_real, mean_fake = joined_mean(real.mean()), joined_mean(fake.mean())
        if self.update_first:
            self._move(mean_real, mean_fake)
        else:
            real, fake = mean_real, mean_fake
        # Copies, since the averages change before the backward pass reads them.
        average_real, average_fake = self.average_real.clone(), self.average_fake.clone()
        penalty = (
            F.relu(real - average_fake).square().mean()
            + F.relu(average_real - fake).square().mean()
        )
        if not self.update_first:
            self._move(mean_real, mean_fake)
        return penalty

    @torch.no_grad()
    def _move(self, real: Tensor, fake: Tensor) -> None:
        self.average_real.lerp_(real.detach().view(1), 1.0 - self.decay)
        self.average_fake.lerp_(fake.detach().view(1), 1.0 - self.decay)
