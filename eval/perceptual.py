"""LPIPS and DISTS of pictures against their originals: learned distances, one number a picture.

The networks are those of `tok_core.lpips` and `tok_core.dists`, which serve as losses, too; here
they run in float32, in eval mode, without autocast.  The net belongs to the metric's name, because
the three give quite different values.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from eval.item_metric import ItemMetric
from eval.metric_entry import MetricEntry
from tok_core.image_measures import check_pair, to_uint8

PathLike = str | os.PathLike[str]


class Network(Protocol):
    """What the metric needs of a perceptual distance."""

    minimum_side: int

    def reference(self, target: Tensor) -> Any:
        """Return features of pictures (B, 3, H, W) in [-1, 1]."""

    def distance(self, x: Tensor, reference: Any) -> Tensor:
        """Return the distance per picture (B,)."""

    def to(self, device: torch.device) -> Any:
        """Move the network."""


class PerceptualDistance(ItemMetric):
    """Mean over pictures of a learned distance.

    Args:
        network: of `tok_core.lpips.LPIPS` or `tok_core.dists.DISTS`, or alike. Its weights are no
            state of the metric.
        weight_files: paths of what it was built from, for the record, by file name.
        chunk: pictures that go through the network at a time, which bounds memory.
        options: of `torchmetrics.Metric`.

    Raises:
        MediaError (update): shapes differ.

    Example:
        >>> metric = LPIPSDistance("vgg")
        >>> metric.update(decoded, originals)      # uint8 (B, 3, H, W)
    """

    higher_is_better = False
    REASONS: ClassVar[tuple[str, ...]] = ("", "a side is too small for the network's pools")

    def __init__(
        self,
        network: Network,
        *,
        weight_files: Mapping[str, Path] | None = None,
        chunk: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        # In a tuple, so that its weights are no state of the metric.
        self.kept = (network,)
        self.weight_files = dict(weight_files or {})
        self.chunk = chunk

    @torch.no_grad()
    def measure(self, *signals: Tensor) -> tuple[Tensor, Tensor]:
        """Return distances (B,) and failure codes of test and reference (B, 3, H, W)."""
        test, reference = signals
        check_pair(test, reference)
        codes = torch.zeros(len(test), dtype=torch.int64, device=test.device)
        network = self.kept[0]
        if min(test.shape[-2:]) < network.minimum_side:
            return torch.full_like(codes, float("nan"), dtype=torch.float64), codes + 1
        network.to(test.device)
        found = []
        for pair in zip(test.split(self.chunk), reference.split(self.chunk), strict=True):
            x, y = (part.div(127.5).sub(1) for part in map(_bytes, pair))
            found.append(network.distance(x, network.reference(y)).double())
        return torch.cat(found), codes


class LPIPSDistance(PerceptualDistance):
    """LPIPS, version 0.1, of a named net.

    Args:
        net: ``vgg`` (usual as a loss), ``alex`` (the lpips package's default) or ``squeeze``.
        backbone, heads: paths of the weight files; None searches, see `tok_core.weight_files`.
        options: of `PerceptualDistance`.

    Raises:
        ConfigError: another net. WeightsError: a file is missing or does not fit.

    Source: Zhang et al., arXiv 1801.03924, eq. 1.
    """

    def __init__(
        self,
        net: str,
        *,
        backbone: PathLike | None = None,
        heads: PathLike | None = None,
        **options: Any,
    ) -> None:
        from tok_core.lpips import LPIPS, lpips_files

        files = lpips_files(net, backbone, heads)
        named = {path.name: path for path in files}
        super().__init__(LPIPS.named(net, *files), weight_files=named, **options)
        self.net = net


class DISTSDistance(PerceptualDistance):
    """DISTS, on VGG16.

    Args:
        vgg16, weights: paths of the weight files; None searches, see `tok_core.weight_files`.
        options: of `PerceptualDistance`.

    Raises:
        WeightsError: a file is missing or does not fit.

    Source: Ding et al., arXiv 2004.07728, eq. 5 to 7.
    """

    def __init__(
        self, *, vgg16: PathLike | None = None, weights: PathLike | None = None, **options: Any
    ) -> None:
        from tok_core.dists import DISTS, dists_files

        files = dists_files(vgg16, weights)
        named = {path.name: path for path in files}
        super().__init__(DISTS.from_files(*files), weight_files=named, **options)


def _bytes(x: Tensor) -> Tensor:
    return (x if x.dtype == torch.uint8 else to_uint8(x)).float()


_IMAGE: dict[str, Any] = {"sense": "image", "kind": "paired", "higher_is_better": False}


def _lpips(net: str, title: str, backbone: str) -> MetricEntry:
    return MetricEntry(
        name=f"lpips/{net}", title=title, build=partial(LPIPSDistance, net), options={},
        weights=(backbone, f"{net}.pth"), source="Zhang et al., arXiv 1801.03924, v0.1", **_IMAGE,
    )  # fmt: skip


ENTRIES: tuple[MetricEntry, ...] = (
    _lpips("vgg", "LPIPS (VGG)", "vgg16-397923af.pth"),
    _lpips("alex", "LPIPS (Alex)", "alexnet-owt-7be5be79.pth"),
    _lpips("squeeze", "LPIPS (Squeeze)", "squeezenet1_1-b8a52dc0.pth"),
    MetricEntry(
        name="dists", title="DISTS", build=DISTSDistance, options={},
        weights=("vgg16-397923af.pth", "dists_weights.pt"),
        source="Ding et al., arXiv 2004.07728", **_IMAGE,
    ),
)  # fmt: skip
