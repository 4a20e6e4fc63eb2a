"""WavTokenizer's decoder on a GPU in float32, TF32 and bfloat16.

    python benchmarks/audio_decoder_gpu.py

Published sizes with random weights, 10 s of sound, batches of 1 and 16, best of ten calls each. At
batch 1 the GPU waits for kernels to be launched; the batch shows what the number type is worth.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RESULT = Path(__file__).parent / "results" / "audio_decoder_gpu.json"
STRIDES = {75: [2, 4, 5, 8], 40: [4, 5, 5, 6]}  # by tokens per second
SECONDS, REPEATS = 10, 10


def best(codec: Any, codes: Tensor, half: bool) -> float:
    """Return the seconds of the fastest call."""
    fastest = float("inf")
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=half):
        for _ in range(3):
            codec.decode(codes)
        for _ in range(REPEATS):
            torch.cuda.synchronize()
            start = time.perf_counter()
            codec.decode(codes)
            torch.cuda.synchronize()
            fastest = min(fastest, time.perf_counter() - start)
    return fastest


@torch.inference_mode()
def main() -> None:
    """Print the rows and write the JSON."""
    from audio_tok.wav_tokenizer import WavTokenizer

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device is here; benchmarks/audio_codec_speed.py measures CPUs.")
    rows = []
    for rate, strides in STRIDES.items():
        torch.manual_seed(0)
        codec = WavTokenizer(strides=strides).eval().cuda()
        for batch in (1, 16):
            sound = 0.1 * torch.randn(batch, 1, SECONDS * codec.sample_rate, device="cuda")
            codes = codec.encode(sound).codes
            for tf32 in (False, True):
                torch.backends.cuda.matmul.allow_tf32 = tf32
                torch.backends.cudnn.allow_tf32 = tf32
                full, half = best(codec, codes, False), best(codec, codes, True)
                rows.append({
                    "tokens_per_second": rate, "batch": batch, "tf32": tf32, "float32": full,
                    "bfloat16": half, "ratio": full / half,
                })  # fmt: skip
                print(rows[-1])
    result = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "seconds_of_sound": SECONDS, "rows": rows,
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
