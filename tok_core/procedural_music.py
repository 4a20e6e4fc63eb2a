"""Synthetic music, seeded by index: chords, a melody and percussion from plain oscillators.

Letters: T samples.
"""

from __future__ import annotations

import numpy as np

from tok_core.procedural_draws import Array, Draws

_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 6, 7, 10))
_CHORDS = ((0, 4, 7), (0, 3, 7), (0, 4, 7, 11), (0, 3, 7, 10), (0, 5, 7))
_TIMBRES = ("sine", "saw", "square", "triangle", "organ", "bell", "pluck", "fm")
# Of the additive timbres: (multiple of the pitch, strength).
_PARTIALS: dict[str, tuple[tuple[float, float], ...]] = {
    "saw": tuple((k, 1.0 / k) for k in range(1, 25)),
    "square": tuple((k, 1.0 / k) for k in range(1, 25, 2)),
    "triangle": tuple((k, 1.0 / k**2) for k in range(1, 15, 2)),
    "organ": ((1, 1.0), (2, 0.7), (3, 0.4), (4, 0.5), (6, 0.3), (8, 0.2)),
    "bell": ((1.0, 1.0), (2.76, 0.6), (5.4, 0.35), (8.93, 0.2)),
    "pluck": tuple((k, 1.0 / k) for k in range(1, 20)),
}


def music(draws: Draws, samples: int, rate: int) -> Array:
    """Return ``samples`` of one piece, (T,) float64, peak 1 at most.

    Example::

        music(item_draws("music", version=1, seed=0, index=4), 48000, 24000)
    """
    beat = 60.0 / draws.uniform(60.0, 170.0)
    key = draws.integer(36, 60)
    scale = draws.choice(_SCALES)
    mix = np.zeros(samples)
    seconds = samples / rate
    if draws.chance(0.75):
        _chords(draws, mix, rate, seconds, beat, key, scale)
    if draws.chance(0.8):
        _melody(draws, mix, rate, seconds, beat, key, scale)
    if draws.chance(0.55) or not mix.any():
        _percussion(draws, mix, rate, seconds, beat)
    if draws.chance(0.3):
        _echo(draws, mix, rate)
    return mix / max(1.0, float(np.abs(mix).max()))


def _chords(
    draws: Draws, mix: Array, rate: int, seconds: float, beat: float, key: int,
    scale: tuple[int, ...],
) -> None:  # fmt: skip
    timbre, length = draws.choice(_TIMBRES), beat * draws.choice((1, 2, 4))
    at = -draws.uniform(0.0, length)
    while at < seconds:
        root = key + draws.choice(scale)
        for step in draws.choice(_CHORDS):
            _add(mix, rate, at, _note(draws, timbre, root + step, length, rate, 0.12))
        at += length


def _melody(
    draws: Draws, mix: Array, rate: int, seconds: float, beat: float, key: int,
    scale: tuple[int, ...],
) -> None:  # fmt: skip
    timbre, octave = draws.choice(_TIMBRES), 12 * draws.integer(1, 2)
    degree = draws.integer(0, len(scale) - 1)
    at = -draws.uniform(0.0, beat)
    while at < seconds:
        length = beat * draws.choice((0.25, 0.5, 0.5, 1.0, 1.5))
        if not draws.chance(0.15):  # a rest now and then
            degree = (degree + draws.integer(-2, 2)) % len(scale)
            note = _note(draws, timbre, key + octave + scale[degree], 1.1 * length, rate, 0.3)
            _add(mix, rate, at, note)
        at += length


def _percussion(draws: Draws, mix: Array, rate: int, seconds: float, beat: float) -> None:
    at, count = -draws.uniform(0.0, beat), 0
    while at < seconds:
        if count % 4 == 0 or draws.chance(0.1):
            _add(mix, rate, at, _drum(draws, rate))
        if count % 4 == 2 or draws.chance(0.1):
            _add(mix, rate, at, _brush(draws, rate, 0.12, 0.35))
        if draws.chance(0.6):
            _add(mix, rate, at, _brush(draws, rate, 0.03, 0.12))
        at, count = at + beat / 2, count + 1


def _note(
    draws: Draws, timbre: str, midi: float, seconds: float, rate: int, level: float
) -> Array:  # fmt: skip
    """One note with attack, decay and release; MIDI 69 = 440 Hz."""
    pitch = 440.0 * 2.0 ** ((midi - 69 + draws.uniform(-0.06, 0.06)) / 12.0)
    t = np.arange(max(2, int(seconds * rate))) / rate
    vibrato = 0.004 * np.sin(2 * np.pi * draws.uniform(4.0, 6.5) * t) * (t > 0.15)
    phase = 2 * np.pi * pitch * np.cumsum(1.0 + vibrato) / rate
    wave = _wave(timbre, phase, t, pitch, rate)
    decay = draws.log_uniform(0.15, 3.0) if timbre not in ("pluck", "bell") else 0.4
    envelope = np.minimum(1.0, t / draws.log_uniform(0.004, 0.06)) * np.exp(-t / decay)
    envelope *= np.minimum(1.0, (t[-1] - t) / 0.015)
    return level * draws.uniform(0.6, 1.0) * wave * envelope


def _wave(timbre: str, phase: Array, t: Array, pitch: float, rate: int) -> Array:
    if timbre == "sine":
        return np.sin(phase)
    if timbre == "fm":
        return np.sin(phase + 2.5 * np.exp(-3.0 * t) * np.sin(2.0 * phase))
    # Partials end below 0.45 of the rate, so nothing folds back.
    wave = np.zeros_like(phase)
    for number, strength in _PARTIALS[timbre]:
        if number * pitch < 0.45 * rate:
            fade = np.exp(-t * 1.5 * number) if timbre in ("bell", "pluck") else 1.0
            wave += strength * fade * np.sin(number * phase)
    return 0.6 * wave


def _drum(draws: Draws, rate: int) -> Array:
    t = np.arange(int(0.25 * rate)) / rate
    pitch = draws.uniform(45.0, 70.0) * (1.0 + 3.0 * np.exp(-t * 35.0))
    return 0.6 * np.sin(2 * np.pi * np.cumsum(pitch) / rate) * np.exp(-t * 14.0)


def _brush(draws: Draws, rate: int, seconds: float, level: float) -> Array:
    t = np.arange(int(4 * seconds * rate)) / rate
    hiss = np.diff(draws.normals(len(t)), prepend=0.0)  # the difference leaves the treble
    return 0.25 * level * hiss * np.exp(-t / seconds)


def _echo(draws: Draws, mix: Array, rate: int) -> None:
    lag = int(draws.uniform(0.05, 0.3) * rate)
    for start in range(lag, len(mix), lag):  # block by block, so that echoes have echoes
        block = mix[start : start + lag]
        block += 0.35 * mix[start - lag : start - lag + len(block)]


def _add(mix: Array, rate: int, at: float, note: Array) -> None:
    start = int(at * rate)
    note = note[max(0, -start) :]
    start = max(0, start)
    end = min(len(mix), start + len(note))
    if end > start:
        mix[start:end] += note[: end - start]
