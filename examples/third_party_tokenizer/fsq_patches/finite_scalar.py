"""Finite scalar quantization: a codebook that nobody learns, the corners of a lattice.

    b (..., D) in [-1, 1] --round channel d to L_d even steps--> digits --> one code in [0, K)

Mentzer et al. 2023, arXiv 2309.15505, in the form without an offset: the levels of every channel
spread evenly from -1 to 1.  Letters: D channels, L levels of a channel, K = product of all L.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tok_core.code_search import CodeSearch
from tok_core.codebook_usage import codebook_statistics
from tok_core.full_float32 import full_float32
from tok_core.vector_quantizer import Quantized


class FiniteScalarQuantizer(nn.Module):
    """Round bounded latents, channels last; it has no parameter and no buffer.

    Args:
        levels: L of every channel, each at least 2.

    Example:
        >>> FiniteScalarQuantizer([8, 5, 5, 5])(torch.rand(2, 16, 4) * 2 - 1).codes.shape
        torch.Size([2, 16])
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.codebook_size = math.prod(self.levels)

    @property
    def vectors(self) -> Tensor:
        """The (K, D) float32 lattice; made when asked for, since `__init__` may run on meta."""
        return self.lookup(torch.arange(self.codebook_size))

    def encode(self, b: Tensor) -> Tensor:
        """Return the codes (...) of ``b`` (..., D) in [-1, 1]."""
        with torch.no_grad(), full_float32(b.device.type):
            steps = torch.tensor(self.levels, device=b.device) - 1
            digits = ((b.float() + 1) / 2 * steps).round().long()
            return (digits * self._places(b.device)).sum(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the lattice points (..., D) of codes (...)."""
        levels = torch.tensor(self.levels, device=codes.device)
        digits = codes[..., None] // self._places(codes.device) % levels
        return digits.float() / (levels - 1) * 2 - 1

    def forward(self, b: Tensor) -> Quantized:
        """Quantize ``b`` (..., D); the gradient passes straight through the rounding."""
        codes = self.encode(b)
        latents = b + (self.lookup(codes) - b).detach()
        # What was searched for in which codebook: all that latent perturbation has to know.
        search = CodeSearch(b.detach().float(), 0, range(codes.shape[1:].numel()))
        statistics = codebook_statistics(codes, self.codebook_size)
        return Quantized(latents, codes, {}, statistics, searches=(search,))

    def _places(self, device: torch.device) -> Tensor:
        """What a digit of each channel counts, (D,)."""
        counts = [math.prod(self.levels[:d]) for d in range(len(self.levels))]
        return torch.tensor(counts, device=device)
