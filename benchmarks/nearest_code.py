"""Nearest-code search against vector-quantize-pytorch: milliseconds and extra memory, one run.

    python benchmarks/nearest_code.py            # table, and benchmarks/results/nearest_code.json
    python benchmarks/nearest_code.py --quick    # small sizes, nothing written

Letters: N vectors, K codes, D dimensions. Every case runs in its own process. Two comparisons:

search   ``nearest_code`` against the peer's distance and argmax alone (its ``cdist`` and argmax:
         the least it can do)
forward  ``VectorQuantizer.forward`` against ``VectorQuantize.forward``, both in eval mode: search,
         look-up, and whatever either does beside them

Time is the best of several interleaved calls. Extra memory is the peak of the resident set during
one call above its size before it, read from the kernel (Linux with glibc only).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _measure import extra_bytes

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = Path(__file__).parent / "results" / "nearest_code.json"
HEADLINE = (32768, 16384, 8)
SWEEP = [(16384, 8192, d) for d in (4, 8, 12, 16, 32, 64, 128, 256)]
SMALL = [(256, 4096, 12), (1024, 4096, 12), (4096, 1024, 256)]
QUICK = [(2048, 2048, 8), (2048, 2048, 64)]


def best_ms(functions: list[Callable[[], Any]], seconds: float = 3.0) -> list[float]:
    """Return the best time of each function in milliseconds, called in turn."""
    best = [float("inf")] * len(functions)
    for function in functions:
        function()
    calls, end = 0, time.perf_counter() + seconds
    while calls < 5 or (time.perf_counter() < end and calls < 200):
        for i, function in enumerate(functions):
            start = time.perf_counter()
            function()
            best[i] = min(best[i], (time.perf_counter() - start) * 1e3)
        calls += 1
    return best


def contenders(n: int, k: int, d: int) -> dict[str, Callable[[], Any]]:
    """Return the four calls to compare, over the same latents and codes."""
    import torch
    from vector_quantize_pytorch import VectorQuantize
    from vector_quantize_pytorch.vector_quantize_pytorch import cdist

    from tok_core.nearest_code import nearest_code
    from tok_core.vector_quantizer import VectorQuantizer

    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, n, d, generator=generator)
    vectors = torch.randn(k, d, generator=generator)
    ours = VectorQuantizer(k, d).eval()
    peer = VectorQuantize(dim=d, codebook_size=k).eval()
    with torch.no_grad():
        ours.codebook.copy_(vectors)
        peer._codebook.embed.copy_(vectors[None])
    calls: dict[str, Callable[[], Any]] = {
        "search_ours": lambda: nearest_code(z[0], vectors),
        "search_peer": lambda: (-cdist(z, vectors[None])).argmax(-1),
        "forward_ours": lambda: ours(z).codes,
        "forward_peer": lambda: peer(z)[1],
    }
    return {name: torch.no_grad()(call) for name, call in calls.items()}


def run_case(n: int, k: int, d: int) -> dict[str, Any]:
    """Return time and extra memory of the four calls, and how often the codes agree."""
    calls = contenders(n, k, d)
    for call in contenders(256, 512, d).values():
        call()  # libraries and threads allocate what they keep
    memory = {name: extra_bytes(call) for name, call in calls.items()}
    times = best_ms([calls["search_ours"], calls["search_peer"]])
    times += best_ms([calls["forward_ours"], calls["forward_peer"]])
    ms = dict(zip(calls, times, strict=True))
    agree = (calls["search_ours"]() == calls["search_peer"]()[0]).float().mean().item()
    return {"n": n, "k": k, "d": d, "ms": ms, "extra_bytes": memory, "same_codes": agree}


def matmul_gflops() -> float:
    """Return the float32 product rate of this machine at a size that favours it."""
    import torch

    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / best_ms([lambda: a @ b], 1.0)[0] / 1e6


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    import torch
    import vector_quantize_pytorch

    cpu = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": cpu[0] if cpu else platform.processor(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "vector_quantize_pytorch": getattr(vector_quantize_pytorch, "__version__", version()),
        "matmul_gflops": round(matmul_gflops(), 1),
        "load_average": os.getloadavg()[0],
    }


def version() -> str:
    """Return the installed version of the peer."""
    from importlib.metadata import version as installed

    return installed("vector-quantize-pytorch")


def in_own_process(argument: str) -> dict[str, Any]:
    """Run one case (``N,K,D`` or ``machine``) in a fresh process and return its JSON."""
    done = subprocess.run(
        [sys.executable, __file__, "--case", argument],
        check=True, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    return json.loads(done.stdout)


def show(host: dict[str, Any], cases: list[dict[str, Any]]) -> None:
    """Print one row per case: ours, peer, and how many times faster or smaller ours is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=118)
    console.print(
        f"{host['cpu']}, {host['threads']} threads, torch {host['torch']}, products at "
        f"{host['matmul_gflops']:.0f} GFLOP/s; vector-quantize-pytorch "
        f"{host['vector_quantize_pytorch']}"
    )
    columns = ["N", "K", "D", "search ms", "peer", "x", "GFLOP/s"]
    columns += ["forward ms", "peer", "x", "MB", "peer", "x", "same codes"]
    table = Table(*columns, box=box.SIMPLE)
    for case in cases:
        ms, size = case["ms"], case["extra_bytes"]
        ours, peer = ms["search_ours"], ms["search_peer"]
        whole, peer_whole = ms["forward_ours"], ms["forward_peer"]
        small, large = size["search_ours"], size["search_peer"]
        rate = 2e-6 * case["n"] * case["k"] * case["d"] / ours
        table.add_row(
            *map(str, (case["n"], case["k"], case["d"])),
            f"{ours:.2f}", f"{peer:.1f}", f"{peer / ours:.1f}", f"{rate:.0f}",
            f"{whole:.2f}", f"{peer_whole:.1f}", f"{peer_whole / whole:.1f}",
            f"{small / 1e6:.1f}", f"{large / 1e6:.0f}", f"{large / max(small, 1):.0f}",
            f"{case['same_codes']:.5f}",
        )
    console.print(table)


def main() -> None:
    """Run all cases, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing written")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        name = options.case
        found = machine() if name == "machine" else run_case(*map(int, name.split(",")))
        print(json.dumps(found))
        return
    sizes = QUICK if options.quick else [HEADLINE, *SWEEP, *SMALL]
    host = in_own_process("machine")
    cases = [in_own_process(",".join(map(str, size))) for size in sizes]
    show(host, cases)
    if not options.quick:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps({"machine": host, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
