"""`from_pretrained` that also reads the files a paper's authors published."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from tok_core.errors import WeightsError
from tok_core.model import Model
from tok_core.official_config import read_official_config
from tok_core.strict_loading import CONFIG, fetch, read_config

WEIGHT_FILES = ("pytorch_model.bin", "model.safetensors", "weights.safetensors")
DIFFUSERS_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


class OfficialSource(Model):
    """Mixed in before Tokenizer or Generator: own folders load, official ones are imported.

    A folder, hub repository or file is official when it holds no config.json written by
    `save_pretrained` (one that names its ``_class_name``), or one of a foreign class.
    """

    # "module:function" that reads this family's files: (weights file, config or None, cls=).
    official_importer: ClassVar[str]
    # Classes of other projects whose folders that function reads, too.
    foreign_classes: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_pretrained(cls, path: Any, **options: Any) -> Any:
        """Load our own folder, or import an official one, strictly either way.

        Args:
            path: folder, weights file or hub id such as ``turing-motors/One-D-Piece-L-256``.
            options: as for diffusers (``revision``, ``cache_dir``, ``torch_dtype``, ...).

        Returns:
            The model in eval mode, float32, on the CPU unless asked otherwise.

        Raises:
            WeightsError: nothing there, or keys and shapes that do not fit.

        Example:
            >>> OneDPiece.from_pretrained("turing-motors/One-D-Piece-L-256")  # doctest: +SKIP
        """
        found = find_official(path, options, cls.foreign_classes)
        if found is None:
            return super().from_pretrained(path, **options)
        weights, config = found
        module, _, name = cls.official_importer.partition(":")
        model = getattr(importlib.import_module(module), name)(weights, config, cls=cls)
        dtype = options.get("torch_dtype")
        if dtype is not None:
            for name, part in model.named_children():
                if name not in (cls._keep_in_fp32_modules or ()):
                    part.to(dtype)
            for parameter in model.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
        return model


def find_official(
    path: str | Path, options: dict[str, Any], foreign: Sequence[str] = ()
) -> tuple[Path, dict[str, Any] | None] | None:
    """Return weights file and config of an official source, or None for a folder of our own.

    Args:
        path: weights file, folder or hub id.
        options: as for `OfficialSource.from_pretrained`.
        foreign: classes of diffusers whose folders count as official.

    Raises:
        WeightsError: a hub id that cannot be reached.
    """
    place = Path(path)
    if place.is_file():
        return place, None
    local = place / (options.get("subfolder") or "")
    if place.is_dir():
        described = (local / CONFIG).is_file()
        config = _official_config(path, options, foreign) if described else None
        names = _weight_names(config)
        files = [local / name for name in names if (local / name).is_file()]
        if config is not None or (files and not described):
            if not files:
                raise WeightsError(f"{local} holds none of {', '.join(names)}; add one.")
            return files[0], config
        return None
    if str(path).startswith((".", "/", "~")) or str(path).count("/") != 1:
        return None
    return _find_on_hub(str(path), options, foreign)


class OfficialFiles(NamedTuple):
    """What an importer reads.

    Attributes:
        weights: file. beside: config that lies beside it. given: config that the user names.
    """

    weights: Path
    beside: dict[str, Any] | None
    given: Mapping[str, Any] | None

    @property
    def merged(self) -> dict[str, Any]:
        """The options of both; what the user names wins."""
        return {**(self.beside or {}), **(self.given or {})}


def official_files(
    source: str | Path, config: str | Path | Mapping[str, Any] | None = None, *,
    such_as: str = "or a folder with model.safetensors", foreign: Sequence[str] = (),
) -> OfficialFiles:  # fmt: skip
    """Return weights and configs of an official source, and refuse what is none.

    Args:
        source: weights file, folder or hub id. config: options as a mapping or a JSON file.
        such_as: what else to give, for the error message.
        foreign: as `find_official`.

    Raises:
        WeightsError: nothing official there, or an unreadable config.
    """
    found = find_official(source, {}, foreign)
    if found is None:
        raise WeightsError(
            f"{source} is no official checkpoint; give a weights file, {such_as} and no "
            "config.json of ours."
        )
    given = read_official_config(config) if isinstance(config, str | Path) else config
    return OfficialFiles(*found, given)


def _find_on_hub(
    repo: str, options: dict[str, Any], foreign: Sequence[str]
) -> tuple[Path, dict[str, Any] | None] | None:
    try:
        file = fetch(repo, CONFIG, options)
    except WeightsError:
        config = None  # One-D-Piece publishes no config; a missing network shows below
    else:
        config = _official_config(file.parent, {}, foreign)
        if config is None:
            return None
    problem: WeightsError | None = None
    for name in _weight_names(config)[:2]:
        try:
            return fetch(repo, name, options), config
        except WeightsError as error:
            problem = problem or error
    raise problem or WeightsError(f"{repo} holds no weights; check the name.")


def _official_config(
    path: str | Path, options: dict[str, Any], foreign: Sequence[str]
) -> dict[str, Any] | None:
    try:
        config = read_config(path, options)
    except WeightsError:
        return None  # the ordinary loader says what is wrong with it
    return config if config.get("_class_name") in (None, *foreign) else None


def _weight_names(config: dict[str, Any] | None) -> tuple[str, ...]:
    return DIFFUSERS_FILES + WEIGHT_FILES if "_class_name" in (config or {}) else WEIGHT_FILES
