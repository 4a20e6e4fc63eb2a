"""The TokenBridge tokenizer: contract, sources, scale, sizes, packed positions, bad input."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pictures import pictures, spread
from torch import Tensor

from tok_core.contract import Tokenizer, Tokens
from tok_core.errors import ConfigError, MediaError, TokenError, WeightsError
from tok_core.frequency_order import KL16_ORDER
from tok_core.loading import load
from tok_core.tokenizer_contract import TokenizerContract
from tok_core.training.freezing import freeze, set_training
from vision_tok.autoencoder_kl import autoencoder_class
from vision_tok.autoencoder_kl_keys import latent_diffusion_names
from vision_tok.import_token_bridge import import_token_bridge
from vision_tok.kl_autoencoder import KLAutoencoder
from vision_tok.token_bridge import TokenBridgeTokenizer

SMALL: dict[str, Any] = {
    "block_out_channels": [8, 8, 16], "layers_per_block": 1, "latent_channels": 4,
    "norm_num_groups": 4,
}  # fmt: skip
F = 4  # pixels per cell


def tokenizer(**changes: Any) -> TokenBridgeTokenizer:
    torch.manual_seed(0)
    return spread(TokenBridgeTokenizer(**{"vae": SMALL, "scale": 1.0, "bits": 5} | changes))


def diffusers_vae(**changes: Any) -> Any:
    torch.manual_seed(0)
    types = {"down_block_types": ["DownEncoderBlock2D"] * 3,
             "up_block_types": ["UpDecoderBlock2D"] * 3}  # fmt: skip
    return spread(autoencoder_class()(**SMALL | types | changes))


# -- the common contract -------------------------------------------------------------------------


class Family(TokenizerContract):
    code_parameter = "autoencoder.encoder.conv_in.weight"
    decoder_parameter = "autoencoder.decoder.conv_out.weight"

    def sample(self, batch: int) -> Tensor:
        return pictures(batch, 16, 24)


class TestOneCellPerPosition(Family):
    def make(self) -> Tokenizer:
        return tokenizer()


class TestPackedPositionsWithScalePerChannel(Family):
    def make(self) -> Tokenizer:
        return tokenizer(
            patch_size=2, scale=[1.0, 0.5, 2.0, 1.5], shift=[0.1, 0.0, -0.2, 0.3], bits=4,
            channel_order=[*reversed(range(16))],
        )  # fmt: skip


class TestWithoutQuantConvolutions(Family):
    def make(self) -> Tokenizer:
        plain = {"use_quant_conv": False, "use_post_quant_conv": False}
        return tokenizer(vae=SMALL | plain, bits=10, empty_bins="drop")


# -- shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("shape", [(16, 12), (15, 9), (1, 1), (4, 41)])
def test_any_size_comes_back(shape: tuple[int, int], patch: int) -> None:
    model, x = tokenizer(patch_size=patch), pictures(2, *shape)
    tokens = model.encode(x)
    cell, dimensions = F * patch, 4 * patch * patch
    assert tokens.codes.shape == (2, -(-shape[0] // cell), -(-shape[1] // cell), dimensions)
    assert model.decode(tokens).shape == x.shape
    assert model(x).reconstruction.shape == x.shape
    sequence = model.spec.to_sequence(tokens.codes)
    assert sequence.shape[1:] == (tokens.codes.shape[1] * tokens.codes.shape[2], dimensions)


def test_padding_repeats_the_edge_and_is_cut_off_again() -> None:
    model, x = tokenizer(patch_size=2), pictures(1, 10, 13)
    padded = torch.nn.functional.pad(x, (0, 3, 0, 6), mode="replicate")
    assert torch.equal(model.encode(x).codes, model.encode(padded).codes)
    whole = model.decode(model.encode(padded))
    assert torch.equal(model.decode(model.encode(x)), whole[..., :10, :13])


def test_packed_dimensions_are_channel_row_column() -> None:
    single, packed, x = tokenizer(), tokenizer(patch_size=2), pictures(2, 16, 24)
    codes = single.encode(x).codes
    found = packed.encode(x).codes.unflatten(3, (4, 2, 2))
    for row in range(2):
        for column in range(2):
            assert torch.equal(found[..., row, column], codes[:, row::2, column::2])
    assert torch.equal(packed.decode(packed.encode(x)), single.decode(single.encode(x)))


# -- scale ---------------------------------------------------------------------------------------


def test_latents_embed_and_tables_are_normalised() -> None:
    model, x = tokenizer(scale=0.5, shift=0.25), pictures(2, 16)
    mean = model.posterior_of(x, F).mean
    z = model.latents(x)
    assert torch.allclose(z, (mean - 0.25) * 0.5)
    values, codes = model.codebooks[0].vectors[:, 0], model.encode(x).codes
    assert len(model.codebooks) == 4 and len(values) == 32
    assert torch.equal(model.embed(codes), values[codes].movedim(-1, 1))
    inside = z.clamp(float(values[0]), float(values[-1]))
    assert (model.embed(codes) - inside).abs().max() <= values.diff().max() / 2 + 1e-6


def test_what_diffusers_says_of_the_scale_is_honoured() -> None:
    stated = {"scaling_factor": 1.5, "shift_factor": 0.25}
    model = TokenBridgeTokenizer.from_vae(diffusers_vae(**stated))
    assert (model.config["scale"], model.config["shift"]) == (1.5, 0.25)
    each = {"latents_mean": [0.0, 0.1, 0.2, 0.3], "latents_std": [1.0, 2.0, 4.0, 0.5]}
    model = TokenBridgeTokenizer.from_vae(diffusers_vae(scaling_factor=0.5, **each))
    assert model.config["scale"] == [0.5, 0.25, 0.125, 1.0]
    assert model.config["shift"] == each["latents_mean"]
    chosen = TokenBridgeTokenizer.from_vae(diffusers_vae(**stated), scale=2.0)
    assert (chosen.config["scale"], chosen.config["shift"]) == (2.0, 0.0)


def test_an_autoencoder_without_a_scale_is_refused(tmp_path: Path) -> None:
    vae = diffusers_vae()
    assert vae.config.scaling_factor == 0.18215  # diffusers fills in Stable Diffusion 1's
    with pytest.raises(ConfigError, match="no scaling_factor.*calibrate"):
        TokenBridgeTokenizer.from_vae(vae)
    vae.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["scaling_factor"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="no scaling_factor.*calibrate"):
        TokenBridgeTokenizer.from_pretrained(tmp_path)
    assert TokenBridgeTokenizer.from_vae(tmp_path, scale=0.3).config["scale"] == 0.3


def test_calibrated_settings_fit_the_pictures() -> None:
    vae = diffusers_vae()
    batches = [pictures(4, 16, 24), pictures(2, 32)]
    model = TokenBridgeTokenizer.calibrated(vae, batches, patch_size=2, bits=8, per_channel=True)
    unpacked = [torch.nn.functional.pixel_shuffle(model.latents(x), 2) for x in batches]
    z = torch.cat([part.movedim(1, 0).flatten(1) for part in unpacked], 1).detach()
    assert torch.allclose(z.std(1, correction=0), torch.ones(4), atol=1e-4)
    assert z.mean(1).abs().max() < 1e-4
    assert float(z.abs().max()) <= model.config["high"] * 1.01
    assert sorted(model.config["channel_order"]) == [*range(16)]
    for x in batches:
        model.encode(x)
    assert model.clipped.total == z.numel() and model.clipped.share <= 2e-4


def test_clipped_latents_are_counted_and_said_once() -> None:
    model, x = tokenizer(low=-0.1, high=0.1), pictures(3, 16)
    outside = int((model.latents(x).abs() > 0.1).sum())
    with pytest.warns(UserWarning, match="outside -0.1 to 0.1.*calibrate"):
        model.encode(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(x)
    assert model.clipped == (2 * outside, 2 * model.latents(x).numel())
    share = float(model(x).statistics["quantizer/clipped"])
    assert share == pytest.approx(outside / model.latents(x).numel())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer().encode(x)


def test_encoding_takes_the_mean_unless_asked_to_draw() -> None:
    model, x = tokenizer(), pictures(2, 16)
    assert torch.equal(model.encode(x).codes, model.encode(x).codes)
    drawn = [
        model.encode(x, sample=True, generator=torch.Generator().manual_seed(seed)).codes
        for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


# -- sources -------------------------------------------------------------------------------------


def test_object_folder_and_own_model_give_the_same(tmp_path: Path) -> None:
    vae, x = diffusers_vae(scaling_factor=0.7, sample_size=16), pictures(2, 16)
    vae.save_pretrained(tmp_path / "pipeline" / "vae")
    KLAutoencoder.from_vae(vae).save_pretrained(tmp_path / "own")
    sources: list[Any] = [vae, KLAutoencoder.from_vae(vae), str(tmp_path / "own")]
    models = [TokenBridgeTokenizer.from_vae(source, bits=6) for source in sources]
    models += [
        TokenBridgeTokenizer.from_vae(tmp_path / "pipeline", subfolder="vae"),
        TokenBridgeTokenizer.from_pretrained(tmp_path / "pipeline" / "vae"),
    ]
    with torch.no_grad():
        latents = vae.encode(x).latent_dist.mean * 0.7
        expected = vae.decode(models[0].embed(models[0].encode(x)) / 0.7).sample.clamp(-1, 1)
    assert len({model.code_hash() for model in models}) == 1
    for model in models:
        assert model.config["image_size"] == 16 and model.spec.grid == (4, 4)
        assert torch.allclose(model.latents(x), latents, atol=1e-6)
        assert torch.allclose(model.decode(model.encode(x)), expected, atol=1e-6)
    shared = models[0].autoencoder.decoder.conv_out.weight
    assert shared is vae.decoder.conv_out.weight
    models[0].save_pretrained(tmp_path / "whole")
    assert load(tmp_path / "whole").weights_hash() == models[0].weights_hash()
    assert {f.name for f in (tmp_path / "whole").iterdir()} == {
        "config.json", "diffusion_pytorch_model.safetensors",
    }  # fmt: skip


def official_state(vae: Any) -> dict[str, Tensor]:
    """The state of a diffusers autoencoder by the names of latent diffusion's layout."""
    state = vae.state_dict()
    names = latent_diffusion_names(state, 3)
    found = {}
    for name, tensor in state.items():
        attention = ".attentions." in name and tensor.dim() == 2
        found[names[name][0]] = (tensor[..., None, None] if attention else tensor).clone()
    return found


def test_files_in_latent_diffusions_layout(tmp_path: Path) -> None:
    types = {"down_block_types": ["DownEncoderBlock2D", *["AttnDownEncoderBlock2D"] * 2],
             "up_block_types": ["AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * 2]}  # fmt: skip
    vae, x = diffusers_vae(**types, layers_per_block=2), pictures(2, 16)
    state = official_state(vae) | {"loss.logvar": torch.zeros(1)}
    torch.save({"model": state}, tmp_path / "kl.ckpt")
    settings = {"latent_scale": 0.5, "norm_num_groups": 4, "quant_levels": 16, "quant_max": 4.0}
    model = import_token_bridge(tmp_path / "kl.ckpt", settings)
    with torch.no_grad():
        assert torch.allclose(model.latents(x), vae.encode(x).latent_dist.mean / 2, atol=1e-6)
    chosen = [model.config[name] for name in ("bits", "low", "high", "scale")]
    assert chosen == [4, -5.0, 4.0, 0.5]
    wrapped = KLAutoencoder.from_vae(vae)
    assert TokenBridgeTokenizer.from_vae(
        wrapped, bits=4, high=4.0, scale=0.5
    ).code_hash() == model.code_hash()  # fmt: skip
    with pytest.raises(ConfigError, match="no scaling_factor"):
        import_token_bridge(tmp_path / "kl.ckpt", {"norm_num_groups": 4})
    with pytest.raises(WeightsError, match=r"latent_scal.*did you mean 'latent_scale'"):
        import_token_bridge(tmp_path / "kl.ckpt", {"latent_scal": 0.5})
    with pytest.raises(WeightsError, match="latent_channels 8 but the weights say 4"):
        import_token_bridge(tmp_path / "kl.ckpt", settings | {"latent_channels": 8})
    with pytest.raises(WeightsError, match="quant_levels 24"):
        import_token_bridge(tmp_path / "kl.ckpt", settings | {"quant_levels": 24})
    del state["decoder.mid.attn_1.q.bias"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(WeightsError, match=r"lacks decoder\.mid\.attn_1\.q\.bias"):
        import_token_bridge(tmp_path / "less.safetensors", settings)


def test_the_commands_import_and_describe_it(tmp_path: Path, capsys: Any) -> None:
    from tessera.cli import run

    diffusers_vae(scaling_factor=0.7, sample_size=16).save_pretrained(tmp_path / "vae")
    torch.save({"model": official_state(diffusers_vae())}, tmp_path / "kl.ckpt")
    (tmp_path / "settings.json").write_text('{"scale": 0.5, "norm_num_groups": 4, "bits": 3}')
    assert run(["import", str(tmp_path / "vae"), "-o", str(tmp_path / "a")]) == 0
    assert run(["import", str(tmp_path / "kl.ckpt"), "-o", str(tmp_path / "b"), "--config",
                str(tmp_path / "settings.json")]) == 0  # fmt: skip
    assert "TokenBridgeTokenizer" in capsys.readouterr().out
    assert run(["info", str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "dimension 4..4" in out and "code hash" in out
    assert run(["import", str(tmp_path / "kl.ckpt"), "-o", str(tmp_path / "c")]) != 0
    assert "Traceback" not in capsys.readouterr().err


def test_pictures_go_through_token_files(tmp_path: Path) -> None:
    from PIL import Image

    from tessera.cli import run

    tokenizer(image_size=16).save_pretrained(tmp_path / "model")
    Image.effect_noise((21, 13), 60).convert("RGB").save(tmp_path / "a.png")
    words = [str(tmp_path / "a.png"), "-o", str(tmp_path / "a.tok"), "-m", str(tmp_path / "model")]
    assert run(["encode", *words]) == 0
    assert run(["decode", str(tmp_path / "a.tok"), "-o", str(tmp_path / "b.png"), "-m",
                str(tmp_path / "model")]) == 0  # fmt: skip
    with Image.open(tmp_path / "b.png") as made:
        assert made.size == (21, 13)


# -- training ------------------------------------------------------------------------------------


def test_decoder_fine_tuning_keeps_the_codes() -> None:
    model, x = tokenizer(), pictures(2, 16)
    before = model.code_hash()
    frozen = freeze(model, train_only=["autoencoder.decoder", "autoencoder.post_quant_conv"])
    set_training(model.train(), frozen)
    assert model.codes_are_frozen
    out = model(x)
    out.reconstruction.square().mean().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)
    assert model.code_hash() == before
    named = dict(model.named_parameters())
    assert named["autoencoder.encoder.conv_in.weight"].grad is None
    assert named["autoencoder.decoder.conv_out.weight"].grad is not None


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"channel_order": [0, 1, 2, 2]}, "every number from 0 to 3 once"),
        ({"channel_order": list(KL16_ORDER)}, "16 entries.*4 dimensions.*another one"),
        ({"channel_order": [0, 1, 2, 3], "patch_size": 2}, "4 entries.*16 dimensions"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"scale": [1.0, 2.0]}, "scale has 2 numbers.*4 channels"),
        ({"scale": 0.0}, "above 0"),
        ({"bits": 10}, "2 of 1024 levels.*drop"),
        ({"bits": 17}, "give 1 to 16"),
        ({"low": 1.0, "high": 1.0}, "clip range"),
        ({"vae": SMALL | {"latent_chanels": 4}}, "latent_chanels.*did you mean 'latent_channels'"),
        ({"vae": SMALL | {"norm_num_groups": 5}}, "makes no AutoencoderKL"),
        ({"vae": SMALL | {"in_channels": 1}}, "pictures have 3"),
        ({"vae": SMALL | {"up_block_types": ["UpDecoderBlock2D"]}}, "1 entries for 3 levels"),
        ({"vae": SMALL | {"block_out_channels": 8}}, "width of every level"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tokenizer(**changes)


def test_signals_and_codes_that_do_not_fit_are_one_sentence() -> None:
    model, x = tokenizer(), pictures(1, 16)
    codes = model.encode(x).codes
    with pytest.raises(MediaError, match="takes"):
        model.encode(torch.zeros(1, 1, 16, 16))
    with pytest.raises(TokenError, match="num_tokens"):
        model.encode(x, num_tokens=4)
    with pytest.raises(TokenError, match="lengths"):
        model.encode(x, lengths=torch.tensor([1]))
    with pytest.raises(TokenError, match="legal is 4 to 4"):
        model.decode(codes[..., :3])
    with pytest.raises(TokenError, match="outside the vocabulary"):
        model.decode(codes + 32)
    with pytest.raises(TokenError, match="carry the size"):
        model.decode(Tokens(codes, extent=torch.tensor([[40, 16]])))
    with pytest.raises(TokenError, match="takes no condition"):
        model.decode(codes, condition=codes)
    with pytest.raises(TokenError, match="takes"):
        model.decode_latents(torch.zeros(1, 5, 4, 4))
    with pytest.raises(ConfigError, match="give a diffusers AutoencoderKL"):
        TokenBridgeTokenizer.from_vae(torch.nn.Linear(2, 2))


def test_a_saved_folder_is_checked_key_by_key(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    state = load_file(file)
    state["autoencoder.decoder.extra"] = torch.zeros(1)
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="unexpected"):
        TokenBridgeTokenizer.from_pretrained(tmp_path)


def test_published_sizes_and_settings() -> None:
    with torch.device("meta"):
        model = TokenBridgeTokenizer()
    assert sum(p.numel() for p in model.parameters()) == 66_456_019
    assert model.spec.grid == (16, 16) and model.spec.vocabulary == (64,) * 16
    assert model.config["scale"] == 0.2325 and model.config["channel_order"] == list(KL16_ORDER)
