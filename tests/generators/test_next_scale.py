"""Next-scale prediction over VAR's, TokenFlow's and ImageFolder's tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from generators.contract import Condition
from generators.guidance import Guidance
from generators.next_scale import NextScale
from generators.pipelines import TokenImagePipeline
from generators.sampling import sample
from tok_core.errors import ConfigError, TokenError
from tok_core.loading import load
from vision_tok.robus_tok import RobusTok
from vision_tok.token_flow import TokenFlow
from vision_tok.vqgan import VQGAN

SIDE: dict[str, Any] = {"channels": 32, "multipliers": [1, 2], "res_blocks": 1, "attention": []}
TOWER = {"sizes": {"patch_size": 4, "grid": 4, "width": 32, "layers": 1, "heads": 2,
                   "mlp_width": 48}}  # fmt: skip
VIT: dict[str, Any] = {"width": 32, "layers": 1, "heads": 2, "mlp_width": 48}


def tokenizer_of(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "var":
        return VQGAN(
            encoder_sizes=SIDE, decoder_sizes=SIDE, z_channels=6, code_dim=4, codebook_size=16,
            image_size=8, quantizer_kind="multi_scale", scales=[1, 2, 4], l2_normalize=False,
        ).eval()  # fmt: skip
    if kind == "token_flow":
        return TokenFlow(
            image_size=16, scales=[1, 2, 4], codebook_size=16, semantic_dim=4, pixel_dim=3,
            semantic_encoder=TOWER, encoder_sizes=SIDE | {"multipliers": [1, 1, 1]},
            decoder_sizes=SIDE | {"multipliers": [1, 1, 1]}, z_channels=8,
            semantic_decoder={"width": 32, "heads": 2, "depth": 1, "target_dim": 16},
        ).eval()  # fmt: skip
    return RobusTok(
        image_size=16, patch_size=4, encoder_size=VIT, decoder_size=VIT, branches=2, code_dim=5,
        codebook_size=16, quantizer_kind="multi_scale", scales=[1, 2, 4],
    ).eval()  # fmt: skip


WIDTHS = {"var": 4, "token_flow": 7, "image_folder": 10}
LABELS = Condition(labels=torch.tensor([0, 3]))


def model_of(kind: str, tokenizer: Any) -> NextScale:
    torch.manual_seed(1)
    model = NextScale(
        spec=tokenizer.spec.to_json(), value_width=WIDTHS[kind], width=32, layers=2, heads=2,
        classes=4, dropout=0.0, code_hash=tokenizer.code_hash(),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.attach(tokenizer)
    return model.eval()


@pytest.mark.parametrize("kind", WIDTHS)
def test_steps_give_what_the_whole_gives(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    model = model_of(kind, tokenizer)
    seen: dict[tuple[int, int], Tensor] = {}

    def watch(logits: Tensor, places: Tensor, factor: int) -> None:
        for i, place in enumerate(places.tolist()):
            seen[place, factor] = logits[:, i]

    codes = sample(model, LABELS, seeds=[1, 2], watch=watch)
    tokenizer.spec.check(codes)
    logits = model(codes, condition=LABELS).logits
    assert len(seen) == 21 * tokenizer.spec.factors == logits.shape[1] * logits.shape[2]
    for (place, factor), drawn in seen.items():
        torch.testing.assert_close(drawn, logits[:, place, factor], rtol=1e-4, atol=1e-4)
    again = sample(model, LABELS, seeds=[1, 2], guidance=Guidance(scale=2.0, schedule="linear"))
    assert not torch.equal(codes, again)


@pytest.mark.parametrize("kind", WIDTHS)
def test_a_scale_does_not_see_its_own_codes_or_finer_ones(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    model = model_of(kind, tokenizer)
    codes = sample(model, LABELS, seeds=[1, 2])
    before = model(codes, condition=LABELS).logits
    changed = codes.clone()
    changed[..., 1] = (changed[..., 1] + 1) % 16  # the first code of the second scale
    after = model(changed, condition=LABELS).logits
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_saved_loaded_and_in_a_pipeline(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("image_folder")
    pipe = TokenImagePipeline(model_of("image_folder", tokenizer), tokenizer)
    pipe.save_pretrained(tmp_path)
    again = TokenImagePipeline.from_pretrained(tmp_path)
    made = [p([1], generator=torch.Generator().manual_seed(2), output_type="pt").images
            for p in (pipe, again)]  # fmt: skip
    assert made[0].shape == (1, 3, 16, 16)
    torch.testing.assert_close(*made)
    alone = load(tmp_path / "generator")
    assert not any("codebook" in name for name in alone.state_dict())
    with pytest.raises(ConfigError, match=r"call attach\(tokenizer\) first"):
        sample(alone, LABELS, seeds=[1, 2])


def test_the_tables_are_a_copy() -> None:
    """Moving a generator must not move the tokenizer that it was shown."""
    tokenizer = tokenizer_of("var")
    model = model_of("var", tokenizer)
    codes = sample(model, LABELS, seeds=[1, 2])
    before = model(codes, condition=LABELS).logits
    with torch.no_grad():
        tokenizer.quantizer.codebook.zero_()
    assert torch.equal(model(codes, condition=LABELS).logits, before)


def test_learns() -> None:
    tokenizer = tokenizer_of("var")
    torch.manual_seed(0)
    model = NextScale(
        spec=tokenizer.spec.to_json(), value_width=4, width=32, layers=2, heads=2, dropout=0.0
    ).train()  # fmt: skip
    model.attach(tokenizer)
    codes = torch.arange(21).remainder(16).expand(4, -1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = model(codes).losses["loss/tokens"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(2.77, abs=0.01) and losses[-1] < 0.5
    assert all(p.grad is None for p in tokenizer.parameters())


def test_wrong_use_is_a_sentence() -> None:
    tokenizer = tokenizer_of("var")
    spec = tokenizer.spec.to_json()
    with pytest.raises(ConfigError, match="value_width is 5 but the tokens of this VQGAN have 4"):
        NextScale(spec=spec, value_width=5, width=32, layers=1, heads=2).attach(tokenizer)
    with pytest.raises(TokenError, match="trained on tokens of code hash"):
        model_of("var", tokenizer).attach(tokenizer_of("token_flow"))
    plain = VQGAN(encoder_sizes=SIDE, decoder_sizes=SIDE, z_channels=6, code_dim=4,
                  codebook_size=16, image_size=8)  # fmt: skip
    with pytest.raises(ConfigError, match="lie on one scale; use LlamaGen"):
        NextScale(spec=plain.spec.to_json(), width=32, layers=1, heads=2)
