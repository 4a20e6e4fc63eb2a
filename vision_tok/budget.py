"""How many tokens: for a number of bytes on disk, or for a PSNR.

Letters: L decoded lengths of one call, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tok_core.errors import TesseraError, TokenError

if TYPE_CHECKING:
    from torch import Tensor

    from tok_core.contract import Tokens

PROBES_PER_CALL = 16  # 256 tokens are searched to the last one in two calls


class SearchResult(NamedTuple):
    """What `search_length` found.

    Attributes:
        num_tokens: the smallest decoded length that reaches the target; when none does, the
            shortest of the best ones.
        psnr: its PSNR in decibels (+inf when every byte is right).
        decoder_calls: batched decoder calls that the search took.
        reached: whether ``psnr`` is at least the target.
    """

    num_tokens: int
    psnr: float
    decoder_calls: int
    reached: bool


def tokens_for_bytes(target_bytes: int, size_of: Callable[[int], int], max_tokens: int) -> int:
    """Return the largest number of tokens whose whole file takes at most ``target_bytes``.

    Args:
        target_bytes: bytes on disk, header included.
        size_of: number of tokens -> bytes of the file (`tok_core.token_file.token_file_size`);
            must not fall as the number grows.
        max_tokens: tokens of the model, at least 1.

    Returns:
        a number in 1..max_tokens.

    Raises:
        TokenError: even one token takes more; the sentence names the smallest possible size.

    Example:
        >>> tokens_for_bytes(96, lambda n: 23 + (12 * n + 7) // 8, 256)
        48
    """
    _check_max(max_tokens)
    smallest = size_of(1)
    if smallest > target_bytes:
        raise TokenError(
            f"{target_bytes} bytes cannot hold this picture's tokens: the smallest possible file,"
            f" with one token, takes {smallest} bytes; ask for at least that"
        )
    low, high = 1, max_tokens
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size_of(middle) <= target_bytes else (low, middle - 1)
    return low


def search_length(
    tokens: Tokens,
    original: Tensor,
    decode_lengths: Callable[[Tokens, list[int]], Tensor],
    target_psnr: float,
    max_tokens: int,
    probes_per_call: int = PROBES_PER_CALL,
) -> SearchResult:
    """Find the fewest tokens that reach a PSNR, with as few decoder calls as possible.

    Each call decodes several prefixes at once, spread evenly over the lengths still in question,
    which divides them by ``probes_per_call + 1``: 256 tokens take two calls of 16 (a binary search
    takes nine).  PSNR grows nearly, not strictly, with the length; where it does not, the answer is
    still the smallest *decoded* length that reaches the target, and one token less misses it.

    Args:
        tokens: the tokens of one picture at full length, handed to ``decode_lengths`` as they are.
        original: (3, H, W) or (1, 3, H, W), float in [-1, 1] or uint8.
        decode_lengths: (tokens, L increasing lengths) -> (L, 3, H, W), float in [-1, 1] or uint8.
        target_psnr: decibels, over bytes (`tok_core.image_measures.psnr`).
        max_tokens: largest length to try, at least 1.
        probes_per_call: most lengths in one call, at least 1; bounds the memory.

    Returns:
        the length, its PSNR, the number of decoder calls, and whether the target is reached; when
        it is not, after one call, the best of the lengths decoded by then.

    Raises:
        TesseraError: the target is not a number or a count is below 1.

    Example:
        >>> search_length(tokens, image, decode_lengths, 24.0, 256)  # doctest: +SKIP
        SearchResult(num_tokens=85, psnr=24.02, decoder_calls=2, reached=True)
    """
    _check_max(max_tokens)
    if math.isnan(target_psnr):
        raise TesseraError("a target PSNR of nan cannot be searched for: give decibels, such as 24")
    if probes_per_call < 1:
        raise TesseraError(
            f"{probes_per_call} lengths per decoder call are too few: give at least 1"
        )
    scores: dict[int, float] = {}
    calls = 0
    # No decoded length up to missing reaches the target, and reaching does.
    missing, reaching = 0, max_tokens + 1
    while reaching - missing > 1:
        # The largest length first of all: it tells whether the target can be reached.
        lengths = _spread(missing, reaching, probes_per_call, with_last=calls == 0)
        decoded = decode_lengths(tokens, lengths)
        calls += 1
        scores.update(zip(lengths, _scores(decoded, original, len(lengths)), strict=True))
        enough = [n for n, score in scores.items() if score >= target_psnr]
        if not enough:
            best = max(scores, key=lambda n: (scores[n], -n))
            return SearchResult(best, scores[best], calls, False)
        reaching = min(enough)
        missing = max((n for n in scores if n < reaching), default=0)
    return SearchResult(reaching, scores[reaching], calls, True)


def _spread(missing: int, reaching: int, most: int, *, with_last: bool) -> list[int]:
    """Return at most ``most`` lengths that split the open interval (missing, reaching) evenly.

    ``with_last`` makes ``reaching - 1`` one of them.
    """
    inside = reaching - missing - 1
    count = min(most, inside)
    if with_last:
        return [reaching - 1 - inside * k // count for k in reversed(range(count))]
    return [missing + (inside + 1) * k // (count + 1) for k in range(1, count + 1)]


def _scores(decoded: Tensor, original: Tensor, count: int) -> Sequence[float]:
    from tok_core.image_measures import psnr

    picture = original if original.ndim == 4 else original[None]
    scores: list[float] = psnr(decoded, picture.expand(count, *picture.shape[1:])).tolist()
    return scores


def _check_max(max_tokens: int) -> None:
    if max_tokens < 1:
        raise TesseraError(f"{max_tokens} tokens are too few to search: give at least 1")
