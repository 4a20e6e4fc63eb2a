"""Statistics of a set of pictures, to compare with later: one pass, flat memory, one ``.npz``.

    pictures uint8 ──feature network, once──▶ vectors (and of the spatial tap) ──▶ moments
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric

from eval.loop import Pass
from eval.moments import Moments, add_vectors, empty_moments, merge_moments, unpack
from eval.picture_sets import PictureSet, by_shape
from eval.reference_statistics import write_statistics
from tok_core.command_line import say
from tok_core.errors import ConfigError, MediaError, nearest

if TYPE_CHECKING:
    from eval.feature_extractor import FeatureExtractor
    from eval.protocol import Protocol
    from eval.set_session import SetSession

NETWORKS = ("inception-fid", "procedural-v1")


class SetMoments(Metric):
    """Mean and covariance of a network's features over one set of pictures.

    Args:
        extractor: the network; shared, never saved or copied with the metric.
        options: of `torchmetrics.Metric`.

    Returns (compute):
        dict of `Moments` by tap name.

    Example:
        >>> metric = SetMoments(shipped_classifier())
        >>> metric.update(pictures)                      # uint8 (B, 3, H, W)
        >>> metric.compute()["features"].count
    """

    full_state_update = False

    def __init__(self, extractor: FeatureExtractor, **options: Any) -> None:
        super().__init__(**options)
        self._extractor = (extractor,)
        self.taps = [tap for tap in (extractor.feature_tap, extractor.spatial_tap) if tap]
        for place, tap in enumerate(self.taps):
            default = empty_moments(extractor.dimensions[tap])
            self.add_state(f"moments_{place}", default, dist_reduce_fx=merge_moments,
                           persistent=True)  # fmt: skip

    @torch.no_grad()
    def update(self, images: Tensor) -> None:
        """Take uint8 (B, 3, H, W)."""
        (extractor,) = self._extractor
        if isinstance(extractor, torch.nn.Module):
            extractor.to(self.device)
        found = extractor.features(images.to(self.device), self.taps)
        for place, tap in enumerate(self.taps):
            if not bool(torch.isfinite(found[tap]).all()):
                raise MediaError(
                    "the feature network gave NaN or infinity for these pictures: its weights are "
                    "damaged, load them again."
                )
            add_vectors(getattr(self, f"moments_{place}"), found[tap])

    def compute(self) -> dict[str, Moments]:
        """Return the moments by tap."""
        return {tap: unpack(getattr(self, f"moments_{i}")) for i, tap in enumerate(self.taps)}


def network_named(name: str, protocol: Protocol, weights: str | None = None) -> FeatureExtractor:
    """Return the feature network of a name, as the protocol uses it.

    Raises:
        ConfigError: no such network. WeightsError: its file is not here.
    """
    if name not in NETWORKS:
        raise ConfigError(
            f"there is no feature network '{name}'{nearest(name, NETWORKS)}; legal are "
            f"{', '.join(NETWORKS)}"
        )
    if name == "procedural-v1":
        from eval.procedural_classifier import shipped_classifier

        return shipped_classifier()
    from eval.fid import inception

    return inception(weights, resize=protocol.extractor_resize, precision=protocol.precision)


def save_set_statistics(
    session: SetSession, data: str, protocol: Protocol, extractor: FeatureExtractor, *,
    device: str = "cpu", skip_bad: bool = False,
) -> None:  # fmt: skip
    """Go over a folder (or an ``.npz`` of pictures) and write its statistics to ``session.out``.

    The file carries the protocol, the network and its weights' hash, so that scores against it can
    say so, and rFID can refuse statistics of a training set.

    Raises:
        MediaError: fewer than two pictures, or pictures that cannot be read.
    """
    pictures = PictureSet(data, protocol, skip_bad=skip_bad)
    if len(pictures) < 2:
        raise MediaError(f"{data} holds {len(pictures)} picture; statistics need two or more.")
    metric = SetMoments(extractor).to(device)

    def update(indices: list[int], found: list[Tensor]) -> None:
        for batch in by_shape(found):
            metric.update(batch)

    used = dict(extractor.protocol())
    facts = {"protocol": protocol.to_dict(), "data": pictures.sha256, "network": used}
    moments = session.loop(
        metric, [Pass(items=pictures, update=update)], facts=facts, label=Path(data).name
    )
    if moments is None or session.out is None:
        return
    dimension = extractor.dimensions[extractor.feature_tap]
    write_statistics(
        session.out, moments[extractor.feature_tap], force=session.force,
        spatial=moments.get(extractor.spatial_tap or ""), extractor=used,
        protocol=protocol.changed(samples=len(pictures)).to_dict(),
    )  # fmt: skip
    session.checkpoint.remove()
    for sentence in pictures.warnings:
        say(sentence)
    if len(pictures) <= dimension:
        say(f"{len(pictures)} pictures are fewer than the {dimension} dimensions of the features: "
            "distances from these statistics are comparable with nothing published")
    say(f"wrote {session.out}: {len(pictures)} pictures, {dimension} dimensions")

