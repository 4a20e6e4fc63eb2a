"""The rooms of the codec by themselves, against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audio_tok import seanet_encoder
from audio_tok.adaptive_norm import AdaptiveNorm
from audio_tok.istft_head import inverse_stft, overlap_add
from audio_tok.padded_conv import PaddedConv1d, reflect_time
from audio_tok.position_net import TimeGroupNorm, windowed_attention
from audio_tok.seanet_encoder import SeanetEncoder
from audio_tok.vocos_backbone import VocosBackbone
from audio_tok.weight_norm import fold_weight_norm


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("time", [1, 2, 3, 5, 8, 40, 41])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(7, 1, 1), (8, 4, 1), (10, 5, 1), (3, 1, 2)]
)
def test_a_convolution_gives_one_frame_per_stride_at_any_length(
    kernel: int, stride: int, dilation: int, time: int, causal: bool
) -> None:
    conv = PaddedConv1d(
        3, 4, kernel, stride=stride, dilation=dilation, reflect=True, causal=causal
    )
    x = torch.randn(2, time, 3)
    y = conv(x)
    assert y.shape == (2, -(-time // stride), 4)
    padded = conv.pad(x).transpose(1, 2)
    expected = F.conv1d(padded, conv.weight, conv.bias, stride, dilation=dilation)
    assert torch.allclose(y, expected.transpose(1, 2), atol=1e-5)
    assert conv.context + conv.right == (kernel - 1) * dilation + 1 - stride
    if causal:
        assert not conv.pad(x)[:, : conv.context].any() and conv.right == 0


def test_mirroring_is_that_of_torch_and_short_signals_get_zeros_first() -> None:
    x = torch.randn(1, 9, 2)
    expected = F.pad(x.transpose(1, 2), (4, 3), mode="reflect").transpose(1, 2)
    assert torch.equal(reflect_time(x, 4, 3), expected)
    short = torch.tensor([[[1.0], [2.0]]])
    # [1 2 0 0], mirrored by 3 and 2, less the two zeros: (0 0 2) 1 2 (0 0)
    assert reflect_time(short, 3, 2).flatten().tolist() == [0, 0, 2, 1, 2, 0, 0]


def test_zero_padding_without_a_copy_is_zero_padding() -> None:
    conv = PaddedConv1d(6, 6, 7, groups=6)
    x = torch.randn(2, 11, 6)
    assert torch.allclose(conv(x), conv.convolve(conv.pad(x)), atol=1e-6)


def test_folding_weight_norm_is_torchs_weight_norm_and_has_its_gradients() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 5))
    length, direction = (
        layer.parametrizations.weight.original0, layer.parametrizations.weight.original1,
    )  # fmt: skip
    with torch.no_grad():
        length.mul_(2.5)
    folded = fold_weight_norm(length, direction)
    assert torch.allclose(folded, layer.weight, atol=1e-6)
    probe = torch.randn_like(folded)
    ours = torch.autograd.grad((folded * probe).sum(), (length, direction))
    theirs = torch.autograd.grad((layer.weight * probe).sum(), (length, direction))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("lstm_layers", [0, 2])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("block", "depth"), [(64, 3), (30, 1), (200, 2), (1 << 16, 3)])
def test_block_by_block_at_inference_is_the_whole_signal_of_training(
    lstm_layers: int, causal: bool, block: int, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    strides = [2, 4, 5]
    encoder = SeanetEncoder(8, strides, 12, lstm_layers=lstm_layers, causal=causal)
    monkeypatch.setattr(seanet_encoder, "BLOCK", block)
    last_blocked = encoder.stages[depth - 1].down.weight.numel()
    monkeypatch.setattr(seanet_encoder, "LARGEST_KERNEL", last_blocked)
    for batch, time in [(1, 1), (2, 5), (1, 39), (1, 80), (1, 81), (3, 403), (1, 640), (1, 1001)]:
        x = torch.randn(batch, time, 1)
        trained = encoder(x)
        assert trained.shape == (batch, -(-time // 40), 12) and trained.requires_grad
        with torch.no_grad():
            assert torch.allclose(encoder(x), trained, atol=1e-5), time


def test_a_stretch_reads_only_what_it_needs() -> None:
    encoder = SeanetEncoder(8, [2, 4], 12)
    x = torch.randn(1, 800, 1)
    with torch.no_grad():
        whole = encoder.stack(x)
        x[:, :200], x[:, 600:] = float("nan"), float("nan")
        middle = encoder.stretch(x, 2, 40, 60)
    assert torch.allclose(middle, whole[:, 40:60], atol=1e-5)


def test_the_encoder_gives_every_parameter_a_gradient() -> None:
    encoder = SeanetEncoder(4, [2, 2], 6)
    encoder(torch.randn(1, 50, 1)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


def test_group_norm_over_time_and_over_each_frame() -> None:
    x = torch.randn(2, 5, 64)
    norm = TimeGroupNorm(64)
    with torch.no_grad():
        norm.weight.normal_()
    expected = F.group_norm(x.transpose(1, 2), 32, norm.weight, norm.bias, 1e-6)
    assert torch.allclose(norm(x), expected.transpose(1, 2), atol=1e-5)
    norm.causal = True
    assert torch.allclose(norm(x), F.layer_norm(x, (64,), norm.weight, norm.bias, 1e-6), atol=1e-6)
    one_frame = torch.randn(1, 1, 32)
    assert TimeGroupNorm(32)(one_frame).abs().max() < 1e-3  # one value less its own mean


@pytest.mark.parametrize("time", [1, 3, 4, 9, 12])
@pytest.mark.parametrize("window", [1, 4, 20])
def test_windowed_attention_is_attention_under_a_band(time: int, window: int) -> None:
    q, k, v = torch.randn(3, 2, time, 8).unbind(0)
    t = torch.arange(time)
    band = (t[:, None] >= t) & (t[:, None] - t <= window)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=band)
    assert torch.allclose(windowed_attention(q, k, v, window), expected, atol=1e-5)


def test_adaptive_norm_reads_one_row_or_one_per_item() -> None:
    norm = AdaptiveNorm(6, 3)
    with torch.no_grad():
        norm.scale.normal_()
        norm.shift.normal_()
    x = torch.randn(2, 4, 6)
    plain = F.layer_norm(x, (6,), eps=1e-6)
    one = norm(x, torch.tensor([1]))
    assert torch.allclose(one, plain * norm.scale[1] + norm.shift[1], atol=1e-6)
    each = norm(x, torch.tensor([2, 1]))
    assert torch.allclose(each[1], one[1], atol=1e-6)
    assert torch.allclose(each[0], plain[0] * norm.scale[2] + norm.shift[2], atol=1e-6)


@pytest.mark.parametrize(("size", "hop"), [(16, 4), (12, 4), (14, 4), (8, 8)])
def test_overlap_add_is_fold(size: int, hop: int) -> None:
    frames = torch.randn(2, 7, size)
    total = 6 * hop + size
    expected = F.fold(frames.transpose(1, 2), (1, total), (1, size), stride=(1, hop))
    assert torch.allclose(overlap_add(frames, hop), expected[:, 0, 0], atol=1e-6)


@pytest.mark.parametrize(("size", "hop"), [(64, 16), (48, 16), (36, 10)])
def test_the_inverse_stft_inverts_a_windowed_stft(size: int, hop: int) -> None:
    time = 12
    wave = torch.randn(2, time * hop)
    cut = (size - hop) // 2
    frames = F.pad(wave, (cut, cut)).unfold(1, size, hop) * torch.hann_window(size)
    assert torch.allclose(inverse_stft(torch.fft.rfft(frames), hop), wave, atol=1e-4)


def test_the_backbone_starts_small_and_conditions_every_norm() -> None:
    backbone = VocosBackbone(8, 32, 48, 4)
    assert torch.equal(backbone.blocks[0].gamma, torch.full((32,), 0.25))
    assert 0.005 < float(backbone.blocks[0].widen.weight.detach().std()) < 0.025
    assert not backbone.embed.bias.any()
    z, row = torch.randn(1, 9, 8), torch.tensor([1])
    before: Tensor = backbone.eval()(z, row)
    with torch.no_grad():
        backbone.blocks[3].norm.shift[1] += 1
    assert not torch.allclose(backbone(z, row), before)
    with torch.no_grad():
        backbone.blocks[2].norm.shift[0] += 1
    assert torch.equal(backbone(z, row), backbone(z, row.clone()))


def test_a_fresh_encoder_lets_the_sound_through() -> None:
    encoder = SeanetEncoder(16, [2, 4, 5, 6], 64, lstm_layers=0)
    with torch.no_grad():
        z = encoder(0.3 * torch.randn(1, 12000, 1))
    assert float(z.std(1).mean()) > float(z.mean(1).abs().mean())
    assert float(z.std(1).mean()) > 0.02
