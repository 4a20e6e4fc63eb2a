"""What quantizing every dimension costs: the paper's table of bits and ranges, in small.

    python benchmarks/dimension_wise_levels.py             # table, JSON and plot in results/
    python benchmarks/dimension_wise_levels.py --small     # a try, nothing is written

The shipped KL autoencoder (64 x 64 pixels, 16 dimensions at 8 x 8 positions) decodes its own
latents and what is left of them after dimension-wise quantization: PSNR against the pictures, and
frechet/procedural-v1 (lower is better), over unseen pictures of the labelled procedural set, for
every number of bits at the calibrated range, and for clip ranges of 2 to 5 standard deviations.
Wang et al. 2025, arXiv 2503.16430, table 1: 6 bits at a range of 5 equal the continuous latents.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "dimension_wise_levels.json"
MODEL = "token-bridge-tiny"
BITS, RANGES = tuple(range(1, 9)), (2.0, 3.0, 4.0, 5.0)
CHUNK = 50


def settings() -> list[dict[str, Any]]:
    """Return what is compared: nothing, bits at the calibrated range, ranges at 6 bits and 4."""
    found: list[dict[str, Any]] = [{"bits": None, "range": None}]
    found += [{"bits": bits, "range": None} for bits in BITS]
    return found + [{"bits": bits, "range": r} for bits in (4, 6) for r in RANGES]


def quantizer_of(tokenizer: Any, setting: dict[str, Any]) -> Any:
    """Return a dimension-wise quantizer like the tokenizer's, with other bits or another range."""
    from dataclasses import replace

    from tok_core.dimension_wise import DimensionWiseQuantizer

    own, limit = tokenizer.quantizer.config, setting["range"]
    limits = {} if limit is None else {"low": -limit, "high": limit}
    return DimensionWiseQuantizer(replace(own, bits=setting["bits"], **limits))


def measure(count: int, where: str, start: int = 0) -> list[dict[str, Any]]:
    """Return one row per setting over ``count`` pictures; ``start``: the first one's number."""
    import torch

    import tessera
    from eval.labelled_pictures import class_scores, real_pictures, seen
    from eval.procedural_distance import NAME
    from tok_core.image_measures import to_uint8

    tokenizer = tessera.load(MODEL).to(where)
    side = tokenizer.spec.image_size[0]
    reference = seen(real_pictures(side, count, start=start)[0])
    pictures, labels = real_pictures(side, count, start=start + count)
    x = pictures.float().div(127.5).sub(1.0)
    rows = []
    with torch.inference_mode():
        latents = torch.cat([tokenizer.latents(part.to(where)) for part in x.split(CHUNK)])
        for setting in settings():
            z, clipped = latents, 0.0
            if setting["bits"] is not None:
                quantizer = quantizer_of(tokenizer, setting).to(where)
                codes = quantizer.encode(latents)
                z = quantizer.lookup(codes)
                clipped = float((latents.abs() > quantizer.config.high).float().mean())
            made = torch.cat([tokenizer.decode_latents(part).cpu() for part in z.split(CHUNK)])
            error = ((made.clamp(-1, 1) - x) / 2).square().mean((1, 2, 3))
            rows.append(setting | {
                "psnr": float((-10 * error.log10()).mean()), "clipped": clipped,
                "latent_error": float((z - latents).square().mean()),
                "frechet": class_scores(seen(to_uint8(made)), labels, reference)[NAME],
            })  # fmt: skip
            print(described(rows[-1]), flush=True)
    return rows


def described(row: dict[str, Any]) -> str:
    """Return a row as one line."""
    bits = "continuous" if row["bits"] is None else f"{row['bits']} bits"
    limit = "" if row["range"] is None else f", range {row['range']:g}"
    return (
        f"{bits + limit:20s}{row['psnr']:>9.2f} dB{row['frechet']:>9.2f}"
        f"{row['latent_error']:>12.2e}{row['clipped']:>10.3%}"
    )


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw PSNR and distance over bits, the continuous latents as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6))
    own = [row for row in rows if row["bits"] is not None and row["range"] is None]
    for axis, (key, title) in zip(
        axes, (("psnr", "PSNR (dB)"), ("frechet", "frechet/procedural-v1")), strict=True
    ):
        axis.plot([row["bits"] for row in own], [row[key] for row in own], "o-", label="quantized")
        axis.axhline(rows[0][key], color="grey", linestyle="--", label="continuous")
        axis.set_xlabel("bits per dimension")
        axis.set_title(title)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=600, help="pictures")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--small", action="store_true", help="a try, nothing is written")
    options = parser.parse_args()
    print(f"{'':20s}{'PSNR':>12s}{'frechet':>9s}{'latent MSE':>12s}{'clipped':>10s}")
    rows = measure(24 if options.small else options.count, options.device)
    if options.small:
        return
    RESULTS.write_text(json.dumps({"model": MODEL, "pictures": options.count, "rows": rows},
                                  indent=1) + "\n")  # fmt: skip
    draw(rows, RESULTS.with_suffix(".png"))
    print(f"written to {RESULTS} and {RESULTS.with_suffix('.png')}")


if __name__ == "__main__":
    main()
