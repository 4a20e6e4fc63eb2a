"""Token files are readable with numpy and the standard library; here is one written and read.

Useful where tokens are only counted, moved or fed to another program.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tok_core.token_file import TokenFile, read_token_file, write_token_file


def main() -> None:
    codes = np.random.default_rng(0).integers(0, 4096, size=64)
    file = TokenFile(codes, (12,), "0123456789ab", extent=(240, 320), policy="resize")
    path = Path("example.tok")
    size = write_token_file(path, file, force=True)
    back = read_token_file(path)
    assert np.array_equal(back.codes, codes)
    assert "torch" not in sys.modules
    print(f"{len(codes)} tokens of 12 bits: {size} bytes, {back.bits_per_pixel:.4f} bits per pixel")


if __name__ == "__main__":
    main()
