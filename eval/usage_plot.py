"""Code usage: how evenly a tokenizer uses its codebook.

    uses per code ──sorted──▶ share of all tokens over rank; flat is even, a cliff is dead codes

Letters: K codes of one codebook.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from eval.plot_style import COLOURS, GREY, head_line, label_axes, new_figure
from eval.score import ScoreFile
from tok_core.errors import ConfigError

_BARS = 128  # a codebook of more codes is shown by the mean of neighbours in rank
_MOST_PANELS = 12


class Usage(NamedTuple):
    """Uses per code. name: contestant, and codebook where it has several. counts: (K,)."""

    name: str
    counts: np.ndarray


def usages(files: Sequence[ScoreFile]) -> list[Usage]:
    """Read the histograms of score files.

    Raises:
        ConfigError: extras that are not as `eval.score` says.
    """
    return [one for file in files for one in _read(file)]


def usage_histograms(files: Sequence[ScoreFile], *, title: str = "") -> Any:
    """Draw one panel per codebook: share of all tokens by code, most used first.

    Args:
        files: with histograms in their extras.

    Returns:
        The matplotlib figure.

    Raises:
        ConfigError: no histograms, or such as cannot be read; no matplotlib.
    """
    found = usages(files)
    if not found:
        raise ConfigError("these files hold no histograms of codes; run eval recon on tokenizers.")
    drawn = found[:_MOST_PANELS]
    across = min(3, len(drawn))
    size = (6.4, 4.2) if len(drawn) == 1 else (4.2, 3.0)
    figure, axes = new_figure(math.ceil(len(drawn) / across), across, size=size)
    left_out = len(found) - len(drawn)
    head_line(figure, title + (f" ({left_out} more not shown)" if left_out else ""))
    for axis, one in zip(axes.flat, drawn, strict=False):
        _panel(axis, one)
    for axis in axes.flat[len(drawn) :]:
        axis.axis("off")
    return figure


def _panel(axis: Any, one: Usage) -> None:
    codes, total = len(one.counts), one.counts.sum()
    shares = np.sort(one.counts)[::-1] / max(total, 1.0)
    edges = np.unique(np.linspace(0, codes, min(codes, _BARS) + 1).astype(int))
    heights = [shares[a:b].mean() for a, b in itertools.pairwise(edges)]
    axis.stairs(heights, edges, fill=True, color=COLOURS[0], alpha=0.85)
    axis.axhline(1 / codes, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
    axis.annotate(
        "even use", (1.0, 1 / codes), (-2, 2), xycoords=("axes fraction", "data"), ha="right",
        va="bottom", textcoords="offset points", fontsize=8, color="#555555",
    )  # fmt: skip
    used = int((one.counts > 0).sum())
    positive = shares[shares > 0]
    perplexity = float(np.exp(-(positive * np.log(positive)).sum()))
    axis.annotate(
        f"{used} of {codes} used\nperplexity {perplexity:.1f}", (1.0, 1.0), (-2, -2), ha="right",
        va="top", xycoords="axes fraction", textcoords="offset points", fontsize=9,
    )  # fmt: skip
    axis.set_xlim(0, codes)
    axis.locator_params(axis="x", integer=True, nbins=6)
    axis.set_ylim(0, 1.15 * max(*heights, 1 / codes))
    label_axes(axis, x="codes, most used first", y="share of tokens", title=one.name)


def _read(file: ScoreFile) -> Iterator[Usage]:
    listed = file.extras.get("histograms", {})
    try:
        for contestant, counts in listed.items():
            books = counts if isinstance(counts, Mapping) else {"": counts}
            for book, numbers in books.items():
                array = np.asarray(numbers, dtype=np.float64)
                if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
                    raise ValueError
                if (array < 0).any():
                    raise ValueError
                name = str(contestant) + (f", {book}" if len(books) > 1 else "")
                yield Usage(name, array)
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise ConfigError(
            f"{file.path or 'a score file'} holds histograms that cannot be read; they are uses "
            "per code, whole numbers from 0, by contestant."
        ) from None
