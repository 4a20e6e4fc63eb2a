"""The generated part of the demo: pictures class by class, and speech, by shipped generators."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tessera.demo_images import Section
from tessera.pipeline import Row

PER_CLASS = 3
SOUNDS = 4
SPEECH_GENERATOR = "generator-speech-tiny"
GUIDANCE = 2.0
COLUMNS = {
    "class": ("class", "s"),
    "pictures": ("pictures", "d"),
    "recognised": ("recognised", ".0%"),
    "seconds": ("s/picture", ".2f"),
}
SOUND_COLUMNS = {
    "source": ("file", "s"),
    "length": ("s of sound", ".1f"),
    "tokens": ("tokens", "d"),
    "seconds": ("s/sound", ".2f"),
}


def why_not(generator: str) -> str | None:
    """Return the sentence that says why nothing is generated, None where it can be."""
    from tessera.models import shipped_models

    if generator in shipped_models():
        return None
    return f"nothing generated: this installation ships no '{generator}'"


def generated_demo(output: Path, *, device: str = "auto", per_class: int = PER_CLASS) -> Section:
    """Draw pictures of every class, write them on one sheet, return the table.

    Args:
        output: existing folder; gets ``generated.png``, a class per column.
        device: ``auto``, ``cpu``, ...
        per_class: pictures of each.

    Example:
        >>> generated_demo(Path("out")).rows[0]["class"]  # doctest: +SKIP
        'disc'
    """
    import torch

    from eval.labelled_pictures import seen
    from tessera.generated import Maker, contact_sheet
    from tessera.generator_pipeline import DEFAULT_GENERATOR, open_pipeline
    from tok_core.atomic_write import write_bytes
    from tok_core.procedural_classes import CLASS_NAMES

    pipe: Any = open_pipeline(DEFAULT_GENERATOR, device=device)
    pipe.set_progress_bar_config(disable=True)
    classes = pipe.generator.classes
    count = classes * per_class
    maker = Maker(
        pipe, range(classes), seed=0, batch=count, settings={"guidance_scale": GUIDANCE}
    )
    began = time.perf_counter()
    samples = list(maker.samples(range(count)))
    seconds = (time.perf_counter() - began) / count
    sheet = output / "generated.png"
    write_bytes(sheet, contact_sheet([sample.data for sample in samples], classes), force=True)
    pictures = torch.stack([_pixels(sample.data) for sample in samples])
    labels = torch.tensor([sample.label for sample in samples])
    right = seen(pictures).classes == labels
    rows: list[Row] = [
        {"class": name, "pictures": per_class, "seconds": seconds,
         "recognised": float(right[labels == label].double().mean())}
        for label, name in enumerate(CLASS_NAMES)
    ]  # fmt: skip
    rows.append({
        "class": "all", "pictures": count, "seconds": seconds,
        "recognised": float(right.double().mean()),
    })  # fmt: skip
    facts = {"model": DEFAULT_GENERATOR, "guidance": GUIDANCE, "classes": rows}
    return Section("generated", rows, facts, [sheet], dict(COLUMNS))


def spoken_demo(output: Path, *, device: str = "auto", count: int = SOUNDS) -> Section:
    """Let the shipped generator of speech babble, write WAV files, return the table.

    Args:
        output: existing folder; gets ``generated/*.wav``.
        device: ``auto``, ``cpu``, ...
        count: of sounds.

    Example:
        >>> spoken_demo(Path("out")).rows[0]["length"]  # doctest: +SKIP
        3.0
    """
    from tessera.files import make_folder
    from tessera.generated import Maker
    from tessera.generator_pipeline import open_pipeline
    from tok_core.atomic_write import write_bytes

    pipe: Any = open_pipeline(SPEECH_GENERATOR, device=device)
    pipe.set_progress_bar_config(disable=True)
    maker = Maker(pipe, [], seed=0, batch=count, settings={})
    began = time.perf_counter()
    samples = list(maker.samples(range(count)))
    seconds = (time.perf_counter() - began) / count
    folder, tokens = output / "generated", pipe.generator.sizes[-1]
    make_folder(folder)
    files = [folder / f"{sample.name}.wav" for sample in samples]
    for file, sample in zip(files, samples, strict=True):
        write_bytes(file, sample.data, force=True)
    rows: list[Row] = [
        {"source": file.name, "length": tokens / pipe.tokenizer.spec.token_rate,
         "tokens": tokens, "seconds": seconds}
        for file in files
    ]  # fmt: skip
    facts = {"model": SPEECH_GENERATOR, "sounds": rows}
    return Section("generated speech", rows, facts, files, dict(SOUND_COLUMNS))


def _pixels(data: bytes) -> Any:
    """Return uint8 (3, H, W) of a PNG."""
    import io

    import numpy as np
    import torch
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
