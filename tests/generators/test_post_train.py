"""Decoder post-training: pairs in token space and as pictures, resume, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from generators.contract import fixed_spec
from generators.llamagen import LlamaGen
from generators.maskgit import MaskGIT
from generators.pair_maker import PairMaker, PairsConfig, keep_mask, make_pairs
from generators.post_train import AudioPostTraining, ImagePostTraining, main
from generators.train import GeneratorRun
from tests.tiny_audio import tiny_codec
from tok_core.loading import load
from tok_core.procedural_images import ProceduralClasses
from tok_core.run_config import load_config
from tok_core.token_pairs import PairSource
from tok_core.token_shards import TokenShards
from vision_tok.vqgan import VQGAN

SIZES: dict[str, Any] = {"width": 32, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 16 x 16 pictures, 4 x 4 tokens, and generators of them."""
    torch.manual_seed(0)
    side = {"channels": 8, "multipliers": [1, 2, 2], "res_blocks": 1, "attention": []}
    tokenizer = VQGAN(
        encoder_sizes=side, decoder_sizes=side, z_channels=6, code_dim=4, codebook_size=16,
        norm_groups=4, image_size=16,
    ).eval()  # fmt: skip
    spec, known = fixed_spec(tokenizer.spec).to_json(), tokenizer.code_hash()
    folder = tmp_path_factory.mktemp("models")
    tokenizer.save_pretrained(folder / "tokenizer")
    LlamaGen(spec=spec, code_hash=known, classes=12, **SIZES).save_pretrained(folder / "llamagen")
    LlamaGen(spec=spec, code_hash=known, classes=12, window=2, **SIZES).save_pretrained(
        folder / "shuffle"
    )
    MaskGIT(
        spec=spec, code_hash=known, classes=12, width=32, layers=1, heads=2
    ).save_pretrained(folder / "maskgit")
    return folder


def recipe(folder: Path, models: Path, **changes: Any) -> list[str]:
    """Return the arguments of a short post-training into ``folder``."""
    (folder / "recipe.yaml").write_text(json.dumps({
        "name": "post", "model": {"from": str(models / "tokenizer")},
        "data": {
            "source": "classes", "size": 16,
            "pairs": {"path": str(folder / "pairs"), "generator": str(models / "llamagen"),
                      "count": 10, "batch_size": 4},
        },
        "objective": {"picture_range": "signed", "l2_weight": 4.0, "quantizer_weight": 0.0},
        "optimizer": {"lr": 1e-3}, "schedule": {"warmup": 1},
        "train": {"steps": 4, "batch_size": 4, "train_only": "decoder", "device": "cpu"},
        "log": {"every": 1, "validate_every": 0, "pictures_every": 0, "save_every": 2,
                "tracker": "none"},
        "validation_images": 2,
    }))  # fmt: skip
    words = [f"--set={key}={value}" for key, value in changes.items()]
    return ["--config", str(folder / "recipe.yaml"), "--out", str(folder / "run"), *words]


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("generator", ["llamagen", "shuffle", "maskgit"])
def test_decoder_alone_learns_from_pairs(generator: str, models: Path, tmp_path: Path) -> None:
    changes = {"data.pairs.generator": models / generator}
    assert main(recipe(tmp_path, models, **changes)) == 0
    before, after = load(models / "tokenizer"), load(tmp_path / "run" / "model")
    assert after.code_hash() == before.code_hash() and after.weights_hash() != before.weights_hash()
    load(models / generator).check_fits(after)
    shards = TokenShards(tmp_path / "pairs")
    assert shards.length == 10 and shards.views == ("real", "generated")
    source = ProceduralClasses(16, 0)
    for index in (0, 7):
        pixels = torch.from_numpy(source.pixels(index)[0]).permute(2, 0, 1)[None]
        real, _ = shards.item(index)
        with torch.inference_mode():
            again = before.encode(pixels.float() / 127.5 - 1).codes[0]
        assert torch.equal(real, again)
        made, _ = shards.item(index, view=1)
        kept = keep_mask(0, index, 16, 0.7).view(4, 4)
        assert torch.equal(made[kept], real[kept]) and not torch.equal(made, real)


def test_preservation_from_generation_to_reconstruction(models: Path, tmp_path: Path) -> None:
    def pairs(name: str, preservation: float, **more: Any) -> PairSource:
        tokenizer, generator = load(models / "tokenizer"), load(models / "llamagen")
        config = PairsConfig(
            path=str(tmp_path / name), count=24, preservation=preservation, batch_size=8, **more
        )
        source = Labelled()
        make_pairs(PairMaker(config, generator, tokenizer, source, {}), tmp_path / name)
        return PairSource(tmp_path / name, source)

    shares = []
    for preservation in (0.0, 0.5, 1.0):
        shards = pairs(f"at{preservation}", preservation).shards
        same = [
            (shards.item(i)[0] == shards.item(i, view=1)[0]).float().mean() for i in range(24)
        ]
        shares.append(float(torch.stack(same).mean()))
    assert shares[0] < 0.3 and 0.4 < shares[1] < 0.75 and shares[2] == 1.0
    one, other = (pairs(name, 0.5, seed=seed) for name, seed in (("a", 1), ("b", 2)))
    assert not torch.equal(one.item(3).codes, other.item(3).codes)  # type: ignore[union-attr]


class Labelled:
    """Labelled pictures of 16 pixels by number."""

    length = 24

    def item(self, index: int) -> torch.Tensor:
        pixels = torch.from_numpy(ProceduralClasses(16, 0).pixels(index)[0])
        return pixels.permute(2, 0, 1).float() / 127.5 - 1

    def label(self, index: int) -> int:
        return ProceduralClasses(16, 0).pixels(index)[1]


def test_pairs_and_training_go_on_where_they_were(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    assert main(recipe(whole, models)) == 0
    made = PairMaker.part

    def dies(self: PairMaker, run: Any, number: int) -> int:
        if number == 2:
            raise KeyboardInterrupt
        return made(self, run, number)

    monkeypatch.setattr(PairMaker, "part", dies)
    assert main(recipe(cut, models)) == 130
    done: list[int] = []

    def counts(self: PairMaker, run: Any, number: int) -> int:
        done.append(number)
        return made(self, run, number)

    monkeypatch.setattr(PairMaker, "part", counts)
    assert main(recipe(cut, models)) == 0
    assert done == [2], "finished parts are not made again"
    for name in ("index.json", "shard-000000.tar"):
        assert (whole / "pairs" / name).read_bytes() == (cut / "pairs" / name).read_bytes()
    assert losses(whole) == losses(cut)
    assert main(recipe(cut, models, **{"train.steps": 6}) + ["--resume"]) == 0
    assert done == [2] and len(losses(cut)) == 6


def test_official_round_trip_of_pictures(models: Path, tmp_path: Path) -> None:
    changes = {
        "data.pairs.mode": "pixels", "train.train_only": "null", "train.freeze": "[encoder]",
        "objective.quantizer_weight": 1.0,
    }  # fmt: skip
    assert main(recipe(tmp_path, models, **changes)) == 0
    assert len(list((tmp_path / "pairs" / "pictures").glob("*.png"))) == 10
    before, after = load(models / "tokenizer"), load(tmp_path / "run" / "model")
    moved = {
        name.split(".")[0] for (name, a), (_, b) in
        zip(before.named_parameters(), after.named_parameters(), strict=True)
        if not torch.equal(a, b)
    }  # fmt: skip
    assert "decoder" in moved and "encoder" not in moved and len(moved) > 1
    pair: Any = PairSource(tmp_path / "pairs", Labelled(), pictures=True).item(3)
    codes = TokenShards(tmp_path / "pairs").item(3, view=1)[0]
    with torch.inference_mode():
        decoded = before.decode(codes[None])[0]
    assert float((pair.shown - decoded).abs().max()) < 1 / 127


def test_sound(tmp_path: Path) -> None:
    codec = tiny_codec()
    hop = round(codec.spec.input_rate / codec.spec.token_rate)
    codec.save_pretrained(tmp_path / "tokenizer")
    spec = fixed_spec(codec.spec, (codec.spec.axes[0].size, 32))
    LlamaGen(spec=spec.to_json(), code_hash=codec.code_hash(), **SIZES).save_pretrained(
        tmp_path / "llamagen"
    )
    words = recipe(tmp_path, tmp_path)
    given = json.loads((tmp_path / "recipe.yaml").read_text())
    given["data"] = {
        "source": "noise", "segment": 32 * hop, "sample_rate": codec.spec.input_rate,
        "pairs": given["data"]["pairs"],
    }  # fmt: skip
    given["objective"] = {
        "sample_rate": codec.spec.input_rate, "commitment_weight": 0.0,
        **{kind: {"start": 100, "channels": small} for kind, small in
           (("period", [4, 4, 4]), ("resolution", 4))},
    }  # fmt: skip
    given["validation_sounds"] = 1
    del given["validation_images"]
    (tmp_path / "recipe.yaml").write_text(json.dumps(given))
    assert main(words) == 0
    after = load(tmp_path / "run" / "model")
    assert after.code_hash() == codec.code_hash() and after.weights_hash() != codec.weights_hash()
    pixels = [*words, "--set=data.pairs.mode=pixels", f"--set=data.pairs.path={tmp_path / 'p'}"]
    assert main([*pixels, "--set=train.train_only=null"]) == 2


def test_what_is_refused(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(**changes: Any) -> str:
        assert main(recipe(tmp_path, models, **changes)) == 2
        return capsys.readouterr().err

    assert "set it to decoder" in error(**{"train.train_only": "null"})
    assert "model.from names no tokenizer" in error(**{"model.from": "null"})
    assert "less than or equal to 1" in error(**{"data.pairs.preservation": 1.5})
    assert "the size it was trained on" in error(**{"data.size": 32})
    assert "has no class" in error(**{"data.source": "natural"})
    assert "would round encoder and codebook" in error(**{"export.dtype": "float16"})
    shutil.rmtree(tmp_path / "pairs")
    nowhere = {"data.pairs.generator": "null", "data.pairs.path": tmp_path / "nowhere"}
    assert "nowhere" in error(**nowhere)
    assert main(recipe(tmp_path, models)) == 0
    shutil.rmtree(tmp_path / "run")
    other = {"data.pairs.preservation": 0.5}
    assert "pairs made with another preservation" in error(**other)
    without = {"data.pairs.generator": "null"}
    assert "were made with data.seed 0 and now it is 3" in error(**without, **{"data.seed": 3})
    torch.manual_seed(1)
    stranger = load(models / "tokenizer")
    torch.nn.init.normal_(next(stranger.encoder.parameters()))
    stranger.save_pretrained(tmp_path / "stranger")
    wrong = {**without, "model.from": tmp_path / "stranger"}
    assert "give the one that made them" in error(**wrong)


def test_recipes_have_the_published_numbers() -> None:
    configs = Path(__file__).parents[2] / "assets" / "configs"
    official = load_config(ImagePostTraining, configs / "post-train-robus-tok.yaml")
    pairs = official.data.pairs
    assert (pairs.count, pairs.preservation, pairs.views) == (200_000, 0.7, "centre")
    assert (pairs.guidance, pairs.guidance_power, pairs.temperature) == (6.0, 1.15, 1.02)
    # 100 epochs of 200,000 pairs at 1,024 a step.
    assert official.train.steps == 100 * round(pairs.count / 1024) == 19_500
    assert official.optimizer.lr == 5e-5 and official.objective.discriminator_start == 0
    tiny = load_config(ImagePostTraining, configs / "post-train-tiny.yaml")
    speech = load_config(AudioPostTraining, configs / "post-train-speech-tiny.yaml")
    generator = load_config(GeneratorRun, configs / "generator-speech-tiny.yaml")
    assert generator.data.signals is not None
    assert speech.data.segment == generator.data.signals["segment"], "what the generator draws"
    assert speech.data.pairs.generator == f"assets/models/{generator.name}"
    assert speech.model.from_ == generator.data.tokenizer
    assert all(config.train.train_only == "decoder" for config in (official, tiny, speech))
