"""The continuous autoencoder: shapes, sampling, loss, files, training from its recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pictures import pictures, spread

from eval.contestants_tokenizer import TokenizerContestant
from tok_core.errors import ConfigError, MediaError, TokenError, WeightsError
from tok_core.loading import load
from tok_core.run_config import load_config
from vision_tok.calibrate import picture_batches
from vision_tok.image_data import open_images
from vision_tok.kl_autoencoder import KLAutoencoder
from vision_tok.model_card import write_model_card
from vision_tok.token_bridge import TokenBridgeTokenizer
from vision_tok.train import ImageRun, train

RECIPE = Path(__file__).parents[2] / "assets" / "configs" / "kl-autoencoder-tiny.yaml"
SMALL: dict[str, Any] = {
    "block_out_channels": [8, 8, 16], "latent_channels": 4, "norm_num_groups": 4,
}  # fmt: skip


def autoencoder(**changes: Any) -> KLAutoencoder:
    torch.manual_seed(0)
    return spread(KLAutoencoder(**{"vae": SMALL} | changes))


# -- the model -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 12), (15, 9), (1, 1)])
def test_latents_and_pictures_of_any_size(shape: tuple[int, int]) -> None:
    model, x = autoencoder(), pictures(2, *shape)
    z = model.latents(x)
    assert z.shape == (2, 4, -(-shape[0] // 4), -(-shape[1] // 4)) and z.dtype == torch.float32
    made = model.decode_latents(z)
    assert made.shape[2:] == (4 * z.shape[2], 4 * z.shape[3]) and made.abs().max() <= 1
    out = model(x)
    assert out.reconstruction is not None and out.reconstruction.shape == x.shape


def test_the_mean_is_the_same_every_time_and_draws_follow_their_generator() -> None:
    model, x = autoencoder(), pictures(2, 16)
    assert torch.equal(model.latents(x), model.posterior(x).mean)
    a, b, c = (
        model.latents(x, sample=True, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_divergence_is_weighed_and_trains_the_encoder() -> None:
    x = pictures(3, 16)
    light, heavy = autoencoder(kl_weight=0.5), autoencoder(kl_weight=1.0)
    out = light(x)
    posterior = light.posterior(x)
    expected = 0.5 * posterior.kl(axis=1).flatten(1).sum(1).mean()
    assert torch.allclose(out.losses["posterior/kl"], expected)
    assert torch.allclose(heavy(x).losses["posterior/kl"], 2 * expected)
    assert float(out.statistics["posterior/kl"]) == pytest.approx(2 * expected.item(), rel=1e-5)
    out.losses["posterior/kl"].backward()
    assert light.autoencoder.encoder.conv_in.weight.grad is not None
    given = light(x, latents=posterior.mean.detach())
    assert not given.losses and given.tokens.codes.shape == (3, 0)


def test_a_fresh_network_keeps_the_level_and_says_small_variances() -> None:
    for plain in ({}, {"use_quant_conv": False}):
        torch.manual_seed(0)
        model = KLAutoencoder(SMALL | plain).eval()
        posterior = model.posterior(pictures(4, 32))
        assert float((0.5 * posterior.log_variance.detach()).exp().mean()) < 0.1
        assert 0.2 < float(posterior.mean.detach().std(dim=(0, 2, 3)).mean()) < 4


def test_saving_and_loading_keeps_everything(tmp_path: Path) -> None:
    model, x = autoencoder(vae=SMALL | {"scaling_factor": 0.5, "sample_size": 32}), pictures(1, 16)
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert type(again) is KLAutoencoder and again.weights_hash() == model.weights_hash()
    assert torch.equal(again.latents(x), model.latents(x)) and not again.training
    assert again.config["vae"]["scaling_factor"] == 0.5 and again.config["image_size"] == 32
    assert TokenBridgeTokenizer.from_vae(tmp_path).config["scale"] == 0.5
    with pytest.raises(WeightsError, match="holds a KLAutoencoder, not a TokenBridgeTokenizer"):
        TokenBridgeTokenizer.from_pretrained(tmp_path)


def test_what_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="kl_weight is -1"):
        autoencoder(kl_weight=-1)
    with pytest.raises(MediaError, match="takes"):
        autoencoder().latents(torch.zeros(3, 16, 16))
    with pytest.raises(TokenError, match="4, rows, columns"):
        autoencoder().decode_latents(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ConfigError, match="give a diffusers AutoencoderKL"):
        KLAutoencoder.from_vae("a/name")
    with pytest.raises(WeightsError, match="no model folder"):
        TokenBridgeTokenizer.from_vae("./nowhere")


# -- the recipe ----------------------------------------------------------------------------------


def recipe(*more: str) -> ImageRun:
    return load_config(ImageRun, RECIPE, more)


def test_the_shipped_size() -> None:
    config = recipe()
    with torch.device("meta"):
        model = KLAutoencoder(**config.model.config)
    count = sum(t.numel() for t in model.state_dict().values())
    assert count == 1_225_627 and count * 2 < 3e6
    assert config.export.dtype == "float16" and config.data.size == 64 == model.config["image_size"]
    assert model.factor == 8 and model.channels == 16


def test_the_recipe_trains_and_its_tokenizer_works(tmp_path: Path) -> None:
    config = recipe(
        "train.steps=4", "train.batch_size=2", "train.device=cpu", "log.every=1",
        "log.tracker=none", "validation_images=2", "data.source=natural", "data.mixture={}",
    )  # fmt: skip
    folder = train(config, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "loss/posterior/kl" in lines and "validation/psnr" in lines
    source = open_images(config.data)
    batches = [torch.stack([source.item(4 * i + j) for j in range(4)]) for i in range(3)]
    tokenizer = TokenBridgeTokenizer.calibrated(folder, batches, bits=7)
    assert tokenizer.spec.grid == (8, 8) and tokenizer.spec.vocabulary == (128,) * 16
    assert tokenizer.spec.image_size == (64, 64)
    continuous: Any = load(str(folder))
    x = batches[0]
    apart = continuous.decode_latents(continuous.latents(x)) - tokenizer.decode(tokenizer.encode(x))
    assert apart.square().mean().item() < 1e-3
    with pytest.raises(ConfigError, match="no place to read"):
        [*picture_batches(dataclasses.replace(config.data, source="folder"))]
    # Shipping makes the tokenizer, in half precision, with the card of its scores.
    write_model_card(tmp_path / "run", tmp_path / "shipped", machine="a test")
    shipped: Any = load(tmp_path / "shipped")
    assert type(shipped) is TokenBridgeTokenizer and shipped.config["bits"] == 6
    (file,) = (tmp_path / "shipped").glob("*.safetensors")
    assert file.stat().st_size < 3e6
    card = (tmp_path / "shipped" / "README.md").read_text()
    assert "8 x 8 x 16 tokens of 6 bits" in card and "| 1024 | 768 |" in card
    assert "model_card runs/kl-autoencoder-tiny assets/models/shipped" in card
    # The judge takes both, so that tables hold the loss of quantizing.
    for model, count in ((continuous, None), (tokenizer, 8 * 8 * 16)):
        contestant = TokenizerContestant(model, "it")
        assert (contestant.spec is None) == (count is None)
