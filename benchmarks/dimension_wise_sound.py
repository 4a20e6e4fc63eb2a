"""What quantizing every dimension costs a codec of sound: the table of bits, for a small KL codec.

    python benchmarks/dimension_wise_sound.py               # table and JSON in results/
    python benchmarks/dimension_wise_sound.py --small       # a try, nothing is written

The recipe kl-codec-tiny.yaml (24 kHz, 100 frames of 8 Gaussian latents a second) is trained on
synthetic speech, calibrated on the training sentences (range, mean and deviation per channel), and
decodes held-out sentences in held-out voices: its own latents, and what is left of them at every
number of bits.  Mel distance (lower is better) and STOI (higher); seeds differ in training.  A
finished seed is kept at once.  Nobody has published this for sound; the levels are those of Wang et
al. 2025, arXiv 2503.16430.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from _measure import begun, keep
from perturbation_experiment import ROOT, spoken

RESULTS = Path(__file__).parent / "results" / "dimension_wise_sound.json"
RECIPE = ROOT / "assets" / "configs" / "kl-codec-tiny.yaml"
BITS = tuple(range(1, 9))
RATE, SECONDS = 24_000, 3
CALIBRATED = 120  # sentences


def trained(seed: int, options: argparse.Namespace, folder: Path, device: str) -> Any:
    """Train the codec on spoken sentences; return it in eval mode."""
    from audio_tok.train import AudioRun, train
    from tok_core.loading import load
    from tok_core.run_config import load_config

    path = spoken({"rate": RATE, "sentences": options.sentences}, options.work / "speech")
    changes = {
        "data": {"source": "folder", "path": path, "segment": options.segment,
                 "sample_rate": RATE, "seed": 7},
        "train.steps": options.steps, "train.batch_size": options.batch, "train.seed": seed,
        "train.ema_decay": 0.99, "validation_sounds": 0, "log.validate_every": 0,
        "log.pictures_every": 0, "log.save_every": max(1, options.steps // 3),
        "log.tracker": "none", "schedule.warmup": min(50, options.steps - 1),
    }  # fmt: skip
    words = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    model = train(load_config(AudioRun, RECIPE, words), folder, resume=True)
    if model is None:
        raise SystemExit("interrupted; run the command again to go on")
    return load(model).to(device)


def judged(vae: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row per number of bits, None for the continuous latents."""
    import torch

    from audio_tok.audio_data import AudioDataConfig, open_audio
    from audio_tok.held_out_speech import HeldOutSpeech
    from audio_tok.sound_figures import mel_distance
    from tok_core.audio_measures import stoi
    from tok_core.dimension_calibration import calibrate
    from tok_core.dimension_wise import DimensionWiseQuantizer

    data = AudioDataConfig(source="folder", path=str(options.work / "speech"), segment=RATE,
                           sample_rate=RATE, seed=8)  # fmt: skip
    source = open_audio(data)
    known = [
        torch.stack([source.item(i) for i in range(first, first + 8)]).to(vae.device)
        for first in range(0, min(CALIBRATED, options.sentences), 8)
    ]
    config = calibrate(vae, known, per_channel=True, bits=6)
    speech = HeldOutSpeech(SECONDS * RATE, RATE)
    count = min(options.judged, speech.length)
    x = torch.stack([speech.item(i) for i in range(count)])
    rows = []
    with torch.inference_mode():
        latents = torch.cat([vae.latents(part.to(vae.device)) for part in x.split(6)])
        for bits in (None, *BITS):
            z = latents
            if bits is not None:
                quantizer = DimensionWiseQuantizer(replace(config, bits=bits)).to(vae.device)
                z = quantizer.lookup(quantizer.encode(latents))
            made = torch.cat([vae.decode_latents(part).float().cpu() for part in z.split(6)])
            made = made[..., : x.shape[-1]].clamp(-1, 1)
            heard = [stoi(a, b, RATE) for a, b in zip(x, made, strict=True)]
            known_stoi = [value for value in heard if value is not None]
            rows.append({
                "bits": bits, "mel_distance": mel_distance(x, made, RATE),
                "stoi": sum(known_stoi) / max(1, len(known_stoi)),
                "kilobits_per_second": None if bits is None else bits * 8 * 100 / 1000,
            })  # fmt: skip
    return rows


def show(result: dict[str, Any]) -> None:
    """Print means over seeds."""
    from statistics import fmean

    seeds = list(result["seeds"].values())
    print(f"{len(seeds)} seeds, {result['steps']} steps of {result['batch']} clips")
    print(f"{'':12s}{'kbit/s':>8s}{'mel distance':>14s}{'STOI':>8s}")
    for place, row in enumerate(seeds[0]):
        mel, heard = (fmean(s[place][name] for s in seeds) for name in ("mel_distance", "stoi"))
        bits = "continuous" if row["bits"] is None else f"{row['bits']} bits"
        rate = row["kilobits_per_second"]
        print(f"{bits:12s}{'-' if rate is None else f'{rate:.1f}':>8s}{mel:>14.3f}{heard:>8.3f}")


def main() -> None:
    """Train, calibrate, judge, print."""
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--segment", type=int, default=12_000, help="samples of a clip")
    parser.add_argument("--sentences", type=int, default=400)
    parser.add_argument("--judged", type=int, default=36, help="held-out sentences")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "dimension-wise-sound")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--small", action="store_true", help="a try, nothing is written")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as place:
        if options.small:
            options.seeds, options.steps, options.batch, options.judged = [0], 2, 2, 2
            options.sentences, options.segment = 8, 4800
            options.work, options.out = Path(place), Path(place) / "try.json"
        options.work.mkdir(parents=True, exist_ok=True)
        facts = {"steps": options.steps, "batch": options.batch, "segment": options.segment,
                 "sentences": options.sentences, "judged": options.judged}  # fmt: skip
        result = begun(options.out, facts, seeds={})
        for seed in options.seeds:
            if str(seed) not in result["seeds"]:
                vae = trained(seed, options, options.work / f"seed-{seed}", device)
                result["seeds"][str(seed)] = judged(vae, options)
                keep(result, options.out)
        show(result)


if __name__ == "__main__":
    main()
