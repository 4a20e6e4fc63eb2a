"""The pipeline a command means: a folder's, or a generator with the tokenizer of its tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tok_core.errors import ConfigError
from tok_core.shipped_models import find_device, find_model, shipped_models

if TYPE_CHECKING:
    from generators.pipelines import TokenPipeline

DEFAULT_GENERATOR = "generator-llamagen-tiny"


def open_pipeline(
    path: str | None = None, *, generator: str | None = None, tokenizer: str | None = None,
    device: str = "cpu",
) -> TokenPipeline:  # fmt: skip
    """Load a pipeline, or put one together.

    Args:
        path: folder or hub id of a pipeline, or a generator's shipped name or folder.
        generator: in its place. tokenizer: of its tokens; None looks for the shipped one.
        device: ``auto``, ``cpu``, ...

    Raises:
        ConfigError: both given, or no shipped tokenizer makes the generator's tokens.
        WeightsError: nothing of that name.
    """
    from generators.contract import Generator
    from generators.pipelines import PIPELINES, TokenPipeline
    from tessera.models import load_tokenizer
    from tok_core.loading import load

    if path is not None and generator is not None:
        raise ConfigError("give a pipeline, or --generator with its --tokenizer, not both.")
    if path is not None and _is_pipeline(path):
        if tokenizer is None:
            return TokenPipeline.from_pretrained(path).to(find_device(device))
        own = load_tokenizer(tokenizer, device=device)
        return TokenPipeline.from_pretrained(path, tokenizer=own).to(find_device(device))
    model = load(find_model(generator or path or DEFAULT_GENERATOR)).to(find_device(device))
    if not isinstance(model, Generator):
        raise ConfigError(
            f"{type(model).__name__} is no generator; name a pipeline, or a generator such as "
            f"{DEFAULT_GENERATOR}."
        )
    codec = load_tokenizer(tokenizer or _tokenizer_of(model), device=device)
    cls = next(cls for cls in PIPELINES.values() if cls.modality == codec.spec.modality)
    return cls(generator=model, tokenizer=codec)


def _is_pipeline(path: str) -> bool:
    from generators.pipelines import INDEX

    if path in shipped_models():
        return False
    folder = Path(path).expanduser()
    # What is neither is a pipeline that is not there, and is reported as one.
    return (folder / INDEX).is_file() or not (folder / "config.json").is_file()


def _tokenizer_of(generator: Any) -> str:
    """Return the name of the shipped tokenizer with the code hash a generator was trained on."""
    known = generator.config.get("code_hash")
    for name, folder in shipped_models().items():
        if known is not None and _code_hash(folder) == known:
            return name
    hash_ = f" of code hash {known[:16]}" if known else ""
    raise ConfigError(
        f"this {type(generator).__name__} draws tokens{hash_} that no shipped tokenizer makes; "
        "name theirs with --tokenizer."
    )


def _code_hash(folder: Path) -> str | None:
    from tok_core.contract import Tokenizer
    from tok_core.loading import load, model_class

    kind = json.loads((folder / "config.json").read_text()).get("_class_name", "")
    return load(folder).code_hash() if issubclass(model_class(kind), Tokenizer) else None
