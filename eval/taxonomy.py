"""Taxonomy: what kind of audio tokenizer something is, on the five axes of DATES."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    "streamable": ("yes", "no"),
}


@dataclass(frozen=True, kw_only=True)
class Taxonomy:
    """One tokenizer on the axes of DATES; None or nothing where its source does not say.

    Args:
        encoder, decoder: ``CNN``, ``RNN``, ``T`` (transformer), or a sum of them.
        representation: ``T`` time, ``T-F`` time and frequency.
        quantization: RVQ residual, GVQ grouped, SVQ single, MSRVQ multi-scale, CSRVQ cross-scale,
            PQ product, FSQ finite scalar, K-means.
        bitrate: ``fixed`` or ``adaptive``.
        objectives: GAN, Feat (feature matching), Rec, VQ, Diff, MP (masked prediction).
        auxiliary: Dis (disentanglement), SD (semantic distillation), SST (supervised semantic).
        training: ``joint``, end to end, or ``post-training``.
        domains: trained on; ``audio`` is general audio. streamable: ``yes`` needs no future.

    Raises:
        ConfigError: a word that is not legal on its axis.

    Source: the taxonomy of DATES, arXiv 2506.10274.

    Example:
        >>> Taxonomy(quantization="SVQ", domains=("speech",)).matches("domains=speech")
        True
    """

    encoder: str | None = None
    decoder: str | None = None
    representation: str | None = None
    quantization: str | None = None
    bitrate: str | None = None
    objectives: tuple[str, ...] = ()
    auxiliary: tuple[str, ...] = ()
    training: str | None = None
    domains: tuple[str, ...] = ()
    streamable: str | None = None

    def __post_init__(self) -> None:
        for axis in AXES:
            value = getattr(self, axis)
            if isinstance(value, list):  # as JSON has them
                object.__setattr__(self, axis, tuple(value))
            for word in self.words(axis):
                _check(axis, word)

    def words(self, axis: str) -> tuple[str, ...]:
        """Return the words of an axis: none, one or several."""
        value = getattr(self, axis)
        if value is None:
            return ()
        return (value,) if isinstance(value, str) else value

    def matches(self, *wanted: str) -> bool:
        """Tell whether it has every word that is wanted, each written ``axis=word``.

        Raises:
            ConfigError: an axis or a word that there is not.
        """
        for text in wanted:
            axis, _, word = text.partition("=")
            if axis not in AXES:
                raise ConfigError(
                    f"'{text}' names no axis{nearest(axis, AXES)}; write AXIS=WORD with one of "
                    f"{', '.join(AXES)}"
                )
            _check(axis, word)
        pairs = [text.split("=", 1) for text in wanted]
        return all(word in self.words(axis) for axis, word in pairs)


def _check(axis: str, word: str) -> None:
    if word not in AXES[axis]:
        raise ConfigError(
            f"{axis} '{word}' is unknown; legal are {', '.join(AXES[axis])}"
            f"{nearest(str(word), AXES[axis])}"
        )
