"""Binary spherical quantizer: the signs of a unit vector are its code; there is no table to learn.

    z ──normalise──▶ f ──signs──▶ bits b ──▶ (2 b - 1) / sqrt(C)        index = sum_j b_j 2^j

    over scales:  r := f;  on every scale:  q = signs of area(r);  h = phi(bicubic(q));  r -= h

Bit 0 is channel 0.  The entropy loss asks every latent to be sure of its bits and the batch to use
both values of every bit.

Zhao et al. 2024, "Image and Video Tokenization with Binary Spherical Quantization", arXiv
2406.07548; over scales as in XQ-GAN, arXiv 2412.01762 (MSBR).  Letters: B batch, C bits and
channels, H W grid, S scales, K = 2^C codes, M cells of one scale, T temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tok_core.codebook_usage import entropy
from tok_core.errors import ConfigError
from tok_core.phi_residual import PhiResidual
from tok_core.processes import joined_mean, sum_over_processes
from tok_core.scale_residual import Level, item_rows
from tok_core.scale_usage import scale_statistics

# Beyond this neither a table of all codes nor their counts are made.
_LARGEST_TABLE = 1 << 16
# Codes are int64.
_MOST_BITS = 62
# Inside the logarithm of the mean, as in `tok_core.entropy_loss`.
_EPSILON = 1e-5


class BinarySphericalQuantizer(PhiResidual):
    """C bits per cell over one or many scales, always in float32.

    Latents are brought to unit length first; what the decoder gets is on the unit sphere for one
    scale without phi.

    Args:
        codebook_size: K, exactly 2^C. code_dim: C, 1 to 62.
        scales: of the native grid, coarse to fine; None takes any grid as one scale.
        phi_convs: convolutions shared among the scales; None is none for one scale and 4 for many.
        entropy: weight of the entropy loss, 0 for none.
        temperature: T of the entropy loss, above 0; codes are drawn as softmax(-|z - c|^2 / T).
        options: as `tok_core.phi_residual.PhiResidual` takes them.

    Raises:
        ConfigError: a codebook size that is not 2^C, or values out of range.

    Source: arXiv 2406.07548, section 3 and eq. 9 to 13; arXiv 2412.01762.

    Example:
        >>> quantizer = BinarySphericalQuantizer(4096, 12, [1, 2, 4])
        >>> quantizer(torch.randn(2, 12, 4, 4)).codes.shape
        torch.Size([2, 21])
    """

    # The entropy loss needs the gradient of what every scale quantizes.
    follows_targets = True
    metric = "l2"

    def __init__(
        self,
        codebook_size: int,
        code_dim: int,
        scales: Sequence[int | Sequence[int]] | None = None,
        *,
        phi_convs: int | None = None,
        entropy: float = 0.1,
        temperature: float = 0.01,
        **options: Any,
    ) -> None:
        _check_bits(codebook_size, code_dim)
        if not entropy >= 0 or not temperature > 0:
            raise ConfigError(
                f"entropy {entropy} and temperature {temperature} came in; "
                "legal are 0 or more, and above 0."
            )
        if codebook_size > _LARGEST_TABLE and options.get("average_usage"):
            raise ConfigError(
                f"average_usage counts every code, but {code_dim} bits have {codebook_size}; "
                f"leave it out above {_LARGEST_TABLE}."
            )
        if phi_convs is None:
            phi_convs = 0 if scales is None or len(scales) == 1 else 4
        super().__init__(codebook_size, code_dim, scales, phi_convs=phi_convs, **options)
        self.entropy, self.temperature = entropy, temperature

    @property
    def vectors(self) -> Tensor:
        """The (K, C) float32 table of all codes, up to 2^16 of them.

        Raises:
            ConfigError: more codes than that.
        """
        if self.codebook_size > _LARGEST_TABLE:
            raise ConfigError(
                f"a table of {self.codebook_size} binary codes was asked for; tables are made up "
                f"to {_LARGEST_TABLE}: use lookup for the vectors of given codes."
            )
        device = next(self.parameters()).device if len(self.phi) else None
        return self.values(torch.arange(self.codebook_size, device=device))

    def values(self, codes: Tensor) -> Tensor:
        """Return the vectors (..., C) of int64 codes (...)."""
        places = torch.arange(self.code_dim, device=codes.device)
        bits = (codes[..., None] >> places) & 1
        return (2 * bits - 1).float() * self.code_dim**-0.5

    def extra_repr(self) -> str:
        """Sizes and the options that differ between models."""
        sizes = None if self.scales is None else self.scales.sizes
        return f"{self.codebook_size}, {self.code_dim}, scales={sizes}, entropy={self.entropy}"

    # -- the parts of the loop -----------------------------------------------------------------

    def _space(self, f: Tensor) -> Tensor:
        return F.normalize(f, dim=1)

    def _searcher(self) -> Callable[[Tensor], Tensor]:
        return _indices

    def _rows(self, codes: Tensor, stream: str | None) -> Tensor:
        if stream is not None:
            raise ConfigError(f"stream '{stream}' was asked for; this quantizer has no streams.")
        return self.values(codes).movedim(-1, 1)

    def _statistics(self, codes: Sequence[Tensor]) -> dict[str, Tensor]:
        flat = torch.cat([part.reshape(-1) for part in codes])
        ones = (self.values(flat) > 0).sum(0)
        bits = sum_over_processes(torch.stack([len(flat) - ones, ones], 1))
        # In bits: 1 where both values of every bit occur equally often.
        found = {"codebook/bit_entropy": (entropy(bits).mean() / math.log(2)).float()}
        if self.codebook_size <= _LARGEST_TABLE:
            found |= scale_statistics(codes, self.codebook_size)
        return found

    def _losses(
        self, f: Tensor, levels: Sequence[Level], keep: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        total, losses = super()._losses(f, levels, keep)
        if not len(self.phi):
            # Nothing learns from it: the codes stand still.
            del losses["quantizer/codebook"]
        if self.entropy:
            each = [
                bit_entropy_loss(
                    item_rows([level.target]), self.temperature,
                    None if keep is None else keep[s].repeat_interleave(level.codes[0].numel()),
                )
                for s, level in enumerate(levels)
            ]
            losses["quantizer/entropy"] = self.entropy * torch.stack(each).mean()
        return total, losses


def bit_entropy_loss(z: Tensor, temperature: float, weight: Tensor | None = None) -> Tensor:
    """Return the entropy loss of binary codes, a float32 scalar with gradients for latents.

    Bits are independent given a latent: p_j = sigmoid(4 z_j / (sqrt(C) T)), so the entropy of its
    2^C probabilities is the sum of its bits' entropies, exactly. For the mean of the probabilities
    the sum over bits is an upper bound, reached where bits are independent over the batch.

    The mean of p is over the latents of all processes, a collective; with gradients averaged over
    processes, as DDP does, the result is that of the joined batch.

    Args:
        z: (M, C) latents, as their signs are taken; M equal on every process.
        temperature: T, above 0.
        weight: (M,) of every latent, with mean 1 over all processes; None weighs all alike.

    Source: arXiv 2406.07548, eq. 9 to 13 (the "soft" form of its released code).

    Example:
        >>> loss = 0.1 * bit_entropy_loss(latents, 0.01)
    """
    logits = z.float() * (4.0 / (z.shape[1] ** 0.5 * temperature))
    p = logits.sigmoid()
    # H(p) = H(1 - p) from the side that loses no digits and knows no log 0.
    side = -logits.abs()
    spread = F.softplus(side) - side * side.sigmoid()
    if weight is not None:
        p, spread = p * weight[:, None], spread * weight[:, None]
    own, mean = spread.sum(1).mean(), p.mean(0)
    mean = joined_mean(mean)
    both = torch.stack((mean, 1 - mean)).clamp(min=0)
    return own + (both * (both + _EPSILON).log()).sum()


def _indices(rows: Tensor) -> Tensor:
    """Return the codes (M,) of latents (M, C): bit j is the sign of channel j, 0 counts as -."""
    places = torch.arange(rows.shape[1], device=rows.device)
    return ((rows > 0).long() << places).sum(1)


def _check_bits(codebook_size: int, code_dim: int) -> None:
    if not 1 <= code_dim <= _MOST_BITS:
        raise ConfigError(
            f"code_dim is {code_dim}; a binary code has one bit per channel: give 1 to "
            f"{_MOST_BITS}."
        )
    if codebook_size != 1 << code_dim:
        raise ConfigError(
            f"a binary codebook of {codebook_size} met code_dim {code_dim}; codes of {code_dim} "
            f"bits are {1 << code_dim}: give that codebook_size, or log2 of yours as code_dim."
        )
