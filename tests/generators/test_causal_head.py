"""The causal head in both forms: step by step, causality, weights of published heads, bad sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from generators.causal_head import CausalHead
from generators.kv_cache import KeyValueCache
from tok_core.errors import ConfigError

VOCABULARY = (5, 3, 7, 4)
FORMS: list[dict[str, Any]] = [
    {}, {"layers": 2, "features": 6},
    {"blocks": "adaln", "first_input": "stepped", "layers": 2},
    {"blocks": "adaln", "first_input": "bare", "features": 6, "output": True},
    {"blocks": "adaln", "sees_codes": False, "features": 6},
    {"sees_codes": False},
]  # fmt: skip


def head(**options: Any) -> CausalHead:
    torch.manual_seed(0)
    made = CausalHead(16, 4, VOCABULARY, heads=2, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def inputs(made: CausalHead, slots: int = 4) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    width = getattr(made.project, "in_features", 16)
    codes = torch.stack([torch.randint(size, (3,)) for size in VOCABULARY], dim=1)
    return torch.randn(3, slots, width), codes


@pytest.mark.parametrize("options", FORMS)
@pytest.mark.parametrize("slots", [1, 4])
def test_steps_give_what_the_whole_gives(options: dict[str, Any], slots: int) -> None:
    made = head(**options)
    features, codes = inputs(made, slots)
    with torch.no_grad():
        whole = made(features, codes)
        session, cache, before = made.begin(features), made.cache(3), None
        for slot in range(4):
            one = session.step(before)
            two = made.step(features[:, slot % slots], before, cache)
            torch.testing.assert_close(one, whole[:, slot], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
            before = codes[:, slot]
        part = made(features[:, :3] if slots > 1 else features, codes[:, :3])
    torch.testing.assert_close(part, whole[:, :3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", FORMS)
def test_a_slot_sees_the_codes_before_it(options: dict[str, Any]) -> None:
    made = head(**options)
    features, codes = inputs(made)
    before = made(features, codes)
    for slot in range(4):
        changed = codes.clone()
        changed[:, slot] = (changed[:, slot] + 1) % VOCABULARY[slot]
        moved = (made(features, changed) - before).abs().amax(dim=(0, 2)) > 1e-6
        sees = options.get("sees_codes", True)
        assert moved.tolist() == [sees and later > slot for later in range(4)]


def test_the_cache_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step works on one slot, not on all so far, and ends with every slot in the cache."""
    made = head(blocks="adaln", first_input="stepped")
    features, codes = inputs(made)
    lengths: list[int] = []
    block = made.trunk.blocks[0]
    block.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    session = made.begin(features)
    caches: list[KeyValueCache] = [session.cache]
    with torch.no_grad():
        for slot in range(4):
            session.step(codes[:, slot - 1] if slot else None)
    assert lengths == [1, 1, 1, 1] and caches[0].length == 4


def test_official_differs_between_training_and_sampling() -> None:
    """As released: slot 0 reads its step in sampling alone, so that only there they part."""
    official, bare, stepped = (
        head(blocks="adaln", first_input=word) for word in ("official", "bare", "stepped")
    )
    features, codes = inputs(official)
    with torch.no_grad():
        assert torch.equal(official(features, codes), bare(features, codes))
        first = official.begin(features).step(None)
        assert torch.equal(first, stepped.begin(features).step(None))
        assert not torch.allclose(first, bare.begin(features).step(None), atol=1e-3)


def test_a_fresh_adaln_head_is_the_identity_inside() -> None:
    made = CausalHead(16, 4, VOCABULARY, heads=2, blocks="adaln", output=True)
    features, codes = inputs(made)
    logits = made.logits(made(features, codes)[:, 2], 2)
    assert logits.shape == (3, 7) and logits.dtype == torch.float32
    block = made.trunk.blocks[0]
    assert float(block.modulation.weight.detach().abs().max()) == 0.0


@pytest.mark.parametrize(("options", "error"), [
    ({"vocabulary": (5, 3)}, "4 slots got 2 vocabularies"),
    ({"heads": 3}, "heads that divide the width"),
    ({"blocks": "lama"}, "blocks of the head is 'lama'.*llama"),
    ({"first_input": "steped"}, "first_input of the head is 'steped'"),
])  # fmt: skip
def test_bad_sizes(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        CausalHead(16, 4, **{"vocabulary": VOCABULARY, "heads": 2, **options})
