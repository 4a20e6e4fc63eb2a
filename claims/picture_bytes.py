"""A whole photograph as tokens and as files of picture codecs of the same size, judged alike.

    photograph --tiles--> tokens of a budget --> .tok, n bytes (h of them header)
               --codec--> file nearest to n bytes; nearest to n - h bytes + its own fixed header
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = ("JPEG", "WebP", "JPEG 2000")
# RIFF, the size and kind of the picture's chunk, and the frame's start code and extent.
WEBP_HEADER = 30


def coded_photograph(
    name: str, model: str, budgets: Sequence[int], device: str, side: int | None = None
) -> dict[str, Any]:
    """Return sizes, PSNR (dB) and structure distance by budget for the tokens and every codec.

    Args:
        name: of a packaged photograph. model: folder or shipped name. budgets: tokens per tile.
        side: of a crop from the upper left corner, None for the whole photograph.
    """
    from PIL import Image

    import tessera
    from assets import photograph_path
    from tok_core.token_file import dumps
    from vision_tok.image_codec import ImageCodec, Picture
    from vision_tok.image_policy import prepare

    tokenizer = tessera.load(model).to(device)
    with Image.open(photograph_path(name)) as file:
        original = file.convert("RGB")
    if side is not None:
        original = original.crop((0, 0, side, side))
    inputs, geometry = prepare(original, "tile", tokenizer.spec.image_size[0])
    found = []
    for tokens in budgets:
        codec = ImageCodec(tokenizer, policy="tile", tokens=tokens)
        [coded] = codec.encode([Picture(inputs, geometry)])
        if isinstance(coded, Exception):
            raise coded
        file_bytes = len(dumps(coded.file))
        bare = coded.file.payload_bytes
        [decoded] = codec.decode([coded.file])
        if isinstance(decoded, Exception):
            raise decoded
        made = Image.fromarray(decoded.pixels.permute(1, 2, 0).numpy())
        found.append({
            "tokens": {"bytes": file_bytes, "payload": bare, **judged(made, original)},
            "whole": {kind: nearest(original, kind, file_bytes) for kind in KINDS},
            "bare": {kind: nearest_payload(original, kind, bare) for kind in KINDS},
        })  # fmt: skip
    return {"budgets": found, "extent": [original.height, original.width]}


def nearest(original: Image, kind: str, size: int) -> dict[str, float]:
    """Return a codec's result at the whole-file size nearest to ``size``."""
    from eval import picture_codecs

    coded = picture_codecs.nearest_size(original, kind, size)
    made = picture_codecs.decode(coded.data)
    return {"bytes": len(coded.data), "asked": size, **judged(made, original)}


def nearest_payload(original: Image, kind: str, payload: int) -> dict[str, float]:
    """Return a codec's result where its file without the fixed header is nearest to ``payload``."""
    from eval import picture_codecs

    first = picture_codecs.nearest_size(original, kind, payload)
    header = header_bytes(first.data, kind)
    found = nearest(original, kind, payload + header)
    return found | {"bytes": found["bytes"] - header, "asked": payload, "header": header}


def header_bytes(data: bytes, kind: str) -> int:
    """Return the bytes of a file before its coded picture: markers, tables, sizes.

    JPEG: up to the end of the start-of-scan segment, Huffman tables included, and the end marker.
    JPEG 2000: the main header and that of the first tile part, and the end marker.
    """
    if kind == "WebP":
        return WEBP_HEADER
    if kind == "JPEG 2000":
        return data.index(b"\xff\x93") + 4
    at = 2
    while data[at : at + 2] != b"\xff\xda":
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") + 2


def judged(made: Image, original: Image) -> dict[str, float]:
    """Return PSNR (dB) and the structure distance of two pictures of one size."""
    import numpy as np
    import torch

    from tok_core.image_measures import psnr
    from vision_tok.weightless_perceptual import WeightlessPerceptual

    a, b = (
        torch.from_numpy(np.array(one.convert("RGB"))).permute(2, 0, 1)[None]
        for one in (made, original)
    )
    x, y = (one.float().div(127.5).sub(1.0) for one in (a, b))
    with torch.inference_mode():
        distance = float(WeightlessPerceptual()(x, y))
    return {"psnr": float(psnr(a, b)), "perceptual": distance}
