"""Token features: what a classifier or a language model would get of a tokenizer's codes.

    x ──encode──▶ tokens ──embed(stream)──▶ quantized latents ──means over cells──▶ (B, D')

Letters: B items, D channels of the latents, N positions, h w grid, F frames, S cells along an axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tok_core.contract import Tokenizer
from tok_core.errors import ConfigError, TokenError, nearest

ALL = "all"  # everything the tokens stand for: both streams, or the only one
_EVERYTHING = (ALL, "both")


def stream_names(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Return the streams of a tokenizer that can be looked at, ``all`` last.

    Example:
        >>> stream_names(OneDPiece())  # doctest: +SKIP
        ('all',)
    """
    return (*(name for name in tokenizer.spec.streams if name not in _EVERYTHING), ALL)


def chosen_streams(tokenizer: Tokenizer, name: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return those of the streams asked for, all of them for none.

    Args:
        tokenizer: whose streams. name: as the user calls it. wanted: words of ``--stream``;
            ``both`` is another word for ``all``.

    Raises:
        ConfigError: a stream that it has not, with the nearest one.
    """
    legal = stream_names(tokenizer)
    chosen = [ALL if word in _EVERYTHING else word for word in wanted] or legal
    for word in chosen:
        if word not in legal:
            raise ConfigError(
                f"'{name}' has no stream '{word}'; legal are {', '.join(legal)}"
                f"{nearest(word, legal)}"
            )
    return tuple(dict.fromkeys(chosen))


@torch.no_grad()
def token_features(
    tokenizer: Tokenizer, x: Tensor, streams: Sequence[str], *, cells: int = 1,
    num_tokens: int | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Return float32 (B, D') on the CPU for each stream of a batch.

    Args:
        tokenizer: in eval mode. x: images (B, 3, H, W) or sound (B, 1, T) in [-1, 1].
        streams: of `stream_names`.
        cells: S. Means are taken over S x S cells of a grid, over S pieces of a sequence of tokens
            or frames, and put one after the other; 1 is the mean over everything.
        num_tokens: budget of the encoding.

    Raises:
        ConfigError: more cells than positions, or latents whose positions cannot be told.

    Example:
        >>> found = token_features(tokenizer, images, ["semantic", "all"])  # doctest: +SKIP
        >>> found["semantic"].shape                                         # doctest: +SKIP
        torch.Size([16, 32])
    """
    tokens = tokenizer.encode(x, num_tokens=num_tokens)
    found = {}
    for name in streams:
        try:
            z = tokenizer.embed(tokens, stream=None if name == ALL else name)
        except (TokenError, ConfigError) as error:  # by the tokenizer: both are in use
            raise ConfigError(
                f"the stream '{name}' of {type(tokenizer).__name__} cannot be had: {error}"
            ) from None
        found[name] = pooled(_with_positions(tokenizer, z), cells).float().cpu()
    return found


def pooled(z: Tensor, cells: int) -> Tensor:
    """Return means over cells, (B, D * S^2) of (B, D, h, w) or (B, D * S) of (B, D, N).

    Raises:
        ConfigError: more cells than positions along an axis.
    """
    least = min(z.shape[2:])
    if not 1 <= cells <= least:
        raise ConfigError(
            f"means over {cells} cells along an axis of {least} positions were asked for; legal "
            f"are 1 to {least}."
        )
    z = z.float()
    means = F.adaptive_avg_pool2d(z, cells) if z.dim() == 4 else F.adaptive_avg_pool1d(z, cells)
    return means.flatten(1)


def _with_positions(tokenizer: Tokenizer, z: Tensor) -> Tensor:
    """Return latents with the channels second: (B, D, h, w) for a grid, else (B, D, N)."""
    spec = tokenizer.spec
    if z.dim() == 4:
        return z
    if z.dim() != 3:
        raise ConfigError(
            f"{type(tokenizer).__name__} embeds tokens as {tuple(z.shape)}; a probe reads (batch, "
            "channels, height, width), (batch, tokens, channels) or (batch, channels, frames)."
        )
    if spec.modality == "audio":
        return z
    z = z.transpose(1, 2)
    if spec.grid is not None and z.shape[2] == spec.grid[0] * spec.grid[1]:
        return z.unflatten(2, spec.grid)
    return z
