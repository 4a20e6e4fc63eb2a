"""The Inception Score: how sure a classifier is of each picture, and how varied the set is.

    score = exp( mean over pictures of KL( p(y | x) || p(y) ) )         Salimans et al. 2016, sec. 4

One name, three protocols that differ by several per cent on the same logits:

    shuffled-10   ten parts after a permutation by NumPy's RandomState(2020)      torch-fidelity
    chunks-5000   consecutive chunks of 5,000 in the order of the files           ADM
    one-pass      all pictures at once, in constant memory                        1d-tokenizer

Letters: N pictures, Y classes (1008).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tok_core.errors import ConfigError, nearest

SPLITS = ("shuffled-10", "chunks-5000", "one-pass")
SEED = 2020
TINY = 1e-16  # inside the logarithms of the one-pass protocol


class InceptionScore(NamedTuple):
    """Mean and population standard deviation over the parts, float64 scalars."""

    mean: Tensor
    std: Tensor


def inception_score(logits: Tensor, splits: str = "shuffled-10") -> InceptionScore:
    """Return the score by one of the three protocols.

    Args:
        logits: (N, Y), in the order of the files; `logits_unbiased` of the FID Inception.
        splits: one of `SPLITS`, or another number in a name of the same form
            (``shuffled-5``, ``chunks-50``, ``parts-10`` for parts without a shuffle).

    Raises:
        ConfigError: an unknown protocol, or fewer pictures than parts.

    Example:
        >>> inception_score(torch.eye(10) * 50.0, "one-pass").mean.round()
        tensor(10., dtype=torch.float64)
    """
    kind, _, number = splits.partition("-")
    if splits == "one-pass":
        packed = add_logits(empty_sums(logits.shape[1], logits.device), logits)
        return score_of_sums(packed)
    if kind not in ("shuffled", "chunks", "parts") or not number.isdigit() or int(number) < 1:
        raise ConfigError(
            f"the Inception Score knows no splits '{splits}'; legal are {', '.join(SPLITS)}"
            f"{nearest(splits, SPLITS)}"
        )
    parts = int(number)
    if kind == "chunks":
        return _over(logits.split(parts))
    if len(logits) < parts:
        raise ConfigError(
            f"the Inception Score of {parts} parts needs as many pictures and got {len(logits)}; "
            "give more pictures or take one-pass."
        )
    if kind == "shuffled":
        order = np.random.RandomState(SEED).permutation(len(logits))
        logits = logits[torch.from_numpy(order).to(logits.device)]
    edges = [len(logits) * i // parts for i in range(parts + 1)]
    return _over(logits[a:b] for a, b in pairwise(edges))


def _over(parts: Iterable[Tensor]) -> InceptionScore:
    scores = torch.stack([_score(part) for part in parts])
    return InceptionScore(scores.mean(), scores.std(correction=0))


def _score(logits: Tensor) -> Tensor:
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    return ((p * log_p).sum(1).mean() - _negative_entropy(p.mean(0))).exp()


def _negative_entropy(p: Tensor) -> Tensor:
    return torch.special.xlogy(p, p).sum()


def empty_sums(classes: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the sums (Y + 2,) float64 of no pictures: of p, of p log p, and their count."""
    return torch.zeros(classes + 2, dtype=torch.float64, device=device)


def add_logits(sums: Tensor, logits: Tensor) -> Tensor:
    """Take logits (N, Y) into the sums, in place, and return them; sums of processes just add."""
    p = logits.double().softmax(1)
    sums[:-2] += p.sum(0)
    sums[-2] += (p * (p + TINY).log()).sum()
    sums[-1] += len(p)
    return sums


def score_of_sums(sums: Tensor) -> InceptionScore:
    """Return the one-pass score; its deviation over one part is 0.

    Raises:
        ConfigError: no picture was seen.
    """
    count = sums[-1]
    if not count > 0:
        raise ConfigError("the Inception Score of no pictures was asked for; give some pictures.")
    mean = sums[:-2] / count
    score = (sums[-2] / count - (mean * (mean + TINY).log()).sum()).exp()
    return InceptionScore(score, torch.zeros_like(score))
