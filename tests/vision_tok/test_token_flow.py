"""TokenFlow: contract, streams, prefixes, resolutions, training, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pictures import pictures, spread
from tiny_tower import CLIP_SIZES, clip_file
from torch import Tensor, nn

from tok_core.contract import Tokenizer, Tokens
from tok_core.errors import ConfigError, MediaError, TesseraError, TokenError, WeightsError
from tok_core.tokenizer_contract import TokenizerContract
from tok_core.training.freezing import freeze, set_training
from vision_tok.image_objective import ImageObjective, ImageObjectiveConfig
from vision_tok.semantic_teacher import TeacherOptions
from vision_tok.token_flow import TokenFlow

CLASSIFIER = TeacherOptions(
    kind="classifier", weights="assets/classifiers/procedural-v1", strides=(2, 1, 2, 2, 1)
)
SMALL: dict[str, Any] = {
    "image_size": 16, "scales": [1, 2, 4], "codebook_size": 24, "semantic_dim": 6, "pixel_dim": 4,
    "semantic_encoder": {
        "sizes": {"patch_size": 4, "grid": 4, "width": 24, "layers": 1, "heads": 2,
                  "mlp_width": 32},
    },
    "semantic_decoder": {"width": 24, "depth": 1, "heads": 3, "target_dim": 128},
    "encoder_sizes": {"channels": 32, "multipliers": [1, 1, 1], "res_blocks": 1},
    "z_channels": 8,
}  # fmt: skip
# SigLIP's shape of things: 18 pixels make 4 patches of 4, which the pixel branch sees as 16.
ODD: dict[str, Any] = SMALL | {"image_size": 18}


def flow(**changes: Any) -> TokenFlow:
    torch.manual_seed(0)
    return spread(TokenFlow(**SMALL | changes), "quantizer.")


# -- the common contract -------------------------------------------------------------------------


class Family(TokenizerContract):
    code_parameter = "semantic_tower.network.position_table"
    decoder_parameter = "decoder.conv_in.weight"

    def sample(self, batch: int) -> Tensor:
        return pictures(batch)


class TestMultiScale(Family):
    def make(self) -> Tokenizer:
        return spread(TokenFlow(**SMALL), "quantizer.")


class TestSingleScale(Family):
    def make(self) -> Tokenizer:
        return spread(TokenFlow(**SMALL | {"scales": [4], "pixel_weight": 0.5}), "quantizer.")


class TestResizedPixelBranch(Family):
    def make(self) -> Tokenizer:
        return spread(TokenFlow(**ODD), "quantizer.")

    def sample(self, batch: int) -> Tensor:
        return pictures(batch, 18)


class TestTransformersEncoder(Family):
    code_parameter = "semantic_tower.network.model.embeddings.cls_token"

    def make(self) -> Tokenizer:
        pytest.importorskip("transformers")
        encoder = {"kind": "transformers", "block": 1, "positions": "size", "architecture": {
            "model_type": "dinov2", "hidden_size": 24, "num_hidden_layers": 2, "mlp_ratio": 2,
            "num_attention_heads": 2, "image_size": 16, "patch_size": 4,
        }}  # fmt: skip
        return spread(TokenFlow(**SMALL | {"semantic_encoder": encoder}), "quantizer.")

    def test_another_resolution(self, model: TokenFlow) -> None:
        larger = model.at_resolution(24, [2, 6])
        assert larger.decode(larger.encode(pictures(1, 24))).shape == (1, 3, 24, 24)


# -- streams, scales, features -------------------------------------------------------------------


def test_spec_says_scales_and_streams() -> None:
    spec = flow().spec
    assert spec.streams == ("semantic", "pixel", "both") and spec.grid == (4, 4)
    assert spec.scales == ((1, 1), (2, 2), (4, 4)) and spec.image_size == (16, 16)
    assert (spec.axes[0].size, spec.axes[0].minimum) == (21, 1)
    assert flow(scales=[4]).spec.axes[0].minimum == 16


@torch.no_grad()
def test_both_streams_come_from_the_same_tokens() -> None:
    model = flow()
    tokens = model.encode(pictures(2))
    semantic, pixel = (model.embed(tokens, stream=s) for s in ("semantic", "pixel"))
    assert semantic.shape == (2, 6, 4, 4) and pixel.shape == (2, 4, 4, 4)
    both = model.embed(tokens, stream="both")
    assert torch.equal(both, torch.cat((semantic, pixel), 1))
    assert torch.equal(both, model.embed(tokens))
    assert torch.equal(model.decode_latents(pixel), model.decode(tokens))
    assert torch.allclose(model.features(tokens), model.feature_decoder(semantic))
    assert model.features(tokens).shape == (2, 16, 128)


def test_whole_scales_decode_by_themselves() -> None:
    model = flow()
    tokens = model.encode(pictures(2))
    for scales, length in ((1, 1), (2, 5), (3, 21)):
        prefix = model.encode(pictures(2), num_tokens=length)
        assert torch.equal(prefix.codes, tokens.codes[:, :length])
        assert torch.equal(model.embed(prefix), model.embed(tokens, upto=scales))
        assert model.decode(prefix).shape == (2, 3, 16, 16)
    assert not torch.equal(model.features(tokens, upto=1), model.features(tokens))


def test_items_may_have_different_prefixes() -> None:
    model = flow()
    tokens = model.encode(pictures(3))
    lengths = torch.tensor([21, 5, 1])
    mixed = model.decode(Tokens(tokens.codes, lengths))
    for item, length in enumerate(lengths.tolist()):
        alone = model.decode(tokens.codes[item : item + 1, :length])
        assert torch.allclose(mixed[item : item + 1], alone, atol=1e-5)


def test_the_pixel_weight_moves_the_choice() -> None:
    light, heavy = flow(pixel_weight=1e-6), flow(pixel_weight=1e6)
    heavy.load_state_dict(light.state_dict())
    x = pictures(4)
    assert not torch.equal(light.encode(x).codes, heavy.encode(x).codes)
    assert light.code_hash() != heavy.code_hash()
    # The last word of a one-scale model is the nearest row of one table alone.
    single = flow(pixel_weight=1e6, scales=[4])
    streams = single.latent_streams(x)
    unit = nn.functional.normalize(streams["pixel"].movedim(1, -1).flatten(0, 2), dim=1)
    table = nn.functional.normalize(single.quantizer.tables["pixel"], dim=1)
    assert torch.equal(single.encode(x).codes.flatten(), (unit @ table.t()).argmax(1))


def test_another_resolution_shares_the_weights() -> None:
    encoder = SMALL["semantic_encoder"] | {"positions": "offset-0.1"}
    model = flow(semantic_encoder=encoder)
    larger = model.at_resolution(24, [1, 2, 4, 6])
    assert larger.decoder.conv_in.weight is model.decoder.conv_in.weight
    tokens = larger.encode(pictures(2, 24))
    assert tokens.codes.shape == (2, 57) and larger.decode(tokens).shape == (2, 3, 24, 24)
    assert larger.features(tokens).shape == (2, 36, 128)
    assert larger.feature_decoder.position_table.shape == (17, 24)
    with pytest.raises(MediaError, match="6 x 6 grid"):
        flow().at_resolution(24, [6]).encode(pictures(1, 24))


def test_config_holds_no_file_names(tmp_path: Path) -> None:
    file, sizes = clip_file(tmp_path), CLIP_SIZES
    model = TokenFlow(**SMALL | {"semantic_encoder": {"weights": str(file), "sizes": sizes}})
    assert "weights" not in model.config["semantic_encoder"]
    other = TokenFlow(**SMALL | {"semantic_encoder": {"sizes": sizes}})
    ours, fresh = (m.semantic_tower.network.position_table for m in (model, other))
    assert not torch.equal(ours, fresh)
    model.save_pretrained(tmp_path / "model")
    file.unlink()
    again = TokenFlow.from_pretrained(tmp_path / "model")
    assert torch.equal(again.semantic_tower.network.position_table, ours)


# -- training ------------------------------------------------------------------------------------


def test_every_part_trains_and_the_teacher_does_not() -> None:
    model = flow(quantizer_options={"scale_drop": 0.0}).train()
    objective = ImageObjective(
        ImageObjectiveConfig(semantic_weight=1.0, semantic_teacher=CLASSIFIER)
    ).train()
    assert not any(key.startswith("semantic.") for key in objective.state_dict())
    x = pictures(2)
    terms = objective.generator_losses(x, model(x), 0)
    assert 0 < float(terms["loss/semantic"].detach()) < 2
    sum(terms.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert all(p.grad is None for p in objective.semantic.parameters())
    grad = model.feature_decoder.head[2].weight.grad.clone()
    model.zero_grad()
    config = ImageObjectiveConfig()
    sum(ImageObjective(config).generator_losses(x, model(x), 0).values()).backward()
    assert grad.abs().sum() > 0 and model.feature_decoder.head[2].weight.grad is None


def test_decoder_only_training_keeps_codes_and_drops_scales() -> None:
    model = flow(quantizer_options={"scale_drop": 1.0})
    code_hash = model.code_hash()
    frozen = freeze(model, train_only=["decoder"])
    set_training(model, frozen)
    assert model.codes_are_frozen and not model.quantizer.training
    torch.manual_seed(1)
    dropped = {model._dropped_scale() for _ in range(40)}
    assert dropped == {1, 2}
    out = model(pictures(2))
    assert all(float(loss) == 0 for loss in out.losses.values())
    out.reconstruction.square().mean().backward()
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert trained == {"decoder"} and model.code_hash() == code_hash


def test_training_draws_a_scale_to_drop() -> None:
    model = flow(quantizer_options={"scale_drop": 1.0}).train()
    assert model._dropped_scale() is None  # the quantizer draws while it trains
    torch.manual_seed(0)
    full = flow(quantizer_options={"scale_drop": 0.0}).train()
    x = pictures(2)
    assert not torch.equal(model(x).reconstruction, full(x).reconstruction)


# -- bad input -----------------------------------------------------------------------------------

BAD_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"scales": [1, 2, 3]}, "ends in 3x3 but the semantic encoder makes 4x4"),
    ({"scales": []}, "scale list is empty"),
    ({"image_size": 20}, "makes 5x5"),
    ({"semantic_encoder": {"patch_size": 4}}, "unknown option 'patch_size'"),
    ({"semantic_decoder": {"width": 24, "heads": 5, "target_dim": 8}}, "divide the width"),
    ({"semantic_decoder": {"width": 24}}, "lacks target_dim"),
    ({"decoder_sizes": {"channels": 32, "multipliers": [1, 1]}}, "same number of multipliers"),
    ({"quantizer_options": {"scale_dorp": 0.1}}, "did you mean 'scale_drop'"),
    ({"codebook_size": 0}, "codebook_size is 0"),
    ({"pixel_weight": -1.0}, "above 0"),
]


@pytest.mark.parametrize(("changes", "sentence"), BAD_CONFIGS, ids=[c[1] for c in BAD_CONFIGS])
def test_bad_configs_are_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        TokenFlow(**SMALL | changes)


def test_bad_tokens_and_pictures_are_one_sentence() -> None:
    model = flow()
    tokens = model.encode(pictures(2))
    with pytest.raises(TokenError, match="end after 1, 5, 21"):
        model.decode(tokens.codes[:, :7])
    with pytest.raises(TokenError, match="end after 1, 5, 21"):
        model.encode(pictures(1), num_tokens=4)
    with pytest.raises(TokenError, match="upto from 1 to 3"):
        model.embed(tokens, upto=4)
    with pytest.raises(TesseraError, match="did you mean 'semantic'"):
        model.embed(tokens, stream="semantics")
    with pytest.raises(TokenError, match="carry the size"):
        model.decode(Tokens(tokens.codes, extent=torch.full((2, 2), 17)))
    with pytest.raises(TokenError, match="outside the vocabulary"):
        model.decode(tokens.codes + 24)
    with pytest.raises(TokenError, match="one per item"):
        model.decode(Tokens(tokens.codes, torch.tensor([21])))
    with pytest.raises(MediaError, match="3, 16, 16"):
        model.encode(pictures(1, 20))
    with pytest.raises(TokenError, match="pixel stream"):
        model.decode_latents(torch.zeros(1, 5, 4, 4))


def test_missing_semantic_weights_are_one_sentence() -> None:
    with pytest.raises(WeightsError, match="no vision model at '/nowhere'"):
        TokenFlow(**SMALL | {"semantic_encoder": {"weights": "/nowhere"}})
