"""What ``tessera generate`` makes: numbered samples in batches, as files or in tar shards.

    number i --> seed (seed, i), label i mod classes --pipeline--> picture or sound --> file, shard

A sample depends on its number alone, so that batches, processes and a second run after a kill make
the same ones.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from generators.drawing import numbered_seed
from tessera.caption_files import CaptionFile, prompt_of
from tok_core.atomic_write import write_bytes
from tok_core.errors import ConfigError

DIGITS = 6
INDEX = "samples.json"


class Sample(NamedTuple):
    """Attributes: number: i. label: or None. name: without extension. data: of its file."""

    number: int
    label: int | None
    name: str
    data: bytes


class Maker:
    """Makes numbered samples of one pipeline.

    Args:
        pipe: `TokenImagePipeline` or `TokenAudioPipeline`.
        labels: given in turn; empty for an unconditional generator. captions: alike, of one of
            captions.
        seed: of the whole set. batch: samples drawn at once.
        settings: of the pipeline's call (guidance_scale, temperature, ...).
    """

    def __init__(
        self, pipe: Any, labels: Sequence[int], *, seed: int, batch: int, settings: dict[str, Any],
        captions: Sequence[CaptionFile] = (),
    ) -> None:  # fmt: skip
        self.pipe, self.labels, self.seed = pipe, list(labels), seed
        self.captions = list(captions)
        self.batch, self.settings = batch, settings
        self.suffix = ".png" if pipe.modality == "image" else ".wav"

    def label(self, number: int) -> int | None:
        """Return the label of a sample."""
        return self.labels[number % len(self.labels)] if self.labels else None

    def name(self, number: int) -> str:
        """Return a sample's file name without extension."""
        label, plain = self.label(number), f"{number:0{DIGITS}d}"
        if self.captions:
            return f"{plain}_{self.captions[number % len(self.captions)].name}"
        return plain + ("" if label is None else f"_label{label}")

    def samples(self, numbers: Sequence[int]) -> Iterator[Sample]:
        """Make samples by number, a batch at a time."""
        for start in range(0, len(numbers), self.batch):
            part = numbers[start : start + self.batch]
            for number, data in zip(part, self._made(part), strict=True):
                yield Sample(number, self.label(number), self.name(number), data)

    def _made(self, numbers: Sequence[int]) -> list[bytes]:
        generators = [torch.Generator().manual_seed(numbered_seed(self.seed, n)) for n in numbers]
        asked: dict[str, Any] = {"num_per_label": len(numbers)}
        if self.captions:
            asked = prompt_of([self.captions[n % len(self.captions)] for n in numbers])
        elif self.labels:
            asked = {"class_labels": [self.label(number) for number in numbers]}
        made = self.pipe(**asked, generator=generators, **self.settings)
        if self.pipe.modality == "image":
            return [_png(picture) for picture in made.images]
        return [_wav(sound, made.sampling_rate) for sound in made.audios]


def write_shard(path: Path, samples: Iterator[Sample], suffix: str) -> int:
    """Write one tar of samples and their labels, whole or not at all; return its bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            key = f"{sample.number:0{DIGITS}d}"
            _add(tar, key + suffix, sample.data)
            if sample.label is not None:
                _add(tar, f"{key}.cls", str(sample.label).encode())
    return write_bytes(path, buffer.getvalue(), force=True)


def check_same(maker: Maker, folder: Path, num: int, per_shard: int) -> None:
    """Note what a folder of shards is made of; refuse to go on with anything else.

    Raises:
        ConfigError: the folder holds shards of other models, seeds or settings.
    """
    facts = {
        "seed": maker.seed, "labels": maker.labels, "per_shard": per_shard,
        "captions": [caption.digest for caption in maker.captions],
        "settings": maker.settings, "generator": maker.pipe.generator.weights_hash(),
        "tokenizer": maker.pipe.tokenizer.weights_hash(),
    }  # fmt: skip
    file = folder / INDEX
    if file.is_file():
        before = json.loads(file.read_text())
        odd = [name for name, value in facts.items() if before.get(name) != value]
        if odd:
            raise ConfigError(
                f"{folder} holds samples of another {odd[0]}; choose another folder, or remove it."
            )
        # More of the same may be asked for; whole shards stay.
        if before["num"] >= num:
            return
    write_bytes(file, json.dumps(facts | {"num": num}, indent=1).encode(), force=True)


def contact_sheet(files: Sequence[bytes], columns: int) -> bytes:
    """Return PNG bytes of pictures side by side, ``columns`` in a row.

    Raises:
        ConfigError: nothing to show.
    """
    from PIL import Image

    if not files:
        raise ConfigError("there is no sample to show on a grid; ask for at least one.")
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
    width, height = pictures[0].size
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * width, i // columns * height))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # No time, no user: the same samples give the same bytes.
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _png(picture: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _wav(sound: np.ndarray, rate: int) -> bytes:
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, sound.T, rate, format="WAV", subtype="PCM_16")
    return out.getvalue()
