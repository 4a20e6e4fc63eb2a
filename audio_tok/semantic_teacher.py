"""Semantic teachers: frozen features that say what is heard, for a codec's semantic stream.

    x (B, 1, T) --mel-cepstral, or a network of transformers--> (B, L, D) --rate--> (B, F, D)

`audio_tok.semantic_distillation` compares them with what the codec predicts from its semantic
codes.  The mel-cepstral teacher needs no weights; HuBERT, WavLM, wav2vec 2.0 and their like are
named by a local folder or a cached hub id.  Nothing is downloaded.

Letters: B sounds, T samples, L frames of the teacher, F frames of the codec, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from audio_tok.rate_matching import at_moments
from tok_core.errors import ConfigError, nearest
from tok_core.frozen_network import FrozenNetwork

KINDS = ("mel_cepstral", "transformers")


@dataclass(frozen=True, kw_only=True)
class SemanticTeacherConfig:
    """Which features teach the semantic stream.

    Attributes:
        kind: "mel_cepstral" (no weights) or "transformers".
        coefficients, bands, deltas: of "mel_cepstral": cepstral coefficients (the first is the
            level), mel bands, and how many times slopes are added (2: speed and acceleration).
        name: of "transformers": a folder, or a hub id that is in the cache.
        layer: of "transformers": hidden state, 0 for the input of the first block, -1 for the
            output of the last, or "mean" of all.
        normalise: of "transformers": bring every sound to mean 0 and variance 1; None does what the
            network's preprocessor says.
    """

    kind: str = "mel_cepstral"
    coefficients: Annotated[int, Field(ge=1)] = 13
    bands: Annotated[int, Field(ge=1)] = 40
    deltas: Annotated[int, Field(ge=0)] = 2
    name: str | None = None
    layer: int | Literal["mean"] = -1
    normalise: bool | None = None


class SemanticTeacher(FrozenNetwork):
    """Frozen features at any moments of a sound; a subclass gives `frames`.

    Attributes:
        features: D. rate: frames per second. first: second of the first frame's centre.
    """

    features: int
    rate: float
    first: float

    @torch.no_grad()
    def forward(self, x: Tensor, moments: Tensor) -> Tensor:
        """Return the features of a sound at some moments.

        Args:
            x: (B, 1, T) in [-1, 1].
            moments: float (F,) seconds, rising evenly: centres of the codec's frames.

        Returns:
            float32 (B, F, D).
        """
        frames = self.frames(x.detach().float())
        return at_moments(frames, moments, rate=self.rate, first=self.first)

    def frames(self, x: Tensor) -> Tensor:
        """Return the features (B, L, D) at the teacher's own rate."""
        raise TypeError(f"{type(self).__name__} does not define frames")


def build_teacher(config: SemanticTeacherConfig, rate: int) -> SemanticTeacher:
    """Return the teacher of a config for sound of ``rate`` Hz.

    Raises:
        ConfigError: an unknown kind, a missing or superfluous name, or what the teacher refuses.
        WeightsError: a network that is not on this machine.

    Example:
        >>> build_teacher(SemanticTeacherConfig(), 24000).features
        39
    """
    if config.kind not in KINDS:
        raise ConfigError(
            f"semantic teacher '{config.kind}' is unknown; legal are {', '.join(KINDS)}"
            f"{nearest(config.kind, KINDS)}"
        )
    if config.kind == "mel_cepstral":
        from audio_tok.mel_cepstral_teacher import MelCepstralTeacher

        if config.name is not None:
            raise ConfigError(
                f"the mel-cepstral teacher has no weights but the name '{config.name}'; set "
                "objective.semantic.kind to transformers, or leave the name out."
            )
        return MelCepstralTeacher(rate, config.coefficients, config.bands, config.deltas)
    if not config.name:
        raise ConfigError(
            "the semantic teacher of transformers has no name; set objective.semantic.name to a "
            "local folder or a cached hub id."
        )
    from audio_tok.transformers_teacher import TransformersTeacher

    return TransformersTeacher(
        config.name, rate, layer=config.layer, normalise=config.normalise
    )
