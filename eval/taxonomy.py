"""Taxonomy: what kind of audio tokenizer something is, on the five axes of DATES."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tok_core.errors import ConfigError, nearest

# Legal words by field.
AXES: Mapping[str, tuple[str, ...]] = {
    "encoder": ("CNN", "RNN", "CNN+RNN", "CNN+T", "T"),
    "decoder": ("CNN", "RNN", "CNN+RNN", "CNN+T", "T"),
    "representation": ("T", "T-F"),
    "quantization": ("RVQ", "GVQ", "SVQ", "MSRVQ", "CSRVQ", "PQ", "FSQ", "K-means"),
    "bitrate": ("fixed", "adaptive"),
    "objectives": ("GAN", "Feat", "Rec", "VQ", "Diff", "MP"),
    "auxiliary": ("Dis", "SD", "SST"),
    "training": ("joint", "post-training"),
    "domains": ("speech", "music", "audio"),
}


@dataclass(frozen=True, kw_only=True)
class Taxonomy:
    """One tokenizer on the axes of DATES.

    Args:
        encoder, decoder: ``CNN``, ``RNN``, ``T`` (transformer), or a sum of them.
        representation: ``T`` time, ``T-F`` time and frequency.
        quantization: RVQ residual, GVQ grouped, SVQ single, MSRVQ multi-scale, CSRVQ cross-scale,
            PQ product, FSQ finite scalar, K-means.
        bitrate: ``fixed`` or ``adaptive``.
        objectives: GAN, Feat (feature matching), Rec, VQ, Diff, MP (masked prediction).
        auxiliary: Dis (disentanglement), SD (semantic distillation), SST (supervised semantic).
        training: ``joint``, end to end, or ``post-training``.
        domains: trained on; ``audio`` is general audio. streamable: whether it needs no future.

    Raises:
        ConfigError: a word that is not legal on its axis.

    Source: the taxonomy of DATES, arXiv 2506.10274.

    Example:
        >>> WAVTOKENIZER.matches(quantization="SVQ", domains="music")
        True
    """

    encoder: str
    decoder: str
    quantization: str
    objectives: tuple[str, ...]
    domains: tuple[str, ...]
    representation: str = "T"
    bitrate: str = "fixed"
    auxiliary: tuple[str, ...] = ()
    training: str = "joint"
    streamable: bool = False

    def __post_init__(self) -> None:
        for axis, legal in AXES.items():
            value = getattr(self, axis)
            if not isinstance(value, str):  # JSON has lists
                object.__setattr__(self, axis, tuple(value))
            for word in (value,) if isinstance(value, str) else value:
                if word not in legal:
                    raise ConfigError(
                        f"{axis} '{word}' is unknown; legal are {', '.join(legal)}"
                        f"{nearest(str(word), legal)}"
                    )

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON values."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    def matches(self, **wanted: Any) -> bool:
        """Tell whether every named field is, or holds, the wanted word."""
        fields = {field.name for field in dataclasses.fields(self)}
        for axis, word in wanted.items():
            if axis not in fields:
                raise ConfigError(
                    f"axis '{axis}' is unknown{nearest(axis, fields)}; legal are "
                    f"{', '.join(sorted(fields))}"
                )
            value = getattr(self, axis)
            if not (word in value if isinstance(value, tuple) else word == value):
                return False
        return True


WAVTOKENIZER = Taxonomy(
    encoder="CNN+T", decoder="CNN+T", quantization="SVQ", objectives=("GAN", "Feat", "Rec", "VQ"),
    domains=("speech", "music", "audio"),
)  # fmt: skip
