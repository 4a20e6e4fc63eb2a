"""The card of a generator of sounds without classes: scores by temperature."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

COUNT = 200
CHUNK = 50
TEMPERATURES = (1.0, 0.9, 0.8)


def scored(pipe: Any, count: int = COUNT) -> dict[str, Any]:
    """Return the scores of generated sounds by temperature, of real and shuffled ones, the time."""
    import torch

    from eval.log_mel_crowd import NAME, crowd_distance

    rate = pipe.tokenizer.spec.output_rate
    real, others = (_spoken(pipe, range(a, a + count)) for a in (0, count))
    made = {"real": others} | _decoded(pipe, others)
    for temperature in TEMPERATURES:
        began = time.perf_counter()
        parts = [
            pipe(num_per_label=len(numbers), temperature=temperature, output_type="pt",
                 generator=[torch.Generator().manual_seed(int(n)) for n in numbers]).audios.cpu()
            for numbers in torch.arange(count).split(CHUNK)
        ]  # fmt: skip
        seconds = (time.perf_counter() - began) / count
        made[f"{temperature:g}"] = torch.cat(parts)
    rows = {key: {NAME: crowd_distance(sounds, real, rate)} for key, sounds in made.items()}
    return {"sounds": count, "seconds_per_sound": seconds, "scores": rows}


def _spoken(pipe: Any, numbers: range) -> Any:
    """Return sentences that no training speaks (N, 1, T), as long as what is drawn."""
    import torch

    from audio_tok.audio_data import AudioDataConfig, open_audio

    rate = pipe.tokenizer.spec.input_rate
    data = AudioDataConfig(source="speech", segment=_samples(pipe), sample_rate=rate, seed=0)
    source = open_audio(data)
    return torch.stack([source.item(number) for number in numbers])


def _samples(pipe: Any) -> int:
    spec = pipe.tokenizer.spec
    return round(pipe.generator.sizes[-1] / spec.token_rate * spec.input_rate)


def _decoded(pipe: Any, sounds: Any) -> dict[str, Any]:
    """Return reconstructions, and sounds of the same tokens in random order."""
    import torch

    kept: dict[str, list[Any]] = {"reconstructed": [], "shuffled": []}
    random = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for part in sounds.split(CHUNK):
            tokens = pipe.tokenizer.encode(part.to(pipe.device))
            order = torch.randperm(tokens.codes.shape[-1], generator=random)
            mixed = tokens._replace(codes=tokens.codes[..., order.to(pipe.device)])
            for name, one in (("reconstructed", tokens), ("shuffled", mixed)):
                kept[name].append(pipe.tokenizer.decode(one).cpu())
    return {name: torch.cat(parts) for name, parts in kept.items()}


def words(
    scores: Mapping[str, Any], pipe: Any, facts: Mapping[str, Any]
) -> dict[str, str]:
    """Return the words of the card that are of sounds; ``facts`` are the others."""
    from eval.log_mel_crowd import NAME

    names = {"real": "other real sounds", "reconstructed": "their reconstructions",
             "shuffled": "their tokens in random order"}  # fmt: skip
    rows = [
        f"| {names.get(key, f'temperature {key}')} | {value[NAME]:.2f} |"
        for key, value in scores["scores"].items()
    ]
    count = scores["sounds"]
    return {
        "sentence": f"A small {facts['kind']} of synthetic speech over the tokens of "
        f"`{facts['tokenizer']}`, for demonstrations and tests.",
        "result": f"{_samples(pipe) / pipe.tokenizer.spec.input_rate:g} s of sound",
        "units": "sounds", "condition": "condition | none: it says what it likes",
        "data": "token shards of synthetic speech (espeak-ng, many voices and languages)"
        if facts["from_shards"] else "synthetic speech, tokenized on the fly",
        "comparison": f"""{count} generated
sounds against {count} real ones that it has not heard: {NAME} (lower is better; Fréchet distance
of means and deviations of log mel bands, `eval/log_mel_crowd.py`). The reconstructions bound what
their tokens can show; the same tokens in random order show what order is worth.""",
        "table": "\n".join([f"| | {NAME} |", "|---|---:|", *rows]),
        "speed": f"{scores['seconds_per_sound']:.2f} s per sound, {CHUNK} at a time",
        "limits": "It babbles in many voices: the rhythm and the sounds of speech, pauses too, and "
        "no words. Good\nenough to learn the suite with and to test on.",
    }  # fmt: skip
