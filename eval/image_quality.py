"""PSNR, SSIM, MS-SSIM and MSE of pictures against their originals, each convention by its name.

Letters: B pictures of a batch, H W pixels.

All take bytes, which is what a picture file holds; float pictures in [-1, 1] go through the byte
rule of `tok_core.image_measures`.  The test picture comes first, its original second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from eval.item_metric import ItemMetric
from eval.metric_entry import MetricEntry
from eval.ssim_conventions import SSIM_CONVENTIONS, unit_pair
from tok_core.errors import ConfigError, nearest
from tok_core.image_measures import PEAK, byte_pair, check_pair, psnr

MS_SSIM_SIDE = 176  # the fifth scale must hold an 11 x 11 window: 11 * 2^4


class PSNR(ItemMetric):
    """Mean over pictures of 10 log10(255^2 / MSE), all channels and pixels of one in its MSE.

    A picture equal to its original has no finite value: `infinite` counts those, the mean leaves
    them out.

    Args:
        convention: ``bytes``; ``llamagen`` (range 1, a float original stays unquantised) or
            ``pyiqa`` (1e-8 added to the MSE on [0, 1], which caps at 80 dB).
        options: of `torchmetrics.Metric`.

    Raises:
        ConfigError: another convention. MediaError (update): shapes differ.

    Example:
        >>> metric = PSNR()
        >>> metric.update(decoded, originals)      # uint8 (B, 3, H, W)
        >>> metric.compute(), metric.infinite
    """

    higher_is_better = True
    CONVENTIONS: ClassVar[tuple[str, ...]] = ("bytes", "llamagen", "pyiqa")

    def __init__(self, convention: str = "bytes", **options: Any) -> None:
        super().__init__(**options)
        _known(convention, self.CONVENTIONS)
        self.convention = convention

    @property
    def infinite(self) -> int:
        """Number of pictures equal to their originals."""
        return int(torch.isinf(self.collected()[0]).sum())

    def measure(self, *signals: Tensor) -> tuple[Tensor, Tensor]:
        """Return decibels (B,) and codes, all 0, of test and reference (B, 3, H, W)."""
        test, reference = signals
        if self.convention == "bytes":
            return _all_fine(psnr(test, reference))
        a, b = unit_pair(test, reference)
        error = (a - b).square().mean(dim=(1, 2, 3))
        epsilon = 1e-8 if self.convention == "pyiqa" else 0.0
        return _all_fine(-10 * torch.log10(error + epsilon))


class PooledPSNR(Metric):
    """PSNR of the MSE over all pictures together, as torchmetrics' default gives it.

    Lower than the mean of the pictures' own values, since the worst ones dominate. Ours keeps its
    sums in float64, over any number of pictures; torchmetrics' are float32.

    Args:
        options: of `torchmetrics.Metric`.

    Example:
        >>> metric = PooledPSNR()
        >>> metric.update(decoded, originals)      # uint8 (B, 3, H, W)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    squared_error: Tensor
    numbers: Tensor
    items: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("squared_error", zero, dist_reduce_fx="sum", persistent=True)
        for name in ("numbers", "items"):
            count = torch.zeros((), dtype=torch.int64)
            self.add_state(name, count, dist_reduce_fx="sum", persistent=True)

    def update(
        self, test: Tensor, reference: Tensor, indices: Sequence[int] | Tensor | None = None
    ) -> None:
        """Take (B, 3, H, W) twice; ``indices`` is not looked at."""
        a, b = byte_pair(test, reference)
        self.squared_error += (a - b).square().sum().to(self.squared_error.device)
        self.numbers += a.numel()
        self.items += len(a)

    def compute(self) -> Tensor:
        """Return decibels, float64; inf where all pictures equal their originals."""
        return 10 * torch.log10(PEAK**2 * self.numbers / self.squared_error)


class MSE(ItemMetric):
    """Mean over pictures of the mean squared difference in grey levels (0 to 255)."""

    higher_is_better = False

    def measure(self, *signals: Tensor) -> tuple[Tensor, Tensor]:
        """Return squared grey levels (B,) and codes, all 0."""
        a, b = byte_pair(*signals)
        return _all_fine((a - b).square().mean(dim=(1, 2, 3)))


class SSIM(ItemMetric):
    """Mean over pictures of the structural similarity, in one of the conventions in use.

    Args:
        convention: a name in `eval.ssim_conventions`; ``gaussian`` is the paper's.
        options: of `torchmetrics.Metric`.

    Raises:
        ConfigError: another convention. MediaError (update): shapes differ.

    Source: Wang, Bovik, Sheikh, Simoncelli 2004, eq. 13.

    Example:
        >>> metric = SSIM("llamagen")
        >>> metric.update(decoded, originals)      # uint8 (B, 3, H, W)
    """

    higher_is_better = True
    REASONS: ClassVar[tuple[str, ...]] = ("", "a side is smaller than the window")

    def __init__(self, convention: str = "gaussian", **options: Any) -> None:
        super().__init__(**options)
        _known(convention, SSIM_CONVENTIONS)
        self.convention = convention

    def measure(self, *signals: Tensor) -> tuple[Tensor, Tensor]:
        """Return similarities (B,) at most 1 and failure codes of test and reference."""
        test, reference = signals
        function, side = SSIM_CONVENTIONS[self.convention]
        check_pair(test, reference)
        if min(test.shape[-2:]) < side:
            return _all_failed(test)
        # One picture at a time: ten float64 copies of a batch would not fit any cache.
        pairs = zip(test.split(1), reference.split(1), strict=True)
        return _all_fine(torch.cat([function(a, b) for a, b in pairs]))


class MultiScaleSSIM(ItemMetric):
    """Mean over pictures of torchmetrics' multi-scale similarity with a range of 1, in float64.

    Five scales; pictures with a side below 176 pixels have none and count as failed. (torchmetrics
    speaks of 160, but raises up to 175.)

    Source: Wang, Simoncelli, Bovik 2003.
    """

    higher_is_better = True
    REASONS: ClassVar[tuple[str, ...]] = ("", "five scales need sides of 176 pixels")

    def measure(self, *signals: Tensor) -> tuple[Tensor, Tensor]:
        """Return similarities (B,) and failure codes of test and reference."""
        from torchmetrics.functional.image import (
            multiscale_structural_similarity_index_measure as multi_scale,
        )

        test, reference = signals
        check_pair(test, reference)
        if min(test.shape[-2:]) < MS_SSIM_SIDE:
            return _all_failed(test)
        found = []
        for pair in zip(test.split(1), reference.split(1), strict=True):
            a, b = byte_pair(*pair)
            found.append(multi_scale(a / 255, b / 255, data_range=1.0, reduction="none"))
        return _all_fine(torch.cat([value.reshape(1) for value in found]))


def _known(convention: str, legal: Sequence[str] | Mapping[str, Any]) -> None:
    if convention not in legal:
        names = ", ".join(legal) + nearest(convention, legal)
        raise ConfigError(f"convention '{convention}' is unknown; legal are {names}")


def _all_fine(values: Tensor) -> tuple[Tensor, Tensor]:
    return values, torch.zeros(len(values), dtype=torch.int64, device=values.device)


def _all_failed(test: Tensor) -> tuple[Tensor, Tensor]:
    nan = torch.full((len(test),), float("nan"), dtype=torch.float64, device=test.device)
    return nan, torch.ones(len(test), dtype=torch.int64, device=test.device)


_WANG = "Wang, Bovik, Sheikh, Simoncelli 2004, eq. 13"
_IMAGE: dict[str, Any] = {"sense": "image", "kind": "paired", "higher_is_better": True}
_DB: dict[str, Any] = {**_IMAGE, "unit": "dB"}


def _psnr(name: str, title: str, convention: str, source: str) -> MetricEntry:
    options = {"convention": convention}
    return MetricEntry(
        name=name, title=title, build=PSNR, options=options, source=source, **_DB
    )


def _ssim(name: str, title: str, convention: str, source: str) -> MetricEntry:
    options = {"convention": convention}
    return MetricEntry(
        name=name, title=title, build=SSIM, options=options, source=source, **_IMAGE
    )


ENTRIES: tuple[MetricEntry, ...] = (
    _psnr("psnr", "PSNR", "bytes", "mean of the pictures' values, range 255"),
    MetricEntry(
        name="psnr/pooled", title="PSNR (pooled)", build=PooledPSNR, options={},
        source="of the pooled MSE, as torchmetrics' default", **_DB,
    ),
    _psnr("psnr/llamagen", "PSNR (LlamaGen)", "llamagen", "LlamaGen tokenizer evaluation"),
    _psnr("psnr/pyiqa", "PSNR (pyiqa)", "pyiqa", "pyiqa: 1e-8 added to the MSE, at most 80 dB"),
    MetricEntry(
        name="mse", title="MSE", build=MSE, options={}, unit="grey levels^2",
        source="mean of the pictures' values, range 255", **{**_IMAGE, "higher_is_better": False},
    ),
    _ssim("ssim", "SSIM", "gaussian", f"{_WANG}; inside the picture only"),
    _ssim("ssim/skimage", "SSIM (uniform)", "skimage", "scikit-image's default"),
    _ssim("ssim/llamagen", "SSIM (LlamaGen)", "llamagen", "LlamaGen: range 2 on [0, 1] values"),
    _ssim("ssim/torchmetrics", "SSIM (torchmetrics)", "torchmetrics", f"{_WANG}; torchmetrics"),
    _ssim(
        "ssim/torchmetrics-own-range", "SSIM (own range)", "torchmetrics-own-range",
        "torchmetrics without data_range",
    ),
    _ssim("ssim/luma", "SSIM (luma)", "luma", "pyiqa: BT.601 luma"),
    MetricEntry(
        name="ms_ssim", title="MS-SSIM", build=MultiScaleSSIM, options={},
        source="Wang, Simoncelli, Bovik 2003; torchmetrics", **_IMAGE,
    ),
)  # fmt: skip
