"""Probe: the accuracy of a linear classifier on the features of a tokenizer's tokens.

    labelled items ──token_features──▶ features per stream ──linear_probe──▶ accuracy per stream

The claim behind two codebooks under one index (Qu et al. 2025, arXiv 2412.03069) is that the
semantic half of a token says what is in the picture; here anyone can measure it.

Letters: B items, N all items, D' features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from eval.linear_probe import ProbeResult, probe, split
from eval.token_features import token_features
from tok_core.contract import Tokenizer


class Probe(Metric):
    """Linear-probe accuracy of every stream of one tokenizer.

    Args:
        tokenizer: of the contract, in eval mode.
        streams: of `eval.token_features.stream_names`.
        cells: of the pooling, see `eval.token_features.token_features`.
        num_tokens: budget of the encoding.
        test_share: of each class's items that test. seed: of the split.
        options: of `torchmetrics.Metric`.

    Returns (compute):
        dict of float64 scalars: ``probe/STREAM`` accuracy on the test items, 0 to 1, and
        ``probe/STREAM/train`` on the others; ``samples`` test items.

    Attributes:
        results: by stream, after `compute`.

    Raises (compute):
        ConfigError: fewer than two classes, or a class with a single item.

    Example:
        >>> metric = Probe(tokenizer, ["semantic", "pixel", "all"])  # doctest: +SKIP
        >>> metric.update(images, labels, range(16))                 # doctest: +SKIP
        >>> metric.compute()["probe/semantic"]                       # doctest: +SKIP
    """

    full_state_update = False
    higher_is_better = True
    labels: list[Tensor]
    places: list[Tensor]

    def __init__(
        self, tokenizer: Tokenizer, streams: Sequence[str], *, cells: int = 1,
        num_tokens: int | None = None, test_share: float = 0.25, seed: int = 0, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(**options)
        # A plain object in a tuple: the tokenizer's weights are no state of the metric.
        self._tokenizer = (tokenizer,)
        self.streams, self.cells, self.num_tokens = tuple(streams), cells, num_tokens
        self.test_share, self.seed = test_share, seed
        self.results: dict[str, ProbeResult] = {}
        for name in ("labels", "places", *self._names()):
            self.add_state(name, [], dist_reduce_fx="cat", persistent=True)

    def update(self, x: Tensor, labels: Tensor, places: Sequence[int]) -> None:
        """Take items of one size with their classes.

        Args:
            x: images (B, 3, H, W) or sound (B, 1, T), float in [-1, 1].
            labels: int64 (B,), from 0. places: each item's index in the set.
        """
        found = token_features(
            self._tokenizer[0], x, self.streams, cells=self.cells, num_tokens=self.num_tokens
        )
        for state, name in zip(self._names(), self.streams, strict=True):
            getattr(self, state).append(found[name])
        self.labels.append(labels.cpu())
        self.places.append(torch.tensor([int(place) for place in places]))

    def compute(self) -> dict[str, Tensor]:
        """Train and test a classifier for each stream; see the class."""
        # In the order of the set: batches and processes do not matter.
        order = torch.cat(self.places).argsort()
        labels = torch.cat(self.labels)[order]
        test = split(labels, self.test_share, self.seed)
        scores: dict[str, float] = {}
        for state, name in zip(self._names(), self.streams, strict=True):
            features = torch.cat(getattr(self, state))[order]
            result = self.results[name] = probe(features, labels, test, seed=self.seed)
            scores[f"probe/{name}"] = result.accuracy
            scores[f"probe/{name}/train"] = result.train_accuracy
        scores["samples"] = int(test.sum())
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in scores.items()}

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Update; a classifier of one batch means nothing."""
        self.update(*args, **kwargs)

    def _names(self) -> list[str]:
        return [f"features_{number}" for number in range(len(self.streams))]
