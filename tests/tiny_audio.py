"""A small WavTokenizer with random weights, and sounds, for the tests of files and commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from audio_tok.wav_tokenizer import WavTokenizer

RATE, HOP = 8000, 80
SIZES: dict[str, Any] = {
    "sample_rate": RATE, "strides": [4, 4, 5], "encoder_width": 4, "latent_dim": 16,
    "lstm_layers": 0, "codebook_size": 32, "num_codebooks": 2, "width": 32, "hidden": 48,
    "layers": 3, "attention": False, "condition_ids": 1,
}  # fmt: skip


def tiny_codec(seed: int = 0, **changes: Any) -> WavTokenizer:
    """Return a codec of 100 frames a second whose codes and sounds differ with their input."""
    torch.manual_seed(seed)
    model = WavTokenizer(**SIZES | changes).eval()
    with torch.no_grad():
        latents = model.latents(torch.from_numpy(make_sound(4.0, model.sample_rate))[None])
        frames = latents[0].T
        for level in range(model.settings.num_codebooks):
            table = frames if level == 0 else 0.3 * (frames - frames.mean(0))
            chosen = torch.randint(len(table), (model.settings.codebook_size,))
            model.codebooks[level].vectors.copy_(table[chosen])
        for block in model.backbone.blocks:
            block.gamma.mul_(0).add_(1.0)
            for part in (block.depthwise, block.widen, block.narrow):
                part.weight.mul_(8.0)
    return model


def save_tiny(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Save `tiny_codec` as a model folder."""
    tiny_codec(seed, **changes).save_pretrained(folder)
    return folder


def make_sound(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Return (channels, T) float32: gliding tones with pauses and some noise."""
    random = np.random.default_rng(seed)
    samples = max(1, round(seconds * rate))
    t = np.arange(samples) / rate
    sounds = []
    for channel in range(channels):
        phase = 2 * np.pi * (300 * t + 60 * np.sin(5 * t + channel + seed))
        loud = 0.5 + 0.5 * np.sin(2 * np.pi * 1.7 * t + channel)
        sounds.append(0.4 * loud * np.sin(phase) + 0.02 * random.standard_normal(samples))
    return np.stack(sounds).astype(np.float32)


def write_sound(
    path: Path, seconds: float = 1.0, rate: int = RATE, channels: int = 1, *, seed: int = 0,
    **options: Any,
) -> Path:  # fmt: skip
    """Write `make_sound` as a file; the format follows the extension or soundfile's options."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".opus":
        options = {"format": "OGG", "subtype": "OPUS"} | options
    soundfile.write(path, make_sound(seconds, rate, channels, seed).T, rate, **options)
    return path
