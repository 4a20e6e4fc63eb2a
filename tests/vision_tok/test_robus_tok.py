"""RobusTok, XQ-GAN and ImageFolder: contract, sizes, branches, scales, training, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from tok_core.contract import Tokenizer, Tokens
from tok_core.errors import ConfigError, MediaError, TesseraError, TokenError, WeightsError
from tok_core.perturbation_config import PerturbationConfig
from tok_core.token_file import dumps, loads
from tok_core.tokenizer_contract import TokenizerContract
from tok_core.training.freezing import freeze, set_training
from tok_core.training_perturbation import (
    CLEAN_LATENTS,
    PERTURBED_CODES,
    attach_perturbation,
)
from tok_core.transformer import DropPath
from vision_tok.adaptive_weight import LAST_LAYER
from vision_tok.image_codec import ImageCodec
from vision_tok.robus_tok import (
    SEMANTIC_PERTURBED,
    SEMANTIC_TEACHER,
    SEMANTIC_TOKENS,
    RobusTok,
)
from vision_tok.semantic_teacher import TeacherOptions, build_teacher
from vision_tok.tower_start import resized_patches
from vision_tok.tower_weights import TIMM, read_tower, tower_names, tower_sizes
from vision_tok.vision_tower import TowerSizes, VisionTower

SIDE: dict[str, Any] = {"width": 32, "layers": 2, "heads": 4, "mlp_width": 48}
SMALL: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "encoder_size": SIDE,
    "decoder_size": SIDE | {"layers": 1}, "code_dim": 6, "codebook_size": 32, "drop_path": 0.0,
    "layer_scale": 0.5,
}  # fmt: skip
PRODUCT = SMALL | {"branches": 2, "code_grid": 3}
FOLDED = PRODUCT | {
    "quantizer_kind": "multi_scale", "scales": [1, 1, 2, 3], "codebook_size": 24,
    "quantizer_options": {"average_usage": True, "dropout": 0.0},
}  # fmt: skip
DROPPED = FOLDED | {"quantizer_options": {"dropout": 0.5, "start_drop": 2}}
BINARY = PRODUCT | {
    "quantizer_kind": "binary", "scales": [1, 2, 3], "codebook_size": 64,
    "quantizer_options": {"dropout": 0.0},
}  # fmt: skip


def spread(model: nn.Module) -> Any:
    """Give every parameter weight enough that latents differ from each other."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def robus_tok(values: dict[str, Any] = SMALL, **changes: Any) -> RobusTok:
    torch.manual_seed(0)
    return spread(RobusTok(**values | changes))


def pictures(batch: int, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(batch, 3, 6, 6, generator=generator) * 2 - 1
    return F.interpolate(coarse, side, mode="bicubic").clamp(-1, 1)


# -- the common contract -------------------------------------------------------------------------


class Family(TokenizerContract):
    code_parameter = "encoder.latent_tokens"
    decoder_parameter = "decoder.to_pixel.weight"

    def sample(self, batch: int) -> Tensor:
        return pictures(batch)


class TestOneBranch(Family):
    def make(self) -> Tokenizer:
        return spread(RobusTok(**SMALL, quantizer_options={"average_usage": True}))


class TestProduct(Family):
    def make(self) -> Tokenizer:
        return spread(RobusTok(**PRODUCT))


class TestScalesOfTwoBranches(Family):
    def make(self) -> Tokenizer:
        return spread(RobusTok(**FOLDED))


class TestScalesOfOneBranch(Family):
    def make(self) -> Tokenizer:
        return spread(RobusTok(**FOLDED | {"branches": 1}))


class TestBinary(Family):
    def make(self) -> Tokenizer:
        return spread(RobusTok(**BINARY))


# -- codes ---------------------------------------------------------------------------------------


def test_shapes_of_codes_and_latents() -> None:
    x = pictures(2)
    shapes = {
        (2, 4, 4): (SMALL, (2, 6, 4, 4)), (2, 2, 3, 3): (PRODUCT, (2, 12, 3, 3)),
        (2, 2, 15): (FOLDED, (2, 12, 3, 3)), (2, 15): (FOLDED | {"branches": 1}, (2, 6, 3, 3)),
        (2, 2, 14): (BINARY, (2, 12, 3, 3)),
        (2, 3, 3): (BINARY | {"branches": 1, "scales": None, "code_grid": 3}, (2, 6, 3, 3)),
    }  # fmt: skip
    for shape, (values, latents) in shapes.items():
        model = robus_tok(values)
        codes = model.encode(x).codes
        assert codes.shape == shape
        assert model.latents(x).shape == latents == model.embed(codes).shape
        assert len(model.spec.vocabulary) == model.settings.branches
        sequence = model.spec.to_sequence(codes)
        assert torch.equal(model.spec.from_sequence(sequence), codes)


def test_branches_know_nothing_of_each_other() -> None:
    model, x = robus_tok(PRODUCT), pictures(2)
    codes = model.encode(x).codes
    with torch.no_grad():
        model.quantizer.branches[1].codebook.copy_(torch.randn(32, 6))
    changed = model.encode(x).codes
    assert torch.equal(changed[:, 0], codes[:, 0]) and not torch.equal(changed[:, 1], codes[:, 1])
    first, second = model.embed(codes).chunk(2, 1)
    assert torch.equal(first[:, :, 1, 2], model.codebooks[0].vectors[codes[:, 0, 1, 2]])
    assert torch.equal(second[:, :, 1, 2], model.codebooks[1].vectors[codes[:, 1, 1, 2]])


@pytest.mark.parametrize("branches", [1, 2])
def test_whole_scales_decode(branches: int) -> None:
    model, x = robus_tok(FOLDED, branches=branches), pictures(3)
    full = model.encode(x)
    for count, upto in ((1, 1), (2, 2), (6, 3), (15, 4)):
        short = model.encode(x, num_tokens=count)
        assert torch.equal(short.codes, full.codes[..., :count])
        assert torch.equal(model.embed(short), model.embed(full, upto=upto))
        assert model.decode(short).shape == x.shape
    ragged = Tokens(full.codes, torch.tensor([1, 6, 15]), full.extent)
    each = [model.decode(full.codes[i : i + 1, ..., :n]) for i, n in enumerate((1, 6, 15))]
    assert torch.allclose(model.decode(ragged), torch.cat(each), atol=1e-5)
    with pytest.raises(TokenError, match="whole scales"):
        model.decode(full.codes[..., :5])
    with pytest.raises(TokenError, match="whole scales"):
        model.encode(x, num_tokens=7)


# -- sizes ---------------------------------------------------------------------------------------


def test_any_multiple_of_the_patch_is_a_size() -> None:
    for size in (8, 24, 40):
        model = robus_tok(image_size=size)
        x = pictures(2, size)
        assert model.encode(x).codes.shape == (2, size // 8, size // 8)
        assert model.decode(model.encode(x)).shape == x.shape


def test_another_size_resizes_positions_and_keeps_the_number_of_codes() -> None:
    model = robus_tok()
    larger = model.at_resolution(48)
    x = pictures(2, 48)
    tokens = larger.encode(x)
    assert tokens.codes.shape == (2, 4, 4) and larger.decode(tokens).shape == x.shape
    assert larger.encoder.latent_tokens.data_ptr() == model.encoder.latent_tokens.data_ptr()
    assert larger.code_hash() != model.code_hash()
    table = model.encoder.tower.position_table[1:].detach()
    resized = F.interpolate(
        table.view(1, 4, 4, 32).permute(0, 3, 1, 2), (6, 6), mode="bicubic", antialias=True
    )
    assert torch.allclose(larger.encoder.tower.grid_positions((6, 6)), resized[0].flatten(1).t())
    codes = model.encode(pictures(2)).codes
    assert torch.equal(model.at_resolution(32).encode(pictures(2)).codes, codes)
    with pytest.raises(ConfigError, match="do not fill; give 40 or 48"):
        model.at_resolution(44)


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(MediaError, match=r"exactly \(batch, 3, 32, 32\)"):
        robus_tok().encode(pictures(1, 40))


def test_the_second_class_token_counts() -> None:
    model = robus_tok()
    seen = []
    model.decoder.tower.blocks[0].register_forward_hook(lambda m, given, out: seen.append(given[0]))
    model.decode(model.encode(pictures(1)))
    tokens = seen[0][0]
    assert len(tokens) == (1 + 16) + (1 + 16)
    levels = model.decoder.level_table
    assert torch.allclose(tokens[0] - levels[0], tokens[17] - levels[1], atol=1e-6)


# -- token files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["resize", "tile"])
@pytest.mark.parametrize("values", [SMALL, PRODUCT, FOLDED], ids=["one", "product", "folded"])
def test_token_files_hold_branches(values: dict[str, Any], policy: str, tmp_path: Path) -> None:
    model = robus_tok(values)
    tokens = 6 if values is FOLDED else None
    codec = ImageCodec(model, policy=policy, tokens=tokens)
    Image.new("RGB", (50, 40), (90, 120, 10)).save(tmp_path / "a.png")
    (encoded,) = codec.encode([codec.read(tmp_path / "a.png")])
    assert not isinstance(encoded, TesseraError)
    file = loads(dumps(encoded.file), expect_code_hash=model.code_hash())
    codec.check(file)
    (decoded,) = codec.decode([file])
    assert not isinstance(decoded, TesseraError) and decoded.pixels.shape == (3, 40, 50)
    if policy == "resize" and values is PRODUCT:
        assert file.codes.shape == (3, 3, 2)


def test_a_byte_target_counts_both_branches(tmp_path: Path) -> None:
    codec = ImageCodec(robus_tok(FOLDED), target_bytes=40)
    Image.new("RGB", (50, 40), (90, 120, 10)).save(tmp_path / "a.png")
    (encoded,) = codec.encode([codec.read(tmp_path / "a.png")])
    assert not isinstance(encoded, TesseraError)
    assert len(dumps(encoded.file)) <= 40 and encoded.file.codes.shape[-1] == 2
    assert codec.shortened(encoded.file, 1).codes.shape == (1, 2)


# -- training ------------------------------------------------------------------------------------


def features(batch: int, width: int = 32) -> Tensor:
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(2))


def test_the_teacher_is_projected_by_the_shared_layer() -> None:
    model = robus_tok(PRODUCT).train()
    out = model(pictures(4), teacher_feature=features(4))
    weight, bias = model.quant_conv.weight[:, :, 0, 0], model.quant_conv.bias
    expected = features(4) @ weight.t() + bias
    assert torch.allclose(out.features[SEMANTIC_TEACHER], expected, atol=1e-5)
    tokens = out.features[SEMANTIC_TOKENS]
    assert tokens.shape == (1, 4, 6)
    pooled = model.embed(out.tokens).chunk(2, 1)[1].mean((2, 3))
    assert torch.allclose(tokens[0], pooled, atol=1e-5)
    (tokens.sum() + out.features[SEMANTIC_TEACHER].sum()).backward()
    assert model.quant_conv.weight.grad is not None
    assert model.encoder.latent_tokens.grad is not None
    everything = robus_tok(PRODUCT, semantic_branches="all").train()
    out = everything(pictures(4), teacher_feature=features(4))
    assert out.features[SEMANTIC_TOKENS].shape == (2, 4, 6)
    with pytest.raises(ConfigError, match="choose a teacher 32 wide"):
        model(pictures(4), teacher_feature=features(4, 20))


@pytest.mark.parametrize("values", [PRODUCT | {"quantizer_options": {"dropout": 0.5}}, DROPPED],
                         ids=["one scale", "four scales"])  # fmt: skip
def test_dropped_items_leave_the_semantic_loss(values: dict[str, Any]) -> None:
    model = robus_tok(values).train()
    out = model(pictures(4), teacher_feature=features(4))
    assert {out.features[n].shape[-2] for n in (SEMANTIC_TOKENS, SEMANTIC_TEACHER)} == {2}
    found = model.eval()(pictures(4), teacher_feature=features(4))
    whole = found.features[SEMANTIC_TEACHER]
    assert whole.shape == (4, 6)
    assert torch.allclose(out.features[SEMANTIC_TEACHER], whole[2:], atol=1e-5)


@pytest.mark.parametrize("values", [SMALL, PRODUCT, FOLDED, BINARY],
                         ids=["one", "product", "folded", "binary"])  # fmt: skip
def test_perturbation_reaches_the_decoder_alone(values: dict[str, Any]) -> None:
    model, x = robus_tok(values), pictures(4)
    clean = model.encode(x).codes
    config = PerturbationConfig(alpha=1.0, beta=0.5, delta=8)
    attach_perturbation(model, config)
    out = model.train()(x, teacher_feature=features(4))
    assert torch.equal(out.tokens.codes, clean)
    new = out.features[PERTURBED_CODES]
    assert new.shape == clean.shape
    changed = (new != clean).flatten(1).any(1)
    assert changed.tolist() == [True, True, False, False]
    assert not torch.equal(out.features[SEMANTIC_TOKENS], out.features[SEMANTIC_PERTURBED])
    assert out.features[CLEAN_LATENTS].shape == model.embed(clean).shape
    assert out.statistics["perturbation/changed"] > 0
    out.reconstruction.square().mean().backward()
    assert model.encoder.latent_tokens.grad is not None
    assert PERTURBED_CODES not in model.eval()(x).features


def test_statistics_of_branches_have_names() -> None:
    single = robus_tok(quantizer_options={"average_usage": True}).train()(pictures(2)).statistics
    assert not any("branch" in name for name in single)
    assert single["codebook/counts"].shape == (32,) and "codebook/average_usage" in single
    folded = robus_tok(FOLDED).train()(pictures(2)).statistics
    assert {"codebook/usage/branch0", "codebook/usage/branch1/scale3"} <= folded.keys()


def test_the_decoder_trains_alone() -> None:
    model, x = robus_tok(), pictures(2)
    frozen = freeze(model, train_only="decoder")
    set_training(model.train(), frozen)
    assert model.codes_are_frozen
    out = model(x, tokens=model.encode(x))
    out.reconstruction.mean().backward()
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert trained == {"decoder", "post_quant_conv"}
    assert all(float(loss) == 0 for loss in model(x).losses.values())
    assert out.features[LAST_LAYER] is model.decoder.to_pixel.weight


def test_gradient_checkpointing_changes_nothing() -> None:
    model, x = robus_tok().train(), pictures(2)
    plain = model(x).reconstruction
    model.enable_gradient_checkpointing()
    again = model(x).reconstruction
    assert model.encoder.tower.gradient_checkpointing and torch.allclose(plain, again, atol=1e-6)


def test_drop_path_leaves_whole_items_out() -> None:
    torch.manual_seed(0)
    x, drop = torch.ones(4000, 2, 3), DropPath(0.25)
    out = drop.train()(x)
    kept = (out[:, 0, 0] > 0).float()
    assert torch.equal(out, (kept / 0.75)[:, None, None] * x) and abs(kept.mean() - 0.75) < 0.03
    assert torch.equal(drop.eval()(x), x)
    model = RobusTok(**SMALL | {"drop_path": 0.2})
    assert [block.drop_path.rate for block in model.encoder.tower.blocks] == [0.0, 0.2]


# -- DINOv2 weights ------------------------------------------------------------------------------

DINO = TowerSizes(patch_size=4, grid=5, width=32, layers=2, heads=4, mlp_width=48, class_token=True,
                  layer_scale=1e-5)  # fmt: skip


def dino_file(folder: Path, sizes: TowerSizes = DINO) -> tuple[Path, VisionTower]:
    """Write a DINOv2 of a few thousand parameters in timm's layout."""
    torch.manual_seed(3)
    tower = spread(VisionTower(sizes))
    names = tower_names(tower, TIMM)
    state = {names[n][0]: t.clone() for n, t in tower.state_dict().items()}
    state |= {"cls_token": state["cls_token"].view(1, 1, -1), "pos_embed": state["pos_embed"][None],
              "mask_token": torch.zeros(1, 32)}  # fmt: skip
    save_file(state, folder / "dinov2.safetensors")
    return folder / "dinov2.safetensors", tower


def test_both_sides_start_from_dinov2(tmp_path: Path) -> None:
    file, tower = dino_file(tmp_path)
    side = SIDE | {"weights": str(file)}
    model = RobusTok(**SMALL | {"encoder_size": side, "decoder_size": side})
    assert "weights" not in model.config["encoder_size"]
    for ours in (model.encoder.tower, model.decoder.tower):
        assert torch.equal(ours.blocks[1].mlp_scale.gamma, tower.blocks[1].mlp_scale.gamma)
        assert torch.equal(ours.class_token, tower.class_token)
        assert torch.equal(ours.position_table[0], tower.position_table[0])
        assert ours.position_table.shape == (17, 32)
    assert model.encoder.tower.patches.weight.shape == (32, 3, 8, 8)
    assert model.decoder.tower.patches is None
    model.save_pretrained(tmp_path / "model")
    file.unlink()
    again = RobusTok.from_pretrained(tmp_path / "model")
    assert again.weights_hash() == model.weights_hash()


def test_resized_patches_see_a_resized_picture_alike() -> None:
    kernel, x = torch.randn(5, 3, 4, 4), torch.randn(1, 3, 4, 4)
    larger = F.interpolate(x, (8, 8), mode="bicubic", antialias=True)
    before, after = F.conv2d(x, kernel), F.conv2d(larger, resized_patches(kernel, 8))
    assert torch.allclose(before, after, atol=1e-4)
    assert resized_patches(kernel, 4) is kernel


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file, _ = dino_file(tmp_path)
    with pytest.raises(WeightsError, match="2 blocks deep"):
        RobusTok(**SMALL | {"encoder_size": SIDE | {"weights": str(file), "layers": 1}})
    with pytest.raises(WeightsError, match="no vision model at"):
        RobusTok(**SMALL | {"encoder_size": SIDE | {"weights": "nowhere.safetensors"}})


def test_dinov2_teaches_with_its_class_token(tmp_path: Path) -> None:
    file, tower = dino_file(tmp_path)
    sizes = tower_sizes(read_tower(str(file)))
    assert sizes == TowerSizes(**vars(DINO) | {"heads": 1})
    options: dict[str, Any] = {"weights": str(file), "normalization": "imagenet"}
    teacher = build_teacher(TeacherOptions(**options, sizes={"heads": 4}))
    x = pictures(2, 20)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    seen = ((x + 1) / 2 - mean) / std
    assert torch.allclose(teacher.class_feature(x), tower.class_feature(seen), atol=1e-5)
    mean_of = build_teacher(TeacherOptions(**options, sizes={"heads": 4}, pool="patches"))
    assert torch.allclose(mean_of.class_feature(x), tower(seen).mean(1), atol=1e-5)
    resized = build_teacher(TeacherOptions(
        **options, sizes={"heads": 4, "patch_size": 8, "grid": 4}, positions="antialias"
    ))  # fmt: skip
    assert resized.class_feature(pictures(2)).shape == (2, 32)


# -- bad input -----------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    ({"image_size": 30}, "do not fill; give 24 or 32"),
    ({"branches": 0}, "branches is 0; give a whole number of at least 1"),
    ({"code_dim": "6"}, "code_dim is '6'"),
    ({"quantizer_kind": "vectors"}, "legal are vector, multi_scale, binary.*did you mean"),
    ({"scales": [1, 4]}, "scales belongs to quantizer_kind 'multi_scale'"),
    ({"quantizer_kind": "multi_scale"}, "scales is empty; list the sides"),
    ({"quantizer_kind": "multi_scale", "scales": [1, 4], "code_grid": 3}, "let the last scale be"),
    ({"quantizer_kind": "multi_scale", "scales": [1, [2, 3]]}, "let it end in 3"),
    ({"quantizer_kind": "multi_scale", "scales": [1, 4],
      "quantizer_options": {"dropout": 0.1, "start_drop": 3}}, "start_drop is 3.*give 1 to 2"),
    ({"quantizer_options": {"start_drop": 3}}, "unknown option 'start_drop'"),
    ({"quantizer_options": {"dropout": 1.5}}, "dropout rate is 1.5"),
    ({"quantizer_kind": "binary"}, "has 64 codes but codebook_size is 32"),
    ({"semantic_branches": "first"}, "legal are last and all"),
    ({"encoder_size": SIDE | {"heads": 5}}, "heads that divide the width"),
    ({"drop_path": 1.0}, "drop_path is 1.0"),
    ({"layer_scale": 0.0}, "layer_scale 0.0; give"),
    ({"position_start": "cosine"}, "position_start is .cosine.; legal are normal and sincos"),
    ({"encoder_size": SIDE | {"layers": 0}}, "encoder_size has 0 layers"),
    ({"encoder_size": SIDE | {"depth": 3}}, "unknown option 'depth'"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), BAD, ids=lambda value: str(value)[:50])
def test_what_cannot_work_is_refused_at_once(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        RobusTok(**SMALL | changes)


def test_tokens_that_do_not_fit_are_refused() -> None:
    model, x = robus_tok(PRODUCT), pictures(2)
    tokens = model.encode(x)
    for wrong, sentence in (
        (tokens.codes[:, 0], "needs"), (tokens.codes[:, :1], "along 'branch'"),
        (tokens.codes + 32, "outside the vocabulary"), (tokens.codes[..., :2], "along 'column'"),
        (tokens._replace(extent=torch.full((2, 2), 40)), "carry the size"),
        (tokens._replace(lengths=torch.tensor([3, 9])), "leave the lengths out"),
    ):  # fmt: skip
        with pytest.raises(TokenError, match=sentence):
            model.decode(wrong)
    with pytest.raises(TokenError, match="leave num_tokens out"):
        model.encode(x, num_tokens=3)
    with pytest.raises(TokenError, match="has only one"):
        model.embed(tokens, stream="pixel")
    with pytest.raises(TokenError, match="no condition"):
        model.decode(tokens, condition=torch.zeros(1))
