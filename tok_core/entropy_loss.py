"""Entropy loss: every latent should be sure of its code, and the batch should use all codes.

    p = softmax(-|z - c|^2 / T) per latent;  loss = mean over latents of H(p) - H(mean of p)

Letters: N latents, K codes, D dimensions, R rows of one block.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tok_core.full_float32 import full_float32
from tok_core.processes import joined_mean

# Probabilities alive at once: 16 MB, whatever N and K are.
_BLOCK = 1 << 22
# Inside the logarithm of the mean, where codes that nothing is near have probability 0.
_EPSILON = 1e-5


def entropy_loss(z: Tensor, vectors: Tensor, *, temperature: float = 0.01) -> Tensor:
    """Return the entropy loss, a float32 scalar with gradients for latents and codes.

    The N x K probabilities are made block by block, and made again for the gradient, so memory
    grows with neither. The mean of p is over the latents of all processes, a collective; with
    gradients averaged over processes, as DDP does, the result is that of the joined batch.

    Args:
        z: (N, D) latents, as they are compared with the codes; N equal on every process.
        vectors: (K, D) codes.
        temperature: T, above 0.

    Source: Jansen et al. 2020, arXiv 1911.05894, as in MaskGIT's and LlamaGen's released code.

    Example:
        >>> loss = 0.1 * entropy_loss(latents, quantizer.vectors)
    """
    rows = max(1, _BLOCK // len(vectors))
    mean, own = z.new_zeros(len(vectors), dtype=torch.float32), z.new_zeros(())
    for block in z.float().split(rows):
        share, spread = checkpoint(
            _block, block, vectors.float(), temperature,
            use_reentrant=False, preserve_rng_state=False,
        )  # fmt: skip
        mean, own = mean + share / len(z), own + spread / len(z)
    mean = joined_mean(mean)
    return own + (mean * (mean + _EPSILON).log()).sum()


def _block(z: Tensor, vectors: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the sum of p over the rows (K,), and the sum of their entropies."""
    with full_float32(z.device.type):
        # |z|^2 is the same for every code and drops out of the softmax.
        distance = vectors.square().sum(1) - 2 * (z @ vectors.t())
        log_p = torch.log_softmax(-distance / temperature, dim=1)
        p = log_p.exp()
        return p.sum(0), -(p * log_p).sum()
