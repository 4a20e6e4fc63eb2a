"""LlamaGen over every layout of single-scale tokens, with and without Token-Shuffle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from generators.contract import Condition, fixed_spec
from generators.guidance import Guidance
from generators.llamagen import LlamaGen
from generators.sampling import sample
from generators.token_filter import TokenFilter
from tok_core.errors import ConfigError, TokenError
from tok_core.loading import load
from tok_core.token_spec import Axis, TokenSpec


def axis(name: str, size: int | None) -> Axis:
    return Axis(name=name, size=size, minimum=size or 1)


SPECS = {
    "grid": TokenSpec(modality="image", axes=(axis("row", 4), axis("column", 6)), vocabulary=(11,)),
    "sequence": TokenSpec(modality="image", axes=(axis("token", 8),), vocabulary=(11,)),
    "product": TokenSpec(modality="image", axes=(axis("branch", 2), axis("row", 4),
                         axis("column", 4)), vocabulary=(7, 9)),
    "dimensions": TokenSpec(modality="image", axes=(axis("row", 2), axis("column", 4),
                            axis("dimension", 3)), vocabulary=(4, 4, 4)),
    "sound": TokenSpec(modality="audio", axes=(axis("level", 2), Axis(name="time")),
                       vocabulary=(8, 8), token_rate=50.0),
}  # fmt: skip
SIZES: dict[str, Any] = {"width": 32, "layers": 2, "heads": 2, "dropout": 0.0, "hidden": 48}


def model(kind: str, **options: Any) -> LlamaGen:
    torch.manual_seed(0)
    spec = fixed_spec(SPECS[kind], axes_of(kind))
    made = LlamaGen(spec=spec.to_json(), classes=5, **SIZES, **options)
    # A fresh head predicts nothing; positions and branches should matter, too.
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def axes_of(kind: str) -> tuple[int, ...]:
    return tuple(a.size or 12 for a in SPECS[kind].axes)


def codes_of(kind: str, batch: int = 3) -> Tensor:
    return torch.randint(0, min(SPECS[kind].vocabulary), (batch, *axes_of(kind)))


LABELS = Condition(labels=torch.tensor([0, 4, 2]))
FORMS = [
    (kind, options)
    for kind in SPECS
    for options in (
        {}, {"window": 2}, {"slot_head": "causal"}, {"window": 2, "slot_head": "causal"},
        {"window": 2, "slot_head": "dimension_wise"},
    )
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), FORMS)
def test_steps_give_what_the_whole_gives(kind: str, options: dict[str, Any]) -> None:
    """Cached logits equal the teacher-forced ones of the codes that were drawn."""
    network = model(kind, **options)
    seen: dict[tuple[int, int], Tensor] = {}

    def watch(logits: Tensor, places: Tensor, factor: int) -> None:
        for i, place in enumerate(places.tolist()):
            seen[place, factor] = logits[:, i]

    codes = sample(network, LABELS, seeds=[1, 2, 3], watch=watch)
    assert tuple(codes.shape) == (3, *axes_of(kind))
    logits = network(codes, condition=LABELS).logits
    assert len(seen) == logits.shape[1] * logits.shape[2]
    for (place, factor), drawn in seen.items():
        whole = logits[:, place, factor, : drawn.shape[-1]]
        torch.testing.assert_close(drawn, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "options"), FORMS)
def test_nothing_sees_what_comes_later(kind: str, options: dict[str, Any]) -> None:
    network = model(kind, **options)
    codes = codes_of(kind, 1)
    sequence = network.spec.to_sequence(codes)
    windows = network.tables["windows"]
    before = network(codes, condition=Condition(labels=LABELS.labels[:1])).logits
    cell = (len(windows) - 1) // 2
    changed = sequence.clone()
    changed[:, windows[cell]] = (changed[:, windows[cell]] + 1) % min(network.spec.vocabulary)
    after = network(
        network.spec.from_sequence(changed, axes_of(kind)),
        condition=Condition(labels=LABELS.labels[:1]),
    ).logits
    earlier = windows[:cell].flatten()
    torch.testing.assert_close(before[:, earlier], after[:, earlier])
    causal = "slot_head" in options and windows.shape[1] * sequence.shape[2] > 1
    own = windows[cell, 0]
    torch.testing.assert_close(before[:, own, 0], after[:, own, 0])
    last = windows[cell, -1]
    same = torch.allclose(before[:, last, -1], after[:, last, -1])
    assert same is not causal  # only a causal head sees its own window
    later = windows[cell + 1 :].flatten()
    assert not torch.allclose(before[:, later], after[:, later])


def test_window_of_one_is_the_plain_model() -> None:
    plain, windowed = model("grid"), model("grid", window=1, shuffle_blocks=3)
    assert plain.state_dict().keys() == windowed.state_dict().keys()
    codes = codes_of("grid")
    assert torch.equal(
        plain(codes, condition=LABELS).logits, windowed(codes, condition=LABELS).logits
    )


def test_a_sample_does_not_depend_on_its_batch() -> None:
    network = model("grid", window=2)
    guidance = Guidance(scale=2.0, schedule="half_linear")
    together = sample(network, LABELS, seeds=[5, 6, 7], guidance=guidance)
    for i in range(3):
        alone = sample(
            network, Condition(labels=LABELS.labels[i : i + 1]), seeds=[5 + i], guidance=guidance
        )
        assert torch.equal(alone[0], together[i])
    assert not torch.equal(together[0], together[1])


def test_kept_codes_stay_and_are_seen() -> None:
    network = model("product", slot_head="causal")
    given = codes_of("product")
    keep = torch.rand(3, 16) < 0.5
    codes = sample(network, LABELS, seeds=[1, 2, 3], given=given, keep=keep)
    kept = network.spec.to_sequence(codes)[keep]
    assert torch.equal(kept, network.spec.to_sequence(given)[keep])
    everything = torch.ones_like(keep)
    assert torch.equal(
        sample(network, LABELS, seeds=[1, 2, 3], given=given, keep=everything), given
    )
    free = sample(network, LABELS, seeds=[1, 2, 3])
    assert torch.equal(
        sample(network, LABELS, seeds=[1, 2, 3], given=given, keep=~everything), free
    )


def test_guidance_of_one_is_none_and_mixes_as_stated() -> None:
    network = model("sequence")
    greedy = TokenFilter(temperature=0)
    logits: dict[float, Tensor] = {}
    for scale in (0.0, 1.0, 3.0):
        rows: list[Tensor] = []
        sample(
            network, LABELS, seeds=[0, 0, 0], guidance=Guidance(scale=scale), token_filter=greedy,
            watch=lambda seen, *_: rows.append(seen),  # noqa: B023
        )  # fmt: skip
        logits[scale] = rows[0]
    mixed = logits[0.0] + 3 * (logits[1.0] - logits[0.0])
    torch.testing.assert_close(logits[3.0], mixed, rtol=1e-4, atol=1e-4)


def test_training_drops_conditions_and_learns() -> None:
    torch.manual_seed(0)
    network = LlamaGen(spec=SPECS["grid"].to_json(), classes=5, **SIZES, condition_dropout=0.5)
    network.train()
    codes = torch.arange(24).remainder(11).view(1, 4, 6).expand(8, -1, -1)
    condition = Condition(labels=torch.zeros(8, dtype=torch.int64))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = network(codes, condition=condition).losses["loss/tokens"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(2.398, abs=0.01) and losses[-1] < 0.5
    null = network.condition.table.weight.grad[-1]
    assert float(null.abs().sum()) > 0


def test_checkpointing_gives_the_same_gradients() -> None:
    codes, gradients = codes_of("grid"), []
    for on in (False, True):
        network = model("grid")
        if on:
            network.enable_gradient_checkpointing()
        network(codes, condition=LABELS).losses["loss/tokens"].backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["product", "sound"])
def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    network = model(kind, window=2, slot_head="causal", code_hash="ab" * 32)
    network.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert isinstance(again, LlamaGen) and again.spec == network.spec
    codes = codes_of(kind)
    assert torch.equal(
        again(codes, condition=LABELS).logits, network(codes, condition=LABELS).logits
    )
    assert torch.equal(
        sample(again, LABELS, seeds=[1, 2, 3]), sample(network, LABELS, seeds=[1, 2, 3])
    )


def test_z_loss() -> None:
    codes = codes_of("grid")
    network = model("grid", z_loss=0.1)
    out = network(codes, condition=LABELS)
    expected = 0.1 * out.logits.logsumexp(-1).square().mean()
    torch.testing.assert_close(out.losses["loss/z"], expected)


@pytest.mark.parametrize(("options", "error"), [
    ({"window": 5}, "windows of 5 x 5 do not tile a grid of 4 x 6"),
    ({"heads": 5}, "width 32 is no multiple of 5 heads"),
    ({"heads": 16}, "heads are 2 wide"),
    ({"slot_head": "serial"}, "legal are parallel, causal, dim"),
    ({"caption_width": 8}, "exclude each other"),
    ({"spec": SPECS["sound"].to_json()}, "leaves the size along 'time' open"),
])  # fmt: skip
def test_impossible_sizes(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        LlamaGen(**{"spec": SPECS["grid"].to_json(), "classes": 5, **SIZES} | options)


def test_wrong_use_is_a_sentence() -> None:
    network = model("grid")
    with pytest.raises(ConfigError, match="label 5 is out of range; legal is 0 to 4"):
        network(codes_of("grid"), condition=Condition(labels=torch.tensor([0, 1, 5])))
    with pytest.raises(ConfigError, match="needs labels from 0 to 4"):
        sample(network, seeds=[1])
    with pytest.raises(ConfigError, match="captions came in"):
        sample(network, Condition(features=torch.zeros(1, 120, 8)), seeds=[1])
    with pytest.raises(TokenError, match="code 11 is outside"):
        network(torch.full((3, 4, 6), 11), condition=LABELS)
    with pytest.raises(ConfigError, match="guidance needs labels or captions"):
        sample(network, seeds=[1], guidance=Guidance(scale=2.0))
    with pytest.raises(TokenError, match="belong together"):
        sample(network, LABELS, seeds=[1, 2, 3], given=codes_of("grid"))
    scaled = TokenSpec(modality="image", axes=(axis("scale_token", 5),), vocabulary=(4,),
                       scales=((1, 1), (2, 2)))  # fmt: skip
    with pytest.raises(ConfigError, match="use NextScale"):
        LlamaGen(spec=scaled.to_json(), **SIZES)


class Pretender:
    """What `check_fits` looks at of a tokenizer."""

    def __init__(self, spec: TokenSpec, code_hash: str) -> None:
        self.spec, self._hash = spec, code_hash

    def code_hash(self) -> str:
        return self._hash


def test_only_its_own_tokenizer_fits() -> None:
    network = model("grid", code_hash="a" * 64)
    network.check_fits(Pretender(SPECS["grid"], "a" * 64))
    with pytest.raises(TokenError, match=r"\(row 4, column 6\) of 11 and this Pretender makes"):
        network.check_fits(Pretender(SPECS["sequence"], "a" * 64))
    with pytest.raises(TokenError, match="trained on tokens of code hash aaaaaaaaaaaaaaaa"):
        network.check_fits(Pretender(SPECS["grid"], "b" * 64))
