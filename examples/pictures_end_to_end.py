"""The whole chain for pictures, each step the command that you would type.

    python examples/pictures_end_to_end.py my_folder
    python examples/pictures_end_to_end.py my_folder --small    # a try: every step, nothing learnt

pictures -> tokenizer (VQGAN, latent perturbation) -> token shards -> generator (LlamaGen, twelve
classes) -> samples -> scores -> post-trained decoder -> scores again.  Pictures are painted, so
nothing is downloaded.  Stopped halfway, the same command goes on.  12.4 minutes on two cores.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from end_to_end_steps import asked_for, step, steps, tessera_command
from paint_pictures import folder_of, paint
from PIL import Image

import generators.post_train
import generators.train
import vision_tok.train
from eval.labelled_pictures import RECOGNISED, class_scores, real_pictures, seen
from eval.procedural_distance import NAME
from generators.pipelines import TokenImagePipeline
from tessera.generated import contact_sheet
from tok_core.atomic_write import write_bytes
from tok_core.image_measures import psnr, to_uint8
from tok_core.loading import load
from tok_core.procedural_classes import CLASS_NAMES

SIDE = 32  # pixels; 8 x 8 tokens
GUIDANCE = 2.0
FULL = {"pictures": 6000, "tokenizer": 1000, "generator": 2400, "pairs": 1500, "decoder": 300,
        "judged": 600, "warmup": 50}  # fmt: skip
SMALL = {"pictures": 48, "tokenizer": 6, "generator": 6, "pairs": 16, "decoder": 4,
         "judged": 24, "warmup": 2}  # fmt: skip


def main() -> None:
    """Do every step that is not done yet."""
    work, sizes = asked_for((__doc__ or "").splitlines()[0], "pictures_end_to_end", FULL, SMALL)
    data, tokens = work / "pictures", work / "tokens"
    tokenizer, generator, better = (
        work / name / "model" for name in ("tokenizer", "generator", "post_trained")
    )

    print("\n1. A folder of pictures, one sub-folder per class")
    paint_folder(data, sizes["pictures"])

    print("\n2. A tokenizer: 8 x 8 tokens of 8 bits a picture, its decoder used to wrong codes")
    step("vision_tok.train", vision_tok.train.main, work / "tokenizer", "vqgan-tiny", {
        "data.source": "folder", "data.path": data, "data.size": SIDE,
        "model.config.image_size": SIDE, "model.config.codebook_size": 256,
        "model.config.encoder_sizes.multipliers": [1, 2, 4],
        "model.config.decoder_sizes.multipliers": [1, 2, 4],
        "model.config.quantizer_options.quantize_after_steps": sizes["tokenizer"] // 6,
        "perturbation": {"alpha": 0.5, "beta": 0.125, "delta": 6},
        "optimizer.lr": 1e-3, **steps(sizes, "tokenizer", batch=16),
    })  # fmt: skip

    print("\n3. Token shards: every picture and its mirror image, coded once")
    tessera_command("tokenize", data, tokens, "--model", tokenizer, "--flips", "--resume")

    print("\n4. A generator: draws the tokens of a class, one after the other")
    step("generators.train", generators.train.main, work / "generator", "generator-llamagen-tiny", {
        "data.signals": None, "data.path": tokens, "data.tokenizer": tokenizer,
        "data.classes": len(CLASS_NAMES), "shown": 0,
        "model.config": {"width": 128, "layers": 4, "heads": 4},
        **steps(sizes, "generator", batch=16),
    })  # fmt: skip

    print("\n5. Samples, and scores of tokenizer and generator")
    before = kept(work / "scores.json", tokenizer, generator, sizes["judged"])
    print(f"reconstructions: PSNR {before['psnr']:.2f} dB, frechet "
          f"{before['reconstructions/frechet']:.2f}; samples: frechet "
          f"{before['samples/frechet']:.2f}, {before['samples/recognised']:.0%} recognised as the "
          "class they were asked for")  # fmt: skip
    samples(work / "samples", tokenizer, generator)

    print("\n6. Post-training: the decoder learns from tokens that the generator half made up")
    step("generators.post_train", generators.post_train.main, work / "post_trained",
         "post-train-tiny", {
        "model.from": tokenizer, "data.source": "folder", "data.path": data, "data.size": SIDE,
        "data.pairs.path": work / "pairs", "data.pairs.generator": generator,
        "data.pairs.count": sizes["pairs"], "data.pairs.batch_size": 50,
        "data.pairs.guidance": GUIDANCE, **steps(sizes, "decoder", batch=16),
    })  # fmt: skip

    print("\n7. The scores again: same tokens, new decoder")
    after = kept(work / "scores_after.json", better, generator, sizes["judged"])
    samples(work / "samples_after", better, generator)
    show({"as trained": before, "post-trained": after})
    print(f"look at {work / 'samples.png'} and {work / 'samples_after.png'}, a class per column: "
          f"{', '.join(CLASS_NAMES)}")  # fmt: skip


def paint_folder(folder: Path, count: int) -> None:
    """Paint what is missing."""
    for label in range(len(CLASS_NAMES)):
        (folder / folder_of(label)).mkdir(parents=True, exist_ok=True)
    if sum(1 for _ in folder.rglob("*.png")) < count:
        paint(folder, SIDE, 7, range(count))  # seed 7: the scores' real pictures are others
    print(f"{count} pictures of {len(CLASS_NAMES)} classes are in {folder}")


def kept(file: Path, tokenizer: Path, generator: Path, count: int) -> dict[str, float]:
    """Return the scores that an earlier run kept, or make them."""
    if not file.is_file():
        print(f"judging {count} reconstructions and {count} samples", flush=True)
        pipe = TokenImagePipeline(load(generator), load(tokenizer))
        write_bytes(file, json.dumps(measured(pipe, count), indent=1).encode())
    found: dict[str, float] = json.loads(file.read_text())
    return found


@torch.inference_mode()
def measured(pipe: Any, count: int) -> dict[str, float]:
    """Score reconstructions of unseen pictures, and samples of all classes in turn."""
    pipe.set_progress_bar_config(disable=True)
    reference = seen(real_pictures(SIDE, count)[0])
    pictures, labels = real_pictures(SIDE, count, start=count)
    x = pictures.float().div(127.5).sub(1.0)
    again = torch.cat([pipe.tokenizer.decode(pipe.tokenizer.encode(part)) for part in x.split(50)])
    asked = torch.arange(count) % len(CLASS_NAMES)
    made = torch.cat([drawn(pipe, asked[numbers], numbers) for numbers in
                      torch.arange(count).split(100)])  # fmt: skip
    found = {"psnr": float(psnr(again, x).mean())}
    for name, shown, wanted in (
        ("reconstructions", again, labels), ("samples", made, asked), ("real", x, labels)
    ):  # fmt: skip
        scores = class_scores(seen(to_uint8(shown)), wanted, reference)
        found |= {f"{name}/frechet": scores[NAME], f"{name}/recognised": scores[RECOGNISED]}
    return found


def drawn(pipe: Any, labels: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Draw one picture per label; its number is its seed, whatever decodes it."""
    seeds = [torch.Generator().manual_seed(int(number)) for number in numbers]
    made = pipe(labels, guidance_scale=GUIDANCE, generator=seeds, output_type="pt")
    return torch.as_tensor(made.images)


def samples(folder: Path, tokenizer: Path, generator: Path) -> None:
    """Draw four pictures of every class, and put them on one sheet, a class per column."""
    count = 4 * len(CLASS_NAMES)
    tessera_command(
        "generate", "--generator", generator, "--tokenizer", tokenizer, "-n", count,
        "--guidance", GUIDANCE, "-o", folder, "--force",
    )  # fmt: skip
    pictures = [file.read_bytes() for file in sorted(folder.glob("*.png"))]
    sheet = contact_sheet(pictures, columns=len(CLASS_NAMES))
    write_bytes(folder.with_suffix(".png"), enlarged(sheet), force=True)


def enlarged(png: bytes) -> bytes:
    """Return a picture four times as wide and high; at 32 pixels a side eyes see little."""
    with Image.open(io.BytesIO(png)) as picture:
        large = picture.resize([4 * side for side in picture.size], Image.Resampling.BICUBIC)
    out = io.BytesIO()
    large.save(out, "PNG")
    return out.getvalue()


def show(rows: Mapping[str, Mapping[str, float]]) -> None:
    """Print one row per decoder, and what real pictures get."""
    print(f"\n{'':14s}{'reconstructions':>26s}{'samples':>26s}")
    print(f"{'decoder':14s}{'PSNR (dB)':>13s}{'frechet':>13s}{'frechet':>13s}{'recognised':>13s}")
    for name, row in rows.items():
        print(f"{name:14s}{row['psnr']:>13.2f}{row['reconstructions/frechet']:>13.2f}"
              f"{row['samples/frechet']:>13.2f}{row['samples/recognised']:>13.1%}")  # fmt: skip
    real = next(iter(rows.values()))
    print(f"{'real pictures':14s}{'':13s}{real['real/frechet']:>13.2f}{'':13s}"
          f"{real['real/recognised']:>13.1%}")  # fmt: skip
    print("frechet is frechet/procedural-v1 against unseen pictures: lower is better\n")


if __name__ == "__main__":
    main()
