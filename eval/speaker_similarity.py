"""Speaker similarity: the cosine of two voices' embeddings, by a network that the user names.

    transformers:NAME or a local folder     an x-vector network such as WavLMForXVector
    MODULE:FUNCTION                         sounds (B, T) at 16 kHz to embeddings (B, D)

Networks do not share a scale, so the network is part of the score's name. Nothing is downloaded.

Letters: B sounds, T samples, D features of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.entry_point import is_entry_point, load_entry_point, network_hash
from eval.local_network import on_this_machine, transformers_for
from eval.metric_entry import MetricEntry
from eval.sound_metric import SPEECH_RATE, SoundMetric, sound_batches
from tok_core.audio_measures import NOT_FINITE, TOO_SHORT, UNDEFINED
from tok_core.errors import ConfigError

NAME = "speaker_similarity"
_PREFIX = "transformers:"
_SECONDS = 1.0  # networks may refuse sounds shorter than this


@dataclass(frozen=True, kw_only=True)
class SpeakerModel:
    """A network that knows voices behind one call.

    Attributes:
        name: as the user gave it. embed: float (B, T) at 16 kHz to float32 (B, D) on the CPU.
        weights: hash over its tensors, where it has any.
    """

    name: str
    embed: Callable[[Tensor], Tensor]
    weights: str | None = None


def load_speaker_model(name: str, *, device: str = "cpu") -> SpeakerModel:
    """Find a network that knows voices, by name; see the module.

    Raises:
        ConfigError: no such entry point, or transformers is not installed.
        WeightsError: a network that is not on this machine.

    Example:
        >>> load_speaker_model("my_models:ecapa").embed(sounds).shape
    """
    if name.startswith(_PREFIX) or not is_entry_point(name):
        return _transformers(name, name.removeprefix(_PREFIX), device)
    made = load_entry_point(
        name, takes="sounds (B, T) at 16 kHz", others="transformers:NAME", device=device
    )
    return SpeakerModel(name=name, embed=_checked(made, device), weights=network_hash(made))


class SpeakerSimilarity(SoundMetric):
    """Cosine of the embeddings of a decoded voice and of the original, -1 to 1.

    Args:
        model: its name, see the module; or a `SpeakerModel`. device: where the network runs.
        sample_rate: 16000.

    Raises:
        ConfigError, WeightsError: see `load_speaker_model`.

    Example:
        >>> metric = SpeakerSimilarity("transformers:microsoft/wavlm-base-plus-sv")
    """

    higher_is_better = True
    RATES = (SPEECH_RATE,)

    def __init__(
        self,
        model: str | SpeakerModel | None = None,
        *,
        device: str = "cpu",
        sample_rate: int | None = SPEECH_RATE,
        **options: Any,
    ) -> None:
        super().__init__(sample_rate, **options)
        if model is None:
            raise ConfigError(
                "speaker similarity was asked for without a network; name one: transformers:NAME, "
                "a folder, or MODULE:FUNCTION that maps sounds (B, T) at 16 kHz to embeddings."
            )
        self.model = load_speaker_model(model, device=device) if isinstance(model, str) else model

    def measure(self, *signals: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines float64 (B,) and failure codes int64 (B,) of (test, reference)."""
        test, reference = sound_batches(*signals)
        values = torch.full((len(test),), float("nan"), dtype=torch.float64)
        codes = torch.zeros(len(test), dtype=torch.int64)
        if test.shape[1] == 0:
            return values, codes.fill_(TOO_SHORT)
        for i, pair in enumerate(zip(test, reference, strict=True)):
            if not all(bool(torch.isfinite(sound).all()) for sound in pair):
                codes[i] = NOT_FINITE
                continue
            try:
                a, b = self.model.embed(torch.stack(pair).float()).double()
            except RuntimeError:
                if test.shape[1] >= _SECONDS * SPEECH_RATE:
                    raise  # not for its length
                codes[i] = TOO_SHORT
                continue
            values[i] = (a @ b) / (a.norm() * b.norm())
            codes[i] = 0 if bool(torch.isfinite(values[i])) else UNDEFINED
        return values, codes


def speaker_similarity_entry(model: str) -> MetricEntry:
    """Return the entry of a named network, such as ``speaker_similarity/wavlm-base-plus-sv``.

    Example:
        >>> speaker_similarity_entry("my_models:ecapa").name
        'speaker_similarity/my_models:ecapa'
    """
    plain = model.removeprefix(_PREFIX)
    label = plain if is_entry_point(plain) else Path(plain).name
    return MetricEntry(
        name=f"{NAME}/{label}", title=f"SpkSim ({label})", sense="audio", kind="paired",
        higher_is_better=True, build=SpeakerSimilarity, options={"model": model},
        source=f"cosine of embeddings of {plain}, 16 kHz",
    )  # fmt: skip


def _transformers(name: str, source: str, device: str) -> SpeakerModel:
    transformers = transformers_for(name, ", or name an entry point MODULE:FUNCTION")
    with on_this_machine(source, "compare voices"):
        extractor = transformers.AutoFeatureExtractor.from_pretrained(source, local_files_only=True)
        auto = transformers.AutoModelForAudioXVector
        model = auto.from_pretrained(source, local_files_only=True).to(device).eval()

    def embed(sounds: Tensor) -> Tensor:
        arrays = [one.cpu().numpy() for one in sounds]
        found = extractor(arrays, sampling_rate=SPEECH_RATE, return_tensors="pt")
        return model(found["input_values"].to(device)).embeddings

    return SpeakerModel(name=name, embed=_checked(embed, device), weights=network_hash(model))


def _checked(call: Callable[[Tensor], Any], device: str) -> Callable[[Tensor], Tensor]:
    """Run without gradients on the network's device, and look at what comes back."""

    @torch.no_grad()
    def embed(sounds: Tensor) -> Tensor:
        found = call(sounds.to(device))
        if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != len(sounds):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(
                f"{len(sounds)} sounds gave embeddings of {shape}; legal is one tensor (B, D) with "
                "one row for each sound."
            )
        return found.float().cpu()

    return embed


ENTRIES: tuple[MetricEntry, ...] = (
    MetricEntry(
        name=NAME, title="SpkSim", sense="audio", kind="paired", higher_is_better=True,
        build=SpeakerSimilarity, options={"model": None},
        source="cosine of embeddings of a network that the user names, 16 kHz",
    ),
)  # fmt: skip
