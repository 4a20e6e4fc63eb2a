"""Labelled procedural pictures as tokens, made once and kept, and how samples of them are judged.

    pictures of twelve classes --shipped VQGAN--> codes on the device that trains
    samples --decoder--> pictures --shipped classifier--> frechet/procedural-v1, labels seen

Letters: N pictures, h w grid, D features.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

CLASSES = 12
TRAIN_SEED, UNSEEN_SEED = 7, 0  # of pictures


class Pictures(NamedTuple):
    """Codes int64 (N, h, w) and labels int64 (N,), on the device that trains."""

    codes: Any
    labels: Any


class Data(NamedTuple):
    """Everything a row is made from.

    Attributes:
        train, held_out: tokens to learn from, and unseen ones.
        reference: features (M, D) of real pictures that samples are compared with.
        floor: frechet and accuracy of other real pictures, and of their reconstructions.
        tokenizer: in eval mode.
    """

    train: Pictures
    held_out: Pictures
    reference: Any
    floor: dict[str, dict[str, float]]
    tokenizer: Any


def painted(side: int, seed: int, indices: range) -> tuple[Any, list[int]]:
    """Paint pictures, uint8 (n, side, side, 3), and return their labels."""
    import numpy as np

    from tok_core.procedural_images import ProceduralClasses

    source = ProceduralClasses(side, seed)
    pairs = [source.pixels(index) for index in indices]
    return np.stack([pixels for pixels, _ in pairs]), [label for _, label in pairs]


def paintings(side: int, seed: int, count: int, start: int = 0) -> tuple[Any, Any]:
    """Return uint8 (count, 3, side, side) and labels (count,), painted on all processors."""
    import multiprocessing
    import os

    import torch

    ends = [*range(start, start + count, 100), start + count]
    parts = [(side, seed, range(a, b)) for a, b in pairwise(ends)]
    processors = min(len(os.sched_getaffinity(0)), len(parts) // 4)
    if processors > 1:
        # Not forked: this process may hold a GPU and threads.
        with multiprocessing.get_context("spawn").Pool(processors) as pool:
            made = pool.starmap(painted, parts)
    else:
        made = [painted(*part) for part in parts]
    pixels = torch.cat([torch.from_numpy(block) for block, _ in made]).permute(0, 3, 1, 2)
    return pixels.contiguous(), torch.tensor([label for _, labels in made for label in labels])


def encoded(tokenizer: Any, pixels: Any) -> Any:
    """Return codes int64 (N, h, w) of uint8 pictures, on the CPU."""
    import torch

    from tok_core.full_float32 import full_float32

    found = []
    with torch.inference_mode(), full_float32(tokenizer.device.type):
        for part in pixels.split(100):
            x = part.to(tokenizer.device).float().div_(127.5).sub_(1.0)
            found.append(tokenizer.encode(x).codes.cpu())
    return torch.cat(found)


def prepared(sizes: Mapping[str, Any], work: Path, device: str) -> Data:
    """Tokenize once, or read what an earlier call tokenized; return it on the device."""
    from safetensors.torch import load_file, save_file

    from assets import asset_path
    from vision_tok.vqgan import VQGAN

    tokenizer = VQGAN.from_pretrained(asset_path("models/vqgan-tiny")).to(device)
    own = ("side", "pictures", "held_out", "judged")
    name = "-".join([tokenizer.code_hash()[:12], *(str(sizes[key]) for key in own)])
    file = work / f"tokens-{name}.safetensors"
    if not file.is_file():
        work.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        scratch = file.with_suffix(".writing")
        save_file(_tokenized(tokenizer, sizes, device), scratch)
        scratch.replace(file)
        print(f"tokenized in {time.perf_counter() - began:.0f} s, kept in {file}", flush=True)
    stored = load_file(file, device=device)
    scores = {
        kind: {"frechet": stored["frechet"][i].item(), "accuracy": stored["accuracy"][i].item()}
        for i, kind in enumerate(("real pictures", "reconstructions"))
    }
    train, held_out = (
        Pictures(stored[f"{part}.codes"].long(), stored[f"{part}.labels"].long())
        for part in ("train", "held_out")
    )
    return Data(train, held_out, stored["reference"], scores, tokenizer)


def _tokenized(tokenizer: Any, sizes: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Paint, tokenize and judge what is real."""
    import torch

    from tok_core.image_measures import to_uint8

    side, judged = sizes["side"], sizes["judged"]
    tensors = {}
    for part, seed, count in (
        ("train", TRAIN_SEED, sizes["pictures"]), ("held_out", UNSEEN_SEED, sizes["held_out"])
    ):  # fmt: skip
        pixels, labels = paintings(side, seed, count)
        tensors[f"{part}.codes"] = encoded(tokenizer, pixels).to(torch.int16)
        tensors[f"{part}.labels"] = labels
    # Two more sets of unseen pictures: what a perfect generator, and a perfect one of tokens, gets.
    first = sizes["held_out"]
    pixels, labels = paintings(side, UNSEEN_SEED, 2 * judged, first)
    reference, _ = seen(pixels[:judged], device)
    others, labels = pixels[judged:], labels[judged:]
    with torch.inference_mode():
        decoded = [
            to_uint8(tokenizer.decode(codes.to(device)))
            for codes in encoded(tokenizer, others).split(100)
        ]
    scores = [scored(reference, labels, seen(x, device)) for x in (others, torch.cat(decoded))]
    tensors["reference"] = reference
    for measure in ("frechet", "accuracy"):
        tensors[measure] = torch.tensor([score[measure] for score in scores])
    return tensors


# -- judging -------------------------------------------------------------------------------------


def seen(pictures: Any, device: str) -> Any:
    """Return what the classifier makes of uint8 pictures, see `eval.labelled_pictures`."""
    from eval.labelled_pictures import seen as judge

    return judge(pictures, device)


def scored(reference: Any, labels: Any, found: Any) -> dict[str, float]:
    """Return frechet/procedural-v1 against features (M, D), and how often the label was seen."""
    from eval.labelled_pictures import RECOGNISED, Seen, class_scores
    from eval.procedural_distance import NAME

    scores = class_scores(found, labels, Seen(reference.cpu(), labels))
    return {"frechet": scores[NAME], "accuracy": scores[RECOGNISED]}
