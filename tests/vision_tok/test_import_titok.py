"""Importing official files: layouts, strictness, the hub's cache."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tok_core.contract import Autoencoder
from tok_core.errors import WeightsError
from vision_tok.import_titok import import_titok
from vision_tok.maskgit_vqgan import MaskGitVQGAN
from vision_tok.official_keys import official_names
from vision_tok.one_d_piece import OneDPiece
from vision_tok.titok import TiTok
from vision_tok.titok_kl import TiTokKL

# Width 64 and one head, so that shapes alone say everything; a token per cell, as One-D-Piece.
SIZE = {"width": 64, "layers": 1, "heads": 1}
SMALL: dict[str, Any] = {
    "image_size": 16, "patch_size": 4, "encoder_size": SIZE, "decoder_size": SIZE,
    "num_tokens": 16, "token_size": 6,
}  # fmt: skip
LEGACY: dict[str, Any] = SMALL | {
    "legacy_reshape": True, "head": "legacy", "proxy_codebook_size": 24,
    "codebook_size": 32,
    "pixel_decoder": {
        "hidden_channels": 32, "channel_mult": [1, 2, 2], "num_res_blocks": 1, "z_channels": 8,
    },
}  # fmt: skip


def official_state(model: Autoencoder) -> dict[str, Tensor]:
    """The state as the authors would have saved it: their names, 1x1 convolutions unsqueezed."""
    names = official_names(model)
    state = {}
    for name, tensor in model.state_dict().items():
        one_by_one = names[name] == "encoder.conv_out.weight" or ".ffn." in names[name]
        unsqueeze = one_by_one and tensor.dim() == 2
        state[names[name]] = tensor[..., None, None].clone() if unsqueeze else tensor.clone()
    return state


@pytest.fixture
def piece() -> OneDPiece:
    torch.manual_seed(0)
    return OneDPiece(**LEGACY).eval()


def same(ours: Autoencoder, theirs: Autoencoder) -> None:
    assert type(ours) is type(theirs) and not ours.training
    assert ours.weights_hash() == theirs.weights_hash()


def test_a_folder_with_a_pickle_alone(piece: OneDPiece, tmp_path: Path) -> None:
    torch.save(official_state(piece), tmp_path / "pytorch_model.bin")
    loaded = OneDPiece.from_pretrained(tmp_path)
    same(loaded, piece)
    assert loaded.code_hash() == piece.code_hash()
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(loaded.decode(loaded.encode(x)), piece.decode(piece.encode(x)))
    same(import_titok(tmp_path / "pytorch_model.bin"), piece)
    half = OneDPiece.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.latent_tokens.dtype == torch.bfloat16
    assert half.quantizer.codebook.dtype == torch.float32


def test_a_hub_id_takes_the_same_path(piece: OneDPiece, tmp_path: Path) -> None:
    # The layout that huggingface_hub leaves behind after a download.
    repo = tmp_path / "models--turing-motors--One-D-Piece-L-256"
    snapshot = repo / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0123abc")
    torch.save(official_state(piece), snapshot / "pytorch_model.bin")
    name = "turing-motors/One-D-Piece-L-256"
    same(OneDPiece.from_pretrained(name, cache_dir=tmp_path, local_files_only=True), piece)
    with pytest.raises(WeightsError, match="One-D-Piece-S-256"):
        OneDPiece.from_pretrained(
            "turing-motors/One-D-Piece-S-256", cache_dir=tmp_path, local_files_only=True
        )


@pytest.mark.parametrize("kind", ["vq", "vae", "text"])
def test_a_hub_mixin_folder_with_a_nested_config(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"commitment_weight": 0.5}
    model: Autoencoder
    if kind == "vae":
        model = TiTokKL(**SMALL).eval()
    else:
        text = {"context_length": 3, "embed_dim": 10} if kind == "text" else None
        if text:
            options["update"] = "clustering"
        model = TiTok(
            **SMALL, codebook_size=32, l2_normalize=False, quantizer_options=options, text=text
        ).eval()
    save_file(official_state(model), tmp_path / "model.safetensors")
    vq_model = {
        "quantize_mode": "vae" if kind == "vae" else "vq", "num_latent_tokens": 16,
        "token_size": 6, "is_legacy": False, "finetune_decoder": False, "use_l2_norm": False,
        "commitment_cost": 0.5, "vit_enc_patch_size": 4,
    }  # fmt: skip
    config = {"model": {"vq_model": vq_model}, "dataset": {"preprocessing": {"crop_size": 16}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = type(model).from_pretrained(tmp_path)
    same(loaded, model)
    if isinstance(loaded, TiTok):
        assert loaded.settings.quantizer_options == model.settings.quantizer_options
    config["dataset"]["preprocessing"]["crop_size"] = 32
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="image_size 32"):
        import_titok(tmp_path)


def test_a_bare_teacher(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MaskGitVQGAN(32, [1, 2, 2], 1, 8, 24).eval()
    torch.save(official_state(model), tmp_path / "maskgit.bin")
    same(MaskGitVQGAN.from_pretrained(tmp_path / "maskgit.bin"), model)
    with pytest.raises(WeightsError, match="not a OneDPiece"):
        OneDPiece.from_pretrained(tmp_path / "maskgit.bin")


def test_the_importer_tells_the_classes_apart(piece: OneDPiece, tmp_path: Path) -> None:
    fewer = TiTok(**LEGACY | {"num_tokens": 4})
    torch.save(official_state(fewer), tmp_path / "titok.bin")
    assert type(import_titok(tmp_path / "titok.bin")) is TiTok
    assert type(OneDPiece.from_pretrained(tmp_path / "titok.bin")) is OneDPiece
    with pytest.raises(WeightsError, match="not a TiTokKL"):
        TiTokKL.from_pretrained(tmp_path / "titok.bin")


def test_keys_left_over_on_either_side_are_named(piece: OneDPiece, tmp_path: Path) -> None:
    state = official_state(piece)
    state["stranger"] = torch.zeros(1)
    del state["decoder.ln_pre.bias"]
    torch.save(state, tmp_path / "broken.bin")
    with pytest.raises(WeightsError, match=r"lacks decoder\.ln_pre\.bias and .* stranger"):
        import_titok(tmp_path / "broken.bin")
    state = official_state(piece) | {"decoder.ln_pre.bias": torch.zeros(3)}
    torch.save(state, tmp_path / "broken.bin")
    with pytest.raises(WeightsError, match=r"shape \(3,\)"):
        import_titok(tmp_path / "broken.bin")
    for missing in ("encoder.patch_embed.weight", "pixel_decoder.conv_in.weight"):
        state = {k: v for k, v in official_state(piece).items() if k != missing}
        torch.save(state, tmp_path / "broken.bin")
        with pytest.raises(WeightsError, match=missing):
            import_titok(tmp_path / "broken.bin")


class Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, ("1 / 0",)


def test_hostile_and_broken_files_are_one_sentence(tmp_path: Path) -> None:
    contents = {
        "empty.bin": b"", "noise.bin": b"\x80\x04noise", "code.bin": pickle.dumps(Payload()),
        "noise.safetensors": b"not one",
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match="cannot read"):
            import_titok(tmp_path / name)
    torch.save({"a": 1}, tmp_path / "a.bin")
    with pytest.raises(WeightsError, match="flat state dict"):
        import_titok(tmp_path / "a.bin")
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.bin")
    with pytest.raises(WeightsError, match="no checkpoint of this family"):
        import_titok(tmp_path / "a.bin")
    with pytest.raises(WeightsError, match="no official checkpoint"):
        import_titok(tmp_path / "nowhere")
