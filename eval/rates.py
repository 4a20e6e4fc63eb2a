"""Rates: what the tokens of a picture or a sound cost, on disk and by their formula.

On disk is the whole file, header included; nominal is the number of tokens times log2 of the
codebook's size, which no file reaches.  Both have their own name here.

    nominal kbit/s = frames per second * codebooks * log2(codes) / 1000
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from eval.code_usage import fixed_positions
from eval.metric_entry import MetricEntry
from tok_core.errors import ConfigError
from tok_core.token_spec import TokenSpec

RAW_PICTURE_BITS = 24  # of a pixel, which counts once: three bytes
RAW_SOUND_BITS = 16  # of a sample: PCM-16
Numbers = float | Sequence[float] | Tensor
STATES = ("items", "bytes", "pixels", "seconds", "tokens", "raw_bits", "bpp", "kbps")


def nominal_token_rate(spec: TokenSpec, num_codebooks: int | None = None) -> float:
    """Return tokens per second: frames per second times codebooks.

    Args:
        spec: of an audio tokenizer. num_codebooks: in use, None for all.

    Raises:
        ConfigError: an image tokenizer, or more codebooks than there are.
    """
    if spec.token_rate is None:
        raise ConfigError(
            f"a token rate was asked of a tokenizer of {spec.modality} without frames per second; "
            "ask it of an audio tokenizer."
        )
    return spec.token_rate * len(_in_use(spec, num_codebooks))


def nominal_kbps(spec: TokenSpec, num_codebooks: int | None = None) -> float:
    """Return frames/s x sum over the codebooks of log2(codes), in kbit/s (1000 bits).

    With equal codebooks this is frames/s x #Q x log2(codes), as in tables of codecs; log2 is not
    rounded up, and no header or length counts.

    Args:
        spec: of an audio tokenizer. num_codebooks: #Q in use, None for all.

    Raises:
        ConfigError: an image tokenizer, or more codebooks than there are.

    Source: DATES, arXiv 2506.10274, its table's column "kbps". It lists 0.98 and 0.52 for
    WavTokenizer, which is 13 bits a token; its 4096 codes need 12, so 0.90 and 0.48 here.

    Example:
        >>> nominal_kbps(wavtokenizer.spec)        # 75 frames/s, 4096 codes
        0.9
    """
    rate = nominal_token_rate(spec, num_codebooks) / len(_in_use(spec, num_codebooks))
    return rate * sum(math.log2(size) for size in _in_use(spec, num_codebooks)) / 1000


def nominal_bits(spec: TokenSpec, positions: int, *, variable: bool = False) -> float:
    """Return bits of ``positions`` positions at log2 K each.

    Args:
        spec: of the tokenizer; all its factors count.
        positions: that are kept, such as tokens after tail drop.
        variable: the number is free, so whole bits that tell it (of 1 to the most) count, too.

    Raises:
        ConfigError: a free number without a most.
    """
    bits = positions * sum(math.log2(size) for size in spec.vocabulary)
    if not variable:
        return bits
    most = fixed_positions(spec)
    if most < positions:
        raise ConfigError(
            f"{positions} positions of at most {most or 'any number'} were asked to tell their "
            "number; a tokenizer with a known most can."
        )
    return bits + math.ceil(math.log2(most))


class RateMeter(Metric):
    """What a set of coded pictures or sounds costs.

    Args:
        sample_rate: in Hz of the sounds, mono, for their ``compression_ratio``.
        options: of `torchmetrics.Metric`.

    Returns (compute):
        dict of float64 scalars, each only where its numbers were given: ``bytes`` and ``tokens``
        per item; for pictures ``bpp`` (all bits over all pixels) and ``bpp/per_item`` (mean of
        the items' own); for sounds ``kbps`` and ``kbps/per_item`` alike, on disk, and
        ``token_rate`` (all tokens over all seconds); ``compression_ratio``; ``items``.

    Raises:
        ConfigError (update): numbers of different count, none of pixels and seconds or both, a
            mix of pictures and sounds, or items without extent.

    Example:
        >>> meter = RateMeter()
        >>> meter.update(384, pixels=256 * 256, tokens=256)
        >>> meter.compute()["bpp"]
        tensor(0.0469, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    sums: Tensor
    items_with_tokens: Tensor

    def __init__(self, *, sample_rate: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.sample_rate = sample_rate
        zeros = torch.zeros(len(STATES), dtype=torch.float64)
        self.add_state("sums", zeros, dist_reduce_fx="sum", persistent=True)
        count = torch.zeros((), dtype=torch.int64)
        self.add_state("items_with_tokens", count, dist_reduce_fx="sum", persistent=True)

    def update(
        self,
        bytes_on_disk: Numbers,
        *,
        pixels: Numbers | None = None,
        seconds: Numbers | None = None,
        tokens: Numbers | None = None,
    ) -> None:
        """Take one item or several.

        Args:
            bytes_on_disk: of each whole file.
            pixels: H W of each picture. seconds: of each sound; one of the two.
            tokens: of each, all codebooks counted; None where there are none (JPEG, Opus).
        """
        size = _vector(bytes_on_disk)
        extent = pixels if seconds is None else seconds
        if extent is None or (pixels is not None and seconds is not None):
            raise ConfigError("a rate needs pixels or seconds of every item, and not both.")
        sums = dict.fromkeys(STATES, 0.0)
        over = _vector(extent)
        given = [size, over] + ([] if tokens is None else [_vector(tokens)])
        if len({len(one) for one in given}) != 1 or not len(size):
            counts = " and ".join(str(len(one)) for one in given)
            raise ConfigError(f"{counts} numbers came; give one per item of each.")
        _positive(float(over.min()), "pixels" if seconds is None else "seconds")
        sums["items"], sums["bytes"] = len(size), float(size.sum())
        if seconds is None:
            sums["pixels"], sums["bpp"] = float(over.sum()), float((8 * size / over).sum())
            sums["raw_bits"] = RAW_PICTURE_BITS * sums["pixels"]
        else:
            sums["seconds"], sums["kbps"] = float(over.sum()), float((size / over).sum() / 125)
            sums["raw_bits"] = RAW_SOUND_BITS * sums["seconds"] * (self.sample_rate or 0.0)
        if tokens is not None:
            sums["tokens"] = float(_vector(tokens).sum())
            self.items_with_tokens += len(size)
        self._keep_apart(seconds is None)
        self.sums += torch.tensor(list(sums.values()), dtype=torch.float64).to(self.sums.device)

    def compute(self) -> dict[str, Tensor]:
        """Return the rates; see the class."""
        s = dict(zip(STATES, self.sums.unbind(), strict=True))
        result = {"items": s["items"], "bytes": s["bytes"] / s["items"]}
        with_tokens = bool(self.items_with_tokens == s["items"]) and bool(s["items"] > 0)
        if with_tokens:
            result["tokens"] = s["tokens"] / s["items"]
        if s["pixels"] > 0:
            result["bpp"] = 8 * s["bytes"] / s["pixels"]
            result["bpp/per_item"] = s["bpp"] / s["items"]
        if s["seconds"] > 0:
            result["kbps"] = s["bytes"] / 125 / s["seconds"]
            result["kbps/per_item"] = s["kbps"] / s["items"]
            if with_tokens:
                result["token_rate"] = s["tokens"] / s["seconds"]
        if s["raw_bits"] > 0:
            result["compression_ratio"] = s["raw_bits"] / 8 / s["bytes"]
        return result

    def _keep_apart(self, pictures: bool) -> None:
        other = "seconds" if pictures else "pixels"
        if float(self.sums[STATES.index(other)]) > 0:
            raise ConfigError("pictures and sounds came to one rate; use one meter for each.")


def _in_use(spec: TokenSpec, num_codebooks: int | None) -> tuple[int, ...]:
    count = spec.factors if num_codebooks is None else num_codebooks
    if not 1 <= count <= spec.factors:
        raise ConfigError(f"{count} codebooks were asked for; legal are 1 to {spec.factors}.")
    return spec.vocabulary[:count]


def _vector(numbers: Numbers) -> Tensor:
    return torch.as_tensor(numbers, dtype=torch.float64).reshape(-1).cpu()


def _positive(number: float, name: str) -> float:
    if not number > 0:
        raise ConfigError(f"{name} are {number:g}; a rate needs more than 0.")
    return number


ENTRIES: tuple[MetricEntry, ...] = (
    MetricEntry(
        name="rates", title="rate", sense="tokens", kind="single", higher_is_better=False,
        build=RateMeter, options={},
        values=(
            "bytes", "tokens", "bpp", "bpp/per_item", "kbps", "kbps/per_item", "token_rate",
            "compression_ratio", "items",
        ),
        source="the whole file on disk; pooled over the set, and the items' own mean",
    ),
)  # fmt: skip
