"""Gradient checkpointing of every generator: blocks run twice, gradients are the same."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from generators.caption_condition import caption_condition
from generators.contract import Condition, Generator, fixed_spec
from generators.llamagen import LlamaGen
from generators.maskgit import MaskGIT
from generators.next_scale import NextScale
from generators.rar import RAR
from generators.token_bridge import TokenBridge
from tok_core.training.engine import _enable_gradient_checkpointing
from vision_tok.token_bridge import TokenBridgeTokenizer
from vision_tok.vqgan import VQGAN

SIZES: dict[str, Any] = {"width": 32, "layers": 2, "heads": 2}
KINDS: dict[str, tuple[type[Generator], dict[str, Any]]] = {
    "LlamaGen": (LlamaGen, {"classes": 3}),
    "Token-Shuffle": (LlamaGen, {"classes": 3, "window": 2, "slot_head": "causal"}),
    "captions": (LlamaGen, {"caption_width": 6, "caption_length": 4}),
    "RAR": (RAR, {"classes": 3}),
    "bert": (MaskGIT, {"classes": 3}),
    "uvit": (MaskGIT, {"classes": 3, "network": "uvit"}),
    "NextScale": (NextScale, {"classes": 3, "value_width": 4}),
    "TokenBridge": (TokenBridge, {
        "classes": 3, "buffer": 3, "head_width": 16, "head_layers": 2, "head_heads": 2,
    }),
}


def tokenizer(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "TokenBridge":
        vae = {"block_out_channels": [8, 8, 16], "layers_per_block": 1, "latent_channels": 4,
               "norm_num_groups": 4}  # fmt: skip
        return TokenBridgeTokenizer(vae=vae, scale=1.0, bits=3).eval()
    side = {"channels": 8, "multipliers": [1, 2, 2], "res_blocks": 1, "attention": []}
    more: dict[str, Any] = {}
    if kind == "NextScale":
        more = {"quantizer_kind": "multi_scale", "scales": [1, 2, 4], "l2_normalize": False}
    return VQGAN(
        encoder_sizes=side, decoder_sizes=side, z_channels=6, code_dim=4, codebook_size=16,
        norm_groups=4, image_size=16, **more,
    )  # fmt: skip


def made(kind: str) -> tuple[Any, Tensor, Condition]:
    """Return a generator in training mode, with dropout, and a batch for it."""
    cls, options = KINDS[kind]
    images = tokenizer(kind)
    codes = images.encode(torch.rand(3, 3, 16, 16) * 2 - 1).codes
    torch.manual_seed(1)
    spec = fixed_spec(images.spec, codes.shape[1:])
    model: Any = cls(spec=spec.to_json(), **SIZES | options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.attach(images)
    if model.captions is not None:
        # Padded, so that the mask goes through the blocks, too.
        condition = caption_condition(
            torch.randn(3, 4, 6), torch.ones(3, 4).tril(1), shape=model.captions
        )
    else:
        condition = Condition(labels=torch.tensor([0, 1, 2]))
    return model.train(), codes, condition


def gradients(kind: str, checkpointed: bool) -> tuple[dict[str, Tensor], Counter[str]]:
    """Return all gradients of one step, and how often each kind of block ran."""
    model, codes, condition = made(kind)
    if checkpointed:
        _enable_gradient_checkpointing(model)
    runs: Counter[str] = Counter()
    for module in model.modules():
        name = type(module).__name__
        if name in (model._no_split_modules or ()):
            # Before: a second run ends as soon as it has what is needed.
            module.register_forward_pre_hook(lambda m, i, name=name: runs.update([name]))
    torch.manual_seed(2)
    sum(model(codes, condition=condition).losses.values()).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found, runs


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_same_and_blocks_run_again(kind: str) -> None:
    plain, once = gradients(kind, checkpointed=False)
    kept, twice = gradients(kind, checkpointed=True)
    assert plain.keys() == kept.keys() and any(g.abs().sum() > 0 for g in plain.values())
    for name, gradient in plain.items():
        # Dropout draws the same numbers when a block runs again.
        torch.testing.assert_close(kept[name], gradient, rtol=1e-5, atol=1e-7)
    assert once and twice == {block: 2 * count for block, count in once.items()}


def test_looking_does_not_run_blocks_twice() -> None:
    model, codes, condition = made("LlamaGen")
    _enable_gradient_checkpointing(model)
    runs: Counter[str] = Counter()
    for block in model.trunk.blocks:
        block.register_forward_pre_hook(lambda m, i: runs.update(["block"]))
    with torch.no_grad():
        model.eval()(codes, condition=condition)
    assert runs["block"] == 2
