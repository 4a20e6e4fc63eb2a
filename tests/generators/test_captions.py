"""Captions: stored beside tokens, trained on, drawn from, and what does not fit."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from generators.caption_condition import caption_condition, padded_left
from generators.contract import fixed_spec
from generators.llamagen import LlamaGen
from generators.pipelines import TokenAudioPipeline, TokenImagePipeline
from generators.token_data import CaptionedSample, ShardSource, TokenDataConfig, facts_of
from generators.train import GeneratorRun, train
from tessera.cli import run
from tests.tiny_audio import tiny_codec
from tok_core.errors import ConfigError, MediaError
from tok_core.loading import load
from tok_core.run_config import from_mapping
from tok_core.token_shards import TokenShards
from vision_tok.vqgan import VQGAN

WIDTH, LENGTH = 6, 5  # C and T


def numbers(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    side = {"channels": 8, "multipliers": [1, 2, 2], "res_blocks": 1, "attention": []}
    folder = tmp_path_factory.mktemp("tokenizer")
    VQGAN(
        encoder_sizes=side, decoder_sizes=side, z_channels=6, code_dim=4, codebook_size=16,
        norm_groups=4, image_size=16,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures with captions of 1 to 8 positions."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(8):
        Image.effect_noise((16, 16), 20 + i).convert("RGB").save(folder / f"{i}.png")
        np.save(folder / f"{i}.npy", numbers(i + 1, seed=i))
    return folder


def tokenized(pictures: Path | str, out: Path, tokenizer: Path, *options: str) -> int:
    words = ["tokenize", pictures, out, "-m", tokenizer, "--captions", "--per-shard", 3, *options]
    return run([str(word) for word in words])


@pytest.fixture(scope="module")
def shards(pictures: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokens") / "out"
    assert tokenized(pictures, out, tokenizer) == 0
    return out


def recipe(tokenizer: Path, shards: Path, **changes: Any) -> GeneratorRun:
    return from_mapping(GeneratorRun, {
        "model": {"class": "LlamaGen", "config": {"width": 32, "layers": 1, "heads": 2}},
        "data": {"path": str(shards), "tokenizer": str(tokenizer), "captions": LENGTH},
        "train": {"steps": 3, "batch_size": 4, "seed": 0, "ema_decay": 0.0, "device": "cpu"},
        "log": {"every": 1, "pictures_every": 3, "save_every": 0, "tracker": "none"},
        "optimizer": {"lr": 1e-3}, "validation_samples": 4, "shown": 2, "guidance": 2.0,
    } | changes)  # fmt: skip


def test_captions_lie_beside_their_tokens(shards: Path, pictures: Path) -> None:
    held = TokenShards(shards)
    assert held.captioned and held.length == 8
    for i in range(8):
        found = held.caption(i)
        assert found is not None and np.array_equal(found.numpy(), numbers(i + 1, seed=i))
        held.item(i)
    # webdataset pairs members by key: the features are a plain .npy file of it.
    with tarfile.open(sorted(shards.glob("*.tar"))[0]) as tar:
        names = [member.name for member in tar]
        assert names == ["0.tok", "0.npy", "1.tok", "1.npy", "2.tok", "2.npy"]
        member = tar.extractfile("1.npy")
        assert member is not None
        assert np.array_equal(np.load(io.BytesIO(member.read())), numbers(2, seed=1))


def test_captions_of_tar_shards(pictures: Path, tokenizer: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for name in ("0.png", "0.npy", "3.npy", "3.png", "5.png"):
            tar.add(pictures / name, name)
    assert tokenized(tmp_path / "in.tar", tmp_path / "out", tokenizer) == 1
    held = TokenShards(tmp_path / "out")
    found = [held.caption(i) for i in range(held.length)]
    assert [len(each) for each in found if each is not None] == [1, 4]
    assert "has no .npy member" in held.index.skipped[0]["error"]


def test_features_are_padded_at_the_left() -> None:
    features = torch.arange(12.0).view(2, WIDTH)
    x, mask = padded_left(features, 4)
    assert mask.tolist() == [False, False, True, True]
    assert torch.equal(x[2:], features) and not x[:2].any()
    x, mask = padded_left(torch.randn(9, WIDTH), 4)
    assert x.shape == (4, WIDTH) and mask.all()


def test_padding_of_either_side_means_the_same() -> None:
    features = torch.randn(2, 3, WIDTH)
    right = torch.tensor([[1, 1, 0], [1, 1, 1]])
    turned = features.clone()
    turned[0] = features[0].roll(1, 0)
    left = torch.tensor([[0, 1, 1], [1, 1, 1]])
    one = caption_condition(features, right, shape=(LENGTH, WIDTH))
    two = caption_condition(turned, left, shape=(LENGTH, WIDTH))
    assert one.features is not None and two.features is not None and one.mask is not None
    assert torch.equal(one.features, two.features)
    assert one.mask.sum(1).tolist() == [2, 3]


def test_trains_and_draws(tokenizer: Path, shards: Path, tmp_path: Path) -> None:
    folder = train(recipe(tokenizer, shards), tmp_path / "run")
    assert folder is not None
    generator, images = load(folder), load(tokenizer)
    assert generator.captions == (LENGTH, WIDTH) and generator.classes == 0
    pipe = TokenImagePipeline(generator, images)
    embeds = torch.from_numpy(np.stack([numbers(3), numbers(3, seed=1)]))

    def draw(chosen: list[int], **captions: Any) -> torch.Tensor:
        seeds = [torch.Generator().manual_seed(number) for number in chosen]
        return pipe(**captions, guidance_scale=3.0, generator=seeds, output_type="pt").images

    made = draw([0, 1, 2, 3], prompt_embeds=embeds, num_per_label=2)
    assert made.shape == (4, 3, 16, 16)
    # A caption's sample does not depend on what it is drawn beside, nor on its padding.
    wide = torch.cat((embeds[1:], torch.full((1, 2, WIDTH), 9.0)), dim=1)
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    torch.testing.assert_close(draw([3], prompt_embeds=embeds[1]), made[3:])
    torch.testing.assert_close(draw([3], prompt_embeds=wide, prompt_attention_mask=mask), made[3:])


def test_captions_matter(tokenizer: Path, shards: Path) -> None:
    """The loss of a batch follows its captions, and the null caption what is dropped."""
    torch.manual_seed(0)
    images = load(tokenizer)
    model = LlamaGen(
        spec=fixed_spec(images.spec).to_json(), width=32, layers=1, heads=2, caption_width=WIDTH,
        caption_length=LENGTH,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    source = ShardSource(TokenDataConfig(path=str(shards), captions=LENGTH))
    sample = source.item(0)
    assert isinstance(sample, CaptionedSample)
    codes = sample.codes[None]
    one = caption_condition(numbers(3), shape=model.captions)
    two = caption_condition(numbers(3, seed=2), shape=model.captions)
    model.eval()
    with torch.no_grad():
        losses = [float(model(codes, condition=c).losses["loss/tokens"]) for c in (one, two)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_sound_from_captions() -> None:
    codec = tiny_codec()
    spec = fixed_spec(codec.spec, (codec.spec.axes[0].size, 6))
    generator = LlamaGen(
        spec=spec.to_json(), width=32, layers=1, heads=2, caption_width=WIDTH,
        caption_length=LENGTH, code_hash=codec.code_hash(),
    ).eval()  # fmt: skip
    pipe = TokenAudioPipeline(generator, codec)
    embeds = torch.from_numpy(np.stack([numbers(3), numbers(3, seed=1)]))
    made = pipe(prompt_embeds=embeds, guidance_scale=2.0)
    assert made.audios.shape[:2] == (2, 1)


@pytest.mark.parametrize(("call", "error"), [
    ({}, "takes captions; give prompt_embeds"),
    ({"prompt_embeds": torch.zeros(1, 3, WIDTH + 1)}, "prompt_embeds are .* of the text encoder"),
    ({"prompt_embeds": torch.zeros(1, 3, WIDTH).long()}, "prompt_embeds are"),
    ({"prompt_embeds": torch.full((1, 3, WIDTH), torch.nan)}, "hold NaN"),
    ({"prompt_embeds": torch.zeros(1, 3, WIDTH), "class_labels": [1]}, "exclude each other"),
    ({"prompt_embeds": torch.zeros(1, 3, WIDTH), "prompt_attention_mask": torch.ones(2, 3)},
     "prompt_attention_mask has shape"),
    ({"prompt_embeds": torch.zeros(1, 3, WIDTH), "prompt_attention_mask": torch.zeros(1, 3)},
     "has no feature in its mask"),
    ({"prompt_attention_mask": torch.ones(1, 3)}, "without prompt_embeds"),
])  # fmt: skip
def test_wrong_captions_are_a_sentence(tokenizer: Path, call: dict[str, Any], error: str) -> None:
    images = load(tokenizer)
    generator = LlamaGen(
        spec=fixed_spec(images.spec).to_json(), width=32, layers=1, heads=2, caption_width=WIDTH,
        caption_length=LENGTH,
    ).eval()  # fmt: skip
    with pytest.raises(ConfigError, match=error):
        TokenImagePipeline(generator, images)(**call)


def test_labels_take_no_captions(tokenizer: Path) -> None:
    images = load(tokenizer)
    generator = LlamaGen(
        spec=fixed_spec(images.spec).to_json(), width=32, layers=1, heads=2, classes=3
    ).eval()
    with pytest.raises(ConfigError, match="takes no captions"):
        TokenImagePipeline(generator, images)(prompt_embeds=torch.zeros(1, 3, WIDTH))


@pytest.mark.parametrize(("changes", "error"), [
    ({"data": {"captions": LENGTH, "classes": 3}}, "data.captions is 5 beside data.classes"),
    ({"data": {"captions": -1}}, "data.captions is -1"),
    ({"model": {"class": "RAR", "config": {}}}, "a RAR takes labels"),
    ({"model": {"class": "LlamaGen", "config": {"caption_width": 9}}}, "caption_width is 9 but"),
])  # fmt: skip
def test_what_does_not_fit(
    tokenizer: Path, shards: Path, tmp_path: Path, changes: dict[str, Any], error: str
) -> None:
    if "data" in changes:
        changes["data"] = {"path": str(shards)} | changes["data"]
    with pytest.raises(ConfigError, match=error):
        train(recipe(tokenizer, shards, **changes), tmp_path)


def test_shards_without_captions(pictures: Path, tokenizer: Path, tmp_path: Path) -> None:
    words = ["tokenize", pictures, tmp_path / "out", "-m", tokenizer]
    assert run([str(word) for word in words]) == 0
    assert not TokenShards(tmp_path / "out").captioned
    with pytest.raises(ConfigError, match="hold none; make them with tessera tokenize --captions"):
        facts_of(TokenDataConfig(path=str(tmp_path / "out"), captions=LENGTH))


def saved(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def _huge() -> bytes:
    whole = saved(np.zeros((4, WIDTH), np.float32))
    return whole.replace(b"(4, 6), ", b"(4095,6)")


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "no whole .npy file"),
    "text": (lambda: b"a caption", "no whole .npy file"),
    "objects": (lambda: saved(np.array([[{"a": 1}]], dtype=object)), "no whole .npy file"),
    "records": (lambda: saved(np.zeros((2, 2), [("a", "<f4")])), "no whole .npy file"),
    "integers": (lambda: saved(np.zeros((2, WIDTH), np.int64)), "holds int64 of shape"),
    "one axis": (lambda: saved(np.zeros(WIDTH, np.float32)), "holds float32 of shape"),
    "no position": (lambda: saved(np.zeros((0, WIDTH), np.float32)), "holds float32 of shape"),
    "too many": (lambda: saved(np.zeros((5000, 1), np.float16)), "1 to 4096 positions"),
    "cut": (lambda: saved(numbers(4))[:-1], "is cut off"),
    "lying": (_huge, "is cut off"),
    "NaN": (lambda: saved(np.full((2, WIDTH), np.nan, np.float32)), "holds NaN or Inf"),
    "columns first": (lambda: saved(np.asfortranarray(numbers(4))), "no whole .npy file"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_feature_files(kind: str, pictures: Path, tokenizer: Path, tmp_path: Path) -> None:
    data, error = HOSTILE[kind]
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("0.png", "0.npy", "1.png", "2.png"):
        shutil.copy(pictures / name, folder)
    (folder / "1.npy").write_bytes(data())
    assert tokenized(folder, tmp_path / "out", tokenizer) == 1
    held = TokenShards(tmp_path / "out")
    assert held.length == 1
    skipped = {Path(s["source"]).name: s["error"] for s in held.index.skipped}
    assert error in skipped["1.png"] and "no caption features beside it" in skipped["2.png"]


def test_a_damaged_caption_is_passed_over(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    broken = tmp_path / "tokens"
    shutil.copytree(shards, broken)
    held = TokenShards(shards)
    tar = broken / held.index.shards[1].file
    data = bytearray(tar.read_bytes())
    start = int(held.index.shards[1].caption_offsets[0])
    data[start : start + 6] = b"hello!"
    tar.write_bytes(data)
    with pytest.raises(MediaError, match=r"3\.npy holds no caption features"):
        TokenShards(broken).caption(3)
    assert train(recipe(tokenizer, broken), tmp_path / "run") is not None


def test_captions_of_two_encoders(pictures: Path, tokenizer: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    np.save(folder / "5.npy", np.zeros((3, WIDTH + 1), np.float32))
    assert tokenized(folder, tmp_path / "out", tokenizer) == 0
    source = ShardSource(TokenDataConfig(path=str(tmp_path / "out"), captions=2), validation=True)
    with pytest.raises(MediaError, match="has 7 features and those before it 6"):
        source.item(5)
