"""WavTokenizer's published sizes against EnCodec, DAC and Mimi of transformers, in one run.

    python benchmarks/audio_codec_speed.py [--seconds 10 60] [--repeats 3]

Random weights, 24 kHz, batch 1, the same sound for all: encode to codes and decode to samples, in
turns in one process. Then each codec again in a process of its own, as a user would run it (ours
with `tok_core.warm_memory`, as the ``tessera`` command), where the extra memory of a call is read
as well: the peak of the resident set above its size before the call (Linux with glibc only).
Sounds longer than SHORT seconds are run once. Rows of other lengths that the JSON holds already
stay in it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _measure import alternate, extra_bytes, matmul_peak, processor
from torch import Tensor

from tok_core.torchaudio_guard import guard_torchaudio

RESULT = Path(__file__).parent / "results" / "audio_codec_speed.json"
RATE = 24000
SHORT = 10.0
OURS = ("WavTokenizer, 75 tokens/s", "WavTokenizer, 40 tokens/s")
PEERS = ("EnCodec", "Mimi", "DAC")
HEADS = ("encode s", "decode s", "both s", "own both s", "memory MB", "GFLOP/s")
Pair = tuple[Callable[[Tensor], Any], Callable[[Any], Any]]


def build(name: str) -> Pair:
    """Return encode (1, 1, T) -> codes and decode codes -> sound of one codec."""
    torch.manual_seed(0)
    if name in OURS:
        from audio_tok.wav_tokenizer import WavTokenizer

        strides = [2, 4, 5, 8] if name == OURS[0] else [4, 5, 5, 6]
        ours = WavTokenizer(strides=strides).eval()
        return ours.encode, ours.decode
    guard_torchaudio()
    import transformers

    if name == "EnCodec":
        encodec = transformers.EncodecModel(transformers.EncodecConfig()).eval()

        def encode(x: Tensor) -> Any:
            found = encodec.encode(x, bandwidth=6.0)  # its usual eight codebooks
            return found.audio_codes, found.audio_scales

        return encode, lambda codes: encodec.decode(*codes)
    if name == "Mimi":
        mimi = transformers.MimiModel(transformers.MimiConfig()).eval()
        return (lambda x: mimi.encode(x).audio_codes), mimi.decode
    config = transformers.DacConfig(
        downsampling_ratios=[2, 4, 5, 8], n_codebooks=32, sampling_rate=RATE,
    )  # fmt: skip
    dac = transformers.DacModel(config).eval()
    return (lambda x: dac.encode(x).audio_codes), lambda codes: dac.decode(audio_codes=codes)


def sound(seconds: float) -> Tensor:
    """Return noise (1, 1, T)."""
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(1, 1, int(seconds * RATE), generator=generator)


def operations(pair: Pair, x: Tensor) -> float:
    """Count multiply-adds times two of encode and decode, element-wise work left out."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        pair[1](pair[0](x))
    return float(counter.get_total_flops())


@torch.inference_mode()
def in_turns(seconds: float, repeats: int) -> list[dict[str, Any]]:
    """Return one row per codec, timed in turns in this process."""
    x = sound(seconds)
    pairs = {name: build(name) for name in (*OURS, *PEERS)}
    codes = {name: pair[0](x) for name, pair in pairs.items()}
    encode = {name: partial(pair[0], x) for name, pair in pairs.items()}
    decode = {name: partial(pair[1], codes[name]) for name, pair in pairs.items()}
    first, second = alternate(encode, repeats), alternate(decode, repeats)
    rows = []
    for name in pairs:
        both = first[name] + second[name]
        # The peers' weight norms do not bear being counted.
        count = operations(pairs[name], x) if name in OURS else None
        rows.append({
            "codec": name, "seconds_of_sound": seconds, "encode": first[name],
            "decode": second[name], "both": both,
            "gflops": count and count / both / 1e9,
        })  # fmt: skip
    return rows


@torch.inference_mode()
def decoder_types(repeats: int) -> list[dict[str, Any]]:
    """Return the decoder's seconds for 10 s of sound in float32 and bfloat16."""
    rows = []
    for name in OURS:
        encode, decode = build(name)
        codes = encode(sound(10))
        runs = {"float32": partial(decode, codes), "bfloat16": partial(_halved, decode, codes)}
        rows.append({"codec": name, **alternate(runs, repeats)})
    return rows


def _halved(decode: Callable[[Any], Any], codes: Any) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return decode(codes)


@torch.inference_mode()
def alone(name: str, seconds: float, repeats: int) -> dict[str, float]:
    """Return seconds and extra bytes of one codec in this process of its own."""
    x, (encode, decode) = sound(seconds), build(name)
    decode(encode(sound(1)))
    extra = max(extra_bytes(lambda: encode(x)), extra_bytes(lambda: decode(encode(x))))
    if name in OURS:
        from tok_core.warm_memory import keep_memory_warm

        keep_memory_warm()
    return {"own_both": alternate({"": lambda: decode(encode(x))}, repeats)[""], "extra": extra}


def main() -> None:
    """Print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 60])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--alone", help="one codec, as JSON")
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(alone(options.alone, options.seconds[0], options.repeats)))
        return
    rows = []
    for seconds in options.seconds:
        repeats = options.repeats if seconds <= SHORT else 0
        part = in_turns(seconds, repeats)
        for row in part:
            row |= _alone_elsewhere(row["codec"], seconds, repeats)
        _print(part, seconds)
        rows += part
    types = decoder_types(options.repeats)
    for row in types:
        ratio = row["float32"] / row["bfloat16"]
        print(f"{row['codec']}: decoder in bfloat16 {ratio:.2f} x as fast as in float32")
    peak = {str(d).split(".")[-1]: matmul_peak(d) for d in (torch.float32, torch.bfloat16)}
    print(f"peak of one product: {peak} GFLOP/s")
    result = {
        "threads": torch.get_num_threads(), "torch": torch.__version__, "processor": processor(),
        "matmul_peak_gflops": peak, "rows": rows, "decoder_types": types,
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.out.exists():
        before = json.loads(options.out.read_text())["rows"]
        kept = [row for row in before if row["seconds_of_sound"] not in options.seconds]
        result["rows"] = sorted([*kept, *rows], key=lambda row: float(row["seconds_of_sound"]))
    options.out.write_text(json.dumps(result, indent=1) + "\n")


def _alone_elsewhere(name: str, seconds: float, repeats: int) -> dict[str, float]:
    command = [
        sys.executable, __file__, "--alone", name, "--seconds", str(seconds), "--repeats",
        str(repeats),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


def _print(rows: list[dict[str, Any]], seconds: float) -> None:
    print(f"\n{seconds:g} s of sound, float32, {torch.get_num_threads()} threads")
    print(f"{'':28}" + "".join(f"{head:>12}" for head in HEADS) + "   times ours is faster: 75, 40")
    ours = [row["both"] for row in rows if row["codec"] in OURS]
    for row in rows:
        cells = [_cell(row[key], ".3f") for key in ("encode", "decode", "both", "own_both")]
        cells += [_cell(row["extra"] / 1e6, ".0f"), _cell(row["gflops"], ".0f")]
        ratios = ", ".join(f"{row['both'] / mine:.2f}" for mine in ours)
        print(f"{row['codec']:28}{''.join(cells)}   {ratios}")


def _cell(value: float | None, form: str) -> str:
    return ("-" if value is None else format(value, form)).rjust(12)


if __name__ == "__main__":
    main()
