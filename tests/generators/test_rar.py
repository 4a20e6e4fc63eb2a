"""RAR over every layout of tokens of a fixed number."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from generators import rar_session
from generators.contract import UNCONDITIONAL, Condition
from generators.guidance import Guidance
from generators.random_order import random_orders
from generators.rar import RAR
from generators.sampling import sample
from generators.token_filter import TokenFilter
from tok_core.errors import ConfigError, TokenError, WeightsError
from tok_core.token_spec import Axis, TokenSpec
from vision_tok.maskgit_vqgan import MaskGitVQGAN


def axis(name: str, size: int | None) -> Axis:
    return Axis(name=name, size=size, minimum=size or 1)


SPECS = {
    "grid": TokenSpec(modality="image", axes=(axis("row", 3), axis("column", 4)), vocabulary=(11,)),
    "sequence": TokenSpec(
        modality="image", axes=(Axis(name="token", size=8),), vocabulary=(13,)
    ),
    "product": TokenSpec(
        modality="image", axes=(axis("branch", 2), axis("row", 3), axis("column", 3)),
        vocabulary=(7, 9),
    ),
    "dimensions": TokenSpec(
        modality="image", axes=(axis("row", 2), axis("column", 3), axis("dimension", 3)),
        vocabulary=(4, 4, 4),
    ),
    "scales": TokenSpec(
        modality="image", axes=(axis("scale_token", 5),), vocabulary=(6,), scales=((1, 1), (2, 2))
    ),
}  # fmt: skip
SIZES: dict[str, Any] = {"width": 32, "layers": 2, "heads": 2, "hidden": 48, "classes": 5}
CALM: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0, "condition_dropout": 0.0}
LABELS = Condition(labels=torch.tensor([0, 4, 2]))


def model(kind: str = "grid", **options: Any) -> RAR:
    torch.manual_seed(0)
    made = RAR(SPECS[kind].to_json(), **(SIZES | CALM | options))
    with torch.no_grad():
        for parameter in made.parameters():  # a fresh one is the identity: conditions say nothing
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def codes_of(kind: str = "grid", batch: int = 3, seed: int = 1) -> Tensor:
    spec, draws = SPECS[kind], torch.Generator().manual_seed(seed)
    length = RAR(spec.to_json(), **SIZES).settings.length
    columns = [
        torch.randint(0, size, (batch, length), generator=draws) for size in spec.vocabulary
    ]  # fmt: skip
    sizes = tuple(int(axis.size or 0) for axis in spec.axes)
    return spec.from_sequence(torch.stack(columns, dim=-1), sizes)


# -- logits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("held", [1, 5, 10**6])
def test_steps_give_what_the_whole_gives(
    kind: str, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cached logits equal the teacher-forced ones, however many modulations are held."""
    monkeypatch.setattr(rar_session, "HELD", held)
    network = model(kind)
    seen: dict[tuple[int, int], Tensor] = {}

    def watch(logits: Tensor, places: Tensor, factor: int) -> None:
        seen[int(places), factor] = logits[:, 0]

    guidance = Guidance(scale=3.0, schedule="power_cosine", power=1.5)
    codes = sample(network, LABELS, seeds=[1, 2, 3], guidance=guidance, watch=watch)
    network.spec.check(codes)
    logits = network(codes, condition=LABELS).logits
    rows = network.spec.to_sequence(codes)
    raster = torch.arange(rows.shape[1]).expand(3, -1)
    null = network.predict(rows[:, :-1], raster, network.condition.null(3))
    assert len(seen) == logits.shape[1] * logits.shape[2]
    for (place, factor), drawn in seen.items():
        scale = guidance.at(place, rows.shape[1])
        own = slice(SPECS[kind].vocabulary[factor])
        whole, plain = logits[:, place, factor, own], null[:, place, factor, own]
        torch.testing.assert_close(drawn, plain + (whole - plain) * scale, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", SPECS)
def test_nothing_sees_what_comes_later_in_its_order(kind: str) -> None:
    network, codes = model(kind), codes_of(kind)
    sequence = network.spec.to_sequence(codes)
    orders = random_orders(3, sequence.shape[1], 1.0)
    before = network(codes, condition=LABELS, orders=orders).logits
    moment = sequence.shape[1] // 2
    changed, rows = sequence.clone(), torch.arange(3)
    place = orders[:, moment]
    changed[rows, place] = (changed[rows, place] + 1) % min(network.spec.vocabulary)
    sizes = tuple(codes.shape[1:])
    after = network(
        network.spec.from_sequence(changed, sizes), condition=LABELS, orders=orders
    ).logits
    for row in rows:
        earlier, later = orders[row, : moment + 1], orders[row, moment + 1 :]
        torch.testing.assert_close(before[row, earlier], after[row, earlier])
        # Every later one sees it.
        assert bool(((before - after)[row, later].nan_to_num().abs() > 1e-6).any(-1).all())


def test_padding_of_smaller_vocabularies() -> None:
    logits = model("product")(codes_of("product"), condition=LABELS).logits
    assert logits.shape == (3, 9, 2, 9) and logits.dtype == torch.float32
    assert bool(logits[:, :, 0, 7:].isneginf().all()) and bool(logits[:, :, 1].isfinite().all())


def test_a_batch_gives_what_its_items_give_alone() -> None:
    network, codes = model(), codes_of()
    whole = network(codes, condition=LABELS).logits
    for row in range(3):
        label = Condition(labels=LABELS.labels[row : row + 1])
        alone = network(codes[row : row + 1], condition=label).logits
        torch.testing.assert_close(whole[row : row + 1], alone, rtol=1e-4, atol=1e-5)
    options: dict[str, Any] = {
        "guidance": Guidance(scale=2.0), "token_filter": TokenFilter(top_k=5)
    }  # fmt: skip
    drawn = sample(network, LABELS, seeds=[5, 6, 7], **options)
    for row, seed in enumerate((5, 6, 7)):
        label = Condition(labels=LABELS.labels[row : row + 1])
        assert torch.equal(drawn[row : row + 1], sample(network, label, seeds=[seed], **options))


def test_no_samples_at_all() -> None:
    nothing = Condition(labels=torch.zeros(0, dtype=torch.int64))
    assert sample(model(), nothing, seeds=[], guidance=Guidance(scale=2.0)).shape == (0, 3, 4)


def test_kept_codes_are_kept_and_seen() -> None:
    network, codes = model(), codes_of()
    keep = torch.rand(3, 12, generator=torch.Generator().manual_seed(3)) < 0.5
    keep[:, 0] = True
    seen: list[Tensor] = []
    out = sample(
        network, LABELS, seeds=[1, 2, 3], given=codes, keep=keep,
        watch=lambda logits, places, factor: seen.append(logits),
    )  # fmt: skip
    free = sample(network, LABELS, seeds=[1, 2, 3])
    kept = keep.view(3, 3, 4)
    assert torch.equal(out[kept], codes[kept]) and not torch.equal(free[kept], codes[kept])
    whole = network(out, condition=LABELS).logits[:, :, 0]
    torch.testing.assert_close(torch.cat(seen, dim=1), whole, rtol=1e-4, atol=1e-4)


# -- training ------------------------------------------------------------------------------------


@torch.no_grad()
def loss_of(network: RAR, codes: Tensor) -> float:
    return round(float(network(codes, condition=LABELS).losses["loss/tokens"]), 4)


def test_training_shuffles_with_the_ratio() -> None:
    network, codes = model().train(), codes_of()

    def losses(ratio: float) -> set[float]:
        network.order_ratio = ratio
        found = set()
        for seed in range(4):
            torch.manual_seed(seed)
            found.add(loss_of(network, codes))
        return found

    raster = loss_of(network.eval(), codes)
    network.train()
    assert losses(0.0) == {raster}
    assert len(losses(1.0)) == 4
    network.order_ratio = 1.1
    with pytest.raises(ConfigError, match="order_ratio"):
        network(codes, condition=LABELS)


def test_the_order_decides_nothing_but_the_logits() -> None:
    network, codes = model(), codes_of()
    plain = network(codes, condition=LABELS)
    raster = torch.arange(12).expand(3, -1)
    given = network(codes, condition=LABELS, orders=raster)
    assert torch.equal(plain.logits, given.logits)
    assert plain.statistics["loss_per_position"].shape == (12,)
    mean = plain.statistics["loss_per_position"].mean()
    torch.testing.assert_close(mean, plain.losses["loss/tokens"])


def test_training_drops_labels() -> None:
    network, codes = model(condition_dropout=0.999999), codes_of()
    null = network.condition.null(3)
    sequence = network.spec.to_sequence(codes)
    raster = torch.arange(12).expand(3, -1)
    network.order_ratio = 0.0
    torch.testing.assert_close(
        network.train()(codes, condition=LABELS).logits,
        network.predict(sequence[:, :-1], raster, null),
    )
    assert not torch.allclose(
        network.eval()(codes, condition=LABELS).logits,
        network.predict(sequence[:, :-1], raster, null),
    )


@pytest.mark.parametrize("kind", SPECS)
def test_every_parameter_learns(kind: str) -> None:
    network = model(kind, condition_dropout=0.5).train()
    torch.manual_seed(1)
    out = network(codes_of(kind, 8), condition=Condition(labels=torch.arange(8) % 5))
    out.losses["loss/tokens"].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # A key's bias moves all scores of a query alike.
        assert parameter.grad.abs().max() > 0 or name.endswith("key_norm.bias"), name
        assert bool(parameter.grad.isfinite().all()), name


def test_dropout_is_for_training() -> None:
    network, codes = model(dropout=0.5, attention_dropout=0.5), codes_of()
    network.order_ratio = 0.0
    calm = model()(codes, condition=LABELS).logits
    torch.testing.assert_close(network(codes, condition=LABELS).logits, calm)
    assert not torch.allclose(network.train()(codes, condition=LABELS).logits, calm, atol=1e-3)


def test_gradient_checkpointing_changes_nothing() -> None:
    gradients = []
    for checkpointing in (False, True):
        network = model().train()
        network.order_ratio = 0.0
        if checkpointing:
            network.enable_gradient_checkpointing()
            assert network.trunk.gradient_checkpointing
        network(codes_of(), condition=LABELS).losses["loss/tokens"].backward()
        gradients.append([p.grad for p in network.parameters()])
    torch.testing.assert_close(*gradients)


def test_it_learns_what_it_is_shown() -> None:
    """Two labels, two pictures: trained on random orders first, then greedy in raster order."""
    torch.manual_seed(0)
    network = RAR(SPECS["grid"].to_json(), **(SIZES | CALM))
    codes, labels = codes_of(batch=2), Condition(labels=torch.tensor([1, 3]))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(120):
        network.order_ratio = 1.0 if step < 80 else 0.0
        loss = network(codes, condition=labels).losses["loss/tokens"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = sample(network.eval(), labels, seeds=[0, 0], token_filter=TokenFilter(temperature=0.0))
    assert torch.equal(drawn, codes)


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SPECS)
def test_saved_and_loaded_anew(kind: str, tmp_path: Path) -> None:
    network = model(kind, code_hash="ab" * 32)
    network.save_pretrained(tmp_path)
    again = RAR.from_pretrained(tmp_path)
    assert not again.training and again.spec == SPECS[kind]
    assert again.config["code_hash"] == "ab" * 32 and again.settings == network.settings
    codes = codes_of(kind)
    with torch.no_grad():
        assert torch.equal(
            again(codes, condition=LABELS).logits, network(codes, condition=LABELS).logits
        )
    assert again.weights_hash() == network.weights_hash()


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"classes": 5', '"classes": 6'))
    with pytest.raises(WeightsError):
        RAR.from_pretrained(tmp_path)


def test_bfloat16() -> None:
    network = model().to(torch.bfloat16)
    codes = sample(network, LABELS, seeds=[1, 2, 3], guidance=Guidance(scale=2.0))
    network.spec.check(codes)
    assert network(codes, condition=LABELS).logits.dtype == torch.float32


# -- who fits whom -------------------------------------------------------------------------------


def test_a_free_grid_takes_any_grid() -> None:
    tokenizer = MaskGitVQGAN(hidden_channels=32, channel_mult=(1, 1), num_res_blocks=1,
                             z_channels=8, codebook_size=11)  # fmt: skip
    model().check_fits(tokenizer)
    with pytest.raises(TokenError, match=r"row 3, column 4.*of 11.*row free.*of 12"):
        model().check_fits(MaskGitVQGAN(
            hidden_channels=32, channel_mult=(1, 1), num_res_blocks=1, z_channels=8,
            codebook_size=12,
        ))  # fmt: skip
    with pytest.raises(TokenError, match="code hash"):
        model(code_hash="00" * 32).check_fits(tokenizer)


def test_without_classes() -> None:
    network, codes = model(classes=0), codes_of()
    assert network(codes).losses["loss/tokens"].isfinite()
    assert sample(network, UNCONDITIONAL, seeds=[1, 2]).shape == (2, 3, 4)
    with pytest.raises(ConfigError, match="guidance needs labels"):
        sample(network, UNCONDITIONAL, seeds=[1], guidance=Guidance(scale=2.0))
    with pytest.raises(ConfigError, match="no classes"):
        network(codes, condition=LABELS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 3}, "no multiple"), ({"layers": 0}, "layers is 0"), ({"width": 8.0}, "width"),
        ({"classes": -1}, "classes is -1"), ({"dropout": 1.0}, "dropout is 1.0"),
        ({"condition_dropout": -0.1}, "condition_dropout is -0.1"), ({"hidden": 0}, "hidden is 0"),
    ],
)  # fmt: skip
def test_impossible_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        RAR(SPECS["grid"].to_json(), **(SIZES | options))


def test_impossible_specs() -> None:
    free = TokenSpec(modality="image", axes=(axis("row", None), axis("column", 4)), vocabulary=(4,))
    with pytest.raises(ConfigError, match="leaves the size along 'row'"):
        RAR(free.to_json(), **SIZES)
    with pytest.raises(TokenError, match="no|not a token spec"):
        RAR("{", **SIZES)


def test_impossible_inputs() -> None:
    network = model("sequence")
    codes = codes_of("sequence")
    with pytest.raises(TokenError, match="5 positions"):
        network(codes[:, :5], condition=LABELS)
    with pytest.raises(TokenError, match="outside the vocabulary"):
        network(codes + 13, condition=LABELS)
    with pytest.raises(ConfigError, match="needs labels"):
        network(codes)
    with pytest.raises(ConfigError, match="label 5"):
        network(codes, condition=Condition(labels=torch.tensor([0, 5, 1])))
    with pytest.raises(TokenError, match="permutations"):
        network(codes, condition=LABELS, orders=torch.zeros(3, 8, dtype=torch.int64))
    with pytest.raises(ConfigError, match="one each"):
        sample(network, LABELS, seeds=[1])
