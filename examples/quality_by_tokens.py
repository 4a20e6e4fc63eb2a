"""How good does a picture get with every further token?

One encoder run, one call that decodes many prefixes; prints PSNR and bytes by number of tokens.
"""

from __future__ import annotations

import torch

import tessera
from assets import photograph_path
from tok_core.image_measures import psnr
from tok_core.token_file import token_file_size
from vision_tok.image_file import read_image
from vision_tok.image_policy import prepare


def main() -> None:
    tokenizer = tessera.load()
    size = tokenizer.spec.image_size[0]
    picture, _ = prepare(read_image(photograph_path("coffee")).pixels, "crop", size)
    tokens = tokenizer.encode(picture)
    full = tokens.codes.shape[1]
    lengths = [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if n <= full]
    decoded = tokenizer.decode_lengths(tokens, lengths)[:, 0]
    scores = psnr(decoded, picture.expand(len(lengths), -1, -1, -1))
    print("tokens  bytes  PSNR dB")
    for length, score in zip(lengths, scores.tolist(), strict=True):
        size_on_disk = token_file_size((length,), tokenizer.spec.bits, extent=(size, size))
        print(f"{length:6d}  {size_on_disk:5d}  {score:7.2f}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
