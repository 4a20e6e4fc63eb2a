"""Synthetic sound: the same item everywhere, every item legal, held-out speech never trained on."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from tok_core.errors import ConfigError
from tok_core.formant_synthesiser import phonemes, speak_with_formants
from tok_core.procedural_audio import KINDS, ProceduralAudio
from tok_core.procedural_draws import item_draws
from tok_core.procedural_sentences import CLAUSES, HELD_OUT_SENTENCES, training_sentence
from tok_core.procedural_speech import (
    HELD_OUT_VARIANTS,
    RATE,
    TRAINING_VARIANTS,
    Utterance,
    espeak_program,
    held_out_utterances,
    speak,
    training_utterance,
)

# Loudness (RMS x 1000) of tenths of a second: the same on every processor, unlike the last bits.
# If one of these fails, the synthesiser has changed: raise VERSION, and say in the model cards
# which version a model was trained on.  Speech by espeak-ng belongs to that program's version.
GOLDEN: dict[str, list[int]] = {
    "music": [110, 101, 89, 80, 74, 65, 98, 98, 94, 87],
    "noise": [137, 94, 122, 115, 108, 143, 96, 149, 80, 129],
    "formants": [34, 107, 6, 189, 163, 9, 21, 109, 94, 14, 153, 126, 77, 90, 8, 74, 79, 2, 0],
}


def _sound(kind: str) -> np.ndarray:
    if kind == "formants":
        return speak_with_formants("The fox sees a big ship.", "en-us+f2", 170, 50, RATE)
    return ProceduralAudio(kind, RATE, seed=3)[5][0].numpy()


def _loudness(sound: np.ndarray) -> list[int]:
    blocks = sound[: len(sound) // 2400 * 2400].reshape(-1, 2400).astype(np.float64)
    return [round(1000 * float(v)) for v in np.sqrt((blocks**2).mean(axis=1))]


@pytest.mark.parametrize("kind", sorted(GOLDEN))
def test_sounds_of_this_version_are_pinned(kind: str) -> None:
    found = _loudness(_sound(kind))
    assert len(found) == len(GOLDEN[kind])
    assert max(abs(a - b) for a, b in zip(found, GOLDEN[kind], strict=True)) <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [1, 777, 24000])
def test_every_item_is_legal(kind: str, samples: int) -> None:
    source = ProceduralAudio(kind, samples)
    for index in (0, 1, 2, 3, 10**12, 2**70):
        sound = source[index]
        assert sound.shape == (1, samples) and sound.dtype == torch.float32
        assert sound.isfinite().all() and sound.abs().max() <= 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_items_differ_by_index_and_by_seed(kind: str) -> None:
    a, b = ProceduralAudio(kind, 12000, seed=0), ProceduralAudio(kind, 12000, seed=1)
    hashes = {source[i].numpy().tobytes() for source in (a, b) for i in range(10)}
    assert len(hashes) == 20


def _mixed(index: int) -> bytes:
    return ProceduralAudio("mixed", 12000, seed=5)[index].numpy().tobytes()


def test_items_do_not_depend_on_order_or_process() -> None:
    indices = list(range(10))
    forward = [_mixed(i) for i in indices]
    assert [_mixed(i) for i in reversed(indices)][::-1] == forward
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(_mixed, indices)) == forward


def test_global_random_state_is_neither_used_nor_moved() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for kind in KINDS:
        ProceduralAudio(kind, 6000)[0]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_held_out_voices_and_sentences_are_never_trained_on() -> None:
    held = held_out_utterances()
    texts = {text for sentences in HELD_OUT_SENTENCES.values() for text in sentences}
    assert {u.text for u in held} == texts and len(held) == len(set(held)) >= 30
    assert {u.voice.split("+")[1] for u in held} == set(HELD_OUT_VARIANTS)
    assert not set(HELD_OUT_VARIANTS) & set(TRAINING_VARIANTS)
    said = [training_utterance(i) for i in range(3000)]
    assert {u.voice.split("+")[1] for u in said} == set(TRAINING_VARIANTS)
    assert not {u.text for u in said} & texts
    assert len({u.text for u in said}) > 2500


def test_the_text_of_an_item_is_known_without_speaking_it() -> None:
    source = ProceduralAudio("speech", 24000, seed=2)
    first = source.utterance(7)
    assert first is not None and first == ProceduralAudio("speech", 10, seed=2).utterance(7)
    assert ProceduralAudio("music", 10).utterance(7) is None
    kinds = [ProceduralAudio("mixed", 10).utterance(i) is None for i in range(300)]
    assert 0.2 < np.mean(kinds) < 0.4


@pytest.mark.parametrize("language", [*CLAUSES, "invented"])
def test_sentences_have_words_and_an_end(language: str) -> None:
    for index in range(50):
        sentence = training_sentence(item_draws("t", version=1, seed=0, index=index), language)
        assert sentence[-1] in ".!?" and len(sentence.split()) >= 3


def _spectral_centre(sound: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(sound)) ** 2
    return float((power * np.fft.rfftfreq(len(sound), 1 / RATE)).sum() / power.sum())


def test_formant_speaker_makes_vowels_low_and_hisses_high() -> None:
    vowel = speak_with_formants("aaaa", "en-us+m1", 170, 50, RATE)
    hiss = speak_with_formants("ssss", "en-us+m1", 170, 50, RATE)
    assert _spectral_centre(vowel) < 1500 < 4500 < _spectral_centre(hiss)
    assert not np.array_equal(vowel, speak_with_formants("aaaa", "en-us+f1", 170, 50, RATE))
    assert phonemes("The ship 4!") == "fe xip un." and phonemes("日本") == "a"


def test_formant_vowels_repeat_at_the_pitch_asked_for() -> None:
    pitches = []
    for pitch in (10, 90):
        sound = speak_with_formants("oooooo", "en-us+m1", 100, pitch, RATE)[6000:12000]
        power = np.abs(np.fft.rfft(sound, 1 << 15)) ** 2
        correlation = np.fft.irfft(power)
        pitches.append(RATE / (60 + int(np.argmax(correlation[60:400]))))
    assert pitches[1] / pitches[0] == pytest.approx(2 ** 0.8, rel=0.12)


def test_speech_without_the_program_falls_back() -> None:
    utterance = Utterance("Good morning to you.", "en-us+f2", 170, 50)
    fallback = speak(utterance, program=None)
    broken = speak(utterance, program="/bin/false")
    assert np.array_equal(fallback, broken) and np.abs(fallback).max() > 0.3
    assert 0.5 * RATE < len(fallback) < 5 * RATE


@pytest.mark.skipif(espeak_program() is None, reason="espeak-ng is not installed")
def test_espeak_speaks_every_voice_of_the_lists() -> None:
    spoken = {speak(u).tobytes() for u in held_out_utterances()}
    assert len(spoken) == len(held_out_utterances())
    text = "A small test of voices."
    sounds = [speak(Utterance(text, f"en-us+{v}", 170, 50)) for v in TRAINING_VARIANTS]
    assert len({sound.tobytes() for sound in sounds}) == len(TRAINING_VARIANTS)
    assert min(float(np.sqrt((sound**2).mean())) for sound in sounds) > 0.01


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"kind": "speach", "samples": 10}, "did you mean 'speech'"),
        ({"kind": "speech", "samples": 0}, "give 1 to"),
        ({"kind": "speech", "samples": 10, "seed": -1}, "negative"),
        ({"kind": "speech", "samples": 10, "version": 99}, "version 99"),
    ],
)
def test_mistakes_are_one_sentence(arguments: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        ProceduralAudio(**arguments)


def test_negative_index_is_refused() -> None:
    with pytest.raises(IndexError):
        ProceduralAudio("noise", 16)[-1]
