"""Token pairs: what a decoder is post-trained on, real signals and tokens that a generator made.

    signal x --encoder--> tokens t --generator, keeping a share of t--> tokens t'
    pair: number n of x in its source, tokens (t, t') as two views in token shards
    training: decoder(t') --losses--> x

A pair names its signal by number, since sources are pure functions of it: nothing is copied, and a
source that has changed is noticed by tokens t that are no longer those of x.  The released code of
RobusTok stores decoded pictures instead; these lie beside the shards where they are asked for.

Qiu et al. 2025, "Robust Latent Matters", arXiv 2503.08354, section 3.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from tok_core.contract import Tokens
from tok_core.errors import ConfigError, MediaError, TokenError
from tok_core.token_shards import TokenShards

VIEWS = ("real", "generated")
PICTURES = "pictures"  # folder of decoded pictures beside the shards
KIND = "token pairs"
DIGITS = 8
# Of the tokens of the signals that are looked at; other hardware may code a near tie otherwise.
LEAST_EQUAL = 0.97
LOOKED_AT = 4


class PairSample(NamedTuple):
    """A real signal, (3, H, W) or (1, T) in [-1, 1], and generated codes int64 of a spec."""

    signal: Tensor
    codes: Tensor


class MixedSample(NamedTuple):
    """A `PairSample` of a tokenizer over a continuous autoencoder, and what was kept of its signal.

    ``kept`` is bool (L,): the positions that show the decoder the encoder's latents, unquantized.
    """

    signal: Tensor
    codes: Tensor
    kept: Tensor


class PicturePair(NamedTuple):
    """A real picture and one decoded from generated codes, (3, H, W) in [-1, 1] both."""

    signal: Tensor
    shown: Tensor


class SignalSource(Protocol):
    """Numbered signals; `item` is a pure function of the number."""

    @property
    def length(self) -> int | None:
        """Number of signals, None where they are endless."""

    def item(self, index: int) -> Any:
        """Return one signal."""


class Kept(Protocol):
    """Which positions of a pair kept their real codes."""

    def __call__(self, facts: Mapping[str, Any], number: int, length: int) -> Tensor:
        """Return bool (L,) for the facts of the shards and a signal's number."""


class Parts(NamedTuple):
    """What a step makes of a batch: the target, the model's input, and what else it is given."""

    target: Any
    shown: Any
    given: dict[str, Any]


def parts_of(x: Any) -> Parts:
    """Take a batch apart: pairs give codes, or another picture than the target, to the model."""
    if isinstance(x, PairSample):
        return Parts(x.signal, x.signal, {"tokens": Tokens(x.codes)})
    if isinstance(x, MixedSample):
        return Parts(x.signal, x.signal, {"tokens": Tokens(x.codes), "kept": x.kept})
    if isinstance(x, PicturePair):
        return Parts(x.signal, x.shown, {})
    return Parts(x, x, {})


class PairSource:
    """Pairs as training samples.

    Args:
        folder: of the pairs. source: the signals they were made from.
        pictures: give decoded pictures to the model instead of codes.
        kept: give which positions are kept, too.

    Raises:
        TokenError: no pairs there. ConfigError: pairs without pictures where these are wanted.
    """

    def __init__(
        self, folder: str | Path, source: SignalSource, *, pictures: bool = False,
        kept: Kept | None = None,
    ) -> None:  # fmt: skip
        self.shards = TokenShards(folder)
        if self.shards.views != VIEWS or self.shards.index.head.facts.get("kind") != KIND:
            raise TokenError(
                f"'{folder}' holds token shards but no pairs; make some with generators.post_train."
            )
        self.source, self.kept = source, kept
        self.pictures = Path(folder) / PICTURES if pictures else None
        if self.pictures is not None and not self.pictures.is_dir():
            raise ConfigError(
                f"'{folder}' holds no decoded pictures; make the pairs again with mode pixels, in "
                "another folder."
            )

    @property
    def length(self) -> int | None:
        """Number of pairs."""
        return self.shards.length

    def item(self, index: int) -> PairSample | MixedSample | PicturePair:
        """Return one pair; `MediaError` where signal or tokens cannot be read."""
        number = self.number(index)
        signal = torch.as_tensor(self.source.item(number))
        if self.pictures is not None:
            return PicturePair(signal, _read_picture(self.pictures / picture_name(number)))
        codes = self.shards.item(index, view=1)[0]
        if self.kept is None:
            return PairSample(signal, codes)
        length = self.shards.spec.to_sequence(codes[None]).shape[1]
        kept = self.kept(self.shards.index.head.facts, number, length)
        return MixedSample(signal, codes, kept)

    def number(self, index: int) -> int:
        """Return the number of a pair's signal in its source."""
        name = Path(self.shards.name(index)).stem
        if not name.isdigit():
            raise MediaError(f"{self.shards.name(index)} has no number; copy the shard again.")
        return int(name)

    def check(self, tokenizer: Any, signals: Mapping[str, Any]) -> None:
        """Refuse pairs of another tokenizer, of other settings of the data, or of other files.

        Args:
            tokenizer: that is to be trained. signals: settings of the source, plain values.

        Raises:
            TokenError: the code hash differs. ConfigError: the data are not what they were.
        """
        self.shards.check_code_hash(tokenizer)
        facts = self.shards.index.head.facts
        before: Mapping[str, Any] = facts["signals"]
        odd = [name for name in signals if before.get(name) != signals[name]]
        if odd:
            raise ConfigError(
                f"the pairs in '{self.shards.folder}' were made with data.{odd[0]} "
                f"{before.get(odd[0])!r} and now it is {signals[odd[0]]!r}; set it back, or make "
                "pairs in another folder."
            )
        for index in range(min(LOOKED_AT, self.shards.length)):
            signal = torch.as_tensor(self.source.item(self.number(index)))
            with torch.inference_mode():
                found = tokenizer.encode(signal[None].to(tokenizer.device)).codes[0].cpu()
            real = self.shards.item(index)[0]
            if found.shape != real.shape or float((found == real).float().mean()) < LEAST_EQUAL:
                raise ConfigError(
                    f"signal {self.number(index)} is not the one that its pair in "
                    f"'{self.shards.folder}' was made from; the files have changed, make pairs in "
                    "another folder."
                )


def key_of(number: int) -> str:
    """Return the name of a pair in its shard."""
    return f"{number:0{DIGITS}d}"


def picture_name(number: int) -> str:
    """Return the file of a pair's decoded picture."""
    return f"{key_of(number)}.png"


def _read_picture(path: Path) -> Tensor:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            pixels = np.array(picture.convert("RGB"))
    except (OSError, ValueError) as error:
        raise MediaError(f"{path} cannot be read ({error}); make the pairs again.") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).float().div(127.5).sub(1.0)
