"""Downstream: do reconstructions still tell a vision network what the originals told it?

    originals ──network──▶ prediction ┐
    reconstructions ──network──▶ prediction' ┴▶ agreement; with labels, accuracy of both

Over token budgets this is a question of One-D-Piece (arXiv 2501.10064): how many tokens does a
task need?  For segmentation and depth the prediction on the original is the truth.

Letters: B pictures, C classes, h w cells of a prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from eval.downstream_model import DownstreamModel
from tok_core.contract import Tokenizer
from tok_core.errors import ConfigError, MediaError
from tok_core.image_measures import to_uint8

# Originals float (B, 3, H, W) in [-1, 1] and a budget (None: all) to reconstructions.
Reconstruct = Callable[[Tensor, int | None], Tensor]
_TINY = 1e-6


class ClassAgreement(Metric):
    """How often the classes of reconstructions are those of the originals.

    Returns (compute):
        dict of float64 scalars in 0 to 1: ``top1_agreement`` (same first class),
        ``top5_agreement`` (the original's first class is among the reconstruction's first five),
        and with labels ``top1_accuracy``, ``top5_accuracy`` and the originals' own
        ``top1_accuracy/original``, ``top5_accuracy/original``; ``samples``.
    """

    full_state_update = False
    hits: Tensor
    samples: Tensor
    labelled: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("hits", torch.zeros(6, dtype=torch.int64), "sum", persistent=True)
        for name in ("samples", "labelled"):
            zero = torch.zeros((), dtype=torch.int64)
            self.add_state(name, zero, "sum", persistent=True)

    def update(self, original: Tensor, test: Tensor, labels: Tensor | None = None) -> None:
        """Take logits (B, C) of both, and the true classes int64 (B,) if known."""
        _same_shape(original, test)
        first = original.argmax(1)
        self._count(0, test, first)
        if labels is not None:
            labels = labels.to(test.device)
            self._count(2, test, labels)
            self._count(4, original, labels)
            self.labelled += len(labels)
        self.samples += len(test)

    def compute(self) -> dict[str, Tensor]:
        """Return the shares; see the class."""
        agree = self.hits[:2].double() / self.samples
        scores = {"top1_agreement": agree[0], "top5_agreement": agree[1]}
        if int(self.labelled):
            right = self.hits[2:].double() / self.labelled
            names = ("top1_accuracy", "top5_accuracy",
                     "top1_accuracy/original", "top5_accuracy/original")  # fmt: skip
            scores |= dict(zip(names, right, strict=True))
        return scores | {"samples": self.samples.double()}

    def _count(self, place: int, logits: Tensor, wanted: Tensor) -> None:
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == wanted[:, None]
        found = torch.stack([ranked[:, 0].sum(), ranked.sum()])
        self.hits[place : place + 2] += found.to(self.hits.device)


class SegmentAgreement(Metric):
    """Mean intersection over union of the class maps, the originals' as truth.

    Returns (compute):
        dict of float64 scalars: ``miou`` over the classes that occur on either side,
        ``pixel_agreement``, ``classes`` that occurred, ``samples``.

    Args:
        classes: C.
    """

    full_state_update = False
    confusion: Tensor
    samples: Tensor

    def __init__(self, classes: int, **options: Any) -> None:
        super().__init__(**options)
        self.classes = classes
        zeros = torch.zeros(classes, classes, dtype=torch.int64)
        self.add_state("confusion", zeros, "sum", persistent=True)
        zero = torch.zeros((), dtype=torch.int64)
        self.add_state("samples", zero, "sum", persistent=True)

    def update(self, original: Tensor, test: Tensor) -> None:
        """Take class maps int64 (B, h, w) of both; negative classes are left out."""
        _same_shape(original, test)
        if int(max(original.max(), test.max())) >= self.classes:
            raise ConfigError(
                f"a class map reaches {int(max(original.max(), test.max()))}; this measure was "
                f"made for {self.classes} classes: give it all of the network's."
            )
        valid = (original >= 0) & (test >= 0)
        pairs = original[valid] * self.classes + test[valid]
        counts = torch.bincount(pairs, minlength=self.classes**2)
        self.confusion += counts.view_as(self.confusion).to(self.confusion.device)
        self.samples += len(test)

    def compute(self) -> dict[str, Tensor]:
        """Return the overlaps; see the class."""
        both = self.confusion.diagonal().double()
        union = self.confusion.sum(0).double() + self.confusion.sum(1).double() - both
        seen = union > 0
        return {
            "miou": (both[seen] / union[seen]).mean(),
            "pixel_agreement": both.sum() / self.confusion.sum(),
            "classes": seen.sum().double(),
            "samples": self.samples.double(),
        }


class DepthError(Metric):
    """Errors of depths, those of the originals as truth, a mean over pictures.

    Args:
        align: ``none``; or ``median``, which first brings each reconstruction's depths to the
            original's median, for networks whose depths have no unit.

    Returns (compute):
        dict of float64 scalars: ``abs_rel`` mean |d' - d| / d, ``rmse`` in the network's unit,
        ``delta1`` share of cells with max(d'/d, d/d') < 1.25; ``l1`` and ``cosine``, which
        One-D-Piece reports; ``samples``; ``without_depth`` pictures left out because nothing in
        them has a positive depth.

    Source: the error measures of Eigen et al. 2014, arXiv 1406.2283.
    """

    full_state_update = False
    sums: Tensor
    samples: Tensor
    without_depth: Tensor

    def __init__(self, align: str = "none", **options: Any) -> None:
        super().__init__(**options)
        if align not in ("none", "median"):
            raise ConfigError(f"align '{align}' is unknown; legal are none and median.")
        self.align = align
        self.add_state("sums", torch.zeros(5, dtype=torch.float64), "sum", persistent=True)
        for name in ("samples", "without_depth"):
            zero = torch.zeros((), dtype=torch.int64)
            self.add_state(name, zero, "sum", persistent=True)

    def update(self, original: Tensor, test: Tensor) -> None:
        """Take depths float (B, h, w) of both; cells where the original's is not positive are
        left out."""
        _same_shape(original, test)
        for true, found in zip(original.double(), test.double(), strict=True):
            valid = (true > _TINY) & torch.isfinite(true)
            if not bool(valid.any()):
                self.without_depth += 1
                continue
            true, found = true[valid], found[valid]
            if self.align == "median":
                found = found * (true.median() / found.median().clamp(min=_TINY))
            found = found.clamp(min=_TINY)
            ratio = torch.maximum(found / true, true / found)
            errors = torch.stack([
                ((found - true).abs() / true).mean(),
                (found - true).square().mean().sqrt(),
                (ratio < 1.25).double().mean(),
                (found - true).abs().mean(),
                F.cosine_similarity(found, true, dim=0),
            ])  # fmt: skip
            self.sums += errors.to(self.sums.device)
            self.samples += 1

    def compute(self) -> dict[str, Tensor]:
        """Return the mean errors; see the class."""
        means = self.sums / self.samples
        names = ("abs_rel", "rmse", "delta1", "l1", "cosine")
        return dict(zip(names, means, strict=True)) | {
            "samples": self.samples.double(), "without_depth": self.without_depth.double(),
        }  # fmt: skip


class Downstream(Metric):
    """One network's agreement on reconstructions, for each of several budgets.

    Args:
        model: from `eval.downstream_model.load_downstream`.
        reconstruct: a tokenizer of the contract, or any function of originals (B, 3, H, W) in
            [-1, 1] and a budget.
        budgets: numbers of tokens; None stands for all.
        classes: C, needed for segmentation whose network returns class maps without logits.
        align: of depths, see `DepthError`.
        to_bytes: byte rule of the protocol.

    Returns (compute):
        dict of float64 scalars, ``downstream/<budget>/<measure>``, budget ``all`` for None.

    Raises:
        ConfigError: no budgets, or an unknown number of classes.

    Example:
        >>> score = Downstream(load_downstream("models/vit", "classify"), tokenizer, [32, 256])
        >>> score.update(images, labels)
        >>> score.compute()["downstream/32/top1_agreement"]
    """

    full_state_update = False

    def __init__(
        self,
        model: DownstreamModel,
        reconstruct: Tokenizer | Reconstruct,
        budgets: Sequence[int | None] = (None,),
        *,
        classes: int | None = None,
        align: str = "none",
        to_bytes: Callable[[Tensor], Tensor] = to_uint8,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not budgets or len(set(budgets)) < len(budgets):
            raise ConfigError(f"budgets {list(budgets)} came in; give at least one, and each once.")
        self.model, self.budgets, self.to_bytes = model, tuple(budgets), to_bytes
        # A function, so that a tokenizer's weights are no state of the metric.
        self.reconstruct = (
            through(reconstruct) if isinstance(reconstruct, Tokenizer) else reconstruct
        )
        count = classes or len(model.classes)
        if model.task == "segment" and not count:
            raise ConfigError(
                f"'{model.name}' does not tell its number of classes; give it as classes."
            )
        makes: dict[str, Callable[[], Metric]] = {
            "classify": ClassAgreement,
            "segment": lambda: SegmentAgreement(count),
            "depth": lambda: DepthError(align),
        }
        self.measures = nn.ModuleList(makes[model.task]() for _ in self.budgets)

    def update(self, originals: Tensor, labels: Tensor | None = None) -> None:
        """Take originals (B, 3, H, W) float in [-1, 1], and their classes (B,) if known."""
        size = tuple(originals.shape[-2:])
        wanted = self._predict(self.to_bytes(originals), size)
        for budget, measure in zip(self.budgets, self.measures, strict=True):
            assert isinstance(measure, Metric)
            made = self.to_bytes(self.reconstruct(originals, budget))
            if made.shape != originals.shape:
                raise MediaError(
                    f"originals of {tuple(originals.shape)} came back as {tuple(made.shape)}; "
                    "reconstructions must have the same size."
                )
            found = self._predict(made, size)
            if self.model.task == "classify":
                measure.update(wanted, found, labels)
            else:
                measure.update(wanted, found)

    def compute(self) -> dict[str, Tensor]:
        """Return every measure at every budget; see the class."""
        scores: dict[str, Tensor] = {}
        for budget, measure in zip(self.budgets, self.measures, strict=True):
            assert isinstance(measure, Metric)
            label = "all" if budget is None else str(budget)
            for name, value in measure.compute().items():
                scores[f"downstream/{label}/{name}"] = value.cpu()
        return scores

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Update; shares of one batch are rarely wanted."""
        self.update(*args, **kwargs)

    def reset(self) -> None:
        """Forget everything seen."""
        super().reset()
        for measure in self.measures:
            assert isinstance(measure, Metric)
            measure.reset()

    def _predict(self, pictures: Tensor, size: tuple[int, ...]) -> Tensor:
        found = self.model.predict(pictures)
        if self.model.task == "segment" and found.ndim == 4:
            # Class borders are judged at the picture's resolution.
            found = F.interpolate(found, size, mode="bilinear", align_corners=False).argmax(1)
        dimensions = {"classify": 2, "segment": 3, "depth": 3}[self.model.task]
        if found.ndim != dimensions:
            raise ConfigError(
                f"'{self.model.name}' gave predictions of shape {tuple(found.shape)}; to "
                f"{self.model.task} they need {dimensions} axes."
            )
        return found


def through(tokenizer: Tokenizer) -> Reconstruct:
    """Return encode and decode of a tokenizer as a function of originals and a budget."""

    @torch.no_grad()
    def reconstruct(originals: Tensor, budget: int | None) -> Tensor:
        return tokenizer.decode(tokenizer.encode(originals, num_tokens=budget))

    return reconstruct


def folder_labels(
    files: Iterable[str | Path], classes: Mapping[str, int] | None = None
) -> tuple[Tensor, dict[str, int]]:
    """Return the class of each file, told by its folder's name.

    Args:
        files: paths whose parent folder is the class.
        classes: number by folder name; None numbers the folders in alphabetical order, as
            ImageNet's are.

    Returns:
        int64 (number of files,), and the numbering that was used.

    Raises:
        ConfigError: a folder that ``classes`` does not know.
    """
    names = [Path(file).parent.name for file in files]
    numbering = dict(classes or {name: i for i, name in enumerate(sorted(set(names)))})
    for name in names:
        if name not in numbering:
            raise ConfigError(
                f"folder '{name}' is no class of the network; legal are names such as "
                f"{', '.join(sorted(numbering)[:3])}."
            )
    return torch.tensor([numbering[name] for name in names]), numbering


def _same_shape(original: Tensor, test: Tensor) -> None:
    if original.shape != test.shape:
        raise MediaError(
            f"predictions of {tuple(original.shape)} and {tuple(test.shape)} came in; the network "
            "must answer originals and reconstructions alike."
        )
