"""The image part of the demo: photographs at several budgets beside other codecs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval import picture_codecs
from tessera.demo_companions import shipped_companions, show_companions
from tessera.demo_rows import (
    Photograph,
    classic_row,
    distance,
    encoded,
    rate,
    token_row,
    warm_up,
)
from tessera.files import make_folder
from tessera.modality import open_codec
from tessera.pipeline import Row
from tok_core.errors import ConfigError

if TYPE_CHECKING:
    from tok_core.contract import Tokenizer

SHOWN_CODECS = ("JPEG", "WebP")
COLUMNS = {
    "budget": ("budget", "s"),
    "bytes": ("bytes on disk", "d"),
    "bits_per_pixel": ("bits/pixel", ".4f"),
    "psnr": ("PSNR dB", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "encode_ms": ("encode ms", ".1f"),
    "decode_ms": ("decode ms", ".1f"),
}


@dataclass
class Section:
    """One table of the demo with its files: a sense, or later another view of it."""

    title: str
    rows: list[Row]
    facts: dict[str, Any]
    files: list[Path] = field(default_factory=list)
    columns: dict[str, tuple[str, str]] = field(default_factory=lambda: dict(COLUMNS))


def held_out_photographs() -> list[Path]:
    """Return the photographs that no model of this project is ever trained on."""
    from assets import asset_path

    folder = Path(asset_path("images"))
    names = json.loads((folder / "SPLIT.json").read_text())["held_out"]
    return [next(folder.glob(f"{Path(name).stem}.*")) for name in names]


def image_demo(
    output: Path,
    *,
    pictures: Sequence[str] | None = None,
    model: str | None = None,
    budgets: Sequence[int] | None = None,
    policy: str = "tile",
    device: str = "auto",
    batch_size: int = 16,
    companions: Mapping[str, Path] | None = None,
) -> Section:
    """Encode photographs at several budgets, write everything, return the table.

    Args:
        output: existing folder; gets ``tokens/``, ``pictures/``, ``grid.png`` and, where
            matplotlib is installed, ``rate_distortion.png``.
        pictures: files, folders or globs; None takes the held-out photographs.
        model: shipped name, folder or hub id.
        budgets: tokens per network input; None takes an eighth, a quarter, half and all.
        policy: ``resize``, ``crop`` or ``tile``.
        device: ``auto``, ``cpu``, ...
        batch_size: network inputs per call.
        companions: folders of further models by name, each shown with all its tokens; None takes
            the shipped ones beside the default model, and none beside another.

    Example:
        >>> image_demo(Path("out"), budgets=[16, 64]).rows[0]["psnr"]  # doctest: +SKIP
        19.1
    """
    from tessera.demo_pictures import draw_grid, draw_plot
    from tessera.models import DEFAULT_MODEL, load_tokenizer

    tokenizer = load_tokenizer(model, device=device)
    options = {"policy": policy, "batch_size": batch_size, "keep_original": True}
    sources = _sources(tokenizer, pictures, options)
    counts = _budgets(tokenizer, budgets)
    warm_up(tokenizer, batch_size)
    for folder in ("tokens", "pictures"):
        make_folder(output / folder)
    photographs = [
        _code(tokenizer, source, counts, options, output) for source in sources
    ]  # fmt: skip
    if companions is None:
        companions = shipped_companions() if model is None else {}
    show_companions(photographs, sources, companions, options, output, device)
    curves = _classic_curves(photographs)
    rows = _means(photographs)
    made = [draw_grid(photographs, output / "grid.png")]
    plot = draw_plot(rows, curves, output / "rate_distortion.png")
    made += [plot] if plot else []
    facts = {
        "model": model or DEFAULT_MODEL, "code_hash": tokenizer.code_hash(), "policy": policy,
        "mean": rows, "pictures": {p.name: [row for row, _ in p.shown] for p in photographs},
        "classic_curves": curves,
    }  # fmt: skip
    return Section("images", rows, facts, made)


def _sources(
    tokenizer: Tokenizer, pictures: Sequence[str] | None, options: dict[str, Any]
) -> list[Path]:
    from tessera import files

    if not pictures:
        return held_out_photographs()
    readable = open_codec(tokenizer, **options).readable
    return [item.path for item in files.find(pictures, readable)]


def _budgets(tokenizer: Tokenizer, wanted: Sequence[int] | None) -> list[int]:
    from vision_tok.legal_lengths import legal_lengths

    lengths = legal_lengths(tokenizer.spec)
    least, full = lengths[0], lengths[-1]
    if wanted is None:
        shares = [max(least, full // part) for part in (8, 4, 2, 1)]
        wanted = sorted({max(n for n in lengths if n <= share) for share in shares})
    if not set(wanted) <= set(lengths):
        legal = f"{least} to {full}" if len(lengths) > full - least else str(list(lengths))
        raise ConfigError(f"budgets {list(wanted)} leave the legal {legal}.")
    return list(wanted)


def _code(
    tokenizer: Tokenizer, source: Path, budgets: Sequence[int], options: dict[str, Any],
    output: Path,
) -> Photograph:  # fmt: skip
    """Take one photograph through every budget and both classic codecs."""
    codec: Any = open_codec(tokenizer, **options)
    signal = codec.read(source)
    # One encoder run serves every budget; the smaller ones are its prefixes.
    whole, encode_ms = encoded(codec, signal)
    photograph = Photograph(source.stem, codec.picture(signal))
    for count in budgets:
        name, facts = f"{source.stem}_{count:03d}", {"budget": f"{count} tokens"}
        shortened = codec.shortened(whole.file, count)
        row, picture = token_row(codec, signal, shortened, output, name, facts)
        photograph.shown.append((row | {"encode_ms": encode_ms}, picture))
    # The smallest budget: most pictures have no JPEG or WebP file that small.
    smallest = photograph.shown[0][0]["bytes"]
    for kind in SHOWN_CODECS:
        photograph.shown.append(classic_row(photograph.original, kind, smallest, kind))
    return photograph


def _classic_curves(photographs: Sequence[Photograph]) -> dict[str, list[Row]]:
    """Return the mean rate and quality of JPEG and WebP at each quality setting."""
    curves: dict[str, list[Row]] = {}
    for kind in SHOWN_CODECS:
        curves[kind] = []
        for quality in picture_codecs.CURVE:
            rows = []
            for photograph in photographs:
                data = picture_codecs.encode(photograph.original, kind, quality)
                row = rate(photograph.original, len(data))
                rows.append(row | distance(photograph.original, picture_codecs.decode(data)))
            curves[kind].append({"quality": quality} | _mean(rows))
    return curves


def _means(photographs: Sequence[Photograph]) -> list[Row]:
    """Return one row per column of the grid: the mean over the photographs."""
    columns = zip(*([row for row, _ in p.shown] for p in photographs), strict=True)
    kept = ("budget", "model")
    return [{key: rows[0][key] for key in kept if key in rows[0]} | _mean(rows) for rows in columns]


def _mean(rows: Sequence[Row]) -> Row:
    keys = [key for key, value in rows[0].items() if isinstance(value, int | float)]
    return {key: sum(row[key] for row in rows) / len(rows) for key in keys}
