"""The two pictures of the demo: the grid (Pillow) and the rate-distortion plot (matplotlib)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tessera.pipeline import Row
from tessera.report import say
from tok_core.atomic_write import write_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

    from tessera.demo_rows import Photograph

CELL, GAP, TEXT = 320, 8, 17  # pixels: width of a picture, space between, height of letters
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)


def draw_grid(photographs: Sequence[Photograph], path: Path) -> Path:
    """Write one row per photograph: the original, then everything that was made of it.

    Args:
        photographs: at least one, each with the same columns.
        path: PNG file; replaced when it exists.
    """
    from PIL import Image, ImageDraw, ImageFont

    heights = [round(CELL * p.original.height / p.original.width) for p in photographs]
    caption = 2 * TEXT + 3 * GAP
    columns = 1 + len(photographs[0].shown)
    size = (columns * (CELL + GAP) + GAP, sum(heights) + len(heights) * caption + GAP)
    grid = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(grid)
    bold, plain = ImageFont.load_default(TEXT), ImageFont.load_default(TEXT - 2)
    y = GAP
    for photograph, height in zip(photographs, heights, strict=True):
        original = photograph.original
        first = ("original", f"{original.width} x {original.height}")
        cells = [(original, first)] + [(p, _caption(row)) for row, p in photograph.shown]
        for column, (picture, (title, facts)) in enumerate(cells):
            x = GAP + column * (CELL + GAP)
            grid.paste(picture.resize((CELL, height), Image.Resampling.LANCZOS), (x, y))
            draw.text((x, y + height + GAP // 2), title, INK, font=bold)
            draw.text((x, y + height + GAP // 2 + TEXT + 3), facts, FAINT, font=plain)
        y += height + caption
    return _save(grid, path)


def _caption(row: Row) -> tuple[str, str]:
    size = row["bytes"]
    text = f"{size} bytes" if size < 10_000 else f"{size / 1000:.1f} kB"
    return str(row["budget"]), f"{text}, {row['psnr']:.1f} dB"


def _save(picture: Image, path: Path) -> Path:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    write_bytes(path, buffer.getvalue(), force=True)
    return path


def draw_plot(rows: Sequence[Row], curves: Mapping[str, Sequence[Row]], path: Path) -> Path | None:
    """Write PSNR and SSIM over bits per pixel, whole files counted; None without matplotlib.

    Args:
        rows: means over the photographs; those with ``tokens`` are ours, those that also name a
            ``model`` of another one.
        curves: rows per classic codec, by name.
        path: PNG file; replaced when it exists.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        say("no plot: matplotlib is not installed here (it comes with the extra 'demo')")
        return None
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    ours = [row for row in rows if "tokens" in row and "model" not in row]
    others = [row for row in rows if "model" in row]
    for axes, key, label in zip(
        figure.subplots(1, 2), ("psnr", "ssim"), ("PSNR (dB)", "SSIM"), strict=True
    ):
        for name, points in curves.items():
            axes.plot(*_line(points, key), marker=".", label=name, alpha=0.8)
        axes.plot(*_line(ours, key), marker="o", color="black", linewidth=2, label="Tessera")
        for row in ours:
            words = str(row["budget"])
            at = (row["bits_per_pixel"], row[key])
            axes.annotate(words, at, xytext=(6, -12), textcoords="offset points", fontsize=8)
        for row, marker in zip(others, "sD^v", strict=False):
            at = ([row["bits_per_pixel"]], [row[key]])
            axes.plot(*at, marker=marker, linestyle="none", label=str(row["model"]))
        axes.set_xscale("log")
        axes.set_xlabel("bits per pixel (whole file)")
        axes.set_ylabel(label)
        axes.grid(True, which="both", alpha=0.25)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    write_bytes(path, buffer.getvalue(), force=True)
    return path


def _line(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    return [row["bits_per_pixel"] for row in rows], [row[key] for row in rows]
