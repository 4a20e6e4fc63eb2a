"""Decoder post-training over every kind of generator: scales, orders, masks, dimensions, sound.

With ``top_k`` 1 a drawn code is the best one, so that a pair can be held against the generator's
own logits of what it saw: the codes before it, kept ones among them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from audio_tok.dimension_wise_codec import DimensionWiseCodec
from audio_tok.kl_codec import KLCodec
from generators.contract import UNCONDITIONAL, Condition, Generator, fixed_spec
from generators.drawing import numbered_seed
from generators.llamagen import LlamaGen
from generators.masked_sampling import sample_masked
from generators.maskgit import MaskGIT
from generators.next_scale import NextScale
from generators.pair_maker import PairMaker, PairsConfig, keep_mask, kept_positions
from generators.post_train import main
from generators.rar import RAR
from generators.token_bridge import TokenBridge
from generators.token_filter import TokenFilter
from tok_core.contract import Tokens
from tok_core.errors import ConfigError, TokenError
from tok_core.loading import load
from tok_core.procedural_images import ProceduralClasses
from tok_core.token_pairs import MixedSample, PairSource
from tok_core.token_shards import TokenShards
from vision_tok.kl_autoencoder import KLAutoencoder
from vision_tok.one_d_piece import OneDPiece
from vision_tok.robus_tok import RobusTok
from vision_tok.token_bridge import TokenBridgeTokenizer
from vision_tok.token_flow import TokenFlow
from vision_tok.vqgan import VQGAN

PAIRS, SIGMA = 6, 0.5
SIZES: dict[str, Any] = {"width": 32, "layers": 2, "heads": 2}
SIDE: dict[str, Any] = {"channels": 32, "multipliers": [1, 1, 1], "res_blocks": 1, "attention": []}
VIT: dict[str, Any] = {"width": 32, "layers": 1, "heads": 2, "mlp_width": 48}
TOWER = {"sizes": {"patch_size": 4, "grid": 4, "width": 32, "layers": 1, "heads": 2,
                   "mlp_width": 48}}  # fmt: skip
HEAD: dict[str, Any] = {"buffer": 2, "head_width": 16, "head_layers": 1, "head_heads": 2,
                        "first_input": "stepped"}  # fmt: skip
VAE = {"block_out_channels": [8, 8, 16], "layers_per_block": 1, "latent_channels": 4,
       "norm_num_groups": 4, "sample_size": 16}  # fmt: skip
VQ: dict[str, Any] = {"encoder_sizes": SIDE, "decoder_sizes": SIDE, "z_channels": 6, "code_dim": 4,
                      "codebook_size": 16, "image_size": 16}  # fmt: skip
FOLDED: dict[str, Any] = {"image_size": 16, "patch_size": 4, "encoder_size": VIT,
                          "decoder_size": VIT, "branches": 2, "code_dim": 5,
                          "codebook_size": 16}  # fmt: skip
SCALES: dict[str, Any] = {"quantizer_kind": "multi_scale", "scales": [1, 2, 4]}
CODEC: dict[str, Any] = {"strides": [4, 4, 8], "encoder_width": 4, "latent_dim": 4, "width": 32,
                         "hidden": 48, "layers": 2}  # fmt: skip
FRAMES, HOP = 12, 128


def var() -> VQGAN:
    return VQGAN(**VQ, **SCALES, l2_normalize=False)


def token_flow() -> TokenFlow:
    return TokenFlow(
        image_size=16, scales=[1, 2, 4], codebook_size=16, semantic_dim=4, pixel_dim=3,
        semantic_encoder=TOWER, encoder_sizes=SIDE, decoder_sizes=SIDE, z_channels=8,
        semantic_decoder={"width": 32, "heads": 2, "depth": 1, "target_dim": 16},
    )  # fmt: skip


def one_d_piece() -> OneDPiece:
    sizes = {"width": 32, "layers": 1, "heads": 2}
    return OneDPiece(
        image_size=16, patch_size=4, num_tokens=8, token_size=4, encoder_size=sizes,
        decoder_size=sizes, codebook_size=16,
    )  # fmt: skip


def bridge_codec() -> DimensionWiseCodec:
    codec = KLCodec(**CODEC)
    with torch.no_grad():
        codec.head.out.weight.mul_(0.3)
    return DimensionWiseCodec.from_vae(codec, bits=3, scale=0.4, channel_order=[2, 0, 3, 1])


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "var": var,
    "token_flow": token_flow,
    "image_folder": lambda: RobusTok(**FOLDED, **SCALES),
    "grid": lambda: VQGAN(**VQ),
    "product": lambda: RobusTok(**FOLDED),
    "one_d": one_d_piece,
    "bridge": lambda: TokenBridgeTokenizer(VAE, scale=1.0, bits=3, channel_order=[2, 0, 3, 1]),
    "bridge_codec": bridge_codec,
}
# Generator, tokenizer, and what the generator is made with beside the common sizes.
CHAINS: dict[str, tuple[type[Generator], str, dict[str, Any]]] = {
    "next-scale-var": (NextScale, "var", {"value_width": 4}),
    "next-scale-token-flow": (NextScale, "token_flow", {"value_width": 7}),
    "next-scale-image-folder": (NextScale, "image_folder", {"value_width": 10}),
    "rar-grid": (RAR, "grid", {}),
    "rar-product": (RAR, "product", {}),
    "rar-one-d": (RAR, "one_d", {}),
    "rar-dimensions": (RAR, "bridge", {}),
    "llamagen-one-d": (LlamaGen, "one_d", {}),
    "llamagen-dimensions": (LlamaGen, "bridge", {}),
    "maskgit-one-d": (MaskGIT, "one_d", {}),
    "maskgit-product": (MaskGIT, "product", {}),
    "token-bridge": (TokenBridge, "bridge", HEAD),
    "token-bridge-sound": (TokenBridge, "bridge_codec", HEAD),
}
MASKED = (MaskGIT, TokenBridge)


def is_sound(tokenizer: Any) -> bool:
    return bool(tokenizer.spec.modality == "audio")


def signal_of(tokenizer: Any, index: int, data: dict[str, Any]) -> Tensor:
    """Return signal ``index`` of what a chain trains on, as its encoder takes it."""
    if is_sound(tokenizer):
        from audio_tok.audio_data import AudioDataConfig, open_audio

        return torch.as_tensor(open_audio(AudioDataConfig(**data)).item(index))[None]
    pixels = torch.from_numpy(ProceduralClasses(16, 0).pixels(index)[0])
    return (pixels.permute(2, 0, 1).float() / 127.5 - 1)[None]


def recipe(folder: Path, tokenizer: Any, **pairs: Any) -> dict[str, Any]:
    """Return a short post-training; the models lie in ``folder``."""
    sound = is_sound(tokenizer)
    rate = tokenizer.spec.input_rate
    data: dict[str, Any] = {"source": "classes", "size": 16}
    losses: dict[str, Any] = {"picture_range": "signed", "l2_weight": 4.0, "quantizer_weight": 0.0}
    if sound:
        data = {"source": "noise", "segment": FRAMES * HOP, "sample_rate": rate}
        losses = {"sample_rate": rate, "period": {"enabled": False},
                  "resolution": {"enabled": False}}  # fmt: skip
    return {
        "name": "post", "model": {"from": str(folder / "tokenizer")}, "objective": losses,
        "data": data | {
            "pairs": {"path": str(folder / "pairs"), "generator": str(folder / "generator"),
                      "count": PAIRS, "batch_size": 4, "preservation": SIGMA, "top_k": 1, **pairs},
        },
        "optimizer": {"lr": 1e-3}, "schedule": {"warmup": 0, "end_lr": 1e-3},
        "train": {"steps": 2, "batch_size": 3, "train_only": "decoder", "device": "cpu"},
        "log": {"every": 1, "validate_every": 0, "pictures_every": 0, "save_every": 0,
                "tracker": "none"},
        ("validation_sounds" if sound else "validation_images"): 0,
    }  # fmt: skip


def run(folder: Path, content: dict[str, Any]) -> int:
    (folder / "recipe.yaml").write_text(json.dumps(content))
    return main(["--config", str(folder / "recipe.yaml"), "--out", str(folder / "run")])


def save_chain(name: str, folder: Path) -> tuple[Any, Any]:
    """Save tokenizer and generator of a chain, and return them."""
    kind, of, options = CHAINS[name]
    torch.manual_seed(0)
    tokenizer = TOKENIZERS[of]().eval()
    sizes = (tokenizer.spec.axes[0].size, FRAMES) if is_sound(tokenizer) else None
    generator = kind(
        spec=fixed_spec(tokenizer.spec, sizes).to_json(), code_hash=tokenizer.code_hash(),
        classes=0 if is_sound(tokenizer) else 12, **SIZES | options,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in generator.parameters():  # fresh ones say little of what they see
            parameter.add_(0.2 * torch.randn_like(parameter))
    generator.attach(tokenizer)
    tokenizer.save_pretrained(folder / "tokenizer")
    generator.save_pretrained(folder / "generator")
    return tokenizer, generator.eval()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Return a function that post-trains a chain once: folder, tokenizer, generator, codes."""
    kept: dict[str, Any] = {}

    def made(name: str) -> Any:
        if name not in kept:
            folder = tmp_path_factory.mktemp(name)
            tokenizer, generator = save_chain(name, folder)
            content = recipe(folder, tokenizer)
            assert run(folder, content) == 0
            shards = TokenShards(folder / "pairs")
            views = [torch.stack([shards.item(i, view=v)[0] for i in range(PAIRS)])
                     for v in (0, 1)]  # fmt: skip
            kept[name] = (folder, tokenizer, generator, views, content["data"])
        return kept[name]

    return made


def keep_of(generator: Any, count: int = PAIRS) -> Tensor:
    length = generator.spec.to_sequence(torch.zeros(1, *generator.sizes, dtype=torch.int64)).shape
    return torch.stack([keep_mask(0, n, length[1], SIGMA) for n in range(count)])


def condition_of(generator: Any) -> Condition:
    if not generator.classes:
        return UNCONDITIONAL
    source = ProceduralClasses(16, 0)
    return Condition(labels=torch.tensor([source.pixels(n)[1] for n in range(PAIRS)]))


@pytest.mark.parametrize("name", CHAINS)
def test_kept_positions_are_the_real_ones(name: str, done: Any) -> None:
    _, tokenizer, generator, (real, made), data = done(name)
    data = {key: value for key, value in data.items() if key != "pairs"}
    for index in (0, PAIRS - 1):
        with torch.inference_mode():
            codes = tokenizer.encode(signal_of(tokenizer, index, data)).codes[0]
        assert torch.equal(codes, real[index])
    keep = keep_of(generator)
    assert 0.3 < float(keep.float().mean()) < 0.7
    ours, theirs = (generator.spec.to_sequence(codes) for codes in (real, made))
    assert torch.equal(ours[keep], theirs[keep]), "all factors of a position are kept together"
    for factor in range(generator.spec.factors):
        changed = ours[..., factor][~keep] != theirs[..., factor][~keep]
        assert float(changed.float().mean()) > 0.5


@pytest.mark.parametrize("name", CHAINS)
def test_the_decoder_alone_has_trained(name: str, done: Any) -> None:
    folder, tokenizer, generator, _, _ = done(name)
    after = load(folder / "run" / "model")
    assert after.code_hash() == tokenizer.code_hash()
    assert after.weights_hash() != tokenizer.weights_hash()
    for (key, a), (_, b) in zip(
        tokenizer.named_parameters(), after.named_parameters(), strict=True
    ):
        if key.startswith(after.code_prefixes):
            assert torch.equal(a, b), key
    generator.check_fits(after)


IN_ORDER = [name for name, chain in CHAINS.items() if not issubclass(chain[0], MASKED)]


@pytest.mark.parametrize("name", IN_ORDER)
def test_others_are_drawn_by_who_sees_the_kept_ones(name: str, done: Any) -> None:
    """Teacher forcing over the mixed codes predicts every drawn code; over the real ones not."""
    _, _, generator, (real, made), _ = done(name)
    drawn = ~keep_of(generator)[..., None].expand(-1, -1, generator.spec.factors)
    with torch.inference_mode():
        mixed, alone = (
            generator(codes, condition=condition_of(generator)).logits.argmax(-1)
            for codes in (made, real)
        )
    stored = generator.spec.to_sequence(made)
    assert torch.equal(mixed[drawn], stored[drawn])
    assert not torch.equal(alone[drawn], stored[drawn])


@pytest.mark.parametrize("name", [name for name in CHAINS if name not in IN_ORDER])
def test_masks_take_the_real_code_when_they_are_lifted(name: str, done: Any) -> None:
    _, _, generator, (real, made), _ = done(name)
    keep, seen = keep_of(generator), []
    sample_masked(
        generator, condition_of(generator), seeds=[numbered_seed(0, n) for n in range(PAIRS)],
        token_filter=TokenFilter(top_k=1), given=real, keep=keep,
        follow=lambda codes, masked: seen.append((codes.clone(), masked.clone())),
    )  # fmt: skip
    ours, stored = (generator.spec.to_sequence(codes) for codes in (real, made))
    steps = [*seen, (stored, torch.zeros_like(keep))]
    assert bool(seen[0][1].all()) and len(steps) > 4
    for (codes, masked), (_, later) in pairwise(steps):
        assert torch.equal(codes[~masked], stored[~masked]), "what is revealed stays"
        assert torch.equal(codes[~masked & keep], ours[~masked & keep])
        revealed = masked & ~later
        with torch.inference_mode():
            best = best_codes(generator, codes, stored, masked)
        fresh = revealed & ~keep
        assert torch.equal(best[fresh], stored[fresh]), "drawn from what was revealed before"


def best_codes(generator: Any, codes: Tensor, final: Tensor, masked: Tensor) -> Tensor:
    """Return the best codes (B, L, F) of masked positions, seeing the others."""
    embedded = generator.condition(condition_of(generator), len(codes))
    if isinstance(generator, MaskGIT):
        parts = generator.predict(codes, masked, embedded)
        return torch.stack([part.argmax(-1) for part in parts], dim=-1)
    # Within a position the head sees the final codes of the dimensions before.
    filled = generator.spec.from_sequence(torch.where(masked[..., None], final, codes),
                                          generator.sizes)  # fmt: skip
    best = generator(filled, condition=condition_of(generator), masked=masked).logits
    return torch.as_tensor(best.argmax(-1))


# -- continuous latents ----------------------------------------------------------------------------


CONTINUOUS = ("token-bridge", "token-bridge-sound")


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_decoder_sees_latents_at_kept_positions(name: str, tmp_path: Path) -> None:
    model, generator = save_chain(name, tmp_path)
    data = recipe(tmp_path, model)["data"]
    del data["pairs"]
    x = torch.cat([signal_of(model, n, data) for n in range(3)])
    keep = keep_of(generator, 3)
    with torch.inference_mode():
        real = model.latents(x)
        codes = (model.encode(x).codes + 1) % 8
        drawn = model.embed(codes)
        mixed = torch.where(keep.view(3, 1, *real.shape[2:]), real, drawn)
        for kept, z in (
            (keep, mixed), (torch.ones_like(keep), real), (torch.zeros_like(keep), drawn),
            (None, drawn),
        ):  # fmt: skip
            out = model(x, tokens=Tokens(codes), kept=kept)
            shown = model.decode_latents(z)[..., : x.shape[-1]]
            torch.testing.assert_close(out.reconstruction.clamp(-1, 1), shown)
        with pytest.raises(TokenError, match="give all of one batch and size"):
            model(x, tokens=Tokens(codes), kept=keep[:, 1:])
    model.train()(x, tokens=Tokens(codes), kept=keep).reconstruction.sum().backward()
    ours = [p for n, p in model.named_parameters() if n.startswith(model.code_prefixes)]
    assert ours and all(p.grad is None for p in ours), "the encoder says what is real, untrained"


@pytest.mark.parametrize("name", CONTINUOUS)
def test_decoders_train_on_mixed_latents(name: str, done: Any, tmp_path: Path) -> None:
    folder, tokenizer, _, _, _ = done(name)
    content = recipe(folder, tokenizer, real_latents="continuous")
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))
    words = ["--config", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]
    stamp = (folder / "pairs" / "index.json").stat().st_mtime_ns
    assert main(words) == 0
    assert stamp == (folder / "pairs" / "index.json").stat().st_mtime_ns, "the pairs are the same"
    plain, mixed = load(folder / "run" / "model"), load(tmp_path / "run" / "model")
    assert mixed.code_hash() == tokenizer.code_hash()
    assert mixed.weights_hash() not in (plain.weights_hash(), tokenizer.weights_hash())


def test_positions_of_a_pair_are_told_by_its_index(done: Any) -> None:
    """Whoever only has the pairs, and another recipe, mixes at the same positions."""
    folder, _, generator, _, _ = done("token-bridge")
    source: Any = SimpleNamespace(item=lambda index: torch.zeros(3, 16, 16))
    sample = PairSource(folder / "pairs", source, kept=kept_positions).item(4)
    assert isinstance(sample, MixedSample)
    assert torch.equal(sample.kept, keep_of(generator)[4])


# -- what is refused -------------------------------------------------------------------------------


class Silent(Generator):
    """A generator of someone else's, without a way to draw step by step."""

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.settings = settings


def test_a_mistake_is_a_sentence(
    done: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, tokenizer, generator, _, _ = done("next-scale-var")
    other = done("next-scale-image-folder")[0]

    def error(model: Path = folder / "tokenizer", **pairs: Any) -> str:
        content = recipe(folder, tokenizer, **{"path": str(tmp_path / "pairs")} | pairs)
        content["model"]["from"] = str(model)
        (tmp_path / "recipe.yaml").write_text(json.dumps(content))
        capsys.readouterr()
        words = ["--config", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]
        assert main(words) == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1 and printed.startswith("error: ")
        return printed

    assert "use them with others of their kind" in error(generator=str(other / "generator"))
    assert "less than or equal to 1" in error(preservation=1.01)
    assert "greater than or equal to 0" in error(preservation=-0.1)
    assert "takes one per position" in error(steps=4)
    assert "draws no tokens" in error(generator=str(folder / "tokenizer"))
    assert "has no decoder" in error(model=folder / "generator")
    assert "reads vectors of a codebook" in error(path=str(folder / "pairs"), top_k=1,
                                                  real_latents="continuous")  # fmt: skip
    assert "pixels go through the quantizer" in error(mode="pixels", real_latents="continuous")
    torch.manual_seed(5)
    stranger = var()
    stranger.save_pretrained(tmp_path / "stranger")
    assert "code hash" in error(model=tmp_path / "stranger")
    alone = {"generator": None, "path": str(folder / "pairs")}
    assert "give the one that made them" in error(model=tmp_path / "stranger", **alone)
    KLAutoencoder(VAE).save_pretrained(tmp_path / "vae")
    assert "tessera calibrate" in error(model=tmp_path / "vae")
    torch.manual_seed(0)
    grid = TOKENIZERS["grid"]()
    grid.save_pretrained(tmp_path / "grid")
    LlamaGen(
        spec=fixed_spec(grid.spec).to_json(), caption_width=6, caption_length=3, **SIZES
    ).save_pretrained(tmp_path / "captions")
    captions = {"generator": str(tmp_path / "captions")}
    assert "draws after captions" in error(model=tmp_path / "grid", **captions)
    config = PairsConfig(path=str(tmp_path / "silent"))
    with pytest.raises(ConfigError, match="no session to draw from"):
        PairMaker(config, Silent(generator.settings), tokenizer, None, {})
