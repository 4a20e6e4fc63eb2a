"""The semantic encoder's adapters, its teacher, and the decoder that answers it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_tower import clip_file, torchscript_file
from torch import Tensor, nn

from tok_core.contract import Tokens, TrainingOutput
from tok_core.errors import ConfigError, MediaError, TesseraError, WeightsError
from tok_core.torchaudio_guard import guard_torchaudio
from vision_tok.position_resize import resized_positions
from vision_tok.semantic_decoder import SemanticDecoder, SemanticDecoderOptions
from vision_tok.semantic_distillation import SemanticDistillation, semantic_loss
from vision_tok.semantic_encoder import SemanticEncoder, parse_encoder, plain_encoder
from vision_tok.semantic_teacher import TeacherOptions, build_teacher
from vision_tok.tower_weights import read_tower, tower_sizes
from vision_tok.vision_tower import TowerSizes, VisionTower

SIZES: dict[str, Any] = {
    "patch_size": 4, "grid": 4, "width": 32, "layers": 3, "heads": 4, "mlp_width": 48,
}  # fmt: skip
SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "image_size": 16, "patch_size": 4,
}  # fmt: skip
LIBRARY = {
    "clip_vision_model": SMALL | {"hidden_act": "quick_gelu"},
    "siglip_vision_model": SMALL,
    "dinov2": SMALL | {"mlp_ratio": 2},
    "vit": SMALL,
}


def pictures(side: int = 16) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def library() -> Any:
    guard_torchaudio()
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random models of the transformers library, as their authors publish them."""
    found = {}
    for kind, values in LIBRARY.items():
        torch.manual_seed(3)
        model = library().AutoModel.from_config(library().AutoConfig.for_model(kind, **values))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        found[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(found[kind])
    return found


def published(folder: Path, x: Tensor) -> tuple[Any, Any]:
    model = library().AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model, model(x, output_hidden_states=True)


# -- features are what the library gives ---------------------------------------------------------


@pytest.mark.parametrize("kind", ["clip_vision_model", "siglip_vision_model"])
@torch.no_grad()
def test_our_tower_is_the_published_one(kind: str, folders: dict[str, Path]) -> None:
    x = pictures()
    model, out = published(folders[kind], x)
    clip = kind == "clip_vision_model"
    options = {"weights": str(folders[kind])}
    sizes = tower_sizes(read_tower(str(folders[kind])), {"heads": 4})
    assert (sizes.class_token, sizes.pre_norm, sizes.patch_bias) == (clip, clip, not clip)
    encoder = SemanticEncoder(
        parse_encoder(options | {"sizes": dataclasses.asdict(sizes), "final_norm": False})
    )
    assert encoder.options.weights is None
    middle = SemanticEncoder(
        parse_encoder(
            options | {"sizes": dataclasses.asdict(sizes), "final_norm": False, "block": 2}
        )
    )
    assert torch.allclose(middle(x), out.hidden_states[2][:, int(clip) :], atol=1e-5)
    tower = getattr(model, "vision_model", model)
    normed = SemanticEncoder(parse_encoder(options | {"sizes": dataclasses.asdict(sizes)}))
    expected = out.last_hidden_state[:, int(clip) :]
    if clip:  # SigLIP's last hidden state has gone through it already
        expected = tower.post_layernorm(expected)
    assert torch.allclose(normed(x), expected, atol=1e-5)
    assert torch.allclose(tower.post_layernorm(encoder(x)), normed(x), atol=1e-5)


@pytest.mark.parametrize("kind", LIBRARY)
@torch.no_grad()
def test_any_model_of_the_library(kind: str, folders: dict[str, Path]) -> None:
    x = pictures()
    _, out = published(folders[kind], x)
    prefix = out.hidden_states[0].shape[1] - 16
    options: dict[str, Any] = {"kind": "transformers", "weights": str(folders[kind])}
    encoder = SemanticEncoder(parse_encoder(options | {"block": 2, "final_norm": False}))
    assert torch.allclose(encoder(x), out.hidden_states[2][:, prefix:], atol=1e-5)
    whole = SemanticEncoder(parse_encoder(options))
    expected = out.last_hidden_state[:, prefix:]
    if kind == "clip_vision_model":
        expected = torch.nn.functional.layer_norm(
            expected, (32,), *_final_norm(whole.network.model), 1e-5
        )
    assert torch.allclose(whole(x), expected, atol=1e-5)
    assert (whole.width, whole.grid_of(16)) == (32, 4)


def _final_norm(model: nn.Module) -> tuple[Tensor, Tensor]:
    named = dict(model.named_parameters())
    (name,) = (name for name in named if name.endswith("post_layernorm.weight"))
    return named[name], named[name.replace("weight", "bias")]


@pytest.mark.parametrize("kind", LIBRARY)
@torch.no_grad()
def test_saved_options_rebuild_it_without_the_folder(kind: str, folders: dict[str, Path]) -> None:
    first = SemanticEncoder(
        parse_encoder({"kind": "transformers", "weights": str(folders[kind]), "block": 2})
    )
    plain = plain_encoder(first.options)
    assert "weights" not in plain
    with torch.device("meta"):
        again = SemanticEncoder(parse_encoder(plain))
    assert all(p.is_meta for p in again.parameters())
    again.load_state_dict(first.state_dict(), assign=True)
    assert torch.equal(first(pictures()), again.eval()(pictures()))


@pytest.mark.parametrize("kind", ["clip_vision_model", "dinov2"])
@torch.no_grad()
def test_the_library_interpolates_positions(kind: str, folders: dict[str, Path]) -> None:
    options = {"kind": "transformers", "weights": str(folders[kind])}
    with pytest.raises(MediaError, match="24 x 24"):
        SemanticEncoder(parse_encoder(options))(pictures(24))
    encoder = SemanticEncoder(parse_encoder(options | {"positions": "size"}))
    model = library().AutoModel.from_pretrained(folders[kind]).eval()
    given = {} if kind == "dinov2" else {"interpolate_pos_encoding": True}
    out = model(pictures(24), output_hidden_states=True, **given)
    block = SemanticEncoder(
        parse_encoder(options | {"positions": "size", "block": 1, "final_norm": False})
    )
    assert torch.allclose(block(pictures(24)), out.hidden_states[1][:, 1:], atol=1e-5)
    assert encoder(pictures(24)).shape == (2, 36, 32)


# -- our own tower -------------------------------------------------------------------------------


def test_position_rules() -> None:
    table = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    assert resized_positions(table, (4, 4), "none") is table
    sized, offset = (resized_positions(table, (6, 6), rule) for rule in ("size", "offset-0.1"))
    assert sized.shape == offset.shape == (36, 8)
    # The sampling points themselves move: 6.1 / 4 is not 6 / 4.
    assert (sized - offset).abs().max() > 1e-3
    assert resized_positions(table, (2, 5), "offset-0.1").shape == (10, 8)
    with pytest.raises(MediaError, match="3 x 3"):
        resized_positions(table, (3, 3), "none")


def test_blocks_behind_the_one_asked_for_are_not_built() -> None:
    torch.manual_seed(0)
    whole = VisionTower(TowerSizes(**SIZES), final_norm=False)
    part = VisionTower(TowerSizes(**SIZES), block=1, final_norm=False)
    assert len(part.blocks) == 1 and part.norm_out is None
    part.load_state_dict({n: whole.state_dict()[n] for n in part.state_dict()})
    del whole.blocks[1:]
    assert torch.equal(part(pictures()), whole(pictures()))


def test_gradient_checkpointing_changes_no_gradient() -> None:
    torch.manual_seed(0)
    tower = VisionTower(TowerSizes(**SIZES, class_token=True, pre_norm=True))
    gradients = []
    for checkpointing in (False, True):
        tower.zero_grad()
        tower.gradient_checkpointing = checkpointing
        tower(pictures()).square().mean().backward()
        gradients.append(tower.patches.weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-7)


@pytest.mark.parametrize("normalization", ["none", "half", "clip", "custom"])
def test_what_the_network_sees(normalization: str) -> None:
    own = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    options: dict[str, Any] = {"sizes": SIZES, "normalization": normalization}
    encoder = SemanticEncoder(
        parse_encoder(options | (own if normalization == "custom" else {}))
    )
    x = pictures() * 1.2
    seen = encoder.normalised(x)
    clamped = x.clamp(-1, 1)
    if normalization == "none":
        assert seen is x
    elif normalization == "half":
        assert torch.allclose(seen, clamped, atol=1e-6)
    else:
        mean = {"clip": 0.48145466, "custom": 0.1}[normalization]
        std = {"clip": 0.26862954, "custom": 0.4}[normalization]
        assert torch.allclose(seen[:, 0], ((clamped[:, 0] + 1) / 2 - mean) / std, atol=1e-5)


# -- a timm model --------------------------------------------------------------------------------


class _Timm(nn.Module):
    """What timm's vision transformers offer, as far as the adapter asks."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.num_features, self.num_prefix_tokens = 8, 1
        self.patch_embed = nn.Conv2d(3, 8, 4, stride=4)
        self.patch_embed.patch_size = (4, 4)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.norm, self.fc_norm = nn.LayerNorm(8), nn.LayerNorm(8)

    def forward_features(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == 16 or "dynamic_img_size" in self.options, "Input height"
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((x[:, :1] * 0, x), dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward_intermediates(
        self, x: Tensor, *, indices: list[int], norm: bool, stop_early: bool, output_fmt: str,
        intermediates_only: bool,
    ) -> list[Tensor]:  # fmt: skip
        assert output_fmt == "NLC" and intermediates_only and stop_early
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        for block in self.blocks[: indices[0] + 1]:
            x = block(x)
        return [self.norm(x) if norm else x]


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the library, which cannot be imported beside a CPU build of torch."""

    def create_model(name: str, **options: Any) -> _Timm:
        if name != "tiny":
            raise RuntimeError(f"Unknown model ({name})")
        return _Timm(**options)

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))


@torch.no_grad()
def test_timm_adapter(timm: None, tmp_path: Path) -> None:
    encoder = SemanticEncoder(parse_encoder({"kind": "timm", "name": "tiny"}))
    model = encoder.network.model
    assert model.options == {"pretrained": False, "num_classes": 0}
    assert (encoder.width, encoder.grid_of(16)) == (8, 4)
    assert torch.equal(encoder(pictures()), model.forward_features(pictures())[:, 1:])
    with pytest.raises(MediaError, match="set positions to 'size'"):
        encoder(pictures(24))
    sized = SemanticEncoder(parse_encoder({"kind": "timm", "name": "tiny", "positions": "size"}))
    assert sized(pictures(24)).shape == (2, 36, 8)
    bare = SemanticEncoder(
        parse_encoder({"kind": "timm", "name": "tiny", "block": 1, "final_norm": False})
    )
    assert bare(pictures()).shape == (2, 16, 8)
    state = {f"visual.trunk.{name}": t + 1 for name, t in _Timm().state_dict().items()}
    save_file(state | {"logit_scale": torch.zeros(1)}, tmp_path / "open_clip.safetensors")
    loaded = SemanticEncoder(
        parse_encoder(
            {"kind": "timm", "name": "tiny", "weights": str(tmp_path / "open_clip.safetensors")}
        )
    )
    expected = state["visual.trunk.blocks.0.weight"]
    assert torch.equal(loaded.network.model.blocks[0].weight, expected)
    with pytest.raises(ConfigError, match="no model 'tinny'"):
        SemanticEncoder(parse_encoder({"kind": "timm", "name": "tinny"}))


# -- the teacher ---------------------------------------------------------------------------------


def test_teacher_is_frozen_and_projects(tmp_path: Path) -> None:
    file = str(clip_file(tmp_path))
    options = TeacherOptions(weights=file, sizes={"heads": 4}, normalization="clip")
    plain, projected = (
        build_teacher(dataclasses.replace(options, project=project)) for project in (False, True)
    )
    assert (plain.width, projected.width) == (32, 10)
    x = pictures()
    assert torch.allclose(projected(x, 4), plain(x, 4) @ projected.projection, atol=1e-5)
    assert not projected.train().training and not any(
        p.requires_grad for p in projected.parameters()
    )
    with pytest.raises(ConfigError, match="16 features per picture"):
        plain(x, 5)


def test_packaged_classifier_teaches() -> None:
    options = TeacherOptions(
        kind="classifier", weights="assets/classifiers/procedural-v1", strides=(2, 1, 2, 2, 1),
        taps=(2, 4),
    )  # fmt: skip
    teacher = build_teacher(options)
    features = teacher(pictures(32), 4)
    assert features.shape == (2, 16, teacher.width) == (2, 16, 96 + 128)
    assert teacher(pictures(32), 16).shape == (2, 256, 224)
    assert not torch.equal(features[0], features[1])


def test_openai_torchscript_archives_are_read(tmp_path: Path) -> None:
    """Whole models with their text side, in float16; nothing of their code runs."""
    options = {"sizes": {"heads": 4}, "normalization": "clip", "project": True}
    plain = build_teacher(TeacherOptions(weights=str(clip_file(tmp_path)), **options))
    archive = build_teacher(TeacherOptions(weights=str(torchscript_file(tmp_path)), **options))
    assert archive.projection is not None and archive.projection.dtype == torch.float32
    x = pictures()
    assert torch.allclose(archive(x, 4), plain(x, 4), atol=2e-2)
    encoder = SemanticEncoder(parse_encoder({"weights": str(tmp_path / "ViT-B-16.pt")}))
    assert encoder.options.sizes is not None and encoder.options.sizes.layers == 3


def test_distillation_needs_a_prediction_of_the_teachers_width(tmp_path: Path) -> None:
    file = str(clip_file(tmp_path))
    distillation = SemanticDistillation.from_options(
        TeacherOptions(weights=file, sizes={"heads": 4})
    )
    x, codes = pictures(), Tokens(torch.zeros(2, 1, dtype=torch.int64))
    target = distillation.teacher(x, 4)
    out = TrainingOutput(x, codes, {}, {}, features={"semantic_prediction": 3 * target})
    assert float(distillation(x, out)) == pytest.approx(0, abs=1e-5)
    assert float(semantic_loss(-target, target)) == pytest.approx(2, abs=1e-5)
    with pytest.raises(ConfigError, match="target_dim"):
        distillation(x, out._replace(features={"semantic_prediction": target[..., 1:]}))
    with pytest.raises(ConfigError, match="TokenFlow"):
        distillation(x, out._replace(features={}))


# -- the semantic decoder ------------------------------------------------------------------------


def test_semantic_decoder_starts_with_shrinking_branches() -> None:
    torch.manual_seed(0)
    options = SemanticDecoderOptions(width=96, target_dim=10, depth=4, heads=4)
    decoder = SemanticDecoder(8, 4, options)
    stds = [float(block.attention.out.weight.detach().std()) for block in decoder.blocks]
    assert stds == pytest.approx([0.02 / (2 * n) ** 0.5 for n in (1, 2, 3, 4)], rel=0.1)
    names = dict(decoder.blocks[0].attention.named_parameters())
    assert {"query_bias", "value_bias"} <= set(names) and "qkv.bias" not in names
    assert decoder(torch.zeros(1, 8, 6, 6)).shape == (1, 36, 10)


# -- bad input -----------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], type[TesseraError], str]] = [
    ({"kind": "towr", "sizes": SIZES}, ConfigError, "did you mean 'tower'"),
    ({}, ConfigError, "needs sizes, or weights"),
    ({"kind": "transformers"}, ConfigError, "needs an architecture or weights"),
    ({"kind": "timm"}, ConfigError, "needs the name"),
    ({"sizes": SIZES, "mean": [0, 0, 0]}, ConfigError, "set it to 'custom'"),
    ({"sizes": SIZES, "normalization": "custom"}, ConfigError, "needs mean"),
    ({"sizes": SIZES, "block": 4}, ConfigError, "give 0 to 3"),
    ({"sizes": SIZES | {"heads": 5}}, ConfigError, "divide the width"),
    ({"sizes": SIZES | {"depth": 5}}, ConfigError, "unknown option 'depth'"),
    ({"weights": "/nowhere/clip"}, WeightsError, "no vision model at '/nowhere/clip'"),
    ({"kind": "transformers", "weights": "/nowhere/dino"}, WeightsError, "'/nowhere/dino'"),
    ({"kind": "transformers", "architecture": {"model_type": "clop"}}, ConfigError, "'clop'"),
    (
        {"kind": "transformers", "architecture": {"model_type": "vit", **SMALL}, "block": 9},
        ConfigError, "give 1 to 3",
    ),
    (
        {"kind": "transformers", "architecture": {"model_type": "vit", **SMALL},
         "positions": "offset-0.1"},
        ConfigError, "use kind 'tower'",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("options", "kind", "sentence"), BAD, ids=[case[2] for case in BAD])
def test_mistakes_are_one_sentence(
    options: dict[str, Any], kind: type[TesseraError], sentence: str
) -> None:
    if options.get("kind") == "transformers" and "architecture" in options:
        pytest.importorskip("transformers")
    with pytest.raises(kind, match=sentence):
        SemanticEncoder(parse_encoder(options))


def test_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match="needs the transformers library"):
        SemanticEncoder(parse_encoder({"kind": "transformers",
                                       "architecture": {"model_type": "vit", **SMALL}}))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="cannot be imported"):
        SemanticEncoder(parse_encoder({"kind": "timm", "name": "vitamin_xlarge_256"}))


def test_foreign_file_is_one_sentence(tmp_path: Path) -> None:
    save_file({"blocks.0.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="holds no CLIP, SigLIP or DINOv2 vision tower"):
        SemanticEncoder(parse_encoder({"weights": str(tmp_path)}))
    file = clip_file(tmp_path)
    with pytest.raises(WeightsError, match="does not fit this vision tower"):
        SemanticEncoder(parse_encoder({"weights": str(file), "sizes": SIZES | {"layers": 2}}))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (None, "semantic_teacher is empty"),
        (TeacherOptions(weights="/nowhere"), "no vision model at '/nowhere'"),
        (TeacherOptions(kind="classifier", weights="/nowhere"), "no classifier at '/nowhere'"),
    ],
)
def test_missing_teacher_is_one_sentence(options: TeacherOptions | None, sentence: str) -> None:
    with pytest.raises(TesseraError, match=sentence):
        SemanticDistillation.from_options(options)
