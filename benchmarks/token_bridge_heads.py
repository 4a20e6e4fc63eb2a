"""TokenBridge's autoregressive head against a parallel one, at equal steps: the paper's ablation.

    python benchmarks/token_bridge_heads.py                    # table, JSON and samples in results/
    python benchmarks/token_bridge_heads.py --seeds 0 --steps 2000 --only parallel
    python benchmarks/token_bridge_heads.py --small            # a try, nothing is written

The generator of generator-token-bridge-tiny.yaml is trained twice per seed on the same pictures,
with their mirror images, in the same order, tokenized once (32 x 32 pixels, 4 x 4 positions of 16
dimensions, the shipped autoencoder at 4 bits: fewer positions and levels are learned in fewer steps
than the recipe's 8 x 8 and 64), with the dimensions of a position drawn one after the other, and
all at once.
Judged by loss per code on unseen pictures, and by generated ones: frechet/procedural-v1 (lower is
better) against unseen real pictures, and the share that the shipped classifier sees as what was
asked for.  Wang et al. 2025, arXiv 2503.16430, table 3: gFID 1.94 against 15.7.  Every finished
training is kept at once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _measure import begun, keep

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = Path(__file__).parent / "results" / "token_bridge_heads.json"
RECIPE = ROOT / "assets" / "configs" / "generator-token-bridge-tiny.yaml"
MODELS = ROOT / "assets" / "models"
TRAINING_SEED = 7  # of the pictures
SIDE, BITS, RATE = 32, 4, 2e-3  # of the tokenizer, and the learning rate for small batches
HEADS = ("autoregressive", "parallel")
GUIDANCE, SHOWN = 2.0, 2


def tokenizer(folder: Path) -> Path:
    """Quantize the shipped autoencoder at fewer bits, which asks for no training; return where."""
    from vision_tok.token_bridge import TokenBridgeTokenizer

    if not folder.is_dir():
        shipped = TokenBridgeTokenizer.from_pretrained(MODELS / "token-bridge-tiny")
        names = ("std_range", "low", "high", "scale", "shift", "channel_order")
        options = {name: shipped.config[name] for name in names}
        coarse = TokenBridgeTokenizer.from_vae(shipped, bits=BITS, image_size=SIDE, **options)
        coarse.save_pretrained(folder)
    return folder


def tokenized(pictures: int, unseen: int, work: Path) -> Path:
    """Paint and tokenize pictures to train on and unseen ones, once; return the folder of both."""
    folder = work / f"tokens-{SIDE}-{BITS}-{pictures}-{unseen}"
    model = tokenizer(folder / "tokenizer")
    for name, count, seed in (("train", pictures, TRAINING_SEED), ("unseen", unseen, 0)):
        shards, painted = folder / name, folder / f"{name}-pictures"
        if (shards / "index.json").is_file():
            continue
        paint = [str(ROOT / "examples" / "paint_pictures.py"), str(painted), "--count", str(count),
                 "--size", str(SIDE), "--seed", str(seed)]  # fmt: skip
        tokenize = ["-m", "tessera", "tokenize", str(painted), str(shards), "--model",
                    str(model)]  # fmt: skip
        for words in (paint, tokenize + (["--flips"] if name == "train" else [])):
            subprocess.run([sys.executable, *words], check=True, cwd=ROOT)
    return folder


def trained(head: str, seed: int, options: argparse.Namespace, folder: Path) -> tuple[Any, Any]:
    """Train one generator; return the path of its model and its last validation scores."""
    from generators.train import GeneratorRun, train
    from tok_core.run_config import load_config

    changes = {
        "model.config.head_kind": head, "train.seed": seed, "train.steps": options.steps,
        "train.batch_size": options.batch, "train.workers": options.workers, "shown": 0,
        "data.tokenizer": options.tokens / "tokenizer", "data.signals": "null",
        "data.path": options.tokens / "train", "data.validation_path": options.tokens / "unseen",
        "data.seed": seed,
        "log.validate_every": options.steps, "log.save_every": max(1, options.steps // 4),
        "log.pictures_every": 0, "log.tracker": "none", "validation_samples": options.judged,
        "schedule.warmup": min(50, options.steps // 4), "optimizer.lr": RATE,
    }  # fmt: skip
    config = load_config(GeneratorRun, RECIPE, [f"{key}={value}" for key, value in changes.items()])
    model = train(config, folder, resume=True)
    if model is None:
        raise SystemExit("interrupted; run the command again to go on")
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    scores = [line for line in lines if "validation/loss" in line][-1]
    return model, {k.removeprefix("validation/"): v for k, v in scores.items() if "validation" in k}


def floor(codec: Path, count: int) -> dict[str, dict[str, float]]:
    """Return what a perfect generator, and a perfect one of tokens, would score."""
    import torch

    from eval.labelled_pictures import class_scores, real_pictures, seen
    from tok_core.image_measures import to_uint8
    from vision_tok.token_bridge import TokenBridgeTokenizer

    model = TokenBridgeTokenizer.from_pretrained(codec).eval()
    reference = seen(real_pictures(SIDE, count)[0])
    real, labels = real_pictures(SIDE, count, start=count)
    with torch.inference_mode():
        parts = [part.float().div(127.5).sub(1.0) for part in real.split(100)]
        decoded = torch.cat([to_uint8(model.decode(model.encode(part))) for part in parts])
    return {
        name: class_scores(seen(pictures), labels, reference)
        for name, pictures in (("real pictures", real), ("reconstructions", decoded))
    }


def judged(model: Path, codec: Path, count: int, per_call: int) -> tuple[dict[str, float], Any]:
    """Return scores of generated pictures, and the first few of every class."""
    import torch

    from eval.labelled_pictures import class_scores, real_pictures, seen
    from tessera.generator_pipeline import open_pipeline
    from tok_core.image_measures import to_uint8

    pipe: Any = open_pipeline(str(model), tokenizer=str(codec), device="auto")
    pipe.set_progress_bar_config(disable=True)
    classes, side = pipe.generator.classes, pipe.tokenizer.spec.image_size[0]
    labels = torch.arange(count) % classes
    made, began = [], time.perf_counter()
    for numbers in torch.arange(count).split(per_call):
        seeds = [torch.Generator().manual_seed(int(n)) for n in numbers]
        made.append(pipe(labels[numbers].tolist(), guidance_scale=GUIDANCE, generator=seeds,
                         guidance_schedule="ramp", output_type="pt").images.cpu())  # fmt: skip
    seconds = (time.perf_counter() - began) / count
    pictures = to_uint8(torch.cat(made))
    reference = seen(real_pictures(side, count)[0])
    scores = class_scores(seen(pictures), labels, reference)
    return scores | {"seconds_per_picture": seconds}, pictures[: SHOWN * classes]


def sheet(pictures: Any, path: Path) -> None:
    """Write the samples of one head, classes side by side."""
    from PIL import Image

    pixels = pictures.unflatten(0, (SHOWN, -1)).permute(0, 3, 1, 4, 2)
    r, h, c, w, _ = pixels.shape
    Image.fromarray(pixels.reshape(r * h, c * w, 3).numpy()).save(path)


def show(result: dict[str, Any]) -> None:
    """Print one row per training."""
    print(f"{result['steps']} steps of {result['batch']} on {result['machine']}")
    print(f"{'head':16s}{'seed':>5s}{'nats/code':>11s}{'frechet':>9s}{'recognised':>12s}")
    for row in result["rows"]:
        frechet, share = (row[f"{name}/procedural-v1"] for name in ("frechet", "recognised"))
        print(
            f"{row['head']:16s}{row['seed']:>5d}{row['loss']:>11.3f}{frechet:>9.2f}{share:>12.1%}"
        )
    for name, row in result["floor"].items():
        frechet, share = (row[f"{kind}/procedural-v1"] for kind in ("frechet", "recognised"))
        print(f"{name:32s}{frechet:>9.2f}{share:>12.1%}")


def options_of() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pictures", type=int, default=4800, help="painted and mirrored")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--judged", type=int, default=300, help="pictures, generated and unseen")
    parser.add_argument("--only", choices=HEADS)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "token-bridge-heads")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--small", action="store_true", help="a try, nothing is written")
    return parser.parse_args()


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Train and judge what the file does not hold yet; return the whole result."""
    import torch

    cuda, work = torch.cuda.is_available(), options.work.resolve()
    facts = {
        "steps": options.steps, "batch": options.batch, "judged": options.judged,
        "pictures": options.pictures, "guidance": GUIDANCE, "side": SIDE, "bits": BITS, "lr": RATE,
    }  # fmt: skip
    machine = torch.cuda.get_device_name() if cuda else "CPU"
    result = begun(options.out, facts, rows=[], floor={}, machine=machine)
    done = {(row["head"], row["seed"]) for row in result["rows"]}
    heads = [options.only] if options.only else HEADS
    left = [(head, seed) for seed in options.seeds for head in heads if (head, seed) not in done]
    if not left and result["floor"]:
        return result
    options.tokens = tokenized(options.pictures, options.judged, work)
    codec = options.tokens / "tokenizer"
    result["floor"] = floor(codec, options.judged)
    keep(result, options.out)
    for head, seed in left:
        folder = work / f"{head}-{seed}-{options.steps}x{options.batch}"
        model, scores = trained(head, seed, options, folder)
        quality, pictures = judged(model, codec, options.judged, 100 if cuda else 30)
        result["rows"].append({"head": head, "seed": seed, **scores, **quality})
        keep(result, options.out)
        if seed == 0:
            sheet(pictures, options.out.with_name(f"{options.out.stem}_{head}.png"))
    return result


def main() -> None:
    """Train, judge, print."""
    options = options_of()
    with tempfile.TemporaryDirectory() as place:
        if options.small:
            options.steps, options.batch, options.judged, options.seeds = 3, 2, 12, [0]
            options.pictures = 12
            options.work, options.out = Path(place), Path(place) / "try.json"
        show(measured(options))


if __name__ == "__main__":
    main()
