"""LlamaGen's shapes on a GPU: steps one by one, as CUDA graphs, and compiled as well.

    python benchmarks/llamagen_gpu.py [--seconds 100] [--out FILE] [--force] [--small]

256 tokens after one class token, guidance on (two rows per sample), greedy.  The limit is reading:
every weight once per step and the keys and values there are, at what a copy reaches here in the
same run.  The peer is transformers' LlamaForCausalLM of B's sizes with its static cache, plain and
through torch.compile with CUDA graphs.  Every row is written as soon as it is there; what does not
fit the time is named, and a later call on the same kind of device goes on with it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from llamagen_speed import FULL, SMALL, Peer, draw, ours

from generators.llamagen import LlamaGen
from generators.static_steps import forget_steps

RESULT = Path(__file__).parent / "results" / "llamagen_gpu.json"
SHAPES = {
    "B": FULL,
    "L": FULL | {"width": 1024, "layers": 24, "heads": 16},
    "XL": FULL | {"width": 1280, "layers": 36, "heads": 20},
    "small": SMALL,
}
BATCHES = (1, 8, 32)


class Case(NamedTuple):
    """What is measured together: one network, one way to run it.

    Attributes: seconds: about how long it takes, with all that is made before; it is left out where
    less time is left.
    """

    shape: str
    dtype: torch.dtype
    way: str
    batches: tuple[int, ...]
    seconds: float


HALF, FLOAT = torch.bfloat16, torch.float32
CASES = [
    Case("B", HALF, "counted", BATCHES, 65), Case("B", HALF, "graph", BATCHES, 6),
    Case("XL", HALF, "graph", BATCHES, 10), Case("B", HALF, "compiled graph", BATCHES, 25),
    Case("B", HALF, "peer", BATCHES, 30), Case("XL", HALF, "compiled graph", BATCHES, 30),
    Case("L", HALF, "graph", BATCHES, 8), Case("L", HALF, "compiled graph", BATCHES, 25),
    Case("B", HALF, "peer, compiled", (1, 8), 45), Case("B", FLOAT, "graph", (1,), 3),
    Case("B", FLOAT, "compiled graph", (1,), 20), Case("B", FLOAT, "counted", (1,), 20),
    Case("L", HALF, "counted", BATCHES, 75), Case("XL", HALF, "counted", BATCHES, 90),
]  # fmt: skip
SMALL_CASES = [
    Case("small", HALF, "counted", (1, 2), 5), Case("small", HALF, "graph", (1, 2), 5),
    Case("small", FLOAT, "counted", (1,), 5), Case("small", FLOAT, "graph", (1,), 5),
    Case("small", HALF, "peer", (1,), 5),
]  # fmt: skip


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Return how long a call takes, to the end of its work on the device."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def copy_rate(device: torch.device) -> float:
    """Return GB/s read and written by a large copy, best of ten."""
    a = torch.ones((1 << 28) if device.type == "cuda" else (1 << 24), device=device)
    b = torch.empty_like(a)
    best = min(seconds_of(lambda: b.copy_(a), device) for _ in range(10))
    return 2 * a.numel() * 4 / best / 1e9


def bytes_per_step(model: LlamaGen, batch: int, tokens: int) -> float:
    """Return what a step must read: weights, and keys and values in the middle of a generation."""
    # Embedding tables are looked up, not read.
    weights = sum(p.numel() for name, p in model.named_parameters() if "table." not in name
                  and not name.startswith("tokens."))  # fmt: skip
    settings = model.settings
    cache = 2 * batch * 2 * settings.layers * settings.width * (tokens + 1) / 2
    return (weights + cache) * model.dtype.itemsize


def run_of(case: Case, tokens: int, device: torch.device) -> tuple[LlamaGen, Callable[[int], Any]]:
    """Return the network that sets the limit, and what draws a batch."""
    sizes = SHAPES[case.shape]
    with torch.device(device):
        torch.manual_seed(0)
        model = ours(sizes, tokens, case.dtype)
    if case.way.startswith("peer"):
        peer = Peer(model, sizes, tokens, compiled=case.way.endswith("compiled"))
        return model, peer
    if case.way.startswith("compiled"):
        torch._dynamo.reset()
        model.compile_repeated_blocks(dynamic=True)
    static = case.way != "counted"
    return model, lambda batch: draw(model, batch, static=static)


def rows_of(case: Case, tokens: int, rate: float, device: torch.device) -> Iterator[dict[str, Any]]:
    """Measure a case: a row per batch, an error where it fails."""
    label = {"shape": case.shape, "dtype": str(case.dtype).removeprefix("torch."), "way": case.way}
    try:
        start = time.perf_counter()
        model, call = run_of(case, tokens, device)
        for batch in case.batches:
            # Twice for graphs: the first step of all is captured in the second generation.
            first = [seconds_of(lambda: call(batch), device) for _ in range(2)]  # noqa: B023
            best = min(seconds_of(lambda: call(batch), device) for _ in range(2))  # noqa: B023
            needed = bytes_per_step(model, batch, tokens)
            yield label | {
                "batch": batch, "tokens_per_second": batch * tokens / best,
                "ms_per_step": best / tokens * 1e3, "megabytes_per_step": needed / 1e6,
                "share_of_copy": needed * tokens / best / 1e9 / rate,
                "first_seconds": first[0], "second_seconds": first[1],
            }  # fmt: skip
        forget_steps(model)
        yield label | {"case_seconds": time.perf_counter() - start}
    except Exception as error:
        yield label | {"error": f"{type(error).__name__}: {error}"[:400]}


def shown(row: dict[str, Any]) -> str:
    """Return a row as a line."""
    begin = f"{row['shape']:6s}{row['dtype']:10s}{row['way']:16s}"
    if "tokens_per_second" not in row:
        return begin + ", ".join(f"{key} {row[key]}" for key in list(row)[3:])
    return (
        f"{begin}{row['batch']:>4d}{row['tokens_per_second']:>10.1f} tokens/s"
        f"{row['ms_per_step']:>9.3f} ms/step{100 * row['share_of_copy']:>7.1f} % of a copy"
    )


def kept_rows(path: Path, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what an earlier call measured in full on such a device."""
    if not path.is_file():
        return []
    before = json.loads(path.read_text())
    if any(before[name] != facts[name] for name in ("device", "torch", "tokens")):
        return []
    whole = {case_of(row) for row in before["rows"] if "case_seconds" in row}
    return [row for row in before["rows"] if case_of(row) in whole]


def case_of(row: dict[str, Any]) -> tuple[str, str, str]:
    """Return what a row belongs to."""
    return row["shape"], row["dtype"], row["way"]


def main(arguments: list[str] | None = None) -> None:
    """Print rows as they come and keep the JSON up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=100, help="begin nothing that ends later")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--force", action="store_true", help="forget what --out holds")
    parser.add_argument("--small", action="store_true", help="a try that also runs on the CPU")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.small:
        raise SystemExit("no CUDA device is here; benchmarks/llamagen_speed.py measures CPUs.")
    rate = copy_rate(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    result: dict[str, Any] = {
        "device": name, "torch": torch.__version__, "copy_gigabytes_per_second": rate,
        "tokens": options.tokens, "rows": [],
    }  # fmt: skip
    if not options.force:
        result["rows"] = kept_rows(options.out, result)
    done = {case_of(row) for row in result["rows"]}
    print(f"{name}, torch {torch.__version__}, a copy reaches {rate:.0f} GB/s", flush=True)
    for case in SMALL_CASES if options.small else CASES:
        if (case.shape, str(case.dtype).removeprefix("torch."), case.way) in done:
            continue
        left = options.seconds - (time.perf_counter() - start)
        rows: Any = rows_of(case, options.tokens, rate, device)
        if left < case.seconds:
            dtype = str(case.dtype).removeprefix("torch.")
            rows = [{"shape": case.shape, "dtype": dtype, "way": case.way,
                     "skipped": f"{left:.0f} s were left"}]  # fmt: skip
        for row in rows:
            print(shown(row), flush=True)
            result["rows"].append(row)
            options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
