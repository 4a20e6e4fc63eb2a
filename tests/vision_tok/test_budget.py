"""Budget control: exact byte budgets, and PSNR search in few decoder calls."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tok_core.contract import Tokens
from tok_core.errors import TesseraError, TokenError
from tok_core.image_measures import psnr
from tok_core.token_file import token_file_size
from vision_tok.budget import search_length, tokens_for_bytes

IMAGE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
NOISE = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.3


class Decoder:
    """A codec whose error shrinks with the length; remembers what it was asked."""

    def __init__(self, wobble: float = 0.0) -> None:
        self.asked: list[list[int]] = []
        self.wobble = wobble

    def one(self, length: int) -> Tensor:
        factor = 1 + self.wobble * math.sin(length)
        return (IMAGE + NOISE * factor / (1 + length) ** 0.5).clamp(-1, 1)

    def score(self, length: int) -> float:
        return float(psnr(self.one(length)[None], IMAGE[None]))

    def __call__(self, tokens: Tokens, lengths: list[int]) -> Tensor:
        assert tokens.codes.shape[0] == 1
        assert lengths == sorted(set(lengths))
        self.asked.append(lengths)
        return torch.stack([self.one(n) for n in lengths])


TOKENS = Tokens(torch.zeros(1, 256, dtype=torch.int64))


def _size(count: int) -> int:
    return token_file_size((count,), 12, extent=(256, 256), policy="resize")


@given(st.integers(25, 600))
def test_the_byte_budget_is_used_to_the_last_token(target: int) -> None:
    count = tokens_for_bytes(target, _size, 256)
    assert _size(count) <= target
    assert count == 256 or _size(count + 1) > target


def test_an_impossible_byte_budget_names_the_smallest_file() -> None:
    with pytest.raises(TokenError, match=rf"takes {_size(1)} bytes"):
        tokens_for_bytes(_size(1) - 1, _size, 256)
    assert tokens_for_bytes(_size(1), _size, 256) == 1
    with pytest.raises(TesseraError, match="at least 1"):
        tokens_for_bytes(100, _size, 0)


@pytest.mark.parametrize(("probes", "calls"), [(16, 2), (8, 3), (256, 1)])
@pytest.mark.parametrize("goal", [1, 2, 15, 16, 17, 100, 255, 256])
def test_the_search_finds_the_smallest_length_in_few_calls(
    probes: int, calls: int, goal: int
) -> None:
    decoder = Decoder()
    target = decoder.score(goal)
    found = search_length(TOKENS, IMAGE, decoder, target, 256, probes)
    smallest = next(n for n in range(1, 257) if decoder.score(n) >= target)
    assert (found.num_tokens, found.reached) == (smallest, True)
    assert found.psnr == pytest.approx(decoder.score(smallest))
    assert found.decoder_calls == len(decoder.asked) <= calls
    assert max(map(len, decoder.asked)) <= probes


@given(st.integers(1, 300), st.integers(1, 40), st.floats(5, 45), st.floats(0, 0.5), st.booleans())
def test_whatever_the_curve_the_answer_is_decoded_and_one_less_misses(
    max_tokens: int, probes: int, target: float, wobble: float, batched: bool
) -> None:
    decoder = Decoder(wobble)
    image = IMAGE[None] if batched else IMAGE
    found = search_length(TOKENS, image, decoder, target, max_tokens, probes)
    asked = [n for call in decoder.asked for n in call]
    assert found.num_tokens in asked
    assert len(asked) == len(set(asked))
    assert max_tokens in decoder.asked[0]
    assert set(asked) <= set(range(1, max_tokens + 1))
    assert max(map(len, decoder.asked)) <= probes
    assert found.decoder_calls == len(decoder.asked)
    assert found.psnr == pytest.approx(decoder.score(found.num_tokens))
    assert found.reached == (found.psnr >= target)
    if found.reached:
        assert found.num_tokens == min(n for n in asked if decoder.score(n) >= target)
        if found.num_tokens > 1:
            assert found.num_tokens - 1 in asked
    else:
        assert found.psnr == pytest.approx(max(decoder.score(n) for n in asked))


def test_an_unreachable_target_takes_one_call_and_says_so() -> None:
    decoder = Decoder()
    found = search_length(TOKENS, IMAGE, decoder, 99.0, 256)
    assert (found.num_tokens, found.decoder_calls, found.reached) == (256, 1, False)


def test_a_perfect_decoder_reaches_infinity_with_one_token() -> None:
    def perfect(tokens: Tokens, lengths: list[int]) -> Tensor:
        return IMAGE.expand(len(lengths), -1, -1, -1)

    found = search_length(TOKENS, IMAGE, perfect, math.inf, 256)
    assert found[:2] == (1, math.inf)
    assert found.reached


@pytest.mark.parametrize(
    ("target", "most", "probes"), [(math.nan, 256, 16), (24.0, 0, 16), (24.0, 256, 0)]
)
def test_illegal_arguments_are_one_sentence(target: float, most: int, probes: int) -> None:
    with pytest.raises(TesseraError) as caught:
        search_length(TOKENS, IMAGE, Decoder(), target, most, probes)
    assert "\n" not in str(caught.value)
