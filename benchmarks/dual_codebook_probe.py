"""Do the tokens of a dual codebook understand more? The probe of pixel-only and dual tokenizers.

    python benchmarks/dual_codebook_probe.py           # table, benchmarks/results/*.json
    python benchmarks/dual_codebook_probe.py --small   # what tests/eval/test_probe.py trains

Three tokenizers see the same labelled procedural pictures (without the labels) in the same order
for the same number of steps, with the same convolutional autoencoder, scales and number of codes,
so the same tokens:

    pixel        a VQGAN of several scales: pictures alone
    two streams  a TokenFlow without a teacher: the second stream costs the same and learns nothing
    dual         a TokenFlow whose semantic stream predicts features of the shipped classifier

Then `eval probe` trains a linear classifier on the mean of each one's token features over pictures
of another seed. The classifier that teaches has been trained on labels of this kind, as CLIP has
been on captions: the question is whether its knowledge arrives in the tokens, and what it costs
the pictures (PSNR).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = Path(__file__).parent / "results" / "dual_codebook_probe.json"
KINDS = ("pixel", "two streams", "dual")
TRAINING_SEED = 7  # of the pictures; the probe's have seed 0
TEACHER: dict[str, Any] = {
    "kind": "classifier", "weights": "assets/classifiers/procedural-v1",
    "strides": [2, 1, 2, 2, 1], "taps": [4],
}  # fmt: skip
FULL: dict[str, Any] = {
    "side": 16, "teacher_side": 64, "channels": 16, "multipliers": [1, 1, 2], "codes": 512,
    "width": 96, "steps": 1500, "batch": 32, "pictures": 4800,
}  # fmt: skip
SMALL: dict[str, Any] = {
    "side": 16, "teacher_side": 32, "channels": 8, "multipliers": [1, 1, 2], "codes": 256,
    "width": 64, "steps": 240, "batch": 32, "pictures": 2400,
}  # fmt: skip
SCALES = [1, 2, 4]
PIXEL_WEIGHT = 0.3  # at 1 the pixel stream, which learns sooner, decides nearly alone


def recipe(kind: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """Return the run config of one tokenizer as a plain mapping."""
    side, steps, width, grid = sizes["side"], sizes["steps"], sizes["width"], SCALES[-1]
    quantizer: dict[str, Any] = {"kmeans_start": True, "dead_code_every": 10}
    shared: dict[str, Any] = {
        "encoder_sizes": {"channels": sizes["channels"], "multipliers": sizes["multipliers"],
                          "res_blocks": 1},
        "z_channels": 32, "norm_groups": 8, "codebook_size": sizes["codes"], "image_size": side,
        "scales": SCALES,
    }  # fmt: skip
    model: dict[str, Any] = {"class": "VQGAN", "config": shared | {
        "code_dim": 8, "quantizer_kind": "multi_scale", "quantizer_options": quantizer,
    }}  # fmt: skip
    objective: dict[str, Any] = {"picture_range": "signed", "l2_weight": 1.0}
    if kind != "pixel":
        tower = {"patch_size": side // grid, "grid": grid, "width": width, "layers": 2, "heads": 4,
                 "mlp_width": 2 * width, "pre_norm": True}  # fmt: skip
        model = {"class": "TokenFlow", "config": shared | {
            "semantic_dim": 32, "pixel_dim": 8, "pixel_weight": PIXEL_WEIGHT,
            "semantic_encoder": {"kind": "tower", "sizes": tower},
            "semantic_decoder": {"width": width, "target_dim": 128, "depth": 1, "heads": 4},
            "quantizer_options": quantizer | {"scale_drop": 0.0},
        }}  # fmt: skip
    if kind == "dual":
        teacher = TEACHER | {"side": sizes["teacher_side"]}
        objective |= {"semantic_weight": 1.0, "semantic_teacher": teacher}
    return {
        "name": kind.replace(" ", "-"), "model": model, "objective": objective,
        "data": {"source": "classes", "size": side, "seed": TRAINING_SEED, "flip": False},
        "optimizer": {"lr": 2e-3, "betas": [0.9, 0.95], "weight_decay": 1e-4},
        "schedule": {"warmup": 30, "end_lr": 2e-4},
        "train": {"steps": steps, "batch_size": sizes["batch"], "seed": 0, "ema_decay": 0.0},
        "log": {"every": max(1, steps // 10), "validate_every": 0, "pictures_every": 0,
                "save_every": 0, "tracker": "none"},
        "validation_images": 0,
    }  # fmt: skip


def trained(kind: str, sizes: dict[str, Any], folder: Path) -> Path:
    """Train one tokenizer; return the folder of its model."""
    from tok_core.run_config import from_mapping
    from vision_tok.train import ImageRun, train

    model = train(from_mapping(ImageRun, recipe(kind, sizes)), folder / kind.replace(" ", "-"))
    assert model is not None
    return model


def probed(models: dict[str, Path], sizes: dict[str, Any], out: Path) -> dict[str, Any]:
    """Run ``eval probe`` on all models; return accuracy by kind and stream."""
    from eval.cli import run

    names = [f"{kind.replace(' ', '-')}={folder}" for kind, folder in models.items()]
    code = run(["probe", "--tokenizer", *names, "--data", "procedural", "--size",
                str(sizes["side"]), "--count", str(sizes["pictures"]), "--test-share", "0.5",
                "--out", str(out), "--force", "--batch-size", "100"])  # fmt: skip
    if code:
        raise SystemExit(code)
    found: dict[str, Any] = {}
    for score in json.loads(out.read_text())["scores"]:
        row = found.setdefault(score["contestant"].replace("-", " "), {})
        row[score["metric"].removeprefix("probe/")] = score["value"]
    return found


def psnr(folder: Path, sizes: dict[str, Any], count: int = 200) -> float:
    """Return the mean PSNR in dB of a model on pictures of the probe's seed."""
    import torch

    from tok_core.loading import load
    from tok_core.procedural_images import ProceduralClasses

    model: Any = load(folder)
    source = ProceduralClasses(sizes["side"], 0)
    x = torch.stack([source[i][0] for i in range(count)])
    with torch.inference_mode():
        made = torch.cat([model.decode(model.encode(part)) for part in x.split(32)])
    error = ((x - made) / 2).square().mean((1, 2, 3))
    return float((-10 * error.log10()).mean())


def main() -> None:
    """Train, probe, print, and write the JSON unless it was a try."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="tiny networks, few steps, no JSON")
    parser.add_argument("--steps", type=int, help="of every tokenizer")
    options = parser.parse_args()
    sizes = dict(SMALL if options.small else FULL)
    if options.steps:
        sizes["steps"] = options.steps
    result: dict[str, Any] = {"sizes": sizes, "classes": 12, "rows": {}}
    with tempfile.TemporaryDirectory() as place:
        models = {kind: trained(kind, sizes, Path(place)) for kind in KINDS}
        accuracies = probed(models, sizes, Path(place) / "probe.json")
        for kind in KINDS:
            row = {"accuracy": accuracies[kind], "psnr": psnr(models[kind], sizes)}
            result["rows"][kind] = row
    print(f"{'tokenizer':12s} {'semantic':>9s} {'pixel':>9s} {'all':>9s} {'PSNR dB':>9s}")
    for kind, row in result["rows"].items():
        cells = [row["accuracy"].get(stream) for stream in ("semantic", "pixel", "all")]
        shown = "".join(f"{'-':>10s}" if c is None else f"{c:10.1%}" for c in cells)
        print(f"{kind:12s}{shown}{row['psnr']:10.2f}")
    if not options.small:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
