"""Endless synthetic sound, seeded by index: item i of seed s is always the same sound.

Nothing is stored and nothing is drawn in order, so any process can make any item.  Music and noise
are the same everywhere; speech is where the same version of espeak-ng speaks it.

Letters: T samples.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tok_core.errors import ConfigError, nearest
from tok_core.procedural_draws import Array, Draws, item_draws
from tok_core.procedural_music import music
from tok_core.procedural_speech import RATE, Utterance, speak, training_utterance

VERSION = 1
KINDS: tuple[str, ...] = ("mixed", "speech", "music", "noise")
LONGEST = 60 * RATE  # samples of one item
_SHARES = (("speech", 0.7), ("music", 0.2), ("noise", 0.1))
_POOL = 4096  # sentences of a seed; each is heard again and again from another place
_KEPT = 4096  # spoken sentences kept in memory, about 150 kB each


class ProceduralAudio:
    """Endless sound of one kind: index in, (1, samples) float32 in [-1, 1] at 24 kHz out.

    Args:
        kind: "mixed" (70 % speech, some of it over music or noise, 20 % music, 10 % noise),
            "speech", "music" or "noise".
        samples: T of every item, 1 to 1,440,000.
        seed: 0 or more; another seed is another endless set.
        version: of the synthesisers; items of one version never change.

    Raises:
        ConfigError: unknown kind, or a length, seed or version out of range.

    Example::

        source = ProceduralAudio("speech", samples=72000, seed=0)
        sound = source[123]  # (1, 72000)
        source.utterance(123).text
    """

    rate = RATE

    def __init__(
        self, kind: str, samples: int, seed: int = 0, version: int = VERSION
    ) -> None:
        if kind not in KINDS:
            raise ConfigError(f"there is no procedural sound '{kind}'; choose one of "
                              f"{', '.join(KINDS)}{nearest(kind, KINDS)}")
        if not 1 <= samples <= LONGEST:
            raise ConfigError(f"procedural sounds of {samples} samples were asked for; give 1 to "
                              f"{LONGEST}")
        if seed < 0:
            raise ConfigError(f"the seed {seed} is negative; give a whole number of 0 or more")
        if version != VERSION:
            raise ConfigError(f"version {version} of the procedural sounds was asked for; this "
                              f"package makes version {VERSION}, so install the package that made "
                              "it")
        self.kind, self.samples, self.seed, self.version = kind, samples, seed, version

    def utterance(self, index: int) -> Utterance | None:
        """Return the sentence with which item ``index`` begins; None for music and noise."""
        draws, kind = self._draws(index)
        return training_utterance(_sentence(draws), self.seed) if kind == "speech" else None

    def __getitem__(self, index: int) -> Tensor:
        draws, kind = self._draws(index)
        if kind == "speech":
            sound = _speech(draws, self.samples, self.seed)
            if self.kind == "mixed" and draws.chance(0.2):
                back = music if draws.chance(0.5) else noise
                level = 10 ** (draws.uniform(-26.0, -12.0) / 20)
                sound = sound + level * back(draws, self.samples, RATE)
        else:
            sound = (music if kind == "music" else noise)(draws, self.samples, RATE)
        clipped = np.clip(sound, -1.0, 1.0).astype(np.float32)
        return torch.from_numpy(clipped)[None]

    def _draws(self, index: int) -> tuple[Draws, str]:
        if index < 0:
            raise IndexError(f"procedural items are numbered from 0, got {index}")
        draws = item_draws(f"audio/{self.kind}", version=self.version, seed=self.seed, index=index)
        if self.kind != "mixed":
            return draws, self.kind
        at = draws.uniform()
        for kind, share in _SHARES:
            at -= share
            if at < 0.0:
                return draws, kind
        return draws, "noise"


def _sentence(draws: Draws) -> int:
    return draws.integer(0, _POOL - 1)


@lru_cache(maxsize=_KEPT)
def _spoken(number: int, seed: int) -> Array:
    """Return the sentence as int16, half the memory; speaking it takes about 20 ms."""
    return (speak(training_utterance(number, seed)) * 32767.0).astype(np.int16)


def _speech(draws: Draws, samples: int, seed: int) -> Array:
    """Speech from a random moment on; short sentences are followed by others after a pause."""
    first = _spoken(_sentence(draws), seed)
    spare = len(first) - samples
    lead = int(0.3 * RATE)  # silence before the first word is part of speech
    start = draws.integer(-lead, max(0, spare) + lead) if samples > lead else draws.integer(
        0, max(0, spare)
    )
    pieces = [np.zeros(max(0, -start), np.int16), first[max(0, start) :]]
    have = sum(map(len, pieces))
    while have < samples:
        pause = np.zeros(int(draws.uniform(0.1, 0.6) * RATE), np.int16)
        pieces += [pause, _spoken(_sentence(draws), seed)]
        have += len(pieces[-2]) + len(pieces[-1])
    sound = np.concatenate(pieces)[:samples].astype(np.float32) / 32767.0
    return sound + room_tone(draws, samples, draws.uniform(-80.0, -55.0))


def room_tone(draws: Draws, samples: int, decibels: float) -> Array:
    """Return the quiet noise of a recording, (T,) float64, RMS ``decibels`` below full scale.

    Synthetic speech is digitally silent between words, which no microphone is, and on which losses
    of log spectra would spend most of their weight.
    """
    return 10.0 ** (decibels / 20.0) * draws.normals(samples)


def noise(draws: Draws, samples: int, rate: int) -> Array:
    """Return coloured noise, (T,) float64: power falls as 1/f**a, a from -1 to 3, in a band, steady
    or swelling."""
    size = 1 << max(4, (samples - 1).bit_length())
    frequency = np.fft.rfftfreq(size, 1 / rate)
    frequency[0] = frequency[1]
    gain = (frequency / 500.0) ** (-0.5 * draws.uniform(-1.0, 3.0))
    low = draws.log_uniform(20.0, 2000.0)
    high = low * draws.log_uniform(2.0, 200.0)
    gain *= (frequency >= low) * (1.0 / (1.0 + (frequency / high) ** 4))
    sound = np.fft.irfft(np.fft.rfft(draws.normals(size)) * gain, size)[:samples]
    t = np.arange(samples) / rate
    if draws.chance(0.5):
        depth, speed = draws.uniform(0.3, 1.0), draws.log_uniform(0.3, 12.0)
        sound *= 1.0 + depth * np.sin(2 * np.pi * (speed * t + draws.uniform()))
    if draws.chance(0.25):
        sound *= np.exp(-((t * draws.uniform(1.0, 6.0)) % 1.0) * draws.uniform(2.0, 12.0))
    return draws.uniform(0.3, 0.9) * sound / max(1e-9, float(np.abs(sound).max()))
