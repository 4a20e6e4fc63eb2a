"""Every generator in bfloat16: logits near those of float32, legal codes, kept codes kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from generators.contract import Condition, Generator
from generators.guidance import Guidance
from generators.masked_sampling import sample_masked
from generators.pipelines import TokenImagePipeline
from generators.sampling import sample
from tests.generators import test_llamagen, test_maskgit, test_next_scale, test_rar

LABELS = Condition(labels=torch.tensor([0, 3]))
SEEDS = [3, 4]


def next_scale() -> Generator:
    return test_next_scale.model_of("token_flow", test_next_scale.tokenizer_of("token_flow"))


MODELS: dict[str, Callable[[], Any]] = {
    "LlamaGen": lambda: test_llamagen.model("grid"),
    "LlamaGen, window": lambda: test_llamagen.model("grid", window=2),
    "LlamaGen, causal": lambda: test_llamagen.model("product", slot_head="causal"),
    "RAR": lambda: test_rar.model(),
    "RAR, product": lambda: test_rar.model("product"),
    "NextScale": next_scale,
    "MaskGIT, BERT": lambda: test_maskgit.model(network="bert"),
    "MaskGIT, UViT": lambda: test_maskgit.model("grid", network="uvit"),
}


def drawn(network: Generator, **options: Any) -> Tensor:
    if type(network).__name__ == "MaskGIT":
        return sample_masked(network, LABELS, seeds=SEEDS, steps=4, **options)
    return sample(network, LABELS, seeds=SEEDS, **options)


@torch.no_grad()
@pytest.mark.parametrize("kind", MODELS)
def test_bfloat16(kind: str) -> None:
    network = MODELS[kind]()
    codes = drawn(network)
    torch.manual_seed(0)
    logits = network(codes, condition=LABELS).logits
    network.to(torch.bfloat16)
    torch.manual_seed(0)  # a masked generator chooses what to mask
    halved = network(codes, condition=LABELS).logits
    assert halved.dtype == torch.float32 and not torch.equal(halved, logits)
    there = logits.isfinite()
    assert torch.equal(there, halved.isfinite())
    # 8 bits of mantissa, through a handful of layers.
    error = (halved - logits)[there].square().mean().sqrt()
    assert float(error) < 0.03 * float(logits[there].square().mean().sqrt())
    layout = network.spec.to_sequence
    keep = torch.rand(layout(codes).shape[:2], generator=torch.Generator().manual_seed(0)) < 0.5
    again = drawn(network, guidance=Guidance(scale=2.0))
    network.spec.check(again)
    again = drawn(network, guidance=Guidance(scale=2.0), given=codes, keep=keep)
    network.spec.check(again)
    assert torch.equal(layout(again)[keep], layout(codes)[keep])


def test_a_pipeline_with_a_generator_in_bfloat16(tmp_path: Path) -> None:
    """Its tokenizer stays what the generator's code hash says it is."""
    tokenizer = test_next_scale.tokenizer_of("token_flow")
    TokenImagePipeline(next_scale(), tokenizer).save_pretrained(tmp_path)
    pipe = TokenImagePipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert pipe.generator.dtype == torch.bfloat16 and pipe.tokenizer.dtype == torch.float32
    images = pipe([0, 3], guidance_scale=2.0, output_type="pt").images
    assert images.shape == (2, 3, 16, 16) and images.isfinite().all()
