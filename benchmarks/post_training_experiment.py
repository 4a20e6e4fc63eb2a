"""Does a decoder that has learnt from a generator's tokens make better pictures of them?

    python benchmarks/post_training_experiment.py               # table, JSON and plot in results/
    python benchmarks/post_training_experiment.py --seeds 0 --sigmas 0.7
    python benchmarks/post_training_experiment.py --small       # a try, nothing is written

One tokenizer and one generator of labelled procedural pictures (the shipped ones by default); the
decoder is post-trained on token pairs at several preservation ratios sigma.  sigma 1 is the
control: the same steps on unchanged tokens.  All decoders are then shown the same generated tokens
(frechet/procedural-v1 against unseen real pictures, lower is better, and how many are seen as what
was asked for) and the tokens of unseen pictures (PSNR, frechet).  Qiu et al. 2025, arXiv
2503.08354, section 3.4.  Every finished row is kept at once; a second call goes on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from _measure import begun, keep

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = Path(__file__).parent / "results" / "post_training_experiment.json"
RECIPE = ROOT / "assets" / "configs" / "post-train-tiny.yaml"
MODELS = ROOT / "assets" / "models"
SIGMAS = (0.3, 0.5, 0.7, 0.9, 1.0)
CHUNK = 50


def post_trained(sigma: float, seed: int, options: argparse.Namespace) -> Path:
    """Make the pairs, train, and return the folder of the model."""
    from generators.post_train import ImagePostTraining, post_train
    from tok_core.run_config import load_config

    folder = options.work / f"sigma{sigma:g}-{seed}"
    changes = {
        "model.from": options.tokenizer, "data.pairs.generator": options.generator,
        "data.pairs.path": folder / "pairs", "data.pairs.preservation": sigma,
        "data.pairs.count": options.pairs, "data.pairs.seed": seed, "data.size": options.size,
        "data.pairs.guidance": options.guidance, "data.pairs.batch_size": options.batch,
        "data.seed": 7, "train.seed": seed, "train.steps": options.steps,
        "train.batch_size": options.train_batch, "log.validate_every": 0,
        "log.save_every": max(1, options.steps // 3), "log.tracker": "none",
        "schedule.warmup": min(50, options.steps - 1),
    }  # fmt: skip
    words = [f"{key}={value}" for key, value in changes.items()]
    model = post_train(load_config(ImagePostTraining, RECIPE, words), folder / "run", resume=True)
    if model is None:
        raise SystemExit("interrupted; run the command again to go on")
    return model


class Judge:
    """Shows the same tokens to every decoder.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        import torch

        from eval.labelled_pictures import real_pictures, seen
        from generators.contract import Condition
        from generators.drawing import draw_codes, numbered_seed
        from generators.guidance import Guidance
        from tok_core.loading import load

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer, generator = (
            load(path).to(self.device) for path in (options.tokenizer, options.generator)
        )
        count = options.judged
        self.reference = seen(real_pictures(options.size, count)[0], self.device)
        self.pictures, self.true_labels = real_pictures(options.size, count, start=count)
        self.labels = torch.arange(count) % generator.classes
        guidance = Guidance(scale=options.guidance)
        generated, real = [], []
        with torch.inference_mode():
            for numbers in torch.arange(count).split(CHUNK):
                condition = Condition(labels=self.labels[numbers].to(self.device))
                seeds = [numbered_seed(1, int(n)) for n in numbers]
                generated.append(
                    draw_codes(generator, condition, seeds=seeds, guidance=guidance)
                )
                x = self.pictures[numbers].to(self.device).float().div(127.5).sub(1.0)
                real.append(tokenizer.encode(x).codes)
        self.generated, self.real = generated, real

    def __call__(self, model: Path) -> dict[str, float]:
        """Return the scores of one decoder."""
        import torch

        from eval.labelled_pictures import RECOGNISED, class_scores, seen
        from eval.procedural_distance import NAME
        from tok_core.image_measures import to_uint8
        from tok_core.loading import load

        tokenizer = load(model).to(self.device)
        with torch.inference_mode():
            made, again = (
                torch.cat([tokenizer.decode(part).cpu() for part in codes])
                for codes in (self.generated, self.real)
            )
        x = self.pictures.float().div(127.5).sub(1.0)
        error = ((again - x) / 2).square().mean((1, 2, 3))
        new = class_scores(seen(to_uint8(made), self.device), self.labels, self.reference)
        old = class_scores(seen(to_uint8(again), self.device), self.true_labels, self.reference)
        return {
            "generated": new[NAME], "recognised": new[RECOGNISED], "reconstructed": old[NAME],
            "psnr": float((-10 * error.log10()).mean()),
        }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    """Print one row per decoder."""
    print(f"{'decoder':22s}{'seed':>5s}{'generated':>11s}{'recognised':>12s}"
          f"{'reconstructed':>15s}{'PSNR':>8s}")  # fmt: skip
    for row in sorted(result["rows"], key=lambda row: (row["sigma"] or 0.0, row["seed"])):
        sigma = row["sigma"]
        name = "as it was" if sigma is None else f"sigma {sigma:g}" + " (control)" * (sigma == 1)
        print(f"{name:22s}{row['seed']:>5d}{row['generated']:>11.2f}{row['recognised']:>12.1%}"
              f"{row['reconstructed']:>15.2f}{row['psnr']:>8.2f}")  # fmt: skip


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw both distances over sigma, the decoder as it was as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6))
    rows = result["rows"]
    for axis, key in zip(axes, ("generated", "reconstructed"), strict=True):
        axis.plot(*zip(*[(r["sigma"], r[key]) for r in rows if r["sigma"] is not None],
                       strict=True), "o", label="post-trained")  # fmt: skip
        for row in rows:
            if row["sigma"] is None:
                axis.axhline(row[key], color="grey", linestyle="--", label="as it was")
        axis.set_xlabel("preservation ratio sigma")
        axis.set_title(f"{key}: frechet/procedural-v1 (lower is better)", fontsize=9)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train and judge what the file does not hold yet; return the whole result."""
    kept = ("pairs", "steps", "train_batch", "judged", "guidance", "size", "tokenizer", "generator")
    facts = {name: getattr(options, name) for name in kept}
    result = begun(options.out, facts, rows=[])
    done = {(row["sigma"], row["seed"]) for row in result["rows"]}
    wanted = [(s, seed) for seed in options.seeds for s in options.sigmas]
    wanted = [(None, 0), *wanted]
    judge = Judge(options) if any(pair not in done for pair in wanted) else None
    for sigma, seed in wanted:
        if (sigma, seed) in done or judge is None:
            continue
        where = Path(options.tokenizer)
        model = where if sigma is None else post_trained(sigma, seed, options)
        result["rows"].append({"sigma": sigma, "seed": seed, **judge(model)})
        keep(result, options.out)
    return result


def main() -> None:
    """Train, judge, print, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokenizer", default="assets/models/vqgan-tiny")
    parser.add_argument("--generator", default="assets/models/generator-llamagen-tiny")
    parser.add_argument("--size", type=int, default=128, help="side of what the generator draws")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sigmas", type=float, nargs="+", default=list(SIGMAS))
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=50, help="pairs made at once")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--train-batch", type=int, default=16)
    parser.add_argument("--judged", type=int, default=600)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "post-training")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--small", action="store_true", help="a try, nothing is written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if options.small:
            options.pairs, options.steps, options.train_batch, options.judged = 4, 2, 2, 12
            options.seeds, options.sigmas, options.batch = [0], [0.5], 4
            options.work, options.out = Path(place), Path(place) / "try.json"
        result = run(options)
        show(result)
        draw(result, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
