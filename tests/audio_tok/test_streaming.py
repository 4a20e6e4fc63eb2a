"""A stream gives what the whole sound gives, for chunks of any size, from a small state."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_tok.streaming import StreamDecoder, StreamEncoder, latency_ms
from audio_tok.wav_decoder import decoder_of
from audio_tok.wav_tokenizer import WavTokenizer
from tok_core.errors import ConfigError, MediaError, TokenError

BASE = {
    "sample_rate": 8000, "strides": [2, 4, 5], "encoder_width": 8, "latent_dim": 12,
    "lstm_layers": 1, "codebook_size": 32, "width": 64, "hidden": 96, "layers": 2,
    "condition_ids": 2, "causal": True, "attention_window": 6,
}  # fmt: skip
KINDS = {
    "all": {},
    "convolutions": {"lstm_layers": 0, "attention": False, "attention_window": None},
    "levels": {"num_codebooks": 3, "strides": [3, 4]},
    "short window": {"n_fft": 80, "strides": [5, 8]},
    "window of one": {"attention_window": 1},
}


@pytest.fixture(scope="module", params=list(KINDS))
def codec(request: pytest.FixtureRequest) -> WavTokenizer:
    torch.manual_seed(1)
    return WavTokenizer(**{**BASE, **KINDS[request.param]}).eval()


def streamed_codes(codec, x, cuts, **options):
    session = StreamEncoder(codec, **options)
    parts, sizes = [], []
    for chunk in x.split(cuts, 2):
        parts.append(session.push(chunk))
        sizes.append(session.state_size)
    last = session.finish()
    assert last.codes.shape[2] <= 1
    return torch.cat([*parts, last.codes], 2), last.extent, sizes


def streamed_sound(codec, codes, cuts, samples=None):
    session = StreamDecoder(codec)
    parts, sizes = [], []
    for chunk in codes.split(cuts, 2):
        parts.append(session.push(chunk))
        sizes.append(session.state_size)
    parts.append(session.finish(samples))
    return torch.cat(parts, 2), sizes


def random_cuts(total, longest, seed):
    draws = torch.randint(1, longest + 1, (total,), generator=torch.Generator().manual_seed(seed))
    ends = draws.cumsum(0)
    inner = [int(end) for end in ends if end < total]
    return [b - a for a, b in zip([0, *inner], [*inner, total], strict=True)]


@settings(max_examples=12, deadline=None)
@given(length=st.integers(1, 2500), longest=st.integers(1, 700), seed=st.integers(0, 99))
def test_random_chunks_equal_offline(codec, length, longest, seed):
    x = torch.rand(2, 1, length, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    whole = codec.encode(x)
    codes, extent, _ = streamed_codes(codec, x, random_cuts(length, longest, seed))
    assert torch.equal(codes, whole.codes)
    assert torch.equal(extent, whole.extent)
    frames = codes.shape[2]
    cuts = random_cuts(frames, max(1, longest // codec.hop), seed + 1)
    sound, _ = streamed_sound(codec, codes, cuts, length)
    offline = codec.decode(whole)
    assert sound.shape[2] >= length
    assert torch.allclose(sound[..., :length], offline, atol=1e-5, rtol=0)
    if codec.settings.n_fft >= 3 * codec.hop:
        assert sound.shape[2] == length


def test_frame_by_frame_and_sample_by_sample(codec):
    x = torch.randn(1, 1, codec.hop * 9 + 3) * 0.3
    whole = codec.encode(x)
    for cut in (1, codec.hop):
        codes, _, _ = streamed_codes(codec, x, cut)
        assert torch.equal(codes, whole.codes)
    sound, _ = streamed_sound(codec, codes, 1)
    offline = codec.decode(codes)
    assert torch.allclose(sound, offline, atol=1e-5, rtol=0)


def test_the_state_does_not_grow(codec):
    x = torch.randn(1, 1, codec.hop * 400) * 0.3
    codes, _, sizes = streamed_codes(codec, x, codec.hop)
    assert len(set(sizes[1:])) == 1
    _, sizes = streamed_sound(codec, codes, 1)
    window = codec.settings.attention_window or 0
    assert len(set(sizes[window + 1 :])) == 1


def test_the_first_sound_comes_after_the_stated_latency(codec):
    """Feeding sample by sample, sample i of the output is there once latency samples more came."""
    x = torch.randn(1, 1, codec.hop * 12) * 0.3
    encoder, decoder = StreamEncoder(codec), StreamDecoder(codec)
    delay = round(latency_ms(codec) * codec.sample_rate / 1000)
    given = 0
    worst = 0
    for i in range(x.shape[2]):
        codes = encoder.push(x[..., i : i + 1])
        arrived = decoder.push(codes).shape[2] if codes.shape[2] else 0
        if arrived:
            worst = max(worst, i + 1 - given)  # the oldest of these samples waited this long
        given += arrived
    assert worst == delay


def test_levels_as_budget():
    codec = WavTokenizer(**{**BASE, **KINDS["levels"]}).eval()
    x = torch.randn(1, 1, 500) * 0.3
    codes, _, _ = streamed_codes(codec, x, 77, num_tokens=2)
    assert torch.equal(codes, codec.encode(x, num_tokens=2).codes)
    with pytest.raises(TokenError, match="1 to 3"):
        StreamEncoder(codec, num_tokens=4)


def test_the_decoder_alone_streams(codec):
    codes = torch.randint(0, 32, (1, codec.settings.num_codebooks, 20))
    sound, _ = streamed_sound(decoder_of(codec), codes, 3)
    assert torch.allclose(sound, codec.decode(codes), atol=1e-5, rtol=0)


def test_a_long_chunk_is_cut_inside(codec):
    x = torch.randn(1, 1, 70_000) * 0.3
    codes, _, _ = streamed_codes(codec, x, 70_000)
    assert torch.equal(codes, codec.encode(x).codes)
    sound, _ = streamed_sound(codec, codes, codes.shape[2])
    assert torch.allclose(sound, codec.decode(codes), atol=1e-5, rtol=0)


def test_mistakes_get_one_sentence(codec):
    usual = WavTokenizer(**{**BASE, "causal": False, "attention_window": None}).eval()
    for session in (StreamEncoder, StreamDecoder):
        with pytest.raises(ConfigError, match="not causal"):
            session(usual)
    with pytest.raises(ConfigError, match="eval"):
        StreamDecoder(WavTokenizer(**BASE).train())
    encoder = StreamEncoder(codec)
    with pytest.raises(MediaError, match="at least one sample"):
        encoder.finish()
    encoder.push(torch.zeros(2, 1, 5))
    with pytest.raises(MediaError, match="same throughout"):
        encoder.push(torch.zeros(1, 1, 5))
    encoder.finish()
    with pytest.raises(MediaError, match="new session"):
        encoder.push(torch.zeros(2, 1, 5))
    decoder = StreamDecoder(codec)
    with pytest.raises(TokenError, match="one frame"):
        decoder.finish()
    with pytest.raises(TokenError):
        decoder.push(torch.full((1, 1, 2), 999))
    decoder.push(torch.zeros(1, 1, 3, dtype=torch.int64))
    with pytest.raises(TokenError, match="legal"):
        decoder.finish(5)
    decoder.finish()
    with pytest.raises(TokenError, match="new session"):
        decoder.push(torch.zeros(1, 1, 3, dtype=torch.int64))
