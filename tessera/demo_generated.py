"""The generated part of the demo: pictures that the shipped generator draws, class by class."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tessera.demo_images import Section
from tessera.pipeline import Row

PER_CLASS = 3
GUIDANCE = 2.0
COLUMNS = {
    "class": ("class", "s"),
    "pictures": ("pictures", "d"),
    "recognised": ("recognised", ".0%"),
    "seconds": ("s/picture", ".2f"),
}


def why_not() -> str | None:
    """Return the sentence that says why nothing is generated, None where it can be."""
    from tessera.generator_pipeline import DEFAULT_GENERATOR
    from tessera.models import shipped_models

    if DEFAULT_GENERATOR in shipped_models():
        return None
    return f"no generated pictures: this installation ships no '{DEFAULT_GENERATOR}'"


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


def _pixels(data: bytes) -> Any:
    """Return uint8 (3, H, W) of a PNG."""
    import io

    import numpy as np
    import torch
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
