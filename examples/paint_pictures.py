"""Paint labelled procedural pictures into class folders: something to train on without a download.

    python examples/paint_pictures.py pictures/ --count 24000 --size 128
    tessera tokenize pictures/ tokens/ --model vqgan-tiny --flips

Twelve classes (disc, ring, star, stripes, ...); picture i is the same in every run with one seed.
"""

from __future__ import annotations

import argparse
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

from tok_core.procedural_classes import CLASS_NAMES
from tok_core.procedural_images import ProceduralClasses

CHUNK = 50


def folder_of(label: int) -> str:
    """Return the folder of a class; in the order of labels, which tokenize counts."""
    return f"{label:02d}_{CLASS_NAMES[label]}"


def paint(folder: Path, size: int, seed: int, numbers: range) -> int:
    """Paint some pictures and return how many."""
    source = ProceduralClasses(size, seed)
    for number in numbers:
        pixels, label = source.pixels(number)
        target = folder / folder_of(label) / f"{number:06d}.png"
        # Small files cost more time than bytes.
        Image.fromarray(pixels).save(target, compress_level=1)
    return len(numbers)


def main() -> None:
    """Read the command line and paint on all processors."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("pictures"))
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--size", type=int, default=64, help="pixels per side")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    for label in range(len(CLASS_NAMES)):
        (options.folder / folder_of(label)).mkdir(parents=True, exist_ok=True)
    parts = [
        (options.folder, options.size, options.seed, range(a, min(a + CHUNK, options.count)))
        for a in range(0, options.count, CHUNK)
    ]
    with get_context("spawn").Pool() as pool:
        done = sum(pool.starmap(paint, parts))
    print(f"{done} pictures of {len(CLASS_NAMES)} classes are in {options.folder}")


if __name__ == "__main__":
    main()
