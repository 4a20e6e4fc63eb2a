"""FID and its family over the FID Inception: rFID, gFID, sFID, IS, precision, recall, KID.

    rfid    originals against their reconstructions           gfid    real against generated sets
    sfid    the same over a 17 x 17 map: where things stand    is      of the generated set alone

rFID and gFID are one formula under two protocols; the name says which question was asked. Variants
(resize, precision, splits, reference) are options, recorded by `FrechetInception.protocol`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.image_distribution import ImageDistribution
from eval.metric_entry import MetricEntry
from eval.reference_statistics import ReferenceStatistics, read_statistics
from tok_core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from eval.feature_extractor import FeatureExtractor
    from eval.inception import FidInception

# Row of the registry to the value of `ImageDistribution` behind it.
FAMILY: Mapping[str, str] = {
    "rfid": "fid", "gfid": "fid", "sfid": "sfid", "is": "is", "precision": "precision",
    "recall": "recall", "kid": "kid",
}  # fmt: skip
WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"


class FrechetInception(ImageDistribution):
    """FID and its family, with one pass of the FID Inception for all of them.

    Args:
        values: some of ``fid``, ``sfid``, ``is``, ``precision``, ``recall``, ``kid``.
        weights: path of the Inception's file; None searches the usual places.
        resize: ``tf``, ``pytorch-fid`` or ``clean``. precision: ``float32`` or ``float64``.
        splits: of the Inception Score.
        reference: path of an ``.npz`` (or what was read from it) that stands for the real side.
        extractor: a loaded network, instead of the four arguments that choose one.
        options: of `ImageDistribution`.

    Raises:
        WeightsError: the Inception's file is not here. MediaError: the reference is unusable.

    Source: Heusel et al. 2017 (FID); Nash et al. 2021 (sFID); Salimans et al. 2016 (IS);
    Kynkäänniemi et al. 2019 (precision, recall); Binkowski et al. 2018 (KID).

    Example:
        >>> metric = FrechetInception(("fid", "is"), resize="clean")
        >>> metric.update(originals, real=True)              # uint8 (B, 3, H, W)
        >>> metric.update(decoded, real=False)
        >>> metric.compute()
        {'fid': tensor(1.48, dtype=torch.float64), 'is': ...}
    """

    def __init__(
        self,
        values: Sequence[str] = ("fid",),
        *,
        weights: str | os.PathLike[str] | None = None,
        resize: str = "tf",
        precision: str = "float32",
        splits: str = "shuffled-10",
        reference: ReferenceStatistics | str | os.PathLike[str] | None = None,
        extractor: FeatureExtractor | None = None,
        **options: Any,
    ) -> None:
        if isinstance(reference, (str, os.PathLike)):
            reference = read_statistics(reference)
        if extractor is None:
            extractor = inception(weights, resize=resize, precision=precision)
        super().__init__(extractor, values, reference=reference, splits=splits, **options)


def inception(
    weights: str | os.PathLike[str] | None = None, *, resize: str = "tf",
    precision: str = "float32",
) -> FidInception:  # fmt: skip
    """Return the FID Inception of a local file, loaded once for all metrics that share it."""
    from eval.inception import find_inception

    path = find_inception(weights).resolve()
    return _loaded(path, path.stat().st_mtime_ns, resize, precision)


@lru_cache(maxsize=2)
def _loaded(path: Path, changed: int, resize: str, precision: str) -> FidInception:
    from eval.inception import FidInception

    return FidInception.from_file(path, resize=resize, precision=precision)


def distribution_metric(
    names: Sequence[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    resize: str = "tf",
    precision: str = "float32",
    splits: str = "shuffled-10",
    reference: ReferenceStatistics | str | os.PathLike[str] | None = None,
    extractor: FeatureExtractor | None = None,
    **options: Any,
) -> FrechetInception:
    """Return one metric for several rows of the registry: every picture goes in once.

    Args:
        names: some of `FAMILY`, not rfid and gfid together. The others: of `FrechetInception`.

    Returns:
        a metric whose `compute` has the rows' names as keys.

    Raises:
        ConfigError: a name of another family, or both FIDs.

    Example:
        >>> metric = distribution_metric(["rfid", "is"], precision="float64", splits="one-pass")
    """
    for name in names:
        if name not in FAMILY:
            legal = ", ".join(FAMILY) + nearest(name, FAMILY)
            raise ConfigError(f"'{name}' is no value of the FID Inception; legal are {legal}")
    if {"rfid", "gfid"} <= set(names):
        raise ConfigError("rfid and gfid compare different sets: ask for one of them per run.")
    values = tuple(FAMILY[name] for name in names)
    return FrechetInception(
        values, names=dict(zip(values, names, strict=True)), weights=weights, resize=resize,
        precision=precision, splits=splits, reference=reference, extractor=extractor, **options,
    )  # fmt: skip


def inception_entry(
    name: str, title: str, *, higher_is_better: bool, source: str
) -> MetricEntry:
    """Return the registry row of one value of `FAMILY`.

    Resize, precision, splits and reference belong to the run's protocol, so the row fixes none.
    """
    return MetricEntry(
        name=name, title=title, sense="image", kind="distribution",
        higher_is_better=higher_is_better, build=partial(distribution_metric, (name,)),
        options={}, values=(name,), weights=(WEIGHTS,), source=source,
    )  # fmt: skip


_FID = "Heusel et al. 2017, arXiv 1706.08500, eq. 6; TF 2015 Inception, pool of 2048"
_ROWS = (
    ("rfid", "rFID", False, f"{_FID}; reconstructions"),
    ("gfid", "gFID", False, f"{_FID}; generated pictures"),
    ("sfid", "sFID", False, "Nash et al. 2021, arXiv 2103.03841; Mixed_6d.branch1x1"),
    ("is", "IS", True, "Salimans et al. 2016, arXiv 1606.03498, section 4"),
    ("precision", "Precision", True, "Kynkäänniemi et al. 2019, arXiv 1904.06991; k = 3"),
    ("recall", "Recall", True, "Kynkäänniemi et al. 2019, arXiv 1904.06991; k = 3"),
    ("kid", "KID", False, "Binkowski et al. 2018, arXiv 1801.01401; raw value"),
)
ENTRIES: tuple[MetricEntry, ...] = tuple(
    inception_entry(name, title, higher_is_better=better, source=source)
    for name, title, better, source in _ROWS
)
