"""``tessera calibrate``: measured tokenizers of pictures and sound, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from audio_tok.kl_codec import KLCodec
from tests.tiny_audio import write_sound
from tok_core.loading import load
from vision_tok.kl_autoencoder import KLAutoencoder
from vision_tok.token_bridge import TokenBridgeTokenizer

from .conftest import Tessera, one_sentence

VAE: dict[str, Any] = {"block_out_channels": [8, 8, 16], "layers_per_block": 1,
                       "latent_channels": 4, "norm_num_groups": 4}  # fmt: skip
CODEC: dict[str, Any] = {"sample_rate": 8000, "strides": [2, 2, 4], "encoder_width": 4,
                         "latent_dim": 4, "width": 32, "hidden": 48, "layers": 2}  # fmt: skip


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae") / "model"
    KLAutoencoder(VAE, image_size=16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("codec") / "model"
    KLCodec(**CODEC).save_pretrained(folder)
    return folder


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    for i in range(3):
        write_sound(tmp_path / "sounds" / f"{i}.wav", 0.5, seed=i)
    return tmp_path / "sounds"


def test_pictures_of_a_folder(tessera: Tessera, vae: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["calibrate", vae, "-o", out, "--data", photos, "--bits", 4, "--patch-size", 2,
             "--per-channel", "--dtype", "float16"]  # fmt: skip
    done = tessera(*words)
    assert done.returncode == 0, done.stderr
    assert "channel order" in done.stdout and f"of 4 bits a dimension is in {out}" in done.stdout
    made = load(out)
    assert made.spec.vocabulary == (16,) * 16 and made.spec.grid == (2, 2)
    assert len(made.config["scale"]) == 4 and sorted(made.config["channel_order"]) == [*range(16)]
    source = load(vae)
    assert torch.equal(
        made.autoencoder.quant_conv.weight, source.autoencoder.quant_conv.weight.half().float()
    )
    assert "nothing is overwritten without --force" in one_sentence(tessera(*words))
    done = tessera(*words, "--force", "--json")
    facts = json.loads(done.stdout)
    assert facts["class"] == "TokenBridgeTokenizer" and facts["bits"] == 4
    assert facts["scale"] == made.config["scale"] and facts["high"] == -facts["low"] > 0


def test_what_it_says_is_what_the_pictures_have(
    tessera: Tessera, vae: Path, tmp_path: Path
) -> None:
    """Latents of its own data are of unit variance, and inside of the range."""
    from vision_tok.calibrate import picture_batches
    from vision_tok.image_data import ImageDataConfig

    words = ["calibrate", vae, "-o", tmp_path / "out", "--data", "natural", "--count", 20]
    assert tessera(*words).returncode == 0
    made = load(tmp_path / "out")
    data = ImageDataConfig(path="natural", size=16, flip=False)
    x = torch.cat(list(picture_batches(data, count=20)))
    with torch.no_grad():
        z = made.latents(x)
        made.encode(x)
    assert float(z.std()) == pytest.approx(1, abs=0.01)
    assert float(z.mean()) == pytest.approx(0, abs=0.01)
    assert made.clipped.share < 1e-3


def test_sounds_of_a_folder(tessera: Tessera, codec: Path, sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["calibrate", codec, "-o", out, "--data", sounds, "--count", 5, "--seconds", 0.2,
             "--bits", 5, "--per-channel"]  # fmt: skip
    done = tessera(*words)
    assert done.returncode == 0, done.stderr
    assert "DimensionWiseCodec of 5 bits" in done.stdout
    made = load(out)
    assert made.spec.vocabulary == (32,) * 4 and len(made.config["scale"]) == 4
    x = torch.rand(1, 1, 1000) - 0.5
    assert made.decode(made.encode(x)).shape == x.shape
    done = tessera("encode", sounds, "-o", tmp_path / "tokens", "-m", out)
    assert done.returncode == 0, done.stderr


def test_a_tokenizer_is_measured_anew(
    tessera: Tessera, vae: Path, codec: Path, photos: Path, sounds: Path, tmp_path: Path
) -> None:
    """The warning about clipped latents names this command, and its reader has a tokenizer."""
    for model, data, more in ((vae, photos, []), (codec, sounds, ["--seconds", 0.2])):
        old, new = tmp_path / f"{data.name}-old", tmp_path / f"{data.name}-new"
        words = ["calibrate", "--data", data, "--count", 5, *more]
        assert tessera(*words, model, "-o", old, "--bits", 3).returncode == 0
        assert tessera(*words, old, "-o", new).returncode == 0
        before, after = load(old), load(new)
        assert after.config["scale"] == pytest.approx(before.config["scale"], rel=1e-4)
        assert (before.config["bits"], after.config["bits"]) == (3, 6)
    assert tessera("calibrate", "token-bridge-tiny", "-o", tmp_path / "shipped", "--data",
                   "natural", "--count", 2).returncode == 0  # fmt: skip


def test_what_is_refused(
    tessera: Tessera, vae: Path, codec: Path, photos: Path, sounds: Path, tmp_path: Path
) -> None:
    def error(model: object, data: object, *more: object) -> str:
        words = ["calibrate", model, "-o", tmp_path / "out", "--data", data, "--count", 2, *more]
        return one_sentence(tessera(*words))

    assert "nowhere" in error("./nowhere", photos)
    assert "nothing" in error(vae, tmp_path / "nothing")
    assert "nothing" in error(codec, tmp_path / "nothing")
    assert "give 1 to 16" in error(vae, photos, "--bits", 20)
    assert "--seconds belongs to sound" in error(vae, photos, "--seconds", 1)
    assert "--patch-size belongs to pictures" in error(codec, sounds, "--patch-size", 2)
    assert "percentile is 101" in error(vae, photos, "--percentile", 101)
    assert "seconds is -1" in error(codec, sounds, "--seconds", -1)
    assert "is a VQGAN, which has no Gaussian latents" in error("vqgan-tiny", photos)
    assert "is a WavTokenizer, which has" in error("wavtokenizer-tiny", sounds)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    assert "no picture to calibrate on can be read" in error(vae, tmp_path / "broken")
    KLAutoencoder(VAE).save_pretrained(tmp_path / "sizeless")
    assert "give one with --size" in error(tmp_path / "sizeless", photos)
    assert not (tmp_path / "out").exists()


def test_errors_name_the_command(vae: Path) -> None:
    from audio_tok.dimension_wise_codec import DimensionWiseCodec
    from tok_core.errors import ConfigError

    for make in (lambda: TokenBridgeTokenizer(VAE), lambda: DimensionWiseCodec(**CODEC)):
        with pytest.raises(ConfigError, match="with tessera calibrate, or"):
            make()
    model = TokenBridgeTokenizer.from_vae(vae, scale=100.0, image_size=16)
    with pytest.warns(UserWarning, match="with tessera calibrate, or"):
        model.encode(torch.rand(2, 3, 16, 16) * 2 - 1)
