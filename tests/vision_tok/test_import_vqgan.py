"""Importing VQGANs: five layouts and their wrappers, strictness, the command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tessera.cli import run
from tok_core.errors import WeightsError
from tok_core.torchaudio_guard import guard_torchaudio
from vision_tok.conv_autoencoder_keys import LAYOUTS, official_parts
from vision_tok.import_vqgan import UNPUBLISHED, import_vqgan, official_names
from vision_tok.titok import TiTok
from vision_tok.vqgan import VQGAN

# 32 channels, so that the groups of all that is published fit.
SIDE: dict[str, Any] = {"channels": 32, "multipliers": [1, 2], "res_blocks": 1}
SMALL: dict[str, Any] = {
    "encoder_sizes": SIDE, "decoder_sizes": SIDE | {"res_blocks": 2}, "z_channels": 6,
    "code_dim": 4, "codebook_size": 32,
}  # fmt: skip
LEGACY = {"codebook_weight": 0.25, "commitment_weight": 1.0}
MODELS: dict[str, dict[str, Any]] = {
    "llamagen": SMALL | {"quantizer_options": {"usage_window": 40}},
    "taming": SMALL | {"l2_normalize": False, "quantizer_options": LEGACY},
    "diffusers": SMALL
    | {
        "encoder_sizes": SIDE | {"attention": [0, 1], "mid_attention": False},
        "decoder_sizes": SIDE | {"attention": [0], "mid_attention": False},
        "l2_normalize": False, "quantizer_options": LEGACY, "modulated_decoder": True,
    },
    "var": SMALL
    | {
        "quantizer_kind": "multi_scale", "l2_normalize": False, "scales": [1, 2, 3],
        "quant_kernel": 3, "quantizer_options": {"average_usage": True, "phi_convs": 2},
    },
}  # fmt: skip


def make(layout: str) -> VQGAN:
    torch.manual_seed(0)
    model = VQGAN(**MODELS[layout]).eval()
    if layout == "llamagen":
        model.recent.codes.copy_(torch.arange(40) % 32)
    if layout == "var":
        model.quantizer.average.updates.fill_(UNPUBLISHED["quantizer.average.updates"])
    return model


def official_state(model: VQGAN, layout: str) -> dict[str, Tensor]:
    """The state as the authors would have saved it."""
    state, ours = {}, model.state_dict()
    for name, parts in official_names(model, layout).items():
        for part, piece in zip(parts, ours[name].chunk(len(parts)), strict=True):
            linear = layout == "diffusers" and ".attentions." in part and piece.dim() == 4
            flat = linear and ".conv_" not in part
            state[part] = (piece[..., 0, 0] if flat else piece).clone()
    if layout == "llamagen":
        state["quantize.codebook_used"] = state["quantize.codebook_used"].float()
    return state


def same(ours: VQGAN, theirs: VQGAN) -> None:
    assert type(ours) is type(theirs) and not ours.training and ours.dtype == torch.float32
    assert ours.weights_hash() == theirs.weights_hash()
    assert ours.code_hash() == theirs.code_hash()
    if ours.settings.scales is not None:
        assert ours.settings.scales == theirs.settings.scales
    options = ("beta",) if ours.settings.scales else ("codebook_weight", "commitment_weight")
    for name in options:
        assert getattr(ours.settings.options, name) == getattr(theirs.settings.options, name)


# -- layouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["ema", "model", "state_dict", None])
def test_llamagen_training_files(wrapper: str | None, tmp_path: Path) -> None:
    model = make("llamagen")
    state = official_state(model, "llamagen")
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    whole: Any = state if wrapper is None else {
        wrapper: state, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "steps": 3,
        "args": argparse.Namespace(lr=1e-4), "discriminator": {"main.0.weight": torch.zeros(1)},
    }
    if wrapper == "ema":
        whole["model"] = other  # averaged weights come first
    torch.save(whole, tmp_path / "vq.pt")
    same(import_vqgan(tmp_path / "vq.pt"), model)
    same(VQGAN.from_pretrained(tmp_path / "vq.pt"), model)


def test_names_of_distributed_training_are_understood(tmp_path: Path) -> None:
    model = make("llamagen")
    state = official_state(model, "llamagen")
    torch.save({f"module._orig_mod.{name}": t for name, t in state.items()}, tmp_path / "vq.pt")
    same(import_vqgan(tmp_path / "vq.pt"), model)


def test_llamagen_without_its_usage_window(tmp_path: Path) -> None:
    state = official_state(make("llamagen"), "llamagen")
    del state["quantize.codebook_used"]
    torch.save({"model": state}, tmp_path / "vq.pt")
    model = import_vqgan(tmp_path / "vq.pt")
    assert model.recent is None and model.code_hash() == make("llamagen").code_hash()


def test_the_hub_folder_of_llamagen(tmp_path: Path) -> None:
    model = make("llamagen")
    config = {
        "codebook_embed_dim": 4, "codebook_l2_norm": True, "codebook_show_usage": True,
        "codebook_size": 32, "commit_loss_beta": 0.5, "decoder_ch_mult": [1, 2],
        "dropout_p": 0.25, "encoder_ch_mult": [1, 2], "entropy_loss_ratio": 0.125,
        "z_channels": 6,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(official_state(model, "llamagen"), tmp_path / "model.safetensors")
    loaded = VQGAN.from_pretrained(tmp_path)
    assert loaded.weights_hash() == model.weights_hash()
    options = loaded.settings.options
    assert (options.commitment_weight, options.entropy_weight) == (0.5, 0.125)
    assert loaded.settings.decoder.dropout == 0.25
    (tmp_path / "config.json").write_text(json.dumps(config | {"codebook_size": 64}))
    with pytest.raises(WeightsError, match="codebook_size 64 but the weights say 32"):
        VQGAN.from_pretrained(tmp_path)


def test_a_lightning_checkpoint_of_taming(tmp_path: Path) -> None:
    model = make("taming")
    state = official_state(model, "taming")
    loss = {
        "loss.discriminator.main.0.weight": torch.zeros(3),
        "loss.perceptual_loss.lin0.model.1.weight": torch.zeros(2),
    }
    torch.save({"state_dict": state | loss, "epoch": 3}, tmp_path / "last.ckpt")
    same(import_vqgan(tmp_path / "last.ckpt"), model)


def test_a_bare_file_of_var(tmp_path: Path) -> None:
    model = make("var")
    torch.save(official_state(model, "var"), tmp_path / "vae.pth")
    same(import_vqgan(tmp_path / "vae.pth", {"v_patch_nums": [1, 2, 3]}), model)
    with pytest.raises(WeightsError, match="3 scales and no tensor says which.*v_patch_nums"):
        import_vqgan(tmp_path / "vae.pth")
    with pytest.raises(WeightsError, match="lists 2 scales but the weights hold 3"):
        import_vqgan(tmp_path / "vae.pth", {"v_patch_nums": [1, 3]})


DIFFUSERS = {
    "_class_name": "VQModel", "_diffusers_version": "0.30.0", "block_out_channels": [32, 64],
    "latent_channels": 6, "layers_per_block": 1, "num_vq_embeddings": 32, "vq_embed_dim": 4,
    "norm_num_groups": 16, "norm_type": "group",
}  # fmt: skip


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("pickled", [False, True])
def test_a_folder_of_diffusers(old: bool, pickled: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sides = {"encoder_sizes": SIDE, "decoder_sizes": None, "norm_groups": 16}
    model = VQGAN(**MODELS["taming"] | sides).eval()
    state = official_state(model, "diffusers")
    if old:
        for new, name in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"),
                          ("to_out.0", "proj_attn")):  # fmt: skip
            state = {key.replace(f".{new}.", f".{name}."): t for key, t in state.items()}
        assert any(".query." in key for key in state)
    (tmp_path / "config.json").write_text(json.dumps(DIFFUSERS))
    if pickled:
        torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    else:
        save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    same(VQGAN.from_pretrained(tmp_path), model)
    (tmp_path / "config.json").write_text(json.dumps(DIFFUSERS | {"layers_per_block": 2}))
    with pytest.raises(WeightsError, match="layers_per_block 2 but the weights say 1"):
        import_vqgan(tmp_path)


def test_every_other_topology_of_diffusers(tmp_path: Path) -> None:
    model = make("diffusers")
    save_file(official_state(model, "diffusers"), tmp_path / "movq.safetensors")
    same(import_vqgan(tmp_path / "movq.safetensors"), model)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("norm", ["group", "spatial"])
def test_diffusers_itself_gives_the_same(norm: str, attention: bool, tmp_path: Path) -> None:
    guard_torchaudio()
    from diffusers import VQModel

    torch.manual_seed(0)
    # diffusers gives MoVQ's own norms 32 groups whatever it is told.
    widths, groups = ([32, 64], 32) if norm == "spatial" else ([16, 24], 8)
    theirs = VQModel(
        down_block_types=["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        up_block_types=["AttnUpDecoderBlock2D", "UpDecoderBlock2D"], block_out_channels=widths,
        layers_per_block=1, latent_channels=4, num_vq_embeddings=32, vq_embed_dim=4,
        norm_num_groups=groups, norm_type=norm, mid_block_add_attention=attention,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    ours = VQGAN.from_pretrained(tmp_path)
    x = torch.rand(2, 3, 10, 14) * 2 - 1
    with torch.no_grad():
        z = theirs.encode(x).latents
        codes = theirs.quantize(z)[2][2].view(2, 5, 7)
        torch.testing.assert_close(ours.latents(x), z, atol=1e-4, rtol=1e-4)
        assert torch.equal(ours.encode(x).codes, codes)
        picture = theirs.decode(z).sample.clamp(-1, 1)
        torch.testing.assert_close(ours.decode(codes), picture, atol=1e-4, rtol=1e-4)


def test_our_own_folder_is_not_taken_for_official(tmp_path: Path) -> None:
    make("llamagen").save_pretrained(tmp_path)
    same(VQGAN.from_pretrained(tmp_path), make("llamagen"))
    with pytest.raises(WeightsError, match="no official checkpoint"):
        import_vqgan(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_two_parameters_share_a_name(layout: str) -> None:
    names = official_names(make(layout), layout)
    parts = [part for several in names.values() for part in several]
    assert len(set(parts)) == len(parts)
    assert official_parts("decoder.levels.0.resample.bias", layout, 2)[0].endswith("conv.bias")


# -- strictness ----------------------------------------------------------------------------------


def test_keys_left_over_on_either_side_are_named(tmp_path: Path) -> None:
    file = tmp_path / "vq.pt"
    state = official_state(make("llamagen"), "llamagen")
    torch.save(state | {"stranger": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match="unknown stranger"):
        import_vqgan(file)
    torch.save({k: v for k, v in state.items() if k != "decoder.norm_out.bias"}, file)
    with pytest.raises(WeightsError, match=r"lacks decoder\.norm_out\.bias"):
        import_vqgan(file)
    torch.save(state | {"decoder.norm_out.bias": torch.zeros(3)}, file)
    with pytest.raises(WeightsError, match=r"norm_out\.bias of shape \(3,\)"):
        import_vqgan(file)
    torch.save({k: v for k, v in state.items() if "encoder.conv_in" not in k}, file)
    with pytest.raises(WeightsError, match=r"lacks encoder\.conv_in\.weight"):
        import_vqgan(file)


def test_an_unknown_layout_lists_what_it_recognised(tmp_path: Path) -> None:
    state = official_state(make("llamagen"), "llamagen")
    renamed = {k.replace("conv_blocks", "stages"): v for k, v in state.items()}
    torch.save(renamed | {"head.bias": torch.zeros(1)}, tmp_path / "vq.pt")
    with pytest.raises(WeightsError) as error:
        import_vqgan(tmp_path / "vq.pt")
    words = str(error.value)
    for word in ("recognised decoder", "quantize (2)", "not recognised head (1)", "conv_blocks",
                 "down_blocks", "taming", "VAR"):  # fmt: skip
        assert word in words
    torch.save(state, tmp_path / "vq.pt")
    with pytest.raises(WeightsError, match="holds a VQGAN, not a TiTok"):
        import_vqgan(tmp_path / "vq.pt", cls=TiTok)
    (tmp_path / "vq.pt").write_bytes(b"no weights at all")
    with pytest.raises(WeightsError, match="cannot read"):
        import_vqgan(tmp_path / "vq.pt")


# -- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["llamagen", "taming", "diffusers"])
def test_the_command_finds_the_family(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ending = {"llamagen": "pt", "taming": "ckpt", "diffusers": "pt"}[layout]
    source, out = tmp_path / f"file.{ending}", tmp_path / "model"
    torch.save({"state_dict": official_state(make(layout), layout)}, source)
    assert run(["import", str(source), "-o", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["class"] == "VQGAN" and facts["weights_hash"] == make(layout).weights_hash()
    same(VQGAN.from_pretrained(out), make(layout))
