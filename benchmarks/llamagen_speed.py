"""LlamaGen-B's shape on the CPU against transformers' LlamaForCausalLM with its static cache.

    python benchmarks/llamagen_speed.py [--batches 1 8] [--rounds 3] [--tokens 256] [--small]

256 tokens after one class token, guidance on (two rows per sample), greedy, both in inference mode
with their caches allocated before.  The peer has the same width, depth, heads and vocabulary; each
of its steps is given both rows, mixes them as we do, and takes the likeliest code.  In turns, in
one process.  At batch 1 a step must read every weight once: GB/s beside what a copy reaches here.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from _measure import processor

from generators.contract import Condition
from generators.guidance import Guidance
from generators.llamagen import LlamaGen
from generators.sampling import sample
from generators.token_filter import TokenFilter
from tok_core.token_spec import Axis, TokenSpec
from tok_core.torchaudio_guard import guard_torchaudio
from tok_core.warm_memory import keep_memory_warm

RESULT = Path(__file__).parent / "results" / "llamagen_speed.json"
TARGETS = {1: 2.0, 8: 1.25}
FULL = {"width": 768, "layers": 12, "heads": 12, "codes": 16384}
SMALL = {"width": 64, "layers": 2, "heads": 2, "codes": 64}
SCALE = 2.0


def ours(sizes: dict[str, int], tokens: int, dtype: torch.dtype) -> LlamaGen:
    """Return a model with random weights."""
    spec = TokenSpec(
        modality="image", axes=(Axis(name="token", size=tokens, minimum=tokens),),
        vocabulary=(sizes["codes"],),
    )  # fmt: skip
    made = LlamaGen(
        spec=spec.to_json(), width=sizes["width"], layers=sizes["layers"], heads=sizes["heads"],
        classes=1000,
    )  # fmt: skip
    torch.nn.init.normal_(made.output.weight, std=0.02)
    return made.eval().to(dtype)


class Peer:
    """transformers' Llama with a static cache and our guidance.

    Args:
        model: ours, of the same sizes. compiled: through torch.compile with its own CUDA graphs.
    """

    def __init__(
        self, model: LlamaGen, sizes: dict[str, int], tokens: int, *, compiled: bool = False
    ) -> None:
        guard_torchaudio()
        from transformers import LlamaConfig, LlamaForCausalLM

        self.tokens, self.codes = tokens, sizes["codes"]
        config = LlamaConfig(
            vocab_size=sizes["codes"] + 1001, hidden_size=sizes["width"],
            intermediate_size=model.settings.hidden, num_hidden_layers=sizes["layers"],
            num_attention_heads=sizes["heads"], num_key_value_heads=sizes["heads"],
            max_position_embeddings=tokens + 8, tie_word_embeddings=False,
            attn_implementation="sdpa",
        )  # fmt: skip
        torch.manual_seed(0)
        with torch.device(model.device):
            self.model = LlamaForCausalLM(config).eval().to(model.dtype)
        self.later: Any = self.model
        if compiled:
            self.later = torch.compile(self.model, mode="reduce-overhead", fullgraph=True)
        self.caches: dict[int, Any] = {}

    @torch.inference_mode()
    def __call__(self, batch: int, tokens: int | None = None) -> torch.Tensor:
        """Draw (batch, tokens) greedily, all tokens unless a number is given."""
        from transformers import StaticCache

        if batch not in self.caches:
            self.caches[batch] = StaticCache(
                config=self.model.config, max_cache_len=self.tokens + 1
            )
        cache, device = self.caches[batch], self.model.device
        cache.reset()
        rows = torch.full((2 * batch, 1), self.codes + 1000, device=device)
        rows[:batch] = self.codes + torch.arange(batch, device=device)[:, None]
        positions = torch.arange(self.tokens, device=device)
        drawn = []
        for step in range(tokens or self.tokens):
            # The first call makes the cache's tensors, which no compiled one can do.
            forward = self.later if step else self.model
            out = forward(
                rows, past_key_values=cache, use_cache=True,
                cache_position=positions[step : step + 1],
            )  # fmt: skip
            logits = out.logits[:, -1, : self.codes].float()
            conditional, unconditional = logits.split(batch)
            mixed = unconditional + (conditional - unconditional) * SCALE
            rows = mixed.argmax(-1, keepdim=True).repeat(2, 1)
            drawn.append(rows[:batch])
        return torch.cat(drawn, 1)


def draw(model: LlamaGen, batch: int, **options: Any) -> torch.Tensor:
    """Draw (batch, tokens) greedily."""
    return sample(
        model, Condition(labels=torch.arange(batch)), seeds=range(batch),
        guidance=Guidance(scale=SCALE), token_filter=TokenFilter(temperature=0), **options,
    )  # fmt: skip


def copy_rate() -> float:
    """Return GB/s read by a large sum, best of five: the limit of streaming weights."""
    data = torch.ones(64 << 20)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        data.sum()
        best = max(best, data.numel() * 4 / (time.perf_counter() - start) / 1e9)
    return best


def measure(
    sizes: dict[str, int], tokens: int, batch: int, rounds: int, dtype: torch.dtype
) -> dict[str, Any]:
    """Return tokens per second of both, the ratio, and the share of the memory's rate."""
    torch.manual_seed(0)
    model = ours(sizes, tokens, dtype)
    peer = Peer(model, sizes, tokens)
    draw(model, batch)
    peer(batch)
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        for name, call in (("ours", lambda: draw(model, batch)), ("peer", lambda: peer(batch))):
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    best = {name: min(times) for name, times in seconds.items()}
    # Embedding tables are looked up, not read.
    entries = sum(p.numel() for name, p in model.named_parameters() if "tokens." not in name)
    read = entries * dtype.itemsize
    row = {
        "dtype": str(dtype).removeprefix("torch."), "batch": batch, "tokens": tokens,
        "ours_tokens_per_second": batch * tokens / best["ours"],
        "peer_tokens_per_second": batch * tokens / best["peer"],
        "ratio": best["peer"] / best["ours"],
        "gigabytes_per_second": read * tokens / best["ours"] / 1e9,
    }  # fmt: skip
    return row


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--bfloat16", action="store_true", help="one round beside float32")
    parser.add_argument("--small", action="store_true", help="a try, nothing is written")
    options = parser.parse_args()
    keep_memory_warm()
    sizes = SMALL if options.small else FULL
    rate = copy_rate()
    rows = [
        measure(sizes, options.tokens, batch, options.rounds, torch.float32)
        for batch in options.batches
    ]
    if options.bfloat16:
        rows.append(measure(sizes, min(options.tokens, 32), 1, 1, torch.bfloat16))
    print(f"{processor()}, {torch.get_num_threads()} threads, reading {rate:.1f} GB/s")
    print(f"{'':10s}{'batch':>6s}{'peer tok/s':>12s}{'ours tok/s':>12s}{'ratio':>8s}{'GB/s':>8s}")
    for row in rows:
        print(
            f"{row['dtype']:10s}{row['batch']:>6d}{row['peer_tokens_per_second']:>12.1f}"
            f"{row['ours_tokens_per_second']:>12.1f}{row['ratio']:>8.2f}"
            f"{row['gigabytes_per_second']:>8.1f}"
        )
    if options.small:
        return
    result = {
        "machine": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "reading_gigabytes_per_second": rate, "targets": TARGETS, "rows": rows,
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
