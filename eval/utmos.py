"""UTMOS22-strong, the naturalness score of nearly all codec papers.

Letters: B sounds, T samples.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.metric_entry import MetricEntry
from eval.shared_network import shared_network
from eval.sound_metric import SPEECH_RATE, SoundMetric, sound_batches
from eval.utmos_network import UtmosNetwork
from tok_core.audio_measures import NOT_FINITE, TOO_SHORT
from tok_core.full_float32 import full_float32
from tok_core.official_weights import read_state
from tok_core.weight_files import find_weights

UTMOS_FILE = "utmos22_strong_step7459_v1.pt"
UTMOS_PROJECT = "tarepan/SpeechMOS (release v1.0.0, MIT)"
SHORTEST = 400  # samples; one frame of the network


class UTMOS(SoundMetric):
    """Predicted mean opinion score of speech, about 1 to 5, without an original.

    Sounds are scored as they are: no trimming, no loudness change, and never padded, since the
    network hears padding. A batch of equal lengths gives what its sounds give alone.

    Args:
        weights: path of the published file or of the demo's Lightning checkpoint; None searches
            the usual places. heads: of attention, for networks of other sizes.
        sample_rate: 16000.

    Raises:
        WeightsError: the file is missing or is of another network.

    Source: Saeki et al. 2022, arXiv 2204.02152. It saturates: never rank codecs by it alone, and
    it was trained on English.

    Example:
        >>> metric = UTMOS(weights="utmos22_strong_step7459_v1.pt")
        >>> metric.update(sounds)
        >>> metric.compute()
    """

    higher_is_better = True
    RATES = (SPEECH_RATE,)

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        *,
        heads: int | None = None,
        sample_rate: int | None = SPEECH_RATE,
        **options: Any,
    ) -> None:
        super().__init__(sample_rate, **options)
        path = find_weights(UTMOS_FILE, project=UTMOS_PROJECT, explicit=weights)
        self.weights_path = path
        self.shared = shared_network(path, _load, heads)

    def measure(self, *signals: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores float64 (B,) and failure codes int64 (B,) of sounds of equal length."""
        (batch,) = sound_batches(*signals)
        values = torch.full((len(batch),), float("nan"), dtype=torch.float64)
        codes = torch.zeros(len(batch), dtype=torch.int64)
        if batch.shape[1] < SHORTEST:
            return values, codes.fill_(TOO_SHORT)
        finite = torch.isfinite(batch).all(dim=1).cpu()
        codes[~finite] = NOT_FINITE
        if bool(finite.any()):
            kept = batch[finite.to(batch.device)]
            values[finite] = score(self.shared.on(self.device), kept).double().cpu()
        return values, codes


@torch.no_grad()
def score(network: UtmosNetwork, x: Tensor) -> Tensor:
    """Return scores (B,) of sounds (B, T) at 16 kHz in real float32, on the network's device."""
    device = next(network.parameters()).device
    with full_float32(device.type):
        return network(x.to(device).float())


def _load(path: Path, heads: int | None) -> UtmosNetwork:
    return UtmosNetwork.from_state(read_state(path), source=str(path), heads=heads)


ENTRIES: tuple[MetricEntry, ...] = (
    MetricEntry(
        name="utmos", title="UTMOS", sense="audio", kind="single", higher_is_better=True,
        build=UTMOS, options={}, weights=(UTMOS_FILE,),
        source="UTMOS22-strong, arXiv 2204.02152, file of SpeechMOS v1.0.0, 16 kHz",
    ),
)  # fmt: skip
