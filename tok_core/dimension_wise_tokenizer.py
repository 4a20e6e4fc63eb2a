"""What tokenizers over a continuous autoencoder share, for pictures and sound alike.

    x --autoencoder--> z --normalise--> (B, D, ...) --levels--> codes, one per dimension
    codes --values--> (B, D, ...) --restore--> z^ --autoencoder--> x^

Latents, code values and tables are all on the normalised scale (about unit variance), so that
``embed`` is what a generator takes as input and every dimension has the same table.

Wang et al. 2025, arXiv 2503.16430.  Letters: B batch, C channels of the autoencoder, D dimensions
of one position, V levels, h w grid, T frames.
"""

from __future__ import annotations

import math
import warnings
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from tok_core.code_search import CodeSearch
from tok_core.codebook import Codebook
from tok_core.codebook_usage import codebook_statistics
from tok_core.contract import Tokenizer, Tokens
from tok_core.dimension_wise import DimensionWiseQuantizer
from tok_core.dimension_wise_config import DimensionWiseConfig
from tok_core.errors import TokenError
from tok_core.processes import sum_over_processes
from tok_core.vector_quantizer import Quantized

# Ten times what a calibrated range leaves outside: the settings are not those of these latents.
WARNED_SHARE = 1e-3


class Clipped(NamedTuple):
    """Latents that lay outside the clip range since the model was made.

    Attributes:
        outside: how many. total: of how many numbers.
    """

    outside: int
    total: int

    @property
    def share(self) -> float:
        """Their share, 0 before anything was encoded."""
        return self.outside / self.total if self.total else 0.0


class DimensionWiseTokenizer(Tokenizer):
    """Codes of D small integers per position; a subclass adds the autoencoder.

    Attributes:
        codes_last: the dimension is the last axis of the codes (pictures), or the first after the
            batch (sound), where it is in the latents.
        calibrate_with: what measures the settings, for the warning about clipped latents.
        quantizer: levels, scale and clip range.
    """

    _keep_in_fp32_modules = ["quantizer"]
    code_config: ClassVar[tuple[str, ...]] = (
        "bits", "std_range", "low", "high", "scale", "shift", "empty_bins",
    )  # fmt: skip
    codes_last: ClassVar[bool]
    calibrate_with: ClassVar[str] = "tok_core.dimension_calibration.calibrate"
    quantizer: DimensionWiseQuantizer

    def build_quantizer(self, config: DimensionWiseConfig, channels: int, dimensions: int) -> None:
        """Make the quantizer and put the checked settings, with a whole order, into the config.

        Raises:
            ConfigError: numbers per channel, or an order, of another autoencoder.
        """
        config.check_sizes(channels, dimensions)
        self.dimensions = dimensions
        self.quantizer = DimensionWiseQuantizer(config)
        order = config.channel_order or tuple(range(dimensions))
        self.register_to_config(**config.to_json() | {"channel_order": list(order)})
        self._clipped = Clipped(0, 0)
        self._warned = False

    # -- what it is ----------------------------------------------------------------------------

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        """The values (V, 1) of one dimension, D times the same table."""
        values = self.quantizer.values.to(self.device)[:, None]
        return (Codebook(values, "l2"),) * self.dimensions

    @property
    def clipped(self) -> Clipped:
        """How many latents lay outside the clip range in all calls of ``encode`` so far."""
        return self._clipped

    # -- latents and codes ---------------------------------------------------------------------

    def codes_of(self, x: Tensor) -> Tensor:
        """Return the codes of normalised latents (B, D, ...), and count what is clipped."""
        self._count(x)
        return self._outer(self.quantizer.encode(x))

    def values_of(self, codes: Tensor) -> Tensor:
        """Return the normalised latents (B, D, ...) of codes in the contract's layout."""
        return self.quantizer.lookup(self._inner(codes))

    def mixed_latents(self, x: Tensor, tokens: Tokens, kept: Tensor | None) -> Tensor:
        """Return what the decoder gets of given tokens, normalised latents (B, D, ...).

        Args:
            x: the signal, which the encoder reads for kept positions, without gradient.
            tokens: whose values the other positions show.
            kept: bool (B, L), positions (row by row, or along time) that show the encoder's latents
                unquantized; None for none, and no encoder runs.

        Raises:
            TokenError: signal, tokens and ``kept`` are not of the same positions.
        """
        z = self.embed(tokens)
        if kept is None:
            return z
        with torch.no_grad():
            real = self.latents(x)
        if real.shape != z.shape or kept.shape != (len(z), math.prod(z.shape[2:])):
            raise TokenError(
                f"kept positions {tuple(kept.shape)} and latents {tuple(real.shape)} of the signal "
                f"came in for tokens with latents {tuple(z.shape)}; give all of one batch and size."
            )
        return torch.where(kept.view(len(z), 1, *z.shape[2:]), real, z)

    def quantized(self, x: Tensor) -> Quantized:
        """Quantize normalised latents (B, D, ...) for training, straight through.

        The statistics have ``quantizer/clipped``, the share outside the clip range, beside usage
        and perplexity of the levels over all dimensions; there are no losses: nothing trains here.
        """
        codes = self.quantizer.encode(x)
        values = self.quantizer.lookup(codes)
        outside = self.quantizer.outside(x.detach()).sum().float()
        both = sum_over_processes(torch.stack([outside, outside.new_tensor(x.numel())]))
        statistics = codebook_statistics(codes, self.quantizer.num_levels)
        statistics["quantizer/clipped"] = both[0] / both[1].clamp(min=1)
        return Quantized(
            x + (values - x).detach(), self._outer(codes), {}, statistics, self._searches(x)
        )

    def _searches(self, x: Tensor) -> tuple[CodeSearch, ...]:
        rows = x.detach().float().flatten(2)[..., None]
        length = math.prod(x.shape[2:])
        step, start = (self.dimensions, 1) if self.codes_last else (1, length)
        return tuple(
            CodeSearch(
                rows[:, d], factor=d,
                places=range(d * start, d * start + (length - 1) * step + 1, step),
            )
            for d in range(self.dimensions)
        )  # fmt: skip

    def _outer(self, codes: Tensor) -> Tensor:
        return codes.movedim(1, -1) if self.codes_last else codes

    def _inner(self, codes: Tensor) -> Tensor:
        return codes.movedim(-1, 1) if self.codes_last else codes

    def _count(self, x: Tensor) -> None:
        if x.is_meta:
            return
        outside, total = int(self.quantizer.outside(x).sum()), x.numel()
        before = self._clipped
        self._clipped = Clipped(before.outside + outside, before.total + total)
        if self._warned or outside <= WARNED_SHARE * total:
            return
        self._warned = True
        config = self.quantizer.config
        warnings.warn(
            f"{100 * outside / total:.2g} % of the latents lie outside {config.low:.4g} to "
            f"{config.high:.4g} and are clipped; measure scale and range on your data with "
            f"{self.calibrate_with} and use the tokenizer that it makes.",
            stacklevel=4,
        )
