"""frechet/procedural-v1: the Fréchet distance over the shipped classifier, for use without weights.

It is not FID and is never called so: its network has seen twelve procedural shapes, its numbers
live on a scale of their own, and they compare nothing but runs with the same name and sizes. What
it ranks rightly and what it does not is measured in docs/procedural_distance.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from eval.image_distribution import ImageDistribution
from eval.metric_entry import MetricEntry
from eval.reference_statistics import ReferenceStatistics, read_statistics

NAME = "frechet/procedural-v1"
# Values of `ImageDistribution` under names that cannot be taken for Inception's.
NAMES: Mapping[str, str] = {
    "fid": NAME, "precision": "precision/procedural-v1", "recall": "recall/procedural-v1",
    "kid": "kid/procedural-v1", "is": "class-score/procedural-v1",
}  # fmt: skip


class ProceduralDistance(ImageDistribution):
    """The Fréchet distance (and its kin) over the features of the procedural classifier.

    Args:
        values: some of ``fid``, ``precision``, ``recall``, ``kid``, ``is``; `compute` returns
            them under `NAMES`, the distance as ``frechet/procedural-v1``.
        reference: path of an ``.npz`` made with the same classifier, or what was read from it.
        folder: of another classifier; None is the shipped one.
        options: of `ImageDistribution`.

    Raises:
        WeightsError: the classifier is not here.

    Example:
        >>> metric = ProceduralDistance()
        >>> metric.update(originals, real=True)              # uint8 (B, 3, H, W)
        >>> metric.update(decoded, real=False)
        >>> metric.compute()["frechet/procedural-v1"]
    """

    higher_is_better = None

    def __init__(
        self,
        values: Sequence[str] = ("fid",),
        *,
        reference: ReferenceStatistics | str | os.PathLike[str] | None = None,
        folder: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        from eval.procedural_classifier import ProceduralClassifier, shipped_classifier

        if isinstance(reference, (str, os.PathLike)):
            reference = read_statistics(reference)
        network = (
            shipped_classifier() if folder is None else ProceduralClassifier.from_folder(folder)
        )
        super().__init__(network, values, names=NAMES, reference=reference, **options)


ENTRIES: tuple[MetricEntry, ...] = (
    MetricEntry(
        name=NAME, title="Fréchet (proc.)", sense="image", kind="distribution",
        higher_is_better=False, build=ProceduralDistance, options={},
        values=(NAME,),
        source="this project, docs/procedural_distance.md; never comparable with FID",
    ),
)  # fmt: skip
