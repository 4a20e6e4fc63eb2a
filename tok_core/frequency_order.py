"""Order of a latent's dimensions by how much of their power lies at low frequencies.

    z (B, D, ...) - mean over places --FFT--> power;  share_d = power at |f| <= 0.25 / all power

The dimension with the largest share comes first.  Pictures: f = sqrt(fy^2 + fx^2) in cycles per
cell.  Sound has one axis: f in cycles per frame, everything else the same (our own extension).

Wang et al. 2025, arXiv 2503.16430, section 3.3, which names the idea; the cut-off, the treatment of
the mean and the sum over samples are this project's.  Letters: B batch, D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tok_core.errors import MediaError

# Of KL-16, as published (in code, not in the checkpoints): slot k predicts dimension ORDER[k].
KL16_ORDER = (8, 1, 10, 9, 6, 12, 4, 0, 3, 11, 7, 14, 2, 15, 13, 5)
CUT_OFF = 0.25  # cycles per cell or frame; Nyquist is 0.5


class FrequencyPower:
    """Sums of low and of all power per dimension, over any number of batches of any size.

    Args:
        cut_off: in cycles per cell, above 0, up to which a frequency is low.

    Example:
        >>> power = FrequencyPower()
        >>> power.add(torch.randn(8, 16, 32, 32))
        >>> order = power.order()
    """

    def __init__(self, cut_off: float = CUT_OFF) -> None:
        self.cut_off = cut_off
        self._low: Tensor | None = None
        self._all: Tensor | None = None

    @torch.no_grad()
    def add(self, z: Tensor) -> None:
        """Add latents (B, D, h, w) of pictures or (B, D, T) of sound.

        Raises:
            MediaError: another number of axes, or of dimensions than before.
        """
        if z.dim() not in (3, 4) or not z.numel():
            raise MediaError(
                f"latents of shape {tuple(z.shape)} came in; legal are (batch, dimensions, rows, "
                "columns) and (batch, dimensions, frames)."
            )
        places = tuple(range(2, z.dim()))
        z = z.double()
        power = torch.fft.fftn(z - z.mean(places, keepdim=True), dim=places).abs().square()
        squares = torch.zeros(z.shape[2:], dtype=torch.float64, device=z.device)
        for axis, size in enumerate(z.shape[2:]):
            f = torch.fft.fftfreq(size, dtype=torch.float64, device=z.device)
            squares = squares + f.square().view(-1, *[1] * (len(places) - 1 - axis))
        low = power * (squares.sqrt() <= self.cut_off)
        sums = (0, *places)
        self._add(low.sum(sums).cpu(), power.sum(sums).cpu())

    def _add(self, low: Tensor, total: Tensor) -> None:
        if self._low is None or self._all is None:
            self._low, self._all = low, total
            return
        if len(low) != len(self._low):
            raise MediaError(
                f"latents of {len(low)} dimensions came after some of {len(self._low)}; give those "
                "of one autoencoder."
            )
        self._low, self._all = self._low + low, self._all + total

    @property
    def ratio(self) -> Tensor:
        """The shares (D,) in [0, 1], float32; 0 for a dimension that is the same everywhere.

        Raises:
            MediaError: nothing was added.
        """
        if self._low is None or self._all is None:
            raise MediaError("no latents came in; give at least one batch.")
        share = self._low / self._all.clamp(min=torch.finfo(torch.float64).tiny)
        return share.float()

    def order(self) -> tuple[int, ...]:
        """Return the dimensions from the largest share to the smallest; equal ones as they lie."""
        return tuple(torch.sort(self.ratio, descending=True, stable=True).indices.tolist())
