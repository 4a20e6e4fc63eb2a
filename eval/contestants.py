"""Names of contestants: what a user writes after ``--tokenizer``, and what it stands for.

    jpeg  webp  avif  jpeg2000  opus  mp3       classic codecs
    one-d-piece-tiny                            a shipped model
    runs/mine/final, someone/their-model        a model folder or a hub id (`tok_core.load`)
    encodec:PATH  dac:PATH  mimi:PATH           codecs of transformers, by folder or cached hub id
    vqmodel:PATH  kl:PATH                       autoencoders of diffusers, likewise
    folder:DIR                                  finished files, paired by name
    MODULE:FUNCTION                             a Python function of the user's
    LABEL=any of these                          under another name
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.contestant import Contestant
from tok_core.errors import ConfigError, WeightsError, nearest
from tok_core.shipped_models import find_device, find_model, is_hub_id, shipped_models

PICTURE_CODECS = ("jpeg", "webp", "avif", "jpeg2000")
SOUND_CODECS = ("opus", "mp3")
ALIASES = {"jpg": "jpeg", "jp2": "jpeg2000", "j2k": "jpeg2000", "jpeg-2000": "jpeg2000"}
KINDS = ("encodec", "dac", "mimi", "vqmodel", "kl", "folder")


def contestant(
    text: str, sense: str, *, device: str = "auto", policy: str = "tile", batch_size: int = 16
) -> Contestant:
    """Return the contestant behind a name.

    Args:
        text: see the module. sense: of the run, ``image`` or ``audio``.
        device: for networks: ``auto``, ``cpu``, ``cuda:1``.
        policy: for pictures of another size than a network's. batch_size: inputs per call.

    Raises:
        ConfigError: no such name (the nearest is suggested), or one of the other sense.
        WeightsError: a model that cannot be loaded.

    Example:
        >>> contestant("small=jpeg", "image").name
        'small'
    """
    label, spec = _labelled(text)
    found = _find(spec, label, sense, find_device(device), policy, batch_size)
    if found.sense != sense:
        raise ConfigError(
            f"'{spec}' is a contestant for {found.sense} but this run is about {sense}; use "
            f"eval {'recon' if found.sense == 'image' else 'audio'}."
        )
    found.identity = {**found.identity, "spec": spec}
    return found


def contestants(texts: Sequence[str], sense: str, **options: object) -> list[Contestant]:
    """Return several, whose names must differ.

    Raises:
        ConfigError: two of one name.
    """
    found = [contestant(text, sense, **options) for text in texts]  # type: ignore[arg-type]
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"two contestants are called '{name}'; give one another name: LABEL={name}"
            )
    return found


def _find(
    spec: str, label: str | None, sense: str, device: str, policy: str, batch_size: int
) -> Contestant:
    word = ALIASES.get(spec.lower(), spec.lower())
    kind, _, rest = spec.partition(":")
    if word in PICTURE_CODECS:
        from eval.contestants_pictures import PictureCodecContestant

        return PictureCodecContestant(word, label)
    if word in SOUND_CODECS:
        from eval.contestants_sounds import SoundCodecContestant

        return SoundCodecContestant(word, label)
    if kind in KINDS and rest:
        return _of_kind(kind, rest, label, sense, device, batch_size)
    if spec in shipped_models() or Path(spec).expanduser().is_dir():
        return _model(spec, label, device, policy, batch_size)
    if rest and not kind.startswith((".", "/")):
        from eval.contestants_entry_point import entry_point

        if "." not in kind and _close(kind, KINDS):
            raise ConfigError(f"'{spec}' is no contestant{nearest(kind, KINDS)}")
        return entry_point(spec, label or spec, sense)
    if is_hub_id(spec) and not Path(spec).exists():
        return _model(spec, label, device, policy, batch_size)
    legal = [*shipped_models(), *PICTURE_CODECS, *SOUND_CODECS]
    raise ConfigError(
        f"'{spec}' is no contestant; legal are {', '.join(legal)}, a model folder or hub id, "
        f"{', '.join(kind + ':PATH' for kind in KINDS)} and MODULE:FUNCTION{nearest(spec, legal)}"
    )


def _of_kind(
    kind: str, rest: str, label: str | None, sense: str, device: str, batch_size: int
) -> Contestant:
    if kind == "folder":
        from eval.contestants_folder import FolderContestant

        return FolderContestant(rest, sense, label)
    if kind in ("vqmodel", "kl"):
        from eval.contestants_diffusers import DiffusersAutoencoder

        return DiffusersAutoencoder(kind, rest, label, device=device, batch_size=batch_size)
    from eval.contestants_transformers import TransformersCodec

    return TransformersCodec(kind, rest, label, device=device)


def _model(
    spec: str, label: str | None, device: str, policy: str, batch_size: int
) -> Contestant:  # fmt: skip
    from eval.contestants_tokenizer import TokenizerContestant
    from tok_core.loading import load

    source = find_model(spec)
    if Path(source).is_dir() and not Path(source, "config.json").is_file():
        raise WeightsError(
            f"'{spec}' holds no model (no config.json); if it holds finished files, write "
            f"folder:{spec}"
        )
    model = load(source)
    model.to(device)  # type: ignore[arg-type]
    name = label or spec.rstrip("/")
    return TokenizerContestant(model, name, policy=policy, batch_size=batch_size)


def _labelled(text: str) -> tuple[str | None, str]:
    label, equals, spec = text.partition("=")
    if equals and label and spec and ":" not in label and "/" not in label:
        return label, spec
    return None, text


def _close(word: str, legal: Sequence[str]) -> bool:
    return bool(nearest(word, legal))
