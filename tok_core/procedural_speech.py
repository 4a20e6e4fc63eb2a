"""Synthetic speech, seeded by index: sentence, voice, rate and pitch of every item are known.

The words are spoken by the espeak-ng program, and by `tok_core.formant_synthesiser` where it is not
installed.  Voices and sentences of the held-out set never occur in training.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from typing import NamedTuple

import numpy as np

from tok_core.formant_synthesiser import speak_with_formants
from tok_core.procedural_draws import Array, item_draws
from tok_core.procedural_sentences import HELD_OUT_SENTENCES, training_sentence

VERSION = 1
RATE = 24_000
LONGEST = 12.0  # seconds kept of one utterance
_SECONDS = 30  # a program that takes longer than this for a sentence hangs
_HEADER = 44  # bytes of the wav header that espeak-ng writes
# Accents by language: English is most of the speech, as in the tests.
_ACCENTS: dict[str, tuple[str, ...]] = {
    "en": ("en-us", "en-gb", "en-us", "en-gb-scotland", "en-gb-x-gbclan", "en-029", "en-us-nyc"),
    "de": ("de",), "fr": ("fr-fr", "fr-be"), "es": ("es", "es-419"), "it": ("it",),
    "pt": ("pt-br", "pt"), "nl": ("nl",), "pl": ("pl",),
    "invented": ("fi", "sv", "cs", "tr", "id", "sw", "hu", "ro"),
}
_LANGUAGES = ("en",) * 9 + ("de", "fr", "es", "it", "pt", "nl", "pl", "invented", "invented")
TRAINING_VARIANTS: tuple[str, ...] = (
    "m1", "m2", "m3", "m5", "m7", "m8", "f1", "f2", "f4", "klatt", "klatt2", "klatt4", "Andy",
    "Annie", "steph", "max", "adam", "anika", "edward", "linda", "michel", "belinda", "victor",
)
HELD_OUT_VARIANTS: tuple[str, ...] = ("f3", "m4", "f5", "m6", "klatt3")
_HELD_OUT_VOICES: dict[str, tuple[str, ...]] = {
    "en": ("en-us+f3", "en-gb+m4", "en-us+klatt3", "en-gb-x-rp+f5"),
    "de": ("de+m6",), "fr": ("fr-fr+f3",), "es": ("es+m4",),
}  # fmt: skip


class Utterance(NamedTuple):
    """What is said and how.

    Attributes:
        text: the words.
        voice: espeak-ng's name, accent + variant, as in ``en-us+f2``.
        rate: words per minute.
        pitch: 0 to 99, as espeak-ng counts.
    """

    text: str
    voice: str
    rate: int
    pitch: int


def training_utterance(index: int, seed: int = 0) -> Utterance:
    """Return what training item ``index`` says; no held-out voice, no held-out sentence.

    Example::

        training_utterance(7).text
    """
    draws = item_draws("utterances", version=VERSION, seed=seed, index=index)
    language = draws.choice(_LANGUAGES)
    voice = f"{draws.choice(_ACCENTS[language])}+{draws.choice(TRAINING_VARIANTS)}"
    rate, pitch = draws.integer(115, 225), draws.integer(15, 85)
    return Utterance(training_sentence(draws, language), voice, rate, pitch)


@functools.cache
def held_out_utterances() -> tuple[Utterance, ...]:
    """Return the fixed held-out set: every held-out sentence in every held-out voice of its
    language; first come all sentences once, with changing voices, then again with the next."""
    found: list[Utterance] = []
    for turn in range(max(map(len, _HELD_OUT_VOICES.values()))):
        for language, texts in HELD_OUT_SENTENCES.items():
            voices = _HELD_OUT_VOICES[language]
            if turn < len(voices):
                for i, text in enumerate(texts, start=turn):
                    found.append(Utterance(text, voices[i % len(voices)], 150 + 12 * (i % 4), 50))
    return tuple(found)


@functools.cache
def espeak_program() -> str | None:
    """Return the path of the espeak-ng program, or None where it is not installed."""
    return shutil.which("espeak-ng")


def speak(utterance: Utterance, *, program: str | None = "auto") -> Array:
    """Speak one utterance.

    Args:
        program: path of espeak-ng, "auto" to look for it, None for the formant synthesiser.

    Returns:
        (T,) float32 in [-1, 1] at 24 kHz, at most 12 seconds.

    Example::

        speak(Utterance("Good morning.", "en-us+f2", 170, 50))
    """
    path = espeak_program() if program == "auto" else program
    spoken = None if path is None else _espeak(path, utterance)
    if spoken is None:
        spoken = speak_with_formants(utterance.text, utterance.voice, utterance.rate,
                                     utterance.pitch, RATE)
    return spoken[: int(LONGEST * RATE)].astype(np.float32)


def _espeak(program: str, utterance: Utterance) -> Array | None:
    """Run espeak-ng; None where it does not speak (a missing voice, a broken installation)."""
    from tok_core.resample import resample

    command = [program, "--stdout", "-v", utterance.voice, "-s", str(utterance.rate),
               "-p", str(utterance.pitch), "-a", "80", "--", utterance.text]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    data = done.stdout
    if done.returncode or len(data) < _HEADER + 200 or data[:4] != b"RIFF":
        return None
    rate = int.from_bytes(data[24:28], "little")
    body = data[_HEADER : _HEADER + 2 * ((len(data) - _HEADER) // 2)]
    samples = np.frombuffer(body, dtype="<i2").astype(np.float32) / 32768.0
    import torch

    return resample(torch.from_numpy(samples), rate, RATE).clamp(-1.0, 1.0).numpy()
