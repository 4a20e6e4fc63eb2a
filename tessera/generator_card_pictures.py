"""The card of a class-conditional generator of pictures: scores by guidance scale."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

PER_CLASS = 50
GUIDANCE = (1.0, 2.0, 4.0)


def scored(pipe: Any, per_class: int = PER_CLASS) -> dict[str, Any]:
    """Return the scores of generated pictures by guidance scale, of real ones, and the time."""
    import torch

    from eval.labelled_pictures import class_scores, real_pictures, seen
    from tok_core.image_measures import to_uint8

    labels = torch.arange(pipe.generator.classes).repeat_interleave(per_class)
    side, count = _side(pipe), len(labels)
    reference = seen(real_pictures(side, count)[0])
    others, theirs = real_pictures(side, count, start=count)
    with torch.inference_mode():
        x = others.to(pipe.device).float().div(127.5).sub(1.0).split(per_class)
        again = torch.cat([to_uint8(pipe.tokenizer.decode(pipe.tokenizer.encode(p))) for p in x])
    rows = {
        "real": class_scores(seen(others), theirs, reference),
        "reconstructed": class_scores(seen(again), theirs, reference),
    }
    for scale in GUIDANCE:
        began = time.perf_counter()
        made = [
            pipe(part.tolist(), guidance_scale=scale, output_type="pt",
                 generator=[torch.Generator().manual_seed(int(n)) for n in numbers]).images
            for part, numbers in zip(
                labels.split(per_class), torch.arange(count).split(per_class), strict=True
            )
        ]  # fmt: skip
        seconds = (time.perf_counter() - began) / count
        rows[f"{scale:g}"] = class_scores(seen(to_uint8(torch.cat(made))), labels, reference)
    return {"pictures": count, "seconds_per_picture": seconds, "scores": rows}


def _side(pipe: Any) -> int:
    """Return the side of the pictures of one generation."""
    rows, _ = pipe.generator.spec.grid
    size, native = pipe.tokenizer.spec.image_size, pipe.tokenizer.spec.grid
    return int(size[0] * rows // native[0])


def words(
    scores: Mapping[str, Any], pipe: Any, facts: Mapping[str, Any]
) -> dict[str, str]:
    """Return the words of the card that are of pictures; ``facts`` are the others."""
    from eval.labelled_pictures import RECOGNISED
    from eval.procedural_distance import NAME
    from tok_core.procedural_classes import CLASS_NAMES

    names = {"real": "other real pictures", "reconstructed": "their reconstructions"}
    rows = [
        f"| {names.get(key, f'guidance {key}')} | {value[NAME]:.2f} | {value[RECOGNISED]:.1%} |"
        for key, value in scores["scores"].items()
    ]
    count = scores["pictures"]
    return {
        "sentence": f"A small class-conditional {facts['kind']} over the tokens of "
        f"`{facts['tokenizer']}`, for demonstrations and tests.",
        "result": f"pictures of {_side(pipe)} pixels", "units": "pictures",
        "condition": f"classes | {', '.join(CLASS_NAMES)}",
        "data": "token shards of labelled procedural pictures" if facts["from_shards"]
        else "labelled procedural pictures, tokenized on the fly",
        "comparison": f"""{count} generated
pictures, {PER_CLASS} of each class, against {count} unseen real ones: {NAME} (lower
is better; see docs/procedural_distance.md for what it can tell) and the share that the shipped
classifier sees as what was asked for.""",
        "table": "\n".join([f"| | {NAME} | recognised |", "|---|---:|---:|", *rows]),
        "speed": f"{scores['seconds_per_picture']:.2f} s per picture with guidance, {PER_CLASS} at "
        "a time",
        "limits": "It knows twelve shapes and textures: good enough to learn the suite with and to "
        "test on.",
    }  # fmt: skip
