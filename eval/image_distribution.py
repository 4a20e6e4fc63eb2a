"""ImageDistribution: distances and scores of a set of pictures against another, in one pass.

    pictures uint8 ──extractor, once──▶ features ──┬▶ moments           fid       flat memory
                                        2023 map ──┼▶ moments           sfid      flat memory
                                        logits   ──┼▶ sums, or kept     is        flat if one-pass
                                                   └▶ kept              precision, recall, kid

Each value needs some states of the real and some of the generated side; only those are made.
Letters: B pictures of a batch, N of a side, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from eval import inception_score as scores
from eval import kernel_distance as kernel
from eval.feature_extractor import FeatureExtractor
from eval.frechet_distance import frechet_distance
from eval.moments import Moments, add_vectors, empty_moments, merge_moments, unpack
from eval.precision_recall import NEIGHBOURS, precision_recall
from eval.reference_statistics import ReferenceStatistics, matching
from tok_core.errors import ConfigError, MediaError, nearest

VALUES = ("fid", "sfid", "is", "precision", "recall", "kid")
KEEPS_FEATURES = frozenset({"precision", "recall", "kid"})


class ImageDistribution(Metric):
    """Any of the six values of a feature network, with one pass of the pictures through it.

    Memory does not grow with the number of pictures for ``fid``, ``sfid`` and the one-pass ``is``;
    the other three keep the features (and other splits of ``is`` the logits). Merged over
    processes the numbers are those of one process; ``kid`` and the splits of ``is`` depend on the
    order of the pictures, so give indices when there are several processes.

    Args:
        extractor: the network. It is shared, never saved or copied with the metric.
        values: some of ``fid``, ``sfid``, ``is``, ``precision``, ``recall``, ``kid``.
        names: what to call them in the dict that `compute` returns, such as {"fid": "rfid"}.
        reference: statistics of the real side from a file. Real pictures are then not needed for
            what the file holds, and ignored where they come.
        splits: of the Inception Score; see `eval.inception_score`.
        neighbours: of precision and recall. subsets, subset_size: of KID.
        options: of `torchmetrics.Metric`.

    Attributes:
        warnings: sentences on the last `compute` that a reader must know.

    Raises:
        ConfigError: unknown values, or a reference without what they need.

    Returns (compute):
        dict of float64 scalars: each value under its name, ``is/std`` and ``kid/std`` beside
        theirs, ``samples/real`` and ``samples/fake``. A value that cannot be had is NaN, and
        `warnings` says why.

    Example:
        >>> metric = ImageDistribution(FidInception.from_file(), ("fid", "is"))
        >>> metric.update(originals, real=True)
        >>> metric.update(decoded, real=False)
        >>> metric.compute()["fid"]
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    fake_sums: Tensor

    def __init__(
        self,
        extractor: FeatureExtractor,
        values: Sequence[str] = ("fid",),
        *,
        names: Mapping[str, str] | None = None,
        reference: ReferenceStatistics | None = None,
        splits: str = "shuffled-10",
        neighbours: int = NEIGHBOURS,
        subsets: int = kernel.SUBSETS,
        subset_size: int = kernel.SUBSET_SIZE,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.values = _known(values, extractor)
        self.names = {value: (names or {}).get(value, value) for value in self.values}
        # In a tuple, so that the network is no part of this module: not moved, saved or cloned.
        self._extractor = (extractor,)
        self.reference, self.splits = reference, splits
        self.neighbours, self.subsets, self.subset_size = neighbours, subsets, subset_size
        self.warnings: tuple[str, ...] = ()
        if reference is not None:
            self._check_reference(reference)
        self._sides = {"real": self._wanted("real"), "fake": self._wanted("fake")}
        for side, kinds in self._sides.items():
            for kind in kinds:
                self._add(f"{side}_{kind}", kind)

    @property
    def extractor(self) -> FeatureExtractor:
        """The feature network."""
        return self._extractor[0]

    @torch.no_grad()
    def update(
        self, images: Tensor, *, real: bool, indices: Sequence[int] | Tensor | None = None
    ) -> None:
        """Take pictures of one side.

        Args:
            images: uint8 (B, 3, H, W). real: which side.
            indices: places in the whole set, for values that depend on the order; None leaves
                them in order of arrival.

        Raises:
            MediaError: not uint8 pictures, or features that are not finite.
        """
        side = "real" if real else "fake"
        kinds = self._sides[side]
        if not len(images):
            return
        if set(kinds) == {"count"}:
            getattr(self, f"{side}_count").add_(len(images))
            return
        taps = sorted({tap for kind in kinds if (tap := self._tap(kind))})
        extractor: Any = self.extractor
        if isinstance(extractor, torch.nn.Module) and _device(extractor) != self.device:
            extractor.to(self.device)
        found = extractor.features(images.to(self.device), taps)
        if not all(bool(torch.isfinite(one).all()) for one in found.values()):
            raise MediaError(
                "the feature network gave NaN or infinity for these pictures: its weights are "
                "damaged, load them again."
            )
        self._take(side, found, len(images), indices)

    def compute(self) -> dict[str, Tensor]:
        """Return the values; see the class."""
        notes: list[str] = []
        found: dict[str, Tensor] = {}
        makers: dict[str, Callable[[list[str]], dict[str, Tensor]]] = {
            "fid": self._fid, "sfid": self._sfid, "is": self._is, "kid": self._kid,
        }  # fmt: skip
        for value in self.values:
            if value in found:
                continue
            make = makers.get(value, self._precision_recall)
            try:
                found |= make(notes)
            except (ConfigError, MediaError) as error:
                found[value] = torch.full((), float("nan"), dtype=torch.float64)
                notes.append(f"{self.names[value]}: {error}")
        self.warnings = tuple(dict.fromkeys(notes))
        named = {self._named(key): number.double() for key, number in found.items()}
        for side in self._sides:
            named[f"samples/{side}"] = torch.tensor(self._count(side), dtype=torch.float64)
        return named

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Update; a distance of one batch means nothing."""
        self.update(*args, **kwargs)

    def protocol(self) -> dict[str, Any]:
        """Return what the numbers depend on beside the pictures, as plain JSON values."""
        plain: dict[str, Any] = dict(self.extractor.protocol())
        plain["reference"] = "originals" if self.reference is None else "file"
        if self.reference is not None:
            plain["reference_sha256"] = self.reference.sha256
        if "is" in self.values:
            plain["inception_splits"] = self.splits
        if "precision" in self.values or "recall" in self.values:
            plain["neighbours"] = self.neighbours
        if "kid" in self.values:
            plain |= {"kid_subsets": self.subsets, "kid_subset_size": self.subset_size}
        return plain

    # States -----------------------------------------------------------------------------------

    def _wanted(self, side: str) -> tuple[str, ...]:
        """Return the kinds of states that a side needs."""
        file = self.reference if side == "real" else None
        kinds = ["count"]
        if "fid" in self.values and file is None:
            kinds.append("moments")
        if "sfid" in self.values and file is None:
            kinds.append("spatial")
        if KEEPS_FEATURES & set(self.values) and (file is None or file.pictures is None):
            kinds += ["features", "places"]
        if "is" in self.values and side == "fake":
            kinds += ["sums"] if self.splits == "one-pass" else ["logits", "places"]
        return tuple(dict.fromkeys(kinds))

    def _add(self, name: str, kind: str) -> None:
        merge: Any = "sum"
        if kind in ("features", "logits", "places"):
            self.add_state(name, [], dist_reduce_fx="cat", persistent=True)
            return
        if kind in ("moments", "spatial"):
            default, merge = empty_moments(self._dimension(kind)), merge_moments
        elif kind == "sums":
            default = scores.empty_sums(self._dimension("logits"))
        else:
            default = torch.zeros((), dtype=torch.int64)
        self.add_state(name, default, dist_reduce_fx=merge, persistent=True)

    def _tap(self, kind: str) -> str | None:
        extractor = self.extractor
        return {
            "moments": extractor.feature_tap, "features": extractor.feature_tap,
            "spatial": extractor.spatial_tap, "logits": extractor.logits_tap,
            "sums": extractor.logits_tap,
        }.get(kind)  # fmt: skip

    def _dimension(self, kind: str) -> int:
        return self.extractor.dimensions[self._tap(kind) or ""]

    def _take(
        self, side: str, found: Mapping[str, Tensor], count: int,
        indices: Sequence[int] | Tensor | None,
    ) -> None:  # fmt: skip
        if indices is None:
            places = torch.full((count,), -1, dtype=torch.int64)
        else:
            places = torch.as_tensor(indices).long().flatten()
        if len(places) != count:
            raise ConfigError(
                f"{len(places)} indices came with {count} pictures; give one for each."
            )
        for kind in self._sides[side]:
            state, tap = getattr(self, f"{side}_{kind}"), self._tap(kind)
            if kind == "count":
                state.add_(count)
            elif kind == "places":
                state.append(places.to(self.device))
            elif kind == "sums":
                scores.add_logits(state, found[tap or ""])
            elif kind in ("moments", "spatial"):
                add_vectors(state, found[tap or ""])
            else:
                state.append(found[tap or ""].clone())

    def _load_from_state_dict(self, state_dict: dict[str, Any], *args: Any) -> None:
        super()._load_from_state_dict(state_dict, *args)
        for name in self._defaults:
            state = getattr(self, name)
            # States are written in place; the caller's dict must not change with them.
            setattr(self, name, list(state) if isinstance(state, list) else state.clone())

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        """Gather, also where a process has seen nothing yet: its lists need their shape."""
        for side, kinds in self._sides.items():
            for kind in kinds:
                if getattr(self, f"{side}_{kind}") == []:
                    setattr(self, f"{side}_{kind}", [self._empty(side, kind)])
        super()._sync_dist(*args, **kwargs)

    def _empty(self, side: str, kind: str) -> Tensor:
        if kind == "places":
            return torch.zeros(0, dtype=torch.int64, device=self.device)
        precision = getattr(self.extractor, "precision", "float32")
        dtype = torch.float64 if precision == "float64" else torch.float32
        return torch.zeros(0, self._dimension(kind), dtype=dtype, device=self.device)

    # Values -----------------------------------------------------------------------------------

    def _fid(self, notes: list[str]) -> dict[str, Tensor]:
        real = self._moments("real", "moments")
        fake = self._moments("fake", "moments")
        self._few(notes, "fid", real, fake)
        return {"fid": frechet_distance(real, fake)}

    def _sfid(self, notes: list[str]) -> dict[str, Tensor]:
        real = self._moments("real", "spatial")
        fake = self._moments("fake", "spatial")
        self._few(notes, "sfid", real, fake)
        return {"sfid": frechet_distance(real, fake)}

    def _is(self, notes: list[str]) -> dict[str, Tensor]:
        if self.splits == "one-pass":
            found = scores.score_of_sums(self.fake_sums)
        else:
            logits = self._collected("fake", "logits")
            if not len(logits):
                raise ConfigError("no generated picture came; give some.")
            found = scores.inception_score(logits, self.splits)
        return {"is": found.mean, "is/std": found.std}

    def _precision_recall(self, notes: list[str]) -> dict[str, Tensor]:
        found = precision_recall(
            generated=self._collected("fake", "features"), real=self._real_features(),
            neighbours=self.neighbours,
        )  # fmt: skip
        both = found._asdict()
        return {value: both[value] for value in self.values if value in both}

    def _kid(self, notes: list[str]) -> dict[str, Tensor]:
        found = kernel.kernel_distance(
            self._collected("fake", "features"), self._real_features(),
            subsets=self.subsets, subset_size=self.subset_size,
        )  # fmt: skip
        return {"kid": found.mean, "kid/std": found.std}

    def _moments(self, side: str, kind: str) -> Moments:
        file = self.reference if side == "real" else None
        if file is None:
            return unpack(getattr(self, f"{side}_{kind}"))
        moments = file.features if kind == "moments" else file.spatial
        assert moments is not None  # checked when the reference came
        return Moments(
            moments.mean.to(self.device), moments.covariance.to(self.device), moments.count
        )

    def _collected(self, side: str, kind: str) -> Tensor:
        """Return what a side kept, (N, D), in the order of the indices."""
        state = getattr(self, f"{side}_{kind}")
        if isinstance(state, list) and not state:
            return self._empty(side, kind)
        rows, places = dim_zero_cat(state), dim_zero_cat(getattr(self, f"{side}_places"))
        return rows[torch.argsort(places, stable=True)]

    @torch.no_grad()
    def _real_features(self) -> Tensor:
        if self.reference is None or self.reference.pictures is None:
            return self._collected("real", "features")
        tap = self.extractor.feature_tap
        return torch.cat([
            self.extractor.features(images.to(self.device), (tap,))[tap]
            for images in self.reference.images()
        ])  # fmt: skip

    def _count(self, side: str) -> float:
        """Return the number of pictures behind a side; NaN where a file does not say."""
        if side == "real" and self.reference is not None:
            known = self.reference.features.count
            return float("nan") if known is None else float(known)
        return float(getattr(self, f"{side}_count"))

    def _few(self, notes: list[str], value: str, *sides: Moments) -> None:
        for word, moments in zip(("real", "generated"), sides, strict=True):
            dimension = len(moments.mean)
            if moments.count is not None and moments.count <= dimension:
                notes.append(
                    f"{self.names[value]}: {moments.count} {word} pictures are fewer than the "
                    f"{dimension} feature dimensions need, so the number cannot be compared with "
                    "any from another count."
                )

    def _named(self, key: str) -> str:
        value, slash, rest = key.partition("/")
        return self.names.get(value, value) + slash + rest

    def _check_reference(self, reference: ReferenceStatistics) -> None:
        matching(reference, self.extractor.protocol())
        for value, moments, tap in (
            ("fid", reference.features, self.extractor.feature_tap),
            ("sfid", reference.spatial, self.extractor.spatial_tap),
        ):
            if value not in self.values:
                continue
            wanted = self.extractor.dimensions[tap or ""]
            if moments is None or len(moments.mean) != wanted:
                has = "no such moments" if moments is None else f"{len(moments.mean)}"
                raise ConfigError(
                    f"reference file {reference.path} has {has} where {self.names[value]} needs "
                    f"{wanted} dimensions; take another file, or give real pictures."
                )


def _known(values: Sequence[str], extractor: FeatureExtractor) -> tuple[str, ...]:
    legal = [v for v in VALUES if v != "sfid" or extractor.spatial_tap is not None]
    for value in values:
        if value not in legal:
            raise ConfigError(
                f"{extractor.name} gives no '{value}'; legal are {', '.join(legal)}"
                f"{nearest(value, legal)}"
            )
    if not values:
        raise ConfigError(f"no value was asked for; legal are {', '.join(legal)}")
    return tuple(dict.fromkeys(values))


def _device(network: torch.nn.Module) -> torch.device:
    return next(network.parameters()).device
