"""Small WavTokenizers of claims: the recipe of perturbation_experiment.py with other options.

A codec is judged on the held-out sentences in held-out voices, three seconds of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from claims.benchmark_scripts import benchmark
from claims.claim import Place, config_hash
from claims.training import loaded, once, quiet, train_tokenizer

SECONDS = 3


def sizes_of(small: bool, **changes: Any) -> dict[str, Any]:
    """Return the sizes of the benchmark's codec, with changes."""
    script = benchmark("perturbation_experiment")
    return dict((script.SMALL if small else script.FULL)["audio"]) | changes


def sentences(sizes: Mapping[str, Any], place: Place) -> Path:
    """Return a folder with ``audio/``: the training sentences, spoken once."""
    script = benchmark("perturbation_experiment")
    folder = place.data / f"speech-{config_hash({k: sizes[k] for k in ('rate', 'sentences')})}"
    once(folder / "audio", lambda path: script.spoken(sizes, path))
    return folder


def recipe(
    sizes: Mapping[str, Any], seed: int, place: Place, *, model: Mapping[str, Any] | None = None,
    quantizer: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the run config of a codec.

    Args:
        model, quantizer: options of the model and of its quantizer that differ.
    """
    script = benchmark("perturbation_experiment")
    values = script.recipe("audio", sizes, seed, None, sentences(sizes, place) / "audio")
    config = values["model"]["config"]
    config |= model or {}
    config["quantizer"] = config["quantizer"] | (quantizer or {})
    values["log"] = quiet(sizes["steps"])
    return dict(values)


def codec(values: Mapping[str, Any], place: Place) -> Any:
    """Train a codec and return it in eval mode on the device."""
    return loaded(train_tokenizer("audio", values, place.scratch / "codec"), place.device)


def unheard(sizes: Mapping[str, Any]) -> Any:
    """Return the held-out sentences, float (N, 1, T) in [-1, 1]."""
    import torch

    from audio_tok.held_out_speech import HeldOutSpeech

    speech = HeldOutSpeech(SECONDS * sizes["rate"], sizes["rate"])
    return torch.stack([speech.item(i) for i in range(min(sizes["judged"], speech.length))])


def judged(model: Any, sizes: Mapping[str, Any], levels: int | None = None) -> dict[str, float]:
    """Return mel distance, STOI, and how much of the codebook the sentences use.

    Args:
        levels: leading levels of a residual codec that are decoded, None for all.

    Returns:
        ``mel_distance`` (lower is better), ``stoi`` (higher), ``usage`` (0 to 1, share of codes
        that occur) and ``perplexity``; means over levels where there are several.
    """
    import torch

    from eval.code_usage import CodeUsage

    x, rate, made = unheard(sizes), sizes["rate"], []
    usage = CodeUsage(model.spec)
    with torch.inference_mode():
        for part in x.split(6):
            tokens = model.encode(part.to(model.device))
            codes = tokens.codes.cpu()
            usage.update(codes)
            if levels is not None:
                tokens = tokens._replace(codes=tokens.codes[:, :levels])
            made.append(model.decode(tokens).float().cpu()[..., : x.shape[-1]])
    counted = usage.compute()
    shares = {name: float(counted[f"codes/{name}"]) for name in ("usage", "perplexity")}
    return shares | figures(x, torch.cat(made), rate)


def figures(x: Any, y: Any, rate: int) -> dict[str, float]:
    """Return mel distance and, where its package is installed, STOI of sounds (N, 1, T)."""
    from audio_tok.sound_figures import mel_distance
    from tok_core.audio_measures import stoi

    heard = [stoi(a, b, rate) for a, b in zip(x, y, strict=True)]
    known = [value for value in heard if value is not None]
    found = {"mel_distance": mel_distance(x, y, rate)}
    return found | ({"stoi": sum(known) / len(known)} if known else {})
