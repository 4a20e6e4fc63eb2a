"""A small speaker of its own: glottal pulses and noise through moving formants.

    letters --> phonemes --> tracks of formants, voicing and level --> pulses + noise, filtered

It stands in for espeak-ng where that is not installed: no speech to be proud of, but vowels,
fricatives, stops and pitch where speech has them.  Formant frequencies are textbook averages of
adult speakers (Peterson and Barney 1952); the pulse is Rosenberg's (1971).

Letters: T samples, F frames of 5 ms.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from tok_core.procedural_draws import Array, Draws, item_draws

FRAME = 0.005  # seconds
_BANDWIDTHS = (70.0, 100.0, 150.0, 250.0)


class Sound(NamedTuple):
    """One phoneme: formants in Hz, share of voice and of noise, centre of the noise, length."""

    formants: tuple[float, float, float]
    voice: float
    noise: float
    centre: float
    seconds: float


_SOUNDS: dict[str, Sound] = {
    "a": Sound((730, 1090, 2440), 1.0, 0.0, 0, 0.12),
    "e": Sound((530, 1840, 2480), 1.0, 0.0, 0, 0.10),
    "i": Sound((300, 2290, 3010), 1.0, 0.0, 0, 0.09),
    "o": Sound((570, 840, 2410), 1.0, 0.0, 0, 0.12),
    "u": Sound((300, 870, 2240), 1.0, 0.0, 0, 0.10),
    "m": Sound((260, 1050, 2200), 0.45, 0.0, 0, 0.07),
    "n": Sound((280, 1500, 2500), 0.45, 0.0, 0, 0.07),
    "l": Sound((360, 1250, 2800), 0.6, 0.0, 0, 0.06),
    "r": Sound((420, 1250, 1600), 0.6, 0.0, 0, 0.06),
    "w": Sound((300, 650, 2200), 0.6, 0.0, 0, 0.06),
    "y": Sound((280, 2200, 3000), 0.6, 0.0, 0, 0.05),
    "s": Sound((320, 1700, 2600), 0.0, 0.5, 6500, 0.10),
    "x": Sound((320, 1700, 2600), 0.0, 0.5, 3200, 0.10),  # sh
    "f": Sound((340, 1100, 2100), 0.0, 0.25, 5000, 0.09),
    "h": Sound((500, 1500, 2500), 0.0, 0.2, 1800, 0.06),
    "z": Sound((300, 1600, 2500), 0.4, 0.3, 6000, 0.08),
    "v": Sound((320, 1100, 2100), 0.4, 0.15, 4500, 0.07),
    "p": Sound((400, 1000, 2200), 0.0, 0.0, 900, 0.07),
    "t": Sound((400, 1700, 2600), 0.0, 0.0, 4200, 0.07),
    "k": Sound((350, 1900, 2400), 0.0, 0.0, 2200, 0.07),
    "b": Sound((250, 900, 2200), 0.15, 0.0, 700, 0.06),
    "d": Sound((250, 1700, 2600), 0.15, 0.0, 3500, 0.06),
    "g": Sound((250, 2000, 2400), 0.15, 0.0, 1900, 0.06),
    " ": Sound((500, 1500, 2500), 0.0, 0.0, 0, 0.05),
    ".": Sound((500, 1500, 2500), 0.0, 0.0, 0, 0.25),
}
_STOPS = frozenset("ptkbdg")
_SPELLINGS = (("sch", "x"), ("sh", "x"), ("ch", "tx"), ("th", "f"), ("ph", "f"), ("ng", "n"),
              ("qu", "kw"), ("ck", "k"), ("ee", "ii"), ("oo", "uu"))  # fmt: skip
_LETTERS = str.maketrans({"c": "k", "q": "k", "j": "y", ",": ".", ";": ".", "!": ".", "?": "."})


def phonemes(text: str) -> str:
    """Return one known letter per sound of a text; digits become vowels, the rest falls away."""
    text = text.lower()
    for spelling, sound in _SPELLINGS:
        text = text.replace(spelling, sound)
    text = "".join("aeiou"[int(c) % 5] + "n" if c in "0123456789" else c for c in text)
    return "".join(c for c in text.translate(_LETTERS) if c in _SOUNDS) or "a"


def speak_with_formants(text: str, voice: str, rate: int, pitch: int, sample_rate: int) -> Array:
    """Speak a text.

    Args:
        text: any words; only Latin letters are heard.
        voice: any name; it decides the size of the speaker's throat and its pitch.
        rate: words per minute. pitch: 0 to 99. sample_rate: in Hz.

    Returns:
        (T,) float32, peak 0.7.

    Example::

        speak_with_formants("good morning", "en-us+f2", 170, 50, 24000)
    """
    word = zlib.crc32(f"{text}|{voice}|{rate}|{pitch}".encode())
    draws = item_draws("formants", version=1, seed=zlib.crc32(voice.encode()), index=word)
    speaker = item_draws("speakers", version=1, seed=zlib.crc32(voice.encode()), index=0)
    throat = speaker.uniform(0.92, 1.22)
    base = 105.0 * throat**4 * 2.0 ** ((pitch - 50) / 100.0)
    tracks = _tracks(phonemes(text), 170.0 / rate, throat)
    count = int(len(tracks) * FRAME * sample_rate)
    return _synthesise(tracks, base, draws, count, sample_rate)


def _tracks(sounds: str, stretch: float, throat: float) -> Array:
    """Return (F, 6): three formants, level of voice, level of noise, centre of noise."""
    rows: list[Array] = []
    for letter in sounds:
        sound = _SOUNDS[letter]
        frames = max(2, round(sound.seconds * stretch / FRAME))
        row = np.array([*(f * throat for f in sound.formants), sound.voice, sound.noise,
                        sound.centre or 2500.0])
        block = np.repeat(row[None], frames, axis=0)
        if letter in _STOPS:
            block[-3:, 4] = (0.6, 0.5, 0.2)  # silence, then the burst
        rows.append(block)
    track = np.concatenate(rows)
    kernel = np.hanning(11)[1:-1]  # 45 ms: tongues glide, they do not jump
    padded = np.pad(track, ((4, 4), (0, 0)), mode="edge")
    smooth = np.stack([np.convolve(padded[:, i], kernel / kernel.sum(), "valid")
                       for i in range(track.shape[1])], axis=1)
    smooth[:, 4] = 0.5 * smooth[:, 4] + 0.5 * track[:, 4]  # bursts stay sharp
    return smooth


def _synthesise(tracks: Array, base: float, draws: Draws, count: int, rate: int) -> Array:
    frames = len(tracks)
    at = np.arange(count) / rate / FRAME
    places = np.arange(frames) + 0.5
    wobble = 1.0 + 0.10 * np.sin(2 * np.pi * np.arange(frames) * FRAME * draws.uniform(0.6, 1.6))
    fall = np.linspace(1.08, 0.86, frames)
    tone = np.interp(at, places, base * wobble * fall)
    pulses = _glottal(np.cumsum(tone) / rate)
    noise = 0.3 * draws.normals(count)
    size = 1 << int(np.ceil(np.log2(0.02 * rate)))  # 20 ms or a little more
    hop = size // 4
    window = np.hanning(size + 1)[:-1]
    frequency = np.fft.rfftfreq(size, 1 / rate)
    starts = np.arange(0, count + size, hop)
    track = np.stack([np.interp(starts / rate / FRAME, places, tracks[:, i]) for i in range(6)], 1)
    voiced = np.fft.rfft(_cut(pulses, starts, size) * window)
    breath = np.fft.rfft(_cut(noise, starts, size) * window)
    spectrum = voiced * _throat(frequency, track[:, :3]) * track[:, 3:4]
    spectrum += breath * _hiss(frequency, track[:, 5:6]) * track[:, 4:5]
    pieces = np.fft.irfft(spectrum, size) * window
    out = np.zeros(len(starts) * hop + size)
    for start, piece in zip(starts, pieces, strict=True):
        out[start : start + size] += piece
    out = out[size // 2 : size // 2 + count]
    return (0.7 * out / max(1e-9, float(np.abs(out).max()))).astype(np.float32)


def _cut(x: Array, starts: Array, size: int) -> Array:
    """Return overlapping pieces (frames, size), the first one centred on sample 0."""
    padded = np.concatenate([np.zeros(size // 2), x, np.zeros(2 * size)])
    return padded[starts[:, None] + np.arange(size)]


def _glottal(cycles: Array) -> Array:
    """Slope of Rosenberg's pulse, opening over 40 % of a cycle and closing over 16 %."""
    phase = cycles % 1.0
    opening = 0.5 * np.pi / 0.4 * np.sin(np.pi * phase / 0.4)
    closing = -0.5 * np.pi / 0.16 * np.sin(0.5 * np.pi * (phase - 0.4) / 0.16)
    return np.where(phase < 0.4, opening, np.where(phase < 0.56, closing, 0.0)) / 10.0


def _throat(frequency: Array, formants: Array) -> Array:
    """Return the gain (frames, bins) of resonances in cascade, with a fixed fourth one."""
    gain = np.ones((len(formants), len(frequency)))
    fourth = np.full((len(formants), 1), 3600.0)
    for i, width in enumerate(_BANDWIDTHS):
        centre = formants[:, i : i + 1] if i < 3 else fourth
        square = centre**2
        gain *= square / np.sqrt((square - frequency**2) ** 2 + (width * frequency) ** 2)
    return gain


def _hiss(frequency: Array, centre: Array) -> Array:
    return np.exp(-0.5 * ((frequency - centre) / (0.35 * centre + 300.0)) ** 2)
