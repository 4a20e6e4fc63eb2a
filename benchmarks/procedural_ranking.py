"""How frechet/procedural-v1 ranks known degradations: is stronger always further away?

    python benchmarks/procedural_ranking.py            # table, benchmarks/results/*.json
    python benchmarks/procedural_ranking.py --pictures 60    # a try

Two sets of 64 x 64 pictures: tiles of the packaged photographs (the classifier never saw one) and
procedural "natural" pictures. Each is degraded at four rising strengths; the distance is from the
clean set to the same pictures degraded. "Floor" is the distance of two disjoint halves of the
clean set: what lies below it cannot be told from chance. Mixing replaces a share of the pictures
by those of the other set. No network but the shipped classifier takes part.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = Path(__file__).parent / "results" / "procedural_ranking.json"
SIDE = 64


def photographs(count: int) -> Tensor:
    """Return uint8 (N, 3, 64, 64): tiles spread evenly over all packaged photographs."""
    from assets import photograph_path, photograph_split

    names = sorted(name for part in photograph_split().values() for name in part)
    tiles = []
    for name in names:
        with Image.open(photograph_path(name)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        h, w = (side - side % SIDE for side in pixels.shape[:2])
        grid = pixels[:h, :w].reshape(h // SIDE, SIDE, w // SIDE, SIDE, 3).swapaxes(1, 2)
        tiles.append(grid.reshape(-1, SIDE, SIDE, 3))
    every = np.concatenate(tiles)
    chosen = every[np.random.RandomState(0).permutation(len(every))[:count]]
    return torch.from_numpy(np.ascontiguousarray(chosen.transpose(0, 3, 1, 2)))


def procedural(count: int) -> Tensor:
    """Return uint8 (N, 3, 64, 64) natural procedural pictures."""
    from tok_core.procedural_images import ProceduralImages

    source = ProceduralImages("natural", SIDE, seed=77)
    return torch.stack([
        torch.from_numpy(source.pixels(i).transpose(2, 0, 1).copy()) for i in range(count)
    ])  # fmt: skip


def by_pillow(change: Callable[[Image.Image], Image.Image]) -> Callable[[Tensor], Tensor]:
    """Return a change of uint8 (N, 3, H, W) from one of Pillow images."""
    def changed(images: Tensor) -> Tensor:
        made = [
            np.asarray(change(Image.fromarray(one.permute(1, 2, 0).numpy()))).transpose(2, 0, 1)
            for one in images
        ]
        return torch.from_numpy(np.stack(made))

    return changed


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    """Return the picture as a JPEG file would hold it."""
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def noise(images: Tensor, sigma: float) -> Tensor:
    """Return the pictures with Gaussian noise of ``sigma`` grey levels."""
    generator = torch.Generator().manual_seed(5)
    return (images + sigma * torch.randn(images.shape, generator=generator)).clamp(0, 255).byte()


def tinted(images: Tensor, levels: float) -> Tensor:
    """Return the pictures warmer: red up, blue down by so many grey levels."""
    shift = torch.tensor([levels, 0.0, -levels]).view(1, 3, 1, 1)
    return (images + shift).clamp(0, 255).byte()


def mixed(images: Tensor, others: Tensor, share: float) -> Tensor:
    """Return the set with a share of its pictures replaced by ``others``."""
    count = round(share * len(images))
    return torch.cat([others[:count], images[count:]])


def degradations(others: Tensor) -> dict[str, dict[str, Callable[[Tensor], Tensor]]]:
    """Return the changes by kind and strength, weakest first."""
    def blur(sigma: float) -> Callable[[Tensor], Tensor]:
        return by_pillow(lambda p: p.filter(ImageFilter.GaussianBlur(sigma)))

    def compressed(quality: int) -> Callable[[Tensor], Tensor]:
        return by_pillow(lambda p: jpeg(p, quality))

    return {
        "blur (sigma, pixels)": {str(s): blur(s) for s in (0.5, 1.0, 2.0, 4.0)},
        "noise (sigma, levels)": {
            str(s): (lambda x, s=s: noise(x, s)) for s in (4, 8, 16, 32)},
        "JPEG (quality)": {str(q): compressed(q) for q in (75, 40, 15, 5)},
        "colour shift (levels)": {
            str(s): (lambda x, s=s: tinted(x, s)) for s in (6, 12, 24, 48)},
        "mixing (share)": {
            f"{s:.0%}": (lambda x, s=s: mixed(x, others, s)) for s in (0.05, 0.1, 0.25, 0.5)},
    }  # fmt: skip


def distance(real: Tensor, fake: Tensor) -> float:
    """Return frechet/procedural-v1 of two sets."""
    from eval.procedural_distance import NAME, ProceduralDistance

    metric = ProceduralDistance()
    for images, side in ((real, True), (fake, False)):
        for batch in images.split(64):
            metric.update(batch, real=side)
    return float(metric.compute()[NAME])


def measured(images: Tensor, others: Tensor) -> dict[str, Any]:
    """Return floor, distances by kind and strength, and which kinds rise throughout."""
    half = len(images) // 2
    clean, rest = images[:half], images[half:]
    found: dict[str, Any] = {"pictures": half, "floor": distance(clean, rest), "kinds": {}}
    for kind, strengths in degradations(others).items():
        values = {name: distance(clean, change(clean)) for name, change in strengths.items()}
        numbers = list(values.values())
        rises = all(a < b for a, b in pairwise(numbers))
        found["kinds"][kind] = {"distances": values, "rises": rises}
    return found


def main() -> None:
    """Measure, print, and write the JSON unless it was a try."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=400, help="in each set")
    count = parser.parse_args().pictures
    sets = {"photograph tiles": photographs(2 * count), "procedural": procedural(2 * count)}
    result: dict[str, Any] = {}
    for name, images in sets.items():
        others = sets["procedural" if name == "photograph tiles" else "photograph tiles"]
        result[name] = measured(images, others)
        print(f"{name}: {result[name]['pictures']} pictures, floor {result[name]['floor']:.3f}")
        for kind, row in result[name]["kinds"].items():
            cells = "  ".join(f"{s}: {v:8.3f}" for s, v in row["distances"].items())
            print(f"  {kind:22s} {cells}  {'rises' if row['rises'] else 'DOES NOT RISE'}")
    if count == parser.get_default("pictures"):
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
