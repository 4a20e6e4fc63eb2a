"""The whole chain for speech, each step the command that you would type.

    python examples/speech_end_to_end.py my_folder
    python examples/speech_end_to_end.py my_folder --small    # a try: every step, nothing learnt

sounds -> codec (WavTokenizer, latent perturbation) -> token shards -> generator (LlamaGen along
time, no classes) -> WAV files -> scores -> post-trained decoder -> scores again.  espeak-ng speaks,
or a small formant synthesiser where it is missing: nothing is downloaded.  Stopped halfway, the
same command goes on.  9 minutes on two cores.  So short a training makes rough speech; expect
babble of the generator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from end_to_end_steps import asked_for, step, steps, tessera_command
from speak_sounds import speak_folder

import audio_tok.train
import generators.post_train
import generators.train
from audio_tok.audio_data import AudioDataConfig, open_audio
from audio_tok.audio_file import write_audio
from audio_tok.sound_figures import mean_figures, sound_figures
from generators.contract import UNCONDITIONAL
from generators.drawing import draw_codes, numbered_seed
from generators.pair_maker import keep_mask
from generators.pipelines import TokenAudioPipeline
from tok_core.atomic_write import write_bytes
from tok_core.loading import load

RATE = 16_000  # Hz
CLIP = 24_000  # samples, 1.5 s: 120 tokens
PRESERVATION = 0.7  # share of tokens that stay real, in training as in the scores
FULL = {"sounds": 1000, "tokenizer": 1200, "generator": 1600, "pairs": 500, "decoder": 250,
        "judged": 36, "warmup": 50}  # fmt: skip
SMALL = {"sounds": 6, "tokenizer": 6, "generator": 4, "pairs": 4, "decoder": 3, "judged": 3,
         "warmup": 2}  # fmt: skip
# Log mel alone: discriminators would take most of the minutes.
LOSSES: dict[str, Any] = {
    "objective.sample_rate": RATE, "objective.period.enabled": False,
    "objective.resolution.enabled": False,
}  # fmt: skip


def main() -> None:
    """Do every step that is not done yet."""
    work, sizes = asked_for((__doc__ or "").splitlines()[0], "speech_end_to_end", FULL, SMALL)
    data, tokens = work / "sounds", work / "tokens"
    codec, generator, better = (
        work / name / "model" for name in ("codec", "generator", "post_trained")
    )
    sounds: dict[str, Any] = {
        "data.source": "folder", "data.path": data, "data.mixture": {}, "data.sample_rate": RATE
    }  # fmt: skip

    print("\n1. A folder of sounds")
    speak_folder(data, sizes["sounds"], CLIP, RATE)

    print("\n2. A codec: 80 tokens of 8 bits a second, its decoder used to wrong codes")
    step("audio_tok.train", audio_tok.train.main, work / "codec", "wavtokenizer-tiny", {
        **sounds, **LOSSES, "data.segment": 8000, "model.config.sample_rate": RATE,
        "model.config.strides": [5, 5, 4, 2], "model.config.encoder_width": 8,
        "model.config.width": 128, "model.config.hidden": 384, "model.config.layers": 3,
        "model.config.codebook_size": 256,
        "model.config.quantizer.quantize_after_steps": sizes["tokenizer"] // 6,
        "perturbation": {"alpha": 0.5, "beta": 0.125, "delta": 6},
        "validation_sounds": 4, **steps(sizes, "tokenizer", batch=8),
    })  # fmt: skip

    print("\n3. Token shards: every sound coded once")
    tessera_command("tokenize", data, tokens, "--model", codec, "--resume")

    print("\n4. A generator: draws tokens one after the other, along time")
    step("generators.train", generators.train.main, work / "generator", "generator-speech-tiny", {
        "data.signals": None, "data.path": tokens, "data.tokenizer": codec, "shown": 0,
        "model.config": {"width": 128, "layers": 4, "heads": 4},
        **steps(sizes, "generator", batch=8),
    })  # fmt: skip

    print("\n5. Samples, and scores of the codec on sentences that it has not heard")
    say_something(work / "samples", codec, generator)
    before = kept(work / "scores.json", codec, generator, sizes["judged"])
    print(f"mel distance of decoded real tokens {before['real/mel_distance']:.3f}, with "
          f"{1 - PRESERVATION:.0%} of them made up {before['half/mel_distance']:.3f}")  # fmt: skip

    print("\n6. Post-training: the decoder learns from tokens that the generator half made up")
    step("generators.post_train", generators.post_train.main, work / "post_trained",
         "wavtokenizer-tiny", {
        "model": {"from": str(codec)}, **sounds, **LOSSES, "data.segment": CLIP,
        "data.pairs": {
            "path": str(work / "pairs"), "generator": str(generator), "count": sizes["pairs"],
            "preservation": PRESERVATION, "batch_size": 25,
        },
        "optimizer.lr": 3e-4, "train.train_only": "decoder", "validation_sounds": 4,
        **steps(sizes, "decoder", batch=4),
    })  # fmt: skip

    print("\n7. The scores again: same tokens, new decoder")
    say_something(work / "samples_after", better, generator)
    after = kept(work / "scores_after.json", better, generator, sizes["judged"])
    show({"as trained": before, "post-trained": after})
    print(f"listen to {work / 'scores_sounds'} and {work / 'scores_after_sounds'} (real, decoded, "
          f"half made up) and to {work / 'samples'} and {work / 'samples_after'}")  # fmt: skip



def say_something(folder: Path, codec: Path, generator: Path) -> None:
    """Draw eight sounds and write them as WAV files."""
    tessera_command(
        "generate", "--generator", generator, "--tokenizer", codec, "-n", 8, "-o", folder,
        "--temperature", 0.9, "--force",
    )  # fmt: skip


def kept(file: Path, codec: Path, generator: Path, count: int) -> dict[str, float]:
    """Return the scores that an earlier run kept, or make them."""
    if not file.is_file():
        print(f"judging {count} sounds", flush=True)
        pipe = TokenAudioPipeline(load(generator), load(codec))
        scores = measured(pipe, count, file.with_name(f"{file.stem}_sounds"))
        write_bytes(file, json.dumps(scores, indent=1).encode())
    found: dict[str, float] = json.loads(file.read_text())
    return found


@torch.inference_mode()
def measured(pipe: Any, count: int, folder: Path) -> dict[str, float]:
    """Score decoded tokens of unheard sentences, real ones and half made up ones."""
    unheard = open_audio(
        AudioDataConfig(source="speech", segment=CLIP, sample_rate=RATE), validation=True
    )
    x = torch.stack([unheard.item(number) for number in range(count)])
    real = pipe.tokenizer.encode(x).codes
    keep = torch.stack([
        keep_mask(1, n, pipe.generator.spec.to_sequence(real).shape[1], PRESERVATION)
        for n in range(count)
    ])  # fmt: skip
    seeds = [numbered_seed(1, n) for n in range(count)]
    half = draw_codes(pipe.generator, UNCONDITIONAL, seeds=seeds, given=real, keep=keep)
    decoded = {"real": pipe.tokenizer.decode(real), "half": pipe.tokenizer.decode(half)}
    folder.mkdir(exist_ok=True)
    for n in range(min(4, count)):
        for name, sound in (("original", x), *decoded.items()):
            write_audio(folder / f"{n}_{name}.wav", sound[n], RATE, force=True)
    return {
        f"{name}/{figure}": value
        for name, sound in decoded.items()
        for figure, value in mean_figures(
            sound_figures(a, b, RATE) for a, b in zip(x, sound, strict=True)
        ).items()
    }


def show(rows: Mapping[str, Mapping[str, float]]) -> None:
    """Print one row per decoder; a figure whose package is missing is a dash."""
    share = f"{1 - PRESERVATION:.0%} generated"
    print(f"\n{'':14s}{'real tokens':>24s}{share:>24s}")
    print(f"{'decoder':14s}" + 2 * f"{'mel distance':>14s}{'STOI':>10s}")
    for name, row in rows.items():
        cells = [(row[f"{kind}/mel_distance"], row.get(f"{kind}/stoi")) for kind in
                 ("real", "half")]  # fmt: skip
        print(f"{name:14s}" + "".join(
            f"{mel:>14.3f}" + (f"{'-':>10s}" if stoi is None else f"{stoi:>10.3f}")
            for mel, stoi in cells
        ))  # fmt: skip
    print("mel distance: lower is better; STOI: higher is better, 1 at most\n")


if __name__ == "__main__":
    main()
