"""The captions that ``tessera generate --captions`` draws from: ``.npy`` files of features."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tok_core.caption_features import MOST_BYTES, SHORT_SUFFIX, SUFFIX, read_features
from tok_core.errors import ConfigError, MediaError


class CaptionFile(NamedTuple):
    """Attributes: name: without extension. features: (n, C). digest: of the file."""

    name: str
    features: np.ndarray
    digest: str


def read_captions(path: Path, shape: tuple[int, int] | None) -> list[CaptionFile]:
    """Read a file, or all of a folder in the order of their names.

    A short caption beside a full one of the same name (NAME.short.npy) is no prompt of its own.

    Args:
        shape: (T, C) of the generator, None for one without captions.

    Raises:
        ConfigError: nothing there, or a generator without captions. MediaError: a file that holds
            no features, or those of another text encoder.
    """
    if shape is None:
        raise ConfigError("this generator takes no captions; leave --captions out.")
    files = _prompts(path) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"--captions is '{path}', which holds no {SUFFIX} file; give features.")
    return [_read(file, shape[1]) for file in files]


def _prompts(folder: Path) -> list[Path]:
    files = sorted(folder.glob(f"*{SUFFIX}"))
    full = {file.name.removesuffix(SUFFIX) for file in files}
    return [
        file for file in files
        if not file.name.endswith(SHORT_SUFFIX)
        or file.name.removesuffix(SHORT_SUFFIX) not in full
    ]  # fmt: skip


def _read(file: Path, width: int) -> CaptionFile:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise MediaError(f"{file} is larger than {MOST_BYTES} bytes, which is no caption.")
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); give a {SUFFIX} file of "
                          "caption features, or a folder of them.") from None
    features = read_features(data, str(file))
    if features.shape[1] != width:
        raise MediaError(f"{file} has {features.shape[1]} features and this generator takes "
                         f"{width}; use the text encoder that it was trained with.")
    return CaptionFile(file.stem, features, hashlib.sha256(data).hexdigest())


def prompt_of(captions: Sequence[CaptionFile]) -> dict[str, Any]:
    """Return the arguments of a pipeline's call for one sample of each caption."""
    longest = max(len(caption.features) for caption in captions)
    width = captions[0].features.shape[1]
    embeds = torch.zeros(len(captions), longest, width)
    mask = torch.zeros(len(captions), longest, dtype=torch.bool)
    for row, caption in enumerate(captions):
        embeds[row, : len(caption.features)] = torch.from_numpy(caption.features)
        mask[row, : len(caption.features)] = True
    return {"prompt_embeds": embeds, "prompt_attention_mask": mask}
