"""A small LlamaGen over codes that lie in memory: trained in minutes, drawn from for a score.

    codes, labels --Training of benchmarks/token_shuffle_scale.py--> averaged LlamaGen --> codes
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from claims.benchmark_scripts import benchmark

CHUNK = 50


def generator_over(
    tokenizer: Any, codes: Any, labels: Any, sizes: Mapping[str, Any], seed: int
) -> Any:
    """Train a generator and return its averaged weights in eval mode, on the codes' device.

    Args:
        tokenizer: of the codes. codes: int64 (N, *axes). labels: int64 (N,).
        sizes: ``network`` and ``classes`` (0: unconditional) of a LlamaGen, ``steps``, ``batch``,
            ``warmup``, ``lr`` and ``ema_decay``. seed: of weights and order.
    """
    import torch

    from generators.contract import fixed_spec
    from generators.llamagen import LlamaGen
    from generators.token_objective import TokenObjective, TokenObjectiveConfig

    scale = benchmark("token_shuffle_scale")
    torch.manual_seed(seed)
    model = LlamaGen(
        spec=fixed_spec(tokenizer.spec, codes.shape[1:]).to_json(), classes=sizes["classes"],
        code_hash=tokenizer.code_hash(), **sizes["network"],
    ).to(codes.device)  # fmt: skip
    training = scale.Training(model, sizes, "float32")
    if not sizes["classes"]:
        training.objective = TokenObjective(TokenObjectiveConfig(conditional=False)).train()
    order = scale.order(len(codes), sizes["batch"], sizes["steps"], seed, codes.device)
    for number, which in enumerate(order):
        training.step(number, scale.Pictures(codes[which], labels[which]))
    return training.average.model.eval()


def drawn(generator: Any, count: int, guidance: float, seed: int) -> tuple[Any, Any]:
    """Draw codes (count, *axes), classes in turn; return them and their labels (count,)."""
    import torch

    from generators.contract import UNCONDITIONAL, Condition
    from generators.drawing import draw_codes, numbered_seed
    from generators.guidance import Guidance

    labels = torch.arange(count) % max(1, generator.classes)
    parts = []
    with torch.inference_mode():
        for numbers in torch.arange(count).split(CHUNK):
            seeds = [numbered_seed(seed, int(n)) for n in numbers]
            condition = UNCONDITIONAL
            if generator.classes:
                condition = Condition(labels=labels[numbers].to(generator.device))
            strength = Guidance(scale=guidance)
            parts.append(draw_codes(generator, condition, seeds=seeds, guidance=strength))
    return torch.cat(parts), labels


def encoded(tokenizer: Any, signals: Any) -> Any:
    """Return the codes of signals (N, ...) float in [-1, 1], on the tokenizer's device."""
    import torch

    with torch.inference_mode():
        parts = [tokenizer.encode(x.to(tokenizer.device)).codes for x in signals.split(CHUNK)]
    return torch.cat(parts).clone()


def decoded(tokenizer: Any, codes: Any) -> Any:
    """Return the signals of codes, on the CPU."""
    import torch

    with torch.inference_mode():
        return torch.cat([tokenizer.decode(part).cpu() for part in codes.split(CHUNK)])
