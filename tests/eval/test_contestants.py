"""Contestants: names, bytes on disk, sizes and rates that come back, wrong input."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from tiny_audio import RATE, make_sound

from eval.contestant import Original, Signal
from eval.contestants import PICTURE_CODECS, SOUND_CODECS, contestant, contestants
from eval.item_list import list_items
from eval.token_bytes import token_bytes
from tests.eval.judged_files import Files, picture
from tok_core.errors import ConfigError, MediaError, WeightsError
from tok_core.resample import resample
from tok_core.token_file import TokenFile, dumps
from tok_core.token_spec import Axis, TokenSpec


def pictures(*sizes: tuple[int, int]) -> list[Signal]:
    """Return smooth pictures (H, W) as signals."""
    made = []
    for index, (height, width) in enumerate(sizes):
        y = torch.arange(height).view(-1, 1) / 9
        x = torch.arange(width).view(1, -1) / 7
        planes = [127 + 100 * torch.sin(x + k) * torch.cos(y - k + index) for k in range(3)]
        made.append(Signal(torch.stack(planes).to(torch.uint8), f"{index}.png", index))
    return made


def sound(seconds: float = 0.5, rate: int = RATE, index: int = 0) -> Signal:
    made = torch.from_numpy(make_sound(seconds, rate, seed=index))
    return Signal(made, f"{index}.wav", index, rate)


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sense", "words"),
    [
        ("jepg", "image", "did you mean 'jpeg'"),
        ("one-d-piece-tini", "image", "did you mean 'one-d-piece-tiny'"),
        ("vqmodle:somewhere", "image", "did you mean 'vqmodel'"),
        ("opus", "image", "is a contestant for audio"),
        ("no_such_module:function", "image", "no entry point"),
        ("kl:nowhere", "image", "no AutoencoderKL 'nowhere' on this machine"),
        ("folder:nowhere", "image", "there is no folder"),
    ],
)
def test_wrong_names_are_sentences(text: str, sense: str, words: str) -> None:
    with pytest.raises((ConfigError, WeightsError, MediaError), match=words):
        contestant(text, sense, device="cpu")


def test_labels_and_twins(files: Files) -> None:
    found = contestants([str(files.titok), f"small={files.titok}"], "image", device="cpu")
    assert [one.name for one in found] == [str(files.titok), "small"]
    with pytest.raises(ConfigError, match="LABEL=jpeg"):
        contestants(["jpeg", "JPG"], "image", device="cpu")


def test_folder_without_model_points_to_folder_contestants(files: Files) -> None:
    with pytest.raises(WeightsError, match="folder:"):
        contestant(str(files.pictures), "image", device="cpu")


# -- pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PICTURE_CODECS)
def test_picture_codecs(name: str) -> None:
    one = contestant(name, "image")
    signals = pictures((32, 48), (17, 9))
    low, high = (one.reconstruct(signals, budget) for budget in (one.sweep[0], one.sweep[-1]))
    for signal, small, large in zip(signals, low, high, strict=True):
        assert small.values.shape == large.values.shape == signal.values.shape
        assert small.bytes_on_disk is not None and large.bytes_on_disk is not None
        errors = [(signal.unit - made.values.float().div(127.5).sub(1)).abs().mean()
                  for made in (small, large)]  # fmt: skip
        assert errors[1] <= errors[0] + 1e-6 and errors[1] < 0.2
    assert low[0].bytes_on_disk < high[0].bytes_on_disk  # type: ignore[operator]
    with pytest.raises(ConfigError, match="1 to 100"):
        one.check_budget(0)


@pytest.mark.parametrize("policy", ["tile", "resize"])
def test_tokenizer_gives_back_the_size_and_counts_its_file(files: Files, policy: str) -> None:
    one = contestant(str(files.titok), "image", device="cpu", policy=policy)
    signals = pictures((16, 16), (24, 40), (16, 16))
    made = one.reconstruct(signals, 4)
    for signal, found in zip(signals, made, strict=True):
        assert found.values.shape == signal.values.shape
        assert found.tokens is not None and found.tokens.shape[1] == 4
        assert found.encode_seconds is not None and found.decode_seconds is not None
        stored = found.tokens if len(found.tokens) > 1 else found.tokens[0]
        native = signal.values.shape[-1] == 16
        kind = "none" if native else policy
        if kind == "tile":
            stored = found.tokens
        file = TokenFile(
            stored.numpy(), (5,), one.code_hash or "", tuple(signal.values.shape[-2:]), kind
        )
        assert found.bytes_on_disk == len(dumps(file))
    assert len(made[1].tokens) == (6 if policy == "tile" else 1)  # type: ignore[arg-type]
    # A batch gives what its items give alone.
    alone = one.reconstruct(signals[2:], 4)[0]
    torch.testing.assert_close(alone.values, made[2].values, atol=1e-4, rtol=0)
    with pytest.raises(ConfigError, match="legal are 1 to 8"):
        one.check_budget(9)


def test_token_bytes_of_every_layout() -> None:
    grid = TokenSpec(
        modality="image", axes=(Axis(name="row"), Axis(name="column")), vocabulary=(256,)
    )
    plain = token_bytes(torch.zeros(1, 4, 4, dtype=torch.int64), grid, "a" * 12, extent=(64, 64))
    assert 16 <= plain <= 16 + 32
    axes = (Axis(name="branch", size=2), Axis(name="token", size=8))
    mixed = TokenSpec(modality="image", axes=axes, vocabulary=(4, 256))
    size = token_bytes(torch.zeros(1, 2, 8, dtype=torch.int64), mixed, "a" * 12, extent=(8, 8))
    assert size < plain  # 8 * (2 + 8) bits instead of 16 * 8


def test_ground_truth_is_the_original() -> None:
    (signal,) = pictures((8, 8))
    found = Original("image").reconstruct([signal])[0]
    assert torch.equal(((found.values + 1) * 127.5).round().to(torch.uint8), signal.values)


# -- sound -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOUND_CODECS)
def test_sound_codecs(name: str) -> None:
    one = contestant(name, "audio")
    signals = [sound(0.5), sound(0.7, 16_000, 1)]
    for budget in (one.sweep[0], 32):
        for signal, made in zip(signals, one.reconstruct(signals, budget), strict=True):
            assert made.rate is not None and made.bytes_on_disk is not None
            back = resample(made.values, made.rate, signal.rate or 0)
            assert back.shape[-1] == signal.values.shape[-1]
            if budget == 32:
                # Delay would leave nothing in common.
                a, b = signal.values[0], back[0]
                assert float((a * b).sum() / (a.norm() * b.norm())) > 0.9
    with pytest.raises(ConfigError, match="legal are"):
        one.check_budget(1)


def test_audio_tokenizer_keeps_length_at_another_rate(files: Files) -> None:
    one = contestant(str(files.codec), "audio", device="cpu")
    signals = [sound(0.5), sound(0.61, 16_000, 1), sound(0.5, index=2)]
    made = one.reconstruct(signals, 1)
    for signal, found in zip(signals, made, strict=True):
        assert found.rate == RATE
        assert found.tokens is not None and found.tokens.shape[:2] == (1, 1)
        assert found.bytes_on_disk is not None
        wanted = -(-signal.values.shape[-1] * RATE // (signal.rate or 1))
        assert found.values.shape == (1, wanted)
    alone = one.reconstruct(signals[:1], 1)[0]
    torch.testing.assert_close(alone.values, made[0].values, atol=1e-4, rtol=0)


# -- other doors -------------------------------------------------------------------------------


def test_finished_files_pair_by_name(tmp_path: Path) -> None:
    for folder, ending in (("a", "png"), ("b", "jpg")):
        for i in range(2):
            picture(tmp_path / folder / "x" / f"{i}.{ending}", seed=i)
    picture(tmp_path / "a" / "x" / "2.png")
    one = contestant(f"folder:{tmp_path / 'b'}", "image")
    items = list_items(tmp_path / "a", "image")
    assert [item.name for item, _ in one.bad_items(items)] == ["x/2.png"]
    from eval.originals import read_original
    from eval.protocol import Protocol

    protocol = Protocol(name="plain", sense="image")
    signal = read_original(items.items[0], 0, protocol)
    made = one.reconstruct([signal])[0]
    assert made.bytes_on_disk == (tmp_path / "b" / "x" / "0.jpg").stat().st_size
    smaller = read_original(items.items[0], 0, protocol.changed(crop="adm", size=16))
    with pytest.raises(MediaError, match="is 30 x 24 pixels where the original"):
        one.reconstruct([smaller])


def test_entry_points(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(files.root)
    signals = pictures((8, 8), (9, 7))
    soft = contestant("judged_contestants:soft", "image")
    assert soft.reconstruct(signals)[1].values.shape == (3, 9, 7)
    with pytest.raises(ConfigError, match="give it no budget"):
        soft.check_budget(3)
    budgeted = contestant("b=judged_contestants:budgeted", "image")
    assert budgeted.reconstruct(signals, 4)[0].bytes_on_disk == 4


def test_diffusers_autoencoders(tmp_path: Path) -> None:
    from tok_core.torchaudio_guard import guard_torchaudio

    guard_torchaudio()
    from diffusers import AutoencoderKL, VQModel

    torch.manual_seed(0)
    blocks = {
        "block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }  # fmt: skip
    VQModel(**blocks, num_vq_embeddings=32).save_pretrained(tmp_path / "vq")
    AutoencoderKL(**blocks).save_pretrained(tmp_path / "kl")
    signals = pictures((16, 16), (17, 24))
    for name in ("vqmodel:vq", "kl:kl"):
        kind, _, folder = name.partition(":")
        one = contestant(f"{kind}:{tmp_path / folder}", "image", device="cpu")
        made = one.reconstruct(signals)
        assert [m.values.shape for m in made] == [s.values.shape for s in signals]
        assert (made[0].bytes_on_disk is None) == (kind == "kl")
        if kind == "vqmodel":
            assert one.spec is not None
            one.spec.check(made[1].tokens)  # type: ignore[arg-type]
            assert made[1].tokens.shape == (1, 9, 12)  # type: ignore[union-attr]


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
def test_transformers_codecs(tmp_path: Path) -> None:
    from tok_core.torchaudio_guard import guard_torchaudio

    guard_torchaudio()
    import transformers

    torch.manual_seed(0)
    encodec = transformers.EncodecConfig(
        num_filters=4, hidden_size=8, codebook_size=16, codebook_dim=8, num_lstm_layers=1,
        upsampling_ratios=[4, 4], sampling_rate=8000, target_bandwidths=[2.0, 4.0],
    )  # fmt: skip
    transformers.EncodecModel(encodec).save_pretrained(tmp_path / "encodec")
    dac = transformers.DacConfig(
        encoder_hidden_size=4, downsampling_ratios=[4, 4], decoder_hidden_size=16,
        n_codebooks=2, codebook_size=16, codebook_dim=4, sampling_rate=8000,
    )  # fmt: skip
    transformers.DacModel(dac).save_pretrained(tmp_path / "dac")
    mimi = transformers.MimiConfig(
        num_filters=4, hidden_size=16, upsampling_ratios=[4, 4], codebook_size=16, codebook_dim=8,
        num_quantizers=2, num_semantic_quantizers=1, sampling_rate=8000, frame_rate=250.0,
        vector_quantization_hidden_dimension=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, intermediate_size=16, upsample_groups=16,
        sliding_window=10,
    )  # fmt: skip
    transformers.MimiModel(mimi).save_pretrained(tmp_path / "mimi")
    for kind in ("encodec", "dac", "mimi"):
        one = contestant(f"{kind}:{tmp_path / kind}", "audio", device="cpu")
        signal = sound(0.3)
        for count in (1, 2):
            made = one.reconstruct([signal], count)[0]
            assert made.values.shape == signal.values.shape, kind
            assert made.tokens is not None and made.tokens.shape[:2] == (1, count)
            assert made.bytes_on_disk is not None


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is not None, reason="transformers is installed"
)
def test_transformers_missing_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="needs the package transformers"):
        contestant("mimi:somewhere", "audio", device="cpu")


def test_continuous_models_beside_their_tokenizers(tmp_path: Path) -> None:
    """A table shows what quantizing every dimension costs; the continuous one has no bytes."""
    from audio_tok.dimension_wise_codec import DimensionWiseCodec
    from audio_tok.kl_codec import KLCodec
    from vision_tok.kl_autoencoder import KLAutoencoder
    from vision_tok.token_bridge import TokenBridgeTokenizer

    torch.manual_seed(0)
    sizes = {"block_out_channels": [8, 8], "norm_num_groups": 4, "latent_channels": 4}
    vae = KLAutoencoder(sizes | {"layers_per_block": 1}, image_size=16).eval()
    parts = {"encoder_width": 4, "latent_dim": 4, "width": 32, "hidden": 48, "layers": 1}
    codec = KLCodec(sample_rate=RATE, strides=[2, 2, 4], **parts).eval()
    seen = [torch.rand(2, 3, 16, 16) * 2 - 1], [torch.rand(2, 1, 640) - 0.5]
    made = {
        "vae": vae, "codec": codec,
        **{f"vae-{bits}": TokenBridgeTokenizer.calibrated(vae, seen[0], bits=bits)
           for bits in (2, 8)},
        **{f"codec-{bits}": DimensionWiseCodec.calibrated(codec, seen[1], bits=bits)
           for bits in (2, 8)},
    }  # fmt: skip
    for name, model in made.items():
        model.save_pretrained(tmp_path / name)
    for sense, name, signals in (
        ("image", "vae", pictures((16, 16), (16, 16))), ("audio", "codec", [sound(0.1)])
    ):  # fmt: skip
        rows = {
            key: contestant(str(tmp_path / key), sense, device="cpu").reconstruct(signals)
            for key in (name, f"{name}-2", f"{name}-8")
        }
        assert all(one.values.shape == s.values.shape for one, s in
                   zip(rows[name], signals, strict=True))  # fmt: skip
        assert rows[name][0].bytes_on_disk is None and rows[f"{name}-8"][0].bytes_on_disk

        def cost(key: str, rows: dict = rows, name: str = name) -> float:
            whole, part = rows[name][0].values.float(), rows[key][0].values.float()
            return float((whole - part).square().mean())

        assert 0 < cost(f"{name}-8") < 0.3 * cost(f"{name}-2")
