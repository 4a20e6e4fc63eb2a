"""Maps over token positions as PNG: one value per position, or one small picture per position.

Letters: L positions, G factors drawn apart, S side of a footprint.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from tok_core.errors import ConfigError
from tok_core.token_spec import TokenSpec


def save_heat_map(
    values: Tensor, spec: TokenSpec, path: str | Path, *, title: str = "contribution"
) -> Path:
    """Draw a map as PNG: grids as a picture, 1D tokens and sound as a strip, factors below each
    other, scales beside each other.

    Args:
        values: (L, G) as `Contribution` returns. spec: of the tokenizer. path: ends in ``.png``.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    panels = _panels(values.detach().float().cpu(), spec)
    figure, axes = _figure(len(panels), max(len(row) for row in panels), title)
    top = float(values.max()) or 1.0
    for row, line in enumerate(panels):
        for column, (name, panel) in enumerate(line):
            axis = axes[row][column]
            aspect = "equal" if min(panel.shape) > 1 else "auto"
            image = axis.imshow(panel.numpy(), vmin=0.0, vmax=top, cmap="magma", aspect=aspect)
            axis.set_title(name, fontsize=8)
    figure.colorbar(image, ax=[one for row in axes for one in row])
    figure.savefig(path, dpi=120)
    return Path(path)


def save_footprints(
    footprint: Tensor, path: str | Path, *, columns: int = 16, title: str = "footprints"
) -> Path:
    """Draw where each position acts, (L, S, S), one small picture per position, as PNG."""
    rows = math.ceil(len(footprint) / columns)
    figure, axes = _figure(rows, min(columns, len(footprint)), title)
    flat = [one for row in axes for one in row]
    for index, cells in enumerate(footprint.detach().float().cpu()):
        # Each on its own scale: where a token acts, not how strongly.
        flat[index].imshow(cells.numpy(), cmap="magma", vmin=0.0)
        flat[index].set_title(str(index), fontsize=6)
    for axis in flat:
        axis.axis("off")
    figure.savefig(path, dpi=120)
    return Path(path)


def _panels(values: Tensor, spec: TokenSpec) -> list[list[tuple[str, Tensor]]]:
    """Cut (L, G) into named pictures: one row per factor, one column per scale."""
    names = {axis.name for axis in spec.axes}
    rows: list[list[tuple[str, Tensor]]] = []
    for factor, column in enumerate(values.T):
        label = f"factor {factor}" if values.shape[1] > 1 else "all factors"
        if spec.scales is not None:
            parts = column.split([h * w for h, w in spec.scales])
            rows.append([(f"{label}, {h} x {w}", part.view(h, w))
                         for part, (h, w) in zip(parts, spec.scales, strict=True)])  # fmt: skip
        elif "row" in names and spec.grid is not None:
            rows.append([(label, column.view(spec.grid))])
        else:
            rows.append([(label, column[None])])
    return rows


def _figure(rows: int, columns: int, title: str) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "drawing needs matplotlib, which is not installed; run pip install matplotlib."
        ) from None
    figure = Figure(figsize=(max(4.0, 1.6 * columns), max(2.0, 1.4 * rows)), layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(rows, columns, squeeze=False)
