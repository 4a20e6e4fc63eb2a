"""Chunks against the whole sound: exact where it can be, the seam error measured where not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny_audio import RATE, make_sound, tiny_codec
from torch import Tensor

from audio_tok.chunked import Chunks, decode_chunked, encode_chunked
from audio_tok.wav_tokenizer import WavTokenizer
from tests import warm_python
from tok_core.contract import Tokens
from tok_core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SMALL = Chunks(whole=1.0, chunk=2.0, context=0.5)


def sound_of(seconds: float, batch: int = 1) -> Tensor:
    return torch.from_numpy(make_sound(seconds, RATE, batch))[:, None]


def encode(model: WavTokenizer, x: Tensor, chunks: Chunks, **options: int) -> Tensor:
    return encode_chunked(
        model, lambda start, stop: x[..., start:stop], x.shape[-1], chunks=chunks, **options
    )


def decode(model: WavTokenizer, codes: Tensor, samples: int, chunks: Chunks) -> Tensor:
    return torch.cat([*decode_chunked(model, codes, samples, chunks=chunks)], -1)


def whole(model: WavTokenizer, codes: Tensor, samples: int) -> Tensor:
    return model.decode(Tokens(codes, None, torch.full((len(codes), 1), samples)))


@pytest.mark.parametrize("seconds", [1.01, 2.0, 4.0, 4.0 + 1 / RATE, 7.23])
def test_chunks_are_exact_without_memory_over_time(seconds: float) -> None:
    """No LSTM, no attention: a frame sees its neighbours alone."""
    model, x = tiny_codec(), sound_of(seconds)
    expected = model.encode(x)
    assert expected.codes.unique().numel() > 4, "the test would compare constants"
    codes = encode(model, x, SMALL)
    assert torch.equal(codes, expected.codes)
    y = decode(model, codes, x.shape[-1], SMALL)
    full = whole(model, codes, x.shape[-1])
    assert float(full.std()) > 0.01
    torch.testing.assert_close(y, full, atol=1e-5, rtol=0)


def test_without_context_the_seams_show() -> None:
    """Otherwise the tests above could not fail."""
    model, x = tiny_codec(), sound_of(7.23)
    bare = Chunks(whole=1.0, chunk=2.0, context=0.0)
    codes = model.encode(x).codes
    full = whole(model, codes, x.shape[-1])
    assert float((decode(model, codes, x.shape[-1], bare) - full).abs().max()) > 1e-3


def test_several_channels_and_a_budget() -> None:
    model, x = tiny_codec(), sound_of(5.0, batch=3)
    narrow = Chunks(whole=1.0, chunk=2.0, context=0.5, call=1.0)  # one channel in a call
    codes = encode(model, x, narrow, num_tokens=1)
    assert codes.shape == (3, 1, 500)
    assert torch.equal(codes, model.encode(x, num_tokens=1).codes)
    y = decode(model, codes, x.shape[-1], narrow)
    torch.testing.assert_close(y, whole(model, codes, x.shape[-1]), atol=1e-5, rtol=0)


def test_short_sound_is_not_cut() -> None:
    model, x = tiny_codec(), sound_of(2.9)
    reads = []

    def read(start: int, stop: int) -> Tensor:
        reads.append((start, stop))
        return x[..., start:stop]

    encode_chunked(model, read, x.shape[-1])
    assert reads == [(0, x.shape[-1])]


def test_no_read_is_longer_than_chunk_and_context() -> None:
    model, x = tiny_codec(), sound_of(9.0)
    reads: list[tuple[int, int]] = []

    def read(start: int, stop: int) -> Tensor:
        reads.append((start, stop))
        return x[..., start:stop]

    encode_chunked(model, read, x.shape[-1], chunks=SMALL)
    assert max(stop - start for start, stop in reads) <= 3.0 * RATE
    parts = [*decode_chunked(model, model.encode(x).codes, x.shape[-1], chunks=SMALL)]
    assert [part.shape[-1] for part in parts] == [2 * RATE] * 4 + [RATE]


def seams(**changes: object) -> tuple[float, float]:
    """Return the share of codes that differ and the seam error over the level of the sound."""
    model, x = tiny_codec(**changes), sound_of(13.0)  # type: ignore[arg-type]
    chunks = Chunks(whole=1.0, chunk=4.0, context=2.0)
    expected = model.encode(x).codes
    share = float((encode(model, x, chunks) != expected).float().mean())
    full = whole(model, expected, x.shape[-1])
    y = decode(model, expected, x.shape[-1], chunks)
    return share, float((y - full).square().mean().sqrt() / full.square().mean().sqrt())


def test_an_lstm_forgets_within_the_context() -> None:
    share, error = seams(lstm_layers=2)
    assert share < 0.002
    assert error < 1e-5


def test_attention_over_all_frames_is_close() -> None:
    """Norms and attention see the chunk instead of the sound; random weights are the worst case."""
    share, error = seams(attention=True)
    assert share == 0.0
    assert 1e-6 < error < 0.2


def test_impossible_chunks() -> None:
    with pytest.raises(ConfigError, match="chunk above 0"):
        Chunks(chunk=0.0)


def test_memory_does_not_grow_with_the_sound() -> None:
    """Ten minutes more of sound must not take as much memory as they are long."""
    code = (
        "import resource, sys, torch\n"
        "sys.path.insert(0, 'tests')\n"
        "from tiny_audio import tiny_codec, RATE\n"
        "from audio_tok.chunked import encode_chunked, decode_chunked\n"
        "torch.set_num_threads(1); model = tiny_codec()\n"
        "def peak(minutes):\n"
        "    samples = minutes * 60 * RATE\n"
        "    read = lambda a, b: torch.zeros(1, 1, b - a)\n"
        "    codes = encode_chunked(model, read, samples)\n"
        "    assert sum(p.shape[-1] for p in decode_chunked(model, codes, samples)) == samples\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "first = peak(2); print(peak(12) - first)\n"
    )
    done = warm_python.run("-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 10 * 60 * RATE * 4, f"{grown / 1e6:.0f} MB more"
