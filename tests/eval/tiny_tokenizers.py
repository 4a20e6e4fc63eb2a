"""Small real tokenizers with random weights, and pictures, for the tests of the judge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from vision_tok.titok import TiTok

SIZE = 16
SMALL: dict[str, Any] = {
    "image_size": SIZE, "patch_size": 4, "encoder_size": {"width": 32, "layers": 2, "heads": 4},
    "decoder_size": {"width": 48, "layers": 2, "heads": 4}, "num_tokens": 8, "token_size": 6,
    "codebook_size": 32,
}  # fmt: skip


def tiny_titok(seed: int = 0, **changes: Any) -> TiTok:
    """Return an image tokenizer of 8 tokens and 32 codes whose pictures follow its codes."""
    from vision_tok.one_d_piece import OneDPiece

    torch.manual_seed(seed)
    model = OneDPiece(**SMALL | changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.quantizer.codebook.copy_(torch.randn_like(model.quantizer.codebook))
    return model.eval()


def pictures(batch: int, seed: int = 1) -> Tensor:
    """Return (B, 3, 16, 16) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, SIZE, SIZE, generator=generator) * 2 - 1


class MeanDistance(Metric):
    """Squared distance of the mean pictures of two sets: the least that is a distance of sets."""

    full_state_update = False

    def __init__(self, prefix: str = "") -> None:
        super().__init__()
        self.prefix = prefix
        for side in ("real", "fake"):
            for name, zeros in (("sum", torch.zeros(48)), ("count", torch.zeros(()))):
                self.add_state(f"{prefix}{side}_{name}", zeros.double(), "sum", persistent=True)

    def update(self, images: Tensor, *, real: bool) -> None:
        """Take uint8 (B, 3, H, W)."""
        assert images.dtype == torch.uint8
        small = torch.nn.functional.adaptive_avg_pool2d(images.double(), 4).flatten(1)
        total, count = self._side("real" if real else "fake")
        total.add_(small.sum(0))
        count.add_(len(images))

    def compute(self) -> dict[str, Tensor]:
        """Return it under a key, as Fréchet distances may."""
        (real, reals), (fake, fakes) = self._side("real"), self._side("fake")
        return {"distance": (real / reals - fake / fakes).square().sum(), "count": fakes}

    def _side(self, side: str) -> tuple[Tensor, Tensor]:
        head = f"{self.prefix}{side}"
        return getattr(self, f"{head}_sum"), getattr(self, f"{head}_count")
