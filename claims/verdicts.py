"""How numbers of several seeds become a verdict: one rule for every claim.

A difference holds where at least three seeds were measured, every seed shows it, and its mean is
larger than its standard deviation.  Seeds are compared with themselves (same data, same order).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from claims.claim import Finding, Measured

LEAST_SEEDS = 3


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Return mean and standard deviation as text.

    Example:
        >>> spread([1.0, 2.0, 3.0])
        '2.00 ± 1.00'
    """
    values = list(values)
    if not values:
        return "-"
    text = f"{statistics.fmean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def by_seed(
    rows: Sequence[Measured], which: Callable[[Measured], bool], number: Callable[[Measured], float]
) -> dict[int, float]:
    """Return a number by seed of the rows that are meant."""
    return {row.seed: number(row) for row in rows if which(row)}


def exceeds(gains: Sequence[float], margin: float = 0.0) -> bool | None:
    """Return whether gains, one per seed, lie above a margin; None for too few seeds.

    Example:
        >>> exceeds([0.5, 0.6, 0.4]), exceeds([0.5, 0.6, -0.4]), exceeds([0.5])
        (True, False, None)
    """
    if len(gains) < LEAST_SEEDS:
        return None
    over = [gain - margin for gain in gains]
    return min(over) > 0 and statistics.fmean(over) > statistics.stdev(over)


def within(values: Sequence[float], limit: float) -> bool | None:
    """Return whether the mean of values, one per seed, is at most a limit; None for too few."""
    return None if len(values) < LEAST_SEEDS else statistics.fmean(values) <= limit


def compared(
    sentence: str, better: Mapping[int, float], worse: Mapping[int, float], *, unit: str = "",
    lower_is_better: bool = False, names: tuple[str, str] = ("with", "without"), digits: int = 2,
) -> Finding:  # fmt: skip
    """Return the finding that one side does better than the other in seeds that both have."""
    seeds = sorted(better.keys() & worse.keys())
    sign = -1.0 if lower_is_better else 1.0
    gains = [sign * (better[seed] - worse[seed]) for seed in seeds]
    text = (
        f"{names[0]} {spread((better[s] for s in seeds), digits)}{unit}, "
        f"{names[1]} {spread((worse[s] for s in seeds), digits)}{unit}, "
        f"{len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}"
    )
    return Finding(sentence=sentence, numbers=text if seeds else "-", holds=exceeds(gains))


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation, ties by their mean rank; NaN where one side is constant.

    Example:
        >>> rank_correlation([1.0, 2.0, 3.0], [10.0, 30.0, 20.0])
        0.5
    """
    a, b = ranks(first), ranks(second)
    if len(set(a)) < 2 or len(set(b)) < 2:
        return math.nan
    return statistics.correlation(a, b)


def ranks(values: Sequence[float]) -> list[float]:
    """Return the ranks from 1, equal values sharing their mean rank."""
    found = []
    for value in values:
        below = sum(other < value for other in values)
        same = sum(other == value for other in values)
        found.append(below + (same + 1) / 2)
    return found


def both(*parts: bool | None) -> bool | None:
    """Return whether all parts hold; None where one is not measured and none fails."""
    if any(part is False for part in parts):
        return False
    return None if any(part is None for part in parts) else True
