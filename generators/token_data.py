"""What a generator trains on: token shards, or pictures and sounds tokenized on the fly.

    shards:   item --> TokenSample(codes, label), or CaptionedSample(codes, features, mask)
    signals:  item --> SignalSample(signal, label) --frozen tokenizer, a batch at a time--> codes

Letters: B batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from generators.caption_condition import padded_left
from generators.contract import fixed_spec
from tok_core.errors import ConfigError, MediaError
from tok_core.mixed_source import LabelledSource
from tok_core.position_hash import position_hash
from tok_core.token_spec import TokenSpec
from tok_core.training.data_order import ATTEMPTS, endless_index

NO_LABEL = -1


class TokenSample(NamedTuple):
    """Codes of the layout of a spec, int64, and a label, int64, -1 for none."""

    codes: Tensor
    label: Tensor


class CaptionedSample(NamedTuple):
    """Codes as in `TokenSample`, and the features (T, C) of a caption with their mask (T,)."""

    codes: Tensor
    features: Tensor
    mask: Tensor


class SignalSample(NamedTuple):
    """A picture (3, H, W) or sound (1, T) in [-1, 1], and a label, int64, -1 for none."""

    signal: Tensor
    label: Tensor


@dataclass(frozen=True, kw_only=True)
class TokenDataConfig:
    """Where a generator's training tokens come from.

    Attributes:
        path: folder of token shards (``tessera tokenize``), or what ``signals`` reads.
        tokenizer: folder or hub id. Needed to tokenize on the fly, and to paint samples from
            shards; shards of another tokenizer are refused.
        signals: data section of a tokenizer's recipe (``source``, ``size``, ...): tokenize on the
            fly. None reads token shards.
        classes: number of labels, 0 trains without; None takes all that the data name.
        captions: T, positions of caption features that condition in place of labels (LlamaGen: 120
            of flan-T5-XL), from shards that hold some (``tessera tokenize --captions``); 0 is none.
        short_captions: probability, 0 to 1, that a sample shows its short caption, where it has
            one, in place of the full one (LlamaGen: 0.3); drawn anew in every epoch. Validation
            shows full captions.
        validation_path: other shards or files for the validation loss.
        seed: of order and crops.

    Raises:
        ConfigError: tokenizing on the fly without a tokenizer, captions that cannot be.
    """

    path: str | None = None
    tokenizer: str | None = None
    signals: dict[str, Any] | None = None
    classes: int | None = None
    captions: int = 0
    short_captions: float = 0.0
    validation_path: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.signals is not None and self.tokenizer is None:
            raise ConfigError(
                "data.signals tokenizes on the fly but data.tokenizer names none; give a model "
                "folder or hub id, or train from token shards (tessera tokenize)."
            )
        if self.signals is None and self.path is None:
            raise ConfigError(
                "data names no tokens; pass --data with a folder of token shards (tessera "
                "tokenize), or set data.tokenizer and data.signals to tokenize on the fly."
            )
        if self.captions < 0:
            raise ConfigError(f"data.captions is {self.captions}; give their positions, 0 is none.")
        if not 0 <= self.short_captions <= 1:
            raise ConfigError(
                f"data.short_captions is {self.short_captions}; give a probability from 0 to 1, "
                "0 always takes the full caption."
            )
        if self.short_captions and not self.captions:
            raise ConfigError(
                f"data.short_captions is {self.short_captions} but data.captions is 0; give "
                "data.captions the number of positions, or leave data.short_captions out."
            )
        if self.captions and (self.signals is not None or self.classes):
            odd = "data.signals" if self.signals is not None else "data.classes"
            raise ConfigError(
                f"data.captions is {self.captions} beside {odd}; captions come from token shards "
                "(tessera tokenize --captions) and take the place of labels."
            )


class Facts(NamedTuple):
    """What a generator must know of its data.

    Attributes:
        spec: of the tokens. code_hash: of their tokenizer. classes: number of labels.
        caption_width: C of caption features, None without.
    """

    spec: TokenSpec
    code_hash: str
    classes: int
    caption_width: int | None = None


class ShardSource:
    """Token shards as samples; a corrupt member is passed over by the loop that reads.

    For training they are endless: every position has a sample of its epoch's order and one of the
    sample's views (ten crops, mirror images) and one of its captions, drawn anew.  For validation
    they are numbered, and show their first view and their full caption.

    Args:
        config: with the folder and the seed. validation: number them; its own folder if it has one.
    """

    def __init__(self, config: TokenDataConfig, *, validation: bool = False) -> None:
        from tok_core.token_shards import TokenShards

        path = config.validation_path if validation else None
        self.shards = TokenShards(path or str(config.path))
        self.seed, self.validation = config.seed, validation
        self.captions = config.captions
        if self.captions and not self.shards.captioned:
            raise ConfigError(
                f"data.captions is {self.captions} but the shards in '{self.shards.folder}' hold "
                "none; make them with tessera tokenize --captions."
            )
        self.short_captions = 0.0 if validation else config.short_captions
        if self.short_captions and not self.shards.short_captioned:
            raise ConfigError(
                f"data.short_captions is {self.short_captions} but the shards in "
                f"'{self.shards.folder}' hold none; tokenize with NAME.short.npy beside NAME.npy "
                "(tessera tokenize --captions), or set data.short_captions to 0."
            )
        self._width: int | None = None  # C of the first caption that was read

    @property
    def length(self) -> int | None:
        """Number of samples; None, endless, for training."""
        return self.shards.length if self.validation else None

    def item(self, index: int) -> TokenSample | CaptionedSample:
        """Return one sample; `MediaError` where it cannot be read."""
        view, short = 0, False
        if not self.validation:
            view = self.shards.draw_view(self.seed, index)
            short = self._draw_short(index)
            index = endless_index(index, self.shards.length, self.seed)
        codes, label = self.shards.item(index, view=view)
        if self.captions:
            caption = self.caption(index, short=short)
            return CaptionedSample(codes, *padded_left(caption, self.captions))
        return TokenSample(codes, torch.tensor(NO_LABEL if label is None else label))

    @property
    def caption_width(self) -> int | None:
        """C of the first caption that can be read, None without captions."""
        if self.captions and self._width is None:
            self._width = first_readable(
                lambda index: self._caption(index % self.shards.length)
            ).shape[1]
        return self._width

    def caption(self, index: int, *, short: bool = False) -> Tensor:
        """Return the features (n, C) of one sample; `MediaError` where they do not fit.

        Args:
            short: of its short caption; of the full one where it has none.
        """
        found = self._caption(index, short=short)
        if found.shape[1] != self.caption_width:
            raise MediaError(
                f"the caption of {self.shards.name(index)} has {found.shape[1]} features and those "
                f"before it {self.caption_width}; tokenize captions of one text encoder."
            )
        return found

    def _draw_short(self, position: int) -> bool:
        """Return whether one access takes the short caption: a pure function, as of the view."""
        return position_hash("short caption", self.seed, position) < self.short_captions * 2**64

    def _caption(self, index: int, *, short: bool = False) -> Tensor:
        found = self.shards.caption(index, short=True) if short else None
        if found is None:
            found = self.shards.caption(index)
        if found is None:
            raise MediaError(f"{self.shards.name(index)} has no caption features.")
        return found


class SignalSource:
    """Signals with their labels, to be tokenized a batch at a time.

    Args:
        source: of signals.
    """

    def __init__(self, source: LabelledSource) -> None:
        self.source = source

    @property
    def length(self) -> int | None:
        """Number of signals, None where they are endless."""
        return self.source.length

    def item(self, index: int) -> SignalSample:
        """Return one sample; `MediaError` where it cannot be read."""
        label = self.source.label(index)
        return SignalSample(
            torch.as_tensor(self.source.item(index)),
            torch.tensor(NO_LABEL if label is None else label),
        )


def open_tokens(
    config: TokenDataConfig, *, validation: bool = False
) -> ShardSource | SignalSource:
    """Open what the config names; the tokenizer's sense decides who reads signals.

    Args:
        validation: samples for scores at fixed ids.

    Raises:
        ConfigError: nothing to read.
    """
    if config.signals is None:
        return ShardSource(config, validation=validation)
    from tok_core.run_config import from_mapping

    given = {"seed": config.seed, **config.signals}
    if config.path is not None:
        given["path"] = config.path
    if config.validation_path is not None:
        given["validation_path"] = config.validation_path
    assert config.tokenizer is not None
    if _loaded(config.tokenizer).spec.modality == "image":
        from vision_tok.image_data import ImageDataConfig, open_images

        images = from_mapping(ImageDataConfig, given)
        return SignalSource(open_images(images, validation=validation))
    from audio_tok.audio_data import AudioDataConfig, open_audio

    sounds = from_mapping(AudioDataConfig, given)
    return SignalSource(open_audio(sounds, validation=validation))


def facts_of(config: TokenDataConfig) -> Facts:
    """Return what a generator must know of the data, and refuse data that do not fit together.

    Sizes are those of the first sample's codes: pictures and sounds may be smaller than what a
    tokenizer was made for.

    Raises:
        TokenError: shards of another tokenizer. ConfigError: signals whose labels nobody counts.
    """
    tokenizer = None if config.tokenizer is None else _loaded(config.tokenizer)
    if config.signals is not None:
        assert tokenizer is not None
        if config.classes is None:
            raise ConfigError(
                "data.classes is not given; say how many labels the pictures or sounds have, 0 to "
                "train without."
            )
        sample = first_readable(open_tokens(config).item)
        codes = tokenizer.encode(sample.signal[None]).codes[0]
        spec = fixed_spec(tokenizer.spec, codes.shape)
        return Facts(spec, tokenizer.code_hash(), config.classes)
    source = ShardSource(config)
    shards = source.shards
    if tokenizer is not None:
        shards.check_code_hash(tokenizer)
    classes = shards.num_classes if config.classes is None else config.classes
    if config.captions:
        classes = 0
    spec = fixed_spec(shards.spec, first_readable(source.item).codes.shape)
    return Facts(spec, shards.code_hash, classes, source.caption_width)


def first_readable(item: Callable[[int], Any]) -> Any:
    """Return the first item that can be read, by its number."""
    for index in range(ATTEMPTS):
        try:
            return item(index)
        except MediaError as error:
            problem = error
    raise problem


@lru_cache(maxsize=1)
def _loaded(path: str) -> Any:
    """Load a tokenizer; a run asks several times."""
    from tok_core.loading import load

    return load(path)
