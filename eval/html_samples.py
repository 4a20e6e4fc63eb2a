"""Originals beside reconstructions in a report: pictures to look at, sounds to play.

    extras["samples"] ──first items──▶ files ──▶ lossless WebP | FLAC ──base64──▶ HTML

Lossless, so that nothing is seen or heard that the contestant did not make.

Letters: C channels, T samples of a sound.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from eval.item_list import readable
from eval.score import ScoreFile
from eval.shown_number import one_line, plain_number
from tok_core.errors import ConfigError, TesseraError

LARGEST_SIDE = 512  # pixels of a shown picture
LONGEST_SECONDS = 10.0
MOST_BYTES = 24 << 20  # of all media in one report


@dataclass(frozen=True)
class Sample:
    """One item of one contestant. label: contestant and budget. original may be missing."""

    label: str
    item: str
    original: Path | None
    reconstruction: Path


def read_samples(file: ScoreFile) -> Iterator[Sample]:
    """Yield the samples that a score file names.

    Raises:
        ConfigError: extras that are not as `eval.score` says.
    """
    listed = file.extras.get("samples", ())
    folder = file.path.parent if file.path is not None else Path()
    for one in listed if isinstance(listed, list | tuple) else (listed,):
        try:
            budget = one.get("budget")
            label = str(one["contestant"])
            if budget is not None:
                label += f", {one.get('budget_name', '')} {plain_number(float(budget))}"
            original = one.get("original")
            if not isinstance(one["reconstruction"], str) or not isinstance(original, str | None):
                raise TypeError
            yield Sample(one_line(label), one_line(str(one["item"])),
                         folder / original if original else None,
                         folder / one["reconstruction"])  # fmt: skip
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            raise ConfigError(
                f"{file.path or 'a score file'} holds samples that cannot be read; each needs "
                "contestant, item, original and reconstruction (paths)."
            ) from None


def samples_html(files: Sequence[ScoreFile], *, most: int = 8) -> str:
    """Return one block per item: the original, then every contestant; empty without samples.

    Args:
        most: items that are shown. What cannot be read leaves a sentence in its place.
    """
    by_item: dict[str, list[Sample]] = {}
    for file in files:
        for sample in read_samples(file):
            by_item.setdefault(sample.item, []).append(sample)
    if not by_item or most < 1:
        return ""
    shown = list(by_item.items())[:most]
    left = MOST_BYTES
    parts = []
    for item, samples in shown:
        originals = [one.original for one in samples if one.original is not None]
        cards = [("original", path) for path in originals[:1]]
        cards += [(one.label, one.reconstruction) for one in samples]
        figures = []
        for label, path in cards:
            figure, size = _figure(label, item, path, left)
            left -= size
            figures.append(figure)
        parts.append(f'<h3>{escape(item)}</h3>\n<div class="pairs">\n{"".join(figures)}</div>\n')
    more = len(by_item) - len(shown)
    note = f"<p>The first {len(shown)} of {len(by_item)} items.</p>\n" if more else ""
    return note + "".join(parts)


def _figure(label: str, item: str, path: Path, left: int) -> tuple[str, int]:
    """Return one card and the bytes that it added."""
    try:
        sound = path.suffix.lower() in readable("audio")
        data, kind, notes = _sound(path) if sound else _picture(path)
        if len(data) > left:
            raise ConfigError("left out, since this report is large enough already.")
    except (TesseraError, OSError, ValueError) as error:
        body = f'<p class="warning">not shown: {escape(one_line(str(error)))}</p>'
        return f"<figure>{body}<figcaption>{escape(label)}</figcaption></figure>\n", 0
    uri = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    name = escape(f"{label}: {item}", quote=True)
    if sound:
        body = f'<audio controls preload="none" aria-label="{name}" src="{uri}"></audio>'
    else:
        body = f'<img loading="lazy" alt="{name}" src="{uri}">'
    caption = escape("; ".join([label, *notes]))
    return f"<figure>{body}<figcaption>{caption}</figcaption></figure>\n", len(data)


def _picture(path: Path) -> tuple[bytes, str, list[str]]:
    from PIL import Image, features

    from vision_tok.image_file import read_image

    picture = read_image(path).pixels
    notes = []
    if max(picture.size) > LARGEST_SIDE:
        notes.append(f"shown smaller than its {picture.width} x {picture.height} pixels")
        picture = picture.copy()
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    if features.check("webp"):
        picture.save(stream, "WEBP", lossless=True, quality=60)
        return stream.getvalue(), "image/webp", notes
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue(), "image/png", notes


def _sound(path: Path) -> tuple[bytes, str, list[str]]:
    import numpy as np

    from audio_tok.audio_file import AudioFile

    blocks: list[Any] = []
    with AudioFile(path) as file:
        rate, most = file.rate, int(LONGEST_SECONDS * file.rate)
        cut = file.frames > most
        for block in file.blocks():
            blocks.append(block)
            if sum(len(one) for one in blocks) >= most:
                break
    samples = np.concatenate(blocks)[:most]
    if samples.shape[1] > 2:  # players know one and two channels
        samples = samples.mean(axis=1, keepdims=True)
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format="FLAC", subtype="PCM_16")
    return stream.getvalue(), "audio/flac", [f"first {LONGEST_SECONDS:g} s"] if cut else []


def has_samples(files: Sequence[ScoreFile]) -> bool:
    """Return whether any file names samples."""
    return any(isinstance(file.extras, Mapping) and file.extras.get("samples") for file in files)
