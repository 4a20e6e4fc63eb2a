"""How many bytes one item's tokens take on disk: those of the whole ``.tok`` file.

Letters: T network inputs of one item.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tok_core.token_file import TokenFile, dumps
from tok_core.token_spec import FACTOR_AXES, TokenSpec


def token_bytes(
    codes: Tensor,
    spec: TokenSpec,
    code_hash: str,
    *,
    extent: Sequence[int],
    policy: str = "none",
    sample_rate: int | None = None,
) -> int:
    """Return the size in bytes of the token file of one item.

    Args:
        codes: int64 (T, *axes of the spec).
        spec, code_hash: of the tokenizer. extent: size of the original, (H, W) or (samples,).
        policy: as in `TokenFile`; with ``tile`` the T inputs are stored as an axis of their own.
        sample_rate: of a sound, in Hz.

    Example:
        >>> token_bytes(codes, tokenizer.spec, hash, extent=(256, 256), policy="resize")
        407
    """
    widths: tuple[int, ...] = tuple(spec.bits)
    names = [axis.name for axis in spec.axes]
    factors = [place for place, name in enumerate(names) if name in FACTOR_AXES]
    first = False
    if len(set(widths)) == 1:
        widths = widths[:1]
    elif len(codes) == 1 and factors in ([0], [len(names) - 1]):
        first = factors == [0]
        widths = widths[: codes.shape[1]] if first else widths
    else:
        widths = (max(widths),)
    stored = codes if policy == "tile" or len(codes) > 1 else codes[0]
    file = TokenFile(
        stored.cpu().numpy(), widths, code_hash, tuple(extent), policy, sample_rate,
        factors_first=first,
    )  # fmt: skip
    return len(dumps(file))
