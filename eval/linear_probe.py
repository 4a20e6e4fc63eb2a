"""Linear probe: how well a linear classifier names the classes from frozen features.

    features (N, D) --standardised--> W x + b --softmax--> class        trained on a part of N,
                                                                        judged on the rest

Accuracy says what can be read off the features without further computing; it is what "semantic
features understand more" can be measured by.  Everything is full-batch, in float64 and from zero,
so the same features give the same number on every machine.

Source: Alain and Bengio 2016, arXiv 1610.01644.

Letters: N items, D features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tok_core.errors import ConfigError

# Weight decays that a held-out part of the training items chooses among: wide features need more.
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)
HELD_OUT = 0.25  # of the training items, to choose the decay
ITERATIONS = 200


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """What one probe found.

    Attributes:
        right: bool (number of test items,), which of them were named rightly.
        train_accuracy: share of the training items named rightly, 0 to 1.
        decay: that was chosen. features: D.
    """

    right: Tensor
    train_accuracy: float
    decay: float
    features: int

    @property
    def accuracy(self) -> float:
        """Share of the test items named rightly, 0 to 1."""
        return float(self.right.double().mean())


def split(labels: Tensor, share: float, seed: int) -> Tensor:
    """Choose the test items: the same share of every class, at random, fixed by the seed.

    Args:
        labels: int64 (N,), 0 to C - 1.
        share: of the items that become test items, in (0, 1); every class keeps at least one item
            on either side.
        seed: of the draw, which depends on nothing else.

    Returns:
        bool (N,), true for test items.

    Raises:
        ConfigError: fewer than two classes, a class with one item, or a share out of range.

    Example:
        >>> split(torch.tensor([0, 0, 1, 1]), 0.5, seed=0).sum()
        tensor(2)
    """
    if not 0 < share < 1:
        raise ConfigError(f"the share of test items is {share}; give one between 0 and 1.")
    if len(labels.unique()) < 2:
        raise ConfigError(
            "all items are of one class, and a classifier tells at least two apart; give more."
        )
    counts = torch.bincount(labels)
    if int(counts.min()) < 2:
        raise ConfigError(
            f"{int(counts.min())} items of class {int(counts.argmin())} came in; a probe trains on "
            "one and tests on another: give each class at least two."
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for number, count in enumerate(counts.tolist()):
        items = (labels == number).nonzero()[:, 0]
        wanted = min(max(round(share * count), 1), count - 1)
        chosen[items[torch.randperm(count, generator=generator)[:wanted]]] = True
    return chosen


def probe(features: Tensor, labels: Tensor, test: Tensor, *, seed: int = 0) -> ProbeResult:
    """Train on the items outside ``test`` and judge on those inside.

    Args:
        features: float (N, D). labels: int64 (N,), 0 to C - 1. test: bool (N,).
        seed: of the part that chooses the decay.

    Returns:
        see `ProbeResult`.

    Example:
        >>> probe(features, labels, split(labels, 0.25, seed=0)).accuracy  # doctest: +SKIP
        0.93
    """
    train = ~test
    x = _standardised(features.double(), train)
    decay = _chosen_decay(x[train], labels[train], seed)
    weight, bias = fit(x[train], labels[train], decay)
    named = (x @ weight + bias).argmax(1) == labels
    return ProbeResult(named[test], float(named[train].double().mean()), decay, x.shape[1])


def fit(x: Tensor, labels: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Return weight (D, C) and bias (C,) of multinomial logistic regression.

    Minimises cross entropy + decay / 2 * |W|^2 by full-batch L-BFGS from zero.

    Args:
        x: float64 (N, D), standardised. labels: int64 (N,). decay: at least 0.
    """
    classes = int(labels.max()) + 1
    weight = torch.zeros(x.shape[1], classes, dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe",
        tolerance_change=1e-12,
    )  # fmt: skip

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight + bias, labels) + decay / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[arg-type]
    return weight.detach(), bias.detach()


def _standardised(x: Tensor, train: Tensor) -> Tensor:
    """Bring every feature to mean 0 and spread 1 over the training items; constant ones to 0."""
    mean, spread = x[train].mean(0), x[train].std(0, unbiased=False)
    live = spread > 1e-8 * x[train].abs().amax(0).clamp(min=1e-30)
    return torch.where(live, (x - mean) / torch.where(live, spread, 1.0), 0.0)


def _chosen_decay(x: Tensor, labels: Tensor, seed: int) -> float:
    """Return the decay that names most of a held-out part; the strongest of equals."""
    if int(torch.bincount(labels).min()) < 2:
        return DECAYS[-1]
    held = split(labels, HELD_OUT, seed + 1)
    found = []
    for decay in DECAYS:
        weight, bias = fit(x[~held], labels[~held], decay)
        right = (x[held] @ weight + bias).argmax(1) == labels[held]
        found.append((float(right.double().mean()), decay))
    return max(found)[1]
