"""pFID: settings, mean, counts, state, other tokenizers, one and two processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_audio import tiny_codec
from torch import Tensor
from torchmetrics import Metric

from eval.perturbed_decoding import (
    GRIDS,
    ROBUSTTOK,
    PerturbationGrid,
    PerturbedDecoder,
    grid_named,
    setting_label,
)
from eval.pfid import PerturbedDistance
from tests.eval.tiny_tokenizers import MeanDistance, pictures, tiny_titok
from tests.two_processes import in_two
from tok_core.errors import ConfigError
from tok_core.image_measures import to_uint8
from tok_core.latent_neighbours import latent_neighbours
from tok_core.latent_perturbation import Perturbation
from vision_tok.maskgit_vqgan import MaskGitVQGAN

GRID = PerturbationGrid.product("test", (0.25, 0.9), (2, 400), seed=4)


def score(tokenizer: Any = None, **options: Any) -> PerturbedDistance:
    options = {"grid": GRID, "value": "distance"} | options
    return PerturbedDistance(tokenizer or tiny_titok(), MeanDistance, **options)


def scores(metric: PerturbedDistance, x: Tensor, batch: int = 5) -> dict[str, float]:
    for at in range(0, len(x), batch):
        metric.update(x[at : at + batch], range(at, min(at + batch, len(x))))
    return {name: float(value) for name, value in metric.compute().items()}


def test_every_setting_and_their_mean() -> None:
    found = scores(score(), pictures(10))
    labels = [setting_label(one) for one in GRID.settings]
    assert labels[0] == "alpha=0.25,delta=2"
    each = [found[f"pfid/{label}"] for label in labels]
    assert found["pfid"] == pytest.approx(sum(each) / 4, rel=1e-12)
    assert len({*each, found["pfid/clean"]}) == 5
    assert found["pfid/samples"] == 10
    # 32 codes: delta 400 is clipped, so 1 in 32 of the draws changes nothing.
    assert found[f"pfid/changed/{labels[3]}"] == pytest.approx(0.9 * 31 / 32, abs=0.12)
    assert found[f"pfid/changed/{labels[0]}"] == pytest.approx(0.25 / 2, abs=0.09)


def test_it_is_the_distance_of_the_perturbed_pictures() -> None:
    """Against the same steps by hand: encode, perturb, decode, bytes, distance."""
    model, x = tiny_titok(), pictures(6)
    found = scores(score(model), x)
    for batch in PerturbedDecoder(tokenizer=model, grid=GRID).decodings(x, range(6)):
        by_hand = MeanDistance()
        by_hand.update(to_uint8(x), real=True)
        by_hand.update(to_uint8(batch.decoded), real=False)
        assert found[f"pfid/{batch.label}"] == pytest.approx(float(by_hand.compute()["distance"]))
    plain = to_uint8(model.decode(model.encode(x)))
    first = next(iter(PerturbedDecoder(tokenizer=model, grid=GRID).decodings(x, range(6))))
    assert torch.equal(to_uint8(first.decoded), plain)


def test_batches_do_not_matter_and_seeds_do() -> None:
    x = pictures(10)
    whole = scores(score(), x, 10)
    assert scores(score(), x, 3) == pytest.approx(whole, rel=1e-9)
    assert scores(score(decode_batch=2), x, 10) == pytest.approx(whole, rel=1e-9)
    other = PerturbationGrid.product("other", (0.25, 0.9), (2, 400), seed=5)
    assert scores(score(grid=other), x)["pfid"] != whole["pfid"]


def test_stronger_settings_lie_further_away() -> None:
    grid = PerturbationGrid.product("ladder", (0.0, 0.5, 1.0), (32,))
    found = scores(score(grid=grid), pictures(40), 40)
    assert found["pfid/alpha=0,delta=32"] == found["pfid/clean"]
    steps = [found[f"pfid/changed/alpha={a:g},delta=32"] for a in (0.0, 0.5, 1.0)]
    assert steps == sorted(steps)
    assert steps[0] == 0


def test_reset_and_state() -> None:
    x, metric = pictures(8), score()
    before = scores(metric, x)
    saved = {name: value.clone() for name, value in metric.state_dict().items()}
    assert not any("latent_tokens" in name for name in saved)
    resumed = score()
    resumed.load_state_dict(saved)
    for one in (resumed, *resumed.distances):
        one._update_count = 1  # torchmetrics warns of a metric that was never updated
    now = {name: float(value) for name, value in resumed.compute().items()}
    assert now == pytest.approx(before, rel=1e-12)
    metric.reset()
    assert scores(metric, x) == before


def test_a_distance_without_shared_states_sees_every_original() -> None:
    x = pictures(6)
    model, names = tiny_titok(), lambda: MeanDistance("x_")
    metric = PerturbedDistance(model, names, grid=GRID, value="distance")
    assert scores(metric, x) == pytest.approx(scores(score(), x))


@pytest.mark.parametrize("neighbourhood", ["code", "latent"])
@pytest.mark.parametrize("kind", ["1d", "grid"])
def test_tokenizers_of_both_layouts(kind: str, neighbourhood: str) -> None:
    torch.manual_seed(0)
    model: Any = tiny_titok()
    if kind == "grid":
        sizes = {"hidden_channels": 32, "channel_mult": [1, 1], "num_res_blocks": 1}
        model = MaskGitVQGAN(**sizes, z_channels=8, codebook_size=24).eval()
        model.quantizer.codebook.data.normal_()
    grid = PerturbationGrid.product("one", (1.0,), (6,), neighbourhood=neighbourhood)
    found = scores(score(model, grid=grid), pictures(6))
    assert found["pfid/changed/alpha=1,delta=6"] == pytest.approx(5 / 6, abs=0.15)
    assert found["pfid"] != found["pfid/clean"]


@pytest.mark.parametrize("levels", [1, 2])
def test_latents_of_a_codec_lead_to_its_codes(levels: int) -> None:
    """Residual levels: the neighbours are those of what the levels before left over."""
    codec = tiny_codec(num_codebooks=levels)
    x = torch.randn(2, 1, 1600).mul(0.1)
    tokens = codec.encode(x)
    found = latent_neighbours(codec, x, tokens, 5)
    codes = codec.spec.to_sequence(tokens.codes)
    for level in range(levels):
        assert found[level].shape == (*codes.shape[:2], 5)
        assert float((found[level][..., 0] == codes[..., level]).float().mean()) > 0.98
    with pytest.raises(ConfigError, match="neighbourhood 'code'"):
        latent_neighbours(codec, x.flip(-1), tokens, 5)


def test_tables_are_searched_once_and_again_when_the_codebook_moves() -> None:
    model, x = tiny_titok(), pictures(4)
    decoder = PerturbedDecoder(tokenizer=model, grid=GRID)
    list(decoder.decodings(x, range(4)))
    tables = decoder.tables
    assert tables[0].shape == (32, 32)
    list(decoder.decodings(x, range(4)))
    assert decoder.tables is tables
    with torch.no_grad():
        model.quantizer.codebook.copy_(torch.randn(32, 6))
    list(decoder.decodings(x, range(4)))
    assert not torch.equal(decoder.tables[0], tables[0])


def test_the_preset_says_what_it_is() -> None:
    assert grid_named("robusttok-reconstructed") is ROBUSTTOK
    assert "secondary sources" in ROBUSTTOK.describe()["provenance"]
    assert len(ROBUSTTOK.settings) == 15
    assert {one.beta for one in ROBUSTTOK.settings} == {1.0}
    with pytest.raises(ConfigError, match="robusttok-reconstructed"):
        grid_named("robustok-reconstructed")
    assert all(grid.name == name for name, grid in GRIDS.items())


def test_the_protocol_is_plain_json() -> None:
    told = json.loads(json.dumps(score().protocol()))
    assert told["seed"] == 4
    assert told["neighbourhood"] == "code"
    assert told["delta_clipped_to"] == 32
    assert told["settings"][1] == {"alpha": 0.25, "beta": 1.0, "delta": 400}


def test_wrong_use_is_told() -> None:
    with pytest.raises(ConfigError, match="audio"):
        score(tiny_codec())
    with pytest.raises(ConfigError, match="'fid'"):
        scores(score(value="fid"), pictures(2))
    with pytest.raises(ConfigError, match="2 items came with 3 indices"):
        score().update(pictures(2), range(3))
    with pytest.raises(ConfigError, match="each once"):
        PerturbationGrid.product("twice", (0.5, 0.5), (2,))
    mixed = tuple(Perturbation(alpha=0.5, delta=2, neighbourhood=n) for n in ("code", "latent"))
    with pytest.raises(ConfigError, match="mixes"):
        PerturbationGrid(name="mixed", settings=mixed)


def test_the_mean_has_equal_weights() -> None:
    class Scripted(Metric):
        """Returns 1 for the clean pictures, then the next number of a list."""

        numbers = iter([1.0, 3.0, 4.5, 6.0, 9.5])

        def update(self, images: Tensor, *, real: bool) -> None:
            """Look at nothing."""

        def compute(self) -> Tensor:
            """Return the number."""
            return torch.tensor(next(self.numbers))

    metric = PerturbedDistance(tiny_titok(), Scripted, grid=GRID)
    assert scores(metric, pictures(2))["pfid"] == pytest.approx(5.75)


def share(rank: int) -> dict[str, float]:
    """What one of two processes finds."""
    metric, x = score(), pictures(10)
    for mine in torch.arange(rank, 10, 2).split(3):
        metric.update(x[mine], mine.tolist())
    return {name: float(value) for name, value in metric.compute().items()}


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    two, _ = in_two(share, tmp_path)
    assert two == pytest.approx(scores(score(), pictures(10)), rel=1e-9)
